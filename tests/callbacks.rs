//! Proves what user code may do that the log calls: listeners and wakers that panic, that call the log, that close it and
//! that drop its last handle, at every event; that whatever makes records durable wakes the futures that wait for them; and
//! that an attempt which may not wait gets its segment, or is told why not.
//! Does not prove orders of threads: `interleavings` tries those.
#![allow(missing_docs)]

mod fixture;
mod reference;

use std::future::Future;
use std::io;
use std::mem::discriminant;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use fixture::{Before, scratch};
use mmap_wal::{Act, Background, Error, Event, Options, Pending, SyncMode, Wal};

const ENOSPC: i32 = 28;
/// Two do not fit a segment of the smallest size.
const LARGE: usize = 2200;
/// So long is waited only where the test fails.
const LONG: Duration = Duration::from_secs(60);

fn small() -> Options {
    Options::new().segment_size(12 << 10)
}

/// A disk that refuses space for segments while it is armed.
fn full_disk() -> Arc<Before<impl Fn(&Act<'_>) -> io::Result<()> + Send + Sync>> {
    Before::new(false, |act| match act {
        Act::Allocate { .. } => Err(io::Error::from_raw_os_error(ENOSPC)),
        _ => Ok(()),
    })
}

/// Where a listener finds the log.
type Slot = Arc<Mutex<Option<Arc<Wal>>>>;

fn taken(slot: &Slot) -> Option<Arc<Wal>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn seen(slot: &Slot) -> Option<Arc<Wal>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn kinds() -> [Event; 4] {
    let (segment, bytes, elapsed) = (0, 0, Duration::ZERO);
    [Event::Rotated { segment }, Event::Sealed { segment }, Event::Prepared { segment, bytes, elapsed }, Event::NoSpace]
}

/// What comes of the events of a log: `act` runs at the first of the kind of `at`, which `drive` brings about.
fn at_first(at: &Event, background: Background, act: impl Fn(&Slot) + Send + Sync + 'static) -> (Slot, Driven) {
    let (dir, disk, slot) = (scratch(), full_disk(), Slot::default());
    let kind = discriminant(at);
    let (told, heard) = mpsc::channel();
    let (told, once, inner) = (Mutex::new(told), AtomicBool::new(false), Arc::clone(&slot));
    let listener = move |event: &Event| {
        if discriminant(event) == kind && !once.swap(true, Ordering::SeqCst) {
            act(&inner);
            let _ = told.lock().unwrap_or_else(PoisonError::into_inner).send(());
        }
    };
    let options = small().background(background).sync_mode(SyncMode::None).on_event(listener);
    let wal = options.open_observed(dir.path(), Some(disk.clone())).expect("a new log");
    *slot.lock().expect("the slot") = Some(Arc::new(wal));
    disk.arm(matches!(at, Event::NoSpace));
    (slot, Driven { dir, heard })
}

struct Driven {
    dir: tempfile::TempDir,
    heard: mpsc::Receiver<()>,
}

impl Driven {
    /// Appends twice, which rotates, and so brings every event about; returns how many appends were acknowledged. The log
    /// may be closed meanwhile.
    fn drive(&self, slot: &Slot) -> u64 {
        let mut acknowledged = 0;
        for _ in 0..2 {
            // The last handle may be the listener's to drop: none is kept between appends.
            let Some(wal) = seen(slot) else { break };
            match wal.append(&[7; LARGE]) {
                Ok(seq) => acknowledged = seq,
                Err(Error::NoSpace(_) | Error::Closed) => break,
                Err(e) => panic!("{e}"),
            }
        }
        acknowledged
    }

    fn await_act(&self) {
        self.heard.recv_timeout(LONG).expect("the listener has done what it does");
    }

    /// What the next open finds.
    fn reopened(&self) -> u64 {
        let wal = small().open(self.dir.path()).expect("the log");
        let last = wal.positions().last;
        assert_eq!(wal.snapshot().replay(0).expect("a replay").filter(Result::is_ok).count() as u64, last);
        last
    }
}

