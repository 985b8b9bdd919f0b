//! Proves that the ways in which a deliberate attack on `repair` and `salvage` once broke them are closed, one test for
//! each. Does not prove that there are no others.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::{Before, FRAMES_AT, SMALLEST, files_of, replayed, scratch, segment, write_files};
use mmap_wal::inspect::{Log, RepairPlan, SegmentRole};
use mmap_wal::{Act, Background, Error, Options, Wal};

/// 24 bytes of header and this are a frame of 256 bytes: 16 fill the smallest segment.
const LEN: usize = 232;
const FRAME: u64 = 256;

fn options() -> Options {
    Options::new().segment_size(SMALLEST).background(Background::Caller)
}

fn new_log(dir: &Path) -> Wal {
    options().open(dir).expect("a new log")
}

fn fill(wal: &Wal, count: u64) {
    for _ in 0..count {
        wal.append(&[7; LEN]).expect("an append");
    }
}

fn flip(dir: &Path, ordinal: u64, index: u64) {
    let mut files = files_of(dir);
    files.get_mut(&segment(ordinal)).expect("the segment")[(FRAMES_AT + index * FRAME + 30) as usize] ^= 1;
    write_files(dir, &files);
}

fn remove(dir: &Path, name: &str) {
    std::fs::remove_file(dir.join(name)).expect("a removal");
}

fn plan(dir: &Path) -> RepairPlan {
    Log::open(dir).expect("a log").plan_repair().expect("a plan")
}

fn repair(dir: &Path) -> RepairPlan {
    let log = Log::open(dir).expect("a log");
    let plan = log.plan_repair().expect("a plan");
    log.repair(&plan).expect("a repair");
    assert!(log.plan_repair().expect("a plan").is_empty());
    plan
}

fn seqs(wal: &Wal) -> Vec<u64> {
    let shown = replayed(&wal.snapshot());
    assert!(shown.error.is_none(), "{:?}", shown.error);
    shown.records.iter().map(|record| record.seq).collect()
}

fn without(last: u64, lost: &[u64]) -> Vec<u64> {
    (1..=last).filter(|seq| !lost.contains(seq)).collect()
}

/// Loses the manifest, repairs, and opens.
fn rebuilt(dir: &Path) -> (RepairPlan, Wal) {
    remove(dir, "MANIFEST");
    (repair(dir), options().open(dir).expect("a repaired log"))
}

#[test]
fn a_lost_manifest_knows_that_a_record_of_a_segment_of_its_own_came_before_the_spare_it_passed_by() {
    let dir = scratch();
    let wal = new_log(dir.path());
    fill(&wal, 8);
    wal.append(&[9; 20_000]).expect("an append");
    fill(&wal, 50);
    drop(wal);
    let (plan, wal) = rebuilt(dir.path());
    assert_eq!(seqs(&wal), without(59, &[]), "{plan}");
}

#[test]
fn a_lost_manifest_after_a_gap_at_the_front_keeps_everything_behind_the_gap() {
    let dir = scratch();
    fill(&new_log(dir.path()), 60);
    remove(dir.path(), &segment(1));
    repair(dir.path());
    let (plan, wal) = rebuilt(dir.path());
    assert_eq!(seqs(&wal), (17..=60).collect::<Vec<u64>>(), "{plan}");
}

#[test]
fn a_lost_manifest_after_two_repairs_of_a_segment_is_rebuilt_in_the_right_order() {
    let dir = scratch();
    fill(&new_log(dir.path()), 60);
    flip(dir.path(), 2, 8);
    repair(dir.path());
    let first =
        (5..20).find(|ordinal| files_of(dir.path()).get(&segment(*ordinal)).is_some_and(|file| file[8192] != 0));
    flip(dir.path(), first.expect("a copy"), 3);
    repair(dir.path());
    let (plan, wal) = rebuilt(dir.path());
    assert_eq!(seqs(&wal), without(60, &[20, 25]), "{plan}");
}

