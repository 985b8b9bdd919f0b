//! Proves that writers, views, readers beside the writer, truncation and the use of dropped files again do not get in each
//! other's way, in every mode: numbers are dense, batches whole, payloads right, acknowledged records shown at once and
//! after another open, views unchanged for as long as they are kept, and nobody waits for ever.
//! Does not prove what a crash leaves, nor that every interleaving was met: it runs `MMAP_WAL_STRESS_SECONDS` (default 1)
//! per mode, and what it meets differs from run to run.
#![allow(missing_docs)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mmap_wal::{Background, Error, Options, Reader, Snapshot, SyncMode, Wal};

const WRITERS: usize = 8;
const READERS: usize = 2;
/// Writers, readers of the handle, the one that truncates, the reader beside the writer.
const THREADS: usize = WRITERS + READERS + 2;
const TRUNCATES: usize = WRITERS + READERS;
const BESIDE: usize = TRUNCATES + 1;
/// How long a thread may stand still.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many views a reader keeps.
const KEPT: usize = 6;
/// The bytes by which a payload says what it is.
const HEAD: usize = 16;

fn seconds() -> f64 {
    std::env::var("MMAP_WAL_STRESS_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(1.0)
}

/// Numbers that look random and are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 29)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Which record of which writer, and which of how many of its batch. No writer can know its number beforehand, so the
/// payload says this, and what was acknowledged says the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    writer: u8,
    at: u8,
    of: u8,
    count: u64,
}

impl Name {
    fn write(self, payload: &mut [u8]) {
        let len = payload.len() as u32;
        payload[..4].copy_from_slice(&[self.writer, self.at, self.of, 0xA5]);
        payload[4..12].copy_from_slice(&self.count.to_le_bytes());
        payload[12..HEAD].copy_from_slice(&len.to_le_bytes());
        let mut numbers = Numbers(self.count << 8 | u64::from(self.writer) ^ u64::from(len) << 40);
        for piece in payload[HEAD..].chunks_mut(8) {
            piece.copy_from_slice(&numbers.next().to_le_bytes()[..piece.len()]);
        }
    }

    fn payload(self, len: usize) -> Vec<u8> {
        let mut payload = vec![0; len];
        self.write(&mut payload);
        payload
    }

    /// What `payload` says it is, if every byte of it is as that says.
    fn read(payload: &[u8]) -> Option<Self> {
        let count = u64::from_le_bytes(payload.get(4..12)?.try_into().ok()?);
        let name = Self { writer: payload[0], at: payload[1], of: payload[2], count };
        (payload.len() >= HEAD && name.payload(payload.len()) == payload).then_some(name)
    }

    /// Whether `next` can come behind this one in the log.
    fn precedes(self, next: Self) -> bool {
        match next.at {
            0 => self.at + 1 == self.of,
            at => next == Self { at, count: self.count + 1, ..self } && self.at + 1 == at,
        }
    }
}

/// Reads all of `snapshot`, which is dense, whole and right; returns a sum of it.
fn check(snapshot: &Snapshot) -> u64 {
    let (mut expected, mut sum) = (snapshot.first_seq(), 0_u64);
    let mut before: Option<Name> = None;
    let mut last_of = [None; WRITERS];
    for record in snapshot.replay(0).expect("a replay") {
        let record = record.expect("a record");
        assert_eq!(record.seq(), expected, "dense");
        let name = Name::read(record.payload()).unwrap_or_else(|| panic!("record {expected} is not what was written"));
        if let Some(before) = before {
            assert!(before.precedes(name), "{before:?} before {name:?} at {expected}");
        }
        if let Some(count) = last_of[name.writer as usize].replace(name.count) {
            assert_eq!(name.count, count + 1, "a writer's records are in its order, and none is missing");
        }
        sum = sum.rotate_left(7) ^ name.count ^ record.payload().len() as u64;
        (before, expected) = (Some(name), expected + 1);
    }
    assert_eq!(expected, snapshot.last_seq() + 1, "as far as it says");
    assert!(before.is_none_or(|name| name.at + 1 == name.of), "a batch is shown whole");
    sum
}

