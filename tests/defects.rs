//! Proves, one test each: that the defects of the log which this one replaces are absent (design, section 1); that a full
//! disk is an error from the call that needed space and nothing else (P9); that a failed sync poisons, wakes everybody
//! and loses nothing acknowledged (P8), wherever it fails; that an error at any storage call never panics, hangs or loses
//! what was acknowledged; and what an open refuses without writing.
//! Does not prove anything about power loss (the errors come from an observer, the bytes below stay), or real full disks.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{
    Before, FRAMES_AT, SMALLEST, all, files_of, is_manifest, is_segment, log_files_of, scratch, segment, shown,
    write_files,
};
use mmap_wal::{Act, Background, Error, Observer, Options, Reader, SyncMode, TailState, Wal};
use reference::Files;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// 24 bytes of header and this are a frame of 256 bytes: 16 fill the smallest segment.
const LEN: usize = 232;
const FRAME: u64 = 256;
const PER_SEGMENT: u64 = 16;

fn options() -> Options {
    Options::new().segment_size(SMALLEST).background(Background::Caller)
}

fn body(seq: u64) -> Vec<u8> {
    (0..LEN as u64).map(|i| (seq * 31 + i) as u8).collect()
}

fn fill(wal: &Wal, count: u64) {
    for _ in 0..count {
        let seq = wal.positions().last + 1;
        assert_eq!(wal.append(&body(seq)).expect("an append"), seq);
    }
}

/// The numbers that are shown, after a look at every payload.
fn numbers(wal: &Wal) -> Vec<u64> {
    let records = all(&wal.snapshot());
    for record in &records {
        assert_eq!(record.payload, body(record.seq), "record {}", record.seq);
    }
    records.iter().map(|record| record.seq).collect()
}

