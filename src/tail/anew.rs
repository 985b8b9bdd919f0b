//! Following a file that is not the one that was mapped any more. On an overlay file system, a writer makes the system copy
//! a file of the lower layer when it opens it; a map that was made before stays with the lower file, under the same inode
//! number, and shows nothing of what is appended.

use super::source::Source;
use super::{BETWEEN, Tail, alone};
use crate::error::Result;
use crate::sync::Instant;
use crate::view::Cursor;

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
        let segment = &self.view.segments[0];
        if matches!(self.source, Source::Handle { .. }) || segment.shows_its_file()? {
            return Ok(false);
        }
        let before = (segment.salt(), segment.published()?, segment.durable()?);
        // If it is gone, or another one, the manifest says how the log goes on.
        let Some(anew) = self.source.segment(segment.ordinal(), segment.base_seq())? else { return Ok(false) };
        let now = (anew.salt(), anew.published()?, anew.durable()?);
        if now.0 != before.0 {
            return Ok(false);
        }
        self.view = alone(&anew, &self.source);
        self.cursor = Cursor::within(self.cursor.at, self.cursor.expected);
        (self.limit, self.present) = (self.cursor.at, self.cursor.at);
        (self.ended, self.refuted, self.cut_known) = (false, None, false);
        Ok(now != before)
    }
}
