//! Following a file that is not the one that was mapped any more. On an overlay file system, a writer makes the system copy
//! a file of the lower layer when it opens it; a map that was made before stays with the lower file, under the same inode
//! number, and shows nothing of what is appended.

use super::source::Source;
use super::{BETWEEN, Tail};
use crate::error::Result;
use crate::segment::MappedPart;
use crate::sync::Instant;
use crate::view::Forward;

/// So many calls in a row that find nothing, the clock is asked whether to look at the manifest.
const EMPTY: u32 = 16;

impl Tail {
    /// Whether there is a frame to show, for callers who do not wait: of those that find nothing, one now and then looks at
    /// the manifest.
    pub(super) fn ready_now(&mut self) -> Result<bool> {
        if self.ready()? {
            return Ok(true);
        }
        if matches!(self.source, Source::Handle { .. }) {
            return Ok(false);
        }
        self.empty = self.empty.wrapping_add(1);
        let is_due = self.empty.is_multiple_of(EMPTY) && self.asked.is_none_or(|asked| asked.elapsed() >= BETWEEN);
        if !is_due {
            return Ok(false);
        }
        self.asked = Some(Instant::now());
        Ok(self.consult()? && self.ready()?)
    }

    /// Maps the segment anew if the file that has its name shows something else than its map does; everything before
    /// `limit` was shown. Returns whether the new map shows anything else.
    pub(super) fn map_anew(&mut self) -> Result<bool> {
        if matches!(self.source, Source::Handle { .. }) || self.segment.shows_its_file(self.mapping.map())? {
            return Ok(false);
        }
        let shown = |part: &MappedPart<'_>| (part.published(), part.durable());
        let before = shown(&self.part());
        // If it is gone, or another one, the manifest says how the log goes on.
        let Some((segment, mapping)) = self.source.segment(self.segment.ordinal(), self.segment.base_seq())? else {
            return Ok(false);
        };
        if segment.salt() != self.segment.salt() {
            return Ok(false);
        }
        (self.segment, self.mapping) = (segment, mapping);
        let now = shown(&self.part());
        self.forward = Forward::within(self.forward.at, self.forward.expected);
        (self.limit, self.present) = (self.forward.at, self.forward.at);
        (self.ended, self.refuted, self.cut_known) = (false, None, false);
        Ok(now != before)
    }
}
