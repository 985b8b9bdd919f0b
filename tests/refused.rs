//! Proves what a log does when the file system refuses to take more: pages of a segment for which there is no space, a
//! manifest that cannot grow, no descriptor to find the cause with. That no store follows a refusal, that those who wait are
//! told when the log is given up, and that nothing is left behind or lost.
//! Does not prove that a file system refuses like this: `failed_disk` and `restored` have real ones.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use fixture::{Before, SMALLEST, is_manifest, is_segment, scratch};
use mmap_wal::inspect::Log;
use mmap_wal::{Act, Background, Error, Options, SyncMode, Wal};

/// Numbers of <errno.h>.
const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

fn failure(errno: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno))
}

fn options() -> Options {
    Options::new().segment_size(8 * SMALLEST).sync_mode(SyncMode::Sync).background(Background::Caller)
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Call = fn(&Wal) -> Result<(), Error>;

#[test]
fn a_future_is_woken_when_an_append_gives_the_log_up() {
    let calls: [Call; 4] = [
        |wal| wal.append(&[7; 9000]).map(drop),
        |wal| wal.try_append(&[7; 9000]).map(drop),
        |wal| wal.append_batch(&[[7; 9000]]).map(drop),
        |wal| wal.append_with(9000, |_| Ok::<_, ()>(1)).map(drop),
    ];
    for with in calls {
        let dir = scratch();
        let seen = Before::new(false, |act: &Act<'_>| match act {
            Act::Prefault { .. } | Act::Write { .. } => failure(EIO),
            _ => Ok(()),
        });
        let wal = options().open_observed(dir.path(), Some(seen.clone())).expect("a log");
        wal.append(b"first").expect("an append");
        let mut pending = pin!(wal.submit(b"awaited").expect("a record"));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        seen.arm(true);
        assert!(matches!(with(&wal), Err(Error::Poisoned(_))));
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
}

#[test]
fn pages_that_were_refused_are_asked_for_again_before_anything_is_stored() {
    for mode in [SyncMode::Sync, SyncMode::batch(100), SyncMode::None] {
        let dir = scratch();
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let seen = Before::new(false, move |act: &Act<'_>| match act {
            Act::Prefault { .. } => {
                count.fetch_add(1, Ordering::SeqCst);
                failure(ENOSPC)
            }
            Act::Write { path, len: 1, .. } if is_segment(path) => failure(ENOSPC),
            Act::Create(_) | Act::Allocate { .. } => failure(ENOSPC),
            _ => Ok(()),
        });
        let wal = options().sync_mode(mode).open_observed(dir.path(), Some(seen.clone())).expect("a log");
        wal.append(b"first").expect("an append");
        seen.arm(true);
        wal.sync().expect("what was stored is durable");
        // Where appends do not ask themselves, the first sync does for them.
        for _ in 0..4 {
            let before = asked.load(Ordering::SeqCst);
            let refused = wal.append(b"second");
            assert!(matches!(refused, Err(Error::NoSpace(_))), "{mode:?}: {refused:?}");
            assert!(asked.load(Ordering::SeqCst) > before, "{mode:?}");
        }
        assert!(!matches!(wal.try_append(b"second"), Ok(Some(_))), "{mode:?}");
        assert!(wal.maintain().is_err(), "{mode:?}");
        assert_eq!(wal.positions().last, 1, "{mode:?}");
        seen.arm(false);
        assert_eq!(wal.append(b"second").expect("there is space"), 2, "{mode:?}");
    }
}

#[test]
fn want_of_descriptors_while_the_cause_is_looked_for_refuses_that_append_alone() {
    let dir = scratch();
    let seen = Before::new(false, |act: &Act<'_>| match act {
        Act::Prefault { .. } => failure(ENOSPC),
        Act::Open(path) if is_segment(path) => failure(EMFILE),
        _ => Ok(()),
    });
    let wal = options().open_observed(dir.path(), Some(seen.clone())).expect("a log");
    wal.append(b"first").expect("an append");
    seen.arm(true);
    let refused = wal.append(&[1; 9000]);
    assert!(matches!(&refused, Err(Error::Io(_))), "{refused:?}");
    seen.arm(false);
    assert_eq!(wal.append(&[1; 9000]).expect("the log is not given up"), 2);
}

fn segment_files(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry").path());
    names.filter(|path| is_segment(path)).count()
}

#[test]
fn a_segment_that_the_manifest_has_no_space_for_is_not_left_behind() {
    let dir = scratch();
    let small = options().segment_size(SMALLEST);
    let wal = small.open(dir.path()).expect("a new log");
    for _ in 0..70 {
        wal.append(&[1; 3000]).expect("an append");
        wal.maintain().expect("a segment");
    }
    wal.close().expect("a close");
    let (manifest, copy) = (dir.path().join("MANIFEST"), dir.path().join("copy"));
    // With holes, as a backup restores it.
    let copied = Command::new("cp").arg("--sparse=always").args([&manifest, &copy]).status().expect("a copy");
    assert!(copied.success());
    std::fs::rename(&copy, &manifest).expect("a restore");
    let seen = Before::new(true, |act: &Act<'_>| match act {
        Act::Allocate { path, .. } if is_manifest(path) => failure(ENOSPC),
        _ => Ok(()),
    });
    let wal = small.open_observed(dir.path(), Some(seen.clone())).expect("the log");
    let mut last = 70;
    let refused = loop {
        match wal.append(&[2; 3000]) {
            Ok(seq) => last = seq,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, Error::NoSpace(_)), "{refused:?}");
    let files = segment_files(dir.path());
    for _ in 0..20 {
        assert!(matches!(wal.append(&[2; 3000]), Err(Error::NoSpace(_))));
    }
    assert_eq!(segment_files(dir.path()), files);
    seen.arm(false);
    assert_eq!(wal.append(&[2; 3000]).expect("there is space"), last + 1);
}

#[test]
fn a_reset_into_an_earlier_segment_leaves_no_later_one_that_a_repair_could_take_for_the_end() {
    for after in [0_u8, 1, 5] {
        let dir = scratch();
        options().segment_size(SMALLEST).open(dir.path()).expect("a new log").close().expect("a close");
        let seen = Before::new(true, |act: &Act<'_>| match act {
            Act::Create(path) if fixture::ordinal(path).is_some_and(|ordinal| ordinal >= 4) => failure(ENOSPC),
            _ => Ok(()),
        });
        let larger = options().segment_size(2 * SMALLEST);
        let wal = larger.open_observed(dir.path(), Some(seen)).expect("the log");
        // Larger than the spare, so in a segment behind it.
        wal.append(&[9; 15_000]).expect("an append");
        wal.reset(1000).expect("a reset into the spare, for which no space is needed");
        for byte in 0..after {
            wal.append(&[byte; 50]).expect("an append");
        }
        // As a killed process leaves it.
        let left = scratch();
        for entry in std::fs::read_dir(dir.path()).expect("the directory") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, left.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        std::fs::remove_file(left.path().join("MANIFEST")).expect("a removal");
        let log = Log::open(left.path()).expect("the log");
        log.repair(&log.plan_repair().expect("a plan")).expect("a repair");
        let wal = larger.open(left.path()).expect("the log");
        let shown: Vec<u64> =
            wal.snapshot().replay(0).expect("a replay").map(|record| record.expect("a record").seq()).collect();
        assert_eq!(shown, (1000..1000 + u64::from(after)).collect::<Vec<_>>());
    }
}
