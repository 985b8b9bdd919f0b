//! Proves that a repair keeps every record that verifies in a whole batch, loses nothing else than its plan says, gives no
//! number again, deletes no byte, and can be done again after an error, a kill or a loss of power at any of its steps; and
//! that a salvage copies every record that is undamaged. Damage is a range of bytes, a missing or foreign file, or a lost
//! manifest. Does not prove anything about devices that fail to read.
#![allow(missing_docs)]

mod fixture;
mod reference;
mod simulator;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fixture::{Before, FRAMES_AT, SMALLEST, files_of, log_files_of, rec, scratch, segment, write_files};
use mmap_wal::inspect::{Log, RepairPlan};
use mmap_wal::{Act, Background, Error, Observer, Operation, Options, Snapshot, SyncMode, Wal};
use proptest::prelude::*;
use reference::{Files, Rec};
use simulator::disk::Disk;
use simulator::image::{Doubts, Image};
use simulator::machine::Machine;
use simulator::mended::{Patient, nothing_is_gone};
use simulator::model::Model;
use simulator::rng::Rng;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const TAG: [u8; 16] = *b"a user's own tag";
/// 24 bytes of header and this are a frame of 256 bytes: 16 fill the smallest segment.
const LEN: usize = 232;
const FRAME: u64 = 256;
/// The last byte of the word that says how far a segment goes.
const LAST_OF_WORD: u64 = 4103;

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

fn at(index: u64) -> u64 {
    FRAMES_AT + index * FRAME
}

/// The files of a log of `count` single records, killed.
fn killed(count: u64) -> Files {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, count);
    files_of(dir.path())
}

/// The files of a log after `life`, closed.
fn closed(life: impl FnOnce(&Wal)) -> Files {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    life(&wal);
    wal.close().expect("a close");
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

fn ranges(plan: &RepairPlan) -> Vec<(u64, u64)> {
    plan.lost.iter().map(|lost| (lost.first_seq, lost.last_seq)).collect()
}

/// What a snapshot shows, going on behind every gap, and the gaps.
fn shown(snapshot: &Snapshot) -> (Vec<Rec>, Vec<(u64, u64)>) {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for record in snapshot.replay(0).expect("a replay") {
        match record {
            Ok(record) => records.push(rec(record)),
            Err(Error::Gap { from, to }) => gaps.push((from, to)),
            Err(e) => panic!("{e}"),
        }
    }
    (records, gaps)
}

fn numbers(wal: &Wal) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (records, gaps) = shown(&wal.snapshot());
    for record in &records {
        assert_eq!(record.payload, body(record.seq), "record {}", record.seq);
    }
    (records.iter().map(|record| record.seq).collect(), gaps)
}

fn without(first: u64, last: u64, gaps: &[(u64, u64)]) -> Vec<u64> {
    (first..=last).filter(|seq| !gaps.iter().any(|(from, to)| (from..=to).contains(&seq))).collect()
}

/// Plans, carries out, and checks what holds after every repair.
fn repair(dir: &Path) -> RepairPlan {
    let before = files_of(dir);
    let log = Log::open(dir).expect("a log to be looked at");
    let plan = log.plan_repair().expect("a plan");
    assert!(!plan.is_empty());
    assert!(files_of(dir) == before || !before.contains_key("READERS"), "planning wrote");
    log.repair(&plan).expect("a repair");
    assert_nothing_is_gone(&before, &files_of(dir), &plan);
    let again = log.plan_repair().expect("a second plan");
    assert!(again.is_empty(), "{again}");
    let verified = log.verify(|_| {}).expect("a verification");
    assert!(verified.damages.is_empty(), "{:?}", verified.damages);
    for aside in &plan.set_aside {
        assert_eq!(files_of(dir)[&aside.as_name], before[&aside.name], "{}", aside.name);
    }
    plan
}

fn assert_nothing_is_gone(before: &Files, after: &Files, plan: &RepairPlan) {
    nothing_is_gone(before, after, plan).unwrap_or_else(|message| panic!("{message}"));
}

/// Repairs `files` and opens the log.
fn repaired(files: &Files) -> (tempfile::TempDir, RepairPlan, Wal) {
    let dir = directory(files);
    let plan = repair(dir.path());
    let wal = options().open(dir.path()).expect("a repaired log");
    (dir, plan, wal)
}

/// The log goes on: appends, rotates, is closed and opened, and is whole.
fn goes_on(dir: tempfile::TempDir, wal: Wal) {
    let (before, gaps) = numbers(&wal);
    let last = wal.positions().last;
    fill(&wal, 40);
    wal.close().expect("a close");
    let wal = options().open(dir.path()).expect("the log");
    let expected: Vec<u64> = before.into_iter().chain(last + 1..=last + 40).collect();
    let (now, gaps_now) = numbers(&wal);
    assert_eq!((now, gaps_now.len() >= gaps.len()), (expected, true));
}

// ---- sealed segments ----

#[test]
fn nothing_is_planned_for_a_log_that_is_whole_or_torn() {
    for files in [killed(40), closed(|wal| fill(wal, 40)), closed(|_| {}), {
        let mut files = killed(40);
        flip(&mut files, 3, at(7) + 40);
        // Nothing behind the last record bears witness of it but its own words.
        files.get_mut(&segment(3)).expect("the segment")[4096..8192].fill(0);
        files
    }] {
        let dir = directory(&files);
        let log = Log::open(dir.path()).expect("a log");
        let plan = log.plan_repair().expect("a plan");
        assert!(plan.is_empty(), "{plan}");
        assert_eq!(plan.to_string(), "nothing to repair\n");
        log.repair(&plan).expect("nothing");
        options().open(dir.path()).expect("the log");
    }
}

#[test]
fn a_flip_in_a_sealed_segment_loses_exactly_the_record_that_it_hits() {
    for seq in [1, 5, 16, 17, 31, 32] {
        let mut files = killed(40);
        let ordinal = (seq - 1) / 16 + 1;
        flip(&mut files, ordinal, at((seq - 1) % 16) + 30);
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), plan.left_out, plan.next_seq), (vec![(seq, seq)], 0, None), "{plan}");
        assert!(!plan.lost[0].is_bound && plan.lost[0].prepared.is_some() && plan.lost[0].next_prepared.is_some());
        assert_eq!(plan.set_aside[0].as_name, format!("{}.damaged", segment(ordinal)));
        assert_eq!(numbers(&wal), (without(1, 40, &[(seq, seq)]), vec![(seq, seq)]));
        // A consumer goes on behind the gap from wherever it stands.
        let snapshot = wal.snapshot();
        let behind: Vec<_> = snapshot.replay(seq).expect("a replay").collect();
        assert!(behind.len() as u64 == 40 - seq && behind.iter().all(Result::is_ok));
        assert!(snapshot.get(seq).expect("a lookup").is_none());
        goes_on(dir, wal);
    }
}

