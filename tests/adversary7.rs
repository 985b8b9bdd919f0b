//! Proves that the ways in which a deliberate attack on what was made faster once broke it stay closed: a replay that
//! passes what an earlier one has verified shows nothing that was never verified, and leaves no record out, whatever has
//! become of the bytes since. And that these attacks are in vain: on what a view shows of a log that was closed, whatever
//! later writers do; on a tail of durable records that stands in what a replay has verified; on threads that wait for each
//! other before a sync, while the log fails elsewhere.
//! Does not prove that there are no other ways. Of a record that a replay of the same handle has verified, and whose bytes
//! have changed since, nothing is proved but that.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fixture::{Before, FRAMES_AT, SMALLEST, is_manifest, scratch, segment};
use mmap_wal::{Act, Background, Error, Options, Reader, Snapshot, SyncMode, Wal};

const HEADER: u64 = 24;
/// Where the length of the payload stands in a frame.
const LEN: u64 = 4;

fn open(dir: &Path) -> Wal {
    let options = Options::new().segment_size(SMALLEST).sync_mode(SyncMode::None).background(Background::Caller);
    options.open(dir).expect("a log")
}

/// The file of the first segment, to be changed behind the log's back.
fn first_segment(dir: &Path) -> File {
    File::options().read(true).write(true).open(dir.join(segment(1))).expect("the segment")
}

fn flip(file: &File, at: u64, bit: u32) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1 << bit], at).expect("a write");
}

/// What a replay shows, and the error that ends it.
fn replay(snapshot: &Snapshot, after: u64) -> (Vec<(u64, Vec<u8>)>, Option<Error>) {
    replay_some(snapshot, after, usize::MAX)
}

/// As far as `most` records.
fn replay_some(snapshot: &Snapshot, after: u64, most: usize) -> (Vec<(u64, Vec<u8>)>, Option<Error>) {
    let (mut shown, mut error) = (Vec::new(), None);
    for next in snapshot.replay(after).expect("a replay").take(most) {
        match next {
            Ok(record) => shown.push((record.seq(), record.payload().to_vec())),
            Err(e) => error = Some(e),
        }
    }
    (shown, error)
}

