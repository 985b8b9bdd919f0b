//! What a view of a log is made of, and how one walks through it: every checksum is verified before anything is shown.

mod back;
mod find;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::segment::FRAMES_AT;
use crate::index::Place;
use crate::segment::{End, Segment};
use crate::storage::StoredFile;

pub(crate) use crate::view::back::BackCursor;

/// What is shown of a log.
pub(crate) struct View {
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    /// How many of the segments are shown, and how far the last of them.
    pub(crate) shown: usize,
    pub(crate) end: End,
    pub(crate) first_seq: u64,
    pub(crate) checkpoint_seq: u64,
    /// Held for as long as any view lives, so that no file is used again under it.
    pub(crate) _readers: Arc<StoredFile>,
}

/// Which frame of a view.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    pub(crate) index: usize,
    pub(crate) at: usize,
    pub(crate) header: Header,
}

impl View {
    /// The last seq that is shown.
    pub(crate) fn last_seq(&self) -> u64 {
        self.segments[self.shown - 1].base_seq() + self.end.count - 1
    }

    /// How far segment `index` is shown.
    pub(crate) fn end_of(&self, index: usize) -> End {
        if index + 1 == self.shown { self.end } else { self.segments[index].end() }
    }

    /// The segment that holds `seq`.
    pub(crate) fn segment_of(&self, seq: u64) -> Option<usize> {
        let shown = &self.segments[..self.shown];
        let index = shown.partition_point(|segment| segment.base_seq() <= seq).checked_sub(1)?;
        (seq < shown[index].base_seq() + self.end_of(index).count).then_some(index)
    }

    /// The last segment that begins at or before `seq`.
    fn segment_before(&self, seq: u64) -> usize {
        let shown = &self.segments[..self.shown];
        shown.partition_point(|segment| segment.base_seq() <= seq).saturating_sub(1)
    }

    /// The payload of a frame that was verified.
    pub(crate) fn payload(&self, place: Located) -> Result<&[u8]> {
        let frames = self.segments[place.index].frames(self.end_of(place.index))?;
        Ok(frame::payload(frames, place.at, &place.header))
    }
}

/// The header of the frame at `place`, which was whole when the index learnt of what is behind it.
fn passed(segment: &Segment, end: End, place: Place) -> Result<Header> {
    touch();
    let seq = segment.base_seq() + place.rank;
    segment.bring_in(place.offset, (place.offset + HEADER).min(end.offset))?;
    let header = frame::peek(segment.frames(end)?, place.offset).filter(|header| header.seq == seq);
    header.ok_or_else(|| damaged(segment, end, place.offset, seq))
}

fn damaged(segment: &Segment, end: End, offset: usize, expected_seq: u64) -> Error {
    segment.damage(offset, expected_seq, end.offset, "the record there does not verify")
}

/// The header of the frame at `at` of `segment`, if it is the record `seq` and whole.
pub(crate) fn verify(segment: &Segment, end: End, at: usize, seq: u64) -> Result<Header> {
    touch();
    if at + HEADER > end.offset {
        return Err(damaged(segment, end, at, seq));
    }
    segment.bring_in(at, at + HEADER)?;
    let frames = segment.frames(end)?;
    let expected = frame::peek(frames, at).filter(|header| header.seq == seq);
    let header = expected.ok_or_else(|| damaged(segment, end, at, seq))?;
    segment.bring_in(at, at + header.frame_size())?;
    if frame::verifies(frames, at, &header, segment.salt()) { Ok(header) } else { Err(damaged(segment, end, at, seq)) }
}

/// Refuses a batch that ends at `at`, before the record `seq`, if the segment does not end there and should, or does and
/// should not: it was not sealed by this manifest.
fn check_end(segment: &Segment, end: End, at: usize, seq: u64) -> Result<()> {
    let behind = segment.base_seq() + end.count;
    let fits = if at == end.offset { seq == behind } else { seq < behind };
    if fits {
        Ok(())
    } else {
        Err(segment.damage(at, seq, end.offset, "the segment does not end as the manifest says"))
    }
}

/// Whether a replay ends with `step`: a gap is passed over, and any other error is the last thing that is shown.
fn ends(step: &Option<Result<Located>>) -> bool {
    match step {
        None => true,
        Some(Err(e)) => !matches!(e, Error::Gap { .. }),
        Some(Ok(_)) => false,
    }
}

