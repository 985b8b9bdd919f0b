//! The log, as its user sees it.

use std::io::IoSlice;
use std::path::Path;

use crate::append::{Attempt, Seqs};
use crate::engine::{Engine, Written};
use crate::error::{Error, Result};
use crate::event::Stats;
use crate::format::manifest::MAX_META;
use crate::live::Positions;
use crate::options::Options;
use crate::pending::Pending;
use crate::recovery::report::RecoveryReport;
use crate::recovery::{self, Locks};
use crate::snapshot::Snapshot;
use crate::storage::{Observer, Place};
use crate::sync::{Arc, Mutex, TryLockError, lock};
use crate::tail::Tail;
use crate::truncate;
use crate::worker::{self, Worker};

/// A write-ahead log, open for writing.
///
/// One handle writes a log at a time; it can be shared by threads. Dropping it closes the log; [`Wal::close`] tells
/// whether that worked.
///
/// A child of `fork` must open the log itself, once its parent has closed it: every call of an inherited handle is
/// [`Error::Forked`] there, and to drop it changes nothing. Calls that cannot fail then answer with what opening the log
/// had found, as [`Wal::recovery`] says it; the metadata is empty, and a snapshot refuses to show a record.
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// use mmap_wal::Wal;
/// let wal = Wal::open(dir.path())?;
/// let seq = wal.append(b"hello")?;
/// wal.append_batch(&["all", "or", "nothing"])?;
/// wal.checkpoint(seq)?;
/// let after = wal.positions().checkpoint;
/// let payloads: Result<Vec<_>, _> = wal.snapshot().replay(after)?.map(|r| r.map(|r| r.payload().to_vec())).collect();
/// assert_eq!(payloads?, [&b"all"[..], b"or", b"nothing"]);
/// wal.close()?;
/// # Ok(())
/// # }
/// ```
pub struct Wal {
    engine: Arc<Engine>,
    locks: Mutex<Option<Locks>>,
    worker: Option<Worker>,
    report: RecoveryReport,
}

impl Options {
    /// Opens the log in `dir`, creating it unless [`create`](Options::create) is off.
    ///
    /// Whatever is found is durable before this returns. [`Wal::recovery`] says what was found.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`]; [`Error::Locked`] if another handle writes the log; [`Error::Corrupt`],
    /// [`Error::MissingSegment`], [`Error::NoManifest`], [`Error::StaleManifest`], [`Error::Foreign`] or
    /// [`Error::Version`] if it cannot be trusted, and then nothing was written; [`Error::TornTail`] if
    /// [`strict`](Options::strict); [`Error::NoSpace`] if a new log does not fit; [`Error::Io`].
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Wal> {
        self.open_observed(dir, None)
    }

    /// As [`Options::open`], with `observer` between the log and the file system.
    ///
    /// # Errors
    /// As [`Options::open`].
    #[doc(hidden)]
    pub fn open_observed(&self, dir: impl AsRef<Path>, observer: Option<Arc<dyn Observer>>) -> Result<Wal> {
        let options = self.validated()?;
        let place = Place::new(dir.as_ref(), options.file_mode, observer);
        if options.create {
            place.make_dirs()?;
        }
        let storage = place.open_locking_memory(options.lock_memory)?;
        let (locks, recovered) = recovery::open(&storage, &options)?;
        let report = recovered.report.clone();
        let engine = Arc::new(Engine::assemble(storage, &options, recovered));
        let mut wal = Wal { engine, locks: Mutex::new(Some(locks)), worker: None, report };
        // Another open writes no page more than it must, and shows itself when something happens.
        if wal.report.created {
            wal.engine.cover_new();
            wal.engine.show(true);
        }
        if wal.engine.threaded {
            // If no thread can be had, what is dropped here closes the log.
            wal.worker = Some(worker::start(&wal.engine)?);
        }
        Ok(wal)
    }
}

