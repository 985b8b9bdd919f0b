//! Proves that a log of any number of segments is read, followed, copied, verified and opened with a few maps at a time:
//! in a process that has used up all but a thousand of its maps, and in one whose address space is smaller than the log;
//! that more maps than there may be are a typed error; and what becomes of a snapshot when its segments are truncated
//! before they are mapped. Maps are counted in `/proc/self/maps`, by the directory of the log.
//! Does not prove how long that takes, and of 66,000 segments only as much as of 3,000.
//!
//! Children are this program again, told by the environment what to do.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod fixture;
mod reference;

#[path = "maps/limits.rs"]
mod limits;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::scratch;
use memmap2::MmapOptions;
use mmap_wal::inspect::{Log, Progress};
use mmap_wal::{Error, Options, Reader, Tail};
use reference::build::{CAPACITY, Entry, Manifest, Segment};

const ROLE: &str = "MMAP_WAL_MAPS_ROLE";
const DIR: &str = "MMAP_WAL_MAPS_DIR";
const COUNT: &str = "MMAP_WAL_MAPS_COUNT";
/// Leaves the child a thousand maps.
const SCARCE: &str = "MMAP_WAL_MAPS_SCARCE";

/// Segments of the log that is read with few maps.
const MANY: u64 = 3000;
const LEFT: usize = 1000;
/// Maps of one log at a time, at most: that of the segment that is read, of the one that is appended to, and of a spare,
/// each of the log and of its copy.
const FEW: usize = 6;
/// Above that many maps for a process, using them up takes more memory than a test may.
const MOST: usize = 2 << 20;

/// What the record `seq` holds.
fn body(seq: u64) -> Vec<u8> {
    format!("record {seq} {}", "x".repeat(seq as usize % 100)).into_bytes()
}

/// Writes, in the format's own bytes, a closed log of `count` sealed segments of `capacity` bytes with one record each, and
/// an active one and a spare with none.
fn make(dir: &Path, count: u64, capacity: usize) {
    std::fs::create_dir_all(dir).expect("a directory");
    let write = |entry: &Entry, segment: Segment| {
        let file = File::create(dir.join(&segment.name)).expect("a file");
        // Behind the first frames everything is zero, and need not be there.
        file.write_all_at(&segment.bytes[..CAPACITY], 0).expect("a write");
        file.set_len(entry.capacity as u64).expect("its length");
    };
    let mut entries = Vec::new();
    for seq in 1..=count {
        let mut entry = Entry { capacity, ..Entry::sealed(seq, seq, 0, seq) }.virgin();
        let segment = Segment::of(&entry).begin(seq).append(seq, &body(seq));
        entry.end_offset = segment.next as u64;
        write(&entry, segment.mark_durable(entry.end_offset).close());
        entries.push(entry);
    }
    let active = Entry { capacity, ..Entry::active(count + 1, count + 1) }.virgin();
    write(&active, Segment::of(&active).begin(count + 1));
    let spare = Entry { capacity, ..Entry::spare(count + 2) }.virgin();
    write(&spare, Segment::of(&spare));
    entries.extend([active, spare]);
    let manifest = Manifest { clean_offset: 8192, ..Manifest::of(&entries) };
    std::fs::write(dir.join("MANIFEST"), manifest.file()).expect("a manifest");
}

fn maps() -> String {
    std::fs::read_to_string("/proc/self/maps").expect("the maps of this process")
}

/// How many maps of files below `dir` this process has.
fn maps_of(dir: &Path) -> usize {
    let dir = format!("{}/", dir.canonicalize().expect("a path").display());
    maps().lines().filter(|line| line.contains(&dir)).count()
}

fn max_map_count() -> usize {
    let count = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("a limit");
    count.trim().parse().expect("a number")
}

/// Maps that leave this process `left` of those that the system allows: pages that may be written and pages that may
/// not, in turns, so that neighbours do not become one map.
fn use_up_maps(left: usize) -> Vec<memmap2::MmapRaw> {
    let room = max_map_count().saturating_sub(left);
    let mut taken = Vec::with_capacity(room);
    loop {
        let missing = room.saturating_sub(maps().lines().count());
        if missing == 0 {
            return taken;
        }
        for _ in 0..missing {
            let page = MmapOptions::new().len(4096).map_anon().expect("a page");
            taken.push(match taken.len() % 2 {
                0 => page.into(),
                _ => page.make_read_only().expect("a page that may not be written").into(),
            });
        }
    }
}

/// What a child does in place of the test that it was started as.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("a directory"));
    let count = std::env::var(COUNT).expect("a number").parse().expect("a number");
    let log = dir.join("log");
    let _taken = std::env::var_os(SCARCE).map(|_| use_up_maps(LEFT));
    match role.as_str() {
        // For runs of the command line by hand.
        "make" => make(&log, count, CAPACITY),
        "tail" => follow(&log, count),
        "copy" => copy(&log, &dir.join("copy"), count),
        "verify" => verify(&log, count),
        "open" => open(&log, count),
        other => limits::child(other, &log, count),
    }
}

