//! What a view of a log is made of, and how one walks through it: every checksum is verified before anything is shown,
//! though not anew by a replay of what a replay has come through before.

mod back;
mod find;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::segment::FRAMES_AT;
use crate::index::Place;
use crate::map::prefetch;
use crate::scan::AHEAD;
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

/// A record that is shown, and its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) place: Located,
    pub(crate) payload: &'a [u8],
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

    /// Refuses a forked child, before any lock is taken.
    ///
    /// # Errors
    /// `Forked`.
    #[inline]
    pub(crate) fn check_owner(&self) -> Result<()> {
        self.segments[0].owner().check()
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

/// The error for a record that is not there, or not whole.
#[cold]
pub(crate) fn damaged(segment: &Segment, end: End, offset: usize, expected_seq: u64) -> Error {
    segment.damage(offset, expected_seq, end.offset, "the record there does not verify")
}

/// The header of the frame at `at` of `segment`, if it is the record `seq` and whole.
pub(crate) fn verify(segment: &Segment, end: End, at: usize, seq: u64) -> Result<Header> {
    verify_in(segment, segment.frames(end)?, end, at, seq, &mut 0)
}

/// The same in `frames`, those of `segment` up to `end`. Up to `present` they were brought in: so that is asked once for
/// many frames that are verified one after the other.
// On the way from one record to the next, everything is inlined: to hand headers on through memory takes longer than to
// read them, a third of all instructions.
#[inline(always)]
fn verify_in(segment: &Segment, frames: &[u8], end: End, at: usize, seq: u64, present: &mut usize) -> Result<Header> {
    touch();
    let bytes = frames.get(at - FRAMES_AT..).filter(|bytes| bytes.len() >= HEADER);
    let bytes = bytes.ok_or_else(|| damaged(segment, end, at, seq))?;
    if at + HEADER > *present {
        *present = segment.bring_in(at, at + HEADER)?;
    }
    let header = record(bytes, seq).ok_or_else(|| damaged(segment, end, at, seq))?;
    if at + header.frame_size() > *present {
        *present = segment.bring_in(at, at + header.frame_size())?;
    }
    if frame::front_verifies(bytes, at, &header, segment.salt()) {
        Ok(header)
    } else {
        Err(damaged(segment, end, at, seq))
    }
}

/// The header that `bytes` begin with, if it is that of the record `seq` and its frame fits.
fn record(bytes: &[u8], seq: u64) -> Option<Header> {
    frame::front(bytes).filter(|header| header.seq == seq && header.frame_size() <= bytes.len())
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
fn ends<T>(step: &Option<Result<T>>) -> bool {
    match step {
        None => true,
        Some(Err(e)) => !matches!(e, Error::Gap { .. }),
        Some(Ok(_)) => false,
    }
}

/// While frames are passed that need not be verified, the beginning of the frame so many further on is brought into the
/// cache, if records are of one length: what stands between is not looked at.
const PASSED_AHEAD: usize = 16;
/// So many bytes of it.
const PASSED_LEN: usize = 128;

fn prefetch_passed(frames: &[u8], at: usize, size: usize) {
    let later = size.saturating_mul(PASSED_AHEAD).saturating_add(at - FRAMES_AT);
    prefetch(frames, later..later.saturating_add(size.min(PASSED_LEN)));
}

/// Where a replay stands in a view that it does not borrow.
#[derive(Clone)]
pub(crate) struct Cursor {
    pub(crate) index: usize,
    /// Where the next frame stands.
    pub(crate) at: usize,
    /// The number that it has.
    pub(crate) expected: u64,
    /// The end of the last batch that is known to be whole.
    verified: usize,
    /// Where this cursor began to verify.
    from: usize,
    /// Everything from `at` up to here was brought in.
    present: usize,
    finished: bool,
}

impl Cursor {
    pub(crate) fn behind(view: &View, after: u64) -> Result<Self> {
        view.check_owner()?;
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
        cursor.present = cursor.at;
        cursor.trust(view);
        Ok(cursor)
    }

    /// Does not verify again what is known to be whole.
    fn trust(&mut self, view: &View) {
        let end = view.end_of(self.index).offset;
        self.verified = view.segments[self.index].verified().min(end).max(self.at);
        self.from = self.verified;
    }

    /// At the front of segment `index`, which begins with the record `expected`.
    pub(crate) fn at_segment(index: usize, expected: u64) -> Self {
        let at = FRAMES_AT;
        Self { index, at, expected, verified: at, from: at, present: at, finished: false }
    }

    /// At `at`, where the record `expected` will stand, in the one segment of a view.
    pub(crate) fn within(at: usize, expected: u64) -> Self {
        Self { at, verified: at, from: at, present: at, ..Self::at_segment(0, expected) }
    }

    #[inline(always)]
    pub(crate) fn advance<'a>(&mut self, view: &'a View) -> Option<Result<Found<'a>>> {
        if self.finished {
            return None;
        }
        let step = match view.check_owner() {
            Ok(()) => self.step(view),
            Err(e) => Some(Err(e)),
        };
        self.finished = ends(&step);
        step
    }

    #[inline(always)]
    fn step<'a>(&mut self, view: &'a View) -> Option<Result<Found<'a>>> {
        let mut end = view.end_of(self.index);
        while self.at == end.offset {
            if let Some(gap) = self.enter_next(view)? {
                return Some(Err(gap));
            }
            end = view.end_of(self.index);
        }
        Some(self.read_up_to(view, end, true))
    }

    /// Goes on in the next segment; `None` if there is none, the error if records are missing before it or in this one.
    #[cold]
    fn enter_next(&mut self, view: &View) -> Option<Option<Error>> {
        let (segment, end) = (&*view.segments[self.index], view.end_of(self.index));
        if self.expected < segment.base_seq() + end.count {
            // What was verified has changed since: the frame that ends here is not that of the last record.
            return Some(Some(damaged(segment, end, self.at, self.expected)));
        }
        segment.note_verified(self.from, self.verified);
        let index = self.index + 1;
        let next = view.segments[..view.shown].get(index)?;
        let (from, to) = (self.expected, next.base_seq() - 1);
        *self = Self::at_segment(index, next.base_seq());
        self.trust(view);
        Some((from <= to).then_some(Error::Gap { from, to }))
    }

    /// The next frame, which ends at or before `limit`, an end of a batch in a segment that goes on.
    pub(crate) fn read_below<'a>(&mut self, view: &'a View, limit: usize) -> Result<Found<'a>> {
        self.read_up_to(view, End { offset: limit, count: 0 }, false)
    }

    /// The next frame before `end`, at which the segment ends if it is `whole`.
    #[inline(always)]
    fn read_up_to<'a>(&mut self, view: &'a View, end: End, whole: bool) -> Result<Found<'a>> {
        let (segment, at) = (&*view.segments[self.index], self.at);
        let frames = segment.frames(end)?;
        let header = if at == self.verified {
            self.verify_batch(segment, frames, end, whole)?
        } else {
            // A frame that reaches beyond what was verified has changed since, and behind it is no place of a frame.
            let to = self.verified.min(end.offset);
            let bytes = frames.get(at - FRAMES_AT..to - FRAMES_AT).unwrap_or_default();
            let header = record(bytes, self.expected).ok_or_else(|| damaged(segment, end, at, self.expected))?;
            prefetch_passed(frames, at, header.frame_size());
            header
        };
        self.at += header.frame_size();
        self.expected += 1;
        let place = Located { index: self.index, at, header };
        Ok(Found { place, payload: frame::payload(frames, at, &header) })
    }

    /// Verifies frames up to the next end of a batch, and returns the first: of one that is damaged nothing is shown.
    #[inline(always)]
    fn verify_batch(&mut self, segment: &Segment, frames: &[u8], end: End, whole: bool) -> Result<Header> {
        let (mut at, mut seq) = (self.at, self.expected);
        let first = verify_in(segment, frames, end, at, seq, &mut self.present)?;
        let mut last = first;
        loop {
            let size = last.frame_size();
            (at, seq) = (at + size, seq + 1);
            let ahead = at - FRAMES_AT + AHEAD;
            prefetch(frames, ahead..ahead + size.min(AHEAD));
            if last.commit {
                break;
            }
            last = verify_in(segment, frames, end, at, seq, &mut self.present)?;
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

    /// Headers that are verified by a replay of all that `snapshot` shows.
    fn verified(snapshot: &Snapshot) -> u64 {
        touched(|| {
            let mut expected = 0_u64;
            for record in snapshot.replay(0).expect("a replay") {
                let record = record.expect("a record");
                expected += 1;
                assert_eq!((record.seq(), record.payload()), (expected, &expected.to_le_bytes()[..]));
            }
            assert_eq!(expected, snapshot.last_seq());
        })
    }

    #[test]
    fn what_a_replay_has_come_through_no_later_one_verifies_anew() {
        let (dir, wal) = log(1 << 20, false);
        let before = wal.snapshot();
        // One that is given up says nothing of the segment that it was in.
        let some = touched(|| assert_eq!(before.replay(0).expect("a replay").take(100).count(), 100));
        assert!((100..120).contains(&some), "{some}");
        assert_eq!(verified(&before), before.last_seq());
        assert_eq!(verified(&before), 0);
        let batch: Vec<_> = (1..=3).map(|more| (before.last_seq() + more).to_le_bytes()).collect();
        drop(wal.submit_batch(&batch).expect("a batch"));
        let after = wal.snapshot();
        assert_eq!((verified(&before), verified(&after), verified(&after)), (0, 3, 0));
        // Another handle has verified nothing.
        let other = Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a snapshot");
        assert!(verified(&other) >= after.last_seq());
        assert_eq!(verified(&other), 0);
    }

    #[test]
    fn a_replay_from_the_middle_says_nothing_of_what_is_in_front() {
        let (_dir, wal) = log(1 << 20, false);
        let snapshot = wal.snapshot();
        let middle = snapshot.view().segments[1].base_seq() + 100;
        assert!(snapshot.replay(middle).expect("a replay").all(|record| record.is_ok()));
        let verified = verified(&snapshot);
        assert_eq!(verified, snapshot.view().segments[2].base_seq() - 1);
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
