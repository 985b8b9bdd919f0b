//! Proves that a replay backwards shows what a replay forwards does, in the other order, from every record on: over
//! rotations and batches of any length, with an index of any size, from the writing handle and from the files; where it
//! ends and what it refuses; and that damage shows no wrong record, and none of a batch that is not whole.
//! Does not prove how much it looks at, which the tests of the view count. Damaged logs are also read backwards by
//! `flips` and `scars`, and random histories by `model`.
#![allow(missing_docs)]

mod fixture;
mod reference;

use fixture::{FRAMES_AT, Replayed, SMALLEST, compare_backwards, files_of, replayed, scratch, segment, write_files};
use mmap_wal::inspect::Log;
use mmap_wal::{Background, Error, Options, Reader, Snapshot, SyncMode, Wal};
use reference::Files;
use reference::build::{Entry, Manifest, Segment, directory};

fn options(index_memory: usize) -> Options {
    let options = Options::new().background(Background::Caller).sync_mode(SyncMode::None);
    options.segment_size(32 << 10).index_memory(index_memory)
}

fn body(seq: u64) -> Vec<u8> {
    vec![seq as u8; (seq * 7 % 41) as usize]
}

fn append(wal: &Wal, count: u64) {
    let first = wal.positions().last + 1;
    let records: Vec<_> = (first..first + count).map(body).collect();
    let seqs = wal.submit_batch(&records).expect("a batch").wait().expect("durable");
    assert_eq!(seqs.first(), Some(first));
}

/// Single records, short batches, and batches over several blocks and over almost a segment.
fn fill(wal: &Wal) {
    for count in [1, 1, 1, 2, 63, 64, 65, 1, 200, 3, 500, 1, 1, 130, 7].into_iter().chain((0..300).map(|i| i % 5 + 1)) {
        append(wal, count);
    }
}

/// The numbers that are shown backwards from `before` on.
fn back(snapshot: &Snapshot, before: u64) -> Vec<u64> {
    let records = snapshot.replay_back(before).expect("a replay");
    records
        .map(|record| {
            let record = record.expect("a record");
            assert_eq!(record.payload(), body(record.seq()));
            record.seq()
        })
        .collect()
}

#[test]
fn every_record_is_shown_backwards_from_every_record_on() {
    for index_memory in [0, 64, 200, 1 << 20] {
        let dir = scratch();
        let wal = options(index_memory).open(dir.path()).expect("a new log");
        fill(&wal);
        let last = wal.positions().last;
        let reader = Reader::open(dir.path()).expect("a reader");
        wal.truncate_front(10).expect("a truncation");
        for snapshot in [wal.snapshot(), wal.durable_snapshot(), reader.snapshot().expect("a snapshot")] {
            assert!(back(&snapshot, u64::MAX).into_iter().eq((11..=last).rev()));
            for before in (11..=last + 1).step_by(13) {
                assert!(back(&snapshot, before).into_iter().eq((11..before).rev()), "{before}");
            }
        }
    }
}

#[test]
fn a_view_of_a_log_that_was_opened_again_and_goes_on_is_shown_backwards() {
    let dir = scratch();
    for round in 1..5 {
        let wal = options(1 << 20).open(dir.path()).expect("a log");
        let before = wal.snapshot();
        append(&wal, 100);
        append(&wal, 1);
        assert!(back(&before, u64::MAX).into_iter().eq((1..101 * round - 100).rev()));
        assert!(back(&wal.snapshot(), u64::MAX).into_iter().eq((1..=101 * round).rev()));
    }
}

#[test]
fn what_lies_outside_the_log_is_refused_and_what_lies_at_its_ends_is_nothing() {
    let dir = scratch();
    let wal = options(1 << 20).open(dir.path()).expect("a new log");
    let empty = wal.snapshot();
    for before in [0, 1, u64::MAX] {
        assert!(back(&empty, before).is_empty());
    }
    assert!(matches!(empty.replay_back(2).err(), Some(Error::Ahead { last_seq: 0 })));
    fill(&wal);
    let last = wal.positions().last;
    assert!(matches!(wal.snapshot().replay_back(last + 2).err(), Some(Error::Ahead { last_seq }) if last_seq == last));
    wal.truncate_front(200).expect("a truncation");
    let snapshot = wal.snapshot();
    assert!(matches!(snapshot.replay_back(200).err(), Some(Error::Truncated { first_seq: 201 })));
    assert!(back(&snapshot, 201).is_empty() && back(&snapshot, 1).is_empty());
    assert_eq!(back(&snapshot, 203), [202, 201]);
    wal.truncate_front(last).expect("a truncation");
    assert!(back(&wal.snapshot(), u64::MAX).is_empty());
    wal.reset(last + 1000).expect("a reset");
    assert!(back(&wal.snapshot(), last + 1000).is_empty());
}

#[test]
fn an_iterator_that_has_ended_stays_ended() {
    let dir = scratch();
    let wal = options(0).open(dir.path()).expect("a new log");
    append(&wal, 1);
    let snapshot = wal.snapshot();
    let mut replay = snapshot.replay_back(u64::MAX).expect("a replay");
    assert!(replay.next().is_some() && replay.next().is_none() && replay.next().is_none());
}

/// A log of three sealed segments and an active one, closed.
fn sealed() -> Files {
    let dir = scratch();
    let wal = options(1 << 20).segment_size(SMALLEST).open(dir.path()).expect("a new log");
    while wal.stats().rotations < 3 {
        append(&wal, wal.positions().last % 4 + 1);
    }
    drop(wal);
    files_of(dir.path())
}

