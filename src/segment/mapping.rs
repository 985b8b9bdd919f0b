//! The map of one segment file, shared by all that read through it.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::format::segment::FRAMES_AT;
use crate::map::Map;
use crate::presence::Presence;
use crate::segment::End;
use crate::segment::budget::{MapBudget, Permit};
use crate::storage::Storage;
use crate::sync::{Arc, OnceLock};

/// A segment file in memory.
pub(crate) struct Mapping {
    map: Arc<Map>,
    storage: Storage,
    path: PathBuf,
    /// What of it was brought in.
    present: Presence,
    /// Holds the lock on READERS.
    budget: Arc<MapBudget>,
    /// Counts it among the maps of the handle; none while the segment is appended to.
    permit: OnceLock<Permit>,
}

impl Mapping {
    /// Of a file at `path`; not counted yet.
    pub(super) fn new(storage: &Storage, path: PathBuf, map: Arc<Map>, budget: &Arc<MapBudget>) -> Self {
        let present = Presence::none(map.len());
        Self { map, storage: storage.clone(), path, present, budget: Arc::clone(budget), permit: OnceLock::new() }
    }

    /// Counts it by `permit`, unless it is counted already.
    pub(super) fn counted(self, permit: Permit) -> Self {
        // A new one has none.
        let _ = self.permit.set(permit);
        self
    }

    /// Counts it, even if that is more than may be: a map that is there is not refused.
    pub(super) fn count(&self) {
        // Not within the initialisation, for which another thread would wait.
        if self.permit.get().is_none() {
            // If another thread was faster, this permit is given back.
            let _ = self.permit.set(self.budget.exceed());
        }
    }

    /// The map.
    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Where the file stands, or stood when it was mapped.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets what was published up to `to` be read.
    pub(crate) fn show(&self, to: usize) {
        if !self.map.is_writable() {
            self.map.raise(to);
        }
    }

    /// The bytes of the frames up to `end`, which were published.
    pub(crate) fn frames(&self, end: End) -> &[u8] {
        let prefix = self.map.prefix();
        &prefix[..(end.offset - FRAMES_AT).min(prefix.len())]
    }

    /// Brings the bytes of `from..to` in, so that a device that cannot deliver them says so here and not by a signal.
    /// Returns up to where everything from `from` on is there, which is `to` or further.
    pub(crate) fn bring_in(&self, from: usize, to: usize) -> Result<usize> {
        self.present.bring_in(from..to, |bytes| {
            let map = &self.map;
            // What comes next is read while these are looked at.
            let next = bytes.end.min(map.len())..(bytes.end + bytes.len()).min(map.len());
            self.storage.populate_read(&self.path, map, bytes.start..next.start)?;
            map.will_need(next);
            Ok(())
        })?;
        Ok(self.present.holds_from(to))
    }

    /// Up to where bytes from `at` on were brought in, `at` itself if that was not.
    pub(crate) fn held_to(&self, at: usize) -> usize {
        self.present.holds_from(at)
    }
}
