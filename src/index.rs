//! Where records stand: one offset for every so many of a segment, put down as they are appended, or learnt as the segment
//! is first walked.
//!
//! Of records that are all of one size, any one's place follows from two that are known. That they are must have been seen,
//! of every one of them: a place that is guessed may lie in a payload, where whoever chose that can have put a frame that
//! verifies. So each mark says whether its records are alike, and says so only while that is known.

use crate::format::ALIGN;
use crate::format::frame::HEADER;
use crate::format::segment::{FRAMES_AT, MAX_CAPACITY};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Records for each entry, as long as there is memory.
const STRIDE: u64 = 64;
/// Entries of a sheet at most: enough for every 64th record of 384 MiB, however small they are.
const SHEET_LEN: usize = 1 << 18;

/// In a mark: the records from there on, up to the next mark or as far as there are any, occupy as many bytes each.
const ALIKE: u32 = 1 << 31;
const _: () = assert!((MAX_CAPACITY - 1) / ALIGN < ALIKE as usize);

/// The mark of a record at `offset`, of which nothing follows yet that could be of another size.
fn mark_at(offset: usize) -> u32 {
    // Capacities are bounded so that an offset divided by 8 leaves the uppermost bit free.
    (offset / ALIGN) as u32 | ALIKE
}

fn offset_of(mark: u32) -> usize {
    (mark & !ALIKE) as usize * ALIGN
}

/// Which mark is the last at or before the record `rank`; a stride is a power of two, by which a shift divides.
fn position(rank: u64, stride: u64) -> usize {
    (rank >> stride.trailing_zeros()) as usize
}

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
    /// Of the records `0`, `stride`, `2 * stride`, ... of those that are published.
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
            // Whoever looks for the record has seen that it is published, and so sees this.
            mark.store(mark_at(offset), Ordering::Relaxed);
        }
    }

    /// Puts down that not all records from the last mark at or before `rank` on are of one size; before the first that is
    /// of another is published.
    pub(crate) fn differ(&self, rank: u64) {
        if let Some(mark) = self.marks.get((rank / self.stride) as usize) {
            // There is one writer. Whoever is shown the record that is of another size sees this; to whoever is not, the
            // mark is true as it was.
            mark.store(mark.load(Ordering::Relaxed) & !ALIKE, Ordering::Relaxed);
        }
    }

    /// The stretch of the record `rank`, one of those before `end`, which are published.
    #[inline]
    fn stretch(&self, rank: u64, end: Place) -> Option<Stretch> {
        let position = position(rank, self.stride);
        let mark = |position: usize| self.marks.get(position).map(|mark| mark.load(Ordering::Relaxed));
        let first = mark(position)?;
        let (rank, next) = (position as u64 * self.stride, (position as u64 + 1) * self.stride);
        // What is put down of records that are not shown yet is no concern of whoever is not shown them.
        let behind = if next < end.rank { Place { offset: offset_of(mark(position + 1)?), rank: next } } else { end };
        Some(Stretch::new(first, rank, behind))
    }

    fn bytes(&self) -> usize {
        self.marks.len() * size_of::<u32>()
    }
}

/// The records from one mark to the next, or to the last that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    first: Place,
    alike: bool,
    behind: Place,
}

impl Stretch {
    fn new(mark: u32, rank: u64, behind: Place) -> Self {
        Self { first: Place { offset: offset_of(mark), rank }, alike: mark & ALIKE != 0, behind }
    }

    /// Without a mark.
    fn unknown(behind: Place) -> Self {
        Self { first: Place::FIRST, alike: false, behind }
    }

    /// The bytes of each of its records, if they are alike.
    #[inline]
    fn size(&self) -> Option<usize> {
        self.alike.then(|| self.mean_size())
    }

    /// Whether its records are alike, and one of `size` bytes is not like them.
    fn excludes(&self, size: usize) -> bool {
        let (bytes, records) = self.extent();
        self.alike && records * size != bytes
    }

    /// The bytes of its records, in the mean.
    #[inline]
    pub(crate) fn mean_size(&self) -> usize {
        let (bytes, records) = self.extent();
        if records.is_power_of_two() {
            // A division would be waited for before anything can be fetched, and most stretches are complete.
            bytes >> records.trailing_zeros()
        } else {
            bytes.checked_div(records).unwrap_or(0)
        }
    }

    /// Its bytes, and how many records that is.
    #[inline]
    fn extent(&self) -> (usize, usize) {
        let bytes = self.behind.offset.saturating_sub(self.first.offset);
        (bytes, self.behind.rank.saturating_sub(self.first.rank) as usize)
    }

    /// The place of its first record.
    pub(crate) fn first(&self) -> Place {
        self.first
    }

