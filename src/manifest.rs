//! The manifest file: read, brought into being, updated, grown.

use std::collections::HashSet;

use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::manifest::{self as slot, Entry, FIRST_SLOT, Header, MAX_SLOT, MIN_SLOT, Refusal, Role};
use crate::format::name::{MANIFEST, MANIFEST_TMP};
use crate::planted::{Bug, planted};
use crate::storage::{FileId, Storage, StoredFile};

/// Entries for which there is room at all times, so that growth is never in anybody's way.
const AHEAD: usize = 64;

/// What a log is: its segments in order, its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) header: Header,
    pub(crate) meta: Vec<u8>,
    /// Sealed segments, the active one, spares.
    pub(crate) entries: Vec<Entry>,
}

impl Manifest {
    /// Where the active segment stands among the entries.
    pub(crate) fn active_index(&self) -> usize {
        let is_active = |entry: &Entry| entry.role() == Some(Role::Active);
        // Every manifest has an active segment: `decode` refuses one without, and every update keeps it.
        self.entries.iter().position(is_active).unwrap_or(0)
    }

    /// The sealed segments, oldest first.
    pub(crate) fn sealed(&self) -> &[Entry] {
        &self.entries[..self.active_index()]
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> &Entry {
        &self.entries[self.active_index()]
    }

    /// The announced spares.
    pub(crate) fn spares(&self) -> &[Entry] {
        &self.entries[self.active_index() + 1..]
    }

    /// As a slot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Counts are those of vectors in memory, so the size cannot overflow.
        let mut bytes = vec![0; slot::size(self.meta.len(), self.entries.len()).unwrap_or(0)];
        slot::encode(&mut bytes, &self.header, &self.meta, &self.entries);
        bytes
    }

    /// The slot in `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<Self, Refusal> {
        let slot = slot::decode(bytes)?;
        let entries: Vec<Entry> = slot.entries().collect();
        let distinct: HashSet<u64> = entries.iter().map(|entry| entry.ordinal).collect();
        if distinct.len() < entries.len() {
            return Err(Refusal::Damaged);
        }
        Ok(Self { header: slot.header, meta: slot.meta.to_vec(), entries })
    }
}

/// The file, and what it says.
pub(crate) struct ManifestFile {
    storage: Storage,
    file: StoredFile,
    slot_len: usize,
    newest: usize,
    current: Manifest,
    /// The file has not all its space, as after a restore that left holes, and there was none left.
    lacks_space: bool,
}

impl ManifestFile {
    /// Reads the manifest for its writer; `None` if there is no such file.
    pub(crate) fn open(storage: &Storage) -> Result<Option<Self>> {
        let file = match storage.open_write(MANIFEST) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        let read = Reading::of(&file)?;
        let (newest, current) = read.newest()?;
        let (storage, slot_len) = (storage.clone(), read.slot_len);
        Ok(Some(Self { storage, slot_len, file, newest, current, lacks_space: false }))
    }

    /// Reads the manifest beside a writer that may be updating it; `None` if there is no such file.
    pub(crate) fn peek(storage: &Storage) -> Result<Option<Manifest>> {
        let mut before: Option<Reading> = None;
        loop {
            let file = match storage.open_read(MANIFEST) {
                Err(e) if e.is_not_found() => return Ok(None),
                other => other?,
            };
            let read = Reading::of(&file)?;
            match read.newest() {
                Ok((_, manifest)) => return Ok(Some(manifest)),
                // A slot that is being written does not verify: only what stands still is damaged.
                Err(e) if before.as_ref() == Some(&read) => return Err(e),
                Err(_) => before = Some(read),
            }
        }
    }

