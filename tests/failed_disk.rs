//! Proves that a writer whose file system fails under it (ext4 and XFS in images, shut down while they are mounted) gets an
//! error and no signal: a single thread in `Sync` at whatever moment that comes, and in the other modes when nothing was
//! written back since the log asked for its pages. That everything that was acknowledged is there after the next mount, and
//! that a log which is left alone does not write.
//! Does not prove anything about several threads at the moment of the failure, nor about a page that the kernel writes back
//! between the question and the store: `SECURITY.md` says so. Where root may not mount, it says `SKIPPED`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod disk;

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use disk::{Disk, EXT4, XFS, on_disks};
use mmap_wal::{Background, Error, Options, SyncMode, Wal};

const ROLE: &str = "MMAP_WAL_TEST_ROLE";
const DIR: &str = "MMAP_WAL_TEST_DIR";

/// Rounds of each kind, in which the moment of the failure is left to chance.
fn rounds() -> u64 {
    std::env::var("MMAP_WAL_FAILURES").map_or(5, |rounds| rounds.parse().expect("a number of rounds"))
}

fn body(seq: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (seq.wrapping_mul(37) + i * 11) as u8).collect()
}

/// What a child does in place of the test that it was started as.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("a directory"));
    let (task, mode) = role.split_once(' ').expect("a task and a mode");
    let mode = match mode {
        "sync" => SyncMode::Sync,
        // Nothing becomes due by itself.
        "batch" => SyncMode::Batch { records: u32::MAX, delay: Duration::from_secs(1000) },
        "none" => SyncMode::None,
        other => panic!("{other}"),
    };
    let options = Options::new().sync_mode(mode);
    match task {
        "run" => append_until_it_fails(&options.segment_size(64 << 10).open(dir).expect("the log")),
        "pause" => pause(&options.segment_size(64 << 10).open(dir).expect("the log")),
        "submit" => submit_late(&options.segment_size(64 << 10).open(dir).expect("the log")),
        "close" => close_late(&options.segment_size(64 << 10).open(dir).expect("the log")),
        "rotate" => rotate_late(&options.segment_size(12 << 10).open(dir).expect("the log")),
        "ahead" => append_far(&options.segment_size(4 << 20).background(Background::Caller), &dir),
        "idle" => stay_idle(&options.segment_size(1 << 20).open(dir).expect("the log")),
        other => panic!("{other}"),
    }
}

fn say(line: &str) {
    println!("!{line}");
    std::io::stdout().flush().expect("a flush");
}

/// Says that the parent may go on, and waits until it has.
fn take_turns(what: &str) {
    say(what);
    std::io::stdin().read_line(&mut String::new()).expect("a line");
}

/// The log has been given up for what the system said; it says that again.
fn is_given_up(wal: &Wal, e: &Error) {
    let Error::Poisoned(cause) = e else { panic!("{e:?}") };
    assert!(matches!(**cause, Error::Io(_)), "{cause:?}");
    assert!(matches!(wal.append(b"more"), Err(Error::Poisoned(_))));
    assert!(wal.close().is_err());
    say(&format!("ended {e}"));
}

fn append_until_it_fails(wal: &Wal) {
    loop {
        let last = wal.positions().last;
        let appended = match last % 7 {
            3 => wal.append_batch(&[body(last + 1, 300), body(last + 2, 5000)]).map(|seqs| seqs.last().unwrap_or(0)),
            5 => wal
                .append_with(900, |to| {
                    to[..700].copy_from_slice(&body(last + 1, 700));
                    Ok::<_, ()>(700)
                })
                .map(|seq| seq.expect("a record")),
            _ => wal.append(&body(last + 1, 300)),
        };
        match appended {
            Ok(seq) => say(&seq.to_string()),
            Err(e) => return is_given_up(wal, &e),
        }
    }
}

/// Ends in the middle of a page that was just written back.
fn pause(wal: &Wal) {
    for seq in 1..=10 {
        wal.append(&body(seq, 300)).expect("an append");
    }
    wal.sync().expect("a sync");
    take_turns("10");
    append_until_it_fails(wal);
}

/// Has records in the page that the next one is stored to, which no sync of the log has written back since.
fn submit_late(wal: &Wal) {
    for seq in 1..=10 {
        wal.append(&body(seq, 300)).expect("an append");
    }
    drop(wal.submit(&body(11, 300)).expect("a record"));
    take_turns("10");
    let late = wal.submit(&body(12, 300)).map(drop).or_else(|e| wal.sync().and(Err(e)));
    let e = late.and_then(|()| wal.sync().map(drop)).expect_err("nothing can be written");
    is_given_up(wal, &e);
}

