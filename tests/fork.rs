//! Proves that a handle which a forked child inherits refuses every call with `Error::Forked` in bounded time, also where
//! a lock was held at the fork by a thread that the child does not have, and that neither a call nor a drop in the child
//! changes, unlocks or syncs anything: the parent's log, its lock, its place among the readers, and records lent out.
//! Does not prove what happens in a child that writes into the slice that `append_with` lends, or that is forked by a signal
//! handler in the middle of a call.
#![cfg(unix)]
#![allow(missing_docs)]

mod forks;

use std::cell::RefCell;
use std::future::Future;
use std::io::{IoSlice, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use forks::{Side, forked, in_child};
use mmap_wal::inspect::Log;
use mmap_wal::{Act, Background, Error, Event, Observer, Options, Pending, Reader, Snapshot, SyncMode, Tail, Wal};

/// Forks copy what all threads have open: tests that fork take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Complains unless the call is refused because of the fork.
fn refused<T>(what: &str, result: Result<T, Error>) -> Result<(), String> {
    match result {
        Err(Error::Forked) => Ok(()),
        Err(e) => Err(format!("{what}: {e}")),
        Ok(_) => Err(format!("{what} worked")),
    }
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// Makes every call of `wal`.
fn call_wal(wal: &Wal) -> Result<(), String> {
    refused("append", wal.append(b"x"))?;
    refused("append_vectored", wal.append_vectored(&[IoSlice::new(b"x")]))?;
    refused("append_tagged", wal.append_tagged(1, &[IoSlice::new(b"x")]))?;
    refused("append_with", wal.append_with(8, |_| Ok::<_, ()>(1)))?;
    refused("append_batch", wal.append_batch(&["x", "y"]))?;
    refused("append_batch of none", wal.append_batch::<&str>(&[]))?;
    refused("submit", wal.submit(b"x"))?;
    refused("submit_batch", wal.submit_batch(&["x"]))?;
    refused("try_append", wal.try_append(b"x"))?;
    refused("sync", wal.sync())?;
    refused("sync_to", wal.sync_to(1))?;
    refused("checkpoint", wal.checkpoint(1))?;
    refused("truncate_front", wal.truncate_front(1))?;
    refused("truncate_back", wal.truncate_back(1))?;
    refused("reset", wal.reset(1 << 40))?;
    refused("set_meta", wal.set_meta(b"x"))?;
    refused("maintain", wal.maintain())?;
    refused("tail", wal.tail(0))?;
    refused("close", wal.close())?;
    // What cannot be refused does not wait.
    let (positions, found) = (wal.positions(), wal.recovery());
    let opened = (found.first_seq, found.last_seq, found.checkpoint_seq);
    check((positions.first, positions.last, positions.checkpoint) == opened, "positions are those of the open")?;
    check(positions.durable == positions.last, "what was found is durable")?;
    check(wal.meta().is_empty(), "no metadata")?;
    check(wal.stats().sync_micros.count() == 0, "no histograms")?;
    for snapshot in [wal.snapshot(), wal.durable_snapshot()] {
        check(snapshot.last_seq() == positions.last, "a snapshot of what opening found")?;
        call_snapshot(&snapshot)?;
    }
    check(!format!("{wal:?}").is_empty(), "a sentence")
}

fn call_snapshot(snapshot: &Snapshot) -> Result<(), String> {
    refused("get", snapshot.get(1))?;
    refused("replay", snapshot.replay(0))?;
    refused("replay_back", snapshot.replay_back(u64::MAX))?;
    refused("into_replay", snapshot.clone().into_replay(0))
}

fn call_tail(tail: &mut Tail) -> Result<(), String> {
    refused("try_next", tail.try_next())?;
    refused("available", tail.available().map(Iterator::count))?;
    refused("wait", tail.wait(Duration::from_secs(3600)))?;
    refused("seek", tail.seek(0))?;
    check(!format!("{tail:?}").is_empty(), "a sentence")
}

fn call_pending(pending: Pending) -> Result<(), String> {
    check(!pending.is_durable(), "not known to be durable")?;
    refused("wait_timeout", pending.wait_timeout(Duration::from_secs(3600)))?;
    refused("wait", pending.wait())
}

fn call_reader(reader: &Reader) -> Result<(), String> {
    refused("a snapshot", reader.snapshot())?;
    refused("a tail", reader.tail(0))
}

fn call_log(log: &Log, copy_to: &Path) -> Result<(), String> {
    refused("stat", log.stat())?;
    refused("live", log.live())?;
    refused("ordinals", log.ordinals())?;
    refused("verify", log.verify(|_| {}))?;
    refused("frames", log.frames(1))?;
    refused("prefix", log.prefix())?;
    refused("plan_repair", log.plan_repair())?;
    refused("salvage", log.salvage(copy_to))?;
    refused("copy", log.copy(copy_to, 0, |_| {}))?;
    check(!copy_to.exists(), "nothing is made")
}

/// One of each handle but the log itself.
struct Handles {
    pending: Pending,
    polled: Pending,
    own_tail: Tail,
    tail: Tail,
    reader: Reader,
    log: Log,
    snapshot: Snapshot,
}

impl Handles {
    fn of(wal: &Wal, dir: &Path) -> Self {
        let mut polled = Some(wal.submit(b"polled").expect("a record"));
        let poll = |pending: &mut Pending| pin!(pending).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        while poll(polled.as_mut().expect("a record")) {
            // It was durable before it was asked: another one may wait.
            polled = Some(wal.submit(b"polled").expect("a record"));
        }
        let reader = Reader::open(dir).expect("a reader");
        Self {
            pending: wal.submit(b"pending").expect("a record"),
            polled: polled.expect("a record"),
            own_tail: wal.tail(0).expect("a tail"),
            tail: reader.tail(0).expect("a tail").announced().expect("a slot"),
            reader,
            log: Log::open(dir).expect("a log"),
            snapshot: wal.snapshot(),
        }
    }

    /// Makes every call, and drops everything.
    fn call(mut self, copy_to: &Path) -> Result<(), String> {
        call_pending(self.pending)?;
        match pin!(&mut self.polled).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => refused("poll", result)?,
            Poll::Pending => return Err("poll waits".to_owned()),
        }
        call_tail(&mut self.own_tail)?;
        call_tail(&mut self.tail)?;
        call_reader(&self.reader)?;
        call_log(&self.log, copy_to)?;
        call_snapshot(&self.snapshot)
    }
}

/// Lets the other threads end, also when this one fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_locked(dir: &Path) -> bool {
    matches!(Wal::open(dir), Err(Error::Locked { pid: Some(pid), .. }) if pid == std::process::id())
}