    /// Brings the manifest of a new log into being.
    pub(crate) fn create(storage: &Storage, first: Manifest) -> Result<Self> {
        let (file, slot_len) = write_anew(storage, &first, slot_for(FIRST_SLOT, first.entries.len()))?;
        Ok(Self { storage: storage.clone(), file, slot_len, newest: 0, current: first, lacks_space: false })
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> Result<FileId> {
        self.file.id()
    }

    /// What the log is.
    pub(crate) fn current(&self) -> &Manifest {
        &self.current
    }

    /// Makes what was read durable: after a kill or a failed sync it may have been only in the page cache.
    ///
    /// When both slots say the same, one of them was synced before the other was written, so writing one again is
    /// enough; the next update writes the other.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.lacks_space = match self.file.reserve(2 * self.slot_len as u64) {
            // What the slots hold now has its space.
            Err(Error::NoSpace(_)) => true,
            other => other.map(|()| false)?,
        };
        let same = Reading::of(&self.file)?.is_twice_the_same();
        match self.write_again(same) {
            // Blocks that are shared with another file, and a full disk. What the device holds counts.
            Err(Error::NoSpace(failure)) if !self.is_on_device()? => return Err(Error::NoSpace(failure)),
            Err(Error::NoSpace(_)) => {}
            other => other?,
        }
        self.storage.sync_dir()
    }

    fn write_again(&self, same: bool) -> Result<()> {
        let bytes = self.current.encode();
        self.write_slot(self.newest, &bytes)?;
        if same { Ok(()) } else { self.write_slot(1 - self.newest, &bytes) }
    }

    /// Whether what was read comes from the device.
    fn is_on_device(&self) -> Result<bool> {
        self.file.sync()?;
        self.file.forget_cached()?;
        let (newest, found) = Reading::of(&self.file)?.newest()?;
        Ok((newest, &found) == (self.newest, &self.current))
    }

    /// Sees to it that `more` further entries fit.
    ///
    /// # Errors
    /// `NoSpace` if there is no space for a larger file and the entries do not fit the present one, or if the present one
    /// may not be written.
    pub(crate) fn make_room(&mut self, more: usize) -> Result<()> {
        self.file.check_limit(2 * self.slot_len as u64)?;
        let count = self.current.entries.len() + more;
        if count + AHEAD <= slot::room(self.slot_len) {
            return Ok(());
        }
        match write_anew(&self.storage, &self.current, slot_for(self.slot_len * 2, count)) {
            Ok((file, slot_len)) => {
                (self.file, self.slot_len, self.newest, self.lacks_space) = (file, slot_len, 0, false);
                Ok(())
            }
            Err(Error::NoSpace(_)) if count <= slot::room(self.slot_len) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Changes the log in one step: after a crash it is as before, or as `change` made it.
    ///
    /// # Errors
    /// `NoSpace` if the file may not be written, and then the log is as before; otherwise what the system says: what stands
    /// on disk is then unknown, and nothing more may be written.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = self.current.clone();
        change(&mut next);
        next.header.generation += 1;
        let bytes = next.encode();
        if bytes.len() > self.slot_len || Manifest::decode(&bytes).is_err() {
            // Only crafted files come near the end of a number's range; a slot past it would be the end of the log.
            let source = std::io::Error::other("a number of the log has reached the end of its range");
            return Err(Error::io(Operation::Update, self.file.path(), source));
        }
        self.file.check_limit(2 * self.slot_len as u64)?;
        self.reserve(bytes.len())?;
        let (first, second) = (1 - self.newest, self.newest);
        // The newest slot holds until the older one is synced.
        self.store_slot(first, &bytes).or_else(|e| self.take_back(first, e))?;
        self.file.sync().map_err(Error::once_begun)?;
        let written = if planted(Bug::OneSlot) { Ok(()) } else { self.write_slot(second, &bytes) };
        match written {
            // The log is as `change` has made it: the next update writes this slot first.
            Err(Error::NoSpace(_)) => {}
            other => other?,
        }
        self.newest = first;
        self.current = next;
        Ok(())
    }

    /// Sees to it that slots of `len` bytes have their space: what both slots fill now they have.
    fn reserve(&mut self, len: usize) -> Result<()> {
        if self.lacks_space && len.div_ceil(PAGE) > self.current.encode().len().div_ceil(PAGE) {
            self.file.reserve(2 * self.slot_len as u64)?;
            self.lacks_space = false;
        }
        Ok(())
    }

    fn write_slot(&self, index: usize, bytes: &[u8]) -> Result<()> {
        self.store_slot(index, bytes)?;
        self.file.sync().map_err(Error::once_begun)
    }

    /// Spoils a slot of which a part may have been written for `why`, want of space, and returns that.
    fn take_back(&self, index: usize, why: Error) -> Result<()> {
        if !matches!(why, Error::NoSpace(_)) {
            return Err(why);
        }
        match self.file.write_at(&[0; PAGE], (index * self.slot_len) as u64) {
            // Without space for its first page, the slot still holds its earlier state.
            Ok(()) | Err(Error::NoSpace(_)) => Err(why),
            Err(e) => Err(e),
        }
    }

    fn store_slot(&self, index: usize, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, (index * self.slot_len) as u64)
    }
}

