//! Proves what many threads and the background thread do together: group commit, pending durability by waiting and by
//! awaiting, windows, refusal to wait, and that nobody is left waiting after a failure or a close.
//! Does not prove what a crash leaves: that is the simulator's.
#![allow(missing_docs)]

use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mmap_wal::{Act, Background, Error, Event, Observer, Options, Pending, SyncMode, Wal};

fn small() -> Options {
    Options::new().segment_size(16 << 10)
}

/// Parks the thread until the future is ready.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Refuses every sync of a range once told to.
#[derive(Default)]
struct FailingSync(AtomicBool);

impl Observer for FailingSync {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        match act {
            Act::SyncRange { .. } if self.0.load(Ordering::SeqCst) => Err(std::io::Error::other("a failing device")),
            _ => Ok(()),
        }
    }
    fn after(&self, _act: &Act<'_>) {}
}

#[test]
fn what_was_submitted_is_durable_when_waited_for_or_awaited() {
    for mode in [SyncMode::Sync, SyncMode::batch(1000), SyncMode::None] {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
        let pending = wal.submit(b"one").expect("a record");
        assert_eq!(pending.seqs().last(), Some(1));
        assert_eq!(pending.wait().expect("durable").last(), Some(1));
        assert_eq!(block_on(wal.submit_batch(&["two", "three"]).expect("a batch")).expect("durable").last(), Some(3));
        assert!(wal.positions().durable >= 3);
        let empty: [&[u8]; 0] = [];
        assert!(block_on(wal.submit_batch(&empty).expect("no batch")).expect("nothing to do").is_empty());
        let late = wal.submit(b"four").expect("a record");
        assert!(late.wait_timeout(Duration::from_secs(60)).expect("durable").is_some());
        assert!(late.is_durable());
    }
}

#[test]
fn a_future_that_is_dropped_or_moved_between_wakers_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = small().sync_mode(SyncMode::None).open(dir.path()).expect("a new log");
    for _ in 0..100 {
        let mut pending = Box::pin(wal.submit(b"x").expect("a record"));
        let mut context = Context::from_waker(Waker::noop());
        let _ = pending.as_mut().poll(&mut context);
        if pending.seqs().last().is_some_and(|last| last % 2 == 0) {
            assert!(block_on(pending).is_ok());
        }
    }
}

#[test]
fn many_threads_share_syncs_and_numbers_are_dense() {
    let dir = tempfile::tempdir().expect("a directory");
    let sealed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sealed);
    let options = small().on_event(move |event| {
        if matches!(event, Event::Sealed { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let wal = options.open(dir.path()).expect("a new log");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let wal = &wal;
            scope.spawn(move || {
                for i in 0..150 {
                    let seq = wal.append(format!("{thread} {i}").as_bytes()).expect("an append");
                    assert!(wal.positions().durable >= seq);
                }
            });
        }
    });
    let stats = wal.stats();
    assert_eq!((stats.records, wal.positions().last), (1200, 1200));
    assert!(stats.group_records.count() >= 1 && stats.sync_micros.count() == stats.group_records.count());
    wal.close().expect("a close");
    assert!(stats.rotations == 0 || sealed.load(Ordering::Relaxed) > 0);
    let wal = small().open(dir.path()).expect("the log");
    assert_eq!(wal.snapshot().replay(0).expect("a replay").filter(Result::is_ok).count(), 1200);
}

#[test]
fn the_delay_of_a_batch_is_kept_by_the_thread() {
    let dir = tempfile::tempdir().expect("a directory");
    let mode = SyncMode::Batch { records: 1_000_000, delay: Duration::from_millis(1) };
    let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
    let seq = wal.append(b"x").expect("an append");
    while wal.positions().durable < seq {
        std::thread::yield_now();
    }
}

#[test]
fn a_window_that_is_full_makes_appends_wait_and_attempts_return() {
    let dir = tempfile::tempdir().expect("a directory");
    let mode = SyncMode::Batch { records: 4, delay: Duration::from_secs(3600) };
    let wal = small().sync_mode(mode).background(Background::Caller).open(dir.path()).expect("a new log");
    let mut given = 0;
    while let Some(seq) = wal.try_append(b"x").expect("the log is fine") {
        given = seq;
    }
    assert_eq!(given, 8);
    assert_eq!(wal.append(b"y").expect("an append that syncs"), 9);
    assert!(wal.positions().durable >= 5);
}