#[test]
fn a_damaged_batch_goes_whole() {
    let files = closed(|wal| {
        fill(wal, 3);
        let batch: Vec<Vec<u8>> = (4..=9).map(body).collect();
        wal.append_batch(&batch).expect("a batch");
        fill(wal, 31);
    });
    for hit in 4..=9 {
        let mut files = files.clone();
        flip(&mut files, 1, at(hit - 1));
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), plan.left_out), (vec![(4, 9)], 5), "{plan}");
        assert_eq!(numbers(&wal), (without(1, 40, &[(4, 9)]), vec![(4, 9)]));
        goes_on(dir, wal);
    }
}

#[test]
fn without_a_witness_the_record_behind_a_damage_may_be_the_end_of_a_batch() {
    let dir = scratch();
    let wal = options().sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    fill(&wal, 40);
    let mut files = files_of(dir.path());
    flip(&mut files, 1, at(4) + 30);
    let (_dir, plan, wal) = repaired(&files);
    assert_eq!((ranges(&plan), plan.left_out), (vec![(5, 6)], 1), "{plan}");
    assert_eq!(numbers(&wal).0, without(1, 40, &[(5, 6)]));
}

#[test]
fn a_missing_sealed_segment_is_a_gap() {
    for (ordinal, gap) in [(1, (1, 16)), (2, (17, 32))] {
        let mut files = killed(60);
        files.remove(&segment(ordinal)).expect("a file");
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), &plan.missing[..]), (vec![gap], &[ordinal][..]), "{plan}");
        assert_eq!(numbers(&wal), (without(1, 60, &[gap]), vec![gap]), "the gap is seen, also at the front");
        assert_eq!(wal.positions().first, 1);
        goes_on(dir, wal);
    }
}

#[test]
fn a_segment_of_another_length_keeps_what_is_there() {
    let mut files = killed(60);
    files.get_mut(&segment(2)).expect("a file").truncate(at(5) as usize + 8);
    let (dir, plan, wal) = repaired(&files);
    assert_eq!(ranges(&plan), [(22, 32)], "{plan}");
    assert_eq!(numbers(&wal).0, without(1, 60, &[(22, 32)]));
    goes_on(dir, wal);
    let mut files = killed(60);
    files.get_mut(&segment(2)).expect("a file").extend([7; 4096]);
    let (_dir, plan, wal) = repaired(&files);
    assert_eq!((ranges(&plan), plan.made.len()), (vec![], 1), "{plan}");
    assert_eq!(numbers(&wal), (without(1, 60, &[]), vec![]));
}

#[test]
fn a_segment_with_the_header_of_another_keeps_its_records() {
    let mut files = killed(60);
    let other = files[&segment(1)][..4096].to_vec();
    files.get_mut(&segment(2)).expect("a file")[..4096].copy_from_slice(&other);
    let (dir, plan, wal) = repaired(&files);
    assert_eq!((ranges(&plan), plan.set_aside.len()), (vec![], 1), "{plan}");
    assert_eq!(numbers(&wal), (without(1, 60, &[]), vec![]));
    goes_on(dir, wal);
}

#[test]
fn damaged_headers_are_restored_from_the_manifest() {
    for (ordinal, hit) in [(1, &[0_u64][..]), (2, &[512]), (2, &[0, 512]), (4, &[0, 512]), (5, &[0])] {
        let mut files = killed(60);
        hit.iter().for_each(|at| flip(&mut files, ordinal, *at + 20));
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((&plan.headers[..], plan.set_aside.len(), plan.made.len()), (&[ordinal][..], 0, 0), "{plan}");
        assert_eq!(numbers(&wal), (without(1, 60, &[]), vec![]));
        goes_on(dir, wal);
    }
}

#[test]
fn a_manifest_of_another_log_is_refused() {
    let mut files = killed(60);
    files.insert("MANIFEST".into(), killed(60).remove("MANIFEST").expect("a manifest"));
    let dir = directory(&files);
    match Log::open(dir.path()).expect("a log").plan_repair() {
        Err(Error::Foreign(foreign)) => assert!(foreign.reason.contains("no segment carries that of the manifest")),
        other => panic!("{other:?}"),
    }
}

// ---- the end ----

#[test]
fn damage_in_the_active_segment_loses_what_it_hits_and_no_number_comes_again() {
    for seq in 33..=39 {
        let mut files = killed(40);
        flip(&mut files, 3, at(seq - 33) + 30);
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), plan.next_seq), (vec![(seq, seq)], Some(41)), "{plan}");
        assert_eq!(numbers(&wal), (without(1, 40, &[(seq, seq)]), vec![(seq, seq)]));
        goes_on(dir, wal);
    }
}

#[test]
fn a_damaged_end_is_a_bound() {
    let mut files = killed(40);
    files.get_mut(&segment(3)).expect("a file")[at(4) as usize..at(8) as usize].fill(0);
    let (dir, plan, wal) = repaired(&files);
    assert!(plan.lost[0].is_bound && plan.to_string().contains("37 to at most "), "{plan}");
    assert_eq!(plan.lost[0].first_seq, 37);
    assert!(wal.positions().last >= 40);
    assert_eq!(numbers(&wal).0, without(1, 36, &[]));
    goes_on(dir, wal);
}

#[test]
fn a_missing_active_segment_is_a_bound() {
    let mut files = killed(40);
    files.remove(&segment(3)).expect("a file");
    let (dir, plan, wal) = repaired(&files);
    assert_eq!((&plan.missing[..], plan.lost[0].first_seq, plan.lost[0].is_bound), (&[3][..], 33, true), "{plan}");
    assert!(wal.positions().last >= 40);
    assert_eq!(plan.made, [], "the spare is what the log goes on in");
    goes_on(dir, wal);
    let mut files = closed(|wal| fill(wal, 40));
    files.remove(&segment(3)).expect("a file");
    let (_dir, plan, wal) = repaired(&files);
    assert!(plan.lost[0].last_seq >= 40 && plan.lost[0].last_seq < 33 + 8 * FRAME / 24, "{plan}");
    assert!(numbers(&wal).1.len() <= 1);
}

#[test]
fn a_missing_spare_costs_numbers_only_if_it_may_have_been_used() {
    for (mut files, gaps) in [(killed(40), 1), (closed(|wal| fill(wal, 40)), 0)] {
        files.remove(&segment(4)).expect("a file");
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((plan.lost.len(), &plan.missing[..]), (gaps, &[4][..]), "{plan}");
        assert_eq!(numbers(&wal).0, without(1, 40, &[]));
        goes_on(dir, wal);
    }
}

