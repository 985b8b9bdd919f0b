//! Who is durable, who waits, and what is refused after a failure: the shared state of a live log.
//!
//! Whoever needs durability becomes the *leader* or waits for one. The leader takes everything that is published and not
//! synced in one step, syncs it without holding any lock, oldest segment first, and wakes the waiters. A failed sync
//! poisons the log before anybody is woken, and is never tried again: after an error Linux marks the pages clean, so a
//! second sync would succeed without having written them.

mod gather;
mod leader;
mod state;
mod turns;

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use crate::doorbell::Doorbell;
use crate::error::{Error, Result};
use crate::event::Syncs;
use crate::format::segment::FRAMES_AT;
use crate::live::{Live, Positions};
use crate::planted::{Bug, planted};
use crate::segment::Segment;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Counter, Instant, Mutex, MutexGuard, lock};
use crate::wakers;
use crate::watch::{Watch, Watching};
use leader::{Job, Leadership};
use state::{Part, State};
use turns::Bench;

/// The state, and who waits for it to change.
pub(crate) struct Commit {
    state: Mutex<State>,
    bench: Bench,
    /// Failed or closed: looked at before every append without taking the lock.
    refusing: AtomicBool,
    durable_seq: AtomicU64,
    /// Read by every append, under the writer's lock, and changed under that and the state's.
    epoch: AtomicUsize,
    /// Whether the page that appends go on in is made writable after a sync: where they do not do that themselves.
    prefaults: bool,
    /// Calls the thread that syncs what is awaited or due.
    pub(crate) sync_bell: Doorbell,
    /// Calls the thread that seals and prepares segments.
    pub(crate) upkeep_bell: Doorbell,
    /// Those who follow the log.
    pub(crate) watch: Watch,
    waker_panics: Counter,
}

impl Commit {
    /// The state of a log of which everything is durable.
    pub(crate) fn new(live: Live, prefaults: bool) -> Self {
        Self {
            durable_seq: AtomicU64::new(live.durable_seq),
            state: Mutex::new(State::new(live)),
            bench: Bench::default(),
            refusing: AtomicBool::new(false),
            sync_bell: Doorbell::default(),
            upkeep_bell: Doorbell::default(),
            watch: Watch::default(),
            waker_panics: Counter::new(0),
            epoch: AtomicUsize::new(0),
            prefaults,
        }
    }

