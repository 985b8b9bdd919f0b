//! The right to sync: one thread has it, and it is given up on every path.

use std::io;
use std::time::Duration;

use super::{Commit, State};
use crate::error::{Error, Operation};
use crate::segment::{End, Segment};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, MutexGuard, lock};

/// What a leader has to sync.
pub(super) struct Job {
    pub(super) segment: Arc<Segment>,
    pub(super) from: usize,
    pub(super) to: End,
}

impl Job {
    /// The last record that it syncs.
    pub(super) fn last_seq(&self) -> u64 {
        self.segment.base_seq() + self.to.count - 1
    }
}

/// The right to sync; given up on every path, a panic included.
pub(super) struct Leadership<'a> {
    commit: &'a Commit,
    ended: bool,
}

impl<'a> Leadership<'a> {
    /// Takes the right, which nobody has.
    pub(super) fn begin(commit: &'a Commit) -> Self {
        Self { commit, ended: false }
    }

    /// Takes note that `jobs` were synced, and gives the right up.
    pub(super) fn end(mut self, jobs: &[Option<Job>; 2], elapsed: Duration) -> MutexGuard<'a, State> {
        self.ended = true;
        let commit = self.commit;
        let mut state = lock(&commit.state);
        let before = state.live.durable_seq;
        let noted = jobs.iter().flatten().try_for_each(|job| state.synced(job));
        let records = state.live.durable_seq - before;
        state.syncs.micros.record(elapsed.as_micros() as u64);
        state.syncs.group_records.record(records);
        if let Err(e) = noted {
            // The map was there for the sync, so this cannot be; but a claim that was not stored only says less.
            state.failure.get_or_insert(Arc::new(e));
            commit.refusing.store(true, Ordering::Release);
            commit.sync_bell.end();
            commit.upkeep_bell.end();
        }
        state.leading = false;
        commit.watch.tell();
        state
    }
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut state = lock(&self.commit.state);
        state.leading = false;
        state.failure.get_or_insert_with(|| {
            let path = std::path::Path::new("the log");
            Arc::new(Error::io(Operation::Sync, path, io::Error::other("the thread that synced it panicked")))
        });
        self.commit.refusing.store(true, Ordering::Release);
        self.commit.end(state);
    }
}