/// Every record from 1 to the last, in order.
fn assert_dense(wal: &Wal, at_least: u64) {
    let mut expected = 0;
    for record in wal.snapshot().replay(0).expect("a replay") {
        expected += 1;
        assert_eq!(record.expect("a record").seq(), expected);
    }
    assert!(expected >= at_least, "{expected} of {at_least}");
}

#[test]
fn every_call_is_refused_while_others_append_and_nothing_is_lost() {
    let _turn = turn();
    for mode in [SyncMode::Sync, SyncMode::batch(8), SyncMode::None] {
        let dir = tempfile::tempdir().expect("a directory");
        let copy_to = dir.path().join("copy");
        let options = Options::new().segment_size(64 << 10).sync_mode(mode);
        let shared = Box::into_raw(Box::new(options.open(dir.path()).expect("a log")));
        // SAFETY: it is freed below, when no thread of this process uses it.
        let wal: &Wal = unsafe { &*shared };
        let (done, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let _ends = Ends(&done);
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let seq = wal.append(&[7; 200]).expect("an append");
                        acknowledged.fetch_max(seq, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    wal.checkpoint(wal.positions().durable).expect("a checkpoint");
                    assert!(wal.meta().is_empty());
                    wal.snapshot().get(1).expect("a record");
                }
            });
            for _ in 0..6 {
                let handles = Handles::of(wal, dir.path());
                match forked() {
                    Side::Child(report) => report.run(|| {
                        call_wal(wal)?;
                        handles.call(&copy_to)?;
                        // SAFETY: no other thread of this process uses it: there is none.
                        drop(unsafe { Box::from_raw(shared) });
                        Ok(())
                    }),
                    Side::Parent(child) => child.outcome().expect("the child"),
                }
                assert!(is_locked(dir.path()), "{mode:?}: the lock is still held");
                let live = Log::open(dir.path()).expect("a log").live().expect("a page").expect("a writer");
                let own = std::process::id();
                assert!(live.readers.iter().any(|reader| reader.pid == u64::from(own)), "{:?}", live.readers);
                assert!(live.pid.is_none_or(|pid| pid == own), "{live:?}");
                handles.pending.wait().expect("a durable record");
            }
        });
        // SAFETY: the threads that used it have ended, and it is not used again.
        let wal = unsafe { Box::from_raw(shared) };
        wal.append(b"the last").expect("an append");
        wal.close().expect("a close");
        let acknowledged = acknowledged.into_inner();
        assert_dense(&Wal::open(dir.path()).expect("the log"), acknowledged + 1);
    }
}

