//! What is done off the append path: rotated segments are synced and sealed, spares prepared and announced.
//!
//! One manifest update seals a segment, makes the next one active and announces another spare. It runs under the lock of
//! the manifest, which appends never take; the writer's lock is held only to look and to hand over.

use std::time::{Duration, Instant};

use crate::append::Writer;
use crate::commit::Commit;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::format::PAGE;
use crate::format::manifest::Entry;
use crate::format::segment::FRAMES_AT;
use crate::index::Budget;
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::planted::{Bug, planted};
use crate::recovery::draw_salt;
use crate::segment::{Preparation, Segment, Spare, file_name};
use crate::storage::{Storage, StoredFile};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Counter, Mutex, MutexGuard, lock};

/// How spares are made.
pub(crate) struct Plan {
    pub(crate) segment_size: u64,
    pub(crate) spare_segments: usize,
    pub(crate) sync_zeros: bool,
    pub(crate) listener: Listener,
    /// Memory for where records stand.
    pub(crate) index_budget: Arc<Budget>,
}

/// The manifest, and what changes it.
pub(crate) struct Keeper {
    storage: Storage,
    plan: Plan,
    books: Mutex<Books>,
    readers: Arc<StoredFile>,
    /// Appends wait for a new segment file and for the segment before to be synced: both are to be done at a time.
    wants_help: AtomicBool,
    /// How many appends had waited for a segment when an append last saw to its rotation.
    waits_seen: Counter,
    pub(crate) counts: Counts,
}

/// What a keeper counted.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) prepared: Counter,
    pub(crate) recycled: Counter,
    pub(crate) removed: Counter,
    /// Appends that waited for a segment.
    pub(crate) waits: Counter,
}

/// The manifest, and the next ordinal for a segment.
pub(crate) struct Books {
    manifest: ManifestFile,
    next_ordinal: u64,
    /// Segments that the manifest names no longer, whose files may be used again.
    retired: Vec<Arc<Segment>>,
    /// How many appends had waited for a segment at the last rotation.
    waits: u64,
    /// The lock is given back, or is about to be: the files are another writer's.
    closed: bool,
}

impl Keeper {
    /// Keeps `manifest`; `readers` is the lock by which other processes say that they look at segments.
    pub(crate) fn new(
        storage: Storage,
        plan: Plan,
        manifest: ManifestFile,
        next_ordinal: u64,
        readers: Arc<StoredFile>,
    ) -> Self {
        let books = Mutex::new(Books { manifest, next_ordinal, retired: Vec::new(), waits: 0, closed: false });
        Self {
            storage,
            plan,
            books,
            readers,
            wants_help: AtomicBool::new(false),
            waits_seen: Counter::new(0),
            counts: Counts::default(),
        }
    }

    /// The manifest, alone.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// Seals what was rotated and prepares what is missing.
    ///
    /// # Errors
    /// `NoSpace` if a spare or a larger manifest does not fit, `Io` if a spare cannot be made: the log goes on without.
    /// A failed sync or manifest update poisons.
    pub(crate) fn maintain(&self, writer: &Mutex<Writer>, commit: &Commit) -> Result<()> {
        while self.make_ready(writer, commit, 0)? {}
        Ok(())
    }

    /// As [`Keeper::make_ready`], for an append that cannot go on without.
    ///
    /// # Errors
    /// As [`Keeper::maintain`].
    pub(crate) fn wait_ready(&self, writer: &Mutex<Writer>, commit: &Commit, need: usize) -> Result<bool> {
        self.counts.waits.fetch_add(1, Ordering::Relaxed);
        self.make_ready(writer, commit, need)
    }

    /// Whether an append has waited for a segment since this was last asked: then the next will wait, too, and no time is
    /// to be lost until somebody looks.
    pub(crate) fn was_waited_for(&self) -> bool {
        let waits = self.counts.waits.load(Ordering::Relaxed);
        self.waits_seen.swap(waits, Ordering::Relaxed) != waits
    }