#[test]
fn a_checkpoint_above_the_end_sets_the_next_number() {
    let mut files = closed(|wal| {
        fill(wal, 40);
        wal.checkpoint(39).expect("a checkpoint");
    });
    // An older state of the segment under a newer manifest: its last records and its witnesses are not there.
    let bytes = files.get_mut(&segment(3)).expect("a file");
    bytes[at(4) as usize..].fill(0);
    bytes[4096 + 128..4096 + 144].fill(0);
    bytes[4096 + 512 + 128..4096 + 512 + 144].fill(0);
    let (dir, plan, wal) = repaired(&files);
    assert!(plan.next_seq.is_some_and(|seq| seq > 40), "{plan}");
    assert_eq!((wal.positions().checkpoint, numbers(&wal).0), (39, without(1, 36, &[])));
    goes_on(dir, wal);
}

#[test]
fn damage_behind_a_rotation_that_was_not_sealed_keeps_both_segments() {
    // The state of the directory before the rotation is sealed: an old manifest with newer segments.
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 16);
    let manifest = files_of(dir.path()).remove("MANIFEST").expect("it");
    fill(&wal, 8);
    let mut files = files_of(dir.path());
    files.insert("MANIFEST".into(), manifest);
    for (ordinal, index, lost) in [(1, 3, 4), (2, 2, 19), (1, 15, 16), (2, 0, 17)] {
        let mut files = files.clone();
        flip(&mut files, ordinal, at(index) + 30);
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), plan.next_seq), (vec![(lost, lost)], Some(25)), "{plan}");
        assert_eq!(numbers(&wal), (without(1, 24, &[(lost, lost)]), vec![(lost, lost)]));
        goes_on(dir, wal);
    }
}

// ---- a lost manifest ----

/// The manifest damaged in both slots, and gone.
fn without_manifest(files: &Files) -> [Files; 2] {
    let (mut damaged, mut gone) = (files.clone(), files.clone());
    let manifest = damaged.get_mut("MANIFEST").expect("it");
    let half = manifest.len() / 2;
    manifest[70] ^= 1;
    manifest[half + 70] ^= 1;
    gone.remove("MANIFEST").expect("it");
    [damaged, gone]
}

#[test]
fn a_lost_manifest_is_made_of_what_the_segments_say() {
    for files in [killed(5), killed(16), killed(40), killed(48), closed(|wal| fill(wal, 60))] {
        let last = options().open(directory(&files).path()).expect("it").positions().last;
        for files in without_manifest(&files) {
            let dir = directory(&files);
            assert!(matches!(options().open(dir.path()), Err(Error::NoManifest { .. })));
            let log = Log::open(dir.path()).expect("a log");
            assert!(matches!(log.stat(), Err(Error::NoManifest { .. })));
            assert_eq!(log.frames(1).expect("frames").filter(|frame| frame.verifies).count() as u64, last.min(16));
            drop(log);
            let (dir, plan, wal) = repaired(&files);
            let rebuilt = plan.rebuilt.as_ref().expect("a manifest");
            assert_eq!((rebuilt.first_seq, ranges(&plan), plan.made.len()), (1, vec![], 0), "{plan}");
            assert_eq!((numbers(&wal), wal.positions().last), ((without(1, last, &[]), vec![]), last));
            goes_on(dir, wal);
        }
    }
}

#[test]
fn a_rebuilt_manifest_gets_the_user_tag_that_is_given() {
    let dir = scratch();
    fill(&options().user_tag(TAG).open(dir.path()).expect("a new log"), 20);
    for files in without_manifest(&files_of(dir.path())) {
        let dir = directory(&files);
        let log = Log::open(dir.path()).expect("a log");
        let plan = log.plan_repair().expect("a plan").with_user_tag(TAG);
        log.repair(&plan).expect("a repair");
        fill(&options().user_tag(TAG).open(dir.path()).expect("the log"), 20);
    }
}

#[test]
fn after_a_truncation_a_rebuilt_log_shows_at_least_what_was_there() {
    let front = closed(|wal| {
        fill(wal, 60);
        wal.truncate_front(37).expect("a truncation");
    });
    let recycled = closed(|wal| {
        for _ in 0..6 {
            fill(wal, 30);
            wal.truncate_front(wal.positions().last - 20).expect("a truncation");
        }
    });
    let killed = {
        let dir = scratch();
        let wal = options().open(dir.path()).expect("a new log");
        for _ in 0..6 {
            fill(&wal, 30);
            wal.truncate_front(wal.positions().last - 20).expect("a truncation");
        }
        files_of(dir.path())
    };
    for (files, first, last) in [(front, 38, 60), (recycled, 161, 180), (killed, 161, 180)] {
        for files in without_manifest(&files) {
            let (dir, _, wal) = repaired(&files);
            let seqs = numbers(&wal).0;
            assert!(seqs.ends_with(&without(first, last, &[])), "{seqs:?}");
            goes_on(dir, wal);
        }
    }
}

#[test]
fn what_was_cut_off_at_the_back_does_not_come_back() {
    for (cut, then) in [(50, 1), (50, 30), (32, 1), (20, 0), (20, 40)] {
        let dir = scratch();
        let wal = options().open(dir.path()).expect("a new log");
        fill(&wal, 60);
        wal.truncate_back(cut).expect("a cut");
        fill(&wal, then);
        for files in without_manifest(&files_of(dir.path())) {
            let (dir, plan, wal) = repaired(&files);
            assert_eq!(ranges(&plan), [], "{plan}");
            assert_eq!(numbers(&wal), (without(1, cut + then, &[]), vec![]), "{cut} {then}");
            goes_on(dir, wal);
        }
    }
}

#[test]
fn what_was_cut_off_does_not_come_back_behind_a_damage_either() {
    let dir = scratch();
    let wal = options().spare_segments(8).open(dir.path()).expect("a new log");
    fill(&wal, 200);
    wal.truncate_back(20).expect("a cut");
    for _ in 0..40 {
        wal.append(&[9; LEN]).expect("an append");
    }
    let files = files_of(dir.path());
    let begins = |name: &String, seq: u64| files[name].get(4160..4168) == Some(&seq.to_le_bytes()[..]);
    let name = files.keys().find(|name| name.ends_with(".wal") && begins(name, 21)).expect("the segment after the cut");
    let is_cut = |(name, bytes): &(&String, &Vec<u8>)| name.ends_with(".wal") && bytes[4103] & 0x40 != 0;
    assert!(files.iter().filter(is_cut).count() > 2, "dropped files wait to be used again");
    for hit in [0..1, 7..8, 11..12, 12..13, 15..16, 12..16, 0..16] {
        let mut files = files.clone();
        let bytes = files.get_mut(name).expect("it");
        hit.clone().for_each(|index| bytes[at(index) as usize + 30] ^= 0x40);
        for files in without_manifest(&files) {
            let (_dir, plan, wal) = repaired(&files);
            let is_right =
                |record: &Rec| record.payload == if record.seq > 20 { vec![9; LEN] } else { body(record.seq) };
            let records = shown(&wal.snapshot()).0;
            // The record behind what is hit may be the end of a batch.
            let least = 59 - (hit.end - hit.start) as usize;
            assert!(records.len() >= least && records.iter().all(is_right), "{hit:?}: {plan}");
        }
    }
}