    /// Where the record `rank`, one of its own, stands, if that can be told without a walk.
    #[inline]
    pub(crate) fn told(&self, rank: u64) -> Option<usize> {
        if rank == self.first.rank {
            return Some(self.first.offset);
        }
        self.size().map(|size| self.first.offset + (rank - self.first.rank) as usize * size)
    }

    /// About where the record `rank`, one of its own, ends.
    pub(crate) fn about_behind(&self, rank: u64) -> usize {
        let bytes = (rank - self.first.rank + 2) as usize * self.mean_size();
        (self.first.offset + bytes).min(self.behind.offset)
    }
}

/// The index of one segment: four bytes for every 64 records; fewer when memory is short.
#[derive(Debug)]
pub(crate) struct SparseIndex {
    /// Of the records `0`, `stride`, `2 * stride`, ...
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

    /// The stretch of the record `rank` as by [`SparseIndex::stretch`], if the index knows it.
    #[inline]
    pub(crate) fn known_stretch(&self, rank: u64, end: Place) -> Option<Stretch> {
        self.knows(rank).then(|| self.stretch(rank, end))
    }

    /// Where the walk of this segment goes on.
    pub(crate) fn next(&self) -> Place {
        self.next
    }

    /// Takes note of the record at [`SparseIndex::next`], which verifies and occupies `size` bytes.
    pub(crate) fn learn(&mut self, size: usize) {
        // Once one had no room, those behind it would not stand where they are looked for.
        if self.is_due() && self.has_room() && self.is_due() {
            self.marks.push(mark_at(self.next.offset));
        } else if self.last_stretch().excludes(size)
            && let Some(mark) = self.marks.last_mut()
        {
            *mark &= !ALIKE;
        }
        self.next = self.next.behind(size);
    }

    /// What was learnt behind the last mark, to which at least one record belongs.
    fn last_stretch(&self) -> Stretch {
        self.stretch_at(self.marks.len().saturating_sub(1))
    }