/// Runs the child `role` beside a log of `count` segments in `dir`; `shell` sets its limits.
fn run(role: &str, dir: &Path, count: u64, shell: &str, scarce: bool) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$@\""), "sh"]).arg(std::env::current_exe().expect("this program"));
    command.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(DIR, dir).env(COUNT, count.to_string());
    if scarce {
        command.env(SCARCE, "1");
    }
    let output = command.output().expect("a child");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{role}: {}\n{said}", output.status);
    assert!(said.contains("1 passed"), "{role}: {said}");
}

fn follow(log: &Path, count: u64) {
    let mut most = 0;
    for after in [0, count - 1] {
        let mut tail: Tail = Reader::open(log).expect("a reader").tail(after).expect("a tail");
        let mut seq = after;
        while let Some(record) = tail.try_next().expect("a record") {
            seq += 1;
            assert_eq!((record.seq(), record.payload()), (seq, &body(seq)[..]));
            if seq.is_multiple_of(1000) || seq == count {
                most = most.max(maps_of(log));
            }
        }
        assert_eq!(seq, count);
    }
    assert!((1..=FEW).contains(&most), "{most} maps");
}

fn copy(log: &Path, to: &Path, count: u64) {
    let mut most = 0;
    // What was copied is compared when it is copied again.
    for copied in [count, 0] {
        let look = |_| most = most.max(maps_of(log) + maps_of(to));
        let done = Log::open(log).expect("the log").copy(to, 0, look).expect("a copy");
        assert_eq!((done.records, done.first_seq, done.last_seq), (copied, 1, count));
    }
    assert!(most <= FEW, "{most} maps");
    let parsed = reference::parse_dir(to);
    assert_eq!((parsed.records.len() as u64, parsed.last_seq), (count, count));
}

fn verify(log: &Path, count: u64) {
    let mut most = 0;
    let look = |progress: Progress| {
        // It is called for each segment, and to count maps takes long where there are many.
        if progress.segment.is_multiple_of(1000) || progress.segment == count {
            most = most.max(maps_of(log));
        }
    };
    let found = Log::open(log).expect("the log").verify(look).expect("a verification");
    assert_eq!((found.records, found.damages.len()), (count, 0), "{:?}", found.damages);
    assert!((1..=FEW).contains(&most), "{most} maps");
    let log = Log::open(log).expect("the log");
    assert_eq!(log.stat().expect("its state").segments.len() as u64, count + 2);
    assert!(log.plan_repair().expect("a plan").is_empty());
}

/// An open for writing, and what a handle does with a log of many segments.
fn open(log: &Path, count: u64) {
    let wal = Options::new().segment_size(CAPACITY as u64).open(log).expect("the log");
    assert_eq!(wal.append(b"one more").expect("an append"), count + 1);
    assert!(maps_of(log) <= FEW, "{} maps", maps_of(log));
    let mut tail = wal.tail(0).expect("a tail");
    for seq in 1..=count {
        assert_eq!(tail.try_next().expect("no damage").map(|record| record.seq()), Some(seq));
    }
    assert!(maps_of(log) <= FEW, "{} maps", maps_of(log));
    drop(tail);
    wal.truncate_front(count).expect("a truncation");
    assert_eq!(wal.positions().first, count + 1);
    wal.close().expect("a close");
}

/// The log of 3,000 segments, if this machine lets a process use up its maps.
fn many() -> Option<tempfile::TempDir> {
    if max_map_count() > MOST {
        println!("SKIPPED: a process may have {} maps, too many to use up", max_map_count());
        return None;
    }
    let dir = scratch();
    make(&dir.path().join("log"), MANY, CAPACITY);
    Some(dir)
}

#[test]
fn many_segments_are_followed_with_few_maps_left() {
    let Some(dir) = many() else { return };
    run("tail", dir.path(), MANY, "", true);
}

#[test]
fn many_segments_are_copied_with_few_maps_left() {
    let Some(dir) = many() else { return };
    run("copy", dir.path(), MANY, "", true);
}

#[test]
fn many_segments_are_verified_with_few_maps_left() {
    let Some(dir) = many() else { return };
    run("verify", dir.path(), MANY, "", true);
}

#[test]
fn many_segments_are_opened_for_writing_with_few_maps_left() {
    let Some(dir) = many() else { return };
    run("open", dir.path(), MANY, "", true);
}

#[test]
fn many_segments_are_replayed_by_a_cursor_with_few_maps_left() {
    let Some(dir) = many() else { return };
    run("cursor", dir.path(), MANY, "", true);
}

#[test]
fn a_replay_that_needs_more_maps_than_are_left_is_a_typed_error() {
    let Some(dir) = many() else { return };
    run("replay", dir.path(), MANY, "", true);
}

/// Segments of 64 MiB, 3 GiB in all, beside an address space of 768 MiB.
const LARGE: u64 = 48;
const LARGE_CAPACITY: usize = 64 << 20;
const SPACE: &str = "ulimit -v 786432;";

#[test]
fn a_log_larger_than_the_address_space_is_read_followed_copied_and_verified() {
    let dir = scratch();
    make(&dir.path().join("log"), LARGE, LARGE_CAPACITY);
    for role in ["tail", "copy", "verify", "cursor", "replay", "open"] {
        run(role, dir.path(), LARGE, SPACE, false);
    }
}