fn seqs(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

/// The files of an open log of `count` records, of which the last `unsynced` are not durable.
fn killed(count: u64, unsynced: u64) -> Files {
    let dir = scratch();
    let wal = options().sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    fill(&wal, count - unsynced);
    wal.sync().expect("a sync");
    fill(&wal, unsynced);
    files_of(dir.path())
}

fn directory(files: &Files) -> tempfile::TempDir {
    let dir = scratch();
    write_files(dir.path(), files);
    dir
}

fn flip(files: &mut Files, ordinal: u64, at: u64) {
    files.get_mut(&segment(ordinal)).expect("the segment")[at as usize] ^= 0x40;
}

fn frame_at(index: u64) -> u64 {
    FRAMES_AT + index * FRAME
}

// ---- the defects of section 1 ----

#[test]
fn numbers_and_lengths_are_covered_by_the_checksum() {
    let files = killed(6, 0);
    for at in frame_at(2)..frame_at(2) + 24 {
        let mut files = files.clone();
        flip(&mut files, 1, at);
        match options().open(directory(&files).path()) {
            Err(Error::Corrupt(damage)) => {
                assert_eq!((damage.segment, damage.offset, damage.expected_seq), (1, frame_at(2), 3), "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn two_records_that_changed_places_are_damage() {
    let mut files = killed(6, 0);
    let bytes = files.get_mut(&segment(1)).expect("the segment");
    let (a, b) = (frame_at(2) as usize, frame_at(3) as usize);
    bytes[a..b + FRAME as usize].rotate_left(FRAME as usize);
    match options().open(directory(&files).path()) {
        Err(Error::Corrupt(damage)) => assert_eq!((damage.offset, damage.expected_seq), (frame_at(2), 3)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn appends_after_a_torn_record_are_reached() {
    for keep in [0, 8, 24, 100, FRAME - 8] {
        let mut files = killed(5, 1);
        let bytes = files.get_mut(&segment(1)).expect("the segment");
        // The rest of the record did not reach the disk, but the last sector behind it did.
        bytes[(frame_at(4) + keep) as usize..frame_at(5) as usize].fill(0);
        bytes[frame_at(6) as usize] = 0x77;
        let dir = directory(&files);
        let wal = options().open(dir.path()).expect("the log");
        assert_eq!((wal.recovery().tail, wal.recovery().last_seq), (TailState::Torn, 4), "{keep}");
        fill(&wal, 30);
        assert_eq!(numbers(&wal), seqs(1..=34));
        write_files(dir.path(), &files_of(dir.path()));
        drop(wal);
        let wal = options().open(dir.path()).expect("the log");
        assert_eq!((numbers(&wal), wal.recovery().tail), (seqs(1..=34), TailState::Clean), "{keep}");
    }
}

#[test]
fn a_torn_batch_is_gone_whole_and_swallows_no_later_append() {
    let (dir, found) = (scratch(), Arc::new(Mutex::new(None)));
    let (taken, path) = (Arc::clone(&found), dir.path().to_owned());
    let observer = Before::new(false, move |act| {
        if matches!(act, Act::SyncRange { .. }) {
            *taken.lock().expect("a lock") = Some(files_of(&path));
        }
        Ok(())
    });
    let wal = options().open_observed(dir.path(), Some(observer.clone())).expect("a new log");
    fill(&wal, 4);
    observer.arm(true);
    wal.append_batch(&[[b'x'; LEN]; 5]).expect("a batch");
    observer.arm(false);
    let whole = found.lock().expect("a lock").take().expect("a sync");
    for lost in 0..5 {
        let mut files = whole.clone();
        let (from, to) = (frame_at(4 + lost) as usize, frame_at(5 + lost) as usize);
        files.get_mut(&segment(1)).expect("the segment")[from..to].fill(0);
        let dir = directory(&files);
        let wal = options().open(dir.path()).expect("the log");
        let cut = wal.recovery().cut.expect("a cut");
        assert_eq!((cut.segment, cut.offset, cut.records), (1, frame_at(4), 4), "{lost}");
        assert_eq!(numbers(&wal), seqs(1..=4), "{lost}");
        // Shorter records than before, so that frames of the batch would stand behind them if they were left.
        assert_eq!(wal.append(b"").expect("an append"), 5);
        let copy = directory(&files_of(dir.path()));
        let again = options().strict(true).open(copy.path()).expect("the log");
        let records = all(&again.snapshot());
        assert_eq!((records.len(), records[4].payload.len()), (5, 0), "{lost}");
    }
}

#[test]
fn corruption_in_the_middle_is_an_error_that_says_where_and_not_a_silent_end() {
    let files = killed(40, 2);
    // In the active segment, of which the records 33 to 38 are durable: open refuses.
    for seq in 33..=38 {
        let (mut files, at) = (files.clone(), frame_at(seq - 33));
        flip(&mut files, 3, at + 30);
        let dir = directory(&files);
        for opened in
            [options().open(dir.path()).map(drop), Reader::open(dir.path()).and_then(|r| r.snapshot().map(drop))]
        {
            match opened {
                Err(Error::Corrupt(damage)) => {
                    assert_eq!((damage.segment, damage.offset, damage.expected_seq), (3, at, seq));
                    assert!(damage.durable_offset > at);
                }
                other => panic!("{seq}: {other:?}"),
            }
        }
    }
    // In a sealed one: replay shows what stands before it, then the error, then nothing.
    for seq in [1, 7, 16, 17, 32] {
        let (mut files, ordinal) = (files.clone(), 1 + (seq - 1) / PER_SEGMENT);
        flip(&mut files, ordinal, frame_at((seq - 1) % PER_SEGMENT) + 30);
        let dir = directory(&files);
        let wal = options().open(dir.path()).expect("the log");
        let (records, error) = shown(&wal.snapshot());
        assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), seqs(1..=seq - 1));
        match error {
            Some(Error::Corrupt(damage)) => assert_eq!((damage.segment, damage.expected_seq), (ordinal, seq)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(wal.snapshot().get(seq), Err(Error::Corrupt(_))));
        // What stands behind the damage is reached from behind it.
        let behind = wal.snapshot();
        let last = ordinal * PER_SEGMENT;
        assert_eq!(behind.replay(last).expect("a replay").filter(Result::is_ok).count() as u64, 40 - last);
    }
}

#[test]
fn a_crash_at_any_step_of_a_truncation_keeps_what_should_be_kept_and_rewrites_no_segment() {
    let dir = scratch();
    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, path) = (Arc::clone(&images), dir.path().to_owned());
    let observer = Before::new(false, move |act| {
        assert!(!matches!(act, Act::Write { path, .. } | Act::Allocate { path, .. } if is_segment(path)), "{act:?}");
        taken.lock().expect("a lock").push(files_of(&path));
        Ok(())
    });
    let wal = options().open_observed(dir.path(), Some(observer.clone())).expect("a new log");
    fill(&wal, 60);
    let before = files_of(dir.path());
    observer.arm(true);
    wal.truncate_front(37).expect("a truncation");
    observer.arm(false);
    let after = files_of(dir.path());
    for (name, bytes) in after.iter().filter(|(name, _)| name.ends_with(".wal")) {
        assert!(&before[name] == bytes, "{name} was rewritten");
    }
    // One file is kept to be used again; the manifest names neither.
    assert!(!after.contains_key(&segment(2)) && after.contains_key(&segment(3)));
    let images = std::mem::take(&mut *images.lock().expect("a lock"));
    assert!(images.len() >= 4, "two slots, two syncs");
    for files in images.iter().chain([&after]) {
        let dir = directory(files);
        let wal = options().strict(true).open(dir.path()).expect("the log");
        let first = wal.positions().first;
        assert!(first == 1 || first == 38, "{first}");
        assert_eq!(numbers(&wal), seqs(first..=60));
    }
}

#[test]
fn truncating_everything_and_restarting_gives_no_number_again() {
    let dir = scratch();
    let mut last = 0;
    for round in 0..6 {
        let wal = options().open(dir.path()).expect("the log");
        assert_eq!((wal.positions().first, wal.positions().last), (last + 1, last));
        fill(&wal, 1 + round * 10);
        last += 1 + round * 10;
        wal.truncate_front(u64::MAX).expect("a truncation");
        assert_eq!((wal.positions().first, wal.positions().last), (last + 1, last));
        if round % 2 == 0 {
            // Once closed, once killed.
            let files = files_of(dir.path());
            drop(wal);
            write_files(dir.path(), &files);
        }
    }
}

/// Damages a byte of each record in `lost`, counted from 0, and every word of the segment.
fn without_words(files: &Files, ordinal: u64, lost: std::ops::Range<u64>) -> Files {
    let mut files = files.clone();
    lost.for_each(|index| flip(&mut files, ordinal, frame_at(index) + 8));
    files.get_mut(&segment(ordinal)).expect("the segment")[4096..8192].fill(0);
    files
}

/// Opening and reading both say that the record `seq` at `offset` is damaged.
fn assert_damaged(files: &Files, offset: u64, seq: u64) {
    let dir = directory(files);
    for opened in [options().open(dir.path()).map(drop), Reader::open(dir.path()).and_then(|r| r.snapshot().map(drop))]
    {
        match opened {
            Err(Error::Corrupt(damage)) => assert_eq!((damage.offset, damage.expected_seq), (offset, seq)),
            other => panic!("{other:?}: durable records were cut in silence"),
        }
    }
}

/// What the last frame that a segment can hold claims is evidence, too.
#[test]
fn claim_in_the_last_possible_frame_counts() {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, PER_SEGMENT - 1);
    // A frame without a payload behind it ends with the segment.
    wal.append(&[1; LEN - 24]).expect("an append");
    assert_eq!(wal.append(b"").expect("an append"), PER_SEGMENT + 1);
    assert_eq!(wal.stats().rotations, 0);
    let files = files_of(dir.path());
    let lost = without_words(&files, 1, PER_SEGMENT - 2..PER_SEGMENT);
    assert_damaged(&lost, frame_at(PER_SEGMENT - 2), PER_SEGMENT - 1);
    // Without the claim nothing is known: the test is about that frame alone.
    let mut unknown = lost;
    flip(&mut unknown, 1, SMALLEST - 16);
    let dir = directory(&unknown);
    let wal = options().open(dir.path()).expect("a torn end");
    assert_eq!((wal.recovery().tail, wal.positions().last), (TailState::Torn, PER_SEGMENT - 2));
}

/// So does that of the first record after an open: what was found was made durable.
#[test]
fn first_record_after_an_open_claims_what_was_found() {
    for kill in [false, true] {
        let dir = if kill { directory(&killed(5, 0)) } else { directory(&files_of_closed(5)) };
        let wal = options().sync_mode(SyncMode::None).open(dir.path()).expect("the log");
        fill(&wal, 1);
        assert_damaged(&without_words(&files_of(dir.path()), 1, 4..5), frame_at(4), 5);
    }
}

/// A store to a word may be torn; the other word says nearly as much.
#[test]
fn one_of_two_durable_words_is_enough() {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 6);
    for lost in 0..2 {
        let mut files = files_of(dir.path());
        (0..6).for_each(|index| flip(&mut files, 1, frame_at(index) + 8));
        let at = [4224, 4736][lost];
        files.get_mut(&segment(1)).expect("the segment")[at..at + 16].fill(0xFF);
        assert_damaged(&files, frame_at(0), 1);
    }
}

fn files_of_closed(count: u64) -> Files {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, count);
    wal.close().expect("a close");
    files_of(dir.path())
}

/// Nothing behind a clean end is read, but the spares are still those of this log.
#[test]
fn foreign_spare_of_a_closed_log_is_refused() {
    let mut files = files_of_closed(20);
    files.insert(segment(3), killed(3, 0)[&segment(1)].clone());
    assert!(matches!(refused(&options(), directory(&files).path()), Error::Foreign(_)));
}

// ---- P9: a full disk ----

/// An observer on whose disk nothing new fits while it is armed.
fn full_disk() -> Arc<impl Observer + Armed> {
    Before::new(false, |act| match act {
        Act::Create(_) | Act::Allocate { .. } => Err(io::Error::from_raw_os_error(ENOSPC)),
        _ => Ok(()),
    })
}

trait Armed {
    fn arm(&self, armed: bool);
}

impl<F: Fn(&Act<'_>) -> io::Result<()> + Send + Sync> Armed for Before<F> {
    fn arm(&self, armed: bool) {
        Self::arm(self, armed);
    }
}

#[test]
fn a_full_disk_fails_the_append_that_needs_space_and_loses_nothing() {
    for mode in [SyncMode::Sync, SyncMode::batch(5), SyncMode::None] {
        let (dir, disk) = (scratch(), full_disk());
        let wal = options().sync_mode(mode).open_observed(dir.path(), Some(disk.clone())).expect("a new log");
        fill(&wal, 20);
        disk.arm(true);
        let failed = loop {
            match wal.append(&body(wal.positions().last + 1)) {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert!(matches!(failed, Error::NoSpace(_)), "{failed:?}");
        let last = wal.positions().last;
        assert_eq!(last % PER_SEGMENT, 0, "everything that had room was appended");
        let files = log_files_of(dir.path()).into_keys().collect::<Vec<_>>();
        for _ in 0..3 {
            assert!(matches!(wal.append(&body(last + 1)), Err(Error::NoSpace(_))));
            assert!(matches!(wal.append_batch(&[body(last + 1)]), Err(Error::NoSpace(_))));
            assert!(matches!(wal.append_with(LEN, |_| Ok::<_, ()>(LEN)), Err(Error::NoSpace(_))));
        }
        assert_eq!((wal.positions().last, numbers(&wal)), (last, seqs(1..=last)), "{mode:?}");
        assert_eq!(log_files_of(dir.path()).into_keys().collect::<Vec<_>>(), files, "no half-made file stays");
        wal.sync().expect("a sync");
        wal.checkpoint(9).expect("a checkpoint needs no space");
        wal.set_meta(b"meta").expect("a meta needs no space");
        wal.truncate_front(17).expect("a truncation needs no space");
        fill(&wal, 1);
        assert!(!dir.path().join(segment(1)).exists(), "its file was used again, on a full disk");
        disk.arm(false);
        fill(&wal, 39);
        assert_eq!(numbers(&wal), seqs(18..=last + 40));
        wal.close().expect("a close");
        assert_eq!(numbers(&options().open(dir.path()).expect("the log")), seqs(18..=last + 40));
    }
}

#[test]
fn a_full_disk_stops_no_open_of_an_existing_log_and_no_close() {
    let (closed, killed_files) = (scratch(), killed(40, 3));
    let wal = options().open(closed.path()).expect("a new log");
    fill(&wal, 40);
    wal.close().expect("a close");
    for files in [files_of(closed.path()), killed_files] {
        let dir = directory(&files);
        let disk = Before::new(true, |act| match act {
            Act::Create(_) | Act::Allocate { .. } => Err(io::Error::from_raw_os_error(ENOSPC)),
            Act::Write { path, .. } if path.ends_with("LOCK") => Err(io::Error::from_raw_os_error(ENOSPC)),
            _ => Ok(()),
        });
        let wal = options().open_observed(dir.path(), Some(disk.clone())).expect("the log");
        assert_eq!(numbers(&wal), seqs(1..=40));
        fill(&wal, 8);
        wal.truncate_front(20).expect("a truncation");
        wal.close().expect("a close");
        let wal = options().open_observed(dir.path(), Some(disk)).expect("the log");
        assert_eq!(numbers(&wal), seqs(21..=48));
    }
}

/// A file for each attempt would fill the disk, and nobody would miss them until the next open.
#[test]
fn a_preparation_that_fails_again_and_again_leaves_no_files() {
    let ways: [fn(&Act<'_>) -> bool; 4] = [
        |act| matches!(act, Act::Allocate { .. }),
        |act| matches!(act, Act::Write { path, .. } if is_segment(path)),
        |act| matches!(act, Act::Map(_)),
        |act| matches!(act, Act::Populate(_)),
    ];
    for (i, is_it) in ways.into_iter().enumerate() {
        let (dir, (disk, count)) = (scratch(), failing(is_it));
        let wal = options().open_observed(dir.path(), Some(disk.clone())).expect("a new log");
        disk.arm(true);
        fill(&wal, 2 * PER_SEGMENT);
        let names = || log_files_of(dir.path()).into_keys().collect::<Vec<_>>();
        let before = names();
        for _ in 0..5 {
            assert!(matches!(wal.append(b"x"), Err(Error::Io(_))), "{i}");
        }
        assert!(count.load(Ordering::SeqCst) >= 5, "{i}");
        assert_eq!(names(), before, "{i}");
        disk.arm(false);
        fill(&wal, 40);
        assert_eq!(numbers(&wal), seqs(1..=2 * PER_SEGMENT + 40));
    }
}

/// So many segments that the manifest is about to outgrow its first 64 KiB.
const BEFORE_GROWTH: u64 = 1270;

/// A record that fills a segment.
const LARGE: [u8; (SMALLEST - FRAMES_AT) as usize - 24] = [7; (SMALLEST - FRAMES_AT) as usize - 24];

/// A closed log whose manifest is about to grow.
fn before_growth() -> tempfile::TempDir {
    let dir = scratch();
    let wal = options().sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    for _ in 0..BEFORE_GROWTH {
        wal.append(&LARGE).expect("an append");
    }
    wal.close().expect("a close");
    dir
}

fn is_growth(act: &Act<'_>) -> bool {
    matches!(act, Act::Create(path) | Act::Allocate { path, .. } if path.ends_with("MANIFEST.tmp"))
}

#[test]
fn a_manifest_that_cannot_grow_loses_nothing_and_grows_when_it_can() {
    let is_dir_sync = |act: &Act<'_>| matches!(act, Act::SyncDir(_));
    let (dir, large) = (before_growth(), LARGE);
    let renamed = Arc::new(AtomicUsize::new(0));
    for (error, late) in [(ENOSPC, false), (ENOSPC, true), (EIO, true)] {
        let seen = Arc::clone(&renamed);
        seen.store(0, Ordering::SeqCst);
        let copy = scratch();
        for entry in std::fs::read_dir(dir.path()).expect("the directory") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
        }
        let disk = Before::new(true, move |act| {
            seen.fetch_add(usize::from(matches!(act, Act::Rename { .. })), Ordering::SeqCst);
            let fails = if late { is_dir_sync(act) && seen.load(Ordering::SeqCst) == 1 } else { is_growth(act) };
            if fails { Err(io::Error::from_raw_os_error(error)) } else { Ok(()) }
        });
        let wal = options().sync_mode(SyncMode::None).open_observed(copy.path(), Some(disk.clone())).expect("the log");
        let mut acknowledged = wal.positions().last;
        for _ in 0..30 {
            match wal.append(&large).and_then(|seq| wal.sync_to(seq).map(|()| seq)) {
                Ok(seq) => acknowledged = seq,
                Err(e) => assert!(late && matches!(e, Error::Poisoned(_)), "{e:?}"),
            }
            if late && renamed.load(Ordering::SeqCst) > 0 {
                break;
            }
        }
        let meta = if wal.set_meta(b"acknowledged").is_ok() { &b"acknowledged"[..] } else { b"" };
        assert!(late == (renamed.load(Ordering::SeqCst) > 0), "{error} {late}");
        assert!(late || acknowledged == BEFORE_GROWTH + 30, "there is room for more in the first size");
        disk.arm(false);
        drop(wal);
        let wal = options().open(copy.path()).expect("the log");
        assert!(wal.positions().last >= acknowledged, "{error} {late}: {} of {acknowledged}", wal.positions().last);
        assert!(meta.is_empty() || wal.meta()[..] == *meta, "{error} {late}: an acknowledged update is gone");
        let first = wal.positions().last + 1;
        for seq in first..first + 30 {
            assert_eq!(wal.append(&large).expect("an append"), seq);
        }
        wal.close().expect("a close");
        assert_eq!(std::fs::metadata(copy.path().join("MANIFEST")).expect("it").len(), 4 * 64 * 1024);
        let snapshot = options().open(copy.path()).expect("the log").snapshot();
        assert_eq!(snapshot.replay(0).expect("a replay").filter(Result::is_ok).count() as u64, first + 29);
    }
}

/// Nothing tells then which of the two files has the name.
#[test]
fn failed_rename_of_a_grown_manifest_poisons() {
    let dir = before_growth();
    for by_append in [true, false] {
        let copy = directory(&files_of(dir.path()));
        let is_full = Arc::new(AtomicBool::new(!by_append));
        let (full, renames) = (Arc::clone(&is_full), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&renames);
        let disk = Before::new(true, move |act| match act {
            Act::Rename { .. } => {
                seen.fetch_add(1, Ordering::SeqCst);
                Err(io::Error::from_raw_os_error(EIO))
            }
            _ if is_growth(act) && full.load(Ordering::SeqCst) => Err(io::Error::from_raw_os_error(ENOSPC)),
            _ => Ok(()),
        });
        let wal = options().sync_mode(SyncMode::None).open_observed(copy.path(), Some(disk)).expect("the log");
        let mut acknowledged = wal.positions().last;
        let mut append = || wal.append(&LARGE).and_then(|seq| wal.sync_to(seq)).map(|()| acknowledged += 1);
        let failed = if by_append {
            (0..40).find_map(|_| append().err())
        } else {
            // Without space the manifest keeps its size, and the next update that may need more is another call's.
            (0..20).for_each(|_| append().expect("an append"));
            is_full.store(false, Ordering::SeqCst);
            wal.set_meta(b"not acknowledged").err()
        };
        assert!(matches!(failed, Some(Error::Poisoned(_))), "{failed:?}");
        refuses_every_write(&wal);
        assert_eq!(renames.load(Ordering::SeqCst), 1, "never tried again");
        assert!(is_poisoned(wal.close()));
        let wal = options().open(copy.path()).expect("the log");
        assert!(wal.positions().last >= acknowledged && wal.meta().is_empty());
        let last = wal.positions().last;
        assert_eq!(wal.append(&LARGE).expect("an append"), last + 1);
    }
}

#[test]
fn a_new_log_that_does_not_fit_says_so_and_is_made_later() {
    let (dir, disk) = (scratch(), full_disk());
    disk.arm(true);
    for _ in 0..2 {
        let failed = options().open_observed(dir.path(), Some(disk.clone()));
        assert!(matches!(failed, Err(Error::NoSpace(_))), "{failed:?}");
    }
    disk.arm(false);
    fill(&options().open_observed(dir.path(), Some(disk)).expect("a new log"), 40);
}

// ---- P8: a failed sync ----

/// An observer that fails the act that `is_it` picks while it is armed, and says how often.
fn failing(is_it: fn(&Act<'_>) -> bool) -> (Arc<impl Observer + Armed>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let observer = Before::new(false, move |act| {
        if is_it(act) {
            counted.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    });
    (observer, count)
}

fn is_poisoned<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Poisoned(_)))
}

fn refuses_every_write(wal: &Wal) {
    assert!(is_poisoned(wal.append(b"x")));
    assert!(is_poisoned(wal.append_batch(&[b"x"])));
    assert!(is_poisoned(wal.append_with(8, |_| Ok::<_, ()>(1))));
    assert!(is_poisoned(wal.append_vectored(&[])));
    assert!(is_poisoned(wal.sync()));
    assert!(is_poisoned(wal.sync_to(1)));
    assert!(is_poisoned(wal.checkpoint(1)));
    assert!(is_poisoned(wal.truncate_front(1)));
    assert!(is_poisoned(wal.set_meta(b"x")));
}

#[test]
fn a_failed_sync_poisons_until_the_log_is_reopened_and_loses_nothing_acknowledged() {
    type Way = (&'static str, fn(&Act<'_>) -> bool, fn(&Wal) -> Result<(), Error>);
    let ways: [Way; 6] = [
        ("append", |act| matches!(act, Act::SyncRange { .. }), |wal| wal.append(&body(31)).map(drop)),
        ("batch", |act| matches!(act, Act::SyncRange { .. }), |wal| wal.append_batch(&[body(31)]).map(drop)),
        ("checkpoint", |act| matches!(act, Act::SyncFile(path) if is_manifest(path)), |wal| wal.checkpoint(9)),
        ("meta", |act| matches!(act, Act::SyncFile(path) if is_manifest(path)), |wal| wal.set_meta(b"meta")),
        ("truncation", |act| matches!(act, Act::SyncFile(path) if is_manifest(path)), |wal| wal.truncate_front(9)),
        ("manifest write", |act| matches!(act, Act::Write { path, .. } if is_manifest(path)), |wal| wal.checkpoint(9)),
    ];
    for (name, is_it, call) in ways {
        let (dir, (disk, count)) = (scratch(), failing(is_it));
        let wal = options().open_observed(dir.path(), Some(disk.clone())).expect("a new log");
        fill(&wal, 30);
        disk.arm(true);
        assert!(is_poisoned(call(&wal)), "{name}");
        let failures = count.load(Ordering::SeqCst);
        refuses_every_write(&wal);
        assert_eq!((failures, count.load(Ordering::SeqCst)), (1, 1), "{name}: never tried again");
        disk.arm(false);
        refuses_every_write(&wal);
        assert_eq!(wal.positions().durable, 30, "{name}");
        assert_eq!(numbers(&wal)[..30], seqs(1..=30), "{name}: what is there can be read");
        assert!(is_poisoned(wal.close()), "{name}");
        let again = options().open(dir.path()).expect("the lock is free");
        let first = again.positions().first;
        assert!(first == 1 || (name == "truncation" && first == 10), "{name}");
        assert!(numbers(&again).ends_with(&seqs(first..=30)) || numbers(&again).ends_with(&seqs(first..=31)), "{name}");
        fill(&again, 20);
    }
}

#[test]
fn a_sync_that_fails_while_a_spare_is_made_poisons_and_loses_nothing_acknowledged() {
    type Way = (&'static str, fn(&Act<'_>) -> bool);
    let ways: [Way; 3] = [
        ("its identity", |act| matches!(act, Act::SyncFile(path) if is_segment(path))),
        ("its name", |act| matches!(act, Act::SyncDir(_))),
        ("its zeros", |act| matches!(act, Act::SyncRange { offset: 0, .. })),
    ];
    for (name, is_it) in ways {
        let (dir, (disk, count)) = (scratch(), failing(is_it));
        let wal = options().open_observed(dir.path(), Some(disk.clone())).expect("a new log");
        fill(&wal, 10);
        disk.arm(true);
        let mut acknowledged = 10;
        let failed = loop {
            match wal.append(&body(acknowledged + 1)) {
                Ok(seq) => acknowledged = seq,
                Err(e) => break e,
            }
            assert!(acknowledged < 100, "{name}: it never failed");
        };
        assert!(matches!(failed, Error::Poisoned(_)), "{name}: {failed:?}");
        refuses_every_write(&wal);
        assert_eq!(count.load(Ordering::SeqCst), 1, "{name}: never tried again");
        drop(wal);
        let wal = options().open(dir.path()).expect("the log");
        assert!(numbers(&wal).starts_with(&seqs(1..=acknowledged)), "{name}");
        fill(&wal, 40);
    }
}