/// Where a replay stands in a view that it does not borrow.
#[derive(Clone)]
pub(crate) struct Cursor {
    pub(crate) index: usize,
    /// Where the next frame stands.
    pub(crate) at: usize,
    /// The number that it has.
    pub(crate) expected: u64,
    /// The end of the last batch that was verified whole.
    verified: usize,
    finished: bool,
}

impl Cursor {
    pub(crate) fn behind(view: &View, after: u64) -> Result<Self> {
        let last_seq = view.last_seq();
        if after > last_seq {
            return Err(Error::Ahead { last_seq });
        }
        if after != 0 && after + 1 < view.first_seq {
            return Err(Error::Truncated { first_seq: view.first_seq });
        }
        let wanted = view.first_seq.max(after + 1);
        let mut cursor = Self::at_segment(view.segment_before(wanted), wanted);
        cursor.at = match view.segment_of(wanted) {
            Some(index) => view.locate(index, wanted)?,
            None => view.end_of(cursor.index).offset,
        };
        cursor.verified = cursor.at;
        Ok(cursor)
    }

    /// At the front of segment `index`, which begins with the record `expected`.
    pub(crate) fn at_segment(index: usize, expected: u64) -> Self {
        Self { index, at: FRAMES_AT, expected, verified: FRAMES_AT, finished: false }
    }

    pub(crate) fn advance(&mut self, view: &View) -> Option<Result<Located>> {
        if self.finished {
            return None;
        }
        let step = self.step(view);
        self.finished = ends(&step);
        step
    }

    fn step(&mut self, view: &View) -> Option<Result<Located>> {
        while self.at == view.end_of(self.index).offset {
            if let Some(gap) = self.enter_next(view)? {
                return Some(Err(gap));
            }
        }
        Some(self.read(view))
    }

    /// Goes on in the next segment; `None` if there is none, the error if records are missing before it.
    fn enter_next(&mut self, view: &View) -> Option<Option<Error>> {
        let index = self.index + 1;
        let next = view.segments[..view.shown].get(index)?;
        let (from, to) = (self.expected, next.base_seq() - 1);
        *self = Self::at_segment(index, next.base_seq());
        Some((from <= to).then_some(Error::Gap { from, to }))
    }

    fn read(&mut self, view: &View) -> Result<Located> {
        self.read_up_to(view, view.end_of(self.index), true)
    }

    /// The next frame, which ends at or before `limit`, an end of a batch in a segment that goes on.
    pub(crate) fn read_below(&mut self, view: &View, limit: usize) -> Result<Located> {
        self.read_up_to(view, End { offset: limit, count: 0 }, false)
    }

    /// The next frame before `end`, at which the segment ends if it is `whole`.
    fn read_up_to(&mut self, view: &View, end: End, whole: bool) -> Result<Located> {
        let segment = &view.segments[self.index];
        let (at, index) = (self.at, self.index);
        let header = if at == self.verified {
            self.verify_batch(segment, end, whole)?
        } else {
            frame::peek(segment.frames(end)?, at).ok_or_else(|| damaged(segment, end, at, self.expected))?
        };
        self.at += header.frame_size();
        self.expected += 1;
        Ok(Located { index, at, header })
    }

    /// Verifies frames up to the next end of a batch, and returns the first: of one that is damaged nothing is shown.
    fn verify_batch(&mut self, segment: &Segment, end: End, whole: bool) -> Result<Header> {
        let first = verify(segment, end, self.at, self.expected)?;
        let (mut at, mut seq) = (self.at + first.frame_size(), self.expected + 1);
        let mut last = first;
        while !last.commit {
            last = verify(segment, end, at, seq)?;
            (at, seq) = (at + last.frame_size(), seq + 1);
        }
        if whole {
            check_end(segment, end, at, seq)?;
        }
        self.verified = at;
        Ok(first)
    }
}

/// Counts a header that is looked at, for the tests of what a lookup costs.
#[cfg(test)]
fn touch() {
    tests::TOUCHED.set(tests::TOUCHED.get() + 1);
}

#[cfg(not(test))]
fn touch() {}

#[cfg(test)]
mod tests {
    //! How many headers are looked at for what is shown: counted, not timed.
    use std::cell::Cell;

    use crate::{Background, Options, Reader, Snapshot, SyncMode, Wal};

    thread_local!(pub(super) static TOUCHED: Cell<u64> = const { Cell::new(0) });

    /// Headers that are looked at by `what`.
    fn touched<T>(what: impl FnOnce() -> T) -> u64 {
        let before = TOUCHED.get();
        what();
        TOUCHED.get() - before
    }

