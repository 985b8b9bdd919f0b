//! Whether what stands in the files of a copy is what the log has.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::segment::FRAMES_AT;
use crate::segment::{End, Segment};
use crate::storage::StoredFile;
use crate::view::{Cursor, Located, View};

/// What came of a comparison.
pub(crate) enum Compared {
    /// Every record is that of the log, or was truncated there; the number behind the last one.
    Same { next_seq: u64 },
    /// The log has another record with this number, or none.
    Differs { seq: u64 },
    /// The copy does not verify.
    Damaged(Error),
}

/// Compares segments of a copy, oldest first, with the log.
pub(crate) struct Comparison<'a> {
    log: &'a View,
    /// Where the log was read last.
    cursor: Option<Cursor>,
    /// For the views of single segments.
    readers: Arc<StoredFile>,
}

impl<'a> Comparison<'a> {
    /// With what `log` shows.
    pub(crate) fn with(log: &'a View, readers: &Arc<StoredFile>) -> Self {
        Self { log, cursor: None, readers: Arc::clone(readers) }
    }

    /// Reads the frames of `copy` up to the offset `to`; `report` is told of each how many bytes it takes.
    ///
    /// # Errors
    /// Those of the log: what is wrong with the copy is what came of it.
    pub(crate) fn compare(
        &mut self,
        copy: &Arc<Segment>,
        to: usize,
        mut report: impl FnMut(usize),
    ) -> Result<Compared> {
        let view = self.alone(copy, to);
        let mut walk = Cursor::at_segment(0, copy.base_seq());
        if let Err(e) = copy.map() {
            return Ok(Compared::Damaged(e));
        }
        while walk.at < to {
            let found = match walk.read_below(&view, to) {
                Ok(found) => found.place,
                Err(e) => return Ok(Compared::Damaged(e)),
            };
            if found.header.seq >= self.log.first_seq && !self.is_same(&view, found)? {
                return Ok(Compared::Differs { seq: found.header.seq });
            }
            report(found.header.frame_size());
        }
        Ok(Compared::Same { next_seq: walk.expected })
    }

    fn alone(&self, copy: &Arc<Segment>, to: usize) -> View {
        View {
            segments: Arc::new(vec![Arc::clone(copy)]),
            shown: 1,
            end: End { offset: to.max(FRAMES_AT), count: 0 },
            first_seq: copy.base_seq(),
            checkpoint_seq: 0,
            _readers: Arc::clone(&self.readers),
        }
    }

    fn is_same(&mut self, copy: &View, found: Located) -> Result<bool> {
        let Some(own) = self.record(found.header.seq)? else { return Ok(false) };
        let fields = |place: Located| (place.header.seq, place.header.tag, place.header.commit);
        Ok(fields(own) == fields(found) && self.log.payload(own)? == copy.payload(found)?)
    }

    /// The record `seq` of the log; `None` if it has none.
    fn record(&mut self, seq: u64) -> Result<Option<Located>> {
        let mut cursor = match self.cursor.take().filter(|cursor| cursor.expected == seq) {
            Some(cursor) => cursor,
            None if seq > self.log.last_seq() => return Ok(None),
            None => Cursor::behind(self.log, seq - 1)?,
        };
        match cursor.advance(self.log) {
            None | Some(Err(Error::Gap { .. })) => Ok(None),
            Some(found) => {
                self.cursor = Some(cursor);
                found.map(|found| Some(found.place))
            }
        }
    }
}
