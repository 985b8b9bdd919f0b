//! Proves that appending in `None`, and in `Batch` within its window, and following take no system call and no allocation
//! while the segment lasts, and that what is shown stands in the segment's own memory. A kernel that kills at the first system call is the witness. That a new log
//! without syncs takes no page fault for its first two segments.
//! Does not prove that no page fault comes between later, nor how long anything takes: that is for the benches. An append in
//! `Sync` makes system calls: it makes its pages writable, and syncs.
#![allow(missing_docs)]

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mmap_wal::{Background, Options, Reader, SyncMode, Wal};

/// Names the directory to a child, which is this test binary again.
const CHILD: &str = "MMAP_WAL_HOT_PATH_DIR";
const COUNT: u64 = 100_000;
const PAYLOAD: [u8; 128] = [7; 128];

fn open(dir: &Path) -> Wal {
    // 64 MiB: none of this rotates.
    Options::new().sync_mode(SyncMode::None).open(dir).expect("a new log")
}

#[test]
fn nothing_is_allocated_for_a_record_that_is_appended_or_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = open(dir.path());
    let mut tails =
        [wal.tail(0).expect("a tail"), Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail")];
    wal.append(&PAYLOAD).expect("an append");
    let appends = allocation_counter::measure(|| {
        for _ in 1..COUNT {
            wal.append(&PAYLOAD).expect("an append");
        }
    });
    assert_eq!(appends.count_total, 0, "{appends:?}");
    for tail in &mut tails {
        assert_eq!(tail.try_next().expect("the log").map(|record| record.seq()), Some(1));
        let shown = allocation_counter::measure(|| {
            for seq in 2..COUNT / 2 {
                assert_eq!(tail.try_next().expect("the log").map(|record| record.seq()), Some(seq));
            }
            assert_eq!(tail.available().expect("the log").filter(Result::is_ok).count() as u64, COUNT / 2 + 1);
        });
        assert_eq!(shown.count_total, 0, "{shown:?}");
    }
    let snapshot = wal.snapshot();
    let mut replay = snapshot.replay(0).expect("a replay");
    let replayed =
        allocation_counter::measure(|| assert_eq!(replay.by_ref().filter(Result::is_ok).count() as u64, COUNT));
    assert_eq!(replayed.count_total, 0, "{replayed:?}");
    let beside = Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot");
    for snapshot in [snapshot, beside] {
        // The first one may learn where the others stand.
        snapshot.get(COUNT).expect("the log").expect("a record");
        let got = allocation_counter::measure(|| {
            for seq in (1..=COUNT).step_by(7) {
                assert_eq!(snapshot.get(seq).expect("the log").map(|record| record.seq()), Some(seq));
            }
        });
        assert_eq!(got.count_total, 0, "{got:?}");
        let mut back = snapshot.replay_back(u64::MAX).expect("a replay");
        let replayed =
            allocation_counter::measure(|| assert_eq!(back.by_ref().filter(Result::is_ok).count() as u64, COUNT));
        // Where the records of one block of 64 stand.
        assert!(replayed.count_total <= 10 && replayed.bytes_max <= 1024, "{replayed:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn payloads_are_slices_of_the_mapped_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = open(dir.path());
    wal.append(&PAYLOAD).expect("an append");
    let reader = Reader::open(dir.path()).expect("a reader");
    let (own, other) = (wal.snapshot(), reader.snapshot().expect("a snapshot"));
    let (mut tail, mut beside) = (reader.tail(0).expect("a tail"), wal.tail(0).expect("a tail"));
    let pinned = own.clone().into_replay(0).expect("a replay").next().expect("a record").expect("a record");
    let shown = [
        pinned.payload(),
        own.replay_back(u64::MAX).expect("a replay").next().expect("a record").expect("a record").payload(),
        beside.available().expect("the log").next().expect("a record").expect("a record").payload(),
        own.replay(0).expect("a replay").next().expect("a record").expect("a record").payload(),
        other.get(1).expect("the log").expect("a record").payload(),
        tail.try_next().expect("the log").expect("a record").payload(),
    ];
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the maps of this process");
    for payload in shown {
        let at = payload.as_ptr().addr();
        let holds = |line: &&str| {
            let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
            let address = |text| usize::from_str_radix(text, 16).expect("an address");
            (address(from)..address(to)).contains(&at)
        };
        let map = maps.lines().find(holds).expect("a mapping");
        assert!(map.ends_with("00000000000000000001.wal"), "{map}");
    }
}

/// Runs under a filter that lets nothing through but `read`, `write` and the end; an ordinary run finds nothing to do.
#[test]
#[cfg(target_os = "linux")]
fn child_under_the_filter() {
    let Ok(task) = std::env::var(CHILD) else { return };
    // The kernel kills the thread alone, and that is noticed by whoever joins it.
    std::thread::spawn(move || under_the_filter(&task)).join().expect("a thread that ends by itself");
}

#[cfg(target_os = "linux")]
fn under_the_filter(task: &str) {
    let (task, dir) = task.split_once(':').expect("a task");
    let wal = match task {
        // Nothing is due while this lasts.
        "batch" => Options::new().sync_mode(SyncMode::Batch { records: u32::MAX, delay: Duration::from_secs(1000) }),
        _ => Options::new().sync_mode(SyncMode::None),
    };
    let wal = wal.open(dir).expect("a new log");
    let appends = |count| {
        for _ in 0..count {
            wal.append(&PAYLOAD).expect("an append");
        }
    };
    let mut tail = match task {
        "handle" => wal.tail(0).expect("a tail"),
        _ => Reader::open(dir).expect("a reader").tail(0).expect("a tail"),
    };
    // The first append calls the thread that looks after the rest, and the first look brings the segment in.
    appends(10);
    tail.try_next().expect("the log").expect("a record");
    let mut out = std::io::stderr();
    rustix::thread::set_secure_computing_mode(rustix::thread::SecureComputingMode::Strict).expect("a filter");
    if matches!(task, "append" | "batch") {
        appends(COUNT);
    } else if task == "control" {
        // Not one of the calls that are let through.
        drop(std::fs::metadata(dir));
    } else {
        // The other thread of the log looks on, and appends go on between the looks.
        for seq in 2..COUNT {
            appends(1);
            assert_eq!(tail.try_next().expect("the log").map(|record| record.seq()), Some(seq));
        }
    }
    out.write_all(b"every call was let through\n").expect("the one call");
    // What ends a thread is not let through either.
    drop(std::fs::metadata(dir));
}

#[test]
#[cfg(target_os = "linux")]
fn no_system_call_is_made_for_a_record_that_is_appended_or_followed() {
    for (task, expected) in [("append", true), ("batch", true), ("handle", true), ("files", true), ("control", false)] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(std::env::current_exe().expect("this binary"));
        child.args(["--exact", "child_under_the_filter", "--nocapture", "--test-threads=1"]);
        child.env(CHILD, format!("{task}:{}", dir.path().display()));
        let output = child.output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "the filter is there");
        assert_eq!(said.contains("every call was let through"), expected, "{task}: {said}");
    }
}

/// Faults of this thread that took nothing from the disk, so far; `None` where the system does not tell.
fn minor_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    // Behind the name, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}

#[test]
fn the_first_two_segments_of_a_log_without_syncs_take_no_page_fault() {
    let Some(_) = minor_faults() else {
        println!("SKIPPED: the system does not count page faults");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    // Without threads nothing is made writable behind the appends' back.
    let options = Options::new().segment_size(4 << 20).sync_mode(SyncMode::None).background(Background::Caller);
    let wal = options.open(dir.path()).expect("a new log");
    for segment in 0..2 {
        while wal.stats().rotations < segment {
            wal.append(&PAYLOAD).expect("an append");
        }
        let before = minor_faults();
        for _ in 0..20_000 {
            wal.append(&PAYLOAD).expect("an append");
        }
        assert_eq!(wal.stats().rotations, segment);
        let faults = minor_faults().zip(before).map_or(0, |(after, before)| after - before);
        // They fill more than 700 pages; those are few that the program itself comes by.
        assert!(faults < 50, "{faults} in segment {segment}");
    }
}