#[test]
fn what_a_reset_dropped_does_not_come_back() {
    let dir = scratch();
    let wal = options().spare_segments(8).open(dir.path()).expect("a new log");
    fill(&wal, 60);
    wal.reset(100).expect("a reset");
    fill(&wal, 3);
    let killed = files_of(dir.path());
    assert!(killed.contains_key(&segment(1)), "dropped files wait to be used again");
    for files in without_manifest(&killed) {
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), numbers(&wal)), (vec![], (vec![100, 101, 102], vec![])), "{plan}");
        goes_on(dir, wal);
    }
}

#[test]
fn a_segment_that_a_reset_began_says_so_when_the_log_was_opened_again() {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 20);
    wal.reset(100).expect("a reset");
    let mut files = files_of(dir.path());
    drop(wal);
    // The power fails before anything is synced in the segment in which the log goes on.
    let active = files.iter().rfind(|(_, bytes)| bytes.len() as u64 == SMALLEST && bytes[4160] == 100);
    let active = active.map(|(name, _)| name.clone()).expect("a segment that begins with 100");
    files.get_mut(&active).expect("it")[4096..].fill(0);
    let dir = directory(&files);
    drop(options().open(dir.path()).expect("the log"));
    for files in without_manifest(&files_of(dir.path())) {
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), numbers(&wal), wal.positions().last), (vec![], (vec![], vec![]), 99), "{plan}");
        goes_on(dir, wal);
    }
}

#[test]
fn a_lost_manifest_and_damaged_segments_are_repaired_together() {
    let mut files = killed(60);
    flip(&mut files, 2, at(3) + 30);
    files.remove(&segment(1)).expect("a file");
    files.insert(segment(77), b"noise".to_vec());
    for files in without_manifest(&files) {
        let (dir, plan, wal) = repaired(&files);
        assert_eq!((ranges(&plan), numbers(&wal).0), (vec![(20, 20)], without(17, 60, &[(20, 20)])), "{plan}");
        goes_on(dir, wal);
    }
}

#[test]
fn a_manifest_lost_after_a_repair_is_rebuilt_in_the_right_order() {
    let mut files = killed(60);
    flip(&mut files, 2, at(3) + 30);
    let dir = directory(&files);
    repair(dir.path());
    for reopened in [false, true] {
        let files = files_of(dir.path());
        for files in without_manifest(&files) {
            let (dir, plan, wal) = repaired(&files);
            assert_eq!(ranges(&plan), [(20, 20)], "{reopened}: {plan}");
            assert_eq!(numbers(&wal), (without(1, 60, &[(20, 20)]), vec![(20, 20)]), "{reopened}");
            goes_on(dir, wal);
        }
        drop(options().open(dir.path()).expect("the log"));
    }
}

/// A log of 49 records, of which 18 and 19 are each too large for a segment of the usual size: both got one of their own,
/// prepared behind the spare in which the log then went on.
fn with_two_large_records() -> Files {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 17);
    wal.maintain().expect("a spare");
    for _ in 0..2 {
        // It fills its segment.
        wal.append(&[7; 2 * SMALLEST as usize - 24]).expect("a large record");
    }
    fill(&wal, 30);
    files_of(dir.path())
}

/// The segments of large records, in order.
fn large_segments(files: &Files) -> Vec<u64> {
    let named = |name: &String| name.strip_suffix(".wal").and_then(|ordinal| ordinal.parse().ok());
    let large = files.iter().filter(|(_, bytes)| bytes.len() as u64 > SMALLEST);
    let ordinals: Vec<u64> = large.filter_map(|(name, _)| named(name)).collect();
    assert_eq!(ordinals, [4, 5], "they came behind a spare");
    ordinals
}

#[test]
fn a_lost_manifest_and_a_damaged_large_record_do_not_cost_the_segment_that_was_prepared_before_it() {
    for which in [0, 1] {
        let mut files = with_two_large_records();
        let ordinal = large_segments(&files)[which];
        flip(&mut files, ordinal, at(0) + 30);
        let lost = 18 + which as u64;
        for files in without_manifest(&files) {
            let (_dir, plan, wal) = repaired(&files);
            assert_eq!((ranges(&plan), plan.next_seq), (vec![(lost, lost)], None), "{plan}");
            let (records, gaps) = shown(&wal.snapshot());
            let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
            assert_eq!((seqs, gaps), (without(1, 49, &[(lost, lost)]), vec![(lost, lost)]));
        }
    }
}

#[test]
fn a_manifest_that_is_lost_after_a_repair_gave_up_a_large_record_does_not_cost_what_came_behind_it() {
    for which in [0, 1] {
        let mut files = with_two_large_records();
        let ordinal = large_segments(&files)[which];
        flip(&mut files, ordinal, at(0) + 30);
        let lost = 18 + which as u64;
        let (dir, plan, wal) = repaired(&files);
        assert_eq!(ranges(&plan), [(lost, lost)], "{plan}");
        fill(&wal, 3);
        for files in without_manifest(&files_of(dir.path())) {
            let (_dir, plan, wal) = repaired(&files);
            assert_eq!((ranges(&plan), plan.next_seq), (vec![(lost, lost)], None), "{plan}");
            let seqs: Vec<u64> = shown(&wal.snapshot()).0.iter().map(|record| record.seq).collect();
            assert_eq!(seqs, without(1, 52, &[(lost, lost)]));
        }
    }
}

#[test]
fn a_manifest_that_is_lost_after_a_repair_costs_no_piece_of_a_segment_that_was_prepared_early() {
    for large in [&[][..], &[19], &[18, 19]] {
        let mut files = with_two_large_records();
        let ordinals = large_segments(&files);
        large.iter().for_each(|seq| flip(&mut files, ordinals[seq - 18], at(0) + 30));
        [4, 9].into_iter().for_each(|index| flip(&mut files, 3, at(index) + 30));
        let (dir, _, wal) = repaired(&files);
        let seqs = |wal: &Wal| shown(&wal.snapshot()).0.iter().map(|record| record.seq).collect::<Vec<u64>>();
        let before = seqs(&wal);
        assert_eq!(before.len(), 47 - large.len());
        wal.close().expect("a close");
        for files in without_manifest(&files_of(dir.path())) {
            let (_dir, plan, wal) = repaired(&files);
            assert_eq!(seqs(&wal), before, "{plan}");
        }
    }
}

