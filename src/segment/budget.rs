//! How many maps one handle holds, and how many it may.

use crate::storage::StoredFile;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// How many maps a handle holds and may hold, and the lock that keeps their files from being recycled.
pub(crate) struct MapBudget {
    limit: usize,
    held: AtomicUsize,
    /// As long as one map is there: nothing else keeps the lock for a record that has outlived its snapshot and handle.
    _readers: Option<Arc<StoredFile>>,
}

/// One map of a budget, given back when it is dropped.
pub(crate) struct Permit(Arc<MapBudget>);

impl MapBudget {
    /// At most `limit` maps under the lock on READERS.
    pub(super) fn new(readers: Option<Arc<StoredFile>>, limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0), _readers: readers })
    }

    /// How many there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// How many there are.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// One more map, if there may be, and `reserve` others after it.
    pub(super) fn take(self: &Arc<Self>, reserve: usize) -> Option<Permit> {
        let more = |held: usize| (held < self.limit.saturating_sub(reserve)).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(self)))
    }

    /// One more map, whether or not there may be.
    pub(super) fn exceed(self: &Arc<Self>) -> Permit {
        self.held.fetch_add(1, Ordering::Relaxed);
        Permit(Arc::clone(self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}
