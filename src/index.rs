//! Where records stand: one offset for every 64 of a segment, learnt as the segment is first walked.

use crate::format::ALIGN;
use crate::format::segment::FRAMES_AT;

/// Records for each entry.
const STRIDE: u64 = 64;

/// The index of one segment: four bytes for every 64 records.
#[derive(Debug)]
pub(crate) struct SparseIndex {
    /// Offsets, divided by 8, of the records `base`, `base + 64`, ...
    marks: Vec<u32>,
    /// Where the walk goes on.
    next: Place,
}

/// A record's place: where its frame stands, and the how manieth record of its segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) rank: u64,
}

impl Default for SparseIndex {
    fn default() -> Self {
        Self { marks: Vec::new(), next: Place { offset: FRAMES_AT, rank: 0 } }
    }
}

impl SparseIndex {
    /// Where the walk of this segment goes on.
    pub(crate) fn next(&self) -> Place {
        self.next
    }

    /// Takes note of the record at [`SparseIndex::next`], which verifies and occupies `size` bytes.
    pub(crate) fn learn(&mut self, size: usize) {
        if self.next.rank.is_multiple_of(STRIDE) {
            // Capacities are bounded so that an offset divided by 8 fits.
            self.marks.push((self.next.offset / ALIGN) as u32);
        }
        self.next = Place { offset: self.next.offset + size, rank: self.next.rank + 1 };
    }

    /// The nearest known place at or before the record `rank`, which lies before [`SparseIndex::next`].
    pub(crate) fn at_or_before(&self, rank: u64) -> Place {
        let mark = (rank / STRIDE) as usize;
        match self.marks.get(mark) {
            Some(offset) => Place { offset: *offset as usize * ALIGN, rank: mark as u64 * STRIDE },
            None => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_from_the_mark_before_it() {
        let mut index = SparseIndex::default();
        for _ in 0..200 {
            index.learn(32);
        }
        assert_eq!(index.at_or_before(0), Place { offset: FRAMES_AT, rank: 0 });
        assert_eq!(index.at_or_before(63), Place { offset: FRAMES_AT, rank: 0 });
        assert_eq!(index.at_or_before(130), Place { offset: FRAMES_AT + 128 * 32, rank: 128 });
        assert_eq!(index.next(), Place { offset: FRAMES_AT + 200 * 32, rank: 200 });
    }
}
