//! Proves that the ways in which a deliberate attack on tails and on the page of counters once broke them stay closed.
//! Does not prove that there are no others.
#![allow(missing_docs)]

use std::fs;
use std::time::{Duration, Instant};

use mmap_wal::inspect::Log;
use mmap_wal::{Background, Error, Options, Positions, Reader, SyncMode, Tail, Wal};

const SHORT: Duration = Duration::from_millis(1);

fn small() -> Options {
    Options::new().segment_size(12 << 10).background(Background::Caller).sync_mode(SyncMode::None)
}

/// What a tail shows until it comes to the end of what is there.
fn shown(tail: &mut Tail) -> Vec<(u64, Vec<u8>)> {
    let mut shown = Vec::new();
    while let Some(record) = tail.try_next().expect("a tail that goes on") {
        shown.push((record.seq(), record.payload().to_vec()));
    }
    shown
}

#[test]
fn a_tail_of_a_log_in_whose_place_another_one_was_made_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    wal.append(b"x").expect("an append");
    let mut tail = Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail");
    assert_eq!(shown(&mut tail).len(), 1);
    drop(wal);
    for entry in fs::read_dir(dir.path()).expect("the directory") {
        fs::remove_file(entry.expect("a file").path()).expect("a removal");
    }
    let other = small().segment_size(64 << 10).open(dir.path()).expect("another log");
    for _ in 0..200 {
        other.append(&[7; 500]).expect("an append");
    }
    let told = tail.wait(SHORT);
    assert!(matches!(told, Err(Error::Foreign(_))), "{told:?}");
}

#[test]
fn what_happens_while_nothing_is_appended_is_shown_to_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = Options::new().segment_size(12 << 10).sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    for _ in 0..10 {
        wal.append(b"x").expect("an append");
    }
    let live = || Log::open(dir.path()).expect("a log").live().expect("a page").expect("a writer");
    // While the thread looks for something to happen, it shows the log ten times a second.
    let rest = || {
        let (mut updated, mut since) = (live().updated, Instant::now());
        while since.elapsed() < Duration::from_millis(500) {
            if live().updated != updated {
                (updated, since) = (live().updated, Instant::now());
            }
            std::thread::yield_now();
        }
    };
    let appears = |is_there: &dyn Fn(Positions) -> bool| {
        let begun = Instant::now();
        while !is_there(live().positions) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", live().positions);
            std::thread::yield_now();
        }
    };
    rest();
    wal.sync().expect("a sync");
    appears(&|positions| positions.durable == 10);
    rest();
    wal.checkpoint(5).expect("a checkpoint");
    appears(&|positions| positions.checkpoint == 5);
    rest();
    wal.truncate_front(3).expect("a truncation");
    appears(&|positions| positions.first == 4);
}

#[test]
fn a_page_with_any_counts_is_shown_without_a_panic() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Wal::open(dir.path()).expect("a new log"));
    let page = dir.path().join("STATS");
    let mut bytes = fs::read(&page).expect("the page");
    bytes[12..696].fill(0xff);
    // Counts whose sum is more than a number holds.
    bytes[152..160].copy_from_slice(&1_u64.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..696]);
    bytes[696..700].copy_from_slice(&crc.to_le_bytes());
    fs::write(&page, &bytes).expect("a page");
    let live = Log::open(dir.path()).expect("a log").live().expect("a page").expect("a writer");
    let micros = live.stats.sync_micros;
    let _ = (micros.count(), micros.mean(), micros.quantile(1.0), micros.max());
}