impl Wal {
    /// Opens the log in `dir` with the default options, creating it if there is none.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(dir)
    }

    /// Does what the background thread would: syncs what is awaited or due, seals what was rotated, prepares segments.
    /// For [`Background::Caller`](crate::Background::Caller); harmless beside the thread.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if a segment does not fit; [`Error::Poisoned`]; [`Error::Closed`]; [`Error::Reentrant`].
    pub fn maintain(&self) -> Result<()> {
        self.engine.enter()?;
        worker::work_once(&self.engine);
        let done = self.engine.keeper.maintain(&self.engine.writer, &self.engine.commit);
        self.engine.wake_due();
        done
    }

    /// What this handle has counted since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// What opening the log found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Appends one record and returns its sequence number, when the [`SyncMode`](crate::SyncMode) says so.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if a segment is needed and does not fit the disk, and no number is used then;
    /// [`Error::RecordTooLarge`]; [`Error::Poisoned`] if this or an earlier sync failed, and the record may or may not
    /// be there after the log is opened again; [`Error::Closed`]; [`Error::Reentrant`].
    pub fn append(&self, payload: &[u8]) -> Result<u64> {
        let written = self.engine.write(|writer| writer.append(0, payload))?;
        self.engine.acknowledge(written, |seq| *seq)
    }

    /// As [`Wal::append`], gathering the record from `parts`.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append_vectored(&self, parts: &[IoSlice<'_>]) -> Result<u64> {
        self.append_tagged(0, parts)
    }

    /// As [`Wal::append_vectored`], with a tag that [`Record::tag`](crate::Record::tag) gives back.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append_tagged(&self, tag: u16, parts: &[IoSlice<'_>]) -> Result<u64> {
        let written = self.engine.write(|writer| writer.append_vectored(tag, parts))?;
        self.engine.acknowledge(written, |seq| *seq)
    }

    /// Appends one record of at most `max_len` bytes that `fill` writes in place, into zeroed memory of the segment; it
    /// returns the length. Nothing is copied.
    ///
    /// If `fill` fails or panics, nothing is appended; its error is the inner result. If it forks, the child must not write
    /// to the bytes, which are the parent's.
    ///
    /// # Errors
    /// As [`Wal::append`], and [`Error::RecordTooLarge`] if `fill` returns more than `max_len`. Calling this log inside
    /// `fill` is [`Error::Reentrant`].
    pub fn append_with<E>(
        &self,
        max_len: usize,
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<usize, E>,
    ) -> Result<std::result::Result<u64, E>> {
        let engine = &self.engine;
        let mut fill = Some(fill);
        let written = engine.write(|writer| match (writer.room_for(max_len)?, fill.take()) {
            (Attempt::Done(()), Some(fill)) => {
                let _callback = engine.callback.enter();
                writer.append_with(max_len, fill).map(Attempt::Done)
            }
            (Attempt::Full(need), kept) => {
                fill = kept;
                Ok(Attempt::Full(need))
            }
            (Attempt::Done(()), None) => Err(Error::Closed),
        })?;
        match &written.outcome {
            Ok(seq) => {
                let seq = *seq;
                engine.acknowledge(written, |_| seq).map(|_| Ok(seq))
            }
            Err(_) => {
                engine.after_rotation(written.rotated);
                Ok(written.outcome)
            }
        }
    }

    /// Appends `records` as one batch, which is there whole or not at all after any crash and for every reader, and is
    /// durable when this returns, in every [`SyncMode`](crate::SyncMode). An empty batch writes nothing.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append_batch<T: AsRef<[u8]>>(&self, records: &[T]) -> Result<Seqs> {
        let Written { outcome: seqs, rotated, epoch } = self.write_batch(records)?;
        if let Some(last) = seqs.last() {
            self.engine.sync_to(last, epoch)?;
        }
        self.engine.after_rotation(rotated);
        Ok(seqs)
    }

    fn write_batch<T: AsRef<[u8]>>(&self, records: &[T]) -> Result<Written<Seqs>> {
        let engine = &self.engine;
        engine.enter()?;
        if records.is_empty() {
            let seqs = Seqs::new(lock(&engine.writer).last_seq() + 1, 0);
            return Ok(Written { outcome: seqs, rotated: false, epoch: engine.commit.epoch() });
        }
        engine.write(|writer| {
            let _callback = engine.callback.enter();
            writer.append_batch(0, records)
        })
    }

    /// Publishes one record in any [`SyncMode`](crate::SyncMode) and returns its [`Pending`] durability.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn submit(&self, payload: &[u8]) -> Result<Pending> {
        let written = self.engine.write(|writer| writer.append(0, payload))?;
        self.engine.after_rotation(written.rotated);
        Ok(Pending::new(Arc::clone(&self.engine), Seqs::new(written.outcome, 1), written.epoch))
    }

    /// Publishes `records` as one batch in any [`SyncMode`](crate::SyncMode) and returns its [`Pending`] durability.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn submit_batch<T: AsRef<[u8]>>(&self, records: &[T]) -> Result<Pending> {
        let Written { outcome: seqs, rotated, epoch } = self.write_batch(records)?;
        self.engine.after_rotation(rotated);
        Ok(Pending::new(Arc::clone(&self.engine), seqs, epoch))
    }

    /// Publishes one record if that takes no waiting, for no lock, segment or sync; `None` if it would. What is not
    /// durable yet becomes so by the [`SyncMode`](crate::SyncMode)'s window, or by [`Wal::sync_to`].
    ///
    /// Where no prepared segment has room, one that does is asked for, of the log's thread or, with
    /// [`Background::Caller`](crate::Background::Caller), of the next [`maintain`](Wal::maintain): a later attempt succeeds.
    /// If the thread cannot make it, a later attempt says why, once, and asks anew; `maintain` says so itself.
    ///
    /// # Errors
    /// As [`Wal::append`]; [`Error::NoSpace`] and [`Error::Io`] are those of the segment that was asked for.
    pub fn try_append(&self, payload: &[u8]) -> Result<Option<u64>> {
        self.engine.enter()?;
        self.engine.try_write(|writer| writer.append(0, payload))
    }

    /// Makes everything that was appended durable; returns the last sequence number that is. Then the time of change of the
    /// files says that something was appended, as after a close; the syncs of appends do not move it.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if this or an earlier sync failed; [`Error::Closed`]; [`Error::Reentrant`].
    pub fn sync(&self) -> Result<u64> {
        self.engine.enter()?;
        loop {
            let epoch = self.engine.commit.epoch();
            let last = self.positions().last;
            match self.engine.sync_to(last, epoch) {
                // A cut came between, and what is left is asked for anew.
                Err(Error::TruncatedBack { .. }) => {}
                done => {
                    done?;
                    self.engine.commit.live().stamp_appended();
                    return Ok(last);
                }
            }
        }
    }

    /// Makes everything up to `seq` durable.
    ///
    /// # Errors
    /// As [`Wal::sync`], and [`Error::OutOfRange`] if `seq` was never appended.
    pub fn sync_to(&self, seq: u64) -> Result<()> {
        self.engine.enter()?;
        let epoch = self.engine.commit.epoch();
        self.in_range(seq)?;
        self.engine.sync_to(seq, epoch)
    }

    fn in_range(&self, seq: u64) -> Result<()> {
        let last_seq = self.positions().last;
        if seq > last_seq { Err(Error::OutOfRange { seq, last_seq }) } else { Ok(()) }
    }

    /// First, last, durable and checkpointed sequence number, in one consistent read.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.engine.positions()
    }

    /// Everything that is published now, without a copy.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.engine.current_view(false)
    }

    /// Everything that is durable now, without a copy.
    #[must_use]
    pub fn durable_snapshot(&self) -> Snapshot {
        self.engine.current_view(true)
    }

    /// Follows the log from behind the record `after` on; 0 starts at the front, wherever that is. The tail may outlive
    /// this handle, and then ends where the log was closed.
    ///
    /// # Errors
    /// [`Error::Truncated`] if records above `after` were truncated, [`Error::Ahead`] if `after` was never appended;
    /// [`Error::Corrupt`], [`Error::MissingSegment`] or [`Error::Io`] if the way there is damaged.
    pub fn tail(&self, after: u64) -> Result<Tail> {
        Tail::of_handle(&self.engine, after)
    }

    /// Records, durably, that the user's state holds everything up to `up_to`, which is made durable first. A number
    /// that is not above the present checkpoint changes nothing.
    ///
    /// # Errors
    /// As [`Wal::sync_to`].
    pub fn checkpoint(&self, up_to: u64) -> Result<()> {
        let engine = &self.engine;
        engine.enter()?;
        let epoch = engine.commit.epoch();
        self.in_range(up_to)?;
        engine.sync_to(up_to, epoch)?;
        let done = truncate::checkpoint(engine, up_to, epoch);
        engine.wake_due();
        engine.show_soon();
        done
    }

    /// Removes the records up to `up_to`, at most all, durably and in one step; files that hold nothing else go. Views
    /// that exist keep what they show. Works on a full disk.
    ///
    /// # Errors
    /// As [`Wal::sync`]; [`Error::Io`] if a file could not be removed, though the records are gone: the next open
    /// removes it.
    pub fn truncate_front(&self, up_to: u64) -> Result<()> {
        self.engine.enter()?;
        let done = truncate::front(&self.engine, up_to);
        self.engine.wake_due();
        self.engine.show_soon();
        done
    }

    /// Cuts off the records above `after`, which must end a batch, durably and in one step. The next append gets
    /// `after + 1`. Views that exist keep what they show; whoever waits for a record that is cut off gets
    /// [`Error::TruncatedBack`]. The checkpoint goes back to `after` if it was above.
    ///
    /// # Errors
    /// As [`Wal::append`]; [`Error::OutOfRange`] if `after` was never appended, [`Error::Truncated`] if it lies before
    /// the record in front of the first, [`Error::InsideBatch`]; [`Error::Corrupt`] if the way to `after` is damaged;
    /// [`Error::Io`] if a file could not be removed, though the records are gone.
    pub fn truncate_back(&self, after: u64) -> Result<()> {
        self.engine.enter()?;
        let cut = truncate::back(&self.engine, after);
        self.engine.wake_due();
        self.engine.show_soon();
        cut
    }

    /// Drops every record and goes on at `next_seq`, durably and in one step: after a state was installed from
    /// elsewhere. The checkpoint stays.
    ///
    /// # Errors
    /// As [`Wal::truncate_back`]; [`Error::OutOfRange`] if `next_seq` is not above the last record, or 2^62 or more.
    pub fn reset(&self, next_seq: u64) -> Result<()> {
        self.engine.enter()?;
        let done = truncate::reset(&self.engine, next_seq);
        self.engine.wake_due();
        self.engine.show_soon();
        done
    }

    /// Stores up to 1,024 bytes of the user's beside the log, durably and in one step: a vote, a term.
    ///
    /// # Errors
    /// As [`Wal::sync`], and [`Error::RecordTooLarge`].
    pub fn set_meta(&self, meta: &[u8]) -> Result<()> {
        let engine = &self.engine;
        engine.enter()?;
        if meta.len() > MAX_META {
            return Err(Error::RecordTooLarge { len: meta.len() as u64, max: MAX_META as u64 });
        }
        let stored = engine.keeper.set_meta(meta, &engine.commit);
        engine.wake_due();
        stored
    }

    /// What [`Wal::set_meta`] stored last; empty if nothing was.
    #[must_use]
    pub fn meta(&self) -> Arc<[u8]> {
        self.engine.meta()
    }

    /// Makes everything durable, notes that the log was closed, and gives the lock back. Later calls that write are
    /// [`Error::Closed`]; views live on. Closing again does nothing.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the last sync failed, or an earlier one; the lock is given back all the same.
    pub fn close(&self) -> Result<()> {
        self.engine.owner.check()?;
        self.engine.callback.check()?;
        let in_worker = self.worker.as_ref().is_some_and(Worker::is_this_thread);
        // Held to the end: whoever closes beside another returns when the log is closed. Only the log's own thread, in a
        // waker, must not wait for one who waits for it.
        let mut held = match self.locks.try_lock() {
            Err(TryLockError::WouldBlock) if in_worker => return Ok(()),
            Err(TryLockError::WouldBlock) => lock(&self.locks),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Ok(guard) => guard,
        };
        let Some(locks) = held.take() else { return Ok(()) };
        {
            let _no_append = lock(&self.engine.writer);
            self.engine.commit.close();
        }
        self.worker.iter().for_each(Worker::join);
        let closed = self.engine.finish();
        let closed = closed.and(locks.unlock());
        drop(held);
        self.engine.commit.wake_due();
        closed
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // Whoever wants to know closes; nothing acknowledged depends on it. A forked child closes nothing.
        let _ = self.close();
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (dir, positions) = (self.engine.storage.dir(), self.positions());
        f.debug_struct("Wal").field("dir", &dir).field("positions", &positions).finish_non_exhaustive()
    }
}