#[test]
fn an_attempt_never_waits_for_a_segment() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = small().sync_mode(SyncMode::None).background(Background::Caller).segment_size(12 << 10);
    let wal = options.open(dir.path()).expect("a new log");
    let record = [7; 1000];
    let mut refused = 0;
    for _ in 0..100 {
        if wal.try_append(&record).expect("the log is fine").is_none() {
            refused += 1;
            wal.maintain().expect("maintenance");
        }
    }
    let last = wal.positions().last;
    assert_eq!(refused + last, 100);
    assert!((1..50).contains(&refused), "{refused}: once for every segment, which maintenance prepares");
    assert!(wal.try_append(&[0; 100_000]).expect("the log is fine").is_none(), "no spare is so large");
    assert_eq!(wal.append(&[0; 100_000]).expect("an append that prepares one"), last + 1);
}

#[test]
fn a_failed_sync_wakes_everybody_with_the_error() {
    for background in [Background::Thread, Background::Caller] {
        let dir = tempfile::tempdir().expect("a directory");
        let device = Arc::new(FailingSync::default());
        let options = small().background(background);
        let wal = options.open_observed(dir.path(), Some(device.clone())).expect("a new log");
        wal.append(b"durable").expect("an append");
        device.0.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(matches!(wal.append(b"lost"), Err(Error::Poisoned(_)))));
                scope.spawn(|| {
                    let outcome = wal.submit(b"lost").and_then(|pending| {
                        if background == Background::Thread { block_on(pending) } else { pending.wait() }
                    });
                    assert!(matches!(outcome, Err(Error::Poisoned(_))));
                });
            }
        });
        assert!(matches!(wal.try_append(b"x"), Err(Error::Poisoned(_))));
        assert!(matches!(wal.checkpoint(1), Err(Error::Poisoned(_))));
        device.0.store(false, Ordering::SeqCst);
        assert!(matches!(wal.append(b"x"), Err(Error::Poisoned(_))), "never tried again");
        assert!(matches!(wal.close(), Err(Error::Poisoned(_))));
        let wal = small().open(dir.path()).expect("the log");
        assert_eq!(wal.snapshot().get(1).expect("a read").map(|r| r.payload().to_vec()), Some(b"durable".to_vec()));
    }
}

#[test]
fn a_close_lets_waiters_finish_and_refuses_the_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = Arc::new(small().open(dir.path()).expect("a new log"));
    let acknowledged = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let wal: &Wal = &wal;
                scope.spawn(move || {
                    let mut last = 0;
                    loop {
                        match wal.append(b"x") {
                            Ok(seq) => last = seq,
                            Err(Error::Closed) => return last,
                            Err(e) => panic!("{e}"),
                        }
                    }
                })
            })
            .collect();
        while wal.positions().last < 50 {
            std::thread::yield_now();
        }
        wal.close().expect("a close");
        threads.into_iter().map(|thread| thread.join().expect("a thread")).max()
    });
    drop(wal);
    let wal = small().open(dir.path()).expect("the log");
    assert!(Some(wal.positions().last) >= acknowledged);
}

/// Holds the preparation of segments up from when it is told to until it is let go.
#[derive(Default)]
struct StuckPreparation {
    /// Held up now, and whether it arrived.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl StuckPreparation {
    fn hold(&self) {
        self.state.lock().expect("the state").0 = true;
    }

    fn let_go(&self) {
        self.state.lock().expect("the state").0 = false;
        self.changed.notify_all();
    }

    fn await_arrival(&self) {
        let state = self.state.lock().expect("the state");
        drop(self.changed.wait_while(state, |(_, arrived)| !*arrived).expect("the state"));
    }
}

impl Observer for StuckPreparation {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        if matches!(act, Act::Allocate { .. }) {
            let mut state = self.state.lock().expect("the state");
            if state.0 {
                state.1 = true;
                self.changed.notify_all();
                drop(self.changed.wait_while(state, |(held, _)| *held).expect("the state"));
            }
        }
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
}

#[test]
fn the_delay_and_those_who_await_do_not_wait_for_a_segment_to_be_prepared() {
    let dir = tempfile::tempdir().expect("a directory");
    let stuck = Arc::new(StuckPreparation::default());
    let mode = SyncMode::Batch { records: 1_000_000, delay: Duration::from_millis(1) };
    let options = Options::new().segment_size(64 << 10).sync_mode(mode);
    let wal = options.open_observed(dir.path(), Some(Arc::clone(&stuck) as _)).expect("a new log");
    stuck.hold();
    // Into the second segment, so that a third has to be prepared.
    wal.append(&[0; 40 << 10]).expect("an append");
    wal.append(&[1; 40 << 10]).expect("a rotation");
    stuck.await_arrival();
    let seq = wal.append(b"kept by the delay").expect("an append");
    while wal.positions().durable < seq {
        std::thread::yield_now();
    }
    assert_eq!(block_on(wal.submit(b"awaited").expect("a record")).expect("durable").last(), Some(seq + 1));
    stuck.let_go();
    wal.close().expect("a close");
}

