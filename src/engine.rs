//! The parts of an open log, working together; touches no byte itself.

mod inherited;
mod show;

use std::time::Duration;

use crate::ahead::{Ahead, Refused};
use crate::append::{Attempt, Counts, Writer};
use crate::board::Board;
use crate::callback::Callback;
use crate::commit::Commit;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::index::Budget;
use crate::lingering::map_all;
use crate::live::{Live, Positions};
use crate::options::{Background, Options, SyncMode};
use crate::planted::{Bug, planted};
use crate::prepare::{Keeper, Plan};
use crate::recovery::Recovered;
use crate::segment::{End, Maps};
use crate::snapshot::Snapshot;
use crate::storage::{Owner, Storage};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, TryLockError, lock};
use crate::view::View;
use crate::watch::Watching;

/// An open log, shared by its handle and its threads.
pub(crate) struct Engine {
    pub(crate) storage: Storage,
    /// Asked before any lock is taken.
    pub(crate) owner: Owner,
    /// Where the log began and ended when it was opened.
    opened: Positions,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) commit: Commit,
    pub(crate) keeper: Keeper,
    /// Those of its segments.
    maps: Arc<Maps>,
    pub(crate) mode: SyncMode,
    /// Whether a thread does what need not be done by an append.
    pub(crate) threaded: bool,
    pub(crate) listener: Listener,
    /// What the writer counts.
    pub(crate) written: Arc<Counts>,
    pub(crate) callback: Callback,
    /// Nothing was appended for a while, and the thread that keeps the delay waits to be called. Changed under the
    /// writer's lock.
    dozing: AtomicBool,
    /// Something has happened in this log since it was opened.
    changed: AtomicBool,
    ahead: Mutex<Ahead>,
    /// Where the log shows itself, if it can, and since when it has been open.
    board: Option<(Board, u64)>,
    /// What the indexes of its segments share.
    pub(crate) index_budget: Arc<Budget>,
}

/// What came of a write, and whether it went into a new segment.
pub(crate) struct Written<T> {
    pub(crate) outcome: T,
    pub(crate) rotated: bool,
    /// The epoch in which it got its number.
    pub(crate) epoch: usize,
}

impl Engine {
    /// Puts the parts of a recovered log together.
    pub(crate) fn assemble(storage: Storage, options: &Options, recovered: Recovered) -> Self {
        let Recovered { readers, maps, identities, manifest, unsettled, segments, tail, spares, next_ordinal, .. } =
            recovered;
        let header = manifest.current().header;
        let meta = Arc::from(manifest.current().meta.as_slice());
        let index_budget = Budget::new(options.index_memory);
        segments.iter().for_each(|segment| segment.index().draw_on(&index_budget));
        let active = Arc::clone(&segments[segments.len() - 1]);
        if active.end().count == 0 {
            active.index().lay_out(active.capacity());
        }
        let live = Live {
            first_seq: header.first_seq,
            checkpoint_seq: header.checkpoint_seq,
            durable_seq: active.last_seq(),
            durable_offset: active.end().offset,
            segments: Arc::new(segments),
            meta,
        };
        let listener = options.listener.for_another();
        let plan = Plan {
            segment_size: options.segment_size,
            spare_segments: options.spare_segments,
            sync_zeros: options.sync_mode != SyncMode::None,
            listener: listener.clone(),
            index_budget: Arc::clone(&index_budget),
        };
        let spares = spares.into_iter().map(|spare| spare.indexed(&index_budget)).collect();
        let next_seq =
            if planted(Bug::SeqRestarts) && live.first_seq > live.durable_seq { 1 } else { live.durable_seq + 1 };
        let writer = Writer::new(active, tail, next_seq, spares, options.sync_mode == SyncMode::Sync);
        let opened = live.positions();
        let board = Board::open(&storage).map(|board| (board, storage.now()));
        Self {
            written: writer.counts(),
            writer: Mutex::new(writer),
            commit: Commit::new(live, options.sync_mode != SyncMode::Sync),
            keeper: Keeper::new(
                storage.clone(),
                plan,
                (manifest, identities, unsettled),
                next_ordinal,
                readers,
                Arc::clone(&maps),
            ),
            owner: storage.owner(),
            opened,
            storage,
            maps,
            mode: options.sync_mode,
            threaded: options.background == Background::Thread,
            listener,
            callback: Callback::default(),
            dozing: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            ahead: Mutex::default(),
            board,
            index_budget,
        }
    }