    /// Whether the segments before the active one should be synced by whoever asks, and not by who prepares; once.
    pub(crate) fn wants_help(&self) -> bool {
        // Both exchange, so that one that comes too late for this look finds the bell silent, and rings it.
        self.wants_help.swap(false, Ordering::AcqRel)
    }

    /// Seals what was rotated, and prepares one spare if there are too few or none has room for `need` bytes of frames;
    /// returns whether one was prepared.
    ///
    /// # Errors
    /// As [`Keeper::maintain`].
    pub(crate) fn make_ready(&self, writer: &Mutex<Writer>, commit: &Commit, need: usize) -> Result<bool> {
        let mut books = self.books();
        books.check(commit)?;
        let (rotated, left) = {
            let mut writer = lock(writer);
            (writer.unsealed(), writer.left_tail())
        };
        // The memory that it keeps is needed for the next spare.
        drop(left);
        let pressed = rotated.is_some() && books.is_pressed(self.counts.waits.load(Ordering::Relaxed));
        let ask_for_help = || {
            if pressed {
                self.wants_help.swap(true, Ordering::AcqRel);
                commit.sync_bell.ring();
            }
        };
        self.reserve(commit, writer)?;
        let started = Instant::now();
        // A spare that cannot be made must not keep the segment before it from being sealed.
        let spare = self.missing_spare(&mut books, writer, need, ask_for_help);
        let (spare, failed) = match spare.map_err(|e| self.poison_unless_full(commit, e)) {
            Ok(spare) => (spare, None),
            // The manifest may be another file by now.
            Err(poisoned @ Error::Poisoned(_)) => return Err(poisoned),
            Err(e) if planted(Bug::NoSpaceNoSeal) => return Err(e),
            Err(e) => (None, Some(e)),
        };
        let elapsed = started.elapsed();
        // After the preparation, beside which another thread may have synced it.
        if let Some((before, _)) = rotated.as_ref().filter(|_| !planted(Bug::SealBeforeSync)) {
            commit.sync_to(before.last_seq(), commit.epoch())?;
        }
        let prepared = spare.as_ref().map(|spare| spare.entry);
        if rotated.is_some() || spare.is_some() {
            self.announce(&mut books, commit, &rotated, spare.as_ref())?;
            hand_over(&mut lock(writer), rotated.is_some(), spare);
        }
        drop(books);
        if let Some((before, _)) = &rotated {
            before.settle_index();
        }
        self.tell(rotated.map(|(before, _)| before.ordinal()), prepared, elapsed);
        match failed {
            None => Ok(prepared.is_some()),
            Some(e) => Err(e),
        }
    }

    /// Tries again to take the space that segments lack; without the writer's lock, since it may take a while.
    ///
    /// # Errors
    /// What the system says, but for want of space: another segment may do.
    fn reserve(&self, commit: &Commit, writer: &Mutex<Writer>) -> Result<()> {
        let lacking = lock(writer).lacking();
        for pages in lacking {
            match pages.reserve().map_err(|e| self.poison_unless_full(commit, e)) {
                Ok(()) | Err(Error::NoSpace(_)) => {}
                other => return other,
            }
        }
        Ok(())
    }

    /// Whether fewer spares are announced than there should be.
    pub(crate) fn is_short_of_spares(&self, writer: &Writer) -> bool {
        writer.spare_count() < self.plan.spare_segments
    }

    fn tell(&self, sealed: Option<u64>, prepared: Option<Entry>, elapsed: Duration) {
        if let Some(segment) = sealed {
            self.plan.listener.tell(&Event::Sealed { segment });
        }
        if let Some(Entry { ordinal, capacity, .. }) = prepared {
            self.counts.prepared.fetch_add(1, Ordering::Relaxed);
            self.plan.listener.tell(&Event::Prepared { segment: ordinal, bytes: capacity, elapsed });
        }
    }

    /// Want of space and of files is no reason to give the log up; a failed sync is.
    fn poison_unless_full(&self, commit: &Commit, e: Error) -> Error {
        match e {
            Error::NoSpace(failure) => {
                self.plan.listener.tell(&Event::NoSpace);
                Error::NoSpace(failure)
            }
            broken if is_broken(&broken) => commit.poison(broken),
            other => other,
        }
    }

