//! Proves what opening, reading and a durable append cost and need: that opening a cleanly closed log reads its manifest
//! and its tail and not its segments, and that an append writes one page, wherever in its segment it stands, both by
//! the kernel's own count; that thousands of segments need few file descriptors; and that processes
//! stand beside each other as promised: one writer, named to the second, and readers that never disturb it.
//! Does not prove how fast anything is.
//!
//! Children are this program again, told by the environment what to do.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fixture::{SMALLEST, scratch};
use mmap_wal::{Background, Error, Options, Reader, Snapshot, SyncMode, TailState, Wal};

const ROLE: &str = "MMAP_WAL_TEST_ROLE";
const DIR: &str = "MMAP_WAL_TEST_DIR";

/// What a child does in place of the test that it was started as.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("a directory"));
    match role.as_str() {
        "open" => report_cost_of_open(&dir),
        "append" => report_cost_of_appends(&dir, false),
        "append again" => report_cost_of_appends(&dir, true),
        "many" => open_many(&dir),
        "write" => write_until_told(&dir),
        "second" => say_who_holds(&dir),
        "read" => read_beside_a_writer(&dir),
        other => panic!("{other}"),
    }
}

fn command(role: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["child", "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role).env(DIR, dir);
    command
}

/// What a child says in lines that begin with `!`; it must end well.
fn said(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| Some(line.split_once('!')?.1.to_owned())).collect()
}

fn body(seq: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (seq.wrapping_mul(37) + i * 11) as u8).collect()
}

/// Looks at every record of `snapshot`, which begins at 1.
fn verify(snapshot: &Snapshot, len: usize) -> u64 {
    let mut seq = 0;
    for record in snapshot.replay(0).expect("a replay") {
        let record = record.expect("a record");
        seq += 1;
        assert_eq!(record.seq(), seq);
        assert!(record.payload() == body(seq, len), "record {seq}");
    }
    assert_eq!(seq, snapshot.last_seq());
    seq
}

// ---- what an open reads ----

const SEGMENT: u64 = 1 << 20;
const SEGMENTS: u64 = 60;
const BIG: usize = 32 << 10;
/// Read-ahead, the program's own pages, the directory.
const SLACK: u64 = 1 << 20;

fn io_count(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
}

fn report_cost_of_open(dir: &Path) {
    let counts = || Some((io_count("read_bytes")?, io_count("write_bytes")?));
    let Some(before) = counts() else { return };
    let wal = Options::new().segment_size(SEGMENT).open(dir).expect("the log");
    let after = counts().expect("a count");
    assert_eq!(wal.recovery().tail, TailState::Clean);
    println!("!{} {} {}", after.0 - before.0, after.1 - before.1, wal.positions().last);
    // As a killed process ends: nothing more is written.
    std::process::exit(0);
}

/// Drops what the page cache holds of the files of `dir`.
fn forget(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("the directory") {
        let file = File::open(entry.expect("an entry").path()).expect("a file");
        file.sync_all().expect("a sync");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }
}

/// Whether reads of files beside `dir` are counted: not on file systems in memory, nor without the kernel's accounting.
fn counts_reads(dir: &Path) -> bool {
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    std::fs::write(dir.path().join("probe"), vec![1; 4 << 20]).expect("a file");
    forget(dir.path());
    let before = io_count("read_bytes");
    let read = std::fs::read(dir.path().join("probe")).expect("a file");
    assert_eq!(read.len(), 4 << 20);
    matches!((before, io_count("read_bytes")), (Some(before), Some(after)) if after >= before + (4 << 20))
}

/// A directory where reads are counted; `None`, and it is said, if there is none.
fn dir_on_disk() -> Option<tempfile::TempDir> {
    let on_disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if counts_reads(on_disk) {
        return Some(tempfile::tempdir_in(on_disk).expect("a directory"));
    }
    println!("SKIPPED: /proc/self/io counts no reads of files in {}", on_disk.display());
    None
}

#[test]
fn opening_a_closed_log_reads_its_manifest_and_its_tail_and_writes_a_few_pages() {
    let Some(dir) = dir_on_disk() else { return };
    let wal = Options::new().segment_size(SEGMENT).sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    let is_full = |wal: &Wal| {
        std::fs::metadata(dir.path().join(fixture::segment(SEGMENTS + 1))).is_ok() && wal.positions().last > 0
    };
    let mut last = 0;
    while !is_full(&wal) {
        last = wal.append(&body(last + 1, BIG)).expect("an append");
    }
    for _ in 0..5 {
        last = wal.append(&body(last + 1, BIG)).expect("an append");
    }
    wal.close().expect("a close");
    drop(wal);
    forget(dir.path());
    let said = said(&mut command("open", dir.path()));
    let numbers: Vec<u64> = said[0].split(' ').map(|word| word.parse().expect("a number")).collect();
    let [read, written, found] = numbers[..] else { panic!("{said:?}") };
    println!("{read} bytes read, {written} written, of {} in {SEGMENTS} segments", SEGMENTS * SEGMENT);
    assert_eq!(found, last);
    assert!(read > 0, "the cache was not dropped, so this shows nothing");
    assert!(read <= SEGMENT + SLACK, "{read} bytes were read: more than the tail");
    assert!(written <= 16 << 10, "{written} bytes were written");
    // Killed at once, it is whole all the same.
    let wal = Options::new().segment_size(SEGMENT).open(dir.path()).expect("the log");
    assert_eq!(verify(&wal.snapshot(), BIG), last);
}

