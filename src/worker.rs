//! The log's own threads: one keeps the delay of `Batch` and syncs for those who await, the other seals and prepares
//! segments, which may take as long as the disk needs.

use std::time::Duration;

use crate::ahead::LOOK;
use crate::board::PERIOD;
use crate::doorbell::Call;
use crate::engine::Engine;
use crate::error::{Error, Operation, Result};
use crate::options::SyncMode;
use crate::storage::Owner;
use crate::sync::atomic::Ordering;
use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::sync::{Arc, Instant, Mutex, PoisonError, lock};

/// Looks that find nothing new, after which the thread waits to be called.
const QUIET_LOOKS: u32 = 20;

/// The threads, as the handle of the log holds them.
pub(crate) struct Worker {
    ids: [ThreadId; 2],
    handles: Mutex<Vec<JoinHandle<()>>>,
    owner: Owner,
}

impl Worker {
    /// Whether the caller is one of these threads, in a waker or a listener.
    pub(crate) fn is_this_thread(&self) -> bool {
        self.ids.contains(&thread::current().id())
    }

    /// Waits until the threads are gone, once the log is closed; not for itself.
    pub(crate) fn join(&self) {
        let handles = std::mem::take(&mut *lock(&self.handles));
        let this = thread::current().id();
        for handle in handles.into_iter().filter(|handle| handle.thread().id() != this) {
            // A panic of the thread has poisoned the log, which whoever closes it is told.
            let _ = handle.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.owner.is_current() {
            // A child of `fork` has no such threads: to detach one there would be to touch memory that is no thread's.
            let handles = self.handles.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(handles).into_iter().for_each(std::mem::forget);
        }
    }
}

/// Starts the threads.
///
/// # Errors
/// What the system says.
pub(crate) fn start(engine: &Arc<Engine>) -> Result<Worker> {
    let syncing = spawn(engine, "mmap-wal-sync", keep_durable)?;
    let upkeep = spawn(engine, "mmap-wal", keep_prepared).inspect_err(|_| engine.commit.sync_bell.end())?;
    let ids = [syncing.thread().id(), upkeep.thread().id()];
    Ok(Worker { ids, handles: Mutex::new(vec![syncing, upkeep]), owner: engine.owner })
}

fn spawn(engine: &Arc<Engine>, name: &str, run: fn(&Engine)) -> Result<JoinHandle<()>> {
    let engine_there = Arc::clone(engine);
    let started = thread::Builder::new().name(name.into()).spawn(move || {
        let guard = PoisonOnPanic(&engine_there);
        run(&engine_there);
        std::mem::forget(guard);
    });
    started.map_err(|source| Error::io(Operation::StartThread, engine.storage.dir(), source))
}

/// Seals what was rotated and prepares what is missing. A failure has poisoned the log, which ends the rounds; want of
/// space is told when the space is needed, or to the attempt that asked for it.
fn keep_prepared(engine: &Engine) {
    while engine.commit.upkeep_bell.wait(None) != Call::Over {
        let maintained = engine.keeper.maintain(&engine.writer, &engine.commit);
        if !engine.owner.is_current() {
            // A listener has forked, and the child came back from it.
            return;
        }
        if let Err(e) = maintained {
            engine.keeper.asked.refuse(e);
        }
        engine.show_soon();
    }
}

/// Syncs what is awaited or due, wakes those who wait, keeps the pages ahead writable, and shows the log to others.
fn keep_durable(engine: &Engine) {
    let mut rounds = Rounds::new(engine);
    while rounds.wait(engine) != Call::Over {
        if engine.keeper.wants_help() {
            sync_before_active(engine);
        }
        if rounds.is_due(engine) {
            sync(engine);
        }
        rounds.see_to_rotations(engine);
        rounds.see_to_spares(engine);
        engine.show_changes(rounds.moved, false);
        engine.commit.wake_due();
        if !engine.owner.is_current() {
            // A waker has forked, and the child came back from it.
            return;
        }
    }
    engine.commit.wake_due();
}

/// One round for a log without threads.
pub(crate) fn work_once(engine: &Engine) {
    if matches!(engine.mode, SyncMode::Batch { .. }) || engine.commit.is_awaited() {
        sync(engine);
    }
    if engine.mode != SyncMode::Sync {
        engine.look_ahead();
    }
    engine.show(true);
}

fn sync(engine: &Engine) {
    let epoch = engine.commit.epoch();
    let last = engine.commit.live().active().last_seq();
    // A failure has poisoned the log, and a cut leaves nothing to do.
    let _ = engine.commit.sync_to(last, epoch);
}

/// Syncs the segments in front of the active one.
fn sync_before_active(engine: &Engine) {
    let epoch = engine.commit.epoch();
    let before = engine.commit.live().active().base_seq() - 1;
    // As in `sync`.
    let _ = engine.commit.sync_to(before, epoch);
}

/// When there is something to sync.
struct Rounds {
    mode: SyncMode,
    /// When the delay of `Batch` is over for the first record that is not durable; set at the first look that finds
    /// one, counted from the look before.
    due: Option<Instant>,
    /// The last look, and the last record and the last durable one that it found.
    looked: Instant,
    found: (u64, u64),
    /// Whether that was new.
    moved: bool,
    /// Looks since something was appended or became durable.
    quiet: u32,
    dozing: bool,
    /// How often the log had gone on in another segment when that was last seen to.
    rotations: u64,
    /// The segment in which missing spares were asked for: whether they could be made or not, once is enough.
    asked_in: u64,
}

impl Rounds {
    fn new(engine: &Engine) -> Self {
        let (mode, found) = (engine.mode, engine.progress());
        let (looked, rotations) = (Instant::now(), 0);
        Self { mode, due: None, looked, found, moved: false, quiet: 0, dozing: false, rotations, asked_in: 0 }
    }

