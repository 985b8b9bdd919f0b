//! Waiting for something that changes often and is rarely waited for.

use std::time::Duration;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait_while_at_most};

/// Tells those who watch; while nobody does, that costs one look.
#[derive(Default)]
pub(crate) struct Watch {
    watching: AtomicUsize,
    /// How often it was told.
    turn: Mutex<u64>,
    changed: Condvar,
}

impl Watch {
    /// Begins to watch. Whoever tells does so under a lock, which the caller must hold here: what was done under it
    /// before is seen by looking after this, and what is done after is told.
    pub(crate) fn begin(&self) -> Watching<'_> {
        self.watching.fetch_add(1, Ordering::Relaxed);
        Watching { watch: self, seen: *self.turn() }
    }

    /// Tells those who watch that something has changed.
    #[inline]
    pub(crate) fn tell(&self) {
        if self.watching.load(Ordering::Relaxed) > 0 {
            self.tell_now();
        }
    }

    /// Whether anything watches, for tests that need a waiter to have begun its wait.
    #[cfg(test)]
    pub(crate) fn is_watched(&self) -> bool {
        self.watching.load(Ordering::Relaxed) > 0
    }

    #[cold]
    fn tell_now(&self) {
        *self.turn() += 1;
        self.changed.notify_all();
    }

    fn turn(&self) -> MutexGuard<'_, u64> {
        lock(&self.turn)
    }
}

/// Somebody who watches.
pub(crate) struct Watching<'a> {
    watch: &'a Watch,
    seen: u64,
}

impl Watching<'_> {
    /// Waits until something has changed since this began, at most for `patience`.
    pub(crate) fn wait(&self, patience: Duration) {
        let same = |turn: &mut u64| *turn == self.seen;
        drop(wait_while_at_most(&self.watch.changed, &self.watch.turn, self.watch.turn(), patience, same));
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.watch.watching.fetch_sub(1, Ordering::Relaxed);
    }
}