fn close_late(wal: &Wal) {
    wal.append(&body(1, 300)).expect("an append");
    wal.sync().expect("a sync");
    take_turns("1");
    let e = wal.close().expect_err("nothing can be written");
    assert!(matches!(e, Error::Poisoned(_)), "{e:?}");
    say(&format!("ended {e}"));
}

/// Ends where the next record goes into the next segment, none of which was stored to yet.
fn rotate_late(wal: &Wal) {
    wal.maintain().expect("a segment");
    wal.append(&body(1, 3000)).expect("an append");
    wal.sync().expect("a sync");
    take_turns("1");
    match wal.append(&body(2, 3000)) {
        // Its store was to a page that was asked for, and its sync is another matter.
        Ok(_) => is_given_up(wal, &wal.sync().expect_err("nothing can be written")),
        Err(e) => is_given_up(wal, &e),
    }
}

/// Appends far beyond what was looked at, and has the log look ahead meanwhile.
fn append_far(options: &Options, dir: &Path) {
    let wal = options.open(dir).expect("a new log");
    wal.append(&body(1, 300)).expect("an append");
    wal.close().expect("a close");
    let dir_of_log = std::fs::File::open(dir).expect("the directory");
    rustix::fs::syncfs(&dir_of_log).expect("what is dirty is written");
    let wal = options.open(dir).expect("the log");
    wal.append(&body(2, 300)).expect("an append");
    wal.maintain().expect("a look ahead");
    take_turns("1");
    // 600 KB, which is twice as far as a look makes writable.
    for seq in 3..2000 {
        let done = wal.append(&body(seq, 300)).map(drop).and_then(|()| wal.maintain());
        if let Err(e) = done {
            return is_given_up(&wal, &e);
        }
    }
    // ext4 takes stores to space that a file has, and fails when they are synced.
    is_given_up(&wal, &wal.sync().expect_err("nothing can be written"));
}

/// A child that appends.
struct Writing {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: u64,
}

impl Writing {
    fn start(role: &str, disk: &Disk) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["child", "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role).env(DIR, disk.log());
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { child, lines, acknowledged: 0 }
    }

    /// The next thing that it says; a number is the last that was acknowledged.
    fn next(&mut self) -> Option<String> {
        let said =
            self.lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.split_once('!')?.1.to_owned()))?;
        self.acknowledged = said.parse().unwrap_or(self.acknowledged);
        Some(said)
    }

    /// Waits until it has ended; the signal that ended it, if one did. It must have told its error otherwise.
    fn end(mut self, what: &str) -> (Option<i32>, u64) {
        // What it waits for, if it does.
        drop(self.child.stdin.take());
        let mut last = None;
        while let Some(said) = self.next() {
            last = Some(said);
        }
        let status = self.child.wait().expect("its end");
        if status.signal().is_none() {
            let last = last.unwrap_or_default();
            assert!(status.success() && last.starts_with("ended"), "{what}: {status}, {last}");
        }
        (status.signal(), self.acknowledged)
    }
}

/// The log as it is after the next mount holds what was acknowledged.
fn is_all_there(disk: &Disk, acknowledged: u64, what: &str) {
    disk.unmount().unwrap_or_else(|e| panic!("{what}: {e}"));
    disk.mount().unwrap_or_else(|e| panic!("{what}: {e}"));
    let wal = Options::new().segment_size(64 << 10).open(disk.log()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut seen = 0;
    for record in wal.snapshot().replay(0).expect("a replay") {
        let record = record.unwrap_or_else(|e| panic!("{what}: {e}"));
        seen += 1;
        assert_eq!(record.seq(), seen, "{what}");
        assert!(record.payload() == body(seen, record.payload().len()), "{what}: record {seen}");
    }
    assert!(seen >= acknowledged, "{what}: {seen} records of {acknowledged}");
    wal.close().unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// Keeps the processors and the file system busy, until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(disk: &Disk) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (spinning, writing, path) = (Arc::clone(&stop), Arc::clone(&stop), disk.mounted.join("load"));
        let spin = move || {
            while !spinning.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let write = move || {
            let Ok(file) = std::fs::File::create(path) else { return };
            let mut works = true;
            // It fails with the file system, which is the end of it.
            while works && !writing.load(Ordering::Relaxed) {
                works = file.write_all_at(&[1; 64 << 10], 0).is_ok() && file.sync_data().is_ok();
            }
        };
        Self { stop, threads: vec![std::thread::spawn(spin), std::thread::spawn(write)] }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread that ends by itself");
        }
    }
}

