//! A segment file before anything is appended to it.

use std::ops::Range;

use crate::error::Result;
use crate::format::PAGE;
use crate::format::manifest::Entry;
use crate::format::segment::{self as words, BEGUN_AT, FRAMES_AT, IDENTITY_AT, IDENTITY_LEN, Identity};
use crate::index::{Budget, SparseIndex};
use crate::map::Tail;
use crate::planted::{Bug, planted};
use crate::segment::{End, Pages, Segment, file_name};
use crate::storage::{Storage, StoredFile};
use crate::sync::{Arc, thread};

/// How much is made present by one call, while which whatever else the process maps has to wait.
const STEP: usize = 256 << 10;

/// How a segment is prepared.
#[derive(Clone, Copy)]
pub(crate) struct Preparation {
    pub(crate) log_id: [u8; 16],
    pub(crate) ordinal: u64,
    pub(crate) salt: u32,
    pub(crate) capacity: u64,
    /// Whether the zeros are synced, so that the first sync of each page writes that page and nothing else.
    pub(crate) sync_zeros: bool,
}

impl Preparation {
    /// The entry of the segment once it is prepared.
    fn entry(&self) -> Entry {
        let Self { ordinal, salt, capacity, .. } = *self;
        Entry { ordinal, salt, virgin: true, capacity, base_seq: 0, end_offset: 0, last_seq: 0 }
    }
}

/// A prepared segment that nothing was written to yet.
pub(crate) struct Spare {
    pub(crate) entry: Entry,
    storage: Storage,
    pages: Arc<Pages>,
    tail: Tail,
    index: SparseIndex,
}

impl Spare {
    /// Makes a segment file that is whole, durable and all zero behind its identity.
    ///
    /// Every page is written through the map once: `fallocate` alone leaves unwritten extents, whose first sync commits
    /// metadata, and large writes leave large folios, of which one dirty byte writes all.
    ///
    /// # Errors
    /// `NoSpace` if the file does not fit. Whatever fails, the file is gone again: the next attempt makes another one.
    pub(crate) fn prepare(storage: &Storage, how: &Preparation) -> Result<Self> {
        Self::prepare_telling(storage, how, || {})
    }

    /// As [`Spare::prepare`]; `named` is called when the file is there to stay, and what is left to be done needs the
    /// processor first of all.
    ///
    /// # Errors
    /// As [`Spare::prepare`].
    pub(crate) fn prepare_telling(storage: &Storage, how: &Preparation, named: impl FnOnce()) -> Result<Self> {
        let name = file_name(how.ordinal);
        let file = storage.create(name.as_str())?;
        Self::fill(storage, &file, how, named).inspect_err(|_| {
            // What made it fail is what the caller must hear; the next open removes what is left.
            let _ = storage.remove(name.as_str());
        })
    }

    fn fill(storage: &Storage, file: &StoredFile, how: &Preparation, named: impl FnOnce()) -> Result<Self> {
        file.allocate(how.capacity)?;
        write_identity(storage, file, how)?;
        if !planted(Bug::AnnounceBeforeSync) {
            file.sync()?;
            storage.sync_dir()?;
        }
        named();
        let capacity = how.capacity as usize;
        let tail = file.map_writable(capacity, FRAMES_AT)?;
        in_steps(0..capacity, |step| file.populate_write(tail.map(), step))?;
        if how.sync_zeros && !planted(Bug::AnnounceBeforeSync) {
            storage.sync_map(file.path(), tail.map(), 0..capacity)?;
        }
        Ok(Self::new(storage, how.entry(), file, tail))
    }

    /// Makes a spare of the file of the segment `old`, which nobody looks at any more, without making it zero: the new
    /// salt keeps its earlier life apart.
    ///
    /// # Errors
    /// What the system says; what is left of it is a leftover.
    pub(crate) fn recycle(storage: &Storage, how: &Preparation, old: u64) -> Result<Self> {
        let (from, to) = (file_name(old), file_name(how.ordinal));
        storage.refuse_other_names(from.as_str())?;
        storage.link(from.as_str(), to.as_str())?;
        storage.sync_dir()?;
        storage.remove(from.as_str())?;
        storage.sync_dir()?;
        let file = storage.open_write(to.as_str())?;
        file.reserve(how.capacity)?;
        write_identity(storage, &file, how)?;
        file.write_at(&[0; PAGE], PAGE as u64)?;
        if !planted(Bug::RecycleNotSynced) {
            file.sync()?;
        }
        let entry = Entry { virgin: false, ..how.entry() };
        Self::reopen(storage, entry)
    }

    /// Maps a spare that was announced earlier and found to hold nothing.
    pub(crate) fn reopen(storage: &Storage, entry: Entry) -> Result<Self> {
        let file = storage.open_write(file_name(entry.ordinal).as_str())?;
        let tail = file.map_writable(entry.capacity as usize, FRAMES_AT)?;
        let spare = Self::new(storage, entry, &file, tail);
        spare.pages.reserve_if_there_is_space(&file)?;
        Ok(spare)
    }

    fn new(storage: &Storage, entry: Entry, file: &StoredFile, tail: Tail) -> Self {
        let pages = Pages::new(storage, entry.ordinal, file, tail.map());
        Self { entry, storage: storage.clone(), pages, tail, index: SparseIndex::default() }
    }

    /// Has memory of `budget` for where its records will stand.
    pub(crate) fn indexed(mut self, budget: &Arc<Budget>) -> Self {
        self.index.draw_on(budget);
        self.index.lay_out(self.entry.capacity as usize);
        self
    }

    /// Its pages.
    pub(crate) fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Makes writable what [`Spare::begin`] and the first `need` bytes of frames will be stored to.
    ///
    /// # Errors
    /// As [`Pages::prefault`].
    pub(crate) fn prefault_front(&self, need: usize) -> Result<()> {
        self.pages.prefault(PAGE..FRAMES_AT + need)
    }

    /// Makes this the segment that is appended to: from now on it says where it begins.
    pub(crate) fn begin(self, base_seq: u64) -> (Arc<Segment>, Tail) {
        let check = words::check(self.entry.salt, base_seq);
        for at in BEGUN_AT {
            self.tail.map().store(at, base_seq);
            self.tail.map().store(at + size_of::<u64>(), check);
        }
        let entry = Entry { base_seq, ..self.entry };
        let segment = Segment::appended(&self.storage, entry, self.pages, End { offset: FRAMES_AT, count: 0 });
        *segment.index() = self.index;
        (segment, self.tail)
    }
}

fn write_identity(storage: &Storage, file: &StoredFile, how: &Preparation) -> Result<()> {
    let Preparation { log_id, ordinal, salt, capacity, .. } = *how;
    let copy = Identity { salt, log_id, ordinal, capacity, created: storage.now(), replaces: 0 }.encode();
    let mut page = [0; PAGE];
    for at in IDENTITY_AT {
        page[at..at + IDENTITY_LEN].copy_from_slice(&copy);
    }
    file.write_at(&page, 0)
}

/// Calls `make_present` for the bytes of `pages` step by step, and after each lets run who was put on the same processor:
/// the system may leave an appending thread there for two ticks of its clock, of 4 ms each, though another processor has
/// nothing to do.
///
/// # Errors
/// The first of `make_present`.
pub(crate) fn in_steps<E>(
    pages: Range<usize>,
    mut make_present: impl FnMut(Range<usize>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let end = pages.end;
    for from in pages.step_by(STEP) {
        make_present(from..(from + STEP).min(end))?;
        thread::yield_now();
    }
    Ok(())
}
