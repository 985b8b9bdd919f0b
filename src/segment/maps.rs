//! The maps of one handle: how many there may be, and which are kept though nothing reads through them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::error::{Error, MapLimit, Operation, Result};
use crate::limits::{address_space, max_map_count};
use crate::map::Tail;
use crate::segment::budget::{MapBudget, Permit};
use crate::segment::mapping::Mapping;
use crate::storage::{Storage, StoredFile};
use crate::sync::{Arc, Mutex, lock};

/// The share of the handle's maps that are kept though no view needs them.
const IDLE_SHARE: usize = 2;
/// The share of the process's address space that they take, where that is limited.
const IDLE_SPACE_SHARE: u64 = 8;

/// The share of the handle's maps that are left to those who read when files go that views show.
const READ_SHARE: usize = 2;

/// For what a segment is mapped.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// It is read now.
    Read,
    /// Its file goes, and it may be read later.
    Keep,
}

/// The maps of one handle.
pub(crate) struct Maps {
    budget: Arc<MapBudget>,
    idle: Mutex<Idle>,
    /// Shared with every view of the handle.
    viewers: Arc<()>,
}

/// Maps that are kept for the next view, the one that was made first in front.
struct Idle {
    maps: VecDeque<Arc<Mapping>>,
    bytes: u64,
    most: usize,
    most_bytes: u64,
}

impl Idle {
    fn push(&mut self, mapping: Arc<Mapping>, dropped: &mut Vec<Arc<Mapping>>) {
        self.bytes += mapping.map().len() as u64;
        self.maps.push_back(mapping);
        while self.maps.len() > self.most || self.bytes > self.most_bytes {
            let Some(oldest) = self.maps.pop_front() else { return };
            self.bytes -= oldest.map().len() as u64;
            dropped.push(oldest);
        }
    }
}

impl Maps {
    /// The maps of a handle that holds `readers`, the lock on READERS, and at most `limit` maps.
    pub(crate) fn of_handle(readers: &Arc<StoredFile>, limit: usize) -> Arc<Self> {
        let most_bytes = address_space().map_or(u64::MAX, |bytes| bytes / IDLE_SPACE_SHARE);
        Self::new(Some(Arc::clone(readers)), limit, limit / IDLE_SHARE, most_bytes)
    }

    /// The maps of a reader, whose snapshots share none: each is given back with the snapshot that needs it.
    pub(crate) fn of_reader(readers: Option<Arc<StoredFile>>, limit: usize) -> Arc<Self> {
        Self::new(readers, limit, 0, 0)
    }

    /// For single maps that are given back at once.
    pub(crate) fn single() -> Arc<Self> {
        Self::new(None, usize::MAX, 0, 0)
    }

    fn new(readers: Option<Arc<StoredFile>>, limit: usize, most: usize, most_bytes: u64) -> Arc<Self> {
        let budget = MapBudget::new(readers, limit);
        let idle = Mutex::new(Idle { maps: VecDeque::new(), bytes: 0, most, most_bytes });
        Arc::new(Self { budget, idle, viewers: Arc::default() })
    }

    /// What every view of the handle holds.
    pub(crate) fn viewer(&self) -> Arc<()> {
        Arc::clone(&self.viewers)
    }

    /// Whether there is a view.
    pub(crate) fn has_viewers(&self) -> bool {
        Arc::strong_count(&self.viewers) > 1
    }

    /// Maps the first `len` bytes of `file` for reading; the bytes of frames up to `published` do not change any more.
    ///
    /// # Errors
    /// `MapLimit` if there may not be one more map, of the handle's or the system's.
    pub(super) fn map_read_only(
        &self,
        storage: &Storage,
        file: &StoredFile,
        len: usize,
        published: usize,
        purpose: Purpose,
    ) -> Result<Mapping> {
        let permit = self.take(file.path(), purpose)?;
        let map = self.retried(file.path(), || file.map_read_only(len, published))?;
        Ok(Mapping::new(storage, file.path().to_owned(), Arc::new(map), &self.budget).counted(permit))
    }

