//! What a handle says in a forked child to calls that cannot fail: what opening the log had found. All that came later is
//! guarded by locks, which may have been held at the fork by threads that the child does not have.

use super::Engine;
use crate::format::manifest::Entry;
use crate::format::segment::FRAMES_AT;
use crate::live::Positions;
use crate::segment::{End, Segment};
use crate::snapshot::Snapshot;
use crate::sync::Arc;
use crate::view::View;

impl Engine {
    /// Where the log begins and ends.
    pub(crate) fn positions(&self) -> Positions {
        if self.owner.is_current() { self.commit.positions() } else { self.opened }
    }

    /// What the user has stored beside the log.
    pub(crate) fn meta(&self) -> Arc<[u8]> {
        if self.owner.is_current() { self.commit.live().meta } else { Arc::default() }
    }

    /// Everything that is published now, or of that what is durable.
    pub(crate) fn current_view(&self, durable_only: bool) -> Snapshot {
        if !self.owner.is_current() {
            return self.inherited();
        }
        if !durable_only {
            return self.snapshot();
        }
        let live = self.commit.live();
        let (shown, end) = live.durable_end();
        self.view(live, shown, end)
    }

    /// A view that says where the log began and ended, and refuses to show a record.
    fn inherited(&self) -> Snapshot {
        let Positions { first, last, checkpoint, .. } = self.opened;
        let (base_seq, last_seq, end_offset) = (last + 1, last, FRAMES_AT as u64);
        let entry = Entry { ordinal: 0, salt: 0, virgin: true, capacity: end_offset, base_seq, end_offset, last_seq };
        let segments = Arc::new(vec![Segment::sealed(&self.storage, entry, [0; 16], &self.maps)]);
        Snapshot::new(View::new(segments, 1, End { offset: FRAMES_AT, count: 0 }, first, checkpoint))
    }
}
