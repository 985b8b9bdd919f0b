//! A handle stays with the directory that it opened, whatever happens to the path to it, and touches nothing outside it.
//!
//! The present directory is that of the whole process, so the test that changes it is the only one here with a relative
//! path. Not shown here: removed or replaced files inside the directory (`world`).

mod fixture;
mod reference;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fixture::{SMALLEST, files_of};
use mmap_wal::inspect::Log;
use mmap_wal::{Background, Options, Reader, Tail, Wal};

fn options() -> Options {
    Options::new().segment_size(SMALLEST).background(Background::Caller)
}

fn payload(of: &str, seq: u64) -> Vec<u8> {
    format!("{of} {seq} {}", "x".repeat(500)).into_bytes()
}

/// Appends until `count` records of `of` are there, over many segments.
fn append(wal: &Wal, of: &str, count: u64) {
    for seq in wal.positions().last + 1..=count {
        assert_eq!(wal.append(&payload(of, seq)).expect("an append"), seq);
    }
}

/// A path that meant one directory when a log was opened by it, and means another one later.
struct Moved {
    _dir: tempfile::TempDir,
    /// By which everything is opened.
    path: PathBuf,
    /// Where the log is in the end.
    log: PathBuf,
    /// What `path` means in the end: another log.
    other: PathBuf,
    /// Changes the meaning.
    act: Box<dyn Fn()>,
}

fn other_log(at: &Path) {
    let other = options().open(at).expect("another log");
    append(&other, "other", 40);
    other.close().expect("closed");
}

/// The directory of the log is renamed, and another log begun under its name.
fn renamed() -> Moved {
    let dir = fixture::scratch();
    let (path, log) = (dir.path().join("data"), dir.path().join("kept"));
    let (from, to) = (path.clone(), log.clone());
    let act = Box::new(move || {
        std::fs::rename(&from, &to).expect("a renamed directory");
        other_log(&from);
    });
    Moved { other: path.clone(), path, log, act, _dir: dir }
}

/// A link above the directory of the log is made to lead elsewhere.
fn flipped() -> Moved {
    let dir = fixture::scratch();
    let at = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        std::fs::create_dir(at(name)).expect("a directory");
    }
    symlink(at("a"), at("now")).expect("a link");
    let (link, to, other) = (at("now"), at("b"), at("b/data"));
    let act = Box::new(move || {
        std::fs::remove_file(&link).expect("no link");
        symlink(&to, &link).expect("a link");
        other_log(&link.join("data"));
    });
    Moved { path: at("now/data"), log: at("a/data"), other, act, _dir: dir }
}

/// The log is opened by a relative path, and the process changes its directory.
fn left() -> Moved {
    let dir = fixture::scratch();
    let at = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        std::fs::create_dir(at(name)).expect("a directory");
    }
    std::env::set_current_dir(at("a")).expect("a directory");
    let (to, other) = (at("b"), at("b/data"));
    let act = Box::new(move || {
        std::env::set_current_dir(&to).expect("a directory");
        other_log(Path::new("data"));
    });
    Moved { path: "data".into(), log: at("a/data"), other, act, _dir: dir }
}

fn seqs(tail: &mut Tail) -> Vec<u64> {
    let mut seqs = Vec::new();
    while let Some(record) = tail.try_next().expect("a record") {
        assert!(record.payload().starts_with(b"log "));
        seqs.push(record.seq());
    }
    seqs
}

/// A tail that is far behind shows what it can still reach, and ends at a truncation or a cut.
fn shows_only_the_log(mut tail: Tail) {
    loop {
        match tail.try_next() {
            Ok(Some(record)) => assert!(record.payload().starts_with(b"log ")),
            Err(mmap_wal::Error::Truncated { .. } | mmap_wal::Error::TruncatedBack { .. }) => return,
            other => panic!("{other:?}"),
        }
    }
}

/// Everything that a log's handles do after the path to it has come to mean another log.
fn stays(moved: &Moved) {
    let wal = options().open(&moved.path).expect("a log");
    append(&wal, "log", 40);
    let reader = Reader::open(&moved.path).expect("a reader");
    let tail = reader.tail(0).expect("a tail");
    let log = Log::open(&moved.path).expect("a look");
    (moved.act)();
    let before = files_of(&moved.other);

    append(&wal, "log", 80);
    wal.checkpoint(70).expect("a checkpoint");
    wal.truncate_front(50).expect("a truncation");
    append(&wal, "log", 120);
    wal.truncate_back(100).expect("a cut");
    append(&wal, "log", 160);
    wal.set_meta(b"meta").expect("metadata");
    wal.maintain().expect("maintenance");

    let snapshot = reader.snapshot().expect("a snapshot");
    assert_eq!((snapshot.first_seq(), snapshot.last_seq()), (51, 160));
    for record in snapshot.replay(0).expect("a replay") {
        let record = record.expect("a record");
        assert_eq!(record.payload(), payload("log", record.seq()));
    }
    shows_only_the_log(tail);
    let mut tail = reader.tail(150).expect("a tail");
    assert!(seqs(&mut tail).into_iter().eq(151..=160));
    append(&wal, "log", 165);
    assert!(seqs(&mut tail).into_iter().eq(161..=165));

    assert_eq!(log.stat().expect("a look").last_seq, 165);
    assert!(log.verify(|_| {}).expect("a look").damages.is_empty());
    let to = moved.log.with_extension("copy");
    assert_eq!(log.copy(&to, 0, |_| {}).expect("a copy").last_seq, 165);
    // Nobody looks any more, so files are used again.
    drop((snapshot, tail, reader, log));
    wal.truncate_front(160).expect("a truncation");
    append(&wal, "log", 240);
    assert!(wal.stats().recycled > 0, "no file was used again");
    wal.close().expect("closed");
    assert!(files_of(&moved.other) == before, "the other log was touched");

    let wal = Wal::open(&moved.log).expect("the log");
    assert_eq!((wal.positions().first, wal.positions().last, wal.positions().checkpoint), (161, 240, 70));
    assert_eq!(*wal.meta(), *b"meta");
    drop(wal);
    repairs(moved, &before);
}

/// A repair changes the log that was looked at, and not what its path means now.
fn repairs(moved: &Moved, before: &reference::Files) {
    std::fs::rename(&moved.log, moved.log.with_extension("moving")).expect("a renamed directory");
    let log = Log::open(moved.log.with_extension("moving")).expect("a look");
    std::fs::rename(moved.log.with_extension("moving"), &moved.log).expect("a renamed directory");
    std::fs::rename(&moved.other, moved.log.with_extension("moving")).expect("a renamed directory");
    std::fs::remove_file(moved.log.join("MANIFEST")).expect("no manifest");
    let plan = log.plan_repair().expect("a plan");
    log.repair(&plan).expect("a repair");
    assert!(files_of(&moved.log.with_extension("moving")) == *before, "the other log was touched");
    assert_eq!(Wal::open(&moved.log).expect("the log").positions().last, 240);
}

#[test]
fn renamed_directory_keeps_its_log() {
    stays(&renamed());
}

#[test]
fn flipped_link_above_moves_no_log() {
    stays(&flipped());
}

#[test]
fn changed_present_directory_moves_no_log() {
    stays(&left());
}