/// A header as that of a record, by all but its checksum, and the payload behind it.
fn forged(seq: u64, payload: [u8; 8]) -> Vec<u8> {
    let mut bytes = vec![0xcc; 4];
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(seq.to_le_bytes());
    bytes.extend([0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

#[test]
fn behind_what_was_verified_no_forged_record_is_shown_though_the_length_in_front_of_it_has_changed() {
    let dir = scratch();
    let wal = open(dir.path());
    (0..3).for_each(|_| assert!(wal.append(&[7; 40]).is_ok()));
    assert_eq!(replay(&wal.snapshot(), 0).0.len(), 3);
    // With one bit more in its length, the third record ends where this payload looks like the fourth.
    wal.append(&[vec![7; 40], forged(4, *b"forged!!")].concat()).expect("an append");
    flip(&first_segment(dir.path()), FRAMES_AT + 2 * 64 + LEN, 6);
    for after in [0, 2, 3] {
        let (shown, error) = replay(&wal.snapshot(), after);
        assert!(shown.iter().all(|(_, payload)| payload != b"forged!!"), "after {after}: {shown:?}");
        assert!(matches!(error, Some(Error::Corrupt(_))) || after == 3, "after {after}: {shown:?} {error:?}");
    }
}

#[test]
fn a_record_that_the_length_of_the_one_in_front_of_it_covers_by_now_is_not_left_out_in_silence() {
    let dir = scratch();
    let wal = open(dir.path());
    (0..4).for_each(|_| assert!(wal.append(&[7; 40]).is_ok()));
    let file = first_segment(dir.path());
    let is_told = |what: &str| {
        flip(&file, FRAMES_AT + 2 * 64 + LEN, 6);
        let (shown, error) = replay(&wal.snapshot(), 0);
        assert!(matches!(error, Some(Error::Corrupt(_))), "{what}: {} records, {error:?}", shown.len());
        flip(&file, FRAMES_AT + 2 * 64 + LEN, 6);
    };
    assert_eq!(replay(&wal.snapshot(), 0).0.len(), 4);
    is_told("at the end");
    // It goes into the next segment, and in front of it is no gap that somebody left.
    wal.append(&[8; 4000]).expect("an append");
    assert_eq!((wal.stats().rotations, replay(&wal.snapshot(), 0).0.len()), (1, 5));
    is_told("in front of another segment");
}

#[test]
fn whatever_bit_of_a_verified_header_changes_a_replay_comes_to_the_last_record_or_to_an_error() {
    let dir = scratch();
    let wal = open(dir.path());
    let lens = [40, 8, 104, 0, 40, 40];
    wal.append_batch(&lens.map(|len| vec![7; len])[..3]).expect("a batch");
    lens[3..].iter().for_each(|len| assert!(wal.append(&vec![7; *len]).is_ok()));
    assert_eq!(replay(&wal.snapshot(), 0).0.len(), 6);
    // Wherever a longer record would end, there is something like the next one.
    let late = [vec![7; 8], forged(7, *b"forged!!").repeat(20)].concat();
    wal.append(&late).expect("an append");
    wal.append(b"last").expect("an append");
    let (file, snapshot) = (first_segment(dir.path()), wal.snapshot());
    let mut at = FRAMES_AT;
    let (mut whole, mut ended) = (0, 0);
    for len in lens {
        for bit in 0..HEADER * 8 {
            let flipped = |file: &File| flip(file, at + bit / 8, (bit % 8) as u32);
            flipped(&file);
            // Not to the end: what is behind the six is not to be verified once and for all.
            let (shown, error) = replay_some(&snapshot, 0, 8);
            flipped(&file);
            assert!(shown.iter().zip(1..).all(|((seq, _), expected)| *seq == expected), "{at} {bit}");
            assert!(shown.get(6).is_none_or(|(_, payload)| *payload == late), "{at} {bit}");
            match error {
                Some(Error::Corrupt(_)) => ended += 1,
                Some(e) => panic!("{at} {bit}: {e}"),
                None => whole += 1,
            }
            assert!(error.is_some() || shown.len() == 8, "{at} {bit}: {} records and no error", shown.len());
        }
        at += (HEADER + len as u64).next_multiple_of(8);
    }
    // The checksum, the claim and the tag are not looked at again; the number and the rest of the flags always are.
    assert!(whole > 0 && ended > 6 * 64, "{whole} {ended}");
}

#[test]
fn a_tail_of_durable_records_that_stands_in_what_was_verified_shows_no_more_than_what_is_durable() {
    let dir = scratch();
    let wal = open(dir.path());
    wal.append_batch(&["one", "two", "three"]).expect("a batch");
    drop(wal.submit_batch(&["four", "five"]).expect("a batch"));
    assert_eq!(replay(&wal.snapshot(), 0).0.len(), 5);
    for after in 0..3 {
        let mut tail = wal.tail(after).expect("a tail").durable_only(true);
        let shown: Vec<u64> = tail.available().expect("records").map(|record| record.expect("one").seq()).collect();
        assert_eq!(shown, (after + 1..=3).collect::<Vec<_>>());
        assert!(tail.try_next().expect("no damage").is_none());
    }
    let mut tail = wal.tail(1).expect("a tail").durable_only(true);
    wal.sync().expect("a sync");
    let shown: Vec<u64> = tail.available().expect("records").map(|record| record.expect("one").seq()).collect();
    assert_eq!(shown, [2, 3, 4, 5]);
}

/// The record `seq` of the writer number `life`.
fn body(seq: u64, life: u64) -> Vec<u8> {
    let mut bytes = [seq.to_le_bytes(), life.to_le_bytes()].concat();
    bytes.resize(16 + (seq * 37 + life * 101) as usize % 150, seq as u8);
    bytes
}

#[test]
fn what_is_shown_of_a_closed_log_stays_whatever_later_writers_do() {
    let dir = scratch();
    let append = |wal: &Wal, count: u64, life: u64| {
        (0..count).for_each(|_| assert!(wal.append(&body(wal.positions().last + 1, life)).is_ok()));
    };
    let wal = open(dir.path());
    append(&wal, 20, 0);
    wal.close().expect("a close");
    let reader = Reader::open(dir.path()).expect("a reader");
    let snapshots: Vec<Snapshot> = (1..=12)
        .map(|life| {
            let snapshot = reader.snapshot().expect("a closed log");
            snapshot.map_all().expect("maps of what goes");
            let wal = open(dir.path());
            append(&wal, 1 + life * 7 % 60, life);
            let last = wal.positions().last;
            match life % 4 {
                0 => wal.reset(last + 10).expect("a reset"),
                1 => wal.truncate_back(last - last.min(life + 3)).expect("a cut"),
                2 => wal.truncate_front(u64::MAX).expect("a truncation"),
                _ => wal.truncate_back(wal.positions().first - 1).expect("a cut"),
            }
            // As much as comes to all files that could be used again.
            append(&wal, 120, life);
            wal.close().expect("a close");
            snapshot
        })
        .collect();
    for (i, snapshot) in snapshots.iter().enumerate() {
        let (shown, error) = replay(snapshot, 0);
        assert!(error.is_none(), "{i}: {error:?}");
        assert_eq!(shown.last().map(|(seq, _)| *seq), Some(snapshot.last_seq()), "{i}");
        for (seq, payload) in shown {
            let life = u64::from_le_bytes(payload[8..16].try_into().expect("eight bytes"));
            assert!(life <= i as u64 && payload == body(seq, life), "{i}: {seq} of {life}");
        }
    }
}

#[test]
fn threads_that_wait_for_each_other_are_told_of_a_failure_elsewhere_and_lose_nothing() {
    const THREADS: u64 = 6;
    for fails_at in 1..=6 {
        let dir = scratch();
        let writes = AtomicU64::new(0);
        // Nobody's sync: what fails is the manifest, while a rotated segment is sealed.
        let observer = Before::new(false, move |act: &Act<'_>| match act {
            // As long as a disk takes: where a sync is short, nobody waits for others.
            Act::SyncRange { .. } => {
                std::thread::sleep(Duration::from_micros(200));
                Ok(())
            }
            Act::Write { path, .. } if is_manifest(path) && writes.fetch_add(1, Ordering::SeqCst) + 1 == fails_at => {
                Err(io::Error::other("an error that the test injected"))
            }
            _ => Ok(()),
        });
        let wal = Options::new().segment_size(SMALLEST).open_observed(dir.path(), Some(observer.clone()));
        let wal = wal.expect("a log");
        observer.arm(true);
        let acknowledged = std::thread::scope(|scope| {
            let appender = |thread: u64| {
                let wal = &wal;
                move || {
                    let mut seqs = Vec::new();
                    loop {
                        match wal.append(&body(thread, 7)) {
                            Ok(seq) => seqs.push((seq, thread)),
                            Err(Error::Poisoned(_)) => return seqs,
                            Err(e) => panic!("{e}"),
                        }
                    }
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(appender(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("an end")).collect::<Vec<_>>()
        });
        assert!(matches!(wal.close(), Err(Error::Poisoned(_))));
        drop(wal);
        let wal = Options::new().open(dir.path()).expect("the log");
        let snapshot = wal.snapshot();
        for (seq, thread) in acknowledged {
            let record = snapshot.get(seq).expect("no damage").expect("what was acknowledged");
            assert_eq!(record.payload(), body(thread, 7), "{seq}");
        }
    }
}