#[test]
fn damage_ends_what_is_shown_and_shows_nothing_wrong() {
    let made = sealed();
    let dir = scratch();
    write_files(dir.path(), &made);
    let whole = replayed(&Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot"));
    let mut met = 0;
    for at in (FRAMES_AT as usize..SMALLEST as usize).step_by(3) {
        let mut files = made.clone();
        files.get_mut(&segment(2)).expect("a segment")[at] ^= 0x10;
        write_files(dir.path(), &files);
        let snapshot = Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot");
        let forwards = replayed(&snapshot);
        met += u32::from(forwards.error.is_some());
        compare_backwards(&snapshot, &forwards).expect("the same backwards");
        for before in [u64::MAX, forwards.records.last().map_or(1, |record| record.seq + 1)] {
            let mut expected = whole.records.iter().rev().filter(|record| record.seq < before);
            for shown in snapshot.replay_back(before).expect("a replay").map_while(Result::ok) {
                let expected = expected.next().expect("a record");
                assert_eq!((shown.seq(), shown.payload()), (expected.seq, &expected.payload[..]));
            }
        }
    }
    assert!(met > 1000, "{met}");
}

#[test]
fn of_a_batch_that_is_damaged_no_record_is_shown_from_within_or_from_behind() {
    let dir = scratch();
    let wal = options(1 << 20).segment_size(64 << 10).open(dir.path()).expect("a new log");
    append(&wal, 5);
    append(&wal, 300);
    append(&wal, 2);
    // Shown once, so that the index knows of everything.
    let snapshot = wal.snapshot();
    assert_eq!(back(&snapshot, u64::MAX).len(), 307);
    let size = |seq: u64| (24 + body(seq).len() as u64).next_multiple_of(8);
    for seq in [6, 150, 305] {
        let at = FRAMES_AT + (1..seq).map(size).sum::<u64>();
        flip(&dir.path().join(segment(1)), at);
        for (before, shown) in [(u64::MAX, 2), (307, 1), (306, 0), (200, 0), (7, 0)] {
            let found: Vec<_> = snapshot.replay_back(before).expect("a replay").collect();
            // What stands behind the damage in the same block of 64 is not found either.
            assert!(
                found.len() <= shown + 1 && (seq == 305 || before == 7 || found.len() == shown + 1),
                "{seq} {before}"
            );
            assert!(matches!(found.last(), Some(Err(Error::Corrupt(_)))), "{seq} {before}");
            assert!(found.iter().rev().skip(1).all(|record| record.is_ok()));
        }
        assert_eq!(back(&snapshot, 6), [5, 4, 3, 2, 1]);
        flip(&dir.path().join(segment(1)), at);
    }
}

fn flip(file: &std::path::Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).expect("the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a write");
}

#[test]
fn a_segment_that_does_not_end_as_the_manifest_says_is_damaged_from_either_side() {
    // Three frames of 40 bytes, and a manifest that knows of one less, or of one more than there are.
    for (end, last_seq) in [(120, 2), (120, 4), (80, 3)] {
        let entries = [Entry::sealed(1, 1, FRAMES_AT + end, last_seq), Entry::active(2, last_seq + 1), Entry::spare(3)];
        let first = (1..=3).fold(Segment::of(&entries[0]), |made, seq| made.append(seq, &[7; 16]));
        let second = Segment::of(&entries[1]).begin(last_seq + 1);
        let dir = scratch();
        write_files(dir.path(), &directory(&Manifest::of(&entries), &[first, second, Segment::of(&entries[2])]));
        let snapshot = Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot");
        let forwards = snapshot.replay(0).expect("a replay").find_map(Result::err);
        let backwards = snapshot.replay_back(u64::MAX).expect("a replay").find_map(Result::err);
        for found in [forwards, backwards] {
            assert!(matches!(found, Some(Error::Corrupt(_))), "{end} {last_seq}: {found:?}");
        }
    }
}

#[test]
fn what_a_repair_left_out_is_a_gap_backwards_too() {
    let made = sealed();
    let dir = scratch();
    let mut files = made.clone();
    for byte in &mut files.get_mut(&segment(2)).expect("a segment")[FRAMES_AT as usize + 1000..][..40] {
        *byte ^= 0xff;
    }
    write_files(dir.path(), &files);
    let log = Log::open(dir.path()).expect("a log");
    log.repair(&log.plan_repair().expect("a plan")).expect("a repair");
    let wal = options(1 << 20).segment_size(SMALLEST).open(dir.path()).expect("the log");
    let snapshot = wal.snapshot();
    let forwards = replayed(&snapshot);
    compare_backwards(&snapshot, &forwards).expect("the same backwards");
    let Replayed { gaps, error: None, .. } = forwards else { panic!("{:?}", forwards.error) };
    let [(from, to)] = gaps[..] else { panic!("{gaps:?}") };
    // From within the gap, too.
    for before in from + 1..=to + 1 {
        let mut replay = snapshot.replay_back(before).expect("a replay");
        let gap = replay.next().expect("a gap");
        assert!(matches!(gap, Err(Error::Gap { from: f, to: t }) if (f, t) == (from, before - 1)), "{gap:?}");
        assert!(replay.map(|record| record.expect("a record").seq()).eq((1..from).rev()));
    }
    // What is in front of it is verified, also if it is known where it stands.
    flip(&dir.path().join(segment(1)), FRAMES_AT);
    let found: Vec<_> = snapshot.replay_back(u64::MAX).expect("a replay").collect();
    assert!(matches!(found.last(), Some(Err(Error::Corrupt(damage))) if damage.segment == 1), "{:?}", found.last());
    flip(&dir.path().join(segment(1)), FRAMES_AT);
    // With the front inside the gap, there is nothing in front of what is behind it.
    wal.truncate_front(from).expect("a truncation");
    let snapshot = wal.snapshot();
    compare_backwards(&snapshot, &replayed(&snapshot)).expect("the same backwards");
}