    /// The stretch that begins at the mark `position`; what lies behind the last one is all of that one's.
    fn stretch_at(&self, position: usize) -> Stretch {
        let Some(mark) = self.marks.get(position) else { return Stretch::unknown(self.next) };
        let behind = match self.marks.get(position + 1) {
            Some(next) => Place { offset: offset_of(*next), rank: (position as u64 + 1) * self.stride },
            None => self.next,
        };
        Stretch::new(*mark, position as u64 * self.stride, behind)
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
            self.thin_out();
            return true;
        }
        false
    }

    /// Keeps every second mark; one is due now, so all stretches are complete.
    fn thin_out(&mut self) {
        for position in 0..self.marks.len().div_ceil(2) {
            let (kept, left) = (2 * position, 2 * position + 1);
            let agree = left == self.marks.len() || self.stretch_at(kept).size() == self.stretch_at(left).size();
            // What is written was read before, or is not read again.
            self.marks[position] = if agree { self.marks[kept] } else { self.marks[kept] & !ALIKE };
        }
        self.marks.truncate(self.marks.len().div_ceil(2));
        self.stride *= 2;
    }

    /// The stretch of the record `rank`, which the index [knows](SparseIndex::knows); of the segment, what stands before
    /// `end` is shown, and that record too.
    #[inline]
    pub(crate) fn stretch(&self, rank: u64, end: Place) -> Stretch {
        match &self.sheet {
            Some(sheet) => sheet.stretch(rank, end).unwrap_or_else(|| Stretch::unknown(end)),
            // What lies behind the last mark is walked to from there.
            None => self.stretch_at(position(rank, self.stride).min(self.marks.len().saturating_sub(1))),
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
    //! Which places are told: all that can be, and none that is not known. Not proved here: that what stands at a place is
    //! verified before it is shown.
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Where records of these sizes stand, and what is behind them.
    fn places(sizes: &[usize]) -> Vec<Place> {
        let mut places = vec![Place::FIRST];
        places.extend(sizes.iter().scan(Place::FIRST, |place, size| {
            *place = place.behind(*size);
            Some(*place)
        }));
        places
    }

    /// What stands in front of `rank`, as it is told, is in front of it and no further than `near`, as `places` has it.
    fn is_true(index: &SparseIndex, places: &[Place], rank: usize, end: Place, near: u64) {
        let rank = rank as u64;
        let stretch = index.stretch(rank, end);
        let (first, told) = (stretch.first(), stretch.told(rank));
        assert_eq!(first, places[first.rank as usize], "for {rank}");
        assert!(first.rank <= rank && rank - first.rank < near, "{first:?} for {rank}");
        assert!(told.is_none_or(|offset| offset == places[rank as usize].offset), "{told:?} for {rank}");
    }

    /// Learns records of these sizes, and finds every one of them from a place not far before it.
    fn learnt(index: &mut SparseIndex, sizes: &[usize], near: u64) {
        sizes.iter().for_each(|size| index.learn(*size));
        let places = places(sizes);
        let end = places[sizes.len()];
        assert_eq!(index.next(), end);
        (0..sizes.len()).for_each(|rank| is_true(index, &places, rank, end, near));
    }

    /// How many of the records of these sizes have their own place told.
    fn told(index: &SparseIndex, count: u64) -> u64 {
        let end = index.next();
        (0..count).filter(|rank| index.stretch(*rank, end).told(*rank).is_some()).count() as u64
    }

    /// Sizes of which no two that follow each other are the same, and every two come to as much.
    fn in_turns(count: usize) -> Vec<usize> {
        (0..count).map(|rank| if rank % 2 == 0 { 24 } else { 40 }).collect()
    }

    /// A sheet for `count` records of up to 64 bytes, in its index.
    fn laid_out(count: usize) -> (SparseIndex, Arc<Sheet>) {
        let mut index = SparseIndex::default();
        index.draw_on(&Budget::new(1 << 20));
        index.lay_out(FRAMES_AT + count * 64);
        let sheet = index.sheet().expect("memory");
        (index, sheet)
    }

    /// Puts down what a writer does of records of these sizes.
    fn put_down(sheet: &Sheet, sizes: &[usize]) {
        let (places, mut alike) = (places(sizes), None);
        for (place, size) in places.iter().zip(sizes) {
            if place.rank.is_multiple_of(STRIDE) {
                sheet.put(place.rank, place.offset);
                alike = Some(size);
            } else if alike != Some(size) {
                sheet.differ(place.rank);
            }
        }
    }

    #[test]
    fn a_record_among_records_of_other_sizes_is_found_from_the_mark_before_it() {
        let mut index = SparseIndex::default();
        learnt(&mut index, &in_turns(1000), 64);
        let place = |rank: u64| Place { offset: FRAMES_AT + rank as usize * 32, rank };
        let end = index.next();
        assert_eq!(index.stretch(63, end).first(), Place::FIRST);
        assert_eq!(index.stretch(130, end).first(), place(128));
        // Only those that have a mark; the sum of all sizes says nothing of each.
        assert_eq!(told(&index, 1000), 1000_u64.div_ceil(64));
    }

    #[test]
    fn a_record_among_records_of_its_size_has_its_place_told() {
        let mut index = SparseIndex::default();
        learnt(&mut index, &[32; 1000], 64);
        assert_eq!(told(&index, 1000), 1000);
        assert_eq!(index.stretch(130, index.next()).first(), Place { offset: FRAMES_AT + 128 * 32, rank: 128 });
    }

    #[test]
    fn one_record_of_another_size_hides_the_places_of_its_stretch_alone() {
        for odd in 64..128 {
            let mut sizes = [32; 192];
            sizes[odd] = 40;
            let mut index = SparseIndex::default();
            learnt(&mut index, &sizes, 64);
            assert_eq!(told(&index, 192), 128 + 1, "{odd}");
            let (mut index, sheet) = laid_out(192);
            put_down(&sheet, &sizes);
            let end = places(&sizes)[192];
            index.settle(end);
            assert_eq!(told(&index, 192), 128 + 1, "{odd}");
        }
    }

    #[test]
    fn marks_that_are_thinned_out_tell_places_only_where_both_stretches_are_alike() {
        // Room for four marks: when the fifth is due, every second one stays.
        let stretches = |sizes: &[&[usize]]| -> Vec<usize> {
            sizes.iter().flat_map(|sizes| sizes.iter().copied().cycle().take(64)).collect()
        };
        for (first, second, alike) in [
            (&[32][..], &[32][..], true),
            (&[32], &[40], false),
            (&[24, 40], &[32], false),
            (&[32], &[24, 40], false),
            (&[24, 40], &[24, 40], false),
        ] {
            let sizes = stretches(&[first, second, &[32], &[32], &[32]]);
            let mut index = SparseIndex::default();
            index.draw_on(&Budget::new(4 * size_of::<u32>()));
            learnt(&mut index, &sizes, 128);
            assert_eq!((index.stride, index.marks.len()), (128, 3));
            assert_eq!(told(&index, 128) == 128, alike, "{first:?} {second:?}");
            assert!(index.stretch(130, index.next()).told(130).is_some());
        }
        // Again and again, and only the records behind the last mark are not alike.
        let mut index = SparseIndex::default();
        index.draw_on(&Budget::new(12 * size_of::<u32>()));
        let mut sizes = vec![32; 64 * 49];
        sizes[64 * 48 + 63] = 40;
        learnt(&mut index, &sizes, 4 * 2 * 64);
        assert_eq!(told(&index, 64 * 48), 64 * 48);
    }

    #[test]
    fn with_little_memory_marks_are_further_apart_and_none_is_lost() {
        let budget = Budget::new(64);
        let mut index = SparseIndex::default();
        index.draw_on(&budget);
        // Room for 16 marks, of which at least eight are kept whenever they are thinned out.
        learnt(&mut index, &in_turns(100_000), 100_000 / 7);
        assert!(index.marks.capacity() * 4 <= 64);
        let mut none = SparseIndex::default();
        none.draw_on(&Budget::new(0));
        learnt(&mut none, &[32; 100], 100);
        assert_eq!(none.marks.capacity(), 0);
    }

    #[test]
    fn a_record_that_was_put_down_is_found_before_and_after_the_sheet_is_given_up() {
        let budget = Budget::new(1 << 20);
        let mut index = SparseIndex::default();
        index.draw_on(&budget);
        index.lay_out(FRAMES_AT + 10_000 * 32);
        let sheet = index.sheet().expect("memory");
        let sizes = in_turns(1000);
        put_down(&sheet, &sizes);
        assert!(index.knows(999));
        let (places, near) = (places(&sizes), 64);
        let end = places[1000];
        (0..1000).for_each(|rank| is_true(&index, &places, rank, end, near));
        index.settle(end);
        (0..1000).for_each(|rank| is_true(&index, &places, rank, end, near));
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
            let place = Place { offset: MAX_CAPACITY - 8, rank: last };
            sheet.put(last, place.offset);
            let stretch = sheet.stretch(last, place.behind(8)).expect("room");
            assert_eq!(stretch.first(), place);
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
        learnt(&mut indexes[3], &in_turns(10_000), 64);
    }

    #[test]
    fn memory_is_given_back_and_taken_by_others() {
        let budget = Budget::new(1 << 10);
        for _ in 0..10 {
            let mut index = SparseIndex::default();
            index.draw_on(&budget);
            learnt(&mut index, &in_turns(10_000), 64);
        }
        assert_eq!(budget.left.load(Ordering::Relaxed), 1 << 10);
    }

    #[test]
    fn no_more_than_an_eighth_of_a_byte_is_taken_for_a_record() {
        let mut index = SparseIndex::default();
        learnt(&mut index, &[32; 100_000], 64);
        assert!(index.marks.capacity() * 4 * 8 <= 100_000 * 13 / 10, "{}", index.marks.capacity());
    }

    #[test]
    fn what_a_sheet_tells_holds_for_what_is_shown_whatever_follows() {
        let mut sizes = vec![32; 200];
        sizes[190] = 48;
        let places = places(&sizes);
        let (index, sheet) = laid_out(200);
        for count in 1..=200 {
            let told = |end: Place| {
                (0..end.rank as usize).for_each(|rank| is_true(&index, &places, rank, end, 64));
                (0..end.rank).filter(|rank| index.stretch(*rank, end).told(*rank).is_some()).count()
            };
            put_down(&sheet, &sizes[..count]);
            // All of what is shown now, as long as it is alike; and no less of what was shown before.
            assert_eq!(told(places[count]), if count <= 190 { count } else { 128 + 1 + count.saturating_sub(192) });
            assert_eq!(told(places[count.min(100)]), count.min(100));
        }
    }

    proptest! {
        #[test]
        fn every_place_that_is_told_is_true(
            runs in vec((1..200_usize, 3..6_usize, any::<bool>()), 1..40),
            memory in 0..200_usize,
        ) {
            let of_run = |(count, words, turns): (usize, usize, bool)| {
                (0..count).map(move |rank| (words + if turns { rank % 2 } else { 0 }) * ALIGN)
            };
            let sizes: Vec<usize> = runs.into_iter().flat_map(of_run).collect();
            let places = places(&sizes);
            let mut walked = SparseIndex::default();
            walked.draw_on(&Budget::new(memory));
            let (mut put, sheet) = laid_out(sizes.len());
            put_down(&sheet, &sizes);
            for (rank, size) in sizes.iter().enumerate() {
                walked.learn(*size);
                is_true(&walked, &places, rank, places[rank + 1], u64::MAX);
                is_true(&put, &places, rank, places[rank + 1], 64);
            }
            let end = places[sizes.len()];
            put.settle(end);
            for rank in 0..sizes.len() {
                is_true(&walked, &places, rank, end, u64::MAX);
                is_true(&put, &places, rank, end, 64);
            }
            // All that can be told is: that of each record whose stretch is of one size.
            let alike = sizes.chunks(64).filter(|sizes| sizes.iter().all(|size| *size == sizes[0]));
            let (alike, marks) = (alike.map(<[usize]>::len).sum::<usize>(), sizes.len().div_ceil(64));
            prop_assert!(told(&put, sizes.len() as u64) as usize >= alike.max(marks));
        }
    }
}
