//! What a tail has to show at one moment.

use crate::error::Result;
use crate::segment::MappedPart;
use crate::snapshot::Record;
use crate::view::Forward;

/// The records that a [`Tail`](crate::Tail) had to show when this was made.
pub struct Available<'a> {
    /// The segment, up to where it was visible.
    pub(super) part: MappedPart<'a>,
    pub(super) forward: &'a mut Forward,
    /// A frame does not verify: the tail finds out why.
    pub(super) stalled: &'a mut bool,
}

impl<'a> Iterator for Available<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if *self.stalled || self.forward.at >= self.part.end.offset {
            return None;
        }
        if let Err(e) = self.part.segment.owner().check() {
            *self.stalled = true;
            return Some(Err(e));
        }
        match self.forward.read_part(&self.part) {
            Ok(found) => Some(Ok(Record::shown(found))),
            Err(_) => {
                *self.stalled = true;
                None
            }
        }
    }
}

impl std::iter::FusedIterator for Available<'_> {}
