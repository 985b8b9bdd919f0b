//! The pages of a segment that is or will be appended to, made writable before they are stored to.
//!
//! The kernel write-protects a page when it writes it back. The next store faults, the fault asks the file system for the
//! page, and where the file system refuses, the kernel raises `SIGBUS`. `MADV_POPULATE_WRITE` takes the same fault and
//! returns an error instead. It does not say why, so a byte of each page is then written again by a call that does.

use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::map::Map;
use crate::segment::file_name;
use crate::storage::{FileId, Storage, StoredFile};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// The writable map of a segment file.
pub(crate) struct Pages {
    storage: Storage,
    ordinal: u64,
    path: PathBuf,
    /// Which file it is.
    id: FileId,
    map: Arc<Map>,
    /// The file has not all its space, and there was none left: nothing is appended to it.
    lacks_space: AtomicBool,
    /// What was refused for want of space, which the file system may deny of blocks that it shows as there.
    refused: Mutex<Vec<Range<usize>>>,
    /// How often a sync has begun or ended: odd while one runs.
    syncs: AtomicU64,
}

impl Pages {
    /// Those of `file`, the segment `ordinal`, in `map`.
    pub(super) fn new(storage: &Storage, ordinal: u64, file: &StoredFile, map: &Arc<Map>) -> Result<Arc<Self>> {
        let (storage, path, id, map) = (storage.clone(), file.path().to_owned(), file.id()?, Arc::clone(map));
        let (lacks_space, refused, syncs) = (AtomicBool::new(false), Mutex::default(), AtomicU64::new(0));
        Ok(Arc::new(Self { storage, ordinal, path, id, map, lacks_space, refused, syncs }))
    }

    /// Runs `sync`, which writes pages back.
    pub(super) fn while_syncing<T>(&self, sync: impl FnOnce() -> T) -> T {
        self.syncs.fetch_add(1, Ordering::AcqRel);
        let synced = sync();
        self.syncs.fetch_add(1, Ordering::AcqRel);
        synced
    }

    /// A number that is the same at two looks if no sync was under way at either or between them; `None` if one is.
    pub(crate) fn sync_turn(&self) -> Option<u64> {
        Some(self.syncs.load(Ordering::Acquire)).filter(|syncs| syncs.is_multiple_of(2))
    }

    /// Whether there is no space for some of its pages, as far as is known.
    #[inline]
    pub(crate) fn lacks_space(&self) -> bool {
        self.lacks_space.load(Ordering::Relaxed)
    }

    /// Lets nothing be appended until [`Pages::reserve`] has succeeded.
    pub(crate) fn withhold(&self) {
        self.lacks_space.store(true, Ordering::Relaxed);
    }

    /// Tries again to take the space that the file does not have.
    ///
    /// # Errors
    /// `NoSpace` as long as there is none; `Replaced`; what else the system says.
    pub(crate) fn reserve(&self) -> Result<()> {
        self.reserve_for(&self.open()?)
    }

    /// Opens the file, if its name is still its own.
    fn open(&self) -> Result<StoredFile> {
        let file = self.storage.open_write(file_name(self.ordinal).as_str())?;
        if file.id()? == self.id { Ok(file) } else { Err(Error::Replaced { path: Box::new(self.path.clone()) }) }
    }

    /// As [`Pages::reserve`], for an open: the log can be read and truncated without that space.
    ///
    /// # Errors
    /// What the system says, but for want of space.
    pub(super) fn reserve_if_there_is_space(&self, file: &StoredFile) -> Result<()> {
        match self.reserve_for(file) {
            Err(Error::NoSpace(_)) => Ok(()),
            other => other,
        }
    }

    fn reserve_for(&self, file: &StoredFile) -> Result<()> {
        let mut refused = lock(&self.refused);
        let reserved = file.reserve(self.map.len() as u64).and_then(|()| self.ask_again(&mut refused));
        match &reserved {
            Ok(()) => self.lacks_space.store(false, Ordering::Relaxed),
            Err(Error::NoSpace(_)) => self.lacks_space.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        reserved
    }

    /// Asks once more for the pages that were refused.
    fn ask_again(&self, refused: &mut Vec<Range<usize>>) -> Result<()> {
        let ask = |range: &Range<usize>| self.storage.prefault(&self.path, &self.map, range.clone());
        refused.iter().try_for_each(ask).map_err(|_| {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            Error::io(Operation::Write, &self.path, source)
        })?;
        refused.clear();
        Ok(())
    }

    fn note_refusal(&self, range: Range<usize>) {
        let mut refused = lock(&self.refused);
        if !refused.contains(&range) {
            refused.push(range);
        }
        self.lacks_space.store(true, Ordering::Relaxed);
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// The segment's ordinal.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// The map.
    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Where the file stands.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Makes the pages of `range` present and writable without changing a byte. Of a page without a published byte, the
    /// caller holds the writer's lock.
    ///
    /// # Errors
    /// What the file system says to a write where a store would raise `SIGBUS`: `NoSpace`, or `Io`, after which nothing
    /// can be stored; `Replaced`.
    pub(crate) fn prefault(&self, range: Range<usize>) -> Result<()> {
        let asked = range.clone();
        match self.storage.prefault(&self.path, &self.map, range.clone()) {
            Ok(()) => Ok(()),
            Err(_) => self.find_cause(range).inspect_err(|e| {
                if matches!(e, Error::NoSpace(_)) {
                    self.note_refusal(asked);
                }
            }),
        }
    }

    /// Writes one byte of each page again, and asks once more if that works.
    #[cold]
    fn find_cause(&self, range: Range<usize>) -> Result<()> {
        let file = self.open()?;
        for page in (range.start - range.start % PAGE..range.end).step_by(PAGE) {
            // A store by another thread must not be undone: the last byte of the progress page is reserved, and the first
            // byte of a page of frames is published, or changed under the writer's lock alone.
            let at = if page == PAGE { FRAMES_AT - 1 } else { page } as u64;
            let mut byte = [0];
            file.read_at(&mut byte, at)?;
            file.write_at(&byte, at)?;
        }
        self.storage.prefault(&self.path, &self.map, range)
    }
}
