//! Proves that a failure is told apart by what was tried, and not by the words of a message: what poisons the log, what is
//! told to the caller, and that the log goes on where nothing on the disk is in doubt.
//! Does not prove what a crash leaves after a failure: that is the simulator's.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::io;
use std::path::Path;
use std::time::Duration;

use mmap_wal::{Act, Error, Operation, Options, SyncMode};

use crate::fixture::{Before, scratch};

const EIO: i32 = 5;
const EMFILE: i32 = 24;

/// Gives the manifest of the log in `dir` slots of 4 KiB, which the format allows: every change wants larger ones first.
fn shrink_manifest(dir: &Path) {
    let path = dir.join("MANIFEST");
    let bytes = std::fs::read(&path).expect("the manifest");
    let half = bytes.len() / 2;
    std::fs::write(&path, [&bytes[..4096], &bytes[half..half + 4096]].concat()).expect("a smaller one");
}

fn is_growth(path: &Path) -> bool {
    path.ends_with("MANIFEST.tmp")
}

/// One step of growing the manifest.
type Step = fn(&Act<'_>) -> bool;

const STEPS: [(Operation, i32, bool, Step); 6] = [
    (Operation::Create, EMFILE, false, |act| matches!(act, Act::Create(path) if is_growth(path))),
    (Operation::Allocate, EIO, false, |act| matches!(act, Act::Allocate { path, .. } if is_growth(path))),
    (Operation::Write, EIO, false, |act| matches!(act, Act::Write { path, .. } if is_growth(path))),
    (Operation::Sync, EIO, true, |act| matches!(act, Act::SyncFile(path) if is_growth(path))),
    (Operation::Rename, EIO, true, |act| matches!(act, Act::Rename { from, .. } if is_growth(from))),
    (Operation::Sync, EIO, true, |act| matches!(act, Act::SyncDir(_))),
];

#[test]
fn what_was_tried_decides_whether_a_failed_growth_poisons() {
    for (operation, errno, poisons, step) in STEPS {
        let dir = scratch();
        let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None);
        options.open(dir.path()).expect("a new log").close().expect("a close");
        shrink_manifest(dir.path());
        let disk =
            Before::new(false, move |act| if step(act) { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) });
        let wal = options.open_observed(dir.path(), Some(disk.clone())).expect("the log");
        assert_eq!(wal.append(b"one").expect("an append"), 1);
        disk.arm(true);
        let refused = wal.set_meta(b"not stored").expect_err("a refusal");
        disk.arm(false);
        let failure = match (&refused, poisons) {
            (Error::Io(failure), false) => failure,
            (Error::Poisoned(first), true) => match &**first {
                Error::Io(failure) => failure,
                other => panic!("{operation:?}: {other:?}"),
            },
            (other, _) => panic!("{operation:?}: {other:?}"),
        };
        assert_eq!((failure.operation, failure.source.raw_os_error()), (operation, Some(errno)));
        assert_eq!(failure.context, operation.as_str());
        assert!(refused.to_string().contains(operation.as_str()), "{refused}");
        assert_eq!(wal.append(b"two").is_err(), poisons, "{operation:?}");
        if !poisons {
            wal.set_meta(b"stored").expect("a log that goes on");
            wal.close().expect("a close");
        }
    }
}

/// The largest number that a log is reset to.
const LAST_RESET: u64 = (1 << 62) - 1;

/// The sentence of a refusal for a number out of range.
fn out_of_range(refused: mmap_wal::Result<()>) -> String {
    let refused = refused.expect_err("a refusal");
    assert!(matches!(refused, Error::OutOfRange { .. }), "{refused}");
    refused.to_string()
}

#[test]
fn a_reset_is_refused_outside_of_its_bounds_with_advice_that_it_takes() {
    let dir = scratch();
    let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None);
    let wal = options.open(dir.path()).expect("a new log");
    for seq in 1..=5 {
        assert_eq!(wal.append(b"x").expect("an append"), seq);
    }
    for refused in [0, 4, 5] {
        let advice = out_of_range(wal.reset(refused));
        assert!(advice.ends_with(&format!("the log ends at 5; use a number from 6 to {LAST_RESET}")), "{advice}");
    }
    for refused in [LAST_RESET + 1, u64::MAX] {
        let advice = out_of_range(wal.reset(refused));
        let expected = format!("the log ends at 5; use a number up to 5, or for a reset one from 6 to {LAST_RESET}");
        assert!(advice.ends_with(&expected), "{advice}");
    }
    wal.reset(6).expect("the least that the advice says");
    assert_eq!(wal.append(b"x").expect("an append"), 6);
    wal.reset(LAST_RESET).expect("the most that the advice says");
    assert_eq!(wal.append(b"x").expect("an append"), LAST_RESET);
    assert_eq!(wal.append(b"x").expect("an append"), LAST_RESET + 1);
    for refused in [0, LAST_RESET, LAST_RESET + 1, LAST_RESET + 2, u64::MAX] {
        let advice = out_of_range(wal.reset(refused));
        assert!(advice.contains("begin a new log") || refused > LAST_RESET + 1, "{advice}");
        assert!(!advice.contains("from"), "{advice}");
    }
    wal.close().expect("a close");
    let wal = options.open(dir.path()).expect("the log");
    assert_eq!((wal.positions().first, wal.positions().last), (LAST_RESET, LAST_RESET + 1));
    assert_eq!(wal.snapshot().replay(LAST_RESET - 1).expect("a replay").count(), 2);
}

