//! What is done off the append path: rotated segments are synced and sealed, spares prepared and announced.
//!
//! One manifest update seals a segment, makes the next one active and announces another spare. It runs under the lock of
//! the manifest, which appends never take; the writer's lock is held only to look and to hand over.

mod asked;

use std::time::Instant;

use crate::append::Writer;
use crate::commit::Commit;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::format::PAGE;
use crate::format::manifest::Entry;
use crate::format::segment::FRAMES_AT;
use crate::index::Budget;
use crate::lingering::Lingering;
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::planted::{Bug, planted};
use crate::recovery::{Examined, Identities, draw_salt, write_state};
use crate::segment::{Maps, Preparation, Segment, Spare, file_name};
use crate::storage::{Storage, StoredFile};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Counter, Mutex, MutexGuard, lock};
use asked::Asked;

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
    /// The maps of the handle.
    maps: Arc<Maps>,
    /// Appends wait for a new segment file and for the segment before to be synced: both are to be done at a time.
    wants_help: AtomicBool,
    /// How many appends had waited for a segment when an append last saw to its rotation.
    waits_seen: Counter,
    /// What attempts that may not wait have asked for.
    pub(crate) asked: Asked,
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

/// What is needed of a spare.
#[derive(Clone, Copy, Default)]
pub(crate) struct Need {
    /// Bytes of frames that must fit.
    pub(crate) len: usize,
    /// Its ordinal must be larger.
    pub(crate) above: u64,
}

