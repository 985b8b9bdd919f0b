//! Proves that a copy is a log of its own with the records, numbers, tags, batches, gaps and state of the log at one
//! moment, whatever its writer does meanwhile; that after an error, a kill or a loss of power at any step the same copy
//! can be made again, and that until then nobody takes it for a whole one; that a finished copy is brought up to date, or
//! refused and left as it is; and that damage on either side, or a device that does not keep what is written, is an
//! error. What a copy holds is read by the independent parser. Does not prove anything about file systems other than the
//! one it runs on, and a full one only where it may mount it: it says `SKIPPED` then.
#![allow(missing_docs)]

mod fixture;
mod reference;
mod simulator;

#[path = "copy/failures.rs"]
mod failures;
#[path = "copy/live.rs"]
mod live;
#[path = "copy/refusals.rs"]
mod refusals;

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use fixture::{FRAMES_AT, SMALLEST, files_of, scratch, segment, write_files};
use mmap_wal::inspect::{Copied, Log, SegmentRole};
use mmap_wal::{Background, Error, Options, Reader, Result, SyncMode, Wal};
use reference::{Parsed, Tail, Verdict, parse_dir};

/// 24 bytes of header and this are a frame of 256 bytes: 16 fill the smallest segment.
const LEN: usize = 232;
const FRAME: u64 = 256;
const TAG: [u8; 16] = *b"a user's own tag";

fn options() -> Options {
    Options::new().segment_size(SMALLEST).background(Background::Caller).user_tag(TAG)
}

/// A log and the place for its copies.
struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { dir: scratch() }
    }

    /// With a log after `life`, closed.
    fn after(life: impl FnOnce(&Wal)) -> Self {
        let bed = Self::new();
        let wal = bed.wal();
        life(&wal);
        wal.close().expect("a close");
        bed
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn copy_dir(&self) -> PathBuf {
        self.dir.path().join("copy")
    }

    fn wal(&self) -> Wal {
        options().open(self.log()).expect("the log")
    }

    fn copy(&self) -> Result<Copied> {
        copy(&self.log(), &self.copy_dir(), 0)
    }

    /// Copies, and holds the copy against the log.
    fn copied(&self) -> Copied {
        let copied = self.copy().expect("a copy");
        assert_same(&self.log(), &self.copy_dir());
        copied
    }
}