    /// A new spare, if too few are announced or none is large enough; `named` is called once it only takes the processor.
    fn missing_spare(
        &self,
        books: &mut Books,
        writer: &Mutex<Writer>,
        need: usize,
        named: impl FnOnce(),
    ) -> Result<Option<Spare>> {
        let (count, fits) = {
            let writer = lock(writer);
            (writer.spare_count(), writer.has_spare_for(need))
        };
        if count >= self.plan.spare_segments && fits {
            return Ok(None);
        }
        let own = FRAMES_AT as u64 + need as u64;
        let capacity = own.next_multiple_of(PAGE as u64).max(self.plan.segment_size);
        books.manifest.make_room(1)?;
        let state = books.manifest.current();
        let known = state.entries.iter().map(|entry| entry.salt);
        let salts: Vec<u32> = known.chain(books.retired.iter().map(|segment| segment.salt())).collect();
        let (log_id, sync_zeros) = (state.header.log_id, self.plan.sync_zeros);
        let (ordinal, salt) = (books.next_ordinal, draw_salt(&self.storage, &salts)?);
        books.next_ordinal += 1;
        let how = Preparation { log_id, ordinal, salt, capacity, sync_zeros };
        let spare = match self.recycled(books, &how)? {
            Some(spare) => spare,
            None => Spare::prepare_telling(&self.storage, &how, named)?,
        };
        Ok(Some(spare.indexed(&self.plan.index_budget)))
    }

    /// A spare from the file of a segment that was dropped, if there is one that nobody looks at.
    fn recycled(&self, books: &mut Books, how: &Preparation) -> Result<Option<Spare>> {
        if how.capacity != self.plan.segment_size {
            return Ok(None);
        }
        let Some(old) = books.retired.pop() else { return Ok(None) };
        let ordinal = old.ordinal();
        let salt = if planted(Bug::RecycleKeepsSalt) { old.salt() } else { how.salt };
        // The map goes with it.
        drop(old);
        if self.is_unread()? {
            match Spare::recycle(&self.storage, &Preparation { salt, ..*how }, ordinal) {
                Ok(spare) => {
                    self.counts.recycled.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(spare));
                }
                Err(e) if is_broken(&e) => return Err(e),
                // A file system without hard links, a directory without room: a new file does as well.
                Err(_) => remove_if_there(&self.storage, file_name(how.ordinal).as_str())?,
            }
        }
        remove_if_there(&self.storage, file_name(ordinal).as_str())?;
        self.counts.removed.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    /// Whether no other handle, of this process or another, has segments mapped. A reader that comes later reads the
    /// manifest after it has the lock, and that names the retired segments no longer.
    fn is_unread(&self) -> Result<bool> {
        let alone = self.readers.try_lock_exclusive();
        // Converting a lock gives the old one up, whether it succeeds or not.
        self.readers.lock_shared()?;
        alone
    }

    /// Gives up segments that the manifest names no longer: what a view shows is mapped before its file goes, a few
    /// others are kept to be used again.
    ///
    /// # Errors
    /// What the system says; the next open removes what is left.
    pub(crate) fn dispose(&self, books: &mut Books, dropped: Vec<Arc<Segment>>) -> Result<()> {
        for segment in dropped {
            let fits = segment.capacity() as u64 == self.plan.segment_size;
            if Segment::is_shared(&segment) && !planted(Bug::RecycleUnderView) {
                segment.map()?;
            } else if fits && books.retired.len() < self.plan.spare_segments {
                books.retired.push(segment);
                continue;
            }
            self.remove(segment.ordinal())?;
        }
        Ok(())
    }

