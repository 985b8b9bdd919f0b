//! What an open log counts, and how it shows itself to other processes.

use crate::engine::Engine;
use crate::event::{Histogram, Stats};
use crate::format::stats;
use crate::live::Positions;
use crate::options::SyncMode;
use crate::sync::atomic::Ordering;

impl Engine {
    /// Has shown to others what changed though nothing was appended: under the lock under which the thread looks for the
    /// last time before it dozes, so it was seen then, or the thread is found dozing here.
    pub(crate) fn show_soon(&self) {
        self.changed.store(true, Ordering::Relaxed);
        if self.dozing.load(Ordering::Relaxed) {
            self.commit.sync_bell.ring();
        }
    }

    /// Shows the log to others, as [`Engine::show`] does, from the first change on: `moved` is one.
    pub(crate) fn show_changes(&self, moved: bool, now: bool) {
        if moved {
            self.changed.store(true, Ordering::Relaxed);
        }
        if self.changed.load(Ordering::Relaxed) {
            self.show(now);
        }
    }

    /// What this handle has counted.
    pub(crate) fn stats(&self) -> Stats {
        let syncs = self.commit.syncs();
        Stats {
            records: self.written.records.load(Ordering::Relaxed),
            bytes: self.written.bytes.load(Ordering::Relaxed),
            rotations: self.written.rotations.load(Ordering::Relaxed),
            segment_waits: self.keeper.counts.waits.load(Ordering::Relaxed),
            prepared: self.keeper.counts.prepared.load(Ordering::Relaxed),
            recycled: self.keeper.counts.recycled.load(Ordering::Relaxed),
            removed: self.keeper.counts.removed.load(Ordering::Relaxed),
            sync_micros: syncs.micros,
            group_records: syncs.group_records,
        }
    }

    /// Shows the log to other processes, unless that was done a moment ago and need not be `now`.
    pub(crate) fn show(&self, now: bool) {
        if let Some((board, opened)) = &self.board {
            board.show(now, || self.shown(std::process::id(), *opened));
        }
    }

    /// What others are shown; `pid` is 0 once the log is closed.
    pub(super) fn shown(&self, pid: u32, opened: u64) -> stats::Writer {
        let (live, stats) = (self.commit.live(), self.stats());
        let Positions { first, last, durable, checkpoint } = live.positions();
        let counts = |histogram: &Histogram| {
            let (buckets, sum, max) = histogram.parts();
            stats::Counts { buckets, sum, max }
        };
        stats::Writer {
            pid,
            opened,
            updated: self.storage.now(),
            mode: match self.mode {
                SyncMode::Sync => 0,
                SyncMode::Batch { .. } => 1,
                SyncMode::None => 2,
            },
            first_seq: first,
            last_seq: last,
            durable_seq: durable,
            checkpoint_seq: checkpoint,
            segments: live.segments.len() as u64,
            active: live.active().ordinal(),
            position: live.active().end().offset as u64,
            records: stats.records,
            bytes: stats.bytes,
            rotations: stats.rotations,
            segment_waits: stats.segment_waits,
            prepared: stats.prepared,
            recycled: stats.recycled,
            removed: stats.removed,
            sync_micros: counts(&stats.sync_micros),
            group_records: counts(&stats.group_records),
        }
    }
}
