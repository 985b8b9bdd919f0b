//! Proves what cutting a log back, resetting it and using dropped files again do to records, numbers, waiters, views and
//! files. Does not prove what a crash in them leaves: that is the simulator's.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

use mmap_wal::inspect::Log;
use mmap_wal::{Background, Error, Options, Reader, Snapshot, SyncMode, TailState, Wal};

fn small() -> Options {
    Options::new().segment_size(12 << 10).sync_mode(SyncMode::None).background(Background::Caller)
}

fn body(seq: u64, life: u64) -> Vec<u8> {
    format!("record {seq} of life {life} ").repeat(8).into_bytes()
}

fn fill(wal: &Wal, seqs: std::ops::RangeInclusive<u64>, life: u64) {
    for seq in seqs {
        assert_eq!(wal.append(&body(seq, life)).expect("an append"), seq);
    }
}

fn shown(snapshot: &Snapshot) -> Vec<(u64, Vec<u8>)> {
    let replay = snapshot.replay(0).expect("a replay");
    replay.map(|record| record.map(|r| (r.seq(), r.payload().to_vec())).expect("a record")).collect()
}

fn records(seqs: std::ops::RangeInclusive<u64>, life: u64) -> Vec<(u64, Vec<u8>)> {
    seqs.map(|seq| (seq, body(seq, life))).collect()
}

/// A copy of the files as a killed process would leave them.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(dir).expect("the directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    copy
}

#[test]
fn a_cut_keeps_exactly_what_is_before_it_and_its_numbers_are_given_again() {
    for after in [0, 1, 17, 18, 40, 99, 100] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().open(dir.path()).expect("a new log");
        fill(&wal, 1..=100, 1);
        let before = wal.snapshot();
        wal.checkpoint(60).expect("a checkpoint");
        wal.truncate_back(after).expect("a cut");
        assert_eq!((wal.positions().last, wal.positions().durable), (after, after));
        assert_eq!(wal.positions().checkpoint, after.min(60));
        assert_eq!(shown(&wal.snapshot()), records(1..=after, 1));
        fill(&wal, after + 1..=after + 50, 2);
        let expected = [records(1..=after, 1), records(after + 1..=after + 50, 2)].concat();
        assert_eq!(shown(&wal.snapshot()), expected);
        assert_eq!(shown(&before), records(1..=100, 1), "a view keeps what it shows");
        assert_eq!(shown(&Reader::open(dir.path()).expect("a reader").snapshot().expect("a view")), expected);
        assert_eq!(shown(&small().open(killed(dir.path()).path()).expect("a copy").snapshot()), expected);
        wal.close().expect("a close");
        let wal = small().open(dir.path()).expect("the log");
        assert_eq!(shown(&wal.snapshot()), expected);
        assert_eq!(wal.positions().checkpoint, after.min(60));
    }
}

#[test]
fn a_cut_inside_a_batch_or_out_of_range_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    wal.append_batch(&["a", "b", "c"]).expect("a batch");
    wal.append(b"d").expect("an append");
    assert!(matches!(wal.truncate_back(2), Err(Error::InsideBatch { seq: 2 })));
    assert!(matches!(wal.truncate_back(5), Err(Error::OutOfRange { seq: 5, last_seq: 4 })));
    wal.truncate_front(2).expect("a truncation");
    assert!(matches!(wal.truncate_back(1), Err(Error::Truncated { first_seq: 3 })));
    assert_eq!(wal.positions().last, 4);
    wal.truncate_back(2).expect("a cut of everything that is shown");
    assert_eq!((wal.positions().first, wal.positions().last), (3, 2));
    assert_eq!(wal.append(b"again").expect("an append"), 3);
    assert_eq!(wal.snapshot().replay(2).expect("a replay").count(), 1);
}

#[test]
fn whoever_waits_for_a_record_that_is_cut_is_told_even_when_its_number_is_given_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let kept = wal.submit(b"kept").expect("a record");
    let cut = wal.submit(b"cut").expect("a record");
    wal.truncate_back(1).expect("a cut");
    assert!(!cut.is_durable());
    assert_eq!(wal.append(b"another").expect("an append"), 2);
    wal.sync().expect("a sync");
    assert!(!cut.is_durable());
    assert!(matches!(cut.wait(), Err(Error::TruncatedBack { last_seq: 1 })));
    assert_eq!(kept.wait().expect("durable").last(), Some(1));
}