/// Lets each preparation be announced only when the test says so, and the fifth come to its pages only when another thread
/// has synced pages of the third segment, which is sealed with it.
#[derive(Default)]
struct OnlyBeside {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// How many segments may be announced.
    allowed: usize,
    /// The segments whose preparation has begun.
    begun: Vec<PathBuf>,
    /// How many of them are about to be announced, or have been: what was appended before that is durable.
    arrived: usize,
    /// Whether another thread has synced the third segment.
    synced: bool,
}

impl OnlyBeside {
    fn allow(&self, count: usize) {
        self.seen.lock().expect("what was seen").allowed = count;
        self.changed.notify_all();
    }

    fn await_arrival(&self, count: usize) {
        let seen = self.seen.lock().expect("what was seen");
        drop(self.changed.wait_while(seen, |seen| seen.arrived < count).expect("what was seen"));
    }
}

impl Observer for OnlyBeside {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        let mut seen = self.seen.lock().expect("what was seen");
        match act {
            Act::Allocate { path, .. } if path.extension().is_some_and(|name| name == "wal") => {
                seen.begun.push(path.to_path_buf());
            }
            Act::Write { path, .. } if path.ends_with("MANIFEST") => {
                seen.arrived = seen.begun.len();
                self.changed.notify_all();
                let is_early = |seen: &mut Seen| seen.begun.len() > seen.allowed;
                drop(self.changed.wait_while(seen, is_early).expect("what was seen"));
            }
            Act::SyncRange { path, .. } if seen.begun.get(2).is_some_and(|third| third == path) => {
                seen.synced |= std::thread::current().name() == Some("mmap-wal-sync");
                self.changed.notify_all();
            }
            Act::Populate(_) if seen.begun.len() == 5 => {
                // So long only where it fails.
                let not_yet = |seen: &mut Seen| !seen.synced;
                let waited = self.changed.wait_timeout_while(seen, Duration::from_secs(30), not_yet);
                assert!(!waited.expect("a wait").1.timed_out(), "no other thread has synced");
            }
            _ => {}
        }
        Ok(())
    }
    fn after(&self, _act: &Act<'_>) {}
}

#[test]
fn where_an_append_has_waited_the_next_segment_is_prepared_while_the_one_before_is_synced() {
    let dir = tempfile::tempdir().expect("a directory");
    let beside = Arc::new(OnlyBeside::default());
    beside.allow(2);
    let options = Options::new().segment_size(64 << 10).sync_mode(SyncMode::None);
    let wal = options.open_observed(dir.path(), Some(Arc::clone(&beside) as _)).expect("a new log");
    for _ in 0..2 {
        wal.append(&[0; 40 << 10]).expect("an append");
    }
    for segment in 3..=5 {
        beside.await_arrival(segment);
        wal.append(b"not synced with the preparation of the next segment").expect("an append");
        let waits = wal.stats().segment_waits;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wal.append(&[0; 40 << 10]).expect("an append that waits for a segment"));
            while wal.stats().segment_waits == waits {
                std::thread::yield_now();
            }
            beside.allow(segment);
            waiting.join().expect("an append");
        });
    }
    beside.allow(usize::MAX);
    wal.close().expect("a close");
}

