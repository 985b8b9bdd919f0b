//! A log on a simulated disk, made anew for each order, and what threads say about it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use mmap_wal::{Options, Snapshot, Wal};

use crate::simulator::campaign::scratch_dir;
use crate::simulator::disk::Disk;
use crate::simulator::stage::Stage;

/// The smallest segment: 4,096 bytes of frames.
pub const SMALLEST: u64 = 12 << 10;
/// Two records of this size fill a segment.
pub const HALF: usize = 1900;

/// What was appended, by seq.
pub type Records = BTreeMap<u64, Vec<u8>>;

pub struct Bed {
    root: tempfile::TempDir,
    pub stage: Arc<Stage>,
    ids: AtomicU64,
    /// What calls returned.
    given: Mutex<Records>,
}

impl Bed {
    pub fn new() -> Arc<Self> {
        let root = scratch_dir();
        let stage = Stage::new(root.path(), Disk::default(), 1, true);
        Arc::new(Self { root, stage, ids: AtomicU64::new(1), given: Mutex::default() })
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// Opens the log; from now on threads are at work.
    pub fn open(&self, options: &Options) -> Arc<Wal> {
        let wal = options.open_observed(self.dir(), Some(self.stage.clone())).expect("the log opens");
        self.stage.turn(true);
        Arc::new(wal)
    }

    /// A payload that no other record has.
    pub fn payload(&self, len: usize) -> Vec<u8> {
        let id = self.ids.fetch_add(1, Ordering::SeqCst);
        let mut payload = format!("<record {id:06}>").into_bytes();
        payload.resize(len.max(payload.len()), b'.');
        payload
    }

    /// Takes note of a record that a call has returned the number of.
    pub fn gave(&self, seq: u64, payload: Vec<u8>) {
        let before = self.given().insert(seq, payload);
        assert!(before.is_none(), "{seq} was given twice");
    }

    pub fn given(&self) -> std::sync::MutexGuard<'_, Records> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails unless the record survives whatever crashes now.
    pub fn must_be_durable(&self, payload: &[u8]) {
        assert!(self.stage.is_durable(payload), "{} is not durable", name(payload));
    }

    /// Opens the log again, closed or not, and looks at all of it.
    pub fn reopened(&self, options: &Options) -> Records {
        self.stage.turn(false);
        let wal = options.open(self.dir()).expect("the log opens again");
        let records = all(&wal.snapshot());
        wal.close().expect("a close");
        records
    }

    /// Fails unless the log holds everything that calls returned, and its numbers are dense.
    pub fn must_hold_what_was_given(&self, options: &Options) {
        let found = self.reopened(options);
        for (seq, payload) in self.given().iter() {
            let found = found.get(seq).map(|found| name(found));
            assert_eq!(found, Some(name(payload)), "record {seq}");
        }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }
}

/// The part of a payload that no other has.
pub fn name(payload: &[u8]) -> String {
    String::from_utf8_lossy(&payload[..payload.len().min(15)]).into_owned()
}

/// Everything that a snapshot shows, dense and whole.
pub fn all(snapshot: &Snapshot) -> Records {
    let mut records = Records::new();
    let mut next = snapshot.first_seq();
    for record in snapshot.replay(0).expect("a replay") {
        let record = record.expect("a record");
        assert_eq!(record.seq(), next, "numbers are dense");
        next += 1;
        records.insert(record.seq(), record.payload().to_vec());
    }
    assert_eq!(next, snapshot.last_seq() + 1, "the replay ends with the snapshot");
    records
}

/// A bell that is rung once for each time it is waited for.
#[derive(Default)]
struct Bell {
    rung: shuttle::sync::Mutex<bool>,
    rings: shuttle::sync::Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().expect("a lock") = true;
        self.rings.notify_one();
    }
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("a lock");
        while !std::mem::take(&mut *rung) {
            rung = self.rings.wait(rung).expect("a lock");
        }
    }
}

/// Waits for `future` as an executor would, in a thread of the model checker; that is not parked, because then it could be
/// woken for no reason, and a waker that is forgotten would not be missed.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => bell.wait(),
        }
    }
}
