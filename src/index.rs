//! Where records stand: one offset for every so many of a segment, learnt as the segment is first walked.

use crate::format::ALIGN;
use crate::format::segment::FRAMES_AT;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Records for each entry, as long as there is memory.
const STRIDE: u64 = 64;

/// Bytes that all indexes of a log may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    /// So many bytes.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    /// Takes `bytes`, if they are there.
    fn take(&self, bytes: usize) -> bool {
        let rest = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The index of one segment: four bytes for every 64 records; fewer when memory is short.
#[derive(Debug)]
pub(crate) struct SparseIndex {
    /// Offsets, divided by 8, of the records `0`, `stride`, `2 * stride`, ...
    marks: Vec<u32>,
    stride: u64,
    /// Where the walk goes on.
    next: Place,
    budget: Option<Arc<Budget>>,
}

/// A record's place: where its frame stands, and the how manieth record of its segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) rank: u64,
}

impl Default for SparseIndex {
    fn default() -> Self {
        Self { marks: Vec::new(), stride: STRIDE, next: Place { offset: FRAMES_AT, rank: 0 }, budget: None }
    }
}

impl SparseIndex {
    /// Takes its memory from `budget` from now on; only an index that has learnt nothing is asked to.
    pub(crate) fn draw_on(&mut self, budget: &Arc<Budget>) {
        if self.marks.is_empty() {
            self.budget = Some(Arc::clone(budget));
        }
    }

    /// Where the walk of this segment goes on.
    pub(crate) fn next(&self) -> Place {
        self.next
    }

    /// Takes note of the record at [`SparseIndex::next`], which verifies and occupies `size` bytes.
    pub(crate) fn learn(&mut self, size: usize) {
        // Once one had no room, those behind it would not stand where they are looked for.
        if self.is_due() && self.has_room() && self.is_due() {
            // Capacities are bounded so that an offset divided by 8 fits.
            self.marks.push((self.next.offset / ALIGN) as u32);
        }
        self.next = Place { offset: self.next.offset + size, rank: self.next.rank + 1 };
    }

    /// Whether the record at [`SparseIndex::next`] is one that has a mark.
    fn is_due(&self) -> bool {
        self.next.rank == self.marks.len() as u64 * self.stride
    }

    /// Whether one more mark fits, making room if need be by keeping every second one: then the next may be due later.
    fn has_room(&mut self) -> bool {
        if self.marks.len() < self.marks.capacity() {
            return true;
        }
        let more = self.marks.len().max(4);
        if self.budget.as_ref().is_none_or(|budget| budget.take(more * size_of::<u32>())) {
            self.marks.reserve_exact(more);
            return true;
        }
        if self.marks.len() >= 2 {
            let mut position = 0_usize;
            self.marks.retain(|_| {
                position += 1;
                position % 2 == 1
            });
            self.stride *= 2;
            return true;
        }
        false
    }

    /// The nearest known place at or before the record `rank`, which lies before [`SparseIndex::next`].
    pub(crate) fn at_or_before(&self, rank: u64) -> Place {
        // What lies behind the last mark is walked to from there.
        let mark = ((rank / self.stride) as usize).min(self.marks.len().saturating_sub(1));
        match self.marks.get(mark) {
            Some(offset) => Place { offset: *offset as usize * ALIGN, rank: mark as u64 * self.stride },
            None => Place { offset: FRAMES_AT, rank: 0 },
        }
    }
}

impl Drop for SparseIndex {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.marks.capacity() * size_of::<u32>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learns `count` records of 32 bytes, and finds every one of them from a place not far before it.
    fn learnt(index: &mut SparseIndex, count: u64, near: u64) {
        for _ in 0..count {
            index.learn(32);
        }
        assert_eq!(index.next(), Place { offset: FRAMES_AT + count as usize * 32, rank: count });
        for rank in 0..count {
            let place = index.at_or_before(rank);
            assert_eq!(place.offset, FRAMES_AT + place.rank as usize * 32);
            assert!(place.rank <= rank && rank - place.rank < near, "{place:?} for {rank}");
        }
    }

    #[test]
    fn a_record_is_found_from_the_mark_before_it() {
        let mut index = SparseIndex::default();
        learnt(&mut index, 1000, 64);
        assert_eq!(index.at_or_before(63), Place { offset: FRAMES_AT, rank: 0 });
        assert_eq!(index.at_or_before(130), Place { offset: FRAMES_AT + 128 * 32, rank: 128 });
    }

    #[test]
    fn with_little_memory_marks_are_further_apart_and_none_is_lost() {
        let budget = Budget::new(64);
        let mut index = SparseIndex::default();
        index.draw_on(&budget);
        // Room for 16 marks, of which at least eight are kept whenever they are thinned out.
        learnt(&mut index, 100_000, 100_000 / 7);
        assert!(index.marks.capacity() * 4 <= 64);
        let mut none = SparseIndex::default();
        none.draw_on(&Budget::new(0));
        learnt(&mut none, 100, 100);
        assert_eq!(none.marks.capacity(), 0);
    }

    #[test]
    fn memory_is_given_back_and_taken_by_others() {
        let budget = Budget::new(1 << 10);
        for _ in 0..10 {
            let mut index = SparseIndex::default();
            index.draw_on(&budget);
            learnt(&mut index, 10_000, 64);
        }
        assert_eq!(budget.left.load(Ordering::Relaxed), 1 << 10);
    }

    #[test]
    fn no_more_than_an_eighth_of_a_byte_is_taken_for_a_record() {
        let mut index = SparseIndex::default();
        learnt(&mut index, 100_000, 64);
        assert!(index.marks.capacity() * 4 * 8 <= 100_000 * 13 / 10, "{}", index.marks.capacity());
    }
}
