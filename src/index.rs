//! Where records stand: one offset for every so many of a segment, put down as they are appended, or learnt as the segment
//! is first walked.

use crate::format::ALIGN;
use crate::format::frame::HEADER;
use crate::format::segment::FRAMES_AT;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Records for each entry, as long as there is memory.
const STRIDE: u64 = 64;
/// Entries of a sheet at most: enough for every 64th record of 384 MiB, however small they are.
const SHEET_LEN: usize = 1 << 18;

/// Bytes that all indexes of a log may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
    /// What is left for the indexes of segments that are not appended to.
    reserve: usize,
}

impl Budget {
    /// So many bytes.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), reserve: bytes / 2 })
    }

    /// Takes `bytes`, if they are there and `reserve` are left then.
    fn take(&self, bytes: usize, reserve: usize) -> bool {
        let rest = |left: usize| left.checked_sub(bytes).filter(|left| *left >= reserve);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// On which a writer puts down where the records of its segment stand, without asking anybody: it has room for as many as
/// fit the segment, and is given up for an index of the size that is needed once the segment is sealed.
#[derive(Debug)]
pub(crate) struct Sheet {
    /// Offsets, divided by 8, of the records `0`, `stride`, `2 * stride`, ... of those that are published.
    marks: Box<[AtomicU32]>,
    stride: u64,
}

impl Sheet {
    fn new(capacity: usize) -> Self {
        let most = (capacity.saturating_sub(FRAMES_AT) / HEADER) as u64;
        let mut stride = STRIDE;
        while most.div_ceil(stride) > SHEET_LEN as u64 {
            stride *= 2;
        }
        Self { marks: (0..most.div_ceil(stride)).map(|_| AtomicU32::new(0)).collect(), stride }
    }

    /// Records from one mark to the next.
    pub(crate) fn stride(&self) -> u64 {
        self.stride
    }

    /// Puts down that the record `rank`, a multiple of the stride, stands at `offset`; before it is published.
    pub(crate) fn put(&self, rank: u64, offset: usize) {
        if let Some(mark) = self.marks.get((rank / self.stride) as usize) {
            // Whoever looks for the record has seen that it is published, and so sees this. Capacities are bounded so that
            // an offset divided by 8 fits.
            mark.store((offset / ALIGN) as u32, Ordering::Relaxed);
        }
    }

    fn at_or_before(&self, rank: u64) -> Place {
        let mark = (rank / self.stride) as usize;
        match self.marks.get(mark) {
            Some(offset) => {
                Place { offset: offset.load(Ordering::Relaxed) as usize * ALIGN, rank: mark as u64 * self.stride }
            }
            None => Place::FIRST,
        }
    }

    fn bytes(&self) -> usize {
        self.marks.len() * size_of::<u32>()
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
    /// Where all of this stands instead, while the segment is appended to.
    sheet: Option<Arc<Sheet>>,
}

/// A record's place: where its frame stands, and the how manieth record of its segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) rank: u64,
}

impl Place {
    const FIRST: Self = Self { offset: FRAMES_AT, rank: 0 };

    /// The place behind a frame of `size` bytes that stands here.
    pub(crate) fn behind(self, size: usize) -> Self {
        Self { offset: self.offset + size, rank: self.rank + 1 }
    }
}

impl Default for SparseIndex {
    fn default() -> Self {
        Self { marks: Vec::new(), stride: STRIDE, next: Place::FIRST, budget: None, sheet: None }
    }
}

impl SparseIndex {
    /// Takes its memory from `budget` from now on; only an index that has learnt nothing is asked to.
    pub(crate) fn draw_on(&mut self, budget: &Arc<Budget>) {
        if self.marks.is_empty() && self.sheet.is_none() {
            self.budget = Some(Arc::clone(budget));
        }
    }

    /// Has a sheet for a segment of `capacity` bytes that nothing was appended to yet, if there is memory for it.
    pub(crate) fn lay_out(&mut self, capacity: usize) {
        let sheet = Sheet::new(capacity);
        if self.budget.as_ref().is_some_and(|budget| budget.take(sheet.bytes(), budget.reserve)) {
            self.sheet = Some(Arc::new(sheet));
        }
    }

    /// What the writer puts down on, if there is memory for that.
    pub(crate) fn sheet(&self) -> Option<Arc<Sheet>> {
        self.sheet.clone()
    }

    /// The segment ends at `end`, and nothing more will be put down: gives back what was not needed for that.
    pub(crate) fn settle(&mut self, end: Place) {
        let Some(sheet) = self.sheet.take() else { return };
        let put_down = sheet.marks.iter().take(end.rank.div_ceil(sheet.stride) as usize);
        self.marks = put_down.map(|mark| mark.load(Ordering::Relaxed)).collect();
        (self.stride, self.next) = (sheet.stride, end);
        if let Some(budget) = &self.budget {
            budget.give_back(sheet.bytes() - self.bytes());
        }
    }

    fn bytes(&self) -> usize {
        self.marks.capacity() * size_of::<u32>()
    }

    /// Whether a place not far before the record `rank`, which is published, can be told.
    pub(crate) fn knows(&self, rank: u64) -> bool {
        self.sheet.is_some() || rank < self.next.rank
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
        self.next = self.next.behind(size);
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
        if self.budget.as_ref().is_none_or(|budget| budget.take(more * size_of::<u32>(), 0)) {
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

    /// The nearest known place at or before the record `rank`, which the index [knows](SparseIndex::knows).
    pub(crate) fn at_or_before(&self, rank: u64) -> Place {
        if let Some(sheet) = &self.sheet {
            return sheet.at_or_before(rank);
        }
        // What lies behind the last mark is walked to from there.
        let mark = ((rank / self.stride) as usize).min(self.marks.len().saturating_sub(1));
        match self.marks.get(mark) {
            Some(offset) => Place { offset: *offset as usize * ALIGN, rank: mark as u64 * self.stride },
            None => Place::FIRST,
        }
    }
}

impl Drop for SparseIndex {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.bytes() + self.sheet.as_ref().map_or(0, |sheet| sheet.bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::segment::MAX_CAPACITY;

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
    fn a_record_that_was_put_down_is_found_before_and_after_the_sheet_is_given_up() {
        let budget = Budget::new(1 << 20);
        let mut index = SparseIndex::default();
        index.draw_on(&budget);
        index.lay_out(FRAMES_AT + 10_000 * 32);
        let sheet = index.sheet().expect("memory");
        (0..1000).step_by(64).for_each(|rank| sheet.put(rank, FRAMES_AT + rank as usize * 32));
        assert!(index.knows(999));
        assert_eq!(index.at_or_before(130), Place { offset: FRAMES_AT + 128 * 32, rank: 128 });
        index.settle(Place { offset: FRAMES_AT + 1000 * 32, rank: 1000 });
        assert_eq!(index.at_or_before(130), Place { offset: FRAMES_AT + 128 * 32, rank: 128 });
        assert_eq!(index.at_or_before(999), Place { offset: FRAMES_AT + 960 * 32, rank: 960 });
        assert_eq!(budget.left.load(Ordering::Relaxed), (1 << 20) - 16 * 4);
        drop(index);
        assert_eq!(budget.left.load(Ordering::Relaxed), 1 << 20);
    }

    #[test]
    fn a_sheet_is_bounded_and_holds_the_smallest_records_of_any_segment() {
        for capacity in [12 << 10, 64 << 20, 384 << 20, 1 << 30, MAX_CAPACITY] {
            let sheet = Sheet::new(capacity);
            assert!(sheet.bytes() <= 1 << 20 && (capacity > 384 << 20 || sheet.stride == STRIDE), "{capacity}");
            let last = ((capacity - FRAMES_AT) / HEADER - 1) as u64 / sheet.stride * sheet.stride;
            sheet.put(last, MAX_CAPACITY - 8);
            assert_eq!(sheet.at_or_before(last), Place { offset: MAX_CAPACITY - 8, rank: last });
        }
    }

    #[test]
    fn sheets_leave_half_of_the_memory_to_what_is_looked_up() {
        let budget = Budget::new(4000);
        let mut indexes: Vec<SparseIndex> = (0..4).map(|_| SparseIndex::default()).collect();
        for index in &mut indexes {
            index.draw_on(&budget);
            index.lay_out(FRAMES_AT + 10_000 * 32);
        }
        assert_eq!(indexes.iter().filter(|index| index.sheet.is_some()).count(), 2);
        learnt(&mut indexes[3], 10_000, 64);
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