#[test]
fn everybody_who_waits_for_a_sync_gets_its_failure() {
    const THREADS: u64 = 8;
    let (dir, published) = (scratch(), Arc::new(AtomicU64::new(0)));
    let seen = Arc::clone(&published);
    let disk = Before::new(false, move |act| {
        if matches!(act, Act::SyncRange { .. }) {
            // Until all have published and most of them wait.
            while seen.load(Ordering::SeqCst) < 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(50));
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    });
    let wal = options().open_observed(dir.path(), Some(disk.clone())).expect("a new log");
    fill(&wal, 3);
    disk.arm(true);
    let results = within(Duration::from_secs(60), {
        let wal = Arc::new(wal);
        move || {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let wal = Arc::clone(&wal);
                    std::thread::spawn(move || wal.append(b"x"))
                })
                .collect();
            while wal.positions().last < 3 + THREADS {
                std::thread::sleep(Duration::from_millis(1));
            }
            published.store(1, Ordering::SeqCst);
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
        }
    });
    assert_eq!(results.len() as u64, THREADS);
    assert!(results.into_iter().all(is_poisoned));
}

#[test]
fn a_failure_in_the_background_of_batch_mode_reaches_the_next_call() {
    let (dir, (disk, _)) = (scratch(), failing(|act| matches!(act, Act::SyncRange { .. })));
    let mode = SyncMode::batch(1000);
    let wal = options().sync_mode(mode).open_observed(dir.path(), Some(disk.clone())).expect("a new log");
    fill(&wal, 3);
    wal.sync().expect("a sync");
    disk.arm(true);
    wal.append(&body(4)).expect("an append that nothing syncs yet");
    let poisoned = within(Duration::from_secs(60), move || {
        while wal.append(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        is_poisoned(wal.append(b"x"))
    });
    assert!(poisoned);
    let wal = options().open(dir.path()).expect("the log");
    assert!(wal.positions().last >= 3);
}

// ---- an error anywhere ----

/// Runs `job`, and panics if it takes longer than `limit`: a hang is a failure and not a wait.
fn within<T: Send + 'static>(limit: Duration, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || done.send(job()));
    match result.recv_timeout(limit) {
        Ok(value) => value,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().expect_err("the sender was dropped"))
        }
    }
}

