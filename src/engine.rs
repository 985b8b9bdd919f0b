//! The parts of an open log, working together; touches no byte itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::append::{Attempt, Writer};
use crate::commit::{Commit, Live, lock};
use crate::error::{Error, Result};
use crate::options::SyncMode;
use crate::planted::{Bug, planted};
use crate::prepare::Keeper;
use crate::segment::{End, Segment, file_name};
use crate::snapshot::{Snapshot, View};
use crate::storage::{Storage, StoredFile};

/// An open log, shared by its handle and its threads.
pub(crate) struct Engine {
    pub(crate) storage: Storage,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) commit: Commit,
    pub(crate) keeper: Keeper,
    pub(crate) readers: Arc<StoredFile>,
    pub(crate) mode: SyncMode,
    /// The thread that is in a callback of an append, while one is.
    pub(crate) callback: AtomicUsize,
}

/// What came of a write, and whether it went into a new segment.
pub(crate) struct Written<T> {
    pub(crate) outcome: T,
    pub(crate) rotated: bool,
}

impl Engine {
    /// Refuses calls from a callback, and to a log that is closed or has failed.
    pub(crate) fn enter(&self) -> Result<()> {
        self.not_reentrant()?;
        self.commit.check()
    }

    pub(crate) fn not_reentrant(&self) -> Result<()> {
        let thread = self.callback.load(Ordering::Relaxed);
        if thread != 0 && thread == this_thread() { Err(Error::Reentrant) } else { Ok(()) }
    }

    /// Runs `attempt` under the writer's lock, going on in the next segment whenever it does not fit.
    pub(crate) fn write<T>(&self, mut attempt: impl FnMut(&mut Writer) -> Result<Attempt<T>>) -> Result<Written<T>> {
        self.not_reentrant()?;
        let mut rotated = false;
        let mut writer = lock(&self.writer);
        loop {
            self.commit.check()?;
            match attempt(&mut writer)? {
                Attempt::Done(outcome) => return Ok(Written { outcome, rotated }),
                Attempt::Full(need) if writer.can_rotate(need) => {
                    let next = writer.rotate(need);
                    next.iter().for_each(|next| self.commit.rotated(next));
                    rotated = true;
                }
                Attempt::Full(need) => {
                    drop(writer);
                    self.keeper.make_ready(&self.writer, &self.commit, need)?;
                    writer = lock(&self.writer);
                }
            }
        }
    }

    /// Waits until a single append may return.
    pub(crate) fn acknowledge<T>(&self, written: Written<T>, seq: impl FnOnce(&T) -> u64) -> Result<u64> {
        let seq = seq(&written.outcome);
        match self.mode {
            SyncMode::Sync => self.sync_to(seq)?,
            SyncMode::Batch { records, .. } => self.commit.bound(seq, u64::from(records))?,
            SyncMode::None => {}
        }
        self.after_rotation(written.rotated);
        Ok(seq)
    }

    pub(crate) fn sync_to(&self, seq: u64) -> Result<()> {
        if planted(Bug::AckBeforeSync) { Ok(()) } else { self.commit.sync_to(seq) }
    }

    /// Seals the segment before, and prepares the next. What was appended is safe without it, so a failure is not that
    /// append's: want of space shows when the space is needed, anything else has poisoned the log.
    pub(crate) fn after_rotation(&self, rotated: bool) {
        if rotated {
            let _ = self.keeper.maintain(&self.writer, &self.commit);
        }
    }

    pub(crate) fn view(&self, live: Live, shown: usize, end: End) -> Snapshot {
        let Live { segments, first_seq, checkpoint_seq, .. } = live;
        Snapshot::new(View { segments, shown, end, first_seq, checkpoint_seq, _readers: Arc::clone(&self.readers) })
    }

    /// Removes the files of segments that the manifest names no longer. What a view shows is mapped first.
    pub(crate) fn remove(&self, dropped: Vec<Arc<Segment>>) -> Result<()> {
        for segment in dropped {
            if Arc::strong_count(&segment) > 1 {
                segment.map()?;
            }
            self.storage.remove(file_name(segment.ordinal()).as_str())?;
        }
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<()> {
        self.commit.check_failure()?;
        let last = lock(&self.writer).last_seq();
        self.commit.sync_to(last)?;
        self.keeper.close(&self.writer, &self.commit)
    }
}

/// Marks that this thread runs user code under the writer's lock.
pub(crate) struct Callback<'a>(&'a Engine);

impl<'a> Callback<'a> {
    pub(crate) fn enter(engine: &'a Engine) -> Self {
        engine.callback.store(this_thread(), Ordering::Relaxed);
        Self(engine)
    }
}

impl Drop for Callback<'_> {
    fn drop(&mut self) {
        self.0.callback.store(0, Ordering::Relaxed);
    }
}

/// A number that no other living thread has, and that is not 0.
fn this_thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

/// In `Batch` mode, the thread that keeps the delay.
pub(crate) fn start_ticker(engine: &Arc<Engine>) -> Result<Option<JoinHandle<()>>> {
    let SyncMode::Batch { delay, .. } = engine.mode else { return Ok(None) };
    let engine_there = Arc::clone(engine);
    let tick = move || {
        while engine_there.commit.pause(delay) {
            let last = engine_there.commit.live().active().last_seq();
            // A failure has poisoned the log, which ends the pauses.
            let _ = engine_there.commit.sync_to(last);
        }
    };
    let started = std::thread::Builder::new().name("mmap-wal".into()).spawn(tick);
    started.map(Some).map_err(|source| Error::io("start a thread for", engine.storage.dir(), source))
}