#[test]
fn a_listener_that_panics_harms_no_append_and_not_the_log() {
    for background in [Background::Thread, Background::Caller] {
        let (dir, disk) = (scratch(), full_disk());
        let told = Arc::new(Mutex::new(Vec::new()));
        let listened = Arc::clone(&told);
        let listener = move |event: &Event| {
            listened.lock().unwrap_or_else(PoisonError::into_inner).push(discriminant(event));
            panic!("a listener that panics");
        };
        let options = small().background(background).sync_mode(SyncMode::Sync).on_event(listener);
        let wal = options.open_observed(dir.path(), Some(disk.clone())).expect("a new log");
        for seq in 1..=5 {
            assert_eq!(wal.append(&[7; LARGE]).expect("an append"), seq);
        }
        disk.arm(true);
        let mut last = 5;
        let refused = loop {
            match wal.append(&[7; LARGE]) {
                Ok(seq) => last = seq,
                Err(e) => break e,
            }
        };
        assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
        disk.arm(false);
        assert_eq!(wal.append(&[7; LARGE]).expect("an append"), last + 1);
        wal.close().expect("a log that is whole");
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(kinds().iter().all(|kind| told.contains(&discriminant(kind))), "every event was told");
        assert_eq!(wal.stats().callback_panics, told.len() as u64);
        drop(wal);
        assert_eq!(small().open(dir.path()).expect("the log").positions().last, last + 1);
    }
}

#[test]
fn a_listener_may_drop_the_last_handle_at_every_event() {
    for background in [Background::Thread, Background::Caller] {
        for event in kinds() {
            let (slot, driven) = at_first(&event, background, |slot| {
                let wal = taken(slot).expect("the log");
                // On a thread of the log's own, it is the last one once the append has returned.
                let is_own = std::thread::current().name().is_some_and(|name| name.starts_with("mmap-wal"));
                while is_own && Arc::strong_count(&wal) > 1 {
                    std::thread::yield_now();
                }
            });
            let acknowledged = driven.drive(&slot);
            driven.await_act();
            assert!(taken(&slot).is_none());
            // A thread of the log that dropped it may have to end before the lock is free.
            let last = loop {
                match small().open(driven.dir.path()) {
                    Err(Error::Locked { .. }) => std::thread::yield_now(),
                    other => break other.expect("the log").positions().last,
                }
            };
            assert!(last >= acknowledged, "{event:?} {background:?}");
        }
    }
}

#[test]
fn a_listener_may_close_the_log_at_every_event() {
    for background in [Background::Thread, Background::Caller] {
        for event in kinds() {
            let (slot, driven) = at_first(&event, background, |slot| {
                seen(slot).expect("the log").close().expect("a close");
            });
            let acknowledged = driven.drive(&slot);
            driven.await_act();
            let wal = taken(&slot).expect("the log");
            assert!(matches!(wal.append(b"x"), Err(Error::Closed)), "{event:?} {background:?}");
            drop(wal);
            assert!(driven.reopened() >= acknowledged, "{event:?} {background:?}");
        }
    }
}

#[test]
fn a_listener_may_call_the_log_at_every_event() {
    for background in [Background::Thread, Background::Caller] {
        for event in kinds() {
            let full = matches!(event, Event::NoSpace);
            let (slot, driven) = at_first(&event, background, move |slot| {
                let wal = seen(slot).expect("the log");
                if !full {
                    // It rotates, so that events come of it.
                    wal.append(&[8; LARGE]).expect("an append of the listener's");
                    wal.append(&[8; LARGE]).expect("an append of the listener's");
                }
                wal.sync().expect("a sync");
                wal.checkpoint(1).expect("a checkpoint");
                wal.truncate_front(1).expect("a truncation");
                wal.set_meta(b"told").expect("meta");
                let _ = wal.maintain();
                assert!(wal.positions().last >= 1 && wal.snapshot().last_seq() >= 1 && wal.stats().records >= 1);
            });
            driven.drive(&slot);
            driven.await_act();
            let wal = taken(&slot).expect("the log");
            assert_eq!((wal.meta().to_vec(), wal.positions().checkpoint), (b"told".to_vec(), 1), "{event:?}");
            wal.close().expect("a close");
        }
    }
}