/// Which acts fail, by their number.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Nothing,
    /// This one, with this error.
    One(usize, i32),
    /// This one and all behind it.
    From(usize, i32),
}

/// What the history was told.
#[derive(Default)]
struct Told {
    /// Every number that was durable on return, or became so later.
    acknowledged: u64,
    truncated: u64,
    /// What was asked for and not refused as undone.
    truncation_tried: u64,
    checkpoint: u64,
    meta: Option<Vec<u8>>,
    errors: usize,
}

/// A short life of a log: made, filled over rotations, checkpointed, truncated, closed, opened, killed, opened again.
/// After an error it goes on as a stubborn user would.
fn history(dir: &Path, observer: &Arc<dyn Observer>) -> Told {
    let mut told = Told::default();
    let note = |told: &mut Told, e: Error| {
        assert!(matches!(e, Error::Io(_) | Error::NoSpace(_) | Error::Poisoned(_)), "{e:?}");
        told.errors += 1;
    };
    for life in 0..3_u8 {
        let mode = if life == 1 { SyncMode::None } else { SyncMode::Sync };
        let wal = match options().sync_mode(mode).open_observed(dir, Some(Arc::clone(observer))) {
            Ok(wal) => wal,
            Err(e) => {
                note(&mut told, e);
                continue;
            }
        };
        for i in 0..22 {
            let seq = wal.positions().last + 1;
            let appended = if i == 5 {
                wal.append_batch(&[body(seq), body(seq + 1)]).map(|seqs| seqs.last().expect("two"))
            } else {
                wal.append(&body(seq))
            };
            match appended {
                Ok(seq) if mode == SyncMode::Sync || i == 5 => told.acknowledged = told.acknowledged.max(seq),
                Ok(_) => {}
                Err(e) => note(&mut told, e),
            }
        }
        match wal.sync() {
            Ok(seq) => told.acknowledged = told.acknowledged.max(seq),
            Err(e) => note(&mut told, e),
        }
        let last = wal.positions().last;
        match wal.checkpoint(last) {
            Ok(()) => told.checkpoint = last,
            Err(e) => note(&mut told, e),
        }
        let meta = vec![life; 9];
        match wal.set_meta(&meta) {
            Ok(()) => told.meta = Some(meta),
            Err(e) => {
                told.meta = None;
                note(&mut told, e);
            }
        }
        let up_to = last.saturating_sub(10);
        told.truncation_tried = told.truncation_tried.max(up_to);
        match wal.truncate_front(up_to) {
            Ok(()) => told.truncated = told.truncated.max(up_to),
            Err(e) => note(&mut told, e),
        }
        if let Err(e) = wal.close() {
            note(&mut told, e);
        }
    }
    told
}