// ---- what an append writes ----

/// Long enough that the system, where it reads ahead, does so in folios of hundreds of KiB towards the end.
const LONG: u64 = 40 << 20;
const FILLER: usize = 8 << 20;
const PLACES: u64 = 9;
const APPENDS: u64 = 50;

/// Appends at places all over two segments and more; says how many bytes an append there wrote, and whether a file was
/// used again.
fn report_cost_of_appends(dir: &Path, again: bool) {
    // No thread writes anything meanwhile.
    let wal = Options::new().segment_size(LONG).background(Background::Caller).open(dir).expect("the log");
    if again {
        wal.truncate_front(u64::MAX).expect("a truncation");
    }
    for _ in 0..PLACES {
        wal.append(&vec![0xa5; FILLER]).expect("an append");
        let before = io_count("write_bytes").expect("a count");
        for _ in 0..APPENDS {
            wal.append(&[0xa5; 128]).expect("an append");
        }
        println!("!{}", (io_count("write_bytes").expect("a count") - before) / APPENDS);
    }
    assert_eq!(wal.stats().recycled > 0, again);
}

#[test]
fn a_durable_append_writes_its_page_and_not_what_the_system_has_read_ahead() {
    let Some(dir) = dir_on_disk() else { return };
    for (role, before) in [("append", "nothing"), ("append", "a cold start"), ("append again", "a cold replay")] {
        forget(dir.path());
        if role == "append again" {
            let reader = Reader::open(dir.path()).expect("a reader");
            let snapshot = reader.snapshot().expect("a snapshot");
            assert!(snapshot.replay(0).expect("a replay").all(|record| record.is_ok()));
        }
        let written: Vec<u64> =
            said(&mut command(role, dir.path())).iter().map(|line| line.parse().expect("a number")).collect();
        println!("after {before}: {written:?} bytes an append");
        assert_eq!(written.len() as u64, PLACES);
        assert!(written.iter().all(|bytes| (128..=4608).contains(bytes)), "after {before}: {written:?}");
    }
}

// ---- many segments ----

const MANY: u64 = 2000;
const MANY_SIZE: u64 = 64 << 10;
const MANY_LEN: usize = 28_000;
const FILES: u64 = 256;

fn open_many(dir: &Path) {
    let limit = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let open_files = limit.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    assert!(open_files.split_whitespace().any(|word| word == FILES.to_string()), "{open_files}");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let wal = Options::new().segment_size(MANY_SIZE).sync_mode(SyncMode::None).open(dir).expect("the log");
    let snapshot = wal.snapshot();
    let mut seq = verify(&snapshot, MANY_LEN);
    let while_mapped = descriptors();
    for _ in 0..20 {
        seq = wal.append(&body(seq + 1, MANY_LEN)).expect("an append");
    }
    let reader = Reader::open(dir).expect("a reader").snapshot().expect("a view");
    assert_eq!(verify(&reader, MANY_LEN), seq);
    println!("!{seq} {}", while_mapped.max(descriptors()));
}

#[test]
fn two_thousand_segments_are_opened_and_read_with_few_descriptors() {
    let dir = scratch();
    let wal = Options::new().segment_size(MANY_SIZE).sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    for seq in 1..=2 * MANY {
        // Two fill a segment.
        assert_eq!(wal.append(&body(seq, MANY_LEN)).expect("an append"), seq);
    }
    wal.close().expect("a close");
    drop(wal);
    let segments = fixture::files_of(dir.path()).into_keys().filter(|name| name.ends_with(".wal")).count() as u64;
    assert!(segments >= MANY, "{segments}");
    let child = command("many", dir.path());
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {FILES}; exec \"$@\""), "sh"]).arg(child.get_program());
    limited.args(child.get_args()).env(ROLE, "many").env(DIR, dir.path());
    let said = said(&mut limited);
    let (seq, descriptors) = said[0].split_once(' ').expect("two numbers");
    println!("{segments} segments, {seq} records, {descriptors} descriptors");
    assert_eq!(seq.parse(), Ok(2 * MANY + 20));
    assert!(descriptors.parse::<u64>().expect("a number") < 32, "{descriptors}");
}

