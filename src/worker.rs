//! The log's own thread: it prepares and seals segments, keeps the delay of `Batch`, and syncs for those who await.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::commit::Commit;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::SyncMode;

/// Starts the thread.
///
/// # Errors
/// What the system says.
pub(crate) fn start(engine: &Arc<Engine>) -> Result<JoinHandle<()>> {
    let engine_there = Arc::clone(engine);
    let started = std::thread::Builder::new().name("mmap-wal".into()).spawn(move || run(&engine_there));
    started.map_err(|source| Error::io("start a thread for", engine.storage.dir(), source))
}

fn run(engine: &Engine) {
    let guard = PoisonOnPanic(&engine.commit);
    let tick = delay(engine.mode);
    while let Some(work) = engine.commit.await_work(tick) {
        work_once(engine, work);
    }
    std::mem::forget(guard);
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
