//! What a view of a log is made of, and how one walks through it: every checksum is verified before anything is shown,
//! though not anew by a replay of what a replay has come through before.

mod back;
mod find;
mod forward;
mod held;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::manifest::{Entry, Role};
use crate::format::segment::FRAMES_AT;
use crate::index::Place;
use crate::manifest::ManifestFile;
use crate::segment::{End, MappedPart, Mapping, Segment};
use crate::view::held::Held;

pub(crate) use crate::view::back::Backward;
pub(crate) use crate::view::find::{find, find_at_once};
pub(crate) use crate::view::forward::Forward;
pub(crate) use crate::view::held::MapWindow;

/// What is shown of a log.
pub(crate) struct View {
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    /// How many of the segments are shown, and how far the last of them.
    pub(crate) shown: usize,
    pub(crate) end: End,
    pub(crate) first_seq: u64,
    pub(crate) checkpoint_seq: u64,
    /// The maps that were made for this view, for as long as it lives.
    held: Held,
    /// Says to the handle that there is a view.
    _viewer: Arc<()>,
}

/// Which frame of a view.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    pub(crate) index: usize,
    pub(crate) at: usize,
    pub(crate) header: Header,
}

/// A record that is shown, its bytes, and the map that they are in.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) place: Located,
    pub(crate) payload: &'a [u8],
    pub(crate) mapping: &'a Arc<Mapping>,
}

impl<'a> Found<'a> {
    /// The record at `place`, which was verified, of `part`.
    #[inline]
    pub(crate) fn of(part: &MappedPart<'a>, place: Located) -> Self {
        let payload = frame::payload(part.frames, place.at, &place.header);
        Self { place, payload, mapping: part.mapping }
    }
}

impl View {
    /// The first `shown` of `segments`, at least one, and the last of them up to `end`.
    pub(crate) fn new(
        segments: Arc<Vec<Arc<Segment>>>,
        shown: usize,
        end: End,
        first_seq: u64,
        checkpoint_seq: u64,
    ) -> Self {
        let _viewer = segments[shown - 1].maps().viewer();
        Self { segments, shown, end, first_seq, checkpoint_seq, held: Held::default(), _viewer }
    }

    /// The map of segment `index`, which from now on is there for as long as the view.
    ///
    /// # Errors
    /// `Truncated` or `TruncatedBack` if the file went with its records before it was mapped; as [`Segment::mapping`].
    #[inline]
    pub(crate) fn mapping(&self, index: usize) -> Result<&Arc<Mapping>> {
        match self.held.get(index, self.shown) {
            Some(mapping) => Ok(mapping),
            None => self.map_now(index),
        }
    }

    #[cold]
    fn map_now(&self, index: usize) -> Result<&Arc<Mapping>> {
        let mapping = self.segments[index].mapping_for_views().map_err(|e| self.gone(index, e))?;
        Ok(self.held.put(index, self.shown, mapping))
    }

    /// Segment `index` as far as it is shown, through a map that is there for as long as the view.
    ///
    /// # Errors
    /// As [`View::mapping`].
    #[inline]
    pub(crate) fn part(&self, index: usize) -> Result<MappedPart<'_>> {
        Ok(MappedPart::new(&self.segments[index], self.mapping(index)?, self.end_of(index)))
    }

    /// Refuses a forked child, before any lock is taken.
    ///
    /// # Errors
    /// `Forked`.
    #[inline]
    pub(crate) fn check_owner(&self) -> Result<()> {
        self.segments[0].owner().check()
    }

    fn gone(&self, index: usize, e: Error) -> Error {
        gone(&self.segments[index], self.end_of(index), e)
    }

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
    pub(crate) fn segment_before(&self, seq: u64) -> usize {
        let shown = &self.segments[..self.shown];
        shown.partition_point(|segment| segment.base_seq() <= seq).saturating_sub(1)
    }
}