/// The manifest, and the next ordinal for a segment.
pub(crate) struct Books {
    storage: Storage,
    manifest: ManifestFile,
    /// Which files the names in the directory must still be.
    identities: Identities,
    /// What the open found, while there is no space to write that: nothing is appended, cut or prepared.
    unsettled: Option<Box<Examined>>,
    next_ordinal: u64,
    /// Segments that the manifest names no longer, whose files may be used again.
    retired: Vec<Arc<Segment>>,
    /// Those that views show.
    lingering: Lingering,
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
        (manifest, identities, unsettled): (ManifestFile, Identities, Option<Box<Examined>>),
        next_ordinal: u64,
        readers: Arc<StoredFile>,
        maps: Arc<Maps>,
    ) -> Self {
        let books = Books {
            storage: storage.clone(),
            manifest,
            identities,
            unsettled,
            next_ordinal,
            retired: Vec::new(),
            lingering: Lingering::default(),
            waits: 0,
            closed: false,
        };
        let books = Mutex::new(books);
        Self {
            storage,
            plan,
            books,
            readers,
            maps,
            wants_help: AtomicBool::new(false),
            waits_seen: Counter::new(0),
            asked: Asked::default(),
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
        loop {
            let need = self.asked.need();
            if !self.make_ready(writer, commit, Need { len: need, above: 0 })? {
                self.asked.answer(need);
                return Ok(());
            }
        }
    }

    /// As [`Keeper::make_ready`], for an append that cannot go on without.
    ///
    /// # Errors
    /// As [`Keeper::maintain`].
    pub(crate) fn wait_ready(&self, writer: &Mutex<Writer>, commit: &Commit, need: usize) -> Result<bool> {
        self.counts.waits.fetch_add(1, Ordering::Relaxed);
        self.make_ready(writer, commit, Need { len: need, above: 0 })
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

    /// Seals what was rotated, and prepares one spare if there are too few or none is what is needed;
    /// returns whether one was prepared.
    ///
    /// # Errors
    /// As [`Keeper::maintain`].
    pub(crate) fn make_ready(&self, writer: &Mutex<Writer>, commit: &Commit, need: Need) -> Result<bool> {
        self.storage.owner().check()?;
        let mut events = Vec::new();
        let ready = self.seal_and_prepare(writer, commit, need, &mut events);
        // The listener may close the log, or drop its last handle: no lock is held here.
        events.iter().for_each(|event| self.plan.listener.tell(event));
        ready
    }

    fn seal_and_prepare(
        &self,
        writer: &Mutex<Writer>,
        commit: &Commit,
        need: Need,
        events: &mut Vec<Event>,
    ) -> Result<bool> {
        let mut books = self.books();
        books.check(commit)?;
        books.settle(commit).inspect_err(|e| tell_if_full(e, events))?;
        self.reserve(commit, writer)?;
        // One look: a rotation after it is sealed with the spare that it makes necessary.
        let (rotated, left, is_short) = {
            let mut writer = lock(writer);
            (writer.unsealed(), writer.left_tail(), self.is_short_for(&writer, need))
        };
        // The memory that it keeps is needed for the next spare.
        drop(left);
        let lingering = books.lingering.remove(|ordinal| self.remove(ordinal));
        let pressed = rotated.is_some() && books.is_pressed(self.counts.waits.load(Ordering::Relaxed));
        let ask_for_help = || {
            if pressed {
                self.wants_help.swap(true, Ordering::AcqRel);
                commit.sync_bell.ring();
            }
        };
        let started = Instant::now();
        // A spare that cannot be made must not keep the segment before it from being sealed.
        let spare = if is_short { self.missing_spare(&mut books, need, ask_for_help).map(Some) } else { Ok(None) };
        let (mut spare, mut failed) = match spare.map_err(|e| poison_unless_full(commit, e, events)) {
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
        let mut prepared = None;
        if rotated.is_some() || spare.is_some() {
            let announced = self.announce(&mut books, commit, &rotated, &mut spare);
            let refused = announced.inspect_err(|e| tell_if_full(e, events))?;
            failed = failed.or(refused.inspect(|e| tell_if_full(e, events)));
            prepared = spare.as_ref().map(|spare| spare.entry);
            hand_over(&mut lock(writer), rotated.is_some(), spare);
        }
        drop(books);
        if let Some((before, _)) = &rotated {
            before.settle();
            before.stamp();
        }
        events.extend(rotated.map(|(before, _)| Event::Sealed { segment: before.ordinal() }));
        if let Some(Entry { ordinal, capacity, .. }) = prepared {
            self.counts.prepared.fetch_add(1, Ordering::Relaxed);
            events.push(Event::Prepared { segment: ordinal, bytes: capacity, elapsed });
        }
        match failed {
            None => lingering.map(|()| prepared.is_some()),
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
            match pages.reserve() {
                Ok(()) | Err(Error::NoSpace(_)) => {}
                Err(e) => return Err(if e.leaves_disk_unknown() { commit.poison(e) } else { e }),
            }
        }
        Ok(())
    }

    /// Whether fewer spares are announced than there should be.
    pub(crate) fn is_short_of_spares(&self, writer: &Writer) -> bool {
        writer.spare_count() < self.plan.spare_segments
    }

    /// Whether too few spares are announced, or none is what is needed.
    fn is_short_for(&self, writer: &Writer, need: Need) -> bool {
        let fits = writer.has_spare_for(need.len) && writer.spare_above(need.above).is_some();
        self.is_short_of_spares(writer) || !fits
    }

    /// A new spare; `named` is called once it only takes the processor.
    fn missing_spare(&self, books: &mut Books, need: Need, named: impl FnOnce()) -> Result<Spare> {
        books.identities.check(&self.storage, &books.manifest)?;
        let own = FRAMES_AT as u64 + need.len as u64;
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
            None => match Spare::prepare_telling(&self.storage, &how, named) {
                Err(Error::MapLimit(_)) if self.maps.relieve() => Spare::prepare(&self.storage, &how)?,
                other => other?,
            },
        };
        books.identities.unsealed.insert(ordinal, spare.pages().id());
        Ok(spare.indexed(&self.plan.index_budget))
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
        if self.is_unread(&books.identities)? {
            match Spare::recycle(&self.storage, &Preparation { salt, ..*how }, ordinal) {
                Ok(spare) => {
                    self.counts.recycled.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(spare));
                }
                Err(e) if e.leaves_disk_unknown() => return Err(e),
                // A file system without hard links, a directory without room: a new file does as well.
                Err(_) => remove_if_there(&self.storage, file_name(how.ordinal).as_str())?,
            }
        }
        remove_if_there(&self.storage, file_name(ordinal).as_str())?;
        self.counts.removed.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    /// Whether no other handle, of this process or another, holds the readers' lock. A reader that comes later reads the
    /// manifest after it has the lock, and that names the retired segments no longer. If READERS was removed, readers lock
    /// another file, and this one tells nothing. A forked child shares this lock, and what it maps is noticed when the file
    /// is recycled.
    fn is_unread(&self, identities: &Identities) -> Result<bool> {
        let alone = self.readers.try_lock_exclusive();
        let is_named = identities.has_readers(&self.storage);
        // Converting a lock gives the old one up, whether it succeeds or not.
        self.readers.lock_shared()?;
        Ok(alone? && is_named?)
    }

    /// Gives up segments that the manifest names no longer: what a view shows is mapped before its file goes, a few
    /// others are kept to be used again. What cannot be mapped, because there may not be more maps, keeps its file for as
    /// long as it is shown.
    ///
    /// # Errors
    /// What the system says; the next open removes what is left.
    pub(crate) fn dispose(&self, books: &mut Books, dropped: Vec<Arc<Segment>>) -> Result<()> {
        for segment in dropped {
            if Segment::is_shown(&segment) && !planted(Bug::RecycleUnderView) {
                books.lingering.push(segment);
                continue;
            }
            segment.release();
            // Behind the active segment, a file of records would pass for the end of a log that has lost its manifest.
            let is_before = segment.ordinal() < books.current().active().ordinal;
            // While there is no space for the state that the open found, every file that is removed frees some.
            let is_spare = is_before && books.unsettled.is_none();
            let fits = is_spare && segment.capacity() as u64 == self.plan.segment_size;
            // A record that was kept without its view reads through a map of the file.
            let is_free = !segment.is_mapped() || planted(Bug::RecycleUnderView);
            if fits && is_free && books.retired.len() < self.plan.spare_segments {
                books.retired.push(segment);
            } else {
                self.remove(segment.ordinal())?;
            }
        }
        books.lingering.remove(|ordinal| self.remove(ordinal))
    }

    /// Removes the file of a segment that the manifest names no longer.
    ///
    /// # Errors
    /// As [`Keeper::dispose`].
    pub(crate) fn remove(&self, ordinal: u64) -> Result<()> {
        self.storage.remove(file_name(ordinal).as_str())?;
        self.counts.removed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Stores `meta` in the manifest.
    ///
    /// # Errors
    /// `NoSpace` or `Io` if the manifest cannot be made large enough; a failed update poisons.
    pub(crate) fn set_meta(&self, meta: &[u8], commit: &Commit) -> Result<()> {
        let mut books = self.books();
        books.make_room(commit)?;
        books.update(commit, |next| next.meta = meta.to_vec())?;
        commit.change(|live| live.meta = Arc::from(meta));
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
        match books.settle(commit) {
            // Nothing was appended, and the files say where the log ends as they did at the open.
            Err(Error::NoSpace(_)) => return self.remove_dropped(books),
            other => other?,
        }
        // The manifest will not say where the log was closed once it is open again: the segment does.
        active.witness_end().map_err(|e| commit.poison(e))?;
        let updated = books.update(commit, |next| {
            if let Some((before, after)) = &rotated {
                seal(&mut next.entries, before, after);
            }
            next.header.clean_offset = active.end().offset as u64;
        });
        if let Err(full @ Error::NoSpace(_)) = updated {
            self.remove_dropped(books)?;
            return Err(full);
        }
        updated?;
        rotated.iter().for_each(|(before, _)| before.stamp());
        active.stamp();
        self.remove_dropped(books)
    }

    /// Removes the files that are not used again.
    fn remove_dropped(&self, books: &mut Books) -> Result<()> {
        let retired = std::mem::take(&mut books.retired);
        retired.into_iter().try_for_each(|segment| self.remove(segment.ordinal()))?;
        books.lingering.remove(|ordinal| self.remove(ordinal))
    }

    /// The one manifest update of a rotation. If the manifest has no space for it, the spare's file is removed, whose space
    /// it may need, and the segment before is sealed without a spare; the error is returned beside that.
    fn announce(
        &self,
        books: &mut Books,
        commit: &Commit,
        rotated: &Option<(Arc<Segment>, Arc<Segment>)>,
        spare: &mut Option<Spare>,
    ) -> Result<Option<Error>> {
        let full = match books.announce(commit, rotated, spare.as_ref()) {
            Err(full @ Error::NoSpace(_)) => full,
            other => return other.map(|()| None),
        };
        let Some(given_up) = spare.take() else { return Err(full) };
        books.identities.unsealed.remove(&given_up.entry.ordinal);
        // Want of space says more than this, and the next open removes what is left.
        let _ = self.remove(given_up.entry.ordinal);
        drop(given_up);
        match rotated {
            Some(_) => books.announce(commit, rotated, None).map(|()| Some(full)),
            None => Err(full),
        }
    }
}

fn tell_if_full(e: &Error, events: &mut Vec<Event>) {
    if matches!(e, Error::NoSpace(_)) {
        events.push(Event::NoSpace);
    }
}

/// Want of space and of files is no reason to give the log up; a failed sync is.
fn poison_unless_full(commit: &Commit, e: Error, events: &mut Vec<Event>) -> Error {
    tell_if_full(&e, events);
    if e.leaves_disk_unknown() { commit.poison(e) } else { e }
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

    /// Seals what was rotated and names the spare, in one update.
    fn announce(
        &mut self,
        commit: &Commit,
        rotated: &Option<(Arc<Segment>, Arc<Segment>)>,
        spare: Option<&Spare>,
    ) -> Result<()> {
        self.update(commit, |next| {
            if let Some((before, after)) = rotated {
                seal(&mut next.entries, before, after);
            }
            next.entries.extend(spare.map(|spare| spare.entry));
        })
    }

    /// Writes what the open had no space for.
    ///
    /// # Errors
    /// `NoSpace` as long as there is none; `Io` for want of descriptors; any other failure poisons.
    fn settle(&mut self, commit: &Commit) -> Result<()> {
        let Some(found) = &self.unsettled else { return Ok(()) };
        let checked = self.identities.check(&self.storage, &self.manifest);
        checked.and_then(|()| write_state(&self.storage, &mut self.manifest, found)).map_err(|e| match e {
            Error::NoSpace(failure) => Error::NoSpace(failure),
            // Each step can be done again.
            e if e.is_want_of_descriptors() => e,
            other => commit.poison(other),
        })?;
        self.unsettled = None;
        Ok(())
    }

    /// Sees to it that the largest meta fits.
    fn make_room(&mut self, commit: &Commit) -> Result<()> {
        self.check(commit)?;
        let checked = self.identities.check(&self.storage, &self.manifest);
        let roomy = checked.and_then(|()| self.manifest.make_room(0));
        roomy.map_err(|e| if e.leaves_disk_unknown() { commit.poison(e) } else { e })
    }

    /// Changes the manifest in one step; a failure poisons the log, unless nothing was written for want of space, and so does
    /// a file that was removed or replaced.
    pub(crate) fn update(&mut self, commit: &Commit, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        self.check(commit)?;
        self.identities.check(&self.storage, &self.manifest).map_err(|e| commit.poison(e))?;
        self.manifest.update(change).map_err(|e| match e {
            Error::NoSpace(failure) => Error::NoSpace(failure),
            other => commit.poison(other),
        })?;
        let Self { manifest, identities, .. } = self;
        let state = manifest.current();
        let unsealed = &state.entries[state.active_index()..];
        identities.unsealed.retain(|ordinal, _| unsealed.iter().any(|entry| entry.ordinal == *ordinal));
        Ok(())
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
