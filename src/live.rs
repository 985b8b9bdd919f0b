//! What a log is at one moment: its segments and its positions.

use std::sync::Arc;

use crate::format::segment::FRAMES_AT;
use crate::segment::{End, Segment};

/// What a view of the log is made of, in one consistent state.
#[derive(Clone)]
pub(crate) struct Live {
    /// Oldest first; the last one is appended to.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) first_seq: u64,
    pub(crate) checkpoint_seq: u64,
    /// The last durable seq, and where its segment is durable up to.
    pub(crate) durable_seq: u64,
    pub(crate) durable_offset: usize,
    pub(crate) meta: Arc<[u8]>,
}

impl Live {
    /// First, last, durable and checkpointed seq.
    pub(crate) fn positions(&self) -> Positions {
        Positions {
            first: self.first_seq,
            durable: self.durable_seq,
            checkpoint: self.checkpoint_seq,
            last: self.active().last_seq(),
        }
    }

    /// Sets the time of change of the segments that were appended to since; those in front of them were sealed.
    pub(crate) fn stamp_appended(&self) {
        self.segments.iter().rev().take(2).for_each(|segment| segment.stamp_appended());
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> &Arc<Segment> {
        // A log has an active segment from its creation on.
        &self.segments[self.segments.len() - 1]
    }

    /// How many segments hold durable records, and how far the last of them.
    pub(crate) fn durable_end(&self) -> (usize, End) {
        let begun = self.segments.partition_point(|segment| segment.base_seq() <= self.durable_seq);
        let shown = begun.max(1);
        let segment = &self.segments[shown - 1];
        let end = if begun == 0 {
            End { offset: FRAMES_AT, count: 0 }
        } else {
            // Read once: appends go on meanwhile.
            let (published, durable) = (segment.end(), self.durable_seq + 1 - segment.base_seq());
            if published.count <= durable { published } else { End { offset: self.durable_offset, count: durable } }
        };
        (shown, end)
    }
}

/// Where a log begins and ends, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Positions {
    /// The first record's sequence number; one more than `last` if there is none.
    pub first: u64,
    /// The last record's sequence number; 0 if the log never had one.
    pub last: u64,
    /// The last sequence number that survives a power failure.
    pub durable: u64,
    /// The checkpoint; 0 if there is none.
    pub checkpoint: u64,
}