fn counting(failing: Failing) -> (Arc<dyn Observer>, Arc<Mutex<Vec<String>>>) {
    let acts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&acts);
    let observer: Arc<dyn Observer> = Before::new(true, move |act| {
        let mut seen = seen.lock().expect("a lock");
        let number = seen.len();
        seen.push(format!("{act:?}"));
        match failing {
            Failing::One(at, error) if at == number => Err(io::Error::from_raw_os_error(error)),
            Failing::From(at, error) if at <= number => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    });
    (observer, acts)
}

/// Plays the history with `failing`, and then looks at what is left with a disk that works.
fn survives(failing: Failing) -> usize {
    let (dir, (observer, acts)) = (scratch(), counting(failing));
    let told = history(dir.path(), &observer);
    let wal = options().open(dir.path()).unwrap_or_else(|e| panic!("{failing:?}: {e}"));
    let (shown, positions) = (numbers(&wal), wal.positions());
    let at = match failing {
        Failing::Nothing => String::new(),
        Failing::One(at, _) | Failing::From(at, _) => acts.lock().expect("a lock").get(at).cloned().unwrap_or_default(),
    };
    let what = format!("{failing:?}, {at}: {positions:?}, acknowledged {}", told.acknowledged);
    assert!(positions.last >= told.acknowledged, "{what}");
    assert!(positions.first > told.truncated && positions.first <= told.truncation_tried + 1, "{what}");
    assert_eq!(shown, seqs(positions.first..=positions.last), "{what}");
    assert!(positions.checkpoint >= told.checkpoint, "{what}");
    assert!(told.meta.is_none_or(|meta| wal.meta()[..] == meta), "{what}");
    fill(&wal, 20);
    let acts = acts.lock().expect("a lock").len();
    assert!(told.errors > 0 || is_harmless(failing, &at), "{what}: nobody was told");
    acts
}

