//! Proves that a log which is open for writing shows what it does to other processes, that readers can say where they
//! stand, and that nothing depends on the page on which all that stands.
//! Does not prove that the figures are never a tenth of a second old: they are.
#![allow(missing_docs)]

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use mmap_wal::inspect::{LiveStat, Log};
use mmap_wal::{Background, Options, Reader, SyncMode, Wal};

const LONG: Duration = Duration::from_secs(60);

fn live(dir: &std::path::Path) -> LiveStat {
    Log::open(dir).expect("a log").live().expect("a page").expect("a writer that shows itself")
}

#[test]
fn a_log_shows_its_positions_and_what_it_counted_in_every_mode_without_being_asked() {
    for (mode, name) in [(SyncMode::Sync, "sync"), (SyncMode::batch(5), "batch"), (SyncMode::None, "none")] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = Options::new().segment_size(12 << 10).sync_mode(mode).open(dir.path()).expect("a new log");
        for _ in 0..200 {
            wal.append(&[7; 200]).expect("an append");
        }
        wal.sync().expect("a sync");
        wal.checkpoint(50).expect("a checkpoint");
        let seen = loop {
            let seen = live(dir.path());
            if (seen.positions, seen.stats) == (wal.positions(), wal.stats()) {
                break seen;
            }
            std::thread::yield_now();
        };
        assert_eq!((seen.pid, seen.sync_mode), (Some(std::process::id()), name));
        assert!(seen.segments > 1 && seen.stats.rotations > 1 && seen.stats.sync_micros.count() > 0);
        wal.close().expect("a close");
        let seen = live(dir.path());
        assert_eq!((seen.pid, seen.positions), (None, wal.positions()));
    }
}

#[test]
fn without_threads_maintain_shows_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = Options::new().background(Background::Caller).open(dir.path()).expect("a new log");
    wal.append(b"x").expect("an append");
    wal.maintain().expect("maintenance");
    assert_eq!(live(dir.path()).positions, wal.positions());
}

#[test]
fn a_reader_that_announces_itself_is_shown_with_what_it_has_dealt_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = Options::new().open(dir.path()).expect("a new log");
    for _ in 0..10 {
        wal.append(b"x").expect("an append");
    }
    let reader = Reader::open(dir.path()).expect("a reader");
    let mut tail = reader.tail(0).expect("a tail").announced().expect("a slot");
    let mut other = wal.tail(3).expect("a tail").announced().expect("a slot");
    for _ in 0..4 {
        tail.try_next().expect("the log").expect("a record");
    }
    tail.wait(LONG).expect("more records");
    let seqs: Vec<u64> = loop {
        // A reader that says nothing for ten seconds is not shown, and this thread may be held up for longer.
        tail.seek(7).expect("a way");
        other.seek(3).expect("a way");
        let _ = wal.maintain();
        let readers = live(dir.path()).readers;
        if readers.len() == 2 {
            break readers.iter().map(|reader| reader.seq).collect();
        }
    };
    assert_eq!(seqs, [7, 3]);
    drop((tail, other));
    assert!(live(dir.path()).readers.is_empty());
}

#[test]
fn a_page_that_is_gone_damaged_or_something_else_stands_in_nobodys_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("STATS");
    let outside = tempfile::NamedTempFile::new().expect("a file");
    for round in 0..6_u64 {
        let wal = Wal::open(dir.path()).expect("the log");
        assert_eq!(wal.append(b"x").expect("an append"), round + 1);
        drop(wal);
        assert!(Log::open(dir.path()).expect("the log").verify(|_| {}).expect("a look").damages.is_empty());
        let _ = fs::remove_dir(&page).or_else(|_| fs::remove_file(&page));
        match round {
            0 => fs::write(&page, [0xff; 4096]).expect("noise"),
            1 => fs::write(&page, b"short").expect("a short page"),
            2 => fs::create_dir(&page).expect("a directory"),
            3 => symlink(outside.path(), &page).expect("a link"),
            _ => {}
        }
        let shown = Log::open(dir.path()).expect("the log").live();
        assert!(matches!(shown, Ok(None) | Err(_)));
    }
    assert_eq!(outside.as_file().metadata().expect("the file").len(), 0);
}

#[test]
fn a_log_whose_page_was_damaged_is_shown_again_by_its_next_writer() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Wal::open(dir.path()).expect("a new log"));
    fs::write(dir.path().join("STATS"), [0xff; 4096]).expect("noise");
    let wal = Wal::open(dir.path()).expect("the log");
    wal.append(b"x").expect("an append");
    wal.close().expect("a close");
    assert_eq!(live(dir.path()).positions, wal.positions());
}
