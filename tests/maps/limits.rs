//! The limits of a handle and of the system, and snapshots whose segments are truncated before they are mapped.

use std::path::Path;

use super::*;
use mmap_wal::{Background, Cursor, MapLimit, ReaderOptions, Snapshot, SyncMode, Wal};

pub fn child(role: &str, log: &Path, count: u64) {
    let snapshot = Reader::open(log).expect("a reader").snapshot().expect("a snapshot");
    match role {
        "cursor" => {
            let mut most = 0;
            let seen = walked(snapshot.cursor(0).expect("a cursor"), |seq| {
                if seq.is_multiple_of(1000) || seq == count {
                    most = most.max(maps_of(log));
                }
            });
            assert_eq!(seen, count);
            assert!((1..=FEW).contains(&most), "{most} maps");
            assert_eq!(walked(snapshot.cursor(count - 1).expect("a cursor"), |_| {}), count);
            let owned = snapshot.clone().into_replay(0).expect("a replay");
            assert_eq!(
                owned.fold(0, |seq, record| seq + u64::from(record.expect("a record").payload() == body(seq + 1))),
                count
            );
            assert!((1..=FEW).contains(&maps_of(log)), "{} maps", maps_of(log));
        }
        "replay" => {
            let limit = map_limit(snapshot.replay(0).expect("a replay").find_map(Result::err));
            assert!(limit.by_system && limit.max_map_count.is_some(), "{limit:?}");
            assert!(limit.held > 2 && limit.held < count as usize, "{limit:?}");
            let sentence = limit.to_string();
            assert!(sentence.contains("max_maps") && sentence.contains("vm.max_map_count"), "{sentence}");
            assert!(sentence.contains("ulimit -v"), "{sentence}");
            map_limit(snapshot.map_all().err());
            // What was mapped can be read, and there is memory for the work of others.
            assert_eq!(snapshot.get(1).expect("no damage").map(|record| record.seq()), Some(1));
            assert_eq!(vec![1_u8; 4 << 20].len(), 4 << 20);
            drop(snapshot);
            assert_eq!(maps_of(log), 0);
            let snapshot = Reader::open(log).expect("a reader").snapshot().expect("a snapshot");
            assert_eq!(walked(snapshot.cursor(0).expect("a cursor"), |_| {}), count);
        }
        other => panic!("{other}"),
    }
}

/// Compares what is left of `cursor`; returns its last record.
fn walked(mut cursor: Cursor, mut at: impl FnMut(u64)) -> u64 {
    let mut seq = cursor.position();
    while let Some(record) = cursor.next().expect("a record") {
        seq += 1;
        assert_eq!((record.seq(), record.payload()), (seq, &body(seq)[..]));
        at(seq);
    }
    assert!(cursor.next().expect("still the end").is_none());
    assert_eq!(cursor.position(), seq);
    seq
}

fn map_limit(e: Option<Error>) -> MapLimit {
    match e {
        Some(Error::MapLimit(limit)) => *limit,
        other => panic!("{other:?}"),
    }
}

/// A log of sealed segments with one record each.
fn log(count: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    let log = dir.path().join("log");
    make(&log, count, CAPACITY);
    (dir, log)
}

fn options() -> Options {
    let options = Options::new().segment_size(CAPACITY as u64).sync_mode(SyncMode::None);
    options.background(Background::Caller)
}

/// Appends records with the bytes of their numbers, one for each segment, up to `last`.
fn append_to(wal: &Wal, last: u64) {
    for seq in wal.positions().last + 1..=last {
        let mut payload = seq.to_le_bytes().to_vec();
        payload.resize(CAPACITY - 8192 - 24, 0);
        assert_eq!(wal.append(&payload).expect("an append"), seq);
    }
}

fn is_whole(snapshot: &Snapshot, first: u64, last: u64) {
    let mut cursor = snapshot.cursor(first - 1).expect("a cursor");
    for seq in first..=last {
        let record = cursor.next().expect("no damage").expect("a record");
        assert_eq!((record.seq(), &record.payload()[..8]), (seq, &seq.to_le_bytes()[..]));
    }
    assert!(cursor.next().expect("no damage").is_none());
}

fn segment_files(dir: &Path) -> usize {
    fixture::files_of(dir).into_keys().filter(|name| name.ends_with(".wal")).count()
}