/// Acts whose failure nobody needs to hear of: the pid for messages, times of change, what is done ahead of need and can be
/// done again with another file, the look at what became of the log's names before that included, and a question about pages
/// that a write then does not confirm.
fn is_harmless(failing: Failing, act: &str) -> bool {
    let is_minor = ["Look", "SetTimes"].iter().any(|name| act.starts_with(name));
    let preparing =
        ["Create", "Allocate", "Populate", "Prefault", "Map", "Write"].iter().any(|name| act.starts_with(name));
    // What the slots of a MANIFEST hold has its space: more is asked for again when it is needed. What an open or the log's
    // own thread has no space to write, they write later; whoever asks for a change is told, or it would be missing.
    let reserving = ["Allocate", "Write"].iter().any(|name| act.starts_with(name)) && act.contains("MANIFEST\"");
    match failing {
        Failing::Nothing => true,
        _ if is_minor => true,
        Failing::One(_, ENOSPC) if reserving => true,
        Failing::One(_, EIO) | Failing::From(_, EIO) => act.contains("LOCK") || (preparing && act.contains(".wal")),
        _ => !act.contains("MANIFEST"),
    }
}

#[test]
fn an_error_at_any_act_of_a_short_history_loses_nothing_acknowledged_and_hangs_nobody() {
    let acts = survives(Failing::Nothing);
    for at in 0..acts {
        // The limit is for one history: all of them may take minutes on a machine that has other things to do.
        for failing in
            [Failing::One(at, EIO), Failing::One(at, ENOSPC), Failing::From(at, EIO), Failing::From(at, ENOSPC)]
        {
            within(Duration::from_secs(120), move || survives(failing));
        }
    }
    println!("{acts} acts");
}

/// A failed recovery leaves a log that the next one opens, with everything in it.
#[test]
fn an_error_at_any_act_of_a_recovery_loses_nothing() {
    // Killed behind 40 records, with something torn at the end.
    let mut files = killed(40, 4);
    files.get_mut(&segment(3)).expect("the segment")[11_000] = 1;
    let (observer, acts) = counting(Failing::Nothing);
    drop(options().open_observed(directory(&files).path(), Some(observer)).expect("the log"));
    let acts = acts.lock().expect("a lock").len();
    for at in 0..acts {
        for failing in [Failing::One(at, EIO), Failing::From(at, EIO), Failing::From(at, ENOSPC)] {
            let (dir, (observer, seen)) = (directory(&files), counting(failing));
            let first = options().open_observed(dir.path(), Some(observer)).map(|wal| wal.positions().last);
            let act = seen.lock().expect("a lock")[at].clone();
            assert!(first.is_err() || first.is_ok_and(|last| last == 40), "{failing:?}, {act}");
            let wal = options().open(dir.path()).unwrap_or_else(|e| panic!("{failing:?}, {act}: {e}"));
            assert_eq!(numbers(&wal), seqs(1..=40), "{failing:?}, {act}");
        }
    }
}

/// After a sync that failed, the system takes pages for clean that the device does not have: only what is written again
/// reaches it.
#[test]
fn recovery_writes_again_what_was_not_durable() {
    let dir = scratch();
    let wal = options().sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    fill(&wal, 4);
    wal.sync().expect("a sync");
    // Attempts seal nothing: to the manifest the first segment is the active one, and the second a spare.
    for seq in 5..=PER_SEGMENT + 2 {
        assert_eq!(wal.try_append(&body(seq)).expect("an attempt"), Some(seq));
    }
    let (copy, written) = (directory(&files_of(dir.path())), Arc::new(Mutex::new(Vec::new())));
    let writes = Arc::clone(&written);
    let observer = Before::new(true, move |act| {
        if let Act::Write { path, offset, len } = act {
            writes.lock().expect("the writes").push((path.to_path_buf(), *offset..*offset + *len));
        }
        Ok(())
    });
    let again = options().open_observed(copy.path(), Some(observer)).expect("the log");
    assert_eq!(numbers(&again), seqs(1..=PER_SEGMENT + 2));
    let written = std::mem::take(&mut *written.lock().expect("the writes"));
    for (ordinal, not_durable) in [(1, frame_at(4)..frame_at(PER_SEGMENT)), (2, frame_at(0)..frame_at(2))] {
        let path = copy.path().join(segment(ordinal));
        let covers = |range: &std::ops::Range<u64>| range.start <= not_durable.start && range.end >= not_durable.end;
        assert!(written.iter().any(|(to, range)| *to == path && covers(range)), "{ordinal}: {written:?}");
    }
}

/// A page that was dropped between two looks may come back from the device as it was before.
#[test]
fn bytes_that_change_during_a_recovery_are_refused() {
    let files = killed(40, 4);
    // A record that is durable, and one that is not.
    for index in [1, 7] {
        let dir = directory(&files);
        let at = frame_at(index) + 30;
        let before = files[&segment(3)][at as usize];
        let path = dir.path().join(segment(3));
        let put = {
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the segment");
            move |byte| std::os::unix::fs::FileExt::write_all_at(&file, &[byte], at).expect("a write")
        };
        let put = Arc::new(put);
        let (change, changed) = (Arc::clone(&put), AtomicBool::new(false));
        // The first bytes of a segment are written when all of it was looked at.
        let observer = Before::new(true, move |act| {
            if matches!(act, Act::Write { path, .. } if is_segment(path)) && !changed.swap(true, Ordering::SeqCst) {
                change(before ^ 0x40);
            }
            Ok(())
        });
        match options().open_observed(dir.path(), Some(observer)) {
            Err(e @ Error::Io(_)) => assert!(e.to_string().contains("changed while they were read"), "{e}"),
            other => panic!("{index}: {other:?}"),
        }
        put(before);
        assert_eq!(numbers(&options().open(dir.path()).expect("the log")), seqs(1..=40), "{index}");
    }
}