/// Lets the file system fail at a moment of chance; returns the signal that ended the writer, if one did.
fn fail_while_writing(disk: &Disk, round: u64, busy: bool, what: &str) -> Option<i32> {
    disk.clear();
    let load = busy.then(|| Load::start(disk));
    let mut writing = Writing::start("run sync", disk);
    // In one segment or behind several.
    while writing.acknowledged < 20 + 50 * (round % 9) {
        writing.next().unwrap_or_else(|| panic!("{what}: it ended by itself"));
    }
    disk.shut_down().unwrap_or_else(|e| panic!("{what}: {e}"));
    let (signal, acknowledged) = writing.end(what);
    drop(load);
    is_all_there(disk, acknowledged, what);
    signal
}

#[test]
fn a_single_thread_in_sync_is_never_ended_by_a_signal() {
    on_disks(&[EXT4, XFS], |disk, name| {
        for busy in [false, true] {
            let one = |round| fail_while_writing(disk, round, busy, &format!("{name}, busy: {busy}, round {round}"));
            let signals = (0..rounds()).filter_map(one).count();
            println!("{name}, busy: {busy}: {signals} of {} ended by a signal", rounds());
            assert_eq!(signals, 0, "{name}, busy: {busy}");
        }
    });
}

/// Lets the file system fail while the writer waits, and returns how it ends.
fn fail_meanwhile(disk: &Disk, role: &str, written_back: bool, what: &str) -> Option<i32> {
    disk.clear();
    let mut writing = Writing::start(role, disk);
    writing.next().unwrap_or_else(|| panic!("{what}: it ended by itself"));
    if written_back {
        disk.write_back();
    }
    disk.shut_down().unwrap_or_else(|e| panic!("{what}: {e}"));
    let (signal, acknowledged) = writing.end(what);
    is_all_there(disk, acknowledged, what);
    signal
}

#[test]
fn a_page_that_was_written_back_is_an_error_wherever_the_log_stores_to_it() {
    // What the kernel has written back by itself is asked for by `Sync` alone, and by a rotation and a close in any mode.
    let cases = [
        ("pause sync", true),
        ("pause sync", false),
        ("pause batch", false),
        ("pause none", false),
        ("submit sync", true),
        ("submit sync", false),
        ("close sync", true),
        ("close batch", true),
        ("close none", true),
        ("rotate sync", true),
        ("rotate batch", true),
        ("rotate none", true),
        ("ahead batch", false),
        ("ahead none", false),
    ];
    on_disks(&[EXT4, XFS], |disk, name| {
        let mut ended = Vec::new();
        for (role, written_back) in cases {
            let what = format!("{name}, {role}, written back: {written_back}");
            ended.extend(
                fail_meanwhile(disk, role, written_back, &what).map(|signal| format!("{what}: signal {signal}")),
            );
        }
        assert!(ended.is_empty(), "{}", ended.join("\n"));
    });
}

/// Bytes that this process has written so far, by the kernel's account: to the page cache, whenever they reach the device.
fn written() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// Appends, and says how much it has written whenever it is asked.
fn stay_idle(wal: &Wal) {
    for seq in 1..=100 {
        wal.append(&body(seq, 300)).expect("an append");
    }
    wal.sync().expect("a sync");
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).expect("a line") > 0 {
        say(&format!("wrote {}", written().unwrap_or(0)));
    }
    wal.close().expect("a close");
    say("ended");
}

/// What an idle writer writes while `time` passes, and everything that is dirty is written back again and again: what it
/// would store to once more would be counted once more.
fn written_meanwhile(disk: &Disk, writing: &mut Writing, time: Duration) -> u64 {
    let mut count = || {
        writing.child.stdin.as_mut().expect("its input").write_all(b"\n").expect("a line");
        let said = writing.next().expect("a count");
        said.strip_prefix("wrote ").and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let (before, end) = (count(), Instant::now() + time);
    while Instant::now() < end {
        disk.write_back();
        std::thread::sleep(Duration::from_millis(20));
    }
    count() - before
}

#[test]
fn a_log_that_is_left_alone_writes_nothing() {
    let idle = Duration::from_secs(std::env::var("MMAP_WAL_IDLE_SECONDS").map_or(1, |s| s.parse().expect("seconds")));
    on_disks(&[EXT4, XFS], |disk, name| {
        for mode in ["sync", "batch", "none"] {
            disk.clear();
            let mut writing = Writing::start(&format!("idle {mode}"), disk);
            // Until the log has seen that nothing happens.
            let settles = (0..60).any(|_| written_meanwhile(disk, &mut writing, Duration::from_millis(500)) == 0);
            assert!(settles, "{name}, {mode}: it writes for ever");
            assert_eq!(written_meanwhile(disk, &mut writing, idle), 0, "{name}, {mode}");
            assert_eq!(writing.end(mode).0, None);
        }
    });
}