    /// Maps the first `len` bytes of `file` for its writer. That is not counted: an append does not wait for a reader.
    ///
    /// # Errors
    /// `MapLimit` if the system allows no more.
    pub(super) fn map_writable(&self, file: &StoredFile, len: usize, published: usize) -> Result<Tail> {
        self.retried(file.path(), || file.map_writable(len, published))
    }

    /// What is known of the map of a segment that is appended to.
    pub(super) fn of_writer(&self, storage: &Storage, path: PathBuf, tail: &Tail) -> Mapping {
        Mapping::new(storage, path, Arc::clone(tail.map()), &self.budget)
    }

    fn take(&self, path: &Path, purpose: Purpose) -> Result<Permit> {
        let reserve = match purpose {
            Purpose::Read => 0,
            Purpose::Keep => self.budget.limit() / READ_SHARE,
        };
        if let Some(permit) = self.budget.take(reserve) {
            return Ok(permit);
        }
        self.relieve();
        self.budget.take(reserve).ok_or_else(|| self.refusal(path, false))
    }

    /// Calls `map`, and once more after the idle maps were given up, if it is the system that has no room.
    fn retried<T>(&self, path: &Path, map: impl Fn() -> Result<T>) -> Result<T> {
        let done = match map() {
            Err(e) if e.is_out_of_memory() && self.relieve() => map(),
            other => other,
        };
        done.map_err(|e| if e.is_out_of_memory() { self.refusal(path, true) } else { e })
    }

    fn refusal(&self, path: &Path, by_system: bool) -> Error {
        refused(path, self.budget.held(), self.budget.limit(), by_system)
    }

    /// Keeps `mapping`, which no view may need any more, for the next one.
    pub(super) fn keep_idle(&self, mapping: Arc<Mapping>) {
        mapping.count();
        let mut dropped = Vec::new();
        lock(&self.idle).push(mapping, &mut dropped);
        // Unmapped here, while nothing is locked.
        drop(dropped);
    }

    /// Does not keep `mapping` any more.
    pub(super) fn forget(&self, mapping: &Arc<Mapping>) {
        let mut idle = lock(&self.idle);
        let Some(index) = idle.maps.iter().position(|kept| Arc::ptr_eq(kept, mapping)) else { return };
        let kept = idle.maps.remove(index);
        idle.bytes -= mapping.map().len() as u64;
        drop(idle);
        drop(kept);
    }

    /// Gives up every map that is kept for the next view alone; returns whether there were any.
    pub(crate) fn relieve(&self) -> bool {
        let mut idle = lock(&self.idle);
        let given_up = std::mem::take(&mut idle.maps);
        idle.bytes = 0;
        drop(idle);
        !given_up.is_empty()
    }
}

fn refused(path: &Path, held: usize, max_maps: usize, by_system: bool) -> Error {
    let (max_map_count, address_space) = (max_map_count(), address_space());
    let path = path.to_owned();
    Error::MapLimit(Box::new(MapLimit { path, held, max_maps, max_map_count, address_space, by_system }))
}

/// The failure `e` of a map of the file at `path`, as a typed error if there was no room for it.
pub(crate) fn no_room(path: &Path, e: Error) -> Error {
    if e.is_out_of_memory() { refused(path, 0, 0, true) } else { e }
}

/// `done`, which has asked for memory for what stands in the file at `path`, as a typed error if there is none.
///
/// # Errors
/// `MapLimit` for want of address space; else `Io` of `operation`.
pub(crate) fn in_memory<T>(operation: Operation, path: &Path, done: std::io::Result<T>) -> Result<T> {
    done.map_err(|e| match e.kind() {
        std::io::ErrorKind::OutOfMemory => refused(path, 0, 0, true),
        _ => Error::io(operation, path, e),
    })
}