// ---- what an open refuses ----

#[test]
fn one_writer_at_a_time_and_its_end_frees_the_lock() {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 20);
    for _ in 0..3 {
        match options().open(dir.path()) {
            Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }
    let view = wal.snapshot();
    let reader = Reader::open(dir.path()).expect("a reader beside the writer");
    let read = reader.snapshot().expect("a view");
    wal.close().expect("a close");
    let next = options().open(dir.path()).expect("views and readers hold no writer's lock");
    fill(&next, 20);
    assert_eq!((all(&view).len(), all(&read).len()), (20, 20));
    drop(next);
    drop(options().open(dir.path()).expect("dropping frees it too"));
}

/// Nothing may be written to the log: an observer that panics when it is.
fn read_only() -> Arc<dyn Observer> {
    Before::new(true, |act| {
        let writes = match act {
            Act::Write { path, .. } => !path.ends_with("LOCK"),
            Act::Create(_) | Act::Allocate { .. } | Act::SyncRange { .. } | Act::SyncFile(_) => true,
            Act::SyncDir(_) | Act::Rename { .. } | Act::Remove(_) | Act::MakeDir(_) => true,
            _ => false,
        };
        assert!(!writes, "{act:?}");
        Ok(())
    })
}

/// Opens `dir` twice, with an observer and without, and expects the same refusal and unchanged files.
fn refused(options: &Options, dir: &Path) -> Error {
    let before = log_files_of(dir);
    let error = options.open_observed(dir, Some(read_only())).expect_err("a refusal");
    assert!(log_files_of(dir) == before, "a refusal wrote");
    error
}

#[test]
fn strict_refuses_a_torn_end_and_writes_nothing() {
    let mut files = killed(5, 1);
    files.get_mut(&segment(1)).expect("the segment")[frame_at(4) as usize + 100] ^= 1;
    let dir = directory(&files);
    for _ in 0..2 {
        match refused(&options().strict(true), dir.path()) {
            Error::TornTail(damage) => {
                assert_eq!((damage.segment, damage.offset, damage.expected_seq), (1, frame_at(4), 5));
            }
            other => panic!("{other:?}"),
        }
    }
    let wal = options().open(dir.path()).expect("the log");
    assert_eq!((numbers(&wal), wal.recovery().tail), (seqs(1..=4), TailState::Torn));
    drop(wal);
    options().strict(true).open(dir.path()).expect("nothing is torn any more");
}

#[test]
fn a_refused_open_writes_nothing() {
    let files = killed(40, 0);
    let refuse = |change: fn(&mut Files), options: &Options| {
        let mut files = files.clone();
        change(&mut files);
        refused(options, directory(&files).path())
    };
    assert!(matches!(refuse(|files| flip(files, 3, 8200), &options()), Error::Corrupt(_)));
    assert!(matches!(refuse(|files| drop(files.remove(&segment(2))), &options()), Error::MissingSegment(_)));
    assert!(matches!(
        refuse(|files| files.get_mut(&segment(4)).expect("the spare").truncate(8192), &options()),
        Error::MissingSegment(_)
    ));
    assert!(matches!(refuse(|_| {}, &options().user_tag([1; 16])), Error::Foreign(_)));
    assert!(matches!(
        refuse(|files| files.get_mut("MANIFEST").expect("it").fill(0), &options()),
        Error::NoManifest { .. }
    ));
    let other = killed(3, 0);
    let dir = {
        let mut files = files.clone();
        files.insert(segment(3), other[&segment(1)].clone());
        directory(&files)
    };
    assert!(matches!(refused(&options(), dir.path()), Error::Foreign(_)));
}

#[test]
fn segments_without_their_manifest_are_not_taken_for_a_new_log() {
    for count in [1, 40] {
        let mut files = killed(count, 0);
        files.remove("MANIFEST");
        assert!(matches!(refused(&options(), directory(&files).path()), Error::NoManifest { .. }), "{count}");
    }
}

/// Puts something that is no regular file where `name` stood.
fn replace(dir: &Path, name: &str, kind: &str) {
    let path = dir.join(name);
    match kind {
        "link" => {
            let elsewhere = dir.join(format!("real {name}"));
            std::fs::rename(&path, &elsewhere).expect("a rename");
            symlink(&elsewhere, &path).expect("a link");
        }
        "directory" => {
            std::fs::remove_file(&path).expect("a removal");
            std::fs::create_dir(&path).expect("a directory");
        }
        "socket" => {
            std::fs::remove_file(&path).expect("a removal");
            drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        }
        _ => {
            std::fs::remove_file(&path).expect("a removal");
            make_pipe(&path);
        }
    }
}

#[cfg(target_os = "linux")]
const KINDS: [&str; 4] = ["link", "directory", "socket", "pipe"];
#[cfg(not(target_os = "linux"))]
const KINDS: [&str; 3] = ["link", "directory", "socket"];

/// By a call and not by a command: a child would inherit the locks of the tests beside this one for a moment.
#[cfg(target_os = "linux")]
fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
}

#[cfg(not(target_os = "linux"))]
fn make_pipe(_path: &Path) {}

#[test]
fn what_is_no_regular_file_is_refused_and_neither_followed_nor_waited_for() {
    let files = killed(40, 0);
    for name in ["MANIFEST", "LOCK", "READERS", &segment(1), &segment(3), &segment(4)] {
        for kind in KINDS {
            let dir = directory(&files);
            replace(dir.path(), name, kind);
            let path = dir.path().to_owned();
            let (written, read) = within(Duration::from_secs(60), move || {
                (options().open(&path).map(drop), Reader::open(&path).and_then(|reader| reader.snapshot()).map(drop))
            });
            let is_named = |e: &Error| e.to_string().contains(name);
            match &written {
                Err(e @ (Error::Io(_) | Error::MissingSegment(_))) if is_named(e) => {}
                other => panic!("{kind} for {name}: {other:?}"),
            }
            match &read {
                // A reader does not look at the writer's lock.
                Ok(()) if name == "LOCK" => {}
                Err(e @ (Error::Io(_) | Error::MissingSegment(_))) if is_named(e) => {}
                other => panic!("{kind} for {name}: {other:?}"),
            }
        }
    }
}