#[test]
fn a_reset_drops_everything_and_goes_on_at_the_number_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=50, 1);
    assert!(matches!(wal.reset(50), Err(Error::OutOfRange { .. })));
    let lost = wal.submit(b"lost").expect("a record");
    wal.reset(1000).expect("a reset");
    assert!(matches!(lost.wait(), Err(Error::TruncatedBack { .. })));
    let positions = wal.positions();
    assert_eq!((positions.first, positions.last, positions.durable), (1000, 999, 999));
    fill(&wal, 1000..=1100, 2);
    assert_eq!(shown(&wal.snapshot()), records(1000..=1100, 2));
    wal.close().expect("a close");
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!(shown(&wal.snapshot()), records(1000..=1100, 2));
    assert!(matches!(wal.snapshot().replay(60), Err(Error::Truncated { first_seq: 1000 })));
}

#[test]
fn a_dropped_file_is_used_again_and_never_shown_as_its_old_self() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    for round in 0..20 {
        fill(&wal, 1 + round * 30..=30 + round * 30, round);
        wal.truncate_front(round * 30).expect("a truncation");
        assert_eq!(shown(&wal.snapshot()), records(1 + round * 30..=30 + round * 30, round));
        let files = killed(dir.path());
        let copy = small().open(files.path()).expect("a copy");
        assert_ne!(copy.recovery().tail, TailState::Torn);
        assert_eq!(shown(&copy.snapshot()), records(1 + round * 30..=30 + round * 30, round));
    }
    let stats = wal.stats();
    assert!(stats.recycled > 10, "{stats:?}");
}

#[test]
fn a_file_that_anybody_looks_at_is_not_used_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=60, 1);
    let view = wal.snapshot();
    let reader = Reader::open(dir.path()).expect("a reader").snapshot().expect("a view");
    reader.map_all().expect("maps of what goes");
    wal.truncate_front(60).expect("a truncation");
    fill(&wal, 61..=200, 2);
    wal.truncate_front(190).expect("a truncation");
    fill(&wal, 201..=300, 3);
    assert_eq!(wal.stats().recycled, 0, "a reader holds the lock");
    assert_eq!(shown(&view), records(1..=60, 1));
    assert_eq!(shown(&reader), records(1..=60, 1));
    drop(reader);
    wal.truncate_front(290).expect("a truncation");
    fill(&wal, 301..=400, 4);
    assert!(wal.stats().recycled > 0);
    assert_eq!(shown(&view), records(1..=60, 1));
}

fn segment(dir: &Path, ordinal: u64) -> PathBuf {
    dir.join(format!("{ordinal:020}.wal"))
}

/// The segments that the manifest names, in order: the last one is a spare.
fn ordinals(dir: &Path) -> Vec<u64> {
    Log::open(dir).expect("a log").ordinals().expect("its segments")
}

#[test]
fn second_cut_does_not_forget_the_first() {
    for (first, second) in [(5, 15), (9, 3)] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().open(dir.path()).expect("a new log");
        fill(&wal, 1..=9, 1);
        let cut = wal.submit(b"cut").expect("a record");
        assert_eq!(cut.seqs().last(), Some(10));
        wal.truncate_back(first).expect("a cut");
        fill(&wal, first + 1..=20, 2);
        wal.truncate_back(second).expect("another cut");
        fill(&wal, second + 1..=30, 3);
        wal.sync().expect("a sync");
        assert!(!cut.is_durable());
        let kept = first.min(second);
        match cut.wait() {
            Err(Error::TruncatedBack { last_seq }) => assert_eq!(last_seq, kept),
            other => panic!("{other:?}: the record was cut off"),
        }
    }
}

/// The last durable number goes down with a cut: until it has been reached again, it must not vouch for new records.
#[test]
fn window_counts_from_the_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().sync_mode(SyncMode::batch(4)).open(dir.path()).expect("a new log");
    fill(&wal, 1..=50, 1);
    wal.truncate_back(10).expect("a cut");
    fill(&wal, 11..=13, 2);
    assert_eq!(wal.positions().durable, 10);
    fill(&wal, 14..=14, 2);
    assert_eq!(wal.positions().durable, 14);
}

#[test]
fn reset_takes_any_number_above_the_last() {
    const MOST: u64 = (1 << 62) - 1;
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=5, 1);
    for wrong in [0, 1, 5, MOST + 1, u64::MAX] {
        match wal.reset(wrong) {
            Err(Error::OutOfRange { seq, last_seq, .. }) => assert_eq!((seq, last_seq), (wrong, 5)),
            other => panic!("{wrong}: {other:?}"),
        }
    }
    assert_eq!(shown(&wal.snapshot()), records(1..=5, 1));
    wal.reset(6).expect("a reset to what comes next");
    assert_eq!((wal.positions().first, wal.positions().last), (6, 5));
    fill(&wal, 6..=8, 2);
    wal.reset(MOST).expect("a reset to the last number of the range");
    fill(&wal, MOST..=MOST + 30, 3);
    assert!(matches!(wal.reset(MOST + 40), Err(Error::OutOfRange { .. })));
    wal.close().expect("a close");
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!(shown(&wal.snapshot()), records(MOST..=MOST + 30, 3));
}

