//! Proves what cutting a log back, resetting it and using dropped files again do to records, numbers, waiters, views and
//! files. Does not prove what a crash in them leaves: that is the simulator's.
#![allow(missing_docs)]

use std::path::Path;

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