#[test]
fn a_reader_maps_as_many_segments_as_its_option_says() {
    let (_dir, log) = log(20);
    let reader = ReaderOptions::new().max_maps(5).open(&log).expect("a reader");
    let snapshot = reader.snapshot().expect("a snapshot");
    let limit = map_limit(snapshot.replay(0).expect("a replay").find_map(Result::err));
    // One is of the segment that is not sealed.
    assert_eq!((limit.held, limit.max_maps, limit.by_system), (5, 5, false));
    assert!(limit.path.ends_with(fixture::segment(5)), "{limit:?}");
    let sentence = Error::MapLimit(Box::new(limit)).to_string();
    assert!(sentence.contains("may hold 5 (max_maps") && sentence.contains(&max_map_count().to_string()), "{sentence}");
    assert_eq!(maps_of(&log), 5);
    // The limit is of all snapshots together, and what was mapped stays.
    map_limit(reader.snapshot().err());
    assert_eq!(snapshot.replay(0).expect("a replay").filter(Result::is_ok).count(), 4);
    drop(snapshot);
    assert_eq!(maps_of(&log), 0);
    let reader = ReaderOptions::new().max_maps(2).open(&log).expect("a reader");
    assert_eq!(walked(reader.snapshot().expect("a snapshot").cursor(0).expect("a cursor"), |_| {}), 20);
    assert!(matches!(ReaderOptions::new().max_maps(1).open(&log), Err(Error::InvalidOptions(_))));
}

#[test]
fn a_pinned_record_keeps_the_map_of_its_own_segment_alone() {
    let (_dir, log) = log(20);
    let reader = ReaderOptions::new().max_maps(8).open(&log).expect("a reader");
    let snapshot = reader.snapshot().expect("a snapshot");
    let mut pinned = Vec::new();
    let mut records = snapshot.clone().into_replay(0).expect("a replay");
    let limit = map_limit(loop {
        match records.next().expect("more records") {
            Ok(record) => pinned.push(record),
            Err(e) => break Some(e),
        }
    });
    assert_eq!((pinned.len(), limit.held), (7, 8));
    drop((records, snapshot));
    assert_eq!(maps_of(&log), 7);
    pinned.truncate(1);
    assert_eq!(maps_of(&log), 1);
    assert_eq!(pinned[0].payload(), body(1));
    // One of a view that has mapped everything.
    let snapshot = reader.snapshot().expect("a snapshot");
    let pin = snapshot.replay(4).expect("a replay").next().expect("a record").expect("no damage").pin();
    drop((snapshot, reader, pinned));
    assert_eq!(maps_of(&log), 1);
    assert_eq!((pin.seq(), pin.payload()), (5, &body(5)[..]));
}

#[test]
fn a_pinned_record_keeps_its_file_from_being_recycled() {
    let dir = scratch();
    let wal = options().spare_segments(2).open(dir.path()).expect("a new log");
    append_to(&wal, 3);
    let pinned = wal.snapshot().replay(0).expect("a replay").next().expect("a record").expect("no damage").pin();
    wal.truncate_front(3).expect("a truncation");
    append_to(&wal, 20);
    wal.truncate_front(18).expect("a truncation");
    append_to(&wal, 30);
    assert!(wal.stats().recycled > 0, "{:?}", wal.stats());
    assert_eq!(&pinned.payload()[..8], &1_u64.to_le_bytes());
}

#[test]
fn a_writer_gives_up_the_maps_of_segments_that_it_has_left() {
    let dir = scratch();
    let wal = options().max_maps(4).open(dir.path()).expect("a new log");
    append_to(&wal, 40);
    // Two idle ones; the active one, a spare, and the one before until it is sealed.
    assert!(maps_of(dir.path()) <= 5, "{} maps", maps_of(dir.path()));
    let snapshot = wal.snapshot();
    let limit = map_limit(snapshot.replay(0).expect("a replay").find_map(Result::err));
    assert_eq!((limit.held, limit.max_maps, limit.by_system), (4, 4, false));
    append_to(&wal, 50);
    // What is appended to is not counted.
    is_whole(&wal.snapshot(), 50, 50);
    drop(snapshot);
    is_whole(&wal.snapshot(), 1, 50);
    assert!(wal.snapshot().get(7).expect("no damage").is_some());
}