/// Appends and truncates until a file has been used again; returns the last number.
fn until_recycled(wal: &Wal) -> u64 {
    let before = wal.stats().recycled;
    for _ in 0..1000 {
        let last = wal.positions().last + 1;
        fill(wal, last..=last, 7);
        wal.truncate_front(last - 1).expect("a truncation");
        if wal.stats().recycled > before {
            return last;
        }
    }
    panic!("no file is used again");
}

/// A spare with words of its past would count as written to, and be given up at every open.
#[test]
fn recycled_spare_keeps_no_progress_of_its_past() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=60, 7);
    // What is dropped is marked as cut, too.
    wal.truncate_back(5).expect("a cut");
    for _ in 0..5 {
        until_recycled(&wal);
        let spare = *ordinals(dir.path()).last().expect("a spare");
        let head = std::fs::read(segment(dir.path(), spare)).expect("the spare");
        assert!(head[4096..8192].iter().all(|byte| *byte == 0), "words of an earlier life");
        let copy = killed(dir.path());
        drop(small().open(copy.path()).expect("a copy"));
        assert!(ordinals(copy.path()).contains(&spare), "the spare is as good as new");
    }
}

/// Backups are made of hard links, too.
#[test]
fn hard_linked_file_is_not_recycled() {
    let dir = tempfile::tempdir().expect("a directory");
    let beside = tempfile::tempdir_in(dir.path().parent().expect("a parent")).expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let mut linked = Vec::new();
    for round in 0..8 {
        let last = wal.positions().last;
        fill(&wal, last + 1..=last + 60, 7);
        let named = ordinals(dir.path());
        // The sealed ones.
        for ordinal in &named[..named.len() - 2] {
            let other = beside.path().join(format!("{round}-{ordinal}"));
            std::fs::hard_link(segment(dir.path(), *ordinal), &other).expect("a link");
            linked.push((other.clone(), std::fs::read(other).expect("a segment")));
        }
        wal.truncate_front(last + 60).expect("a truncation");
    }
    assert!(linked.len() > 8);
    assert_eq!(wal.stats().recycled, 0);
    for (path, bytes) in linked {
        assert!(std::fs::read(&path).expect("a link") == bytes, "{} has changed", path.display());
    }
}

/// A segment that was made for one large record is longer than those that are prepared.
#[test]
fn dropped_file_of_another_size_is_not_recycled() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    for round in 0..6 {
        let last = wal.append(&[7; 20_000]).expect("an append");
        fill(&wal, last + 1..=last + 5, round);
        wal.truncate_front(last).expect("a truncation");
        fill(&wal, last + 6..=last + 50, round);
        let copy = killed(dir.path());
        assert_eq!(shown(&small().open(copy.path()).expect("a copy").snapshot()), records(last + 1..=last + 50, round));
    }
}

#[test]
fn view_from_before_a_cut_keeps_its_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    for round in 0..10 {
        let last = wal.positions().last;
        fill(&wal, last + 1..=last + 30, round);
        let view = wal.snapshot();
        // The segment of the cut stays in the log under a new handle, and goes with the truncation.
        wal.truncate_back(last + 10).expect("a cut");
        fill(&wal, last + 11..=last + 60, round + 100);
        wal.truncate_front(last + 59).expect("a truncation");
        fill(&wal, last + 61..=last + 120, round + 200);
        assert!(shown(&view).ends_with(&records(last + 1..=last + 30, round)));
    }
}

/// The lock of a handle must survive an attempt of its own to find out whether others look.
#[test]
fn view_of_a_closed_handle_keeps_its_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    fill(&wal, 1..=60, 1);
    let reader = Reader::open(dir.path()).expect("a reader");
    let other = reader.snapshot().expect("a view");
    // Somebody else looks, so nothing is used again.
    wal.truncate_front(59).expect("a truncation");
    fill(&wal, 61..=120, 1);
    assert_eq!(wal.stats().recycled, 0);
    drop((reader, other));
    let view = wal.snapshot();
    wal.close().expect("a close");
    drop(wal);
    let wal = small().open(dir.path()).expect("the log");
    fill(&wal, 121..=180, 2);
    wal.truncate_front(180).expect("a truncation");
    fill(&wal, 181..=300, 3);
    assert_eq!(wal.stats().recycled, 0, "a view of the earlier handle lives");
    assert_eq!(shown(&view), records(60..=120, 1));
    drop(view);
    until_recycled(&wal);
}
