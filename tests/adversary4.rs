//! Proves that the ways in which a deliberate attack on tails and on the page of counters once broke them stay closed.
//! Does not prove that there are no others.
#![allow(missing_docs)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mmap_wal::inspect::Log;
use mmap_wal::{Act, Background, Error, Observer, Options, Positions, Reader, SyncMode, Tail, Wal};

const LONG: Duration = Duration::from_secs(60);
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
fn a_tail_that_outlives_its_handle_shows_nothing_of_the_next_writer() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    wal.append(b"one").expect("an append");
    let mut tail = wal.tail(0).expect("a tail");
    drop(wal);
    let next = small().open(dir.path()).expect("the log");
    next.append(b"two").expect("an append");
    next.sync().expect("a sync");
    assert_eq!(shown(&mut tail), [(1, b"one".to_vec())]);
    assert!(matches!(tail.wait(LONG), Err(Error::Closed)));
}

#[test]
fn a_tail_of_what_is_durable_that_begins_in_a_segment_which_is_not_sealed_shows_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let rotations = wal.stats().rotations;
    // An attempt leaves the sealing to others.
    while wal.stats().rotations == rotations {
        wal.try_append(&[7; 500]).expect("an append").expect("room");
    }
    assert_eq!(wal.positions().durable, 0);
    let files = Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail");
    for tail in [wal.tail(0).expect("a tail"), files] {
        assert!(shown(&mut tail.durable_only(true)).is_empty());
    }
    let mut both = [wal.tail(0).expect("a tail"), Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail")]
        .map(|tail| tail.durable_only(true));
    wal.sync().expect("a sync");
    for tail in &mut both {
        assert_eq!(shown(tail).len() as u64, wal.positions().last);
    }
}

/// Looks, while the log is synced, whether a tail of what is durable says that it has ended.
#[derive(Default)]
struct Looks {
    armed: AtomicBool,
    tail: Mutex<Option<Tail>>,
}

impl Observer for Looks {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        if matches!(act, Act::SyncRange { .. }) && self.armed.swap(false, Ordering::SeqCst) {
            let mut tail = self.tail.lock().expect("the tail");
            assert!(!tail.as_mut().expect("a tail").wait(SHORT).expect("a tail that has not ended"));
        }
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
}

#[test]
fn a_tail_of_what_is_durable_ends_behind_what_a_close_makes_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let looks = Arc::new(Looks::default());
    let wal = small().open_observed(dir.path(), Some(Arc::clone(&looks) as _)).expect("a new log");
    *looks.tail.lock().expect("the tail") = Some(wal.tail(0).expect("a tail").durable_only(true));
    wal.append(b"last words").expect("an append");
    looks.armed.store(true, Ordering::SeqCst);
    wal.close().expect("a close");
    assert!(!looks.armed.load(Ordering::SeqCst));
    let mut tail = looks.tail.lock().expect("the tail").take().expect("a tail");
    assert!(tail.wait(LONG).expect("a record"));
    assert_eq!(shown(&mut tail).len(), 1);
    assert!(matches!(tail.wait(LONG), Err(Error::Closed)));
}

#[test]
fn whatever_was_appended_before_a_close_is_shown_before_the_close_is_told() {
    for round in 0..100 {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().open(dir.path()).expect("a new log");
        let mut tail = wal.tail(0).expect("a tail").durable_only(round % 2 == 0);
        std::thread::scope(|scope| {
            let follower = scope.spawn(move || {
                let mut count = 0;
                let begun = Instant::now();
                while tail.wait(LONG).is_ok() {
                    count += shown(&mut tail).len();
                    assert!(begun.elapsed() < LONG, "the close was not told");
                }
                count
            });
            for _ in 0..3 {
                wal.append(b"x").expect("an append");
            }
            wal.close().expect("a close");
            assert_eq!(follower.join().expect("the follower"), 3);
        });
    }
}

#[test]
fn a_wait_inside_a_callback_of_the_log_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().open(dir.path()).expect("a new log");
    let mut tail = wal.tail(0).expect("a tail");
    let inner = wal.append_with(8, |_| -> Result<usize, Error> {
        tail.wait(Duration::from_millis(50))?;
        Ok(0)
    });
    assert!(matches!(inner, Ok(Err(Error::Reentrant))), "{inner:?}");
}

/// The last record as a power failure leaves it whose sectors did not reach the disk, though the word that shows it did.
fn forget_the_last_record(dir: &Path, len: usize) {
    let path = dir.join("00000000000000000001.wal");
    let bytes = fs::read(&path).expect("the segment");
    let published = u64::from_le_bytes(bytes[4096..4104].try_into().expect("a word")) as usize;
    let file = fs::OpenOptions::new().write(true).open(path).expect("the segment");
    file.write_all_at(&vec![0; len], (published - len) as u64).expect("a write");
}

#[test]
fn a_record_that_comes_where_another_one_was_lost_is_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let dead = Arc::new(Dead::default());
    let wal = small().open_observed(dir.path(), Some(Arc::clone(&dead) as _)).expect("a new log");
    for _ in 0..10 {
        wal.append(&[1; 40]).expect("an append");
    }
    dead.0.store(true, Ordering::SeqCst);
    assert!(wal.close().is_err());
    drop(wal);
    forget_the_last_record(dir.path(), 64);
    let mut tail = Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail");
    assert_eq!(shown(&mut tail).len(), 9);
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!(wal.append(&[2; 40]).expect("an append"), 10);
    assert_eq!(shown(&mut tail), [(10, vec![2; 40])]);
}

/// A device that takes nothing any more once it is dead.
#[derive(Default)]
struct Dead(AtomicBool);

impl Observer for Dead {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        let writes = matches!(act, Act::Write { .. } | Act::SyncRange { .. } | Act::SyncFile(_) | Act::SyncDir(_));
        if writes && self.0.load(Ordering::SeqCst) { Err(std::io::Error::other("a dead device")) } else { Ok(()) }
    }
    fn after(&self, _act: &Act<'_>) {}
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

/// How many read calls this thread has made.
#[cfg(target_os = "linux")]
fn reads() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").expect("what the system counts");
    let calls = io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("read calls");
    calls.parse().expect("a number")
}

#[cfg(target_os = "linux")]
#[test]
fn a_tail_that_spins_looks_at_the_position_and_rarely_at_the_manifest() {
    let dir = tempfile::tempdir().expect("a directory");
    let _wal = small().open(dir.path()).expect("a new log");
    let mut tail = Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail").idle(mmap_wal::Idle::Spin);
    let before = reads();
    assert!(!tail.wait(Duration::from_millis(500)).expect("a wait"));
    assert!(reads() - before < 500, "{} reads", reads() - before);
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
