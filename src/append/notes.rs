//! What the writer notes, as it appends, of where records are.

use crate::index::Sheet;
use crate::segment::Segment;
use crate::sync::Arc;

/// What the writer puts down of where records stand: two comparisons for each, a store or two for every so many.
pub(super) struct Notes {
    sheet: Option<Arc<Sheet>>,
    base_seq: u64,
    /// The next record whose place is put down.
    due: u64,
    /// Bytes of each record since the last one whose place was put down; `DIFFERENT` once they are not of one size.
    alike: usize,
}

/// The size of no record.
const DIFFERENT: usize = 0;

impl Notes {
    /// Of `segment`, which has no records if it has a sheet.
    pub(super) fn of(segment: &Segment) -> Self {
        let (sheet, base_seq) = (segment.index().sheet(), segment.base_seq());
        let due = if sheet.is_some() { base_seq } else { u64::MAX };
        Self { sheet, base_seq, due, alike: DIFFERENT }
    }

    /// The record `seq` stands at `offset` and occupies `size` bytes; it is published only after this.
    #[inline]
    pub(super) fn take(&mut self, seq: u64, offset: usize, size: usize) {
        if seq == self.due {
            self.put_down(offset);
            self.alike = size;
        } else if size != self.alike && self.alike != DIFFERENT {
            self.put_down_difference(seq);
        }
    }

    fn put_down(&mut self, offset: usize) {
        if let Some(sheet) = &self.sheet {
            sheet.put(self.due - self.base_seq, offset);
            self.due += sheet.stride();
        }
    }

    fn put_down_difference(&mut self, seq: u64) {
        self.alike = DIFFERENT;
        if let Some(sheet) = &self.sheet {
            sheet.differ(seq - self.base_seq);
        }
    }
}
