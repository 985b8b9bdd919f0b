//! What a second adversary found. Each test states what should hold.
#![allow(missing_docs)]

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mmap_wal::{Act, Background, Error, Observer, Options, Pending, Snapshot, SyncMode, Wal};

fn tiny() -> Options {
    Options::new().segment_size(12 << 10).sync_mode(SyncMode::None).background(Background::Caller)
}

fn body(seq: u64) -> Vec<u8> {
    format!("{seq:0>1500}").into_bytes()
}

fn seqs(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.replay(0).expect("a replay").map(|r| r.expect("a record").seq()).collect()
}

/// Runs `test` on a thread of its own; `None` if it hangs or panics.
fn within<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(test()));
    told.recv_timeout(Duration::from_secs(5)).ok()
}

/// Runs a closure once when it is woken.
struct Once(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Once {
    fn wake(self: Arc<Self>) {
        let run = self.0.lock().unwrap().take();
        if let Some(run) = run {
            run();
        }
    }
}

fn on_wake(run: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(Once(Mutex::new(Some(Box::new(run))))))
}

fn poll(pending: &mut Pending, waker: &Waker) -> Poll<Result<mmap_wal::Seqs, Error>> {
    Pin::new(pending).poll(&mut Context::from_waker(waker))
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// Waits until the thread that is `task` (of /proc) sleeps, here on a lock.
fn until_it_sleeps(task: &Path) {
    let sleeps = || {
        let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    };
    while !sleeps() {
        std::thread::yield_now();
    }
}

/// Runs `late` while a cut to 5 of a log of ten durable records is in its manifest update, and `after` behind the cut.
fn overtaken<T: Send>(
    options: &Options,
    dir: &Path,
    late: impl FnOnce(&Wal) -> T + Send,
    after: impl FnOnce(&Wal) + Send,
) -> (Wal, T) {
    let spy = Arc::new(Spy::default());
    let wal = options.open_observed(dir, Some(spy.clone())).unwrap();
    (1..=10).for_each(|seq| assert!(wal.append(&body(seq)).is_ok()));
    wal.sync().unwrap();
    wal.maintain().unwrap();
    spy.hold_manifest.store(true, SeqCst);
    spy.gate.lock().unwrap().armed = true;
    let (tell, told) = mpsc::channel();
    let outcome = std::thread::scope(|scope| {
        let wal = &wal;
        scope.spawn(move || {
            wal.truncate_back(5).unwrap();
            after(wal);
        });
        let mut gate = spy.gate.lock().unwrap();
        while !gate.waiting {
            gate = spy.changed.wait(gate).unwrap();
        }
        drop(gate);
        let late = scope.spawn(move || {
            tell.send(Path::new("/proc").join(std::fs::read_link("/proc/thread-self").unwrap())).unwrap();
            late(wal)
        });
        until_it_sleeps(&told.recv().unwrap());
        spy.gate.lock().unwrap().open = true;
        spy.changed.notify_all();
        late.join().unwrap()
    });
    (wal, outcome)
}

#[test]
fn a_truncation_in_front_that_a_cut_overtakes_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, truncated) = overtaken(&tiny(), dir.path(), |wal| wal.truncate_front(10), |_| {});
    let positions = wal.positions();
    wal.close().unwrap();
    drop(wal);
    let again = tiny().open(dir.path());
    assert!(again.is_ok(), "{truncated:?} {positions:?}: {}", again.unwrap_err());
    assert!(positions.first <= positions.last + 1, "{positions:?}");
}

/// The same race, and the log goes on: what is acknowledged as durable then is not shown.
#[test]
fn a_truncation_in_front_that_a_cut_overtakes_hides_no_later_record() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, truncated) = overtaken(&tiny(), dir.path(), |wal| wal.truncate_front(10), |_| {});
    let acknowledged = wal.append_batch(&["new 6", "new 7"]).unwrap();
    assert_eq!(acknowledged.last(), Some(7));
    let shown = seqs(&wal.snapshot());
    assert!(shown.ends_with(&[6, 7]), "{truncated:?} {:?}: {shown:?}", wal.positions());
}