#[test]
fn an_event_that_a_listener_causes_is_told_after_it_has_returned() {
    let dir = scratch();
    let slot = Slot::default();
    let (inner, depth, told) = (Arc::clone(&slot), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&told);
    let listener = move |event: &Event| {
        assert_eq!(depth.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
        if matches!(event, Event::Rotated { .. }) && count.fetch_add(1, Ordering::SeqCst) < 50 {
            // Rotates.
            seen(&inner).expect("the log").append(&[7; LARGE]).expect("an append");
        }
        depth.fetch_sub(1, Ordering::SeqCst);
    };
    let options = small().background(Background::Caller).sync_mode(SyncMode::None).on_event(listener);
    let wal = Arc::new(options.open(dir.path()).expect("a new log"));
    *slot.lock().expect("the slot") = Some(Arc::clone(&wal));
    wal.append(&[7; LARGE]).expect("an append");
    wal.append(&[7; LARGE]).expect("a rotation, and fifty more");
    assert_eq!((told.load(Ordering::SeqCst), wal.stats().rotations, wal.positions().last), (51, 51, 52));
    assert_eq!(wal.stats().callback_panics, 0);
    drop(taken(&slot));
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A future that waits for the next record, and its waker.
fn waiting(wal: &Wal) -> (Pin<Box<Pending>>, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    let mut pending = Box::pin(wal.submit(b"awaited").expect("a record"));
    let waker = Waker::from(Arc::clone(&woken));
    assert!(pending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    (pending, woken)
}

/// Makes everything durable by one way or another.
type Way = fn(&Wal);

const WAYS: [(&str, Way); 13] = [
    ("sync", |wal| drop(wal.sync())),
    ("sync_to", |wal| drop(wal.sync_to(wal.positions().last))),
    ("wait", |wal| drop(wal.submit(b"x").expect("a record").wait())),
    ("wait_timeout", |wal| drop(wal.submit(b"x").expect("a record").wait_timeout(LONG))),
    ("a window of Batch", |wal| {
        for _ in 0..20 {
            wal.append(b"x").expect("an append");
        }
    }),
    ("a batch", |wal| drop(wal.append_batch(&["x", "y"]))),
    ("checkpoint", |wal| drop(wal.checkpoint(wal.positions().last))),
    ("truncate_front", |wal| drop(wal.truncate_front(wal.positions().last))),
    ("truncate_back", |wal| drop(wal.truncate_back(wal.positions().last))),
    ("reset", |wal| drop(wal.reset(1000))),
    ("maintain", |wal| drop(wal.maintain())),
    ("rotations", |wal| {
        for _ in 0..3 {
            drop(wal.submit(&[7; LARGE]).expect("a record"));
        }
    }),
    ("close", |wal| drop(wal.close())),
];

#[test]
fn whatever_makes_records_durable_wakes_the_futures_that_wait() {
    for (name, way) in WAYS {
        let dir = scratch();
        let mode = SyncMode::Batch { records: 8, delay: Duration::from_secs(3600) };
        let options = small().background(Background::Caller).sync_mode(mode);
        let wal = options.open(dir.path()).expect("a new log");
        let (pending, woken) = waiting(&wal);
        way(&wal);
        assert!(pending.is_durable() || name == "reset", "{name}");
        assert_eq!(woken.count(), 1, "{name}");
    }
}

#[test]
fn an_append_that_fails_for_want_of_space_wakes_the_futures_whose_records_it_made_durable() {
    let (dir, disk) = (scratch(), full_disk());
    let options = small().background(Background::Caller).sync_mode(SyncMode::None);
    let wal = options.open_observed(dir.path(), Some(disk.clone())).expect("a new log");
    let (pending, woken) = waiting(&wal);
    // Goes on in the second segment, which nobody seals.
    while wal.stats().rotations == 0 {
        wal.try_append(&[7; LARGE]).expect("the log").expect("a place");
    }
    assert!(!pending.is_durable() && woken.count() == 0);
    // Waits for a segment, and the one before is sealed, and so synced, though there is no space for another.
    disk.arm(true);
    assert!(matches!(wal.append(&[7; LARGE]), Err(Error::NoSpace(_))));
    assert!(pending.is_durable() && woken.count() == 1);
}

#[test]
fn whatever_poisons_the_log_wakes_the_futures_that_wait() {
    let ways: [(&str, Way); 5] = [
        ("sync", |wal| assert!(matches!(wal.sync(), Err(Error::Poisoned(_))))),
        ("set_meta", |wal| assert!(matches!(wal.set_meta(b"x"), Err(Error::Poisoned(_))))),
        ("checkpoint", |wal| assert!(matches!(wal.checkpoint(1), Err(Error::Poisoned(_))))),
        ("wait", |wal| assert!(wal.submit(b"x").expect("a record").wait().is_err())),
        ("a segment", |wal| while wal.append(&[7; LARGE]).is_ok() {}),
    ];
    for (name, way) in ways {
        let dir = scratch();
        let disk = Before::new(false, |act| match act {
            Act::SyncRange { .. } | Act::SyncFile(_) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let options = small().background(Background::Caller).sync_mode(SyncMode::None);
        let wal = options.open_observed(dir.path(), Some(disk.clone())).expect("a new log");
        wal.append(b"durable").expect("an append");
        wal.sync().expect("a sync");
        let (_pending, woken) = waiting(&wal);
        disk.arm(true);
        way(&wal);
        assert_eq!(woken.count(), 1, "{name}");
    }
}

#[test]
fn a_waker_may_panic_call_the_log_and_drop_its_last_handle() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }
    struct Calls(Slot, Mutex<mpsc::Sender<u64>>);
    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            let wal = taken(&self.0).expect("the log");
            let seq = wal.append(b"of a waker").expect("an append");
            // The last handle.
            drop(wal);
            let _ = self.1.lock().unwrap_or_else(PoisonError::into_inner).send(seq);
        }
    }
    for background in [Background::Thread, Background::Caller] {
        let dir = scratch();
        let options = small().background(background).sync_mode(SyncMode::None);
        let wal = Arc::new(options.open(dir.path()).expect("a new log"));
        let mut first = Box::pin(wal.submit(b"one").expect("a record"));
        let _ = first.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(Panics))));
        while wal.stats().callback_panics == 0 {
            wal.append(b"published").expect("an append");
            wal.sync().expect("a sync");
        }
        let (told, heard) = mpsc::channel();
        let slot: Slot = Arc::default();
        let mut second = Box::pin(wal.submit(b"two").expect("a record"));
        let waker = Waker::from(Arc::new(Calls(Arc::clone(&slot), Mutex::new(told))));
        *slot.lock().expect("the slot") = Some(wal);
        if second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() && background == Background::Caller {
            let third = seen(&slot).expect("the log").submit(b"three").expect("a record");
            third.wait().expect("durable");
        }
        let seq = heard.recv_timeout(LONG).expect("what the waker did");
        drop((first, second));
        let last = loop {
            match small().open(dir.path()) {
                Err(Error::Locked { .. }) => std::thread::yield_now(),
                other => break other.expect("the log").positions().last,
            }
        };
        assert_eq!(last, seq);
    }
}