    fn remove(&self, ordinal: u64) -> Result<()> {
        self.storage.remove(file_name(ordinal).as_str())?;
        self.counts.removed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Seals what was rotated and notes where the log was closed; everything is durable.
    ///
    /// # Errors
    /// A failed update, which poisons.
    pub(crate) fn close(&self, writer: &Mutex<Writer>, commit: &Commit) -> Result<()> {
        let mut books = self.books();
        let closed = self.write_close(&mut books, writer, commit);
        // Whatever came of it, nobody writes the manifest after this.
        books.closed = true;
        closed
    }

    fn write_close(&self, books: &mut Books, writer: &Mutex<Writer>, commit: &Commit) -> Result<()> {
        commit.check_failure()?;
        let (rotated, active) = {
            let writer = lock(writer);
            (writer.unsealed(), Arc::clone(writer.segment()))
        };
        // The manifest will not say where the log was closed once it is open again: the segment does.
        active.witness_end().map_err(|e| commit.poison(e))?;
        let retired = std::mem::take(&mut books.retired);
        books.update(commit, |next| {
            if let Some((before, after)) = &rotated {
                seal(&mut next.entries, before, after);
            }
            next.header.clean_offset = active.end().offset as u64;
        })?;
        retired.into_iter().try_for_each(|segment| self.remove(segment.ordinal()))
    }

    /// The one manifest update of a rotation.
    fn announce(
        &self,
        books: &mut Books,
        commit: &Commit,
        rotated: &Option<(Arc<Segment>, Arc<Segment>)>,
        spare: Option<&Spare>,
    ) -> Result<()> {
        books.update(commit, |next| {
            if let Some((before, after)) = rotated {
                seal(&mut next.entries, before, after);
            }
            next.entries.extend(spare.map(|spare| spare.entry));
        })
    }
}

impl Books {
    /// Whether an append has waited for a segment since the last rotation, if that is how many have waited by now.
    fn is_pressed(&mut self, waits: u64) -> bool {
        std::mem::replace(&mut self.waits, waits) != waits
    }

    /// What the log is.
    pub(crate) fn current(&self) -> &Manifest {
        self.manifest.current()
    }

    /// Refuses when an earlier failure or a close forbids writing.
    fn check(&self, commit: &Commit) -> Result<()> {
        if self.closed { Err(Error::Closed) } else { commit.check_failure() }
    }

    /// Sees to it that the largest meta fits.
    pub(crate) fn make_room(&mut self, commit: &Commit) -> Result<()> {
        self.check(commit)?;
        self.manifest.make_room(0).map_err(|e| match e {
            Error::NoSpace(failure) => Error::NoSpace(failure),
            other => commit.poison(other),
        })
    }

    /// Changes the manifest in one step; a failure poisons the log, unless nothing was written for want of space.
    pub(crate) fn update(&mut self, commit: &Commit, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        self.check(commit)?;
        self.manifest.update(change).map_err(|e| match e {
            Error::NoSpace(failure) => Error::NoSpace(failure),
            other => commit.poison(other),
        })
    }
}

/// Seals `before`, and makes `after`, a spare so far, the active segment.
fn seal(entries: &mut Vec<Entry>, before: &Segment, after: &Segment) {
    let end = before.end();
    let position = |entries: &[Entry], segment: &Segment| entries.iter().position(|e| e.ordinal == segment.ordinal());
    let (Some(old), Some(new)) = (position(entries, before), position(entries, after)) else { return };
    entries[old].end_offset = end.offset as u64;
    entries[old].last_seq = before.last_seq();
    let active = entries.remove(new);
    entries.insert(old + 1, Entry { base_seq: after.base_seq(), ..active });
}

/// Gives the writer what the manifest has taken note of.
fn hand_over(writer: &mut Writer, sealed: bool, spare: Option<Spare>) {
    if sealed {
        writer.sealed();
    }
    if let Some(spare) = spare {
        writer.announced(spare);
    }
}

/// Whether a failure leaves open what is on the disk: a failed sync or rename, and not want of space or of files.
fn is_broken(e: &Error) -> bool {
    match e {
        Error::NoSpace(_) => false,
        Error::Io(failure) => matches!(failure.context, "sync" | "rename"),
        _ => true,
    }
}