#[test]
fn segments_of_two_logs_make_no_manifest() {
    let mut files = killed(40);
    files.insert(
        segment(9),
        killed(5)
            .remove(&segment(1))
            .map(|mut bytes| {
                bytes[8192..].fill(1);
                bytes
            })
            .expect("a file"),
    );
    let mut other = killed(40);
    files.insert(segment(2), other.remove(&segment(2)).expect("a file"));
    files.remove("MANIFEST").expect("it");
    let dir = directory(&files);
    match Log::open(dir.path()).expect("a log").plan_repair() {
        Err(Error::Foreign(foreign)) => assert!(foreign.path.ends_with(segment(2))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unfinished_creation_is_no_log() {
    let mut files = closed(|_| {});
    files.remove("MANIFEST").expect("it");
    files.values_mut().filter(|bytes| bytes.len() > 4096).for_each(|bytes| bytes[4096..].fill(0));
    assert!(Log::open(directory(&files).path()).is_err_and(|e| matches!(e, Error::Io(_))));
    fill(&options().open(directory(&files).path()).expect("a new log"), 3);
}

#[test]
fn the_words_tell_the_salt_of_a_segment_without_a_header() {
    for files in [killed(10), killed(40), closed(|wal| fill(wal, 40))] {
        let last = options().open(directory(&files).path()).expect("it").positions().last;
        for ordinal in (1..=3).filter(|ordinal| (ordinal - 1) * 16 < last) {
            let [mut files, _] = without_manifest(&files);
            files.get_mut(&segment(ordinal)).expect("a file")[..4096].fill(0x55);
            let (dir, plan, wal) = repaired(&files);
            assert_eq!((ranges(&plan), &plan.headers[..]), (vec![], &[ordinal][..]), "{plan}");
            assert_eq!(numbers(&wal), (without(1, last, &[]), vec![]));
            goes_on(dir, wal);
        }
    }
}

#[test]
fn numbers_that_an_unreadable_last_segment_may_hold_are_not_given_again() {
    let [mut files, _] = without_manifest(&killed(40));
    files.get_mut(&segment(3)).expect("a file")[..8192].fill(0x55);
    let (dir, plan, wal) = repaired(&files);
    assert!(plan.lost.iter().any(|lost| lost.is_bound && lost.last_seq >= 40), "{plan}");
    assert_eq!(numbers(&wal).0, without(1, 32, &[]));
    goes_on(dir, wal);
}

// ---- how it is carried out ----

#[test]
fn a_plan_that_is_stale_or_a_log_that_is_open_is_refused() {
    let mut files = killed(40);
    flip(&mut files, 1, at(3) + 30);
    let dir = directory(&files);
    let log = Log::open(dir.path()).expect("a log");
    let plan = log.plan_repair().expect("a plan");
    let wal = options().open(dir.path()).expect("sealed segments are not read");
    assert!(matches!(log.repair(&plan), Err(Error::Locked { .. })));
    drop(wal);
    flip(&mut files, 2, at(3) + 30);
    write_files(dir.path(), &files);
    let before = log_files_of(dir.path());
    assert!(matches!(log.repair(&plan), Err(Error::Stale { .. })));
    assert_eq!(log_files_of(dir.path()), before);
    log.repair(&log.plan_repair().expect("a plan")).expect("a repair");
}

#[test]
fn a_name_that_is_taken_is_left_alone() {
    let mut files = killed(40);
    flip(&mut files, 1, at(3) + 30);
    let taken = format!("{}.damaged", segment(1));
    files.insert(taken.clone(), b"mine".to_vec());
    let (dir, plan, _wal) = repaired(&files);
    assert_eq!(plan.set_aside[0].as_name, format!("{taken}-2"));
    assert_eq!(files_of(dir.path())[&taken], b"mine");
    let stat = Log::open(dir.path()).expect("a log").stat().expect("a stat");
    assert_eq!(stat.others, [taken.clone(), format!("{taken}-2")]);
}

/// Logs that need every kind of step.
fn damaged_logs() -> Vec<(Files, Vec<u64>)> {
    let mut sealed = killed(60);
    flip(&mut sealed, 1, at(3) + 30);
    flip(&mut sealed, 1, at(9) + 30);
    flip(&mut sealed, 2, 20);
    sealed.remove(&segment(3)).expect("a file");
    let mut end = killed(40);
    flip(&mut end, 3, at(2) + 30);
    let mut everything = killed(40);
    flip(&mut everything, 1, at(2) + 30);
    flip(&mut everything, 3, at(2) + 30);
    // Without a spare, so that a segment to go on in has to be made.
    everything.remove(&segment(4)).expect("a file");
    let [lost, _] = without_manifest(&sealed);
    let [lost_end, _] = without_manifest(&end);
    let sealed_seqs = without(1, 60, &[(4, 4), (10, 10), (33, 48)]);
    vec![
        (lost, sealed_seqs.clone()),
        (sealed, sealed_seqs),
        (lost_end, without(1, 40, &[(35, 35)])),
        (end, without(1, 40, &[(35, 35)])),
        (everything, without(1, 40, &[(3, 3), (35, 35)])),
    ]
}

/// An observer that fails or panics at the `nth` act, or at it and all behind.
fn at_act(nth: usize, errno: i32, all_behind: bool) -> (Arc<dyn Observer>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let observer: Arc<dyn Observer> = Before::new(true, move |_| {
        let number = seen.fetch_add(1, Ordering::SeqCst);
        let fails = if all_behind { number >= nth } else { number == nth };
        if fails { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    });
    (observer, count)
}

#[test]
fn after_a_failure_at_any_step_a_repair_done_again_finishes() {
    for (case, (files, seqs)) in damaged_logs().into_iter().enumerate() {
        let mut nth = 0;
        loop {
            let mut finished = false;
            for (errno, all_behind) in [(EIO, true), (EIO, false), (ENOSPC, false)] {
                let dir = directory(&files);
                let planned = Log::open(dir.path()).expect("a log").plan_repair().expect("a plan");
                let (observer, count) = at_act(usize::MAX, errno, false);
                let log = Log::open_observed(dir.path(), Some(observer)).expect("a log");
                let before = count.load(Ordering::SeqCst);
                drop(log);
                let (observer, count) = at_act(before + nth, errno, all_behind);
                let log = Log::open_observed(dir.path(), Some(observer)).expect("a log");
                let failed = log.repair(&planned);
                finished = count.load(Ordering::SeqCst) <= before + nth;
                drop(log);
                let step = format!("case {case}, act {nth}, {errno} {all_behind}: {failed:?}");
                check_finishes(&dir, &files, &seqs, &planned, &step);
            }
            nth += 1;
            if finished {
                break;
            }
        }
        assert!(nth > 40, "{case}: {nth} acts");
    }
}

/// A log in the state that a repair may have left it in is repaired, and holds `seqs`.
fn check_finishes(dir: &tempfile::TempDir, files: &Files, seqs: &[u64], planned: &RepairPlan, step: &str) {
    let patient = Patient { files, planned, options: &options(), tag: [0; 16] };
    let wal = patient.recovers(dir.path()).unwrap_or_else(|message| panic!("{step}: {message}"));
    assert_eq!(numbers(&wal).0, seqs, "{step}");
    fill(&wal, 20);
}

/// A disk that holds `files`, all of it durable.
fn disk_of(files: &Files) -> Disk {
    let mut image = Image::default();
    for (node, (name, bytes)) in files.iter().enumerate() {
        image.files.insert(name.clone(), node);
        image.contents.insert(node, Arc::new(bytes.clone()));
    }
    Disk::of(&image)
}

#[test]
fn after_a_power_failure_at_any_step_a_repair_done_again_finishes() {
    let mut states = HashSet::new();
    for (case, (files, seqs)) in damaged_logs().into_iter().enumerate() {
        let dir = directory(&files);
        let planned = Log::open(dir.path()).expect("a log").plan_repair().expect("a plan");
        let machine = Machine::new(dir.path(), disk_of(&files_of(dir.path())), &Arc::new(Model::new()), 7);
        machine.record();
        let log = Log::open_observed(dir.path(), Some(Arc::clone(&machine) as _)).expect("a log");
        log.repair(&planned).expect("a repair");
        drop(log);
        let mut rng = Rng::new(case as u64 + 1);
        let (moments, _) = machine.kill();
        assert!(moments.len() > 10, "{case}: {}", moments.len());
        for moment in moments {
            let doubts = Doubts::of(&moment.disk);
            for choice in doubts.choices(8, 12, &mut rng) {
                let image = doubts.image(&choice);
                if states.insert((case, image.digest())) {
                    let dir = scratch();
                    image.materialise(dir.path()).expect("the state");
                    check_finishes(&dir, &files, &seqs, &planned, &format!("case {case} before {}", moment.before));
                }
            }
        }
    }
    println!("{} distinct states", states.len());
    assert!(states.len() > 200, "{}", states.len());
}

#[test]
fn after_a_kill_at_any_step_a_repair_done_again_finishes_and_the_old_log_or_the_new_one_is_there() {
    for (case, (files, seqs)) in damaged_logs().into_iter().enumerate() {
        let dir = directory(&files);
        let planned = Log::open(dir.path()).expect("a log").plan_repair().expect("a plan");
        let images = Arc::new(Mutex::new(Vec::new()));
        let (taken, path) = (Arc::clone(&images), dir.path().to_owned());
        let observer = Before::new(true, move |act: &Act<'_>| {
            if !matches!(act, Act::Read(_) | Act::Open(_) | Act::List(_)) {
                taken.lock().expect("a lock").push((format!("{act:?}"), files_of(&path), links_of(&path)));
            }
            Ok(())
        });
        Log::open_observed(dir.path(), Some(observer)).expect("a log").repair(&planned).expect("a repair");
        let images = std::mem::take(&mut *images.lock().expect("a lock"));
        assert!(images.len() > 10, "{case}");
        for (act, image, links) in images {
            let dir = directory(&image);
            for (name, other) in links {
                std::fs::remove_file(dir.path().join(&name)).expect("a file");
                std::fs::hard_link(dir.path().join(other), dir.path().join(&name)).expect("a link");
            }
            check_finishes(&dir, &files, &seqs, &planned, &format!("case {case} before {act}"));
        }
    }
}

/// Names that are second names, and of what.
fn links_of(dir: &Path) -> Vec<(String, String)> {
    let mut names: Vec<(u64, String)> = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.metadata().expect("it").ino(), entry.file_name().into_string().expect("a name")))
        .collect();
    names.sort();
    names.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| (pair[1].1.clone(), pair[0].1.clone())).collect()
}