    /// Refuses calls in a forked child, from a callback, and to a log that is closed or has failed.
    pub(crate) fn enter(&self) -> Result<()> {
        self.owner.check()?;
        self.callback.check()?;
        self.commit.check()
    }

    /// Runs `attempt` under the writer's lock, going on in the next segment whenever it does not fit.
    pub(crate) fn write<T>(&self, attempt: impl FnMut(&mut Writer) -> Result<Attempt<T>>) -> Result<Written<T>> {
        self.owner.check()?;
        self.callback.check()?;
        // What fails may have given the log up, and then those who wait are told.
        self.write_or_fail(attempt).inspect_err(|_| self.wake_due())
    }

    fn write_or_fail<T>(&self, mut attempt: impl FnMut(&mut Writer) -> Result<Attempt<T>>) -> Result<Written<T>> {
        let mut rotated = false;
        let mut writer = lock(&self.writer);
        loop {
            self.commit.check()?;
            match attempt(&mut writer).map_err(|e| self.failed(e))? {
                Attempt::Done(outcome) => {
                    self.rouse();
                    return Ok(Written { outcome, rotated, epoch: self.commit.epoch() });
                }
                Attempt::Full(need) if writer.can_rotate(need) => {
                    self.rotate(&mut writer, need)?;
                    rotated = true;
                }
                Attempt::Full(need) => {
                    drop(writer);
                    let ready = self.keeper.wait_ready(&self.writer, &self.commit, need);
                    self.wake_due();
                    writer = lock(&self.writer);
                    // What was announced before is enough, even if there is no space for more.
                    if !writer.has_room(need) && !writer.can_rotate(need) {
                        ready.inspect_err(|_| writer.was_refused())?;
                    }
                }
            }
        }
    }

    /// Tells those who follow, and calls the thread that keeps the delay if it has stopped looking; under the writer's lock.
    fn rouse(&self) {
        if !planted(Bug::AppendTellsNobody) {
            self.commit.watch.tell();
        }
        if self.dozing.load(Ordering::Relaxed) {
            self.dozing.store(false, Ordering::Relaxed);
            self.commit.sync_bell.ring();
        }
    }

