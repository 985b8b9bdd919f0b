//! A segment together with the map that it is read through.

use crate::error::Result;
use crate::format::segment::{self as words, CLOSED, CUT, DURABLE_AT, FRAMES_AT, PUBLISHED_AT};
use crate::scan::{self, Walk};
use crate::segment::{End, Mapping, Segment};
use crate::sync::Arc;

/// What stands in `published`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// As it stands.
    pub(crate) word: u64,
    /// Frames below are visible; `None` if that makes no sense.
    pub(crate) offset: Option<usize>,
    /// The log goes on in the next segment.
    pub(crate) closed: bool,
    /// Something that was visible here was cut off.
    pub(crate) cut: bool,
}

/// A segment up to an end, and the map through which it is read.
#[derive(Clone, Copy)]
pub(crate) struct MappedPart<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) mapping: &'a Arc<Mapping>,
    pub(crate) end: End,
    /// The bytes of its frames up to `end`, as far as they are published.
    pub(crate) frames: &'a [u8],
}

impl<'a> MappedPart<'a> {
    /// `segment` up to `end`, through `mapping`, a map of its file.
    pub(crate) fn new(segment: &'a Segment, mapping: &'a Arc<Mapping>, end: End) -> Self {
        Self { segment, mapping, end, frames: mapping.frames(end) }
    }

    /// The same up to the offset `limit`, of a segment that goes on behind it.
    pub(crate) fn up_to(&self, limit: usize) -> Self {
        Self::new(self.segment, self.mapping, End { offset: limit, count: 0 })
    }

    /// How far its frames are visible, as whoever writes it says in the file.
    pub(crate) fn published(&self) -> Published {
        let word = self.mapping.map().load(PUBLISHED_AT);
        let offset = usize::try_from(word & !(CLOSED | CUT)).ok();
        let offset = offset.filter(|offset| words::is_position(*offset, self.segment.capacity()));
        Published { word, offset, cut: word & CUT != 0, closed: word & CLOSED != 0 }
    }

    /// Up to where it is durable, as whoever writes it says in the file.
    pub(crate) fn durable(&self) -> usize {
        let map = self.mapping.map();
        let slots = DURABLE_AT.map(|at| (map.load(at), map.load(at + size_of::<u64>())));
        let verified = slots.into_iter().filter(|(value, check)| words::check(self.segment.salt(), *value) == *check);
        let offsets = verified.filter_map(|(value, _)| usize::try_from(value).ok());
        offsets.filter(|offset| words::is_position(*offset, self.segment.capacity())).max().unwrap_or(FRAMES_AT)
    }

    /// Brings the bytes of `from..to` in; see [`Mapping::bring_in`].
    pub(crate) fn bring_in(&self, from: usize, to: usize) -> Result<usize> {
        self.mapping.bring_in(from, to)
    }

    /// Walks its frames, verifying each; `report` is told where the walk is whenever more is brought in.
    pub(crate) fn walk(&self, mut report: impl FnMut(usize)) -> Result<Walk> {
        let (salt, base_seq) = (self.segment.salt(), self.segment.base_seq());
        scan::walk_present(self.frames, salt, base_seq, self.end.offset, |wanted| {
            report(wanted.start);
            self.bring_in(wanted.start, wanted.end)
        })
    }
}
