//! Proves that a log whose files were restored with holes (`cp --sparse`, `fallocate -d`) or share their blocks with another
//! copy (`cp --reflink` on XFS) is opened, read and truncated on a disk that is then full, that an append there is an error
//! and no signal, and that appending goes on when there is space again, with every record there; that a log which has all its
//! space needs none when it is opened, and that one whose blocks another copy comes to share while it is open refuses what
//! it has no space for, and is not given up. On ext4 and XFS in images.
//! Does not prove anything of a tmpfs, where a hole takes space when it is read through a map, nor where it may not mount: it
//! says `SKIPPED` then.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod disk;

use std::fs;
use std::path::Path;

use disk::{Disk, EXT4, XFS, on_disks, run};
use mmap_wal::{Background, Error, Options, SyncMode, Wal};

const SEGMENT: u64 = 1 << 20;
const RECORD: usize = 20_000;
const RECORDS: u64 = 130;

/// One in three is nothing but zeros, whose pages are holes once it is restored.
fn body(seq: u64) -> Vec<u8> {
    let byte = |i: u64| if seq.is_multiple_of(3) { 0 } else { (seq.wrapping_mul(37) + i * 11) as u8 };
    (0..RECORD as u64).map(byte).collect()
}

fn options(mode: SyncMode, background: Background) -> Options {
    Options::new().segment_size(SEGMENT).sync_mode(mode).background(background)
}

fn shows(wal: &Wal, first: u64, last: u64) {
    let snapshot = wal.snapshot();
    assert_eq!((snapshot.first_seq(), snapshot.last_seq()), (first, last));
    let mut seq = first;
    for record in snapshot.replay(first - 1).expect("a replay") {
        let record = record.expect("a record");
        assert!(record.seq() == seq && record.payload() == body(seq), "record {seq}");
        seq += 1;
    }
    assert_eq!(seq, last + 1);
}

/// A log of two sealed segments and more: closed, or as it is while its writer lives.
fn make(disk: &Disk, options: &Options, closed: bool) {
    let (log, copy) = (disk.log(), disk.mounted.join("copy"));
    let wal = options.open(&log).expect("a new log");
    for seq in 1..=RECORDS {
        assert_eq!(wal.append(&body(seq)).expect("an append"), seq);
        wal.maintain().expect("maintenance");
    }
    wal.sync().expect("a sync");
    if closed {
        wal.close().expect("a close");
    }
    run("cp", [Path::new("-a"), Path::new("--sparse=always"), &log, &copy]).expect("a copy");
    drop(wal);
    fs::remove_dir_all(&log).expect("a removal");
    fs::rename(copy, log).expect("a restore");
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry").path()).collect()
}

fn dig_holes(dir: &Path) {
    for path in files(dir) {
        run("fallocate", [Path::new("-d"), &path]).expect("holes");
    }
}

/// Appends as long as there is space, and returns the last number.
fn fill(wal: &Wal) -> u64 {
    loop {
        let last = wal.positions().last;
        match wal.append(&body(last + 1)) {
            Ok(seq) => assert_eq!(seq, last + 1),
            Err(Error::NoSpace(_)) => {
                assert_eq!(wal.positions().last, last);
                return last;
            }
            Err(e) => panic!("{e:?}"),
        }
    }
}

/// The log on a full disk: read, refused, truncated, closed, opened; then there is space again.
fn lives_on(disk: &Disk, options: &Options, what: &str) {
    let wal = options.open(disk.log()).unwrap_or_else(|e| panic!("{what}: {e}"));
    shows(&wal, 1, RECORDS);
    let refused = wal.append(&body(RECORDS + 1));
    assert!(matches!(refused, Err(Error::NoSpace(_))), "{what}: {refused:?}");
    assert!(matches!(wal.append_batch(&[body(1), body(2)]), Err(Error::NoSpace(_))), "{what}");
    assert!(matches!(wal.submit(&body(1)), Err(Error::NoSpace(_))), "{what}");
    assert!(matches!(wal.append_with(10, |_| Ok::<_, ()>(1)), Err(Error::NoSpace(_))), "{what}");
    assert!(!matches!(wal.try_append(&body(1)), Ok(Some(_))), "{what}");
    assert_eq!(wal.positions().last, RECORDS, "{what}");
    wal.checkpoint(10).unwrap_or_else(|e| panic!("{what}: {e}"));
    wal.truncate_front(20).unwrap_or_else(|e| panic!("{what}: {e}"));
    shows(&wal, 21, RECORDS);
    wal.truncate_front(RECORDS - 3).unwrap_or_else(|e| panic!("{what}: {e}"));
    // What that frees may be enough for some.
    let last = fill(&wal);
    shows(&wal, RECORDS - 2, last);
    wal.close().unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(wal);
    let wal = options.open(disk.log()).unwrap_or_else(|e| panic!("{what}: {e}"));
    shows(&wal, RECORDS - 2, last);
    disk.breathe();
    for seq in last + 1..=last + 100 {
        assert_eq!(wal.append(&body(seq)).unwrap_or_else(|e| panic!("{what}: {e}")), seq);
    }
    wal.truncate_back(last + 50).unwrap_or_else(|e| panic!("{what}: {e}"));
    shows(&wal, RECORDS - 2, last + 50);
    wal.close().unwrap_or_else(|e| panic!("{what}: {e}"));
}

