//! Proves that the bytes which a view, a pinned record or a tail lent out stay where they are and as they are while the
//! segments under them are truncated, removed and used again as fast as the writer can: slices are kept, not asked for
//! again, and compared with what was appended until long after their records are gone; by views of the handle, by readers
//! beside it and by a reader in another process. Made to be run under ThreadSanitizer and AddressSanitizer.
//! Does not prove that every moment was met: it runs `MMAP_WAL_STRESS_SECONDS` (default 1) for each mode.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mmap_wal::inspect::Log;
use mmap_wal::{Background, Error, Options, PinnedRecord, Reader, Snapshot, SyncMode, Tail, Wal};

/// Names the directory to a child, which is this test binary again.
const CHILD: &str = "MMAP_WAL_VIEWS_DIR";
const PATIENCE: Duration = Duration::from_secs(60);
/// Slices of a view that are kept at most.
const KEPT: usize = 3000;

fn seconds() -> f64 {
    std::env::var("MMAP_WAL_STRESS_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(1.0)
}

fn mixed(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

/// The record `seq` has these bytes, and no other record has.
fn body(seq: u64, into: &mut Vec<u8>) {
    into.clear();
    into.extend(seq.to_le_bytes());
    (0..mixed(seq) % 90).for_each(|i| into.extend(mixed(seq << 8 | i).to_le_bytes()));
}

fn check(seq: u64, payload: &[u8]) {
    let mut expected = Vec::new();
    body(seq, &mut expected);
    assert!(payload == expected, "record {seq} is not what was appended");
}

/// Keeps slices of `snapshot`, and compares them again and again while they are `wanted`; returns how many there were.
fn keep(snapshot: &Snapshot, mut wanted: impl FnMut() -> bool) -> u64 {
    let records = snapshot.replay(0).expect("a replay").take(KEPT).map(|record| record.expect("a record"));
    let back = snapshot.replay_back(u64::MAX).expect("a replay").take(KEPT).map(|record| record.expect("a record"));
    let slices: Vec<(u64, &[u8])> = records.chain(back).map(|record| (record.seq(), record.payload())).collect();
    while wanted() {
        slices.iter().step_by(17).for_each(|(seq, payload)| check(*seq, payload));
    }
    slices.iter().for_each(|(seq, payload)| check(*seq, payload));
    slices.len() as u64
}

/// The last records of `snapshot`, which they outlive.
fn pin(snapshot: &Snapshot) -> Vec<PinnedRecord> {
    let after = snapshot.last_seq().saturating_sub(50).max(snapshot.first_seq() - 1);
    snapshot.replay(after).expect("a replay").map(|record| record.expect("a record").pin()).collect()
}

/// Shows what there is, over truncations; the slices of the last segment are kept for a moment.
fn follow(tail: &mut Tail) -> u64 {
    let mut count = 0;
    loop {
        let shown = match tail.available() {
            Ok(available) => {
                let records = available.take(KEPT).map(|record| record.expect("a record"));
                let slices: Vec<(u64, &[u8])> = records.map(|record| (record.seq(), record.payload())).collect();
                std::thread::yield_now();
                slices.iter().for_each(|(seq, payload)| check(*seq, payload));
                slices.len() as u64
            }
            // Truncated on to further than that by now, perhaps.
            Err(Error::Truncated { first_seq }) => match tail.seek(first_seq - 1) {
                Ok(()) | Err(Error::Truncated { .. }) => continue,
                Err(e) => panic!("{e}"),
            },
            Err(e) => panic!("{e}"),
        };
        count += shown;
        if shown == 0 {
            return count;
        }
    }
}

/// A snapshot that keeps all that it shows, whatever the writer truncates. Before everything of one is mapped, some of it
/// may be gone.
fn mapped(reader: &Reader) -> Snapshot {
    loop {
        let snapshot = reader.snapshot().expect("a snapshot");
        match snapshot.map_all() {
            Ok(()) => return snapshot,
            Err(Error::Truncated { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// One look at the log from beside: views, a tail, and then nothing for a while, so that files can be used again.
fn look_beside(dir: &Path, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    {
        let reader = Reader::open(dir).expect("a reader");
        let snapshot = mapped(&reader);
        let last = snapshot.last_seq();
        let begun = Instant::now();
        // Until nothing of it is in the log any more, and a little longer.
        let is_there = || reader.snapshot().expect("a snapshot").first_seq() <= last + 100;
        count += keep(&snapshot, || begun.elapsed() < PATIENCE && !stop.load(Ordering::Relaxed) && is_there());
        let mut tail = reader.tail(0).expect("a tail");
        let pinned = pin(&snapshot);
        drop((snapshot, reader));
        for _ in 0..10 {
            count += follow(&mut tail);
        }
        pinned.iter().for_each(|record| check(record.seq(), record.payload()));
    }
    let recycled = || Log::open(dir).and_then(|log| log.live()).expect("a page").map_or(0, |live| live.stats.recycled);
    let (before, begun) = (recycled(), Instant::now());
    while recycled() == before && begun.elapsed() < Duration::from_millis(500) && !stop.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    count
}

/// A log that is written and truncated, and those who look on.
struct Run {
    wal: Wal,
    stop: AtomicBool,
    slices: AtomicU64,
    beside: AtomicU64,
}

/// Ends the run when one of its threads is done, and when it fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Appends, and truncates as fast as it can, until `done` says so.
    fn write(&self, done: impl Fn() -> bool) {
        let _stopping = Stopping(&self.stop);
        let mut payload = Vec::new();
        for round in 0_u64.. {
            for _ in 0..mixed(round) % 160 {
                let seq = self.wal.positions().last + 1;
                body(seq, &mut payload);
                assert_eq!(self.wal.append(&payload).expect("an append"), seq);
            }
            let window = [0, 10, 100, 1000][(mixed(round) >> 32) as usize % 4];
            self.wal.truncate_front(self.wal.positions().last.saturating_sub(window)).expect("a truncation");
            self.wal.maintain().expect("maintenance");
            if !self.goes_on() || done() {
                return self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Keeps views of the handle until long after their records are gone.
    fn view(&self) {
        let _stopping = Stopping(&self.stop);
        let mut pinned = Vec::new();
        while self.goes_on() {
            let snapshot = self.wal.snapshot();
            let last = snapshot.last_seq();
            let is_there = || self.goes_on() && self.wal.positions().first <= last + 200;
            self.slices.fetch_add(keep(&snapshot, is_there), Ordering::Relaxed);
            let earlier: Vec<PinnedRecord> = std::mem::replace(&mut pinned, pin(&snapshot));
            drop(snapshot);
            earlier.iter().for_each(|record| check(record.seq(), record.payload()));
        }
    }

    fn follow(&self) {
        let _stopping = Stopping(&self.stop);
        let mut tail = self.wal.tail(0).expect("a tail");
        while self.goes_on() {
            self.slices.fetch_add(follow(&mut tail), Ordering::Relaxed);
        }
    }

    fn read_beside(&self, dir: &Path) {
        let _stopping = Stopping(&self.stop);
        while self.goes_on() {
            self.beside.fetch_add(look_beside(dir, &self.stop), Ordering::Relaxed);
        }
    }
}

/// A reader in another process, which goes on until its standard input ends.
fn child(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this binary"));
    child.args(["--exact", "child_that_reads", "--nocapture", "--test-threads=1"]).env(CHILD, dir);
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("a child")
}

/// Runs in a process of its own; an ordinary run finds nothing to do.
#[test]
fn child_that_reads() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        });
        // Whoever started it waits for the first slices.
        loop {
            println!("kept {}", look_beside(dir.as_ref(), &stop));
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    });
}

fn run(mode: SyncMode, background: Background) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().sync_mode(mode).background(background).segment_size(32 << 10).spare_segments(2);
    let wal = options.open(dir.path()).expect("a new log");
    let zero = || AtomicU64::new(0);
    let run = Run { wal, stop: AtomicBool::new(false), slices: zero(), beside: zero() };
    let time = Duration::from_secs_f64(seconds() / 2.0);
    // While nobody is beside, files are used again: those of a view never are.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| run.write(|| begun.elapsed() >= time && run.wal.stats().recycled > 0));
        (0..2).for_each(|_| drop(scope.spawn(|| run.view())));
        scope.spawn(|| run.follow());
    });
    let (alone, begun) = (run.wal.stats(), Instant::now());
    run.stop.store(false, Ordering::Relaxed);
    let mut child = child(dir.path());
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("its output"));
    let (run_, beside, elsewhere) = (&run, &run.beside, AtomicU64::new(0));
    std::thread::scope(|scope| {
        let seen = |count: &AtomicU64| count.load(Ordering::Relaxed) > 0;
        let elsewhere = &elsewhere;
        scope.spawn(move || {
            run_.write(|| begun.elapsed() >= time && seen(beside) && seen(elsewhere));
            drop(stdin);
        });
        scope.spawn(|| run.view());
        scope.spawn(|| run.follow());
        (0..2).for_each(|_| drop(scope.spawn(|| run.read_beside(dir.path()))));
        scope.spawn(move || {
            for line in BufReader::new(stdout).lines().map(|line| line.expect("what the child says")) {
                let count = line.strip_prefix("kept ").map(|count| count.parse().expect("a number"));
                elsewhere.fetch_add(count.unwrap_or(0), Ordering::Relaxed);
            }
        });
    });
    assert!(child.wait().expect("a child that ends").success());
    let stats = run.wal.stats();
    let [slices, beside, elsewhere] = [&run.slices, beside, &elsewhere].map(|count| count.load(Ordering::Relaxed));
    assert!(slices > 0 && beside > 0 && elsewhere > 0, "{slices} {beside} {elsewhere}");
    assert!(alone.recycled > 0 && stats.removed > alone.removed, "{stats:?}");
    println!(
        "{mode:?} {background:?}: {} records; {slices} slices of the handle, {beside} beside it, {elsewhere} in another \
         process; {} files used again ({} of them with readers that come and go), {} removed",
        stats.records,
        stats.recycled,
        stats.recycled - alone.recycled,
        stats.removed
    );
}

#[test]
fn what_was_lent_out_stays_as_it_is_with_every_append_durable() {
    run(SyncMode::Sync, Background::Thread);
}

#[test]
fn what_was_lent_out_stays_as_it_is_without_syncs() {
    run(SyncMode::None, Background::Thread);
}

#[test]
fn what_was_lent_out_stays_as_it_is_without_syncs_and_without_a_thread() {
    run(SyncMode::None, Background::Caller);
}