/// Stops the thread that comes to a chosen act, until it is let go.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().expect("the gate");
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).expect("the gate"));
    }

    fn await_one(&self) {
        drop(
            self.changed.wait_while(self.state.lock().expect("the gate"), |(stopped, _)| !*stopped).expect("the gate"),
        );
    }

    fn open(&self) {
        self.state.lock().expect("the gate").1 = true;
        self.changed.notify_all();
    }
}

/// Stops at the first act for which `stops`, once it is armed.
struct Stopping {
    gate: Gate,
    armed: AtomicBool,
    stops: fn(&Act<'_>) -> bool,
}

impl Observer for Stopping {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        if (self.stops)(act) && self.armed.swap(false, Ordering::SeqCst) {
            self.gate.pass();
        }
        Ok(())
    }

    fn after(&self, _: &Act<'_>) {}
}

/// A thread stands in `call`, at an act for which `stops`, while this process forks; returns what the child says.
fn forked_inside(stops: fn(&Act<'_>) -> bool, call: impl FnOnce(&Wal) + Send) {
    let dir = tempfile::tempdir().expect("a directory");
    let observer = Arc::new(Stopping { gate: Gate::default(), armed: AtomicBool::new(false), stops });
    let options = Options::new().segment_size(64 << 10).background(Background::Caller);
    let wal = options.open_observed(dir.path(), Some(observer.clone())).expect("a log");
    for _ in 0..1000 {
        drop(wal.submit(&[7; 500]).expect("a record"));
    }
    wal.sync().expect("a sync");
    drop(wal.submit(b"not synced").expect("a record"));
    std::thread::scope(|scope| {
        observer.armed.store(true, Ordering::SeqCst);
        scope.spawn(|| call(&wal));
        observer.gate.await_one();
        match forked() {
            Side::Child(report) => report.run(|| call_wal(&wal)),
            Side::Parent(child) => {
                let outcome = child.outcome();
                observer.gate.open();
                outcome.expect("the child");
            }
        }
    });
}

#[test]
fn a_lock_that_is_held_over_a_manifest_update_is_not_waited_for() {
    let _turn = turn();
    forked_inside(|act| matches!(act, Act::SyncFile(_)), |wal| wal.checkpoint(5).expect("a checkpoint"));
}

#[test]
fn a_sync_under_way_is_not_waited_for() {
    let _turn = turn();
    forked_inside(|act| matches!(act, Act::SyncRange { .. }), |wal| assert!(wal.sync().expect("a sync") > 0));
}

#[test]
fn a_close_under_way_is_not_waited_for() {
    let _turn = turn();
    forked_inside(|act| matches!(act, Act::SyncFile(_)), |wal| wal.close().expect("a close"));
}

#[test]
fn a_cut_that_holds_the_writer_is_not_waited_for() {
    let _turn = turn();
    forked_inside(|act| matches!(act, Act::SyncFile(_)), |wal| wal.truncate_back(1).expect("a cut"));
}

/// Panics in the first write to MANIFEST, once it is armed.
struct Panicking(AtomicBool);

impl Observer for Panicking {
    fn before(&self, act: &Act<'_>) -> std::io::Result<()> {
        let is_met = matches!(act, Act::Write { path, .. } if path.ends_with("MANIFEST"));
        assert!(!is_met || !self.0.swap(false, Ordering::SeqCst), "on purpose");
        Ok(())
    }

    fn after(&self, _: &Act<'_>) {}
}

#[test]
fn a_close_that_panics_gives_its_locks_back_though_a_child_has_them_open() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let observer = Arc::new(Panicking(AtomicBool::new(false)));
    let wal = Options::new().open_observed(dir.path(), Some(observer.clone())).expect("a log");
    wal.append(b"acknowledged").expect("an append");
    let (mut until_closed, kept_open) = std::io::pipe().expect("a pipe");
    match forked() {
        Side::Child(report) => {
            drop(kept_open);
            report.run(|| until_closed.read_to_end(&mut Vec::new()).map(drop).map_err(|e| e.to_string()))
        }
        Side::Parent(child) => {
            observer.0.store(true, Ordering::SeqCst);
            assert!(catch_unwind(AssertUnwindSafe(|| wal.close())).is_err());
            assert_dense(&Wal::open(dir.path()).expect("the locks are free"), 1);
            drop(kept_open);
            child.outcome().expect("the child");
        }
    }
}

#[test]
fn a_callback_that_holds_the_writer_is_not_waited_for() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, gate) = (Wal::open(dir.path()).expect("a log"), Gate::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let filled = wal.append_with(8, |_| {
                gate.pass();
                Ok::<_, ()>(8)
            });
            assert_eq!(filled.expect("the log"), Ok(1));
        });
        gate.await_one();
        match forked() {
            Side::Child(report) => report.run(|| call_wal(&wal)),
            Side::Parent(child) => {
                let outcome = child.outcome();
                gate.open();
                outcome.expect("the child");
            }
        }
    });
}