#[test]
fn an_attempt_too_large_for_every_spare_succeeds_once_a_segment_was_made() {
    for background in [Background::Thread, Background::Caller] {
        let dir = scratch();
        let made = Arc::new((Mutex::new(0), Condvar::new()));
        let listened = Arc::clone(&made);
        let listener = move |event: &Event| {
            if matches!(event, Event::Prepared { bytes, .. } if *bytes > 12 << 10) {
                *listened.0.lock().expect("a count") += 1;
                listened.1.notify_all();
            }
        };
        let options = small().background(background).sync_mode(SyncMode::None).on_event(listener);
        let wal = options.open(dir.path()).expect("a new log");
        for (times, len) in [(1, 100_000), (2, 300_000)] {
            assert_eq!(wal.try_append(&vec![7; len]).expect("the log is fine"), None);
            if background == Background::Caller {
                wal.maintain().expect("maintenance");
            }
            let count = made.0.lock().expect("a count");
            let (count, waited) = made.1.wait_timeout_while(count, LONG, |count| *count < times).expect("a wait");
            assert!(!waited.timed_out(), "nobody makes a segment");
            drop(count);
            // The thread that made it may still have to hand it over, or the lock.
            let seq = loop {
                if let Some(seq) = wal.try_append(&vec![7; len]).expect("the log is fine") {
                    break seq;
                }
                assert_eq!(background, Background::Thread, "nobody else is there");
                std::thread::yield_now();
            };
            assert_eq!(seq, times);
            if background == Background::Caller {
                wal.maintain().expect("the rotation is sealed");
            }
        }
        assert_eq!(*made.0.lock().expect("a count"), 2, "no more than were asked for");
        wal.close().expect("a close");
    }
}

#[test]
fn an_attempt_for_which_there_is_no_space_is_told_so_and_succeeds_when_there_is() {
    let (dir, disk) = (scratch(), full_disk());
    let options = small().sync_mode(SyncMode::None);
    let wal = options.open_observed(dir.path(), Some(disk.clone())).expect("a new log");
    disk.arm(true);
    for len in [100_000, LARGE] {
        let refused = loop {
            match wal.try_append(&vec![7; len]) {
                Err(e) => break e,
                Ok(_) => std::thread::yield_now(),
            }
        };
        assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
    }
    disk.arm(false);
    let last = wal.positions().last;
    let seq = loop {
        match wal.try_append(&[7; 100_000]) {
            Ok(Some(seq)) => break seq,
            Ok(None) => std::thread::yield_now(),
            // Of an attempt before there was space.
            Err(e) => assert!(matches!(e, Error::NoSpace(_)), "{e}"),
        }
    };
    assert_eq!(seq, last + 1);
    wal.close().expect("a close");
    // Where the caller prepares segments, it is told by that.
    let wal = options.background(Background::Caller).open_observed(dir.path(), Some(disk.clone())).expect("the log");
    disk.arm(true);
    assert_eq!(wal.try_append(&[7; 200_000]).expect("the log is fine"), None);
    assert!(matches!(wal.maintain(), Err(Error::NoSpace(_))));
    assert_eq!(wal.try_append(&[7; 200_000]).expect("the log is fine"), None);
    disk.arm(false);
    wal.maintain().expect("maintenance");
    assert_eq!(wal.try_append(&[7; 200_000]).expect("the log is fine"), Some(seq + 1));
}