/// A checkpoint of a record that was cut off, whose number was given again to one that is not durable.
#[test]
fn a_checkpoint_that_a_cut_overtakes_is_never_behind_what_is_durable() {
    let options = tiny().segment_size(64 << 10);
    for _ in 0..40 {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let go_on = |wal: &Wal| (6..=12).for_each(|_| assert!(wal.append(b"not durable").is_ok()));
        let (wal, checkpointed) = overtaken(&options, dir.path(), |wal| wal.checkpoint(10), go_on);
        let positions = wal.positions();
        assert!(positions.checkpoint <= positions.durable, "{checkpointed:?} {positions:?}: {}", {
            // The power fails: the segment that was begun by the cut was never synced.
            let lost = copy(dir.path());
            let path = lost.path().join("00000000000000000002.wal");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[4096..].fill(0);
            std::fs::write(&path, bytes).unwrap();
            options.open(lost.path()).map_or_else(|e| e.to_string(), |_| "it opens".into())
        });
    }
}

/// A view of a handle that is closed keeps what it shows, whatever the next handle truncates.
#[test]
fn a_view_outlives_its_handle_and_what_the_next_one_truncates() {
    for front in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let wal = tiny().open(dir.path()).unwrap();
        (1..=30).for_each(|seq| assert!(wal.append(&body(seq)).is_ok()));
        wal.close().unwrap();
        drop(wal);
        let wal = tiny().open(dir.path()).unwrap();
        let view = wal.snapshot();
        wal.close().unwrap();
        drop(wal);
        let wal = tiny().open(dir.path()).unwrap();
        if front {
            wal.truncate_front(25).unwrap()
        } else {
            wal.truncate_back(1).unwrap()
        }
        let shown: Result<Vec<u64>, Error> = view.replay(0).unwrap().map(|r| r.map(|r| r.seq())).collect();
        assert_eq!(shown.map_err(|e| e.to_string()), Ok((1..=30).collect()), "front: {front}");
    }
}

/// A waker of the user's runs on the log's own thread and lets go of the last handle.
#[test]
fn the_last_handle_may_be_dropped_by_a_waker_on_the_logs_own_thread() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Options::new().sync_mode(SyncMode::None).segment_size(64 << 10).open(dir.path()).unwrap();
    let mut pending = wal.submit(b"one").unwrap();
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let waker = on_wake(move || {
        let _ = gone.recv();
        let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(wal)));
        let _ = tell.send(closed.is_ok());
    });
    let polled = poll(&mut pending, &waker);
    drop(waker);
    go.send(()).unwrap();
    assert!(polled.is_pending());
    assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok(true), "it hung, or the drop panicked");
}

/// Lets go of what it holds when it is dropped, as the last reference to a task does.
struct Task(#[allow(dead_code)] Mutex<Option<Pending>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_that_holds_a_pending_may_be_forgotten() {
    let mut hang = Vec::new();
    for replaced in [false, true] {
        let done = within(move || {
            let dir = tempfile::tempdir().unwrap();
            let wal = tiny().open(dir.path()).unwrap();
            let (mut one, mut two) = (wal.submit(b"one").unwrap(), wal.submit(b"two").unwrap());
            assert!(poll(&mut two, Waker::noop()).is_pending());
            let waker = Waker::from(Arc::new(Task(Mutex::new(Some(two)))));
            assert!(poll(&mut one, &waker).is_pending());
            drop(waker);
            if replaced {
                // The future moved to another task.
                let _ = poll(&mut one, Waker::noop());
            }
            drop(one);
        });
        if done.is_none() {
            hang.push(if replaced { "replaced" } else { "dropped" });
        }
    }
    assert!(hang.is_empty(), "{hang:?} hang");
}

#[test]
fn counts_may_be_read_inside_a_callback() {
    let done = within(|| {
        let dir = tempfile::tempdir().unwrap();
        let wal = tiny().open(dir.path()).unwrap();
        let _ = wal.append_with(8, |_| {
            let _ = wal.stats();
            Ok::<_, ()>(0)
        });
    });
    assert_eq!(done, Some(()), "stats() inside fill hangs");
}

/// A waker that goes on with its task at once.
#[test]
fn a_waker_may_use_the_log() {
    let mut hang = Vec::new();
    for way in ["cut", "reset", "close", "rotate"] {
        let done = within(move || {
            let dir = tempfile::tempdir().unwrap();
            let wal = Arc::new(tiny().open(dir.path()).unwrap());
            let mut pending = wal.submit(b"one").unwrap();
            let there = Arc::clone(&wal);
            let waker = on_wake(move || {
                let _ = there.append(b"goes on");
                let _ = there.set_meta(b"x");
            });
            assert!(poll(&mut pending, &waker).is_pending());
            match way {
                "cut" => drop(wal.truncate_back(0)),
                "reset" => drop(wal.reset(10)),
                "close" => drop(wal.close()),
                _ => (2..=9).for_each(|seq| drop(wal.append(&body(seq)))),
            }
        });
        if done.is_none() {
            hang.push(way);
        }
    }
    assert!(hang.is_empty(), "{hang:?} hang");
}