    /// Waits until somebody calls, or it is time to look.
    fn wait(&mut self, engine: &Engine) -> Call {
        self.dozing = self.quiet >= QUIET_LOOKS && engine.doze();
        if self.dozing {
            // What comes after this calls the thread.
            self.see_to_rotations(engine);
            engine.show_changes(false, true);
        }
        let call = engine.commit.sync_bell.wait(self.patience());
        if self.dozing {
            // What was appended now is as old as the call.
            (self.looked, self.quiet) = (Instant::now(), 0);
        }
        call
    }

    fn patience(&self) -> Option<Duration> {
        let look = match self.mode {
            // Nothing is due but to show what happens.
            SyncMode::Sync => PERIOD,
            SyncMode::None => LOOK,
            SyncMode::Batch { delay, .. } => LOOK.min(delay.max(Duration::from_micros(100))),
        };
        let until = |due: Instant| due.saturating_duration_since(Instant::now()).min(look);
        if self.dozing { None } else { Some(self.due.map_or(look, until)) }
    }

    /// Looks at the log.
    fn is_due(&mut self, engine: &Engine) -> bool {
        if self.mode != SyncMode::Sync {
            engine.look_ahead();
        }
        let found = engine.progress();
        self.moved = found != self.found;
        self.quiet = if self.moved { 0 } else { self.quiet.saturating_add(1) };
        self.found = found;
        let before = std::mem::replace(&mut self.looked, Instant::now());
        let due = engine.commit.is_awaited() || self.is_window_over(found.0.saturating_sub(found.1), before);
        if due {
            self.due = None;
        }
        due
    }

    /// Has what was rotated sealed, and the next segment prepared. (In `Sync`, whoever rotated has called for that.)
    fn see_to_rotations(&mut self, engine: &Engine) {
        let rotations = engine.written.rotations.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.rotations, rotations) != rotations {
            engine.commit.upkeep_bell.ring();
        }
    }

    /// Has missing spares made once something is appended: a log that is only opened and closed is left as it is.
    fn see_to_spares(&mut self, engine: &Engine) {
        if engine.written.records.load(Ordering::Relaxed) == 0 {
            return;
        }
        let active = engine.commit.live().active().ordinal();
        if self.asked_in != active && engine.ask_for_spares() {
            self.asked_in = active;
        }
    }

    /// Whether `Batch` wants a sync now.
    fn is_window_over(&mut self, unsynced: u64, before: Instant) -> bool {
        let SyncMode::Batch { records, delay } = self.mode else { return false };
        if unsynced == 0 {
            self.due = None;
            return false;
        }
        // A delay that is beyond the clock is never over.
        self.due = self.due.or_else(|| before.checked_add(delay));
        unsynced >= u64::from(records) || self.due.is_some_and(|due| due <= self.looked)
    }
}

/// A thread that is gone must not leave anybody waiting for it.
struct PoisonOnPanic<'a>(&'a Engine);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if !self.0.owner.is_current() {
            return;
        }
        let source = std::io::Error::other("a thread of the log panicked");
        self.0.commit.poison(Error::io(Operation::Maintain, std::path::Path::new("the log"), source));
        self.0.commit.wake_due();
    }
}