/// The first slot size from `least` on, by doubling, that has room for `count` entries; the largest that is read if none.
fn slot_for(least: usize, count: usize) -> usize {
    let sizes = std::iter::successors(Some(least), |size| Some(size * 2)).take_while(|size| *size <= MAX_SLOT);
    let mut fitting = sizes.skip_while(|size| slot::room(*size) < count);
    fitting.next().unwrap_or(MAX_SLOT)
}

/// Writes a whole manifest file beside the present one and puts it in its place.
fn write_anew(storage: &Storage, manifest: &Manifest, slot_len: usize) -> Result<(StoredFile, usize)> {
    remove_if_there(storage, MANIFEST_TMP)?;
    let file = storage.create(MANIFEST_TMP)?;
    let bytes = manifest.encode();
    let written = file.allocate(2 * slot_len as u64).and_then(|()| {
        file.write_at(&bytes, 0)?;
        file.write_at(&bytes, slot_len as u64)
    });
    if let Err(e) = written {
        remove_if_there(storage, MANIFEST_TMP)?;
        return Err(e);
    }
    file.sync()?;
    let renamed = storage.rename(MANIFEST_TMP, MANIFEST);
    if let Err(Error::NoSpace(_)) = renamed {
        // It has not happened, and what was written takes up space for nothing.
        remove_if_there(storage, MANIFEST_TMP)?;
    }
    renamed?;
    // The file before has no name any more.
    storage.sync_dir().map_err(Error::once_begun)?;
    Ok((file.renamed(MANIFEST), slot_len))
}

/// Removes `name`; it is fine if it is not there.
pub(crate) fn remove_if_there(storage: &Storage, name: &str) -> Result<()> {
    match storage.remove(name) {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// Both slots as they were read.
#[derive(PartialEq, Eq)]
struct Reading {
    path: std::path::PathBuf,
    slot_len: usize,
    slots: [Vec<u8>; 2],
}

impl Reading {
    fn of(file: &StoredFile) -> Result<Self> {
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        let slot_len = len / 2;
        let path = file.path().to_owned();
        if !len.is_multiple_of(2 * PAGE) || !(MIN_SLOT..=MAX_SLOT).contains(&slot_len) {
            return Ok(Self { path, slot_len, slots: [Vec::new(), Vec::new()] });
        }
        Ok(Self { path, slot_len, slots: [read_slot(file, 0, slot_len)?, read_slot(file, slot_len, slot_len)?] })
    }

    fn newest(&self) -> Result<(usize, Manifest)> {
        match [Manifest::decode(&self.slots[0]), Manifest::decode(&self.slots[1])] {
            [Ok(a), Ok(b)] if b.header.generation > a.header.generation => Ok((1, b)),
            [Ok(a), _] => Ok((0, a)),
            [_, Ok(b)] => Ok((1, b)),
            [Err(Refusal::Version { version, features }), _] | [_, Err(Refusal::Version { version, features })] => {
                Err(Error::Version { version, features, path: Box::new(self.path.clone()) })
            }
            _ => Err(Error::NoManifest { path: Box::new(self.path.clone()) }),
        }
    }

    fn is_twice_the_same(&self) -> bool {
        self.slots[0] == self.slots[1]
    }
}

/// The used part of the slot at `at`, or its header where that makes no sense.
fn read_slot(file: &StoredFile, at: usize, slot_len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; slot::HEADER];
    file.read_at(&mut bytes, at as u64)?;
    if let Some(used) = slot::used(&bytes, slot_len) {
        bytes.resize(used, 0);
        file.read_at(&mut bytes, at as u64)?;
    }
    Ok(bytes)
}
