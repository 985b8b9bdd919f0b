//! A segment file before anything is appended to it.

use std::ops::Range;

use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::manifest::Entry;
use crate::format::segment::{self as words, BEGUN_AT, FRAMES_AT, IDENTITY_AT, IDENTITY_LEN, Identity};
use crate::index::{Budget, SparseIndex};
use crate::map::Tail;
use crate::planted::{Bug, planted};
use crate::segment::{End, Maps, Pages, Segment, file_name, no_room};
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
    log_id: [u8; 16],
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
        let tail = mapped(file, capacity)?;
        in_steps(0..capacity, |step| file.populate_write(tail.map(), step))?;
        if how.sync_zeros && !planted(Bug::AnnounceBeforeSync) {
            storage.sync_map(file.path(), tail.map(), 0..capacity)?;
        }
        Self::new(storage, how.entry(), how.log_id, file, tail)
    }

    /// Makes a spare of the file of the segment `old`, without making it zero: the new salt keeps its previous generation
    /// apart.
    ///
    /// # Errors
    /// `Io` if the file has another name, or somebody has it open or mapped, whose locks this handle does not see; what the
    /// system says. What is left of it is a leftover.
    pub(crate) fn recycle(storage: &Storage, how: &Preparation, old: u64) -> Result<Self> {
        let (from, to) = (file_name(old), file_name(how.ordinal));
        storage.refuse_other_names(from.as_str())?;
        storage.link(from.as_str(), to.as_str())?;
        storage.sync_dir()?;
        storage.remove(from.as_str())?;
        storage.sync_dir()?;
        let file = storage.open_write(to.as_str())?;
        // After its old name is gone, by which a reader could still have come to it.
        if !file.is_only_user()? && !planted(Bug::RecycleUnderView) {
            let source = std::io::Error::other("somebody else has it open or mapped");
            return Err(Error::io(Operation::Recycle, file.path(), source));
        }
        file.reserve(how.capacity)?;
        write_identity(storage, &file, how)?;
        file.write_at(&[0; PAGE], PAGE as u64)?;
        if !planted(Bug::RecycleNotSynced) {
            file.sync()?;
        }
        let entry = Entry { virgin: false, ..how.entry() };
        Self::reopen(storage, entry, how.log_id)
    }

    /// Maps a spare that was announced earlier and found to hold nothing.
    pub(crate) fn reopen(storage: &Storage, entry: Entry, log_id: [u8; 16]) -> Result<Self> {
        let file = storage.open_write(file_name(entry.ordinal).as_str())?;
        let tail = mapped(&file, entry.capacity as usize)?;
        let spare = Self::new(storage, entry, log_id, &file, tail)?;
        spare.pages.reserve_if_there_is_space(&file)?;
        Ok(spare)
    }

    fn new(storage: &Storage, entry: Entry, log_id: [u8; 16], file: &StoredFile, tail: Tail) -> Result<Self> {
        let pages = Pages::new(storage, entry.ordinal, file, tail.map())?;
        Ok(Self { entry, log_id, storage: storage.clone(), pages, tail, index: SparseIndex::default() })
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

    /// Makes this the segment that is appended to, of the handle of `maps`: from now on it says where it begins.
    pub(crate) fn begin(self, base_seq: u64, maps: &Arc<Maps>) -> (Arc<Segment>, Tail) {
        let check = words::check(self.entry.salt, base_seq);
        for at in BEGUN_AT {
            self.tail.map().store(at, base_seq);
            self.tail.map().store(at + size_of::<u64>(), check);
        }
        let entry = Entry { base_seq, ..self.entry };
        let mapping = maps.of_writer(&self.storage, self.pages.path().clone(), &self.tail);
        let end = End { offset: FRAMES_AT, count: 0 };
        let segment = Segment::live(&self.storage, entry, self.log_id, maps, mapping, Some(self.pages), end);
        *segment.index() = self.index;
        (segment, self.tail)
    }
}

/// Maps a spare, which is not counted among the maps of a handle.
///
/// # Errors
/// `MapLimit` if the system allows no more maps or address space; what the system says.
fn mapped(file: &StoredFile, capacity: usize) -> Result<Tail> {
    file.map_writable(capacity, FRAMES_AT).map_err(|e| no_room(file.path(), e))
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