#[test]
fn without_space_or_links_nothing_is_changed() {
    for (case, (files, _)) in damaged_logs().into_iter().enumerate() {
        let refusals =
            [("allocate", "no space"), ("rename", "no space"), ("replace", "no space"), ("link", "hard links")];
        for (what, part) in refusals {
            let dir = directory(&files);
            let plan = Log::open(dir.path()).expect("a log").plan_repair().expect("a plan");
            let observer = Before::new(true, move |act: &Act<'_>| match act {
                Act::Allocate { .. } if what == "allocate" => Err(io::Error::from_raw_os_error(ENOSPC)),
                Act::Rename { .. } if what == "rename" => Err(io::Error::from_raw_os_error(ENOSPC)),
                Act::Rename { to, .. } if what == "replace" && to.ends_with("MANIFEST") => {
                    Err(io::Error::from_raw_os_error(ENOSPC))
                }
                Act::Link { .. } if what == "link" => Err(io::Error::from_raw_os_error(1)),
                _ => Ok(()),
            });
            let log = Log::open_observed(dir.path(), Some(observer)).expect("a log");
            let Err(failed) = log.repair(&plan) else { continue };
            assert!(failed.to_string().to_lowercase().contains(part), "{case}: {failed}");
            assert_eq!(log_files_of(dir.path()), log_files_of(directory(&files).path()), "{case} {what}");
        }
    }
}

// ---- salvage ----

#[test]
fn a_salvage_is_a_new_log_of_everything_that_verifies() {
    let mut files = closed(|wal| {
        fill(wal, 3);
        wal.append_batch(&(4..=9).map(body).collect::<Vec<_>>()).expect("a batch");
        fill(wal, 31);
        wal.checkpoint(20).expect("a checkpoint");
        wal.set_meta(b"term 7").expect("meta");
    });
    flip(&mut files, 1, at(5) + 30);
    let (dir, out) = (directory(&files), scratch());
    let before = log_files_of(dir.path());
    let done = Log::open(dir.path()).expect("a log").salvage(out.path()).expect("a salvage");
    assert_eq!(log_files_of(dir.path()), before);
    assert_eq!((done.records, done.partial, &done.gaps[..], done.next_seq), (39, 5, &[(6, 6)][..], 41));
    assert_eq!(done.bytes, 39 * FRAME);
    let wal = options().open(out.path()).expect("the new log");
    assert_eq!(numbers(&wal), (without(1, 40, &[(6, 6)]), vec![(6, 6)]));
    assert_eq!((wal.positions().checkpoint, &wal.meta()[..]), (20, &b"term 7"[..]));
    drop(wal);
    let refused = Log::open(dir.path()).expect("a log").salvage(out.path());
    assert!(refused.is_err_and(|e| e.to_string().contains("not empty")));
    assert!(Log::open(out.path()).expect("it").plan_repair().expect("a plan").is_empty());
}