/// The record or batch that the process forks in, as it is in the parent, and the child's complaint.
fn appended_across_a_fork<T>(
    append: impl FnOnce(&Wal, &mut dyn FnMut() -> bool) -> Result<T, Error>,
) -> (tempfile::TempDir, Wal) {
    let dir = tempfile::tempdir().expect("a directory");
    let wal = Wal::open(dir.path()).expect("a log");
    let (mut report, mut outcome) = (None, None);
    let appended = catch_unwind(AssertUnwindSafe(|| {
        append(&wal, &mut || match forked() {
            Side::Child(of_child) => {
                report = Some(of_child);
                true
            }
            Side::Parent(child) => {
                outcome = Some(child.outcome());
                false
            }
        })
    }));
    if let Some(report) = report {
        report.run(|| appended.map_or(Ok(()), |appended| refused("the append", appended)));
    }
    outcome.expect("a fork").expect("the child");
    assert!(appended.is_ok_and(|appended| appended.is_ok()), "the parent's append");
    assert_eq!(wal.append(b"the next").expect("an append"), wal.positions().last);
    (dir, wal)
}

fn payloads(wal: &Wal) -> Vec<Vec<u8>> {
    let snapshot = wal.snapshot();
    snapshot.replay(0).expect("a replay").map(|record| record.expect("a record").payload().to_vec()).collect()
}