    /// Watches the log; the caller holds the writer's lock.
    pub(crate) fn begin_watch(&self) -> Watching<'_> {
        let _state = lock(&self.state);
        self.watch.begin()
    }

    /// The log as of now.
    pub(crate) fn live(&self) -> Live {
        lock(&self.state).live.clone()
    }

    /// Where it begins and ends: the last seq is read while nothing can become durable, or it might be a later one.
    pub(crate) fn positions(&self) -> Positions {
        lock(&self.state).live.positions()
    }

    /// Changes what a view is made of.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Live)) {
        change(&mut lock(&self.state).live);
    }

    /// Refuses if an earlier failure or a close forbids writing.
    pub(crate) fn check(&self) -> Result<()> {
        if self.refusing.load(Ordering::Acquire) { self.refusal() } else { Ok(()) }
    }

    /// As [`Commit::check`], for those who follow: not while a close makes durable what they wait for.
    pub(crate) fn check_more(&self, durable_only: bool) -> Result<()> {
        let state = lock(&self.state);
        let waits = durable_only && state.live.durable_seq < state.live.active().last_seq();
        if waits && state.failure.is_none() {
            return Ok(());
        }
        drop(state);
        self.check()
    }

    #[cold]
    fn refusal(&self) -> Result<()> {
        let state = lock(&self.state);
        match &state.failure {
            Some(failure) => Err(Error::Poisoned(Arc::clone(failure))),
            None if state.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Refuses every write from now on.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        self.refusing.store(true, Ordering::Release);
        state.closed = true;
        self.end(state);
    }

    /// Waits until nobody leads.
    pub(crate) fn await_leader(&self) {
        let mut state = lock(&self.state);
        while state.leading {
            state = self.wait(state, 0, None);
        }
        self.leave(state);
    }

    /// Refuses if an earlier failure forbids writing, closed or not.
    pub(crate) fn check_failure(&self) -> Result<()> {
        lock(&self.state).refuse_if_failed()
    }

    /// Poisons the log: the first failure is kept, everybody who waits gets it.
    pub(crate) fn poison(&self, failure: Error) -> Error {
        let failure = match failure {
            Error::Poisoned(earlier) => earlier,
            other => Arc::new(other),
        };
        let mut state = lock(&self.state);
        let kept = Arc::clone(state.failure.get_or_insert(failure));
        self.refusing.store(true, Ordering::Release);
        self.end(state);
        Error::Poisoned(kept)
    }

    /// The log goes on in `next`; until everything before it is durable its frames claim nothing.
    pub(crate) fn rotated(&self, next: &Arc<Segment>) {
        let mut state = lock(&self.state);
        // A copy is made only if somebody looks at the list: it may be long, and an append waits for this.
        Arc::make_mut(&mut state.live.segments).push(Arc::clone(next));
        state.parts.push_back(Part { segment: Arc::clone(next), synced: FRAMES_AT });
        if planted(Bug::WatermarkOverRotation) {
            next.raise_watermark(FRAMES_AT);
        }
        state.retire_whole();
    }

    /// The last seq that is durable.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    /// How often the log was cut at the back: a seq means the same record as long as this does not change.
    pub(crate) fn epoch(&self) -> usize {
        self.epoch.load(Ordering::Acquire)
    }

    /// The log goes on in the last of `segments`, which is empty, and everything before it is durable; what was above
    /// `kept` is no more.
    pub(crate) fn restarted(&self, segments: Vec<Arc<Segment>>, first_seq: u64, kept: u64) {
        let mut state = lock(&self.state);
        state.cuts.push(kept);
        self.epoch.store(state.cuts.len(), Ordering::Release);
        let Some(active) = segments.last().map(Arc::clone) else { return };
        let last_seq = active.base_seq() - 1;
        state.live.segments = Arc::new(segments);
        state.live.first_seq = first_seq;
        state.live.checkpoint_seq = state.live.checkpoint_seq.min(last_seq);
        (state.live.durable_seq, state.live.durable_offset) = (last_seq, FRAMES_AT);
        self.durable_seq.store(last_seq, Ordering::Release);
        state.parts = VecDeque::from([Part { segment: active, synced: FRAMES_AT }]);
        state.retire_whole();
        self.wake_everybody(state);
    }

    /// Whether the record that had the number `seq` in `epoch` is durable.
    pub(crate) fn is_durable(&self, seq: u64, epoch: usize) -> bool {
        lock(&self.state).is_durable(seq, epoch).unwrap_or(false)
    }

    /// Waits until everything up to `seq`, a number of `epoch`, is durable, leading the sync if nobody does.
    ///
    /// # Errors
    /// `Poisoned` if the sync failed, or an earlier one; `TruncatedBack` if the record was cut off.
    pub(crate) fn sync_to(&self, seq: u64, epoch: usize) -> Result<()> {
        self.attend(seq, epoch, None).map(|_| ())
    }

    /// As [`Commit::sync_to`], for at most `patience`; `false` if that was not enough.
    ///
    /// # Errors
    /// `Poisoned` if the sync failed, or an earlier one.
    pub(crate) fn sync_within(&self, seq: u64, epoch: usize, patience: Duration) -> Result<bool> {
        self.attend(seq, epoch, Some(patience))
    }

    fn attend(&self, seq: u64, epoch: usize, patience: Option<Duration>) -> Result<bool> {
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let left = || {
            let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
            deadline.map(until).or(patience)
        };
        let mut state = lock(&self.state);
        let mut has_waited = false;
        loop {
            let stands = state.stands(seq, epoch);
            let left = if matches!(stands, Ok(false)) { left() } else { Some(Duration::ZERO) };
            if left.is_some_and(|left| left.is_zero()) {
                if has_waited {
                    self.leave(state);
                }
                return stands;
            }
            has_waited = state.leading;
            state = if has_waited {
                self.wait(state, seq, left)
            } else {
                self.lead(state)?;
                lock(&self.state)
            };
        }
    }

    /// Goes; whoever has waited and goes without leading may be the one who was woken to lead.
    fn leave(&self, state: MutexGuard<'_, State>) {
        if !state.leading && !planted(Bug::LeaderNotPassedOn) {
            let call = state.turns.pass_on();
            drop(state);
            self.bench.wake(call);
        }
    }

    /// Waits until fewer than `limit` records up to `seq` are not durable, leading if nobody else will.
    ///
    /// # Errors
    /// `Poisoned` if the sync failed, or an earlier one.
    pub(crate) fn bound(&self, seq: u64, epoch: usize, limit: u64) -> Result<()> {
        match seq.checked_sub(limit.saturating_sub(1)) {
            Some(oldest) if self.durable_seq() < oldest => self.sync_to(oldest, epoch),
            _ => Ok(()),
        }
    }

    /// Whether `seq` is durable; if not, `waker` is woken when it is, or when it never will be. `waiter` is the number of
    /// this waiter, given at its first call.
    ///
    /// # Errors
    /// `Poisoned` if a sync failed.
    pub(crate) fn poll(&self, seq: u64, epoch: usize, waiter: &mut Option<u64>, waker: &Waker) -> Result<bool> {
        let waker = waker.clone();
        let mut state = lock(&self.state);
        if state.is_durable(seq, epoch)? {
            return Ok(true);
        }
        state.refuse_if_failed()?;
        let replaced = state.wakers.wait(waiter, seq, waker);
        drop(state);
        self.sync_bell.ring();
        drop(replaced);
        Ok(false)
    }

    /// Forgets a waiter that was dropped.
    pub(crate) fn forget(&self, waiter: u64) {
        let forgotten = lock(&self.state).wakers.forget(waiter);
        drop(forgotten);
    }

    /// Whether somebody waits to be woken.
    pub(crate) fn is_awaited(&self) -> bool {
        !lock(&self.state).wakers.is_empty()
    }

    /// What the leaders counted.
    pub(crate) fn syncs(&self) -> Syncs {
        lock(&self.state).syncs
    }

    fn wake_everybody(&self, mut state: MutexGuard<'_, State>) {
        if planted(Bug::FailureWakesNobody) && state.failure.is_some() {
            return;
        }
        self.bench.wake_all(&state.turns);
        state.wakers.everybody();
        self.watch.tell();
        drop(state);
        self.sync_bell.ring();
    }

    /// Wakes everybody, and lets the threads end: nothing will be written any more.
    fn end(&self, state: MutexGuard<'_, State>) {
        if planted(Bug::CloseWakesNobody) && state.closed {
            return;
        }
        self.wake_everybody(state);
        self.sync_bell.end();
        self.upkeep_bell.end();
    }

    /// Wakes those whose wait is over; for callers that hold no lock of the log.
    pub(crate) fn wake_due(&self) {
        let due = lock(&self.state).wakers.take_due();
        self.waker_panics.fetch_add(wakers::wake(due), Ordering::Relaxed);
    }

    /// How many wakers panicked.
    pub(crate) fn waker_panics(&self) -> u64 {
        self.waker_panics.load(Ordering::Relaxed)
    }

    /// Refuses if the record that had the number `seq` in `epoch` was cut off since.
    ///
    /// # Errors
    /// `TruncatedBack`.
    pub(crate) fn check_epoch(&self, seq: u64, epoch: usize) -> Result<()> {
        lock(&self.state).is_durable(seq, epoch).map(|_| ())
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>, seq: u64, limit: Option<Duration>) -> MutexGuard<'a, State> {
        self.bench.wait(&self.state, state, |state| &mut state.turns, seq, limit)
    }

    /// Waits a moment for a record, without holding the lock meanwhile.
    fn gather<'a>(&'a self, state: MutexGuard<'a, State>, awaited: (u64, Duration)) -> MutexGuard<'a, State> {
        let active = Arc::clone(state.live.active());
        drop(state);
        let started = Instant::now();
        let last = gather::wait(awaited, || active.last_seq());
        let mut state = lock(&self.state);
        state.gather.note(last, started.elapsed());
        state
    }

    /// Syncs everything that is published now, without holding the lock meanwhile.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<()> {
        state.leading = !planted(Bug::TwoLeaders);
        if let Some(awaited) = state.gather.awaited() {
            state = self.gather(state, awaited);
        }
        let jobs = state.jobs();
        let taken = jobs.iter().flatten().last().map_or(state.live.durable_seq, Job::last_seq);
        state.turns.begin(taken);
        if planted(Bug::DurableBeforeSync) {
            jobs.iter().flatten().try_for_each(|job| state.synced(job))?;
        }
        drop(state);
        let leadership = Leadership::begin(self);
        let started = Instant::now();
        for job in jobs.iter().flatten() {
            if let Err(e) = job.segment.sync(job.from, job.to.offset) {
                if planted(Bug::LeaderEndsBeforePoison) {
                    lock(&self.state).leading = false;
                }
                return Err(self.poison(e));
            }
        }
        let elapsed = started.elapsed();
        let mut state = leadership.end(&jobs, elapsed);
        self.durable_seq.store(state.live.durable_seq, Ordering::Release);
        let durable = state.live.durable_seq;
        if !planted(Bug::SyncForgetsWakers) && state.wakers.durable(durable) {
            self.sync_bell.ring();
        }
        let call = state.turns.end();
        let last = state.live.active().last_seq();
        let woken = state.turns.over();
        state.gather.turn_ended(last, woken, elapsed);
        if state.failure.is_some() {
            self.bench.wake_all(&state.turns);
        }
        drop(state);
        if !planted(Bug::SyncWakesNobody) {
            self.bench.wake(call);
        }
        self.prefault_after_sync(&jobs);
        Ok(())
    }

    /// Makes the page that was just written back writable again, if appends do not ask for it. What was synced is durable
    /// whatever comes of it.
    fn prefault_after_sync(&self, jobs: &[Option<Job>; 2]) {
        let last = jobs.iter().flatten().last().filter(|_| self.prefaults);
        match last.map_or(Ok(()), |job| job.segment.prefault_after_sync(job.to.offset)) {
            // An append that meets this page needs space that may be there by then.
            Ok(()) | Err(Error::NoSpace(_)) => {}
            Err(e) if e.is_want_of_descriptors() => {}
            Err(e) => drop(self.poison(e)),
        }
    }
}