    const COUNT: u64 = 30_000;

    fn open(dir: &tempfile::TempDir, index_memory: usize) -> Wal {
        let options = Options::new().segment_size(256 << 10).index_memory(index_memory);
        options.background(Background::Caller).sync_mode(SyncMode::None).open(dir.path()).expect("a log")
    }

    /// The payload of the record `seq`: eight bytes, and in `mixed` ones up to two words more.
    fn payload(seq: u64, mixed: bool) -> Vec<u8> {
        let more = if mixed { (seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % 17 } else { 0 };
        let mut payload = seq.to_le_bytes().to_vec();
        payload.resize(size_of::<u64>() + more, 0xa5);
        payload
    }

    /// A log of several segments, with batches here and there.
    fn log(index_memory: usize, mixed: bool) -> (tempfile::TempDir, Wal) {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = open(&dir, index_memory);
        while wal.positions().last < COUNT {
            let last = wal.positions().last;
            if last.is_multiple_of(7) {
                let batch: Vec<_> = (1..10).map(|more| payload(last + more, mixed)).collect();
                drop(wal.submit_batch(&batch).expect("a batch"));
            } else {
                wal.append(&payload(last + 1, mixed)).expect("an append");
            }
        }
        (dir, wal)
    }

    fn get(snapshot: &Snapshot, seq: u64) {
        let record = snapshot.get(seq).expect("no damage").expect("a record");
        assert_eq!((record.seq(), &record.payload()[..size_of::<u64>()]), (seq, &seq.to_le_bytes()[..]));
    }

    /// The most headers for one lookup of any record, the last ones first.
    fn most(snapshot: &Snapshot) -> u64 {
        let seqs = (snapshot.first_seq()..=snapshot.last_seq()).rev();
        seqs.map(|seq| touched(|| get(snapshot, seq))).max().unwrap_or(0)
    }

    #[test]
    fn a_record_that_this_handle_appended_is_found_at_once_by_64_headers_at_most() {
        let (_dir, wal) = log(1 << 20, true);
        assert_eq!(most(&wal.snapshot()), 64);
        assert!(touched(|| wal.snapshot().replay(COUNT - 1).is_ok()) <= 64);
    }

    #[test]
    fn a_record_among_others_of_its_size_is_found_by_its_own_header() {
        let (dir, wal) = log(1 << 20, false);
        assert_eq!(most(&wal.snapshot()), 1);
        assert_eq!(touched(|| wal.snapshot().replay(COUNT - 1).is_ok()), 1);
        drop(wal);
        let snapshot = Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot");
        assert!(touched(|| most(&snapshot)) > snapshot.last_seq());
        assert_eq!(most(&snapshot), 1);
    }

    #[test]
    fn a_record_of_an_earlier_handle_is_found_by_64_headers_once_its_segment_was_walked_through() {
        let (dir, wal) = log(1 << 20, true);
        drop(wal);
        let wal = open(&dir, 1 << 20);
        let reader = Reader::open(dir.path()).expect("a reader");
        for snapshot in [wal.snapshot(), reader.snapshot().expect("a snapshot")] {
            let last = snapshot.last_seq();
            // All first lookups together come by each record once.
            assert!(touched(|| most(&snapshot)) > last);
            assert_eq!(most(&snapshot), 64);
        }
    }

    #[test]
    fn with_less_memory_a_lookup_comes_by_more_headers_and_finds_the_same() {
        // Sixteen marks for each of a handful of segments: eight of them at least are used.
        let (_dir, wal) = log(512, true);
        let snapshot = wal.snapshot();
        most(&snapshot);
        let most = most(&snapshot);
        assert!(most > 64 && most < COUNT, "{most}");
        let (_dir, wal) = log(0, true);
        get(&wal.snapshot(), 1);
        get(&wal.snapshot(), COUNT / 2);
    }

    #[test]
    fn a_replay_backwards_comes_by_each_header_a_few_times() {
        for (memory, times) in [(1 << 20, 4), (512, 6), (0, 6)] {
            let (_dir, wal) = log(memory, memory != 0);
            let snapshot = wal.snapshot();
            let mut expected = snapshot.last_seq();
            let touched = touched(|| {
                for record in snapshot.replay_back(u64::MAX).expect("a replay") {
                    assert_eq!(record.expect("a record").seq(), expected);
                    expected -= 1;
                }
            });
            assert_eq!(expected, 0);
            assert!(touched <= times * snapshot.last_seq(), "{touched} for {memory}");
        }
    }
}
