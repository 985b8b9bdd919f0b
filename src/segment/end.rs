//! Where the frames of a segment end, for its writer and in the file.

use crate::format::ALIGN;
use crate::index::Place;

/// How far a segment reaches: where its frames end, and how many records that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) offset: usize,
    pub(crate) count: u64,
}

impl End {
    /// Both in one word, so that they are read together; capacities are bounded so that each half fits.
    pub(super) fn pack(self) -> u64 {
        ((self.offset / ALIGN) as u64) << 32 | self.count
    }

    /// Where the next record would stand.
    pub(crate) fn place(self) -> Place {
        Place { offset: self.offset, rank: self.count }
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self { offset: (word >> 32) as usize * ALIGN, count: word & u64::from(u32::MAX) }
    }
}
