//! What a tail has to show at one moment.

use std::sync::Arc;

use crate::error::Result;
use crate::snapshot::Record;
use crate::view::{Cursor, View};

/// The records that a [`Tail`](crate::Tail) had to show when this was made.
pub struct Available<'a> {
    pub(super) view: &'a Arc<View>,
    pub(super) cursor: &'a mut Cursor,
    pub(super) limit: usize,
    /// A frame does not verify: the tail finds out why.
    pub(super) stalled: &'a mut bool,
}

impl<'a> Iterator for Available<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if *self.stalled || self.cursor.at >= self.limit {
            return None;
        }
        if let Err(e) = self.view.check_owner() {
            *self.stalled = true;
            return Some(Err(e));
        }
        match self.cursor.read_below(self.view, self.limit) {
            Ok(found) => Some(Ok(Record::shown(self.view, found))),
            Err(_) => {
                *self.stalled = true;
                None
            }
        }
    }
}

impl std::iter::FusedIterator for Available<'_> {}
