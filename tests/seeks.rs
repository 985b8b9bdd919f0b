//! Proves how much memory is taken to find any of ten million small records: at most 0.13 bytes for each, never more than
//! `index_memory`, whether the records were appended by the same handle or walked through; and that any is found with any
//! amount. Bytes are counted by an allocator, not timed.
//! Does not prove how many headers a lookup comes by: the tests of the view count those.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::path::Path;

use fixture::scratch;
use mmap_wal::{Background, Options, Reader, Snapshot, SyncMode, Wal};

const COUNT: u64 = 10_000_000;
const BATCH: u64 = 10_000;
/// More than any of it takes.
const ENOUGH: usize = 16 << 20;

fn options(index_memory: usize) -> Options {
    // 64 MiB segments; everything is done by this thread, whose memory is counted.
    Options::new().sync_mode(SyncMode::None).background(Background::Caller).index_memory(index_memory)
}

fn open(dir: &Path, index_memory: usize) -> Wal {
    options(index_memory).open(dir).expect("a log")
}

fn append_all(wal: &Wal) {
    let mut batch = vec![[0; 8]; BATCH as usize];
    for first in (1..=COUNT).step_by(BATCH as usize) {
        batch.iter_mut().zip(first..).for_each(|(payload, seq)| *payload = seq.to_le_bytes());
        drop(wal.submit_batch(&batch).expect("a batch"));
    }
}

/// Looks up records all over the log, in every segment.
fn look_up(snapshot: &Snapshot) {
    for seq in (1..=COUNT).rev().step_by(7919 * 100).chain([1, 2, COUNT / 2, COUNT]) {
        let record = snapshot.get(seq).expect("no damage").expect("a record");
        assert_eq!((record.seq(), record.payload()), (seq, &seq.to_le_bytes()[..]));
    }
}

/// Bytes that are still taken when `make` has made what it returns.
fn held<T>(make: impl FnOnce() -> T) -> (T, i64) {
    let mut made = None;
    let info = allocation_counter::measure(|| made = Some(make()));
    (made.expect("it was made"), info.bytes_current)
}

fn is_an_eighth(bytes: i64) {
    println!("{bytes} bytes for {COUNT} records");
    // No less than what one offset for every 64 records takes, or nothing was counted.
    assert!(bytes * 100 <= COUNT as i64 * 13, "{bytes} bytes for {COUNT} records");
    assert!(bytes >= (COUNT / 64 * 4) as i64, "{bytes} bytes for {COUNT} records");
}

#[test]
fn an_eighth_of_a_byte_is_taken_for_a_record_that_was_appended() {
    let appended = |index_memory| {
        let dir = scratch();
        let (_wal, bytes) = held(|| {
            let wal = open(dir.path(), index_memory);
            append_all(&wal);
            look_up(&wal.snapshot());
            wal
        });
        bytes
    };
    let without = appended(0);
    is_an_eighth(appended(ENOUGH) - without);
    let bounded = appended(100_000) - without;
    assert!((50_000..=100_000).contains(&bounded), "{bounded}");
}

#[test]
fn a_replay_backwards_takes_little_memory_without_any_for_an_index() {
    let dir = scratch();
    let wal = open(dir.path(), 0);
    append_all(&wal);
    let snapshot = wal.snapshot();
    // The last segment holds more than a million records, which are walked through for the first of these.
    let replay = || snapshot.replay_back(u64::MAX).expect("a replay").take(100_000).filter(Result::is_ok).count();
    let taken = allocation_counter::measure(|| assert_eq!(replay(), 100_000));
    assert!(taken.bytes_max <= 100_000, "{taken:?}");
}

#[test]
fn an_eighth_of_a_byte_is_taken_for_a_record_that_was_walked_through() {
    let dir = scratch();
    append_all(&open(dir.path(), ENOUGH));
    let walked = |index_memory| {
        let wal = open(dir.path(), index_memory);
        let snapshot = wal.snapshot();
        held(|| look_up(&snapshot)).1
    };
    // The maps of the segments, of which there are a handful, take something too.
    let without = walked(0);
    assert!(without < 2000, "{without}");
    is_an_eighth(walked(ENOUGH) - without);
    let bounded = walked(100_000) - without;
    assert!((50_000..=100_000).contains(&bounded), "{bounded}");
    let snapshot = Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot");
    is_an_eighth(held(|| look_up(&snapshot)).1);
}