#[test]
fn a_salvage_leaves_out_what_was_truncated_and_works_without_a_manifest_and_beside_a_writer() {
    let dir = scratch();
    let wal = options().open(dir.path()).expect("a new log");
    fill(&wal, 60);
    wal.truncate_front(20).expect("a truncation");
    wal.truncate_back(50).expect("a cut");
    for files in std::iter::once(None).chain(without_manifest(&files_of(dir.path())).map(Some)) {
        let of = files.as_ref().map(directory);
        let of = of.as_ref().map_or(dir.path(), |dir| dir.path());
        let out = scratch();
        let out = out.path().join("deep/new");
        Log::open(of).expect("a log").salvage(&out).expect("a salvage");
        let salvaged = options().open(&out).expect("the new log");
        let (seqs, gaps) = numbers(&salvaged);
        assert!(gaps.is_empty() && seqs.ends_with(&without(21, 50, &[])), "{seqs:?}");
        assert!(files.is_some() || seqs.len() == 30, "where it was truncated, only the manifest knew");
        fill(&salvaged, 20);
    }
}

/// What is reported as salvaged is there after a loss of power, its directory included.
#[test]
fn salvaged_log_survives_a_power_loss() {
    let mut files = closed(|wal| fill(wal, 60));
    flip(&mut files, 2, at(3) + 30);
    let (dir, root) = (directory(&files), scratch());
    let machine = Machine::new(root.path(), Disk::default(), &Arc::new(Model::new()), 7);
    machine.record();
    let log = Log::open_observed(dir.path(), Some(Arc::clone(&machine) as _)).expect("a log");
    let done = log.salvage(root.path().join("deep/new")).expect("a salvage");
    assert_eq!((done.records, &done.gaps[..]), (59, &[(20, 20)][..]));
    let (moments, disk) = machine.kill();
    assert!(moments.len() > 20, "{}", moments.len());
    let opened = |image: &Image| {
        let dir = scratch();
        image.materialise(dir.path()).expect("the state");
        options().create(false).open(dir.path().join("deep/new")).map(|wal| numbers(&wal))
    };
    let whole = (without(1, 60, &[(20, 20)]), vec![(20, 20)]);
    let doubts = Doubts::of(&disk);
    assert_eq!(opened(&doubts.image(&doubts.none())).expect("the new log"), whole);
    // Before that it is no log, or the whole one.
    let mut rng = Rng::new(1);
    for moment in moments {
        let doubts = Doubts::of(&moment.disk);
        for choice in doubts.choices(4, 6, &mut rng) {
            match opened(&doubts.image(&choice)) {
                Ok(found) => assert_eq!(found, whole, "before {}", moment.before),
                Err(Error::NoManifest { .. }) => {}
                Err(Error::Io(failure)) if failure.source.kind() == io::ErrorKind::NotFound => {}
                Err(e) => panic!("before {}: {e}", moment.before),
            }
        }
    }
}

/// Between the look into the directory and the lock, another process may be faster.
#[test]
fn salvage_refuses_what_came_before_its_lock() {
    let (dir, out) = (directory(&closed(|wal| fill(wal, 20))), scratch());
    let theirs = out.path().join(segment(3));
    let (file, lock) = (theirs.clone(), out.path().join("LOCK"));
    let observer = Before::new(true, move |act: &Act<'_>| match act {
        Act::Lock(path) if *path == lock => std::fs::write(&file, b"theirs"),
        _ => Ok(()),
    });
    let log = Log::open_observed(dir.path(), Some(observer)).expect("a log");
    let refused = log.salvage(out.path()).expect_err("a refusal").to_string();
    assert!(refused.contains("not empty"), "{refused}");
    assert_eq!(std::fs::read(theirs).expect("their file"), b"theirs");
    // And not locked.
    assert!(matches!(options().open(out.path()), Err(Error::NoManifest { .. })));
}

// ---- any damage to any log ----

#[derive(Clone, Debug)]
enum Op {
    Append { len: usize, tag: u16 },
    Batch { lens: Vec<usize> },
    Sync,
    Checkpoint,
    TruncateFront { back: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (0..900_usize, any::<u16>()).prop_map(|(len, tag)| Op::Append { len, tag }),
        // Too large for the spare that is there: it gets a segment that is prepared later and begun earlier.
        1 => (SMALLEST as usize..3 * SMALLEST as usize, any::<u16>()).prop_map(|(len, tag)| Op::Append { len, tag }),
        3 => prop::collection::vec(0..400_usize, 1..6).prop_map(|lens| Op::Batch { lens }),
        1 => Just(Op::Sync),
        1 => Just(Op::Checkpoint),
        1 => (0..12_u64).prop_map(|back| Op::TruncateFront { back }),
    ];
    prop::collection::vec(op, 1..60)
}

/// A log as it was before the damage.
struct Whole {
    files: Files,
    records: Vec<Rec>,
    /// First and last number of each batch.
    batches: Vec<(u64, u64)>,
    first: u64,
    /// Segment, offset and size without padding, which nobody judges, of each frame of the log, behind its number.
    frames: Vec<(u64, u64, u64, u64)>,
}

fn live(ops: &[Op], mode: SyncMode, is_closed: bool) -> Whole {
    let dir = scratch();
    let wal = options().sync_mode(mode).open(dir.path()).expect("a new log");
    let (mut records, mut batches) = (Vec::new(), Vec::new());
    for (i, op) in ops.iter().enumerate() {
        let payload = |len: usize, k: usize| (0..len).map(|j| (i * 7 + k * 3 + j) as u8).collect::<Vec<u8>>();
        let mut note = |seq: u64, tag: u16, payload: Vec<u8>| records.push(Rec { seq, tag, payload });
        match op {
            Op::Append { len, tag } => {
                let seq = wal.append_tagged(*tag, &[io::IoSlice::new(&payload(*len, 0))]).expect("an append");
                note(seq, *tag, payload(*len, 0));
                batches.push((seq, seq));
            }
            Op::Batch { lens } => {
                let payloads: Vec<Vec<u8>> = lens.iter().enumerate().map(|(k, len)| payload(*len, k)).collect();
                let seqs = wal.append_batch(&payloads).expect("a batch");
                seqs.iter().zip(payloads).for_each(|(seq, payload)| note(seq, 0, payload));
                batches.push((seqs.first().expect("one"), seqs.last().expect("one")));
            }
            Op::Sync => drop(wal.sync().expect("a sync")),
            Op::Checkpoint => wal.checkpoint(wal.positions().last).expect("a checkpoint"),
            Op::TruncateFront { back } => {
                wal.truncate_front(wal.positions().last.saturating_sub(*back)).expect("a truncation");
            }
        }
    }
    wal.sync().expect("a sync");
    let first = wal.positions().first;
    if is_closed {
        wal.close().expect("a close");
    }
    let log = Log::open(dir.path()).expect("a log");
    let frames = log.ordinals().expect("ordinals").into_iter().flat_map(|ordinal| {
        let good = log.frames(ordinal).expect("frames").filter(|frame| frame.verifies);
        good.map(move |frame| (frame.seq, ordinal, frame.offset, 24 + u64::from(frame.len)))
    });
    let frames: Vec<_> = frames.collect();
    Whole { files: files_of(dir.path()), first, frames, records, batches }
}