#[test]
fn what_a_snapshot_of_the_handle_shows_outlives_truncation_with_more_segments_than_maps() {
    let dir = scratch();
    let wal = options().max_maps(4).open(dir.path()).expect("a new log");
    append_to(&wal, 30);
    let snapshot = wal.snapshot();
    wal.truncate_front(25).expect("a truncation");
    assert_eq!(wal.positions().first, 26);
    is_whole(&snapshot, 1, 30);
    assert!(maps_of(dir.path()) <= 4 + 3, "{} maps", maps_of(dir.path()));
    let shown = segment_files(dir.path());
    append_to(&wal, 35);
    is_whole(&snapshot, 1, 30);
    drop(snapshot);
    // Nothing shows them any more.
    wal.maintain().expect("maintenance");
    assert!(segment_files(dir.path()) < shown, "{shown}");
    assert_eq!(segment_files(dir.path()), 35 - 25 + 1);
    // And a cut, and a log that starts anew.
    let snapshot = wal.snapshot();
    wal.truncate_back(28).expect("a cut");
    wal.reset(100).expect("a reset");
    append_to(&wal, 110);
    is_whole(&snapshot, 26, 35);
    wal.close().expect("a close");
    is_whole(&snapshot, 26, 35);
}

#[test]
fn a_segment_that_is_truncated_before_a_reader_has_mapped_it_is_told_as_truncated() {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    append_to(&wal, 20);
    let reader = Reader::open(dir.path()).expect("a reader");
    let [lazy, whole] = [(); 2].map(|()| reader.snapshot().expect("a snapshot"));
    whole.map_all().expect("maps");
    let first = lazy.get(1).expect("no damage").expect("a record");
    let mut cursor = lazy.cursor(0).expect("a cursor");
    assert!(cursor.next().expect("no damage").is_some());
    wal.truncate_front(10).expect("a truncation");
    // What was mapped stays, and what was not is never something else.
    assert_eq!(&first.payload()[..8], &1_u64.to_le_bytes());
    for next in [cursor.next().map(drop), lazy.get(5).map(drop), lazy.replay(5).map(drop), lazy.map_all()] {
        assert!(matches!(next, Err(Error::Truncated { first_seq: 11 })), "{next:?}");
    }
    assert!(cursor.next().expect("it is finished").is_none());
    is_whole(&whole, 1, 20);
    is_whole(&lazy, 11, 20);
    wal.truncate_back(12).expect("a cut");
    assert!(lazy.get(12).expect("no damage").is_some());
    assert!(matches!(lazy.get(18), Err(Error::TruncatedBack { last_seq: 12 })));
    wal.reset(200).expect("a reset");
    append_to(&wal, 210);
    assert!(matches!(lazy.get(16), Err(Error::Truncated { first_seq: 200 })));
    is_whole(&whole, 1, 20);
}

#[test]
fn a_snapshot_of_a_closed_handle_is_told_what_the_next_writer_has_truncated() {
    let dir = scratch();
    let wal = options().max_maps(6).open(dir.path()).expect("a new log");
    append_to(&wal, 20);
    let snapshot = wal.snapshot();
    // Some are mapped, half as many as may be, so that they outlive what the next writer does.
    wal.close().expect("a close");
    let next = options().open(dir.path()).expect("the log");
    next.truncate_front(15).expect("a truncation");
    assert!(snapshot.get(1).expect("it was mapped").is_some());
    assert!(matches!(snapshot.get(12), Err(Error::Truncated { first_seq: 16 })));
    let mut tail = wal.tail(12).expect_err("it is gone");
    assert!(matches!(&mut tail, Error::Truncated { first_seq: 16 }), "{tail}");
}

#[test]
fn another_file_under_the_name_of_a_segment_is_never_shown() {
    let (_dir, log) = log(5);
    let snapshot = Reader::open(&log).expect("a reader").snapshot().expect("a snapshot");
    let (second, third) = (log.join(fixture::segment(2)), log.join(fixture::segment(3)));
    std::fs::remove_file(&second).expect("a removal");
    std::fs::copy(third, &second).expect("a copy");
    assert!(matches!(snapshot.get(2), Err(Error::Corrupt(_))));
    std::fs::remove_file(&second).expect("a removal");
    // The manifest names it, so it is missing and not truncated.
    assert!(matches!(snapshot.get(2), Err(Error::MissingSegment(_))));
    assert!(snapshot.get(3).expect("no damage").is_some());
}
