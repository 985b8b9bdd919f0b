//! What threads do together. Each of these must hold in every order.
//!
//! A scope does nothing but spawn: the model checker wakes whoever made a scope when its threads have ended, even if it
//! waits for something else by then.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use mmap_wal::{Background, Error, Options, Pending, Reader, SyncMode, Wal};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::bed::{Bed, HALF, Records, SMALLEST, all, block_on, name};
use crate::simulator::machine::Fault;
use crate::simulator::stage::pause;

fn small(background: Background) -> Options {
    Options::new().segment_size(SMALLEST).background(background)
}

/// With a thread of the log's own or without, by chance.
fn either() -> Background {
    if thread_rng().gen_bool(0.5) { Background::Thread } else { Background::Caller }
}

/// Appends a record that must be durable when its number is told.
fn append_durably(bed: &Bed, wal: &Wal, len: usize) {
    let payload = bed.payload(len);
    let seq = wal.append(&payload).expect("an append");
    bed.must_be_durable(&payload);
    assert!(wal.positions().durable >= seq, "{seq} is acknowledged, and the log does not call it durable");
    bed.gave(seq, payload);
}

/// Three threads append in `Sync` mode: nobody waits for ever, nothing is acknowledged before it is durable.
pub fn group_commit() {
    let bed = Bed::new();
    let options = small(Background::Caller);
    let wal = bed.open(&options);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..2).for_each(|_| append_durably(&bed, &wal, 20)));
        }
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// Some of those who wait for a sync lose patience: one who was called to lead and goes instead leaves nobody waiting.
pub fn impatient() {
    let bed = Bed::new();
    let options = small(Background::Caller);
    let wal = bed.open(&options);
    // Whoever waits long and in vain makes time pass for those who do not; and whoever comes later would call them all.
    let wait = &|patience: u64| {
        let payload = bed.payload(20);
        let pending = wal.submit(&payload).expect("an append");
        if pending.wait_timeout(Duration::from_millis(patience)).expect("no failure").is_some() {
            bed.must_be_durable(&payload);
        }
    };
    thread::scope(|scope| {
        for patience in [1, 1, 1, 100] {
            scope.spawn(move || wait(patience));
        }
        for _ in 0..2 {
            scope.spawn(|| append_durably(&bed, &wal, 20));
        }
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// A crowd waits, some of it not for long, over rotations, while somebody cuts off all, closes, or a sync fails: nobody
/// waits for ever.
pub fn crowd() {
    let bed = Bed::new();
    let options = small(either()).sync_mode(SyncMode::None);
    let wal = bed.open(&options);
    let what = thread_rng().gen_range(0..3);
    if what == 0 {
        bed.stage.set_fault(Fault { at: thread_rng().gen_range(1..8), forgets: true });
    }
    let is_expected = |e: &Error| match e {
        Error::Poisoned(_) => what == 0,
        Error::TruncatedBack { .. } => what == 1,
        Error::Closed => what == 2,
        _ => false,
    };
    let attempt = &|patience: u64, len: usize| {
        let waited = wal.submit(&bed.payload(len)).and_then(|pending| match patience {
            0 => pending.wait().map(Some),
            _ => pending.wait_timeout(Duration::from_millis(patience)),
        });
        assert!(waited.as_ref().err().is_none_or(is_expected), "{waited:?}");
    };
    thread::scope(|scope| {
        for (patience, len) in [(1, HALF), (1, 20), (100, HALF), (0, 20), (0, HALF)] {
            scope.spawn(move || (0..2).for_each(|_| attempt(patience, len)));
        }
        scope.spawn(|| {
            let done = match what {
                1 => wal.truncate_back(0),
                2 => wal.close(),
                _ => wal.sync().map(drop),
            };
            assert!(done.as_ref().err().is_none_or(is_expected), "{done:?}");
        });
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// One of the syncs fails: everybody who waits or comes later is told, and nothing is acknowledged that may be lost.
pub fn failed_sync() {
    let bed = Bed::new();
    let options = small(Background::Thread);
    let wal = bed.open(&options);
    bed.stage.set_fault(Fault { at: thread_rng().gen_range(1..4), forgets: true });
    let told = AtomicBool::new(false);
    let attempt = |way: usize| {
        let payload = bed.payload(20);
        let refused = told.load(Ordering::SeqCst);
        let outcome = match way {
            0 => wal.append(&payload).map(Some),
            1 => wal.submit(&payload).and_then(Pending::wait).map(|seqs| seqs.last()),
            _ => wal.submit(&payload).and_then(block_on).map(|seqs| seqs.last()),
        };
        match outcome {
            Ok(seq) => {
                assert!(!refused, "an append after the failure was told of is acknowledged");
                bed.must_be_durable(&payload);
                bed.gave(seq.expect("a number"), payload);
            }
            Err(Error::Poisoned(_)) => told.store(true, Ordering::SeqCst),
            Err(e) => panic!("{e}"),
        }
    };
    thread::scope(|scope| {
        for way in 0..3 {
            let attempt = &attempt;
            scope.spawn(move || (0..2).for_each(|_| attempt(way)));
        }
    });
    if bed.stage.has_failed() {
        assert!(matches!(wal.append(b"late"), Err(Error::Poisoned(_))), "a log that has failed appends");
        assert!(matches!(wal.close(), Err(Error::Poisoned(_))), "a log that has failed closes as if nothing were");
    }
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// Two threads await what they submitted while a third appends: whoever syncs, everybody is woken.
pub fn awaited() {
    let bed = Bed::new();
    let options = small(Background::Thread).sync_mode(SyncMode::None);
    let wal = bed.open(&options);
    let submit = || {
        let payload = bed.payload(20);
        let pending = wal.submit(&payload).expect("a record");
        let seqs = block_on(pending).expect("it becomes durable");
        bed.must_be_durable(&payload);
        bed.gave(seqs.last().expect("a number"), payload);
    };
    thread::scope(|scope| {
        scope.spawn(submit);
        scope.spawn(submit);
        scope.spawn(|| wal.sync().expect("a sync"));
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// Segments are rotated, sealed and prepared while two threads append, and for a while there is no space.
pub fn rotation() {
    let bed = Bed::new();
    // With two, a second rotation could come before the segment of the first is sealed.
    let options = small(either()).spare_segments(if thread_rng().gen_bool(0.5) { 1 } else { 2 });
    let wal = bed.open(&options);
    let was_full = thread_rng().gen_bool(0.5);
    bed.stage.fill(was_full);
    let append = || {
        let payload = bed.payload(HALF);
        loop {
            match wal.append(&payload) {
                Ok(seq) => {
                    bed.must_be_durable(&payload);
                    return bed.gave(seq, payload);
                }
                Err(Error::NoSpace(_)) if was_full => bed.stage.fill(false),
                Err(e) => panic!("{e}"),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..4).for_each(|_| append()));
        }
    });
    let last = bed.given().len() as u64;
    assert_eq!(wal.positions().last, last, "want of space uses no number");
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// The log is closed while threads append, wait and await: nobody is left behind, and what was published stays.
pub fn close() {
    let bed = Bed::new();
    let options = small(Background::Thread);
    let wal = bed.open(&options);
    let note = |seq: Result<Option<u64>, Error>, payload: Vec<u8>| match seq {
        Ok(seq) => bed.gave(seq.expect("a number"), payload),
        Err(Error::Closed) => {}
        Err(e) => panic!("{e}"),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2 {
                let payload = bed.payload(HALF);
                note(wal.append(&payload).map(Some), payload);
            }
        });
        scope.spawn(|| {
            let payload = bed.payload(20);
            let Ok(pending) = wal.submit(&payload) else { return };
            let seqs = if thread_rng().gen_bool(0.5) { block_on(pending) } else { pending.wait() };
            note(Ok(seqs.expect("what was published before a close becomes durable").last()), payload);
        });
        scope.spawn(|| {
            let payload = bed.payload(20);
            let Ok(pending) = wal.submit(&payload) else { return };
            let seq = pending.seqs().last();
            {
                let mut pending = pin!(pending);
                let _ = pending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                pause();
            }
            note(Ok(seq), payload);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                wal.close().expect("a close beside another");
                assert!(matches!(wal.append(b"late"), Err(Error::Closed)));
            });
        }
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// A clock of events, and when the cut began and returned.
#[derive(Default)]
struct Times {
    now: AtomicU64,
    cut_began: AtomicU64,
    cut_returned: AtomicU64,
}

impl Times {
    fn tick(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether the cut had not begun yet.
    fn before_cut(&self) -> bool {
        self.cut_began.load(Ordering::SeqCst) == 0
    }

    fn after_cut(&self) -> bool {
        self.cut_returned.load(Ordering::SeqCst) != 0
    }
}

/// The log is cut, or reset, while others append and wait: a number that is given again is acknowledged for its new
/// record alone, and who waits for what was cut is told.
pub fn cut() {
    let bed = Bed::new();
    let options = small(either());
    let wal = bed.open(&options);
    (0..2).for_each(|_| append_durably(&bed, &wal, 20));
    let (times, cut_off) = (Times::default(), Mutex::new(Vec::new()));
    // What was given before the cut began is gone when it has returned, what is given after that stays.
    let note = |seq: u64, payload: Vec<u8>, is_new: bool| {
        if is_new {
            bed.must_be_durable(&payload);
            bed.gave(seq, payload);
        } else if times.before_cut() {
            bed.must_be_durable(&payload);
            cut_off.lock().unwrap_or_else(PoisonError::into_inner).push(name(&payload));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let (payload, is_new) = (bed.payload(20), times.after_cut());
                match wal.append(&payload) {
                    Ok(seq) => note(seq, payload, is_new),
                    Err(Error::TruncatedBack { .. }) => assert!(!is_new, "nothing cut this"),
                    Err(e) => panic!("{e}"),
                }
            }
        });
        scope.spawn(|| {
            let (payload, is_new) = (bed.payload(20), times.after_cut());
            let pending = wal.submit(&payload).expect("a record");
            let seq = pending.seqs().last().expect("a number");
            let was_before = times.before_cut();
            // Half of them ask before the cut, or during it, or after it, half of them after it.
            let is_late = thread_rng().gen_bool(0.5);
            while is_late && !times.after_cut() {
                thread::yield_now();
            }
            pause();
            let is_gone = was_before && times.after_cut();
            match pending.wait() {
                Ok(_) => {
                    assert!(!is_gone, "{seq} was cut off, and who waits for it is told that it is durable");
                    note(seq, payload, is_new);
                }
                Err(Error::TruncatedBack { .. }) => assert!(!is_new, "nothing cut this"),
                Err(e) => panic!("{e}"),
            }
        });
        scope.spawn(|| {
            // Until there is something to cut, or not.
            (0..thread_rng().gen_range(0..40)).for_each(|_| pause());
            times.cut_began.store(times.tick(), Ordering::SeqCst);
            let done = if thread_rng().gen_bool(0.75) { wal.truncate_back(2) } else { wal.reset(20) };
            done.expect("a cut");
            times.cut_returned.store(times.tick(), Ordering::SeqCst);
            if wal.positions().first > 2 {
                bed.given().retain(|seq, _| *seq > 2);
            }
            append_durably(&bed, &wal, 20);
        });
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
    let cut_off = cut_off.into_inner().unwrap_or_else(PoisonError::into_inner);
    let found: Vec<String> = bed.reopened(&options).values().map(|payload| name(payload)).collect();
    assert!(cut_off.iter().all(|gone| !found.contains(gone)), "of {cut_off:?}, which was cut off, there is {found:?}");
}

/// Three threads append in `Batch` mode: never more is unsynced than the window and one for each of them.
pub fn window() {
    const RECORDS: u32 = 2;
    const THREADS: u64 = 3;
    let bed = Bed::new();
    let mode = SyncMode::Batch { records: RECORDS, delay: Duration::from_secs(3600) };
    let options = small(either()).sync_mode(mode);
    let wal = bed.open(&options);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..4 {
                    let payload = bed.payload(20);
                    let seq = wal.append(&payload).expect("an append");
                    bed.gave(seq, payload);
                    let positions = wal.positions();
                    let unsynced = positions.last - positions.durable;
                    assert!(unsynced <= 2 * u64::from(RECORDS) + THREADS, "{unsynced} records are not durable");
                }
            });
        }
    });
    assert_eq!(wal.sync().expect("a sync"), 12);
    bed.given().values().for_each(|payload| bed.must_be_durable(payload));
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// What was ever given: every number with every record that had it.
type History = Mutex<Vec<(u64, String)>>;

fn must_be_of(history: &History, shown: &Records) {
    let history = history.lock().unwrap_or_else(PoisonError::into_inner);
    for (seq, payload) in shown {
        assert!(history.contains(&(*seq, name(payload))), "{} was never record {seq}", name(payload));
    }
}

/// Appends, truncations and cuts, whose files are used again.
fn live_on(bed: &Bed, wal: &Wal, history: &History) {
    let append = |len| {
        let payload = bed.payload(len);
        let name = name(&payload);
        let seq = wal.append(&payload).expect("an append");
        history.lock().unwrap_or_else(PoisonError::into_inner).push((seq, name));
        seq
    };
    for _ in 0..4 {
        append(HALF);
    }
    wal.truncate_front(3).expect("a truncation");
    let kept = append(HALF);
    append(20);
    wal.truncate_back(kept).expect("a cut");
    for _ in 0..3 {
        append(HALF);
    }
    wal.truncate_front(kept).expect("a truncation");
    for _ in 0..2 {
        append(HALF);
    }
}

/// Views that are taken while the log lives on show what was there, and show the same for as long as anybody looks.
pub fn views() {
    let bed = Bed::new();
    let options = small(either()).spare_segments(2);
    let wal = bed.open(&options);
    let (history, taken) = (History::default(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        scope.spawn(|| live_on(&bed, &wal, &history));
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let snapshot = if thread_rng().gen_bool(0.5) { wal.snapshot() } else { wal.durable_snapshot() };
                    let shown = all(&snapshot);
                    for (seq, payload) in &shown {
                        let record = snapshot.get(*seq).expect("a lookup").expect("a record");
                        assert_eq!(name(record.payload()), name(payload));
                    }
                    taken.lock().unwrap_or_else(PoisonError::into_inner).push((snapshot, shown));
                }
            });
        }
    });
    let taken = taken.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (snapshot, shown) in &taken {
        assert!(all(snapshot) == *shown, "a view shows something else than before");
        must_be_of(&history, shown);
    }
}