fn in_every_mode(disk: &Disk, test: impl Fn(&Options, &str)) {
    for mode in [SyncMode::Sync, SyncMode::batch(10), SyncMode::None] {
        for background in [Background::Thread, Background::Caller] {
            test(&options(mode, background), &format!("{mode:?}, {background:?}"));
            disk.clear();
        }
    }
}

#[test]
fn a_log_restored_with_holes_lives_on_a_full_disk() {
    on_disks(&[EXT4, XFS], |disk, name| {
        in_every_mode(disk, |options, mode| {
            for closed in [true, false] {
                let what = format!("{name}, {mode}, closed: {closed}");
                make(disk, options, closed);
                dig_holes(&disk.log());
                disk.choke(0);
                lives_on(disk, options, &what);
                disk.clear();
            }
        });
    });
}

#[test]
fn space_that_is_there_again_is_taken_without_another_open() {
    on_disks(&[EXT4, XFS], |disk, name| {
        in_every_mode(disk, |options, mode| {
            make(disk, options, true);
            dig_holes(&disk.log());
            disk.choke(0);
            let wal = options.open(disk.log()).expect("the log");
            assert!(matches!(wal.append(&body(RECORDS + 1)), Err(Error::NoSpace(_))), "{name}, {mode}");
            disk.breathe();
            let rotations = wal.stats().rotations;
            assert_eq!(wal.append(&body(RECORDS + 1)).expect("an append"), RECORDS + 1, "{name}, {mode}");
            assert_eq!(wal.stats().rotations, rotations, "{name}, {mode}: the segment has its space");
            shows(&wal, 1, RECORDS + 1);
        });
    });
}

