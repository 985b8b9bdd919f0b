//! Proves that a log whose process may only make files of a certain size (`RLIMIT_FSIZE`, `ulimit -f`) is told so by an error
//! that names the limit and the file, and is never ended by `SIGXFSZ`: when it is created, when it needs a segment or a place
//! in its MANIFEST, when it is opened, copied, repaired or salvaged. That nothing appended is lost, no number is used, and the
//! log goes on when the limit is raised or a file can be used again.
//! Does not prove anything about limits that change while a call is on its way.
//!
//! The limit is that of a whole process, so children are this program again, told by the environment what to do.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mmap_wal::{Background, Error, Options, Reader, SyncMode, Wal, inspect};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const TASK: &str = "MMAP_WAL_TEST_ROLE";
const DIR: &str = "MMAP_WAL_TEST_DIR";
const SEGMENT: u64 = 1 << 20;
/// Less than a segment, and more than a MANIFEST.
const LIMIT: u64 = 256 << 10;
const RECORD: usize = 3000;

fn limit_to(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).expect("a limit");
}

fn body(seq: u64) -> Vec<u8> {
    (0..RECORD as u64).map(|i| (seq.wrapping_mul(37) + i * 11) as u8).collect()
}

fn options(mode: SyncMode, background: Background) -> Options {
    Options::new().segment_size(SEGMENT).sync_mode(mode).background(background)
}

/// The error is want of space, for the limit `bytes` and a file whose name ends in `name`.
fn is_limited<T: std::fmt::Debug>(outcome: Result<T, Error>, bytes: u64, name: &str) {
    let Err(Error::NoSpace(failure)) = &outcome else { panic!("{outcome:?}") };
    assert!(failure.path.to_string_lossy().ends_with(name), "{failure}");
    let said = outcome.expect_err("an error").to_string();
    assert!(said.contains(&format!("{bytes} bytes")) && said.contains("ulimit -f"), "{said}");
}

fn shows(wal: &Wal, first: u64, last: u64) {
    let snapshot = wal.snapshot();
    assert_eq!((snapshot.first_seq(), snapshot.last_seq()), (first, last));
    let mut seq = first;
    for record in snapshot.replay(first - 1).expect("a replay") {
        let record = record.expect("a record");
        assert!(record.seq() == seq && record.payload() == body(seq), "record {seq}");
        seq += 1;
    }
    assert_eq!(seq, last + 1);
}

/// Appends until a segment is needed that may not be made.
fn fill(wal: &Wal) -> u64 {
    loop {
        let last = wal.positions().last;
        match wal.append(&body(last + 1)) {
            Ok(seq) => assert_eq!(seq, last + 1),
            refused => {
                is_limited(refused, LIMIT, ".wal");
                assert_eq!(wal.positions().last, last);
                return last;
            }
        }
    }
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(dir).expect("the directory").map(|entry| entry.expect("an entry").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
}

/// Three segments of records, closed.
fn make(dir: &Path) -> u64 {
    let wal = options(SyncMode::None, Background::Caller).open(dir).expect("a new log");
    for seq in 1..=2 * SEGMENT / RECORD as u64 + 100 {
        wal.append(&body(seq)).expect("an append");
        wal.maintain().expect("maintenance");
    }
    wal.close().expect("a close");
    wal.positions().last
}

#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("a directory"));
    match task.as_str() {
        "create" => create(&dir),
        "append" => append(&dir),
        "manifest" => update_manifest(&dir),
        "open" => open_and_read(&dir),
        "copy" => copy(&dir),
        "repair" => repair(&dir),
        other => panic!("{other}"),
    }
}

fn create(dir: &Path) {
    for limit in [0, 4096, LIMIT] {
        limit_to(Some(limit));
        is_limited(options(SyncMode::Sync, Background::Thread).open(dir.join("log")), limit, ".wal");
    }
    limit_to(None);
    let wal = options(SyncMode::Sync, Background::Thread).open(dir.join("log")).expect("a new log");
    assert_eq!(wal.append(&body(1)).expect("an append"), 1);
}

fn append(dir: &Path) {
    for (i, mode) in [SyncMode::Sync, SyncMode::batch(10), SyncMode::None].into_iter().enumerate() {
        for background in [Background::Thread, Background::Caller] {
            let dir = dir.join(format!("{i}{background:?}"));
            let wal = options(mode, background).open(&dir).expect("a new log");
            wal.append(&body(1)).expect("an append");
            limit_to(Some(LIMIT));
            let last = fill(&wal);
            assert!(last > SEGMENT / RECORD as u64, "the segments that are there are used: {last}");
            is_limited(wal.append_batch(&[body(last + 1), body(last + 2)]), LIMIT, ".wal");
            is_limited(wal.submit(&body(last + 1)), LIMIT, ".wal");
            wal.checkpoint(last / 2).expect("a checkpoint");
            wal.set_meta(&[7; 1024]).expect("metadata");
            assert_eq!(wal.sync().expect("a sync"), last);
            shows(&wal, 1, last);
            // A file that is used again does not become longer.
            let first = last / 2 + 11;
            wal.truncate_front(first - 1).expect("a truncation");
            assert_eq!(wal.append(&body(last + 1)).expect("an append"), last + 1);
            shows(&wal, first, last + 1);
            wal.close().expect("a close");
            drop(wal);
            let wal = options(mode, background).open(&dir).expect("the log");
            shows(&wal, first, last + 1);
            let last = fill(&wal);
            limit_to(None);
            assert_eq!(wal.append(&body(last + 1)).expect("an append"), last + 1);
            shows(&wal, first, last + 1);
        }
    }
}

