//! Proves that the ways in which a deliberate attack on memory that is kept, and on the repair of a log that lost its
//! manifest, once broke them stay closed. Does not prove that there are no others.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::sync::{Arc, Mutex};

use fixture::{Before, FRAMES_AT, SMALLEST, files_of, locked, rotate, scratch, segment, turn, write_files};
use mmap_wal::inspect::Log;
use mmap_wal::{Act, Background, Error, Options, SyncMode};
use reference::Files;

const SEGMENT: u64 = 1 << 20;

fn kept_in_memory() -> Options {
    let options = Options::new().segment_size(SEGMENT).sync_mode(SyncMode::None);
    options.lock_memory(true).background(Background::Caller)
}

#[test]
fn a_rotation_keeps_no_more_memory_than_the_limit_that_is_asked_for() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let before = locked();
    let most = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&most);
    let observer = Before::new(true, move |act: &Act<'_>| {
        if let Act::LockMemory(_) = act {
            let mut most = seen.lock().expect("no panic");
            *most = locked().saturating_sub(before).max(*most);
        }
        Ok(())
    });
    let wal = match kept_in_memory().open_observed(dir.path(), Some(observer)) {
        // Not everybody may keep two megabytes.
        Err(Error::Io(failure)) => return println!("SKIPPED: {failure}"),
        opened => opened.expect("a log"),
    };
    for _ in 0..3 {
        rotate(&wal);
        wal.maintain().expect("a segment");
    }
    assert_eq!(*most.lock().expect("no panic"), SEGMENT, "before a spare is kept, the active segment alone is");
}

#[test]
fn a_segment_that_is_sealed_before_a_record_is_behind_it_is_let_go() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let before = locked();
    let wal = match kept_in_memory().open(dir.path()) {
        Err(Error::Io(failure)) => return println!("SKIPPED: {failure}"),
        opened => opened.expect("a log"),
    };
    wal.append(&[7; 60_000]).expect("an append");
    let failed = wal.append_with(SEGMENT as usize - 60_000, |_| Err("nothing")).expect("a segment");
    assert_eq!((failed, wal.stats().rotations), (Err("nothing"), 1), "the next segment holds nothing yet");
    wal.append(b"two").expect("an append");
    wal.maintain().expect("nothing to do");
    assert_eq!(locked() - before, 2 * SEGMENT, "the active segment and one spare");
    wal.append(&[7; 60_000]).expect("an append");
    assert_eq!(wal.snapshot().replay(0).expect("a replay").map(|record| record.expect("it").seq()).max(), Some(3));
}

/// 24 bytes of header and this are a frame of 256 bytes: 16 fill the smallest segment.
const LEN: usize = 232;

/// What is shown of a log whose manifest is lost, once it is repaired: number and first byte of each record.
fn repaired_without_manifest(files: &Files) -> Vec<(u64, u8)> {
    let mut files = files.clone();
    files.remove("MANIFEST").expect("it");
    let dir = scratch();
    write_files(dir.path(), &files);
    let log = Log::open(dir.path()).expect("a log");
    let plan = log.plan_repair().expect("a plan");
    log.repair(&plan).expect("a repair");
    drop(log);
    let wal = Options::new().segment_size(SMALLEST).open(dir.path()).expect("the log");
    let snapshot = wal.snapshot();
    let shown = snapshot.replay(0).expect("a replay").filter_map(|record| match record {
        Err(Error::Gap { .. }) => None,
        record => record.map(|record| Some((record.seq(), record.payload()[0]))).expect("a record"),
    });
    shown.collect()
}

#[test]
fn what_was_cut_off_stays_so_where_the_word_that_says_it_is_lost() {
    let dir = scratch();
    let options = Options::new().segment_size(SMALLEST).background(Background::Caller).spare_segments(8);
    let wal = options.open(dir.path()).expect("a new log");
    let fill = |byte: u8, count: usize| {
        for _ in 0..count {
            wal.append(&[byte; LEN]).expect("an append");
        }
    };
    fill(1, 200);
    wal.truncate_back(20).expect("a cut");
    fill(2, 40);
    let mut files = files_of(dir.path());
    // The word is written when the cut was made, and not synced.
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with(".wal")) {
        bytes[4096 + 7] &= !0x40;
    }
    let begins = |bytes: &Vec<u8>, seq: u64| bytes.get(4160..4168) == Some(&seq.to_le_bytes()[..]);
    let name = files.iter().find(|(name, bytes)| name.ends_with(".wal") && begins(bytes, 21)).expect("it").0.clone();
    for hit in [0..1, 11..12, 15..16, 12..16, 3..16, 0..16] {
        let mut files = files.clone();
        let bytes = files.get_mut(&name).expect("it");
        hit.clone().for_each(|index| bytes[FRAMES_AT as usize + index * 256 + 30] ^= 0x40);
        let shown = repaired_without_manifest(&files);
        let wrong: Vec<_> = shown.iter().filter(|(seq, byte)| *byte != if *seq > 20 { 2 } else { 1 }).collect();
        assert!(wrong.is_empty(), "{hit:?}: {wrong:?}");
        // The record behind what is hit may be the end of a batch.
        assert!(shown.len() + hit.len() + 1 >= 60, "{hit:?}: {} are left", shown.len());
    }
}

#[test]
fn a_damaged_word_of_a_segment_does_not_cost_the_records_in_it_or_behind_it() {
    let dir = scratch();
    let options = Options::new().segment_size(SMALLEST).background(Background::Caller);
    let wal = options.open(dir.path()).expect("a new log");
    let append = |len: usize| {
        wal.append(&vec![1; len]).expect("an append");
    };
    (0..17).for_each(|_| append(LEN));
    wal.maintain().expect("a spare");
    // It fills a segment of its own, prepared behind the spare in which the log goes on.
    append(2 * SMALLEST as usize - 24);
    (0..20).for_each(|_| append(LEN));
    let files = files_of(dir.path());
    for (ordinal, spoil) in [(3, 0x40), (4, 0x40), (3, 0), (4, 0)] {
        let mut files = files.clone();
        let bytes = files.get_mut(&segment(ordinal)).expect("the segment");
        assert_eq!(bytes[4160], if ordinal == 3 { 19 } else { 18 }, "where it begins");
        bytes[4096..4104].iter_mut().for_each(|byte| *byte = if spoil == 0 { 0 } else { *byte ^ spoil });
        let seqs: Vec<u64> = repaired_without_manifest(&files).iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=38).collect::<Vec<u64>>(), "{ordinal} {spoil}");
    }
}
