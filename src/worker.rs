//! The log's own thread: it prepares and seals segments, keeps the delay of `Batch`, and syncs for those who await.

use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use crate::commit::{Commit, lock};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::SyncMode;

/// The thread, as the handle of the log holds it.
pub(crate) struct Worker {
    id: ThreadId,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Whether the caller is this thread, in a waker.
    pub(crate) fn is_this_thread(&self) -> bool {
        self.id == std::thread::current().id()
    }

    /// Waits until the thread is gone, once the log is closed; not for itself.
    pub(crate) fn join(&self) {
        if let Some(handle) = lock(&self.handle).take().filter(|_| !self.is_this_thread()) {
            // A panic of the thread has poisoned the log, which whoever closes it is told.
            let _ = handle.join();
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// What the system says.
pub(crate) fn start(engine: &Arc<Engine>) -> Result<Worker> {
    let engine_there = Arc::clone(engine);
    let started = std::thread::Builder::new().name("mmap-wal".into()).spawn(move || run(&engine_there));
    let handle = started.map_err(|source| Error::io("start a thread for", engine.storage.dir(), source))?;
    Ok(Worker { id: handle.thread().id(), handle: Mutex::new(Some(handle)) })
}

fn run(engine: &Engine) {
    let guard = PoisonOnPanic(&engine.commit);
    let tick = delay(engine.mode);
    while let Some(work) = engine.commit.await_work(tick) {
        work_once(engine, work);
        engine.commit.wake_due();
    }
    std::mem::forget(guard);
    engine.commit.wake_due();
}

/// One round: what is awaited or due is synced, what was rotated is sealed, what is missing is prepared. A failure has
/// poisoned the log, which ends the rounds; want of space is told when the space is needed.
pub(crate) fn work_once(engine: &Engine, signalled: bool) {
    let due = delay(engine.mode).is_some() || engine.commit.is_awaited();
    if due {
        let epoch = engine.commit.epoch();
        let last = engine.commit.live().active().last_seq();
        let _ = engine.commit.sync_to(last, epoch);
    }
    if signalled {
        let _ = engine.keeper.maintain(&engine.writer, &engine.commit);
    }
}

const fn delay(mode: SyncMode) -> Option<Duration> {
    match mode {
        SyncMode::Batch { delay, .. } => Some(delay),
        SyncMode::Sync | SyncMode::None => None,
    }
}

/// A thread that is gone must not leave anybody waiting for it.
struct PoisonOnPanic<'a>(&'a Commit);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        let source = std::io::Error::other("the background thread panicked");
        self.0.poison(Error::io("maintain", std::path::Path::new("the log"), source));
    }
}