/// A reader with no tie to the log but its files sees what was there, in every order.
pub fn reader() {
    let bed = Bed::new();
    let options = small(either());
    let wal = bed.open(&options);
    let (history, seen) = (History::default(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let reader = Reader::open(bed.path().join("log")).expect("a reader beside a writer");
                let snapshot = reader.snapshot().expect("a reader beside a writer");
                match snapshot.map_all() {
                    // Some of it was truncated, or cut off, before it was mapped.
                    Err(Error::Truncated { .. } | Error::TruncatedBack { .. }) => continue,
                    mapped => mapped.expect("maps"),
                }
                let shown = all(&snapshot);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
                pause();
            }
        });
        scope.spawn(|| live_on(&bed, &wal, &history));
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner).iter().for_each(|shown| must_be_of(&history, shown));
}

/// A tail follows through rotations, and waits for each record: it is woken for all of them.
pub fn tail() {
    let bed = Bed::new();
    let options = small(either()).sync_mode(if thread_rng().gen_bool(0.5) { SyncMode::Sync } else { SyncMode::None });
    let wal = bed.open(&options);
    let seen = Mutex::new(Records::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut tail = wal.tail(0).expect("a tail");
            for seq in 1..=5 {
                // In the end it is a wake-up alone that ends a wait.
                while !tail.wait(Duration::from_secs(3600)).expect("it goes on") {}
                let record = tail.try_next().expect("a record").expect("it was waited for");
                assert_eq!(record.seq(), seq);
                let payload = record.payload().to_vec();
                seen.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, payload);
            }
        });
        scope.spawn(|| {
            for _ in 0..5 {
                let payload = bed.payload(HALF);
                let seq = wal.append(&payload).expect("an append");
                bed.gave(seq, payload);
            }
        });
    });
    assert!(*seen.lock().unwrap_or_else(PoisonError::into_inner) == *bed.given(), "the tail shows something else");
}