// ---- processes beside each other ----

const SHORT: usize = 100;

/// Appends until its standard input ends, and says what was acknowledged.
fn write_until_told(dir: &Path) {
    let wal = Options::new().segment_size(SMALLEST).sync_mode(SyncMode::batch(50)).open(dir).expect("the log");
    println!("!ready {}", std::process::id());
    std::io::stdout().flush().expect("a flush");
    let stop = std::thread::spawn(|| std::io::stdin().lines().count());
    let mut seq = wal.positions().last;
    while !stop.is_finished() {
        seq = wal.append(&body(seq + 1, SHORT)).expect("an append");
        if seq.is_multiple_of(64) {
            wal.append_batch(&[body(seq + 1, SHORT), body(seq + 2, SHORT), body(seq + 3, SHORT)]).expect("a batch");
            seq += 3;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    wal.close().expect("a close");
    println!("!{seq}");
}

fn say_who_holds(dir: &Path) {
    match Options::new().open(dir) {
        Err(Error::Locked { pid, .. }) => println!("!{}", pid.expect("a pid")),
        other => panic!("{other:?}"),
    }
}

/// Reads again and again while the writer appends, and says how far it saw, how often.
fn read_beside_a_writer(dir: &Path) {
    let reader = Reader::open(dir).expect("a reader");
    let (mut seen, mut views) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let snapshot = reader.snapshot().unwrap_or_else(|e| panic!("{e}"));
        seen.push(verify(&snapshot, SHORT));
        views.push(snapshot);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(seen.is_sorted(), "what was seen is always seen: {seen:?}");
    // Old views show what they showed.
    for (view, last) in views.iter().zip(&seen).step_by(15) {
        assert_eq!(verify(view, SHORT), *last);
    }
    println!("!{} {}", seen[0], seen[seen.len() - 1]);
}

/// A writer in another process.
struct Writing {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    pid: u32,
}

impl Writing {
    fn start(dir: &Path) -> Self {
        let mut child = command("write", dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a writer");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let ready =
            lines.find_map(|line| Some(line.ok()?.split_once("!ready ")?.1.to_owned())).expect("a ready writer");
        Self { pid: ready.parse().expect("a pid"), child, lines }
    }

    /// Ends it, and returns the last number that it was given.
    fn stop(mut self) -> u64 {
        drop(self.child.stdin.take());
        let last = self.lines.find_map(|line| line.ok()?.split_once('!')?.1.parse().ok()).expect("a last number");
        assert!(self.child.wait().expect("its end").success());
        last
    }
}

#[test]
fn a_second_process_is_told_who_writes() {
    let dir = scratch();
    let writer = Writing::start(dir.path());
    assert_eq!(said(&mut command("second", dir.path())), [writer.pid.to_string()]);
    assert_ne!(writer.pid, std::process::id());
    let last = writer.stop();
    let wal = Options::new().segment_size(SMALLEST).open(dir.path()).expect("nobody writes any more");
    assert_eq!(verify(&wal.snapshot(), SHORT), last);
}

#[test]
fn a_killed_writer_leaves_the_lock_free_and_everything_published() {
    let dir = scratch();
    let mut writer = Writing::start(dir.path());
    std::thread::sleep(std::time::Duration::from_millis(100));
    let seen = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a view").last_seq();
    writer.child.kill().expect("a kill");
    writer.child.wait().expect("its end");
    let wal = Options::new().segment_size(SMALLEST).open(dir.path()).expect("a killed process holds no lock");
    assert!(verify(&wal.snapshot(), SHORT) >= seen);
}

#[test]
fn a_reader_in_another_process_sees_only_what_was_appended_and_more_each_time() {
    let dir = scratch();
    let writer = Writing::start(dir.path());
    let said = said(&mut command("read", dir.path()));
    let last = writer.stop();
    let (from, to) = said[0].split_once(' ').expect("two numbers");
    let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
    println!("saw {from} to {to} of {last}");
    assert!(from < to && to <= last, "{from} to {to} of {last}: nothing was appended meanwhile");
}

#[test]
fn readers_never_lock_a_writer_out() {
    let dir = scratch();
    let options = Options::new().segment_size(SMALLEST).sync_mode(SyncMode::None);
    drop(options.open(dir.path()).expect("a new log"));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            for _ in 0..200 {
                let snapshot = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a view");
                verify(&snapshot, SHORT);
            }
        });
        for _ in 0..200 {
            let wal = options.open(dir.path()).unwrap_or_else(|e| panic!("{e}"));
            let seq = wal.positions().last + 1;
            assert_eq!(wal.append(&body(seq, SHORT)).expect("an append"), seq);
            wal.close().expect("a close");
        }
        reading.join().expect("a reader");
    });
    assert_eq!(verify(&options.open(dir.path()).expect("the log").snapshot(), SHORT), 200);
}
