//! Proves that the time of change of a segment moves with an explicit sync, a close and a seal, so that tools which compare
//! times and lengths copy what was appended before these, and that no append and no sync of a group asks the system for that.
//! Does not prove that such a tool sees what was not synced, nor that it copies a log at one moment.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fixture::{Before, scratch, segment};
use mmap_wal::{Act, Background, Options, SyncMode, Wal};

fn quiet() -> Options {
    // No thread makes pages writable, and no sync of the log's own makes them clean.
    Options::new().segment_size(64 << 10).sync_mode(SyncMode::None).background(Background::Caller)
}

fn past() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// Says of the segment that it was changed long ago.
fn age(dir: &Path, ordinal: u64) {
    File::open(dir.join(segment(ordinal))).and_then(|file| file.set_modified(past())).expect("a time");
}

fn is_aged(dir: &Path, ordinal: u64) -> bool {
    let changed = fs::metadata(dir.join(segment(ordinal))).and_then(|file| file.modified());
    changed.expect("a time") == past()
}

/// On a disk, and in memory, where no store through a map moves the time.
fn places() -> [tempfile::TempDir; 2] {
    [tempfile::tempdir().expect("a directory"), scratch()]
}

#[test]
fn an_explicit_sync_moves_the_time_of_what_was_appended_to() {
    for dir in places() {
        let wal = quiet().open(dir.path()).expect("a log");
        wal.append(b"first").expect("an append");
        age(dir.path(), 1);
        wal.append(b"into a page that is dirty").expect("an append");
        wal.sync().expect("a sync");
        assert!(!is_aged(dir.path(), 1));
        // Nothing was appended since.
        age(dir.path(), 1);
        wal.sync().expect("a sync");
        assert!(is_aged(dir.path(), 1));
    }
}

#[test]
fn a_close_moves_the_time_of_what_was_appended_to() {
    for dir in places() {
        let wal = quiet().open(dir.path()).expect("a log");
        wal.append(b"first").expect("an append");
        age(dir.path(), 1);
        wal.append(b"into a page that is dirty").expect("an append");
        wal.close().expect("a close");
        assert!(!is_aged(dir.path(), 1));
    }
}

#[test]
fn a_seal_moves_the_time_of_the_segment() {
    for dir in places() {
        let wal = quiet().open(dir.path()).expect("a log");
        wal.append(b"first").expect("an append");
        age(dir.path(), 1);
        fixture::rotate(&wal);
        assert!(!is_aged(dir.path(), 1));
    }
}

/// Files that are not the same in both directories.
fn different(a: &Path, b: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(a).expect("the log").map(|entry| entry.expect("a file").file_name());
    let differ = files.filter(|name| fs::read(a.join(name)).ok() != fs::read(b.join(name)).ok());
    differ.map(PathBuf::from).collect()
}

#[test]
fn a_copy_by_times_has_what_was_synced() {
    for dir in places() {
        let copies = tempfile::tempdir().expect("a directory");
        let (log, copied) = (dir.path().join("log"), copies.path().join("log"));
        let copy = || Command::new("cp").arg("-au").arg(&log).arg(copies.path()).status();
        let wal = quiet().open(&log).expect("a log");
        wal.append(b"first").expect("an append");
        if !copy().is_ok_and(|status| status.success()) {
            return println!("SKIPPED: there is no `cp -au`");
        }
        for _ in 0..3 {
            wal.append(b"more").expect("an append");
            wal.sync().expect("a sync");
            assert!(copy().expect("a copy").success());
            assert_eq!(different(&log, &copied), Vec::<PathBuf>::new());
        }
        wal.append(b"the last").expect("an append");
        wal.close().expect("a close");
        assert!(copy().expect("a copy").success());
        assert_eq!(different(&log, &copied), Vec::<PathBuf>::new());
        assert_eq!(Wal::open(&copied).expect("the copy").positions().last, 5);
    }
}

#[test]
fn no_append_and_no_sync_of_a_group_sets_a_time() {
    for mode in [SyncMode::Sync, SyncMode::batch(4), SyncMode::None] {
        let dir = tempfile::tempdir().expect("a directory");
        let set = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&set);
        let observer = Before::new(true, move |act: &Act<'_>| {
            if matches!(act, Act::SetTimes(_)) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let wal = Options::new().sync_mode(mode).open_observed(dir.path(), Some(observer)).expect("a log");
        let together = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    together.wait();
                    for _ in 0..50 {
                        let seq = wal.append(b"x").expect("an append");
                        wal.sync_to(seq).expect("a sync");
                        wal.submit(b"y").expect("a record").wait().expect("a sync");
                    }
                    wal.append_batch(&["a", "b"]).expect("a batch");
                });
            }
        });
        assert_eq!(set.load(Ordering::SeqCst), 0, "{mode:?}");
        wal.append(b"x").expect("an append");
        wal.sync().expect("a sync");
        assert_eq!(set.load(Ordering::SeqCst), 1, "{mode:?}");
    }
}

#[test]
fn a_time_that_cannot_be_set_is_no_failure_of_a_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let refusing = Before::new(true, |act: &Act<'_>| match act {
        Act::SetTimes(_) => Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied)),
        _ => Ok(()),
    });
    let wal = quiet().open_observed(dir.path(), Some(refusing)).expect("a log");
    wal.append(b"x").expect("an append");
    assert_eq!(wal.sync().expect("a sync"), 1);
    fixture::rotate(&wal);
    wal.close().expect("a close");
}