    /// Watches the log, unless somebody writes at this moment.
    pub(crate) fn watch(&self) -> Option<Watching<'_>> {
        let _writer = self.try_writer()?;
        Some(self.commit.begin_watch())
    }

    /// Lets the thread that keeps the delay wait until something is appended, if everything up to now is durable or
    /// need not be; under the writer's lock, so that no append goes unnoticed. Returns whether it may: not while
    /// somebody writes, because it must not wait for a callback of an append.
    pub(crate) fn doze(&self) -> bool {
        let Some(writer) = self.try_writer() else { return false };
        let quiet = self.mode == SyncMode::None || self.commit.durable_seq() == writer.last_seq();
        self.dozing.store(quiet, Ordering::Relaxed);
        quiet
    }

    /// Makes the pages that appends are about to reach writable.
    pub(crate) fn look_ahead(&self) {
        let next = self.try_writer().and_then(|writer| writer.next_pages());
        // The files of the other segments could not be used again while they seemed to be looked at.
        let active = Arc::clone(self.commit.live().active());
        let looked = lock(&self.ahead).look(&active, next);
        drop(active);
        looked.unwrap_or_else(|refused| self.see_to_refusal(refused));
    }

    /// Finds out why pages cannot be made writable, and poisons the log before an append comes to them, unless it is for
    /// want of space.
    #[cold]
    fn see_to_refusal(&self, Refused { pages, range }: Refused) {
        // No byte of them changes under the lock. It is not waited for, since its holder may be in a callback: the next
        // look is refused again.
        let Some(_writer) = self.try_writer() else { return };
        if pages.lacks_space() {
            return;
        }
        match pages.prefault(range) {
            Ok(()) | Err(Error::NoSpace(_)) => {}
            Err(e) if e.is_want_of_descriptors() => {}
            Err(e) => drop(self.commit.poison(e)),
        }
    }

    /// Makes all pages of a new log writable, if its zeros are not on the disk, to which they would go once more.
    pub(crate) fn cover_new(&self) {
        if self.mode == SyncMode::None {
            let next = lock(&self.writer).next_pages();
            let covered = lock(&self.ahead).cover(self.commit.live().active(), next);
            covered.unwrap_or_else(|refused| self.see_to_refusal(refused));
        }
    }

    /// Has the spares made that are missing, as they may be after an open: the first rotation is not to wait for them.
    /// Returns whether that was asked for.
    pub(crate) fn ask_for_spares(&self) -> bool {
        let missing = self.try_writer().is_some_and(|writer| self.keeper.is_short_of_spares(&writer));
        if missing {
            self.commit.upkeep_bell.ring();
        }
        missing
    }

    /// The last record, and the last durable one.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.commit.live().active().last_seq(), self.commit.durable_seq())
    }

    /// Goes on in the next segment; whoever calls this has asked whether there is one.
    fn rotate(&self, writer: &mut Writer, need: usize) -> Result<()> {
        writer.prefault_rotation(need).map_err(|e| self.failed(e))?;
        if let Some(next) = writer.rotate(need) {
            self.commit.rotated(&next);
        }
        Ok(())
    }

    /// What an append is told that stored nothing: where the file system refuses to be written to, nothing can be any
    /// more, and the log is poisoned.
    pub(crate) fn failed(&self, e: Error) -> Error {
        let gives_up = matches!(e, Error::Io(_) | Error::Replaced { .. }) && !e.is_want_of_descriptors();
        if gives_up { self.commit.poison(e) } else { e }
    }

    /// Runs `attempt` if that takes no waiting.
    pub(crate) fn try_write<T>(&self, attempt: impl FnMut(&mut Writer) -> Result<Attempt<T>>) -> Result<Option<T>> {
        self.try_or_fail(attempt).inspect_err(|_| self.wake_due())
    }

    fn try_or_fail<T>(&self, mut attempt: impl FnMut(&mut Writer) -> Result<Attempt<T>>) -> Result<Option<T>> {
        let Some(mut writer) = self.try_writer() else { return Ok(None) };
        self.commit.check()?;
        if self.is_behind(writer.last_seq()) {
            return Ok(None);
        }
        let (outcome, rotated) = match attempt(&mut writer).map_err(|e| self.failed(e))? {
            Attempt::Done(outcome) => (Some(outcome), false),
            Attempt::Full(need) if writer.can_rotate(need) => {
                self.rotate(&mut writer, need)?;
                match attempt(&mut writer).map_err(|e| self.failed(e))? {
                    Attempt::Done(outcome) => (Some(outcome), true),
                    Attempt::Full(_) => (None, true),
                }
            }
            Attempt::Full(need) => {
                let refused = self.keeper.asked.ask(need);
                self.commit.upkeep_bell.ring();
                refused?;
                (None, false)
            }
        };
        self.rouse();
        drop(writer);
        if self.threaded {
            self.after_rotation(rotated);
        }
        Ok(outcome)
    }

    /// The writer, if nobody else has it.
    fn try_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => planted(Bug::AttemptWaits).then(|| lock(&self.writer)),
        }
    }

    /// Whether `Batch`'s window is full, so that the next append would wait.
    fn is_behind(&self, last_seq: u64) -> bool {
        match self.mode {
            SyncMode::Batch { records, .. } => {
                last_seq.saturating_sub(self.commit.durable_seq()) >= 2 * u64::from(records)
            }
            SyncMode::Sync | SyncMode::None => false,
        }
    }

    /// Waits until a single append may return.
    #[inline]
    pub(crate) fn acknowledge<T>(&self, written: Written<T>, seq: impl FnOnce(&T) -> u64) -> Result<u64> {
        let seq = seq(&written.outcome);
        if self.mode != SyncMode::None {
            self.keep_promise(seq, written.epoch)?;
        }
        self.after_rotation(written.rotated);
        Ok(seq)
    }

    /// Waits for as much to be durable as the mode says.
    fn keep_promise(&self, seq: u64, epoch: usize) -> Result<()> {
        match self.mode {
            SyncMode::Sync => self.sync_to(seq, epoch),
            SyncMode::Batch { records, .. } => self.keep_window(seq, epoch, u64::from(records)),
            SyncMode::None => Ok(()),
        }
    }

    pub(crate) fn sync_to(&self, seq: u64, epoch: usize) -> Result<()> {
        if planted(Bug::AckBeforeSync) {
            return Ok(());
        }
        let synced = self.commit.sync_to(seq, epoch);
        self.wake_due();
        self.show_soon();
        synced
    }

    /// Starts a sync when `window` records are not durable, and waits while twice as many are not.
    fn keep_window(&self, seq: u64, epoch: usize, window: u64) -> Result<()> {
        let unsynced = seq.saturating_sub(self.commit.durable_seq());
        let window = if planted(Bug::NoBackPressure) { u64::MAX } else { window };
        if self.threaded && unsynced <= window.saturating_mul(2) {
            if unsynced >= window {
                self.commit.sync_bell.ring();
            }
            return Ok(());
        }
        let synced = self.commit.bound(seq, epoch, window);
        self.wake_due();
        synced
    }

    /// As [`Engine::sync_to`], for at most `patience`.
    pub(crate) fn sync_within(&self, seq: u64, epoch: usize, patience: Duration) -> Result<bool> {
        let synced = self.commit.sync_within(seq, epoch, patience);
        self.wake_due();
        self.show_soon();
        synced
    }

    /// Has the segment before sealed, and the next prepared. What was appended is safe without it, so a failure is not
    /// that append's: want of space shows when the space is needed, anything else has poisoned the log.
    #[inline]
    pub(crate) fn after_rotation(&self, rotated: bool) {
        if rotated {
            self.see_to_rotation();
        }
    }

    #[cold]
    fn see_to_rotation(&self) {
        let segment = self.commit.live().active().ordinal();
        self.listener.tell(&Event::Rotated { segment });
        if !self.threaded {
            let _ = self.keeper.maintain(&self.writer, &self.commit);
            self.wake_due();
        } else if self.mode == SyncMode::Sync || self.keeper.was_waited_for() {
            self.commit.upkeep_bell.ring();
        }
        // Otherwise the thread that looks after the log rings: to wake another takes longer than all else in an append.
    }

    /// Without a thread of its own, the log wakes those who wait from the calls that end their wait.
    pub(crate) fn wake_due(&self) {
        // In a forked child those who wait are the parent's.
        if !self.threaded && self.owner.is_current() {
            self.commit.wake_due();
        }
    }

    /// Everything that is published now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let live = self.commit.live();
        let (shown, end) = (live.segments.len(), live.active().end());
        self.view(live, shown, end)
    }

    pub(crate) fn view(&self, live: Live, shown: usize, end: End) -> Snapshot {
        let Live { segments, first_seq, checkpoint_seq, .. } = live;
        // Nobody keeps the files of a closed log.
        if self.commit.check().is_err() {
            map_all(&segments);
        }
        Snapshot::new(View::new(segments, shown, end, first_seq, checkpoint_seq))
    }

    pub(crate) fn finish(&self) -> Result<()> {
        let last = lock(&self.writer).last_seq();
        let synced = self.commit.sync_to(last, self.commit.epoch());
        let closed = self.keeper.close(&self.writer, &self.commit);
        // The next writer may remove files that views of this handle show.
        if self.maps.has_viewers() {
            map_all(&self.commit.live().segments);
        }
        self.maps.relieve();
        // A leader that was overtaken by a failure still holds a file that is about to be another writer's.
        self.commit.await_leader();
        let happened = self.changed.load(Ordering::Relaxed) || self.written.records.load(Ordering::Relaxed) > 0;
        if let Some((board, opened)) = self.board.as_ref().filter(|(board, _)| happened || board.has_shown()) {
            board.show(true, || self.shown(board, 0, *opened));
        }
        synced.and(closed)
    }
}