/// The error for `segment`, shown up to `end`, that could not be mapped for `e`: if the log has given up its records since
/// the manifest was read that named it, then that.
#[cold]
pub(crate) fn gone(segment: &Segment, end: End, e: Error) -> Error {
    let is_absent = matches!(&e, Error::MissingSegment(missing) if missing.found_len.is_none());
    if !is_absent {
        return e;
    }
    // What cannot be read says nothing of the segment.
    let Ok(Some(manifest)) = ManifestFile::peek(segment.storage()) else { return e };
    let is_this = |entry: &Entry| (entry.ordinal, entry.salt) == (segment.ordinal(), segment.salt());
    if manifest.entries.iter().any(is_this) || manifest.header.log_id != segment.log_id() {
        return e;
    }
    let first_seq = manifest.header.first_seq;
    if segment.base_seq() + end.count <= first_seq {
        return Error::Truncated { first_seq };
    }
    // A segment that was made later begins where this one did, or before: the log was cut back there.
    let later = manifest.entries.iter().filter(|entry| entry.role() != Some(Role::Spare));
    let later = later.filter(|entry| entry.ordinal > segment.ordinal() && entry.base_seq <= segment.base_seq());
    match later.map(|entry| entry.base_seq).min() {
        Some(base_seq) => Error::TruncatedBack { last_seq: base_seq - 1 },
        None => e,
    }
}

/// The header of the frame at `place`, which was whole when the index learnt of what is behind it.
fn passed(part: &MappedPart<'_>, place: Place) -> Result<Header> {
    touch();
    let seq = part.segment.base_seq() + place.rank;
    part.bring_in(place.offset, (place.offset + HEADER).min(part.end.offset))?;
    let header = frame::peek(part.frames, place.offset).filter(|header| header.seq == seq);
    header.ok_or_else(|| damaged(part, place.offset, seq))
}

/// What is wrong with a record that is not there, or not whole.
const DAMAGED: &str = "the record there does not verify";

/// The error for a record that is not there, or not whole.
#[cold]
pub(crate) fn damaged(part: &MappedPart<'_>, offset: usize, expected_seq: u64) -> Error {
    part.segment.damage(offset, expected_seq, part.end.offset, DAMAGED)
}

/// The header of the frame at `at`, if it is the record `seq` and whole.
pub(crate) fn verify(part: &MappedPart<'_>, at: usize, seq: u64) -> Result<Header> {
    verify_in(part, at, seq, &mut 0)
}

/// The same. Up to `present` the frames were brought in: so that is asked once for many that are verified one after the
/// other.
// On the way from one record to the next, everything is inlined: to hand headers on through memory takes longer than to
// read them, a third of all instructions.
#[inline(always)]
fn verify_in(part: &MappedPart<'_>, at: usize, seq: u64, present: &mut usize) -> Result<Header> {
    touch();
    let bytes = part.frames.get(at - FRAMES_AT..).filter(|bytes| bytes.len() >= HEADER);
    let bytes = bytes.ok_or_else(|| damaged(part, at, seq))?;
    if at + HEADER > *present {
        *present = part.bring_in(at, at + HEADER)?;
    }
    let header = record(bytes, seq).ok_or_else(|| damaged(part, at, seq))?;
    if at + header.frame_size() > *present {
        *present = part.bring_in(at, at + header.frame_size())?;
    }
    if frame::front_verifies(bytes, at, &header, part.segment.salt()) {
        Ok(header)
    } else {
        Err(damaged(part, at, seq))
    }
}

/// The header that `bytes` begin with, if it is that of the record `seq` and its frame fits.
fn record(bytes: &[u8], seq: u64) -> Option<Header> {
    frame::front(bytes).filter(|header| header.seq == seq && header.frame_size() <= bytes.len())
}

/// Refuses a batch that ends at `at`, before the record `seq`, if the segment does not end there and should, or does and
/// should not: it was not sealed by this manifest.
fn check_end(part: &MappedPart<'_>, at: usize, seq: u64) -> Result<()> {
    let behind = part.segment.base_seq() + part.end.count;
    let fits = if at == part.end.offset { seq == behind } else { seq < behind };
    if fits {
        Ok(())
    } else {
        Err(part.segment.damage(at, seq, part.end.offset, "the segment does not end as the manifest says"))
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