fn update_manifest(dir: &Path) {
    let wal = options(SyncMode::Sync, Background::Caller).open(dir).expect("a new log");
    wal.append(&body(1)).expect("an append");
    for limit in [0, 4096, 64 << 10, (64 << 10) + 1] {
        limit_to(Some(limit));
        is_limited(wal.checkpoint(1), limit, "MANIFEST");
        is_limited(wal.truncate_front(1), limit, "MANIFEST");
        is_limited(wal.truncate_back(0), limit, "MANIFEST");
        is_limited(wal.reset(1000), limit, "MANIFEST");
        is_limited(wal.set_meta(b"x"), limit, "MANIFEST");
        wal.append(&body(wal.positions().last + 1)).expect("an append to a segment that is there");
    }
    limit_to(None);
    wal.checkpoint(1).expect("a checkpoint");
    let last = wal.positions().last;
    shows(&wal, 1, last);
    limit_to(Some(4096));
    is_limited(wal.close(), 4096, "MANIFEST");
    drop(wal);
    limit_to(None);
    shows(&options(SyncMode::Sync, Background::Caller).open(dir).expect("the log"), 1, last);
}

fn open_and_read(dir: &Path) {
    let last = make(dir);
    for limit in [0, 4096, 64 << 10] {
        limit_to(Some(limit));
        is_limited(options(SyncMode::Sync, Background::Thread).open(dir), limit, "");
        let reader = Reader::open(dir).expect("a reader");
        assert_eq!(reader.snapshot().expect("a snapshot").last_seq(), last);
        if limit == 0 {
            is_limited(reader.tail(0).expect("a tail").announced().map(drop), limit, "STATS");
        }
        let mut tail = reader.tail(0).expect("a tail");
        assert_eq!(tail.try_next().expect("the log").map(|record| record.seq()), Some(1));
        assert_eq!(inspect::Log::open(dir).expect("the log").verify(|_| {}).expect("a look").records, last);
    }
    limit_to(None);
    shows(&options(SyncMode::Sync, Background::Thread).open(dir).expect("the log"), 1, last);
}

fn copy(dir: &Path) {
    let (from, to) = (dir.join("log"), dir.join("copy"));
    let last = make(&from);
    let copy = || inspect::Log::open(&from).expect("the log").copy(&to, 0, |_| {});
    for limit in [0, 4096, LIMIT] {
        limit_to(Some(limit));
        is_limited(copy(), limit, "");
    }
    limit_to(None);
    copy().expect("a copy");
    shows(&options(SyncMode::Sync, Background::Thread).open(&to).expect("the copy"), 1, last);
}

fn repair(dir: &Path) {
    let (log, out) = (dir.join("log"), dir.join("out"));
    let last = make(&log);
    std::fs::remove_file(log.join("MANIFEST")).expect("a loss");
    let found = inspect::Log::open(&log).expect("the log");
    let (plan, before) = (found.plan_repair().expect("a plan"), files(&log));
    for limit in [0, 4096, 64 << 10] {
        limit_to(Some(limit));
        is_limited(found.salvage(&out), limit, "");
        std::fs::remove_dir_all(&out).expect("what a salvage has begun");
        is_limited(found.repair(&plan), limit, "");
    }
    limit_to(None);
    for (path, bytes) in before {
        assert!(std::fs::read(&path).expect("a file") == bytes, "{}", path.display());
    }
    found.salvage(&out).expect("a salvage");
    shows(&options(SyncMode::Sync, Background::Thread).open(&out).expect("the new log"), 1, last);
}

/// Runs a child that does `task`, in a directory of its own.
fn does(task: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["child", "--exact", "--nocapture", "--test-threads=1"]).env(TASK, task).env(DIR, dir.path());
    let output = child.output().expect("a child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{task}: {}\n{said}", output.status);
}

#[test]
fn a_log_that_may_not_have_its_segments_is_not_created() {
    does("create");
}

#[test]
fn an_append_that_needs_a_segment_is_refused_and_nothing_is_lost() {
    does("append");
}

#[test]
fn a_manifest_beyond_the_limit_is_not_written_and_the_log_goes_on() {
    does("manifest");
}

#[test]
fn an_open_is_refused_and_a_reader_reads() {
    does("open");
}

#[test]
fn a_copy_stops_and_can_be_made_again() {
    does("copy");
}

#[test]
fn a_repair_and_a_salvage_stop_and_leave_everything_as_it_was() {
    does("repair");
}
