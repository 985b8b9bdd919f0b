//! When a segment is mapped, and for how long: by whoever reads through it, while it does.

use crate::error::{Error, MissingSegment, Result};
use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::identity::check_identity;
use crate::segment::maps::Purpose;
use crate::segment::{Mapping, Pages, Segment, file_name};
use crate::storage::StoredFile;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, Weak, lock};

/// What the segments share that stand for one file.
pub(super) struct FileMap {
    /// The map while the segment is appended to, and that of a file that is gone, for the views that show it.
    pub(super) kept: Option<Arc<Mapping>>,
    /// The pages that it is appended to in, while it is.
    pub(super) pages: Option<Arc<Pages>>,
    /// The map that was made last, if something still reads through it.
    pub(super) last: Weak<Mapping>,
    /// Which file that was.
    id: Option<(u64, u64)>,
}

impl FileMap {
    pub(super) fn unmapped() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { kept: None, pages: None, last: Weak::new(), id: None }))
    }
}

impl Segment {
    /// The map, made if there is none. Whoever reads through it holds it meanwhile: then the segment can be read even
    /// when its file was removed.
    ///
    /// # Errors
    /// `MissingSegment` if the file is not there, `Corrupt` or `Foreign` if it is another one; `MapLimit`.
    pub(crate) fn mapping(&self) -> Result<Arc<Mapping>> {
        match self.mapped() {
            Some(mapping) => Ok(mapping),
            None => self.map_now(Purpose::Read),
        }
    }

    /// As [`Segment::mapping`], of which the handle keeps what it has made, as far as it may, for other views.
    ///
    /// # Errors
    /// As [`Segment::mapping`].
    pub(crate) fn mapping_for_views(&self) -> Result<Arc<Mapping>> {
        if let Some(mapping) = self.mapped() {
            return Ok(mapping);
        }
        let mapping = self.map_now(Purpose::Read)?;
        self.maps.keep_idle(Arc::clone(&mapping));
        Ok(mapping)
    }

    fn mapped(&self) -> Option<Arc<Mapping>> {
        let slot = lock(&self.file);
        let mapping = slot.kept.clone().or_else(|| slot.last.upgrade())?;
        // It may have been made by a segment that stands for less of the file.
        mapping.show(self.end().offset);
        Some(mapping)
    }

    #[cold]
    fn map_now(&self, purpose: Purpose) -> Result<Arc<Mapping>> {
        let (mapping, id) = self.open(purpose)?;
        let mapping = Arc::new(mapping);
        let mut slot = lock(&self.file);
        if slot.id.replace(id).is_some_and(|before| before != id) {
            // What was verified was another file.
            self.verified.store(FRAMES_AT, Ordering::Relaxed);
        }
        // Two threads may both have mapped the file; one map is kept.
        if let Some(other) = slot.last.upgrade() {
            other.show(self.end().offset);
            return Ok(other);
        }
        slot.last = Arc::downgrade(&mapping);
        Ok(mapping)
    }

    fn open(&self, purpose: Purpose) -> Result<(Mapping, (u64, u64))> {
        let (file, id) = self.opened()?;
        let mapping = self.maps.map_read_only(&self.storage, &file, self.capacity(), self.end().offset, purpose)?;
        Ok((mapping, id))
    }

    /// Opens its file and checks that it is this segment's; returns what tells it from other files.
    fn opened(&self) -> Result<(StoredFile, (u64, u64))> {
        let entry = &self.entry;
        let missing = |found_len| {
            let path = self.path();
            Error::MissingSegment(Box::new(MissingSegment { path, expected_len: entry.capacity, found_len }))
        };
        let file = match self.storage.open_read(file_name(entry.ordinal).as_str()) {
            Err(e) if e.is_not_found() => return Err(missing(None)),
            other => other?,
        };
        let (len, id) = file.len_and_id()?;
        if len != entry.capacity {
            return Err(missing(Some(len)));
        }
        let mut page = [0; PAGE];
        file.read_at(&mut page, 0)?;
        check_identity(file.path(), &page, entry, self.log_id)?;
        Ok((file, id))
    }

    /// Whether its file is there, and is this segment's.
    ///
    /// # Errors
    /// As [`Segment::mapping`].
    pub(crate) fn check_file(&self) -> Result<()> {
        self.opened().map(drop)
    }

    /// Maps it for as long as it is shown, whatever becomes of its file. Of the maps of the handle, some are left to those
    /// who read now.
    ///
    /// # Errors
    /// As [`Segment::mapping`].
    pub(crate) fn keep_mapped(&self) -> Result<()> {
        let mapping = match self.mapped() {
            Some(mapping) => mapping,
            None => self.map_now(Purpose::Keep)?,
        };
        mapping.count();
        // Not for longer: when nothing shows it any more, the space of its file is free.
        self.maps.forget(&mapping);
        lock(&self.file).kept = Some(mapping);
        Ok(())
    }

    /// Gives up the map, unless a view or a record needs it.
    pub(crate) fn release(&self) {
        let (kept, last) = {
            let mut slot = lock(&self.file);
            (slot.kept.take(), slot.last.upgrade())
        };
        last.iter().for_each(|mapping| self.maps.forget(mapping));
        drop(kept);
    }

    /// Whether a view, or another thread, may still look at the segment; `of` is the caller's own handle.
    pub(crate) fn is_shown(of: &Arc<Self>) -> bool {
        Arc::strong_count(of) > 1 || Arc::strong_count(&of.file) > 1
    }

    /// Whether its file is mapped: by a record, if no view shows the segment and its own map was given up.
    pub(crate) fn is_mapped(&self) -> bool {
        lock(&self.file).last.strong_count() > 0
    }
}