fn copy(log: &Path, to: &Path, after: u64) -> Result<Copied> {
    Log::open(log)?.copy(to, after, |_| {})
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

/// Batches of so many records.
fn batches(wal: &Wal, sizes: &[u64]) {
    for size in sizes {
        let next = wal.positions().last + 1;
        let records: Vec<Vec<u8>> = (next..next + size).map(body).collect();
        wal.append_batch(&records).expect("a batch");
    }
}

/// What a log shows, but for how its end is found.
fn state_of(dir: &Path) -> Parsed {
    let parsed = parse_dir(dir);
    assert!(matches!(parsed.verdict, Verdict::Ok { .. }), "{:?}", parsed.verdict);
    assert_eq!(parsed.sealed_damage, None);
    Parsed { verdict: Verdict::NoLog, ..parsed }
}

fn assert_same(log: &Path, copy: &Path) {
    let (expected, found) = (state_of(log), state_of(copy));
    assert!(found == expected, "{}", difference(&expected, &found));
    assert_finished(copy);
}

fn difference(expected: &Parsed, found: &Parsed) -> String {
    let say = |parsed: &Parsed| {
        let Parsed { first_seq, last_seq, checkpoint_seq, records, batch_ends, gaps, .. } = parsed;
        let (records, batches) = (records.len(), batch_ends.len());
        format!("{first_seq} to {last_seq}, {checkpoint_seq}, {records} records, {batches} batches, gaps {gaps:?}")
    };
    format!("is {}, should be {}", say(found), say(expected))
}

/// The copy is closed and whole, holds nothing else, and no more space than it needs.
fn assert_finished(copy: &Path) {
    assert!(matches!(parse_dir(copy).verdict, Verdict::Ok { tail: Tail::Clean, .. }));
    let log = Log::open(copy).expect("the copy");
    let stat = log.stat().expect("what it is made of");
    assert!(stat.closed && stat.leftovers.is_empty() && stat.others.is_empty(), "{stat:?}");
    assert!(log.verify(|_| {}).expect("a verification").damages.is_empty());
    for segment in &stat.segments {
        assert!(segment.capacity - segment.end_offset < 4096 || segment.capacity == SMALLEST, "{segment:?}");
    }
    assert!(stat.segments.iter().all(|segment| segment.role != SegmentRole::Spare), "{:?}", stat.segments);
}

/// What becomes of a log before it is copied.
type Life = fn(&Wal);

/// Logs that differ in everything that a copy has to take care of.
fn lives() -> Vec<(&'static str, Life)> {
    vec![
        ("nothing", |_| {}),
        ("one record", |wal| fill(wal, 1)),
        ("several segments", |wal| fill(wal, 100)),
        ("a segment that is full", |wal| fill(wal, 32)),
        ("batches, some of them over a rotation", |wal| batches(wal, &[1, 5, 9, 3, 16, 2, 7])),
        ("empty records and tags", |wal| {
            for tag in [0, 1, u16::MAX] {
                wal.append_tagged(tag, &[IoSlice::new(b"x")]).expect("an append");
                wal.append(b"").expect("an append");
            }
        }),
        ("records with segments of their own", |wal| {
            fill(wal, 3);
            wal.append(&vec![7; 100_000]).expect("an append");
            wal.append(&vec![8; 3_000_000]).expect("an append");
            fill(wal, 3);
            batches(wal, &[100]);
        }),
        ("a state", |wal| {
            fill(wal, 40);
            wal.checkpoint(23).expect("a checkpoint");
            wal.set_meta(b"what the user stores").expect("metadata");
        }),
        ("a front that was truncated inside a batch", |wal| {
            batches(wal, &[9, 9, 9, 9]);
            wal.truncate_front(21).expect("a truncation");
        }),
        ("everything truncated", |wal| {
            fill(wal, 40);
            wal.truncate_front(40).expect("a truncation");
        }),
        ("a cut", |wal| {
            fill(wal, 40);
            wal.checkpoint(30).expect("a checkpoint");
            wal.truncate_back(20).expect("a cut");
            batches(wal, &[5, 20]);
        }),
        ("a reset", |wal| {
            fill(wal, 40);
            wal.reset(1000).expect("a reset");
            fill(wal, 20);
        }),
        ("a reset and nothing behind", |wal| {
            fill(wal, 40);
            wal.reset(1000).expect("a reset");
        }),
    ]
}

#[test]
fn a_copy_holds_what_the_log_holds_open_or_closed_or_killed() {
    for (life, live) in lives() {
        println!("{life}");
        let open = Bed::new();
        let wal = open.wal();
        live(&wal);
        open.copied();
        // Dropped without a close is killed, as far as the files tell.
        std::mem::forget(wal);
        let copied = Bed::after(live).copied();
        assert_eq!(copied.records, (copied.first_seq..=copied.last_seq).count() as u64);
    }
}

#[test]
fn a_copy_is_a_log_of_its_own_that_goes_on_beside_the_other() {
    for (life, live) in lives() {
        println!("{life}");
        let bed = Bed::after(live);
        let last_seq = bed.copied().last_seq;
        let (log, other) = (bed.wal(), options().open(bed.copy_dir()).expect("the copy"));
        assert_eq!(log.append(b"one").expect("an append"), last_seq + 1);
        assert_eq!(other.append(b"another").expect("an append"), last_seq + 1);
        fill(&other, 40);
        other.close().expect("a close");
        let found = Reader::open(bed.copy_dir()).expect("the copy").snapshot().expect("a snapshot");
        assert_eq!(found.get(last_seq + 1).expect("it").map(|record| record.payload()), Some(&b"another"[..]));
        let ids = [bed.log(), bed.copy_dir()].map(|dir| Log::open(dir).expect("it").stat().expect("it").log_id);
        assert_ne!(ids[0], ids[1]);
    }
}

#[test]
fn every_frame_of_a_copy_says_where_its_batch_begins_for_a_later_repair() {
    let bed = Bed::after(|wal| batches(wal, &[5, 1, 3, 7]));
    bed.copied();
    let bytes = &files_of(&bed.copy_dir())[&segment(1)];
    let begins = [0, 0, 0, 0, 0, 5, 6, 6, 6, 9, 9, 9, 9, 9, 9, 9];
    for (index, begins) in begins.into_iter().enumerate() {
        let at = (FRAMES_AT + index as u64 * FRAME) as usize;
        let back: [u8; 4] = bytes[at + 16..at + 20].try_into().expect("four bytes");
        assert_eq!(u64::from(u32::from_le_bytes(back)) * 8, (index - begins) as u64 * FRAME, "frame {index}");
    }
}

#[test]
fn a_copy_of_a_copy_is_like_the_log() {
    let bed = Bed::after(|wal| batches(wal, &[9, 9, 9, 9]));
    bed.copied();
    let second = bed.dir.path().join("second");
    copy(&bed.copy_dir(), &second, 0).expect("a second copy");
    assert_same(&bed.log(), &second);
}

#[test]
fn a_part_begins_behind_every_end_of_a_batch_and_nowhere_else() {
    let bed = Bed::after(|wal| {
        batches(wal, &[9, 1, 9, 20, 9, 5]);
        wal.truncate_front(12).expect("a truncation");
    });
    let whole = state_of(&bed.log());
    for after in 1..=whole.last_seq + 2 {
        let to = bed.dir.path().join(after.to_string());
        let made = copy(&bed.log(), &to, after);
        let is_end = whole.batch_ends.contains(&after) || after + 1 == whole.first_seq;
        match after {
            1..=11 => assert!(matches!(made, Err(Error::Truncated { first_seq: 13 })), "{made:?}"),
            _ if after > whole.last_seq => assert!(matches!(made, Err(Error::Ahead { .. })), "{made:?}"),
            _ if !is_end => assert!(matches!(made, Err(Error::InsideBatch { seq }) if seq == after), "{made:?}"),
            _ => {
                made.unwrap_or_else(|e| panic!("{after}: {e}"));
                let mut part = whole.clone();
                part.first_seq = part.first_seq.max(after + 1);
                part.records.retain(|record| record.seq > after);
                part.batch_ends.retain(|seq| *seq > after);
                assert!(state_of(&to) == part, "{after}: {}", difference(&part, &state_of(&to)));
                assert_finished(&to);
            }
        }
        assert!(is_end == to.exists() || after > whole.last_seq, "{after}");
    }
    assert!(matches!(copy(&bed.log(), &bed.copy_dir(), u64::MAX), Err(Error::Ahead { .. })));
}

/// A log of three segments in which a repair has left a gap where the record `lost` was, or in front.
fn with_gap(first_is_lost: bool) -> Bed {
    let bed = Bed::after(|wal| fill(wal, 40));
    let mut files = files_of(&bed.log());
    if first_is_lost {
        files.remove(&segment(1));
    } else {
        files.get_mut(&segment(2)).expect("it")[(FRAMES_AT + 3 * FRAME + 30) as usize] ^= 1;
    }
    write_files(&bed.log(), &files);
    repair(&bed);
    bed
}

fn repair(bed: &Bed) {
    let log = Log::open(bed.log()).expect("the log");
    log.repair(&log.plan_repair().expect("a plan")).expect("a repair");
}

#[test]
fn gaps_carry_over_at_the_front_in_the_middle_and_at_the_end() {
    for first_is_lost in [false, true] {
        let bed = with_gap(first_is_lost);
        assert_eq!(state_of(&bed.log()).gaps.len(), 1);
        bed.copied();
        fill(&bed.wal(), 20);
        bed.copied();
        // A part may begin inside a gap.
        let (from, _) = state_of(&bed.log()).gaps[0];
        let part = bed.dir.path().join("part");
        copy(&bed.log(), &part, from).expect("a part");
        assert_eq!(state_of(&part).first_seq, from + 1);
        assert_eq!(
            state_of(&part).records.first().map(|record| record.seq),
            if first_is_lost { Some(17) } else { Some(21) }
        );
    }
    // The end of the log is lost, and it goes on behind a gap.
    let bed = Bed::after(|wal| fill(wal, 40));
    bed.copied();
    let mut files = files_of(&bed.log());
    files.get_mut(&segment(3)).expect("it")[(FRAMES_AT + 7 * FRAME + 30) as usize] ^= 1;
    write_files(&bed.log(), &files);
    repair(&bed);
    let second = bed.dir.path().join("second");
    copy(&bed.log(), &second, 0).expect("a copy");
    assert_same(&bed.log(), &second);
    assert!(matches!(bed.copy(), Err(Error::Destination(_))), "the log has lost what this copy has");
    fill(&bed.wal(), 20);
    copy(&bed.log(), &second, 0).expect("a copy");
    assert_same(&bed.log(), &second);
}

#[test]
fn a_small_log_of_large_segments_has_a_small_copy() {
    let bed = Bed::new();
    let wal = Wal::open(bed.log()).expect("a log");
    wal.append(b"small").expect("an append");
    wal.close().expect("a close");
    bed.copied();
    let bytes = Log::open(bed.copy_dir()).expect("the copy").stat().expect("it").bytes_on_disk;
    assert!(bytes < 200_000, "{bytes}");
}

#[test]
fn an_update_copies_what_came_since_and_nothing_else() {
    let bed = Bed::after(|wal| fill(wal, 40));
    assert_eq!(bed.copied().records, 40);
    let before = files_of(&bed.copy_dir());
    let again = bed.copied();
    assert_eq!((again.records, again.bytes, again.segments), (0, 0, 0));
    assert!(files_of(&bed.copy_dir()) == before, "nothing came, and something was written");
    for round in 1..=5 {
        let wal = bed.wal();
        fill(&wal, 7);
        batches(&wal, &[3]);
        wal.checkpoint(round * 9).expect("a checkpoint");
        wal.set_meta(&[round as u8; 9]).expect("metadata");
        let open = bed.copied();
        assert_eq!((open.records, open.last_seq, open.checkpoint_seq), (10, 40 + 10 * round, 9 * round));
        wal.close().expect("a close");
        assert_eq!(bed.copied().records, 0);
    }
    // Only the state.
    bed.wal().set_meta(b"more").expect("metadata");
    assert_eq!(bed.copied().records, 0);
    for (name, bytes) in before.iter().filter(|(name, _)| name.ends_with(".wal") && **name != segment(4)) {
        assert!(files_of(&bed.copy_dir())[name] == *bytes, "{name} was there and was written");
    }
}

#[test]
fn an_update_has_room_for_more_segments_than_the_manifest_of_the_copy_had() {
    let bed = Bed::after(|wal| fill(wal, 40));
    bed.copied();
    let wal = options().sync_mode(SyncMode::None).open(bed.log()).expect("the log");
    fill(&wal, 16 * 1400);
    wal.close().expect("a close");
    assert!(bed.copied().segments >= 1400);
}

#[test]
fn what_the_log_truncates_later_stays_in_the_copy() {
    let bed = Bed::after(|wal| fill(wal, 60));
    bed.copied();
    let whole = state_of(&bed.copy_dir()).records;
    let wal = bed.wal();
    wal.truncate_front(50).expect("a truncation");
    fill(&wal, 20);
    assert_eq!(bed.copy().expect("an update").records, 20);
    let found = state_of(&bed.copy_dir());
    assert_eq!((found.first_seq, found.last_seq, found.records.len()), (1, 80, 80));
    assert!(found.records[..60] == whole[..] && found.records[60..] == state_of(&bed.log()).records[10..]);
    // Up to the last moment at which it continues.
    wal.truncate_front(80).expect("a truncation");
    assert_eq!(bed.copy().expect("an update").records, 0);
    fill(&wal, 1);
    assert_eq!(bed.copy().expect("an update").last_seq, 81);
}

#[test]
fn a_copy_that_was_opened_is_brought_up_to_date_all_the_same() {
    let bed = Bed::after(|wal| fill(wal, 40));
    bed.copied();
    for is_closed in [true, false] {
        let opened = options().open(bed.copy_dir()).expect("the copy");
        if is_closed {
            opened.close().expect("a close");
        } else {
            // As if it had been killed, but for its lock.
            drop(opened);
            let mut files = files_of(&bed.copy_dir());
            files.remove("LOCK");
            write_files(&bed.copy_dir(), &files);
        }
        fill(&bed.wal(), 20);
        bed.copied();
    }
}

#[test]
fn progress_ends_where_it_said_it_would() {
    let bed = Bed::after(|wal| {
        for _ in 0..5 {
            wal.append(&vec![1; 3_000_000]).expect("an append");
        }
    });
    for expected in [2, 1] {
        let mut seen = Vec::new();
        let log = Log::open(bed.log()).expect("the log");
        log.copy(bed.copy_dir(), 0, |progress| seen.push(progress)).expect("a copy");
        let total = expected * 5 * 3_000_024;
        assert!(seen.len() > 3 && seen.iter().all(|progress| progress.bytes_total == total), "{seen:?}");
        assert!(seen.windows(2).all(|pair| pair[0].bytes_done <= pair[1].bytes_done), "{seen:?}");
        assert_eq!(seen.last().map(|progress| progress.bytes_done), Some(total));
    }
}
