//! Proves that a failure is told apart by what was tried, and not by the words of a message: what poisons the log, what is
//! told to the caller, and that the log goes on where nothing on the disk is in doubt.
//! Does not prove what a crash leaves after a failure: that is the simulator's.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::io;
use std::path::Path;

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