/// One waker panics; the others are woken all the same.
#[test]
fn a_waker_that_panics_takes_nobody_elses_wake_up() {
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny().open(dir.path()).unwrap();
    let woken = Arc::new(AtomicUsize::new(0));
    let mut all: Vec<Pending> = (0..20).map(|_| wal.submit(b"x").unwrap()).collect();
    for (i, pending) in all.iter_mut().enumerate() {
        let woken = Arc::clone(&woken);
        let waker = on_wake(move || {
            assert!(i != 7, "a panic of the user's");
            woken.fetch_add(1, SeqCst);
        });
        assert!(poll(pending, &waker).is_pending());
    }
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wal.sync()));
    assert_eq!(woken.load(SeqCst), 19);
}

/// What `durable_snapshot` shows is durable.
#[test]
fn a_durable_snapshot_shows_nothing_that_is_not_durable() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let wal = Options::new()
        .segment_size(1 << 20)
        .sync_mode(SyncMode::None)
        .background(Background::Caller)
        .open(dir.path())
        .unwrap();
    let (over, ahead, seen) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..400_000 {
                wal.append(b"x").unwrap();
                for _ in 0..20 {
                    std::hint::spin_loop();
                }
                wal.sync().unwrap();
            }
            over.store(true, SeqCst);
        });
        scope.spawn(|| {
            while !over.load(SeqCst) {
                let shown = wal.durable_snapshot().last_seq();
                let durable = wal.positions().durable;
                seen.fetch_add(1, SeqCst);
                if shown > durable {
                    ahead.fetch_add(1, SeqCst);
                }
            }
        });
    });
    assert_eq!(ahead.load(SeqCst), 0, "of {}", seen.load(SeqCst));
}

#[derive(Default)]
struct Gate {
    armed: bool,
    waiting: bool,
    open: bool,
}

#[derive(Default)]
struct Spy {
    fail_link: AtomicUsize,
    full_create: AtomicBool,
    fail_sync: AtomicBool,
    hold_manifest: AtomicBool,
    gate: Mutex<Gate>,
    changed: Condvar,
}

fn is_wal(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "wal")
}