#[test]
fn numbers_of_records_are_taken_up_to_the_last_and_refused_above() {
    for (last, start) in [(0, None), (3, None), (LAST_RESET + 2, Some(LAST_RESET))] {
        let dir = scratch();
        let options = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None);
        let wal = options.open(dir.path()).expect("a new log");
        start.into_iter().for_each(|start| wal.reset(start).expect("a reset"));
        while wal.positions().last < last {
            wal.append(b"x").expect("an append");
        }
        for refused in [last + 1, LAST_RESET, LAST_RESET + 4, u64::MAX].into_iter().filter(|seq| *seq > last) {
            for refusal in [wal.sync_to(refused), wal.checkpoint(refused), wal.truncate_back(refused)] {
                let advice = out_of_range(refusal);
                assert!(advice.contains(&format!("the log ends at {last}; use a number up to {last}")), "{advice}");
            }
            assert!(matches!(wal.snapshot().replay(refused).map(drop), Err(Error::Ahead { .. })), "{refused}");
            assert!(matches!(wal.tail(refused).map(drop), Err(Error::Ahead { .. })), "{refused}");
            assert!(wal.snapshot().get(refused).expect("a lookup").is_none());
            let is_taken = [last + 1, u64::MAX].contains(&refused);
            assert_eq!(wal.snapshot().replay_back(refused).is_ok(), is_taken, "{refused} of {last}");
        }
        assert!(wal.snapshot().get(0).expect("a lookup").is_none());
        for taken in [last.saturating_sub(1), last] {
            wal.sync_to(taken).expect("a sync");
            wal.checkpoint(taken).expect("a checkpoint");
        }
        wal.truncate_back(last).expect("nothing to cut");
        wal.truncate_front(u64::MAX).expect("all of it");
        assert_eq!((wal.positions().first, wal.append(b"x").expect("an append")), (last + 1, last + 1));
    }
}

#[test]
fn metadata_is_taken_up_to_its_bound_with_advice_that_fits() {
    let dir = scratch();
    let wal = Options::new().open(dir.path()).expect("a new log");
    wal.set_meta(&[7; 1024]).expect("the most");
    let refused = wal.set_meta(&[7; 1025]).expect_err("a refusal");
    assert!(matches!(refused, Error::RecordTooLarge { len: 1025, max: 1024 }), "{refused}");
    assert!(refused.to_string().starts_with("1025 bytes were given, and at most 1024 fit; "), "{refused}");
    let most = u32::MAX as usize - 8192;
    for len in [most + 1, usize::MAX] {
        let refused = wal.append_with(len, |_| Ok::<_, ()>(0)).expect_err("a refusal");
        assert!(
            matches!(refused, Error::RecordTooLarge { len: given, max } if (given, max) == (len as u64, most as u64))
        );
    }
}

#[test]
fn options_work_at_their_bounds() {
    let delays = [Duration::from_nanos(1), Duration::MAX];
    let modes = delays.map(|delay| [1, u32::MAX].map(|records| SyncMode::Batch { records, delay }));
    for mode in modes.into_iter().flatten() {
        for (spares, memory) in [(1, 0), (64, usize::MAX)] {
            let dir = scratch();
            let options = Options::new().segment_size(12 << 10).sync_mode(mode).file_mode(0o777);
            let options = options.spare_segments(spares).index_memory(memory);
            let wal = options.open(dir.path()).expect("a new log");
            for seq in 1..=20 {
                assert_eq!(wal.append(&[7; 900]).expect("an append"), seq);
            }
            assert_eq!(wal.snapshot().get(15).expect("a lookup").map(|record| record.seq()), Some(15));
            wal.close().expect("a close");
        }
    }
}