#[test]
fn a_fork_inside_the_filling_of_a_record_leaves_the_record_to_the_parent() {
    let _turn = turn();
    let ends: [fn() -> Result<usize, ()>; 4] = [|| Ok(4), || Ok(65), || Err(()), || panic!("in the child")];
    for end in ends {
        let (dir, wal) = appended_across_a_fork(|wal, fork| {
            wal.append_with(64, |bytes| {
                bytes.fill(b'p');
                if fork() { end() } else { Ok(64) }
            })
        });
        let expected = [vec![b'p'; 64], b"the next".to_vec()];
        assert_eq!(payloads(&wal), expected);
        drop(wal);
        assert_eq!(payloads(&Wal::open(dir.path()).expect("the log")), expected);
    }
}

/// A payload that runs something when it is asked for.
struct Asked<'a>(RefCell<&'a mut dyn FnMut() -> &'static [u8]>);

impl AsRef<[u8]> for Asked<'_> {
    fn as_ref(&self) -> &[u8] {
        (self.0.borrow_mut())()
    }
}

#[test]
fn a_fork_inside_a_batch_leaves_the_batch_to_the_parent() {
    let _turn = turn();
    for fails in [false, true] {
        let (dir, wal) = appended_across_a_fork(|wal, fork| {
            let mut asked = || match (fork(), fails) {
                (false, _) => &b"of the parent"[..],
                (true, false) => &b"of a child, and longer than the other"[..],
                (true, true) => panic!("in the child"),
            };
            let mut first = || &b"first"[..];
            let records: [&mut dyn FnMut() -> &'static [u8]; 2] = [&mut first, &mut asked];
            wal.append_batch(&records.map(|record| Asked(RefCell::new(record))))
        });
        let expected = [&b"first"[..], b"of the parent", b"the next"].map(<[u8]>::to_vec);
        assert_eq!(payloads(&wal), expected);
        drop(wal);
        assert_eq!(payloads(&Wal::open(dir.path()).expect("the log")), expected);
    }
}

#[test]
fn a_child_that_returns_from_a_listener_prepares_no_segment() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let first = AtomicBool::new(true);
    let (reports, outcomes) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (reported, told) = (Arc::clone(&reports), Arc::clone(&outcomes));
    let listener = move |event: &Event| {
        if matches!(event, Event::Rotated { .. }) && first.swap(false, Ordering::SeqCst) {
            match forked() {
                Side::Child(report) => *reported.lock().expect("a report") = Some(report),
                Side::Parent(child) => *told.lock().expect("a place") = Some(child.outcome()),
            }
        }
    };
    let options = Options::new().segment_size(64 << 10).background(Background::Caller).on_event(listener);
    let wal = options.open(dir.path()).expect("a log");
    while wal.stats().rotations < 8 {
        let appended = wal.append(&[7; 5000]);
        if let Some(report) = reports.lock().expect("a report").take() {
            report.run(|| call_wal(&wal));
        }
        appended.expect("an append");
    }
    outcomes.lock().expect("a place").take().expect("a fork").expect("the child");
    wal.close().expect("a close");
    assert_dense(&Wal::open(dir.path()).expect("the log"), 8);
}

#[test]
fn a_daemon_that_opens_and_then_forks_opens_again() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let (parent_ends, is_parent) = std::io::pipe().expect("a pipe");
    let (daemon_says, mut daemon) = std::io::pipe().expect("a pipe");
    let run_daemon = |wal: Wal| {
        refused("append", wal.append(b"x"))?;
        // Its parent is there, or its own copy of the handle still holds the lock.
        check(matches!(Wal::open(dir.path()), Err(Error::Locked { .. })), "the lock is held")?;
        // Nothing is written to it: it ends with the parent.
        let mut gone = Vec::new();
        (&parent_ends).read_to_end(&mut gone).map_err(|e| e.to_string())?;
        drop(wal);
        let wal = Wal::open(dir.path()).map_err(|e| e.to_string())?;
        check(wal.append(b"of the daemon").map_err(|e| e.to_string())? == 2, "what was acknowledged is there")?;
        wal.close().map_err(|e| e.to_string())
    };
    match forked() {
        Side::Child(report) => {
            let wal = Wal::open(dir.path()).expect("a log");
            wal.append(b"of the parent").expect("an append");
            match forked() {
                Side::Parent(_) => report.vanish(),
                Side::Child(own) => {
                    drop((report, is_parent));
                    let outcome = run_daemon(wal);
                    let said = outcome.err().unwrap_or_else(|| "well".to_owned());
                    daemon.write_all(said.as_bytes()).expect("a pipe");
                    own.vanish()
                }
            }
        }
        Side::Parent(child) => {
            drop((is_parent, daemon));
            child.outcome().expect("the first process");
            let mut said = String::new();
            (&daemon_says).read_to_string(&mut said).expect("what the daemon says");
            assert_eq!(said, "well");
        }
    }
    let wal = Wal::open(dir.path()).expect("the log");
    assert_eq!(payloads(&wal), [b"of the parent".to_vec(), b"of the daemon".to_vec()]);
}