/// A log, what was acknowledged, and who is alive.
struct Run {
    wal: Wal,
    background: Background,
    mode: SyncMode,
    stop: AtomicBool,
    /// The highest number that was acknowledged, and the highest that was asked to be truncated.
    acknowledged: AtomicU64,
    truncated: AtomicU64,
    /// One per thread, counting; `u64::MAX` when it is done.
    beats: [AtomicU64; THREADS],
    views: AtomicU64,
    views_beside: AtomicU64,
    truncations: AtomicU64,
}

/// A thread of a run: it is done when this is dropped, and if that is by a panic, so are the others.
struct Alive<'a> {
    run: &'a Run,
    thread: usize,
}

impl Alive<'_> {
    fn beat(&self) {
        self.run.beats[self.thread].fetch_add(1, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        self.beat();
        !self.run.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.run.beats[self.thread].store(u64::MAX, Ordering::Relaxed);
        if std::thread::panicking() {
            self.run.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Run {
    fn new(wal: Wal, mode: SyncMode, background: Background) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            wal,
            background,
            mode,
            stop: AtomicBool::new(false),
            acknowledged: zero(),
            truncated: zero(),
            beats: [const { AtomicU64::new(0) }; THREADS],
            views: zero(),
            views_beside: zero(),
            truncations: zero(),
        }
    }

    fn alive(&self, thread: usize) -> Alive<'_> {
        Alive { run: self, thread }
    }

    /// Aborts when a thread stands still: one that waits for ever cannot be joined.
    fn watch(&self) {
        let mut seen = [(0, Instant::now()); THREADS];
        loop {
            std::thread::park_timeout(Duration::from_millis(200));
            let beats = self.beats.each_ref().map(|beat| beat.load(Ordering::Relaxed));
            if beats.iter().all(|beat| *beat == u64::MAX) {
                return;
            }
            for (thread, (beat, seen)) in beats.into_iter().zip(&mut seen).enumerate() {
                if beat != seen.0 || beat == u64::MAX {
                    *seen = (beat, Instant::now());
                } else if seen.1.elapsed() > PATIENCE {
                    eprintln!("thread {thread} stands still; {:?} {:?}", self.wal.positions(), self.wal.stats());
                    std::process::abort();
                }
            }
        }
    }

    /// Writes in every way, and notes the number of each record of this writer.
    fn write(&self, writer: usize, numbers: &mut Numbers, seqs: &mut Vec<u64>) {
        let alive = self.alive(writer);
        while alive.goes_on() {
            let len = HEAD + if numbers.below(400) == 0 { 70_000 } else { numbers.below(300) as usize };
            let name = Name { writer: writer as u8, at: 0, of: 1, count: seqs.len() as u64 };
            let (first, count) = match numbers.below(5) {
                0 => (self.wal.append(&name.payload(len)).expect("an append"), 1),
                1 => {
                    let of = 2 + numbers.below(6) as u8;
                    let name = |at: u8| Name { at, of, count: name.count + u64::from(at), ..name };
                    let batch: Vec<_> = (0..of).map(|at| name(at).payload(HEAD + len % 100)).collect();
                    let seqs = self.wal.append_batch(&batch).expect("a batch");
                    assert!(self.wal.positions().durable >= seqs.last().expect("records"));
                    (seqs.first().expect("records"), seqs.into_iter().count())
                }
                2 => {
                    let pending = self.wal.submit(&name.payload(len)).expect("a record");
                    let seqs = pending.wait().expect("durable");
                    assert!(self.wal.positions().durable >= seqs.last().expect("a record"));
                    (seqs.first().expect("a record"), 1)
                }
                3 => {
                    let fill = |to: &mut [u8]| {
                        assert!(to.iter().all(|byte| *byte == 0), "zeroed memory");
                        name.write(&mut to[..len]);
                        Ok::<_, ()>(len)
                    };
                    let seq = self.wal.append_with(len + 100, fill).expect("an append");
                    (seq.expect("a record"), 1)
                }
                _ => {
                    let abandon = |to: &mut [u8]| {
                        name.write(to);
                        Err::<usize, _>(())
                    };
                    assert!(self.wal.append_with(len, abandon).expect("the log is fine").is_err());
                    continue;
                }
            };
            seqs.extend(first..first + count as u64);
            self.acknowledged.fetch_max(first + count as u64 - 1, Ordering::SeqCst);
        }
    }

    /// Holds no view for a while: a file that a view shows is never used again.
    fn rest(&self, alive: &Alive<'_>) {
        let until = self.truncations.load(Ordering::Relaxed) + 100;
        while self.truncations.load(Ordering::Relaxed) < until && alive.goes_on() {
            std::thread::yield_now();
        }
    }

    /// Looks at everything, and again at what was seen a while ago.
    fn read(&self, thread: usize, rests: u64) {
        let alive = self.alive(thread);
        let mut numbers = Numbers(thread as u64);
        let mut kept: VecDeque<(Snapshot, u64)> = VecDeque::new();
        while alive.goes_on() {
            let acknowledged = self.acknowledged.load(Ordering::SeqCst);
            let (durable, all) = (self.wal.durable_snapshot(), self.wal.snapshot());
            assert!(all.last_seq() >= acknowledged, "what was acknowledged is published");
            assert!(self.mode != SyncMode::Sync || durable.last_seq() >= acknowledged, "and durable");
            assert!(durable.last_seq() <= all.last_seq() && durable.first_seq() <= all.first_seq());
            for view in [durable, all] {
                self.look_up(&view, &mut numbers);
                let sum = check(&view);
                kept.push_back((view, sum));
                alive.beat();
                self.views.fetch_add(1, Ordering::Relaxed);
            }
            // Neither the oldest alone nor all: some views live long.
            let rests = numbers.below(100) < rests;
            while kept.len() > if rests { 0 } else { KEPT } {
                let at = numbers.below(kept.len() as u64) as usize;
                let (view, sum) = kept.remove(at).expect("a view");
                assert_eq!(check(&view), sum, "a view keeps what it shows");
                alive.beat();
            }
            if rests {
                self.rest(&alive);
            }
        }
        for (view, sum) in kept {
            assert_eq!(check(&view), sum, "a view keeps what it shows");
            alive.beat();
        }
    }

    fn look_up(&self, view: &Snapshot, numbers: &mut Numbers) {
        let (first, last) = (view.first_seq(), view.last_seq());
        assert!(view.get(first - 1).expect("no damage").is_none() && view.get(last + 1).expect("no damage").is_none());
        for _ in 0..4.min(last + 1 - first) {
            let seq = first + numbers.below(last + 1 - first);
            let record = view.get(seq).expect("no damage").expect("a record");
            assert!(record.seq() == seq && Name::read(record.payload()).is_some(), "record {seq} is what was written");
        }
    }

    /// Looks at the log as another process would.
    fn read_beside(&self, dir: &Path) {
        let alive = self.alive(BESIDE);
        let mut kept: Option<(Snapshot, u64)> = None;
        while alive.goes_on() {
            let acknowledged = self.acknowledged.load(Ordering::SeqCst);
            let view = Reader::open(dir).expect("a reader").snapshot().expect("a view");
            match view.map_all() {
                // Some of it was truncated before it was mapped.
                Err(Error::Truncated { .. }) => continue,
                mapped => mapped.expect("maps"),
            }
            assert!(view.last_seq() >= acknowledged, "{} is acknowledged, {view:?}", acknowledged);
            assert!(view.first_seq() <= self.truncated.load(Ordering::SeqCst) + 1, "not more than was asked");
            let sum = check(&view);
            if let Some((earlier, sum)) = kept.replace((view, sum)) {
                assert_eq!(check(&earlier), sum, "a view keeps what it shows");
            }
            if self.views_beside.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
                kept = None;
                self.rest(&alive);
            }
        }
    }

    /// Truncates as fast as it can, and says when the time is over: not before a file was used again if nobody is beside.
    fn truncate(&self, beside: bool) {
        let alive = self.alive(TRUNCATES);
        let (started, recycled) = (Instant::now(), self.wal.stats().recycled);
        let time = Duration::from_secs_f64(seconds() / 2.0);
        let mut numbers = Numbers(started.elapsed().as_nanos() as u64);
        loop {
            let window = [0, 10, 100, 1000][numbers.below(4) as usize];
            let up_to = self.wal.positions().last.saturating_sub(window);
            self.wal.checkpoint(up_to).expect("a checkpoint");
            self.truncated.fetch_max(up_to, Ordering::SeqCst);
            self.wal.truncate_front(up_to).expect("a truncation");
            let positions = self.wal.positions();
            assert!(positions.first > up_to && positions.checkpoint >= up_to, "{positions:?}, not {up_to}");
            if self.background == Background::Caller {
                self.wal.maintain().expect("maintenance");
            }
            self.truncations.fetch_add(1, Ordering::Relaxed);
            alive.beat();
            let done = beside || self.wal.stats().recycled > recycled;
            assert!(done || started.elapsed() < time + PATIENCE, "no file was used again: {:?}", self.wal.stats());
            if self.stop.load(Ordering::Relaxed) || done && started.elapsed() >= time {
                return self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// All threads, until the time is over.
    fn phase(&self, dir: &Path, beside: bool, seqs: &mut [Vec<u64>], numbers: &mut [Numbers]) {
        self.stop.store(false, Ordering::Relaxed);
        self.beats.iter().for_each(|beat| beat.store(0, Ordering::Relaxed));
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch());
            for (writer, (seqs, numbers)) in seqs.iter_mut().zip(numbers).enumerate() {
                scope.spawn(move || self.write(writer, numbers, seqs));
            }
            for reader in 0..READERS {
                scope.spawn(move || self.read(WRITERS + reader, if beside { 10 } else { 80 }));
            }
            scope.spawn(|| self.truncate(beside));
            if beside {
                scope.spawn(|| self.read_beside(dir));
            } else {
                drop(self.alive(BESIDE));
            }
        });
    }
}