#[test]
fn an_append_after_a_long_rest_is_synced_by_the_delay() {
    let dir = tempfile::tempdir().expect("a directory");
    let mode = SyncMode::Batch { records: 1_000_000, delay: Duration::from_millis(1) };
    let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
    for pause in [0, 30, 100, 200, 400] {
        // Long enough, at some of these lengths, that the thread looks no more and has to be called.
        std::thread::sleep(Duration::from_millis(pause));
        let seq = wal.append(b"x").expect("an append");
        while wal.positions().durable < seq {
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_was_rotated_is_sealed_though_nothing_more_is_appended() {
    for mode in [SyncMode::Sync, SyncMode::batch(1000), SyncMode::None] {
        let (told, sealed) = mpsc::channel();
        let tell = move |event: &Event| {
            if let Event::Sealed { segment } = event {
                // Nobody listens any more once the test has failed.
                let _ = told.send(*segment);
            }
        };
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().sync_mode(mode).on_event(tell).open(dir.path()).expect("a new log");
        for segment in 1..=3 {
            while wal.stats().rotations < segment {
                wal.append(b"until the next segment is reached").expect("an append");
            }
            assert_eq!(sealed.recv_timeout(Duration::from_secs(60)), Ok(segment), "{mode:?}");
        }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn is_pending(pending: &mut Pending, woken: &Arc<Woken>) -> bool {
    let waker = Waker::from(Arc::clone(woken));
    Pin::new(pending).poll(&mut Context::from_waker(&waker)).is_pending()
}

#[test]
fn dropped_future_lets_its_waker_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = small().sync_mode(SyncMode::None).background(Background::Caller);
    let wal = options.open(dir.path()).expect("a new log");
    let [first, second] = [(); 2].map(|()| Arc::new(Woken::default()));
    let mut pending = wal.submit(b"x").expect("a record");
    assert!(is_pending(&mut pending, &first) && Arc::strong_count(&first) == 2);
    assert!(is_pending(&mut pending, &second) && Arc::strong_count(&second) == 2);
    assert_eq!(Arc::strong_count(&first), 1, "another waker has taken its place");
    drop(pending);
    assert_eq!(Arc::strong_count(&second), 1);
    wal.maintain().expect("maintenance");
    assert_eq!(wal.positions().durable, 0, "nobody awaits the record any more");
    assert_eq!(first.count() + second.count(), 0);
}

#[test]
fn every_future_is_woken_once_by_its_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = small().sync_mode(SyncMode::None).background(Background::Caller);
    let wal = options.open(dir.path()).expect("a new log");
    let mut all: Vec<_> = (0..5).map(|_| (wal.submit(b"x").expect("a record"), Arc::new(Woken::default()))).collect();
    all.iter_mut().for_each(|(pending, woken)| assert!(is_pending(pending, woken)));
    wal.sync().expect("a sync");
    for (pending, woken) in &mut all {
        assert_eq!(woken.count(), 1);
        assert!(!is_pending(pending, woken));
    }
}

/// Waits for what must come, and does not hang where it does not.
fn await_durable(wal: &Wal, seq: u64) {
    let started = std::time::Instant::now();
    while wal.positions().durable < seq {
        assert!(started.elapsed() < Duration::from_secs(30), "{seq} does not become durable: {:?}", wal.positions());
        std::thread::yield_now();
    }
}

#[test]
fn window_is_as_many_records_as_asked() {
    const HOUR: Duration = Duration::from_secs(3600);
    for records in [1, 2, 4, 7] {
        let mode = SyncMode::Batch { records, delay: HOUR };
        let last = u64::from(records);
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().sync_mode(mode).background(Background::Caller).open(dir.path()).expect("a new log");
        for round in 0..3 {
            for seq in 1..=last {
                let durable = if seq == last { last } else { 0 };
                wal.append(b"x").expect("an append");
                assert_eq!(wal.positions().durable, round * last + durable, "{records}: {seq} of round {round}");
            }
        }
        // The thread is told as soon as the window is full, and not one record later.
        let dir = tempfile::tempdir().expect("a directory");
        let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
        for round in 1..=3 {
            (0..records).for_each(|_| assert!(wal.append(b"x").is_ok()));
            await_durable(&wal, round * last);
        }
    }
}

/// Looks that find nothing new let the thread rest, but not while a record waits for its delay.
#[test]
fn delay_longer_than_quiet_looks_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mode = SyncMode::Batch { records: 1_000_000, delay: Duration::from_millis(400) };
    let wal = small().sync_mode(mode).open(dir.path()).expect("a new log");
    for _ in 0..2 {
        let seq = wal.append(b"x").expect("an append");
        await_durable(&wal, seq);
    }
}

#[test]
fn rotation_before_a_failed_fill_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let told = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&told);
    let listen = move |event: &Event| match event {
        Event::Rotated { segment } => events.lock().expect("the events").push(("rotated to", *segment)),
        Event::Sealed { segment } => events.lock().expect("the events").push(("sealed", *segment)),
        _ => {}
    };
    let options = small().sync_mode(SyncMode::None).background(Background::Caller).on_event(listen);
    let wal = options.open(dir.path()).expect("a new log");
    wal.append(&[7; 8000]).expect("an append");
    assert_eq!(wal.append_with(1000, |_| Err::<usize, _>("no")).expect("a rotation"), Err("no"));
    assert_eq!(*told.lock().expect("the events"), [("rotated to", 2), ("sealed", 1)]);
}