#[test]
fn a_child_opens_logs_of_its_own() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let parent = Wal::open(dir.path()).expect("a log");
    parent.append(b"of the parent").expect("an append");
    in_child(|| {
        let reader = Reader::open(dir.path()).expect("a reader");
        check(reader.snapshot().expect("a snapshot").last_seq() == 1, "what the parent has")?;
        let own = Wal::open(dir.path().join("child")).expect("a log");
        own.append(b"of the child").expect("an append");
        refused("append", parent.append(b"x"))?;
        // A child of the child.
        match forked() {
            Side::Child(report) => report.run(|| {
                call_wal(&parent)?;
                call_wal(&own)?;
                call_reader(&reader)?;
                let third = Wal::open(dir.path().join("third")).expect("a log");
                check(third.append(b"x").expect("an append") == 1, "a log of its own")?;
                call_wal(&own)
            }),
            Side::Parent(child) => child.outcome()?,
        }
        own.append(b"goes on").expect("an append");
        own.close().map_err(|e| e.to_string())
    });
    parent.append(b"goes on").expect("an append");
    assert_dense(&Wal::open(dir.path().join("child")).expect("the log"), 2);
}

#[test]
fn records_that_a_child_inherits_do_not_change() {
    let _turn = turn();
    const LEN: usize = 4000;
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().segment_size(64 << 10).background(Background::Caller).sync_mode(SyncMode::None);
    let wal = options.open(dir.path()).expect("a log");
    let append = |count: u64| (0..count).for_each(|_| assert!(wal.append(&[b'n'; LEN]).expect("an append") > 0));
    for _ in 0..8 {
        wal.append(&[b'o'; LEN]).expect("an append");
    }
    let snapshot = wal.snapshot();
    let (mut records, mut replay) = (Vec::new(), snapshot.replay(0).expect("a replay"));
    records.extend(replay.by_ref().take(4).map(|record| record.expect("a record")));
    let pinned = records[0].pin();
    let (mut go, mut started) = std::io::pipe().expect("a pipe");
    match forked() {
        Side::Child(report) => report.run(|| {
            let is_old = |payload: &[u8]| payload == [b'o'; LEN];
            let mut told = [0];
            go.read_exact(&mut told).map_err(|e| e.to_string())?;
            check(
                is_old(pinned.payload()) && records.iter().all(|record| is_old(record.payload())),
                "a record changed",
            )?;
            refused("a record more", replay.next().ok_or("no error")?)?;
            check(replay.next().is_none(), "that is all")
        }),
        Side::Parent(child) => {
            drop((replay, records, pinned));
            drop(snapshot);
            append(40);
            wal.truncate_front(20).expect("a truncation");
            append(100);
            wal.truncate_front(120).expect("a truncation");
            append(40);
            started.write_all(&[1]).expect("a pipe");
            child.outcome().expect("the child");
        }
    }
    assert_eq!(wal.stats().recycled, 0, "no file is used again that a child may have mapped");
    wal.truncate_front(150).expect("a truncation");
    append(40);
    assert!(wal.stats().recycled > 0, "the child is gone");
}
