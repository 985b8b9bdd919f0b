//! Whether what stands in the files of a copy is what the log has.

use crate::error::{Error, Result};
use crate::format::segment::FRAMES_AT;
use crate::segment::{End, MappedPart, Segment};
use crate::view::{Forward, Found, Located, MapWindow, View};

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
    forward: Option<Forward>,
    window: MapWindow,
}

impl<'a> Comparison<'a> {
    /// With what `log` shows.
    pub(crate) fn with(log: &'a View) -> Self {
        Self { log, forward: None, window: MapWindow::default() }
    }

    /// Reads the frames of `copy` up to the offset `to`; `report` is told of each how many bytes it takes.
    ///
    /// # Errors
    /// Those of the log: what is wrong with the copy is what came of it.
    pub(crate) fn compare(&mut self, copy: &Segment, to: usize, mut report: impl FnMut(usize)) -> Result<Compared> {
        let mapping = match copy.mapping() {
            Ok(mapping) => mapping,
            Err(e @ Error::MapLimit(_)) => return Err(e),
            Err(e) => return Ok(Compared::Damaged(e)),
        };
        let part = MappedPart::new(copy, &mapping, End { offset: to.max(FRAMES_AT), count: 0 });
        let mut walk = Forward::at_segment(0, copy.base_seq());
        while walk.at < to {
            let found = match walk.read_part(&part) {
                Ok(found) => found,
                Err(e) => return Ok(Compared::Damaged(e)),
            };
            let header = found.place.header;
            if header.seq >= self.log.first_seq && !self.is_same(&found)? {
                return Ok(Compared::Differs { seq: header.seq });
            }
            report(header.frame_size());
        }
        Ok(Compared::Same { next_seq: walk.expected })
    }

    fn is_same(&mut self, found: &Found<'_>) -> Result<bool> {
        let Some(own) = self.record(found.place.header.seq)? else { return Ok(false) };
        let fields = |place: Located| (place.header.seq, place.header.tag, place.header.commit);
        Ok(fields(own.place) == fields(found.place) && own.payload == found.payload)
    }

    /// The record `seq` of the log; `None` if it has none.
    fn record(&mut self, seq: u64) -> Result<Option<Found<'_>>> {
        let mut forward = match self.forward.take().filter(|forward| forward.expected == seq) {
            Some(forward) => forward,
            None if seq > self.log.last_seq() => return Ok(None),
            None => Forward::through(self.log, &mut self.window, seq - 1)?,
        };
        match forward.advance_in(self.log, &mut self.window) {
            None | Some(Err(Error::Gap { .. })) => Ok(None),
            Some(found) => {
                self.forward = Some(forward);
                found.map(Some)
            }
        }
    }
}