#[test]
fn a_log_that_has_all_its_space_needs_none_on_a_full_disk() {
    on_disks(&[EXT4, XFS], |disk, name| {
        in_every_mode(disk, |options, mode| {
            let what = format!("{name}, {mode}");
            let wal = options.open(disk.log()).expect("a new log");
            for seq in 1..=60 {
                wal.append(&body(seq)).expect("an append");
                wal.maintain().expect("maintenance");
            }
            wal.close().expect("a close");
            drop(wal);
            disk.write_back();
            disk.choke(0);
            let open = || options.open(disk.log()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let wal = open();
            assert_eq!(wal.append(&body(61)).unwrap_or_else(|e| panic!("{what}: {e}")), 61);
            // Into the spare, which has its space, too.
            wal.truncate_back(30).unwrap_or_else(|e| panic!("{what}: {e}"));
            wal.close().unwrap_or_else(|e| panic!("{what}: {e}"));
            drop(wal);
            let wal = open();
            shows(&wal, 1, 30);
            assert_eq!(wal.append(&body(31)).unwrap_or_else(|e| panic!("{what}: {e}")), 31);
        });
    });
}

#[test]
fn a_log_that_shares_its_blocks_is_opened_on_a_full_disk_and_appended_to_when_there_is_space() {
    on_disks(&[XFS], |disk, name| {
        in_every_mode(disk, |options, mode| {
            for (closed, left) in [(true, 0), (false, 0), (true, 64 << 10), (false, 64 << 10)] {
                let what = format!("{name}, {mode}, closed: {closed}, left: {left}");
                make(disk, options, closed);
                let (log, kept) = (disk.log(), disk.mounted.join("kept"));
                let arguments = ["-a", "--reflink=always"].map(Path::new);
                run("cp", arguments.into_iter().chain([&*log, &*kept])).expect("a copy");
                disk.write_back();
                disk.choke(left);
                for _ in 0..2 {
                    let wal = options.open(&log).unwrap_or_else(|e| panic!("{what}: {e}"));
                    shows(&wal, 1, RECORDS);
                    let refused = [
                        wal.append(&body(RECORDS + 1)).map(drop),
                        wal.append_batch(&[body(1), body(2)]).map(drop),
                        wal.submit(&body(1)).map(drop),
                        wal.truncate_back(RECORDS - 1),
                        wal.reset(1000),
                    ];
                    for refused in refused {
                        assert!(matches!(refused, Err(Error::NoSpace(_))), "{what}: {refused:?}");
                    }
                    shows(&wal, 1, RECORDS);
                    // Where the log was not closed before, there is no space to say that it is now.
                    let closes = wal.close();
                    assert!(
                        closes.is_ok() || (!closed && matches!(closes, Err(Error::NoSpace(_)))),
                        "{what}: {closes:?}"
                    );
                }
                let wal = options.open(&log).unwrap_or_else(|e| panic!("{what}: {e}"));
                // With the blocks of MANIFEST alone.
                let first = if left > 0 && wal.truncate_front(60).is_ok() { 61 } else { 1 };
                shows(&wal, first, RECORDS);
                disk.breathe();
                assert_eq!(wal.append(&body(RECORDS + 1)).unwrap_or_else(|e| panic!("{what}: {e}")), RECORDS + 1);
                wal.truncate_back(RECORDS).unwrap_or_else(|e| panic!("{what}: {e}"));
                wal.close().unwrap_or_else(|e| panic!("{what}: {e}"));
                drop(wal);
                shows(&options.open(&log).unwrap_or_else(|e| panic!("{what}: {e}")), first, RECORDS);
                shows(&options.open(&kept).unwrap_or_else(|e| panic!("{what}: {e}")), 1, RECORDS);
                fs::remove_dir_all(kept).expect("a removal");
                disk.clear();
            }
        });
    });
}

#[test]
fn a_log_whose_blocks_come_to_be_shared_refuses_what_it_has_no_space_for() {
    on_disks(&[XFS], |disk, name| {
        in_every_mode(disk, |options, mode| {
            let what = format!("{name}, {mode}");
            let (log, kept) = (disk.log(), disk.mounted.join("kept"));
            let wal = options.open(&log).expect("a new log");
            for seq in 1..=60 {
                wal.append(&body(seq)).expect("an append");
                wal.maintain().expect("maintenance");
            }
            wal.sync().expect("a sync");
            let arguments = ["-a", "--reflink=always"].map(Path::new);
            run("cp", arguments.into_iter().chain([&*log, &*kept])).expect("a copy");
            disk.write_back();
            disk.choke(0);
            let is_refused = |result: Result<(), Error>| {
                assert!(matches!(result, Err(Error::NoSpace(_))), "{what}: {result:?}");
            };
            is_refused(wal.truncate_front(20));
            is_refused(wal.checkpoint(10));
            drop(wal);
            let wal = options.open(&log).unwrap_or_else(|e| panic!("{what}: {e}"));
            shows(&wal, 1, 60);
            is_refused(wal.append(&body(61)).map(drop));
            is_refused(wal.truncate_front(20));
            shows(&wal, 1, 60);
            disk.breathe();
            wal.truncate_front(20).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(wal.append(&body(61)).unwrap_or_else(|e| panic!("{what}: {e}")), 61);
            wal.close().unwrap_or_else(|e| panic!("{what}: {e}"));
            drop(wal);
            shows(&options.open(&log).unwrap_or_else(|e| panic!("{what}: {e}")), 21, 61);
            fs::remove_dir_all(kept).expect("a removal");
        });
    });
}

#[test]
fn a_log_that_shares_its_blocks_has_its_own_before_it_is_appended_to() {
    on_disks(&[XFS], |disk, name| {
        in_every_mode(disk, |options, mode| {
            let what = format!("{name}, {mode}");
            make(disk, options, true);
            let (log, kept) = (disk.log(), disk.mounted.join("kept"));
            let arguments = ["-a", "--reflink=always"].map(Path::new);
            run("cp", arguments.into_iter().chain([&*log, &*kept])).expect("a copy");
            // Enough for MANIFEST, whose blocks are shared as well, and not for a segment.
            disk.choke(SEGMENT / 2);
            lives_on(disk, options, &what);
            let copy = options.open(&kept).unwrap_or_else(|e| panic!("{what}: {e}"));
            shows(&copy, 1, RECORDS);
            drop(copy);
            fs::remove_dir_all(kept).expect("a removal");
        });
    });
}