#[test]
fn a_lost_manifest_after_a_repair_that_left_a_used_file_as_a_spare_is_rebuilt_in_the_right_order() {
    let dir = scratch();
    let wal = new_log(dir.path());
    for _ in 0..6 {
        fill(&wal, 30);
        wal.truncate_front(wal.positions().last - 20).expect("a truncation");
    }
    drop(wal);
    let stat = Log::open(dir.path()).expect("a log").stat().expect("it");
    let active = stat.segments.iter().find(|segment| segment.role == SegmentRole::Active).expect("one").ordinal;
    flip(dir.path(), active, 1);
    repair(dir.path());
    let wal = options().open(dir.path()).expect("the log");
    fill(&wal, 40);
    let before = seqs(&wal);
    drop(wal);
    let (plan, wal) = rebuilt(dir.path());
    assert!(seqs(&wal).ends_with(&before), "{plan}");
}

#[test]
fn no_number_comes_again_when_the_last_segment_is_lost_with_the_manifest() {
    let dir = scratch();
    fill(&new_log(dir.path()), 60);
    remove(dir.path(), &segment(4));
    let (plan, wal) = rebuilt(dir.path());
    assert_eq!(seqs(&wal), without(48, &[]));
    assert!(wal.append(b"next").expect("an append") > 60, "{plan}");
    assert_eq!(plan.lost.first().map(|lost| (lost.first_seq, lost.is_bound)), Some((49, true)), "{plan}");
}

#[test]
fn a_file_of_any_length_is_looked_at_in_bounded_memory() {
    let dir = scratch();
    fill(&new_log(dir.path()), 40);
    let grow = |ordinal| {
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(segment(ordinal))).expect("a file");
        file.set_len(i64::MAX as u64 - 4095).expect("a sparse file");
    };
    grow(1);
    let plan = repair(dir.path());
    assert!(plan.lost.is_empty() && plan.set_aside.len() == 1, "{plan}");
    grow(2);
    let (plan, wal) = rebuilt(dir.path());
    assert_eq!(seqs(&wal), without(40, &[]), "{plan}");
}

#[test]
fn an_open_does_not_read_the_zeros_of_a_file_that_no_creation_makes() {
    let dir = scratch();
    new_log(dir.path()).append(b"one").expect("an append");
    remove(dir.path(), "MANIFEST");
    remove(dir.path(), &segment(1));
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(segment(2))).expect("a file");
    file.set_len(i64::MAX as u64 - 4095).expect("a sparse file");
    assert!(matches!(options().open(dir.path()), Err(Error::NoManifest { .. })));
}

#[test]
fn a_segment_under_another_name_outlives_the_repair_and_the_next_open() {
    let dir = scratch();
    fill(&new_log(dir.path()), 60);
    std::fs::rename(dir.path().join(segment(2)), dir.path().join(segment(9))).expect("another name");
    let bytes = files_of(dir.path())[&segment(9)].clone();
    let plan = repair(dir.path());
    drop(options().open(dir.path()).expect("a repaired log"));
    assert!(files_of(dir.path()).values().any(|file| *file == bytes), "{plan}");
}

#[test]
fn a_salvage_beside_a_writer_that_rotates_misses_nothing() {
    let dir = scratch();
    let wal = Arc::new(new_log(dir.path()));
    fill(&wal, 4);
    let (done, writer) = (AtomicBool::new(false), Arc::clone(&wal));
    let observer = Before::new(true, move |act: &Act<'_>| {
        let is_spare = matches!(act, Act::Open(path) if path.ends_with(segment(2)));
        if is_spare && !done.swap(true, Ordering::SeqCst) {
            fill(&writer, 16);
        }
        Ok(())
    });
    let out = scratch();
    let done = Log::open_observed(dir.path(), Some(observer)).expect("a log").salvage(out.path()).expect("a salvage");
    assert_eq!((wal.positions().last, &done.gaps[..]), (20, &[][..]));
    assert!(plan(dir.path()).is_empty());
}