impl Observer for Spy {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        match act {
            Act::Link { .. } if self.fail_link.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() => {
                Err(io::Error::from_raw_os_error(1))
            }
            Act::Create(path) if is_wal(path) && self.full_create.load(SeqCst) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Act::SyncRange { .. } if self.fail_sync.load(SeqCst) => Err(io::Error::from_raw_os_error(5)),
            Act::Populate(path) | Act::Write { path, .. }
                if is_wal(path) != self.hold_manifest.load(SeqCst) && (is_wal(path) || path.ends_with("MANIFEST")) =>
            {
                let mut gate = self.gate.lock().unwrap();
                if gate.armed {
                    (gate.armed, gate.waiting) = (false, true);
                    self.changed.notify_all();
                    while !gate.open {
                        gate = self.changed.wait(gate).unwrap();
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
    fn after(&self, _act: &Act<'_>) {}
}

fn wal_files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().filter(|e| is_wal(&e.as_ref().unwrap().path())).count()
}

/// A file system without hard links (FAT, some network and user-space ones) refuses `link` each time.
#[test]
fn a_dropped_file_that_cannot_be_used_again_is_removed_and_no_append_fails() {
    let dir = tempfile::tempdir().unwrap();
    let spy = Arc::new(Spy::default());
    let wal = tiny().spare_segments(4).open_observed(dir.path(), Some(spy.clone())).unwrap();
    let named = || mmap_wal::inspect::Log::open(dir.path()).unwrap().ordinals().unwrap().len();
    spy.fail_link.store(usize::MAX, SeqCst);
    let mut failed = Vec::new();
    let mut last = 0;
    for round in 0..60 {
        match wal.append(&body(round)) {
            Ok(seq) => last = seq,
            Err(e) => failed.push(e.to_string()),
        }
        if round % 15 == 14 {
            wal.truncate_front(last).unwrap();
        }
    }
    wal.maintain().unwrap_or_else(|e| failed.push(e.to_string()));
    let (files, named) = (wal_files(dir.path()), named());
    assert_eq!(failed, Vec::<String>::new());
    // Some may be kept to be used again.
    assert!(files <= named + 4, "{files} files, {named} named");
}

/// P9: a cut that has its spare needs no space.
#[test]
fn a_full_disk_is_no_error_of_a_cut_that_has_its_spare() {
    let dir = tempfile::tempdir().unwrap();
    let spy = Arc::new(Spy::default());
    let wal = tiny().spare_segments(2).open_observed(dir.path(), Some(spy.clone())).unwrap();
    // A new log has one spare; the second is wanted, but not needed.
    (1..=3).for_each(|seq| assert_eq!(wal.append(b"x").ok(), Some(seq)));
    spy.full_create.store(true, SeqCst);
    wal.truncate_back(2).expect("a spare is there");
}

/// The format allows a deliberate gap between the sealed segments and the active one.
#[test]
fn the_front_of_a_log_with_a_gap_can_be_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny().open(dir.path()).unwrap();
    (1..=2).for_each(|seq| assert!(wal.append(&body(seq)).is_ok()));
    // Rotates and leaves the next segment empty.
    assert!(wal.append_with(3000, |_| Err::<usize, ()>(())).unwrap().is_err());
    wal.close().unwrap();
    drop(wal);
    let path = dir.path().join("MANIFEST");
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    for slot in bytes.chunks_exact_mut(half) {
        slot[88 + 48 + 24..][..8].copy_from_slice(&11_u64.to_le_bytes());
        let count = u32::from_le_bytes(slot[84..88].try_into().unwrap()) as usize;
        let end = 88 + 48 * count;
        let crc = crc32fast::hash(&slot[..end]);
        slot[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let wal = tiny().open(dir.path()).unwrap();
    assert_eq!(wal.append(b"behind the gap").unwrap(), 11);
    wal.truncate_front(2).unwrap();
    assert_eq!(wal.append(b"goes on").unwrap(), 12);
}

/// Two close at once, one of them in a waker on the log's own thread.
#[test]
fn a_close_in_a_waker_beside_another_close_does_not_hang() {
    let done = within(|| {
        let dir = tempfile::tempdir().unwrap();
        let wal = Options::new().sync_mode(SyncMode::None).segment_size(64 << 10).open(dir.path()).unwrap();
        let wal = Arc::new(wal);
        let mut pending = wal.submit(b"one").unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (tell, told) = mpsc::channel::<std::path::PathBuf>();
        let there = Arc::clone(&wal);
        let waker = on_wake(move || {
            begun.send(()).unwrap();
            until_it_sleeps(&told.recv().unwrap());
            let _ = there.close();
        });
        assert!(poll(&mut pending, &waker).is_pending());
        has_begun.recv().unwrap();
        tell.send(Path::new("/proc").join(std::fs::read_link("/proc/thread-self").unwrap())).unwrap();
        wal.close().unwrap();
    });
    assert_eq!(done, Some(()), "it hangs, or panics");
}

/// A reader sees the log as before a reset or as after it.
#[test]
fn a_reader_beside_resets_shows_one_life_at_a_time() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let wal = tiny().open(dir.path()).unwrap();
    let over = AtomicBool::new(false);
    let mixed = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let reader = mmap_wal::Reader::open(dir.path()).unwrap();
            let mut mixed = Vec::new();
            while !over.load(SeqCst) {
                let Ok(view) = reader.snapshot() else { continue };
                let lives: Vec<(u64, String)> = view
                    .replay(0)
                    .unwrap()
                    .map(|r| r.map(|r| (r.seq(), String::from_utf8_lossy(r.payload()).into_owned())).unwrap())
                    .collect();
                if lives.windows(2).any(|pair| pair[0].1 != pair[1].1) {
                    mixed.push(lives);
                }
            }
            mixed
        });
        for life in 0..4000_u64 {
            for _ in 0..3 {
                wal.append(life.to_string().as_bytes()).unwrap();
            }
            wal.reset(wal.positions().last + 1).unwrap();
        }
        over.store(true, SeqCst);
        reading.join().unwrap()
    });
    assert!(mixed.is_empty(), "{} views that never were, the first {:?}", mixed.len(), mixed[0]);
}

/// What was durable and then truncated in front was not cut off.
#[test]
fn a_cut_of_what_is_left_does_not_reach_before_the_front() {
    let dir = tempfile::tempdir().unwrap();
    let wal = tiny().open(dir.path()).unwrap();
    let pending: Vec<Pending> = (0..3).map(|_| wal.submit(b"x").unwrap()).collect();
    wal.sync().unwrap();
    wal.truncate_front(2).unwrap();
    assert!(pending[0].is_durable());
    wal.truncate_back(2).unwrap();
    let outcomes: Vec<_> = pending.into_iter().map(|p| p.wait().map(|s| s.last()).map_err(|e| e.to_string())).collect();
    assert_eq!(outcomes[0], Ok(Some(1)), "{outcomes:?}");
    assert!(outcomes[2].is_err());
}