fn check_damage(
    whole: &Whole,
    ordinal: u64,
    range: std::ops::Range<u64>,
    with: u8,
    is_lost: bool,
) -> Result<(), TestCaseError> {
    // Without a manifest, its last byte alone can turn the word of a segment into one that says that it was cut off.
    if is_lost && range.start == LAST_OF_WORD {
        return Ok(());
    }
    let mut files = whole.files.clone();
    if is_lost && files.keys().any(|name| name.ends_with("3.wal")) {
        files.remove("MANIFEST").expect("it");
    }
    for at in range.clone() {
        let byte = &mut files.get_mut(&segment(ordinal)).expect("the segment")[at as usize];
        *byte = if with == 0 { 0 } else { *byte ^ with };
    }
    let is_hit = |frame: &&(u64, u64, u64, u64)| {
        let (_, of, at, size) = **frame;
        let name = segment(of);
        files[&name][at as usize..(at + size) as usize] != whole.files[&name][at as usize..(at + size) as usize]
    };
    let hit: BTreeSet<u64> = whole.frames.iter().filter(is_hit).map(|(seq, ..)| *seq).collect();
    let last = whole.records.last().map_or(0, |record| record.seq);
    let dir = directory(&files);
    let out = scratch();
    let log = Log::open(dir.path()).expect("a log");
    let plan = match log.plan_repair() {
        // Nothing but the header knew how to read the one segment that there was.
        Err(Error::Io(failure)) if failure.operation == Operation::Rebuild => return Ok(()),
        plan => plan.expect("a plan"),
    };
    log.salvage(out.path()).expect("a salvage");
    log.repair(&plan).expect("a repair");
    prop_assert!(log.plan_repair().expect("a plan").is_empty());
    assert_nothing_is_gone(&files, &files_of(dir.path()), &plan);
    drop(log);
    let wal = options().open(dir.path()).expect("a repaired log");
    let (records, gaps) = shown(&wal.snapshot());
    for record in &records {
        prop_assert_eq!(record, &whole.records[record.seq as usize - 1]);
    }
    let shown_seqs: BTreeSet<u64> = records.iter().map(|record| record.seq).collect();
    let salvaged = options().open(out.path()).expect("a salvaged log");
    let (copied, _) = shown(&salvaged.snapshot());
    for record in &copied {
        prop_assert_eq!(record, &whole.records[record.seq as usize - 1]);
    }
    if plan.is_empty() {
        // Nothing bore witness of what was hit: that is a torn end, and open has cut it.
        let cut = wal.positions().last + 1;
        prop_assert_eq!(shown_seqs, (whole.first..cut).collect::<BTreeSet<u64>>());
        prop_assert!(cut > last || hit.iter().any(|seq| whole.batches.contains(&batch_of(whole, *seq)) && *seq >= cut));
        return Ok(());
    }
    // Without a manifest, a torn end may be cut beside what is repaired.
    let cut = wal.positions().last + 1;
    prop_assert!(
        cut > last || (plan.rebuilt.is_some() && hit.iter().any(|seq| batch_of(whole, *seq).1 >= cut)),
        "{}",
        plan
    );
    let last = last.min(cut - 1);
    let lost = |seq: u64| plan.lost.iter().any(|lost| (lost.first_seq..=lost.last_seq).contains(&seq));
    // Without a manifest and without its header, nobody knows how to read a segment.
    let is_unread = plan.rebuilt.is_some() && plan.set_aside.iter().any(|aside| aside.reason.contains("what it is"));
    if is_unread {
        prop_assert!(wal.append(b"next").expect("an append") > whole.records.len() as u64, "{}", plan);
        return Ok(());
    }
    for seq in whole.first..=last {
        prop_assert_eq!(shown_seqs.contains(&seq), !lost(seq), "{}: {}", seq, plan);
        let (from, to) = batch_of(whole, seq);
        let in_hit_batch = (from..=to).any(|seq| hit.contains(&seq));
        let behind_hit =
            from > 1 && hit.contains(&(from - 1)) || hit.iter().any(|hit| batch_of(whole, *hit).1 + 1 == from);
        prop_assert!(!lost(seq) || in_hit_batch || behind_hit, "{seq} is lost for nothing: {plan}");
        prop_assert!(!in_hit_batch || lost(seq) || from < whole.first, "{} is of a batch that is hit: {}", seq, plan);
    }
    prop_assert_eq!(gaps.iter().flat_map(|(from, to)| *from..=*to).filter(|seq| !lost(*seq)).count(), 0);
    prop_assert!(wal.append(b"next").expect("an append") > last);
    let copied: BTreeSet<u64> = copied.iter().map(|record| record.seq).collect();
    for seq in whole.first..=last {
        prop_assert!(hit.contains(&seq) || copied.contains(&seq), "{} is not salvaged: {}", seq, plan);
    }
    prop_assert!(salvaged.append(b"next").expect("an append") > last);
    Ok(())
}

fn batch_of(whole: &Whole, seq: u64) -> (u64, u64) {
    *whole.batches.iter().find(|(from, to)| (*from..=*to).contains(&seq)).expect("its batch")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_range_of_bytes_is_damaged_everything_else_is_kept(
        ops in ops(),
        mode in prop_oneof![Just(SyncMode::Sync), Just(SyncMode::None)],
        is_closed: bool,
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..700_u64, any::<u8>(), any::<bool>()), 1..6),
    ) {
        let whole = live(&ops, mode, is_closed);
        let segments: Vec<u64> = (1..200).filter(|ordinal| whole.files.contains_key(&segment(*ordinal))).collect();
        for (file, place, len, with, is_lost) in damages {
            let ordinal = segments[file.index(segments.len())];
            let bytes = whole.files[&segment(ordinal)].len() as u64;
            let from = place.index(bytes as usize) as u64;
            check_damage(&whole, ordinal, from..(from + len).min(bytes), with, is_lost)?;
        }
    }
}

fn cases() -> u32 {
    std::env::var("MMAP_WAL_CASES").ok().map_or(150, |text| text.parse().expect("a number of cases"))
}