#[test]
fn other_names_are_ignored_and_left_alone() {
    let names = [
        "notes.txt",
        "7.wal",
        "00000000000000000001.wal.bak",
        "+0000000000000000009.wal",
        "0000000000000000000a.wal",
        "99999999999999999999.wal",
        "manifest",
        "MANIFEST.old",
    ];
    let dir = scratch();
    let strangers = || {
        assert_eq!(std::fs::read(dir.path().join("lost+found/x")).expect("it is there"), b"x");
        names.iter().for_each(|name| assert_eq!(std::fs::read(dir.path().join(name)).expect(name), b"mine"));
    };
    std::fs::create_dir(dir.path().join("lost+found")).expect("a directory");
    std::fs::write(dir.path().join("lost+found/x"), b"x").expect("a file");
    names.iter().for_each(|name| std::fs::write(dir.path().join(name), b"mine").expect("a file"));
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 40);
    wal.truncate_front(20).expect("a truncation");
    drop(wal);
    strangers();
    assert_eq!(numbers(&options().open(dir.path()).expect("the log")), seqs(21..=40));
    assert_eq!(all(&Reader::open(dir.path()).expect("a reader").snapshot().expect("a view")).len(), 20);
    strangers();
}

/// A leftover with the largest number that a name can carry must not use the numbers up.
#[test]
fn a_leftover_with_a_huge_number_harms_nobody() {
    for ordinal in [9, u64::MAX >> 2, (u64::MAX >> 1) - 1, u64::MAX >> 1, (u64::MAX >> 1) + 1, u64::MAX] {
        for is_dir in [false, true] {
            let dir = directory(&killed(20, 0));
            let stranger = dir.path().join(segment(ordinal));
            if is_dir {
                std::fs::create_dir(&stranger).expect("a directory");
            } else {
                std::fs::write(&stranger, b"left over").expect("a file");
            }
            let wal = options().open(dir.path()).expect("the log");
            fill(&wal, 60);
            drop(wal);
            let wal = options().open(dir.path()).unwrap_or_else(|e| panic!("{ordinal}: {e}"));
            assert_eq!(numbers(&wal), seqs(1..=80), "{ordinal}");
        }
    }
}

/// Whoever crafts a manifest can put any number at the end of its range; what is written must still be a log.
#[test]
fn a_number_at_the_end_of_its_range_ends_in_an_error_and_never_in_a_manifest_that_does_not_verify() {
    use reference::build::{Entry, Manifest, Segment, directory as built};
    const LAST: u64 = u64::MAX >> 1;
    let log = |generation: u64, ordinal: u64, base: u64| {
        let (active, spare) = (Entry { ordinal, ..Entry::active(2, base) }, Entry::spare(1));
        let segments = [Segment::of(&active).begin(base), Segment::of(&spare)];
        built(&Manifest { generation, ..Manifest::of(&[active, spare]) }, &segments)
    };
    for files in [log(LAST, 2, 1), log(LAST - 2, 2, 1), log(1, LAST, 1), log(1, 2, LAST), log(1, 2, LAST - 3)] {
        let dir = directory(&files);
        let mut last = reference::parse(&files).last_seq;
        for _ in 0..3 {
            if let Ok(wal) = options().open(dir.path()) {
                for _ in 0..40 {
                    match wal.append(&body(1)) {
                        Ok(seq) => last = seq,
                        Err(_) => break,
                    }
                }
            }
            let parsed = reference::parse_dir(dir.path());
            assert!(matches!(parsed.verdict, reference::Verdict::Ok { .. }), "{:?}", parsed.verdict);
            assert_eq!(parsed.last_seq, last);
        }
    }
}

#[test]
fn each_wrong_option_is_refused_by_name_and_makes_nothing() {
    let dir = scratch();
    let wrong = [
        ("segment_size", Options::new().segment_size((12 << 10) - 1)),
        ("segment_size", Options::new().segment_size((16 << 30) + 1)),
        ("spare_segments", Options::new().spare_segments(0)),
        ("spare_segments", Options::new().spare_segments(65)),
        ("file_mode", Options::new().file_mode(0o200)),
        ("file_mode", Options::new().file_mode(0o400)),
        ("file_mode", Options::new().file_mode(0o1600)),
        ("sync_mode", Options::new().sync_mode(SyncMode::batch(0))),
        ("sync_mode", Options::new().sync_mode(SyncMode::Batch { records: 1, delay: Duration::ZERO })),
    ];
    for (name, options) in wrong {
        match options.open(dir.path().join("log")) {
            Err(Error::InvalidOptions(invalid)) => assert_eq!(invalid.field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0);
}

#[test]
fn a_directory_that_cannot_be_read_is_an_error_that_names_it() {
    let dir = scratch();
    let file: PathBuf = dir.path().join("file");
    std::fs::write(&file, b"").expect("a file");
    for path in [file.clone(), file.join("below")] {
        match options().open(&path) {
            Err(e @ Error::Io(_)) => assert!(e.to_string().contains("file"), "{e}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(Reader::open(&path), Err(Error::Io(_))));
    }
    let log = directory(&killed(3, 0));
    let denied: Arc<dyn Observer> = Before::new(true, |act| match act {
        Act::List(_) => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    match options().open_observed(log.path(), Some(denied)) {
        Err(e @ Error::Io(_)) => assert!(e.to_string().contains(&log.path().display().to_string()), "{e}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_lock_files_are_made_again() {
    for names in [&["LOCK"][..], &["READERS"], &["LOCK", "READERS"]] {
        let mut files = killed(20, 0);
        names.iter().for_each(|name| drop(files.remove(*name)));
        let dir = directory(&files);
        let read = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a view");
        assert_eq!(all(&read).len(), 20);
        let wal = options().open(dir.path()).expect("the log");
        assert!(matches!(options().open(dir.path()), Err(Error::Locked { .. })));
        assert_eq!(numbers(&wal), seqs(1..=20));
        names.iter().for_each(|name| assert!(dir.path().join(name).exists()));
    }
}

#[test]
fn a_refusal_names_the_file_and_what_to_do() {
    let files = killed(40, 0);
    let (mut damaged, mut without) = (files.clone(), files);
    flip(&mut damaged, 3, 8200);
    without.remove(&segment(2));
    for files in [damaged, without] {
        let sentence = options().open(directory(&files).path()).expect_err("a refusal").to_string();
        let advice = ["restore the file from a copy", "repair"];
        assert!(sentence.contains(".wal") && advice.iter().all(|advice| sentence.contains(advice)), "{sentence}");
    }
}

/// A process that is being started has every open file for a moment, the lock's among them.
#[test]
fn an_open_that_fails_leaves_no_lock_behind_in_a_process_that_is_being_started() {
    let dir = scratch();
    drop(options().user_tag([1; 16]).open(dir.path()).expect("a new log"));
    let over = AtomicBool::new(false);
    let locked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(std::process::Command::new("true").status().expect("a process").success());
            }
        });
        let outcomes = (0..300).map(|_| options().user_tag([2; 16]).open(dir.path()));
        let locked = outcomes.filter(|outcome| !matches!(outcome, Err(Error::Foreign(_)))).count();
        over.store(true, Ordering::Relaxed);
        locked
    });
    assert_eq!(locked, 0, "nobody else has the log");
}