fn stress(mode: SyncMode, background: Background, segment_size: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().sync_mode(mode).background(background).segment_size(segment_size).spare_segments(2);
    let run = Run::new(options.open(dir.path()).expect("a new log"), mode, background);
    let mut seqs: Vec<Vec<u64>> = vec![Vec::new(); WRITERS];
    let mut numbers: Vec<Numbers> = (0..WRITERS).map(|writer| Numbers(writer as u64)).collect();
    run.phase(dir.path(), true, &mut seqs, &mut numbers);
    let recycled = run.wal.stats().recycled;
    run.phase(dir.path(), false, &mut seqs, &mut numbers);
    let (stats, positions) = (run.wal.stats(), run.wal.positions());
    assert!(stats.recycled > recycled, "nobody was beside: {stats:?}");
    let [views, beside, truncations] =
        [&run.views, &run.views_beside, &run.truncations].map(|n| n.load(Ordering::Relaxed));
    println!(
        "{mode:?} {background:?}: {} records, {} rotations, {} waits for a segment, {truncations} truncations, {views} \
         views, {beside} views beside, {} files used again ({recycled} of them beside readers), {} removed",
        stats.records, stats.rotations, stats.segment_waits, stats.recycled, stats.removed
    );
    run.wal.close().expect("a close");
    drop(run);

    let wal = options.strict(true).open(dir.path()).expect("the log");
    assert_eq!((wal.positions().first, wal.positions().last), (positions.first, positions.last));
    let view = wal.snapshot();
    check(&view);
    for record in view.replay(0).expect("a replay") {
        let record = record.expect("a record");
        let name = Name::read(record.payload()).expect("a name");
        assert_eq!(seqs[name.writer as usize][name.count as usize], record.seq(), "the number that was acknowledged");
    }
    let mut given: Vec<u64> = seqs.into_iter().flatten().collect();
    given.sort_unstable();
    assert!(given.iter().copied().eq(1..=positions.last), "every number was given once");
}

#[test]
fn everybody_at_once_with_every_append_durable() {
    stress(SyncMode::Sync, Background::Thread, 16 << 10);
}

#[test]
fn everybody_at_once_with_every_append_durable_and_no_thread() {
    stress(SyncMode::Sync, Background::Caller, 32 << 10);
}

#[test]
fn everybody_at_once_in_batches() {
    stress(SyncMode::batch(20), Background::Thread, 64 << 10);
}

#[test]
fn everybody_at_once_in_batches_and_no_thread() {
    stress(SyncMode::batch(20), Background::Caller, 16 << 10);
}

#[test]
fn everybody_at_once_without_syncs() {
    stress(SyncMode::None, Background::Thread, 32 << 10);
}

#[test]
fn everybody_at_once_without_syncs_and_no_thread() {
    stress(SyncMode::None, Background::Caller, 64 << 10);
}