/// An attempt to append returns while another thread is in the middle of an append that waits for it.
pub fn attempt() {
    let bed = Bed::new();
    let options = small(either()).sync_mode(SyncMode::None);
    let wal = bed.open(&options);
    let tried = (shuttle::sync::Mutex::new(false), shuttle::sync::Condvar::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let payload = bed.payload(20);
            if let Some(seq) = wal.try_append(&payload).expect("the log is fine") {
                bed.gave(seq, payload);
            }
            *tried.0.lock().expect("a lock") = true;
            tried.1.notify_all();
        });
        scope.spawn(|| {
            let payload = bed.payload(20);
            let filled = wal.append_with(payload.len(), |bytes| {
                let mut done = tried.0.lock().expect("a lock");
                while !*done {
                    done = tried.1.wait(done).expect("a lock");
                }
                bytes.copy_from_slice(&payload);
                Ok::<usize, ()>(payload.len())
            });
            let seq = filled.expect("an append").expect("a payload");
            bed.gave(seq, payload);
        });
    });
    drop(wal);
    bed.must_hold_what_was_given(&options);
}

/// Attempts fill a segment and the next while the background thread prepares: none waits, none is lost.
pub fn attempts() {
    let bed = Bed::new();
    let options = small(Background::Thread).sync_mode(SyncMode::None);
    let wal = bed.open(&options);
    let tried = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let payload = bed.payload(HALF);
                    if let Some(seq) = wal.try_append(&payload).expect("the log is fine") {
                        bed.gave(seq, payload);
                    }
                    tried.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(wal.positions().last, bed.given().len() as u64, "an attempt that is given up uses no number");
    drop(wal);
    bed.must_hold_what_was_given(&options);
}
