//! Views of a log: what was there at one moment, without a copy, for as long as anybody looks.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::segment::FRAMES_AT;
use crate::index::Place;
use crate::segment::{End, Segment};
use crate::storage::StoredFile;

/// An immutable view of a log.
///
/// It pins what it shows: records stay where they are, unchanged, while the log goes on, is truncated or closed.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
}

/// What a snapshot is made of.
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

/// One record, in the memory of its segment.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    seq: u64,
    tag: u16,
    payload: &'a [u8],
    view: &'a Arc<View>,
    place: Located,
}

/// Which frame of a view.
#[derive(Clone, Copy)]
struct Located {
    index: usize,
    at: usize,
    header: Header,
}

impl Snapshot {
    /// Wraps a view.
    pub(crate) fn new(view: View) -> Self {
        Self { view: Arc::new(view) }
    }

    /// The first record's sequence number; one more than [`Snapshot::last_seq`] if there is none.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.view.first_seq
    }

    /// The last record's sequence number; 0 if the log never had one.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.view.last_seq()
    }

    /// The checkpoint; 0 if there is none.
    #[must_use]
    pub fn checkpoint_seq(&self) -> u64 {
        self.view.checkpoint_seq
    }

    /// The records with a sequence number above `after`, in order; 0 starts at the front, wherever that is.
    ///
    /// Every checksum is verified before a record is shown, and of a batch that is damaged no record is.
    ///
    /// ```
    /// # fn main() -> Result<(), mmap_wal::Error> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let wal = mmap_wal::Wal::open(dir.path())?;
    /// wal.append(b"hello")?;
    /// for record in wal.snapshot().replay(0)? {
    ///     let record = record?;
    ///     assert_eq!((record.seq(), record.payload()), (1, &b"hello"[..]));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Truncated`] if records above `after` were truncated, [`Error::Ahead`] if `after` was never appended;
    /// [`Error::Corrupt`], [`Error::MissingSegment`] or [`Error::Io`] if the way there is damaged. The iterator yields
    /// [`Error::Gap`] where a repair left records out and goes on behind it; after any other error it is finished.
    pub fn replay(&self, after: u64) -> Result<Replay<'_>> {
        Ok(Replay { view: &self.view, cursor: Cursor::behind(&self.view, after)? })
    }

    /// As [`Snapshot::replay`], as an iterator that owns what it shows.
    ///
    /// # Errors
    /// As [`Snapshot::replay`].
    pub fn into_replay(self, after: u64) -> Result<IntoReplay> {
        let cursor = Cursor::behind(&self.view, after)?;
        Ok(IntoReplay { view: self.view, cursor })
    }

    /// The record `seq`; `None` if it is not in this view.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::MissingSegment`] or [`Error::Io`] if the way there is damaged.
    pub fn get(&self, seq: u64) -> Result<Option<Record<'_>>> {
        let view = &self.view;
        let Some(index) = view.segment_of(seq).filter(|_| seq >= view.first_seq) else { return Ok(None) };
        let at = view.locate(index, seq)?;
        let (segment, end) = (&view.segments[index], view.end_of(index));
        let header = verify(segment, end, at, seq)?;
        view.record(Located { index, at, header }).map(Some)
    }
}

impl Snapshot {
    /// Where the record `seq` ends, shown or truncated, and whether it ends a batch; `None` if it is not there.
    pub(crate) fn end_of(&self, seq: u64) -> Result<Option<(usize, bool)>> {
        let view = &self.view;
        let Some(index) = view.segment_of(seq) else { return Ok(None) };
        let at = view.locate(index, seq)?;
        let header = verify(&view.segments[index], view.end_of(index), at, seq)?;
        Ok(Some((at + header.frame_size(), header.commit)))
    }
}

impl View {
    fn last_seq(&self) -> u64 {
        self.segments[self.shown - 1].base_seq() + self.end.count - 1
    }

    /// How far segment `index` is shown.
    fn end_of(&self, index: usize) -> End {
        if index + 1 == self.shown { self.end } else { self.segments[index].end() }
    }

    /// The segment that holds `seq`.
    fn segment_of(&self, seq: u64) -> Option<usize> {
        let shown = &self.segments[..self.shown];
        let index = shown.partition_point(|segment| segment.base_seq() <= seq).checked_sub(1)?;
        (seq < shown[index].base_seq() + self.end_of(index).count).then_some(index)
    }

    /// The last segment that begins at or before `seq`.
    fn segment_before(&self, seq: u64) -> usize {
        let shown = &self.segments[..self.shown];
        shown.partition_point(|segment| segment.base_seq() <= seq).saturating_sub(1)
    }

    /// Where the record `seq` of segment `index` stands.
    fn locate(&self, index: usize, seq: u64) -> Result<usize> {
        let (segment, end) = (&self.segments[index], self.end_of(index));
        let rank = seq - segment.base_seq();
        let mut place = self.known_place(segment, end, rank)?;
        let frames = segment.frames(end)?;
        while place.rank < rank {
            // These frames were verified when the index learnt of them.
            let Some(header) = frame::peek(frames, place.offset) else {
                return Err(damaged(segment, end, place.offset, segment.base_seq() + place.rank));
            };
            place = Place { offset: place.offset + header.frame_size(), rank: place.rank + 1 };
        }
        Ok(place.offset)
    }

    /// A place at or before the `rank`th record of `segment`, walking on from what the index knows if need be.
    fn known_place(&self, segment: &Segment, end: End, rank: u64) -> Result<Place> {
        let mut index = segment.index();
        while index.next().rank <= rank {
            let Place { offset, rank } = index.next();
            let header = verify(segment, end, offset, segment.base_seq() + rank)?;
            index.learn(header.frame_size());
        }
        Ok(index.at_or_before(rank))
    }

    fn record<'a>(self: &'a Arc<Self>, place: Located) -> Result<Record<'a>> {
        let payload = self.payload(place)?;
        Ok(Record { seq: place.header.seq, tag: place.header.tag, payload, view: self, place })
    }

    fn payload(&self, place: Located) -> Result<&[u8]> {
        let frames = self.segments[place.index].frames(self.end_of(place.index))?;
        Ok(frame::payload(frames, place.at, &place.header))
    }
}

fn damaged(segment: &Segment, end: End, offset: usize, expected_seq: u64) -> Error {
    segment.damage(offset, expected_seq, end.offset, "the record there does not verify")
}

/// The header of the frame at `at` of `segment`, if it is the record `seq` and whole.
pub(crate) fn verify(segment: &Segment, end: End, at: usize, seq: u64) -> Result<Header> {
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

/// Where a replay stands in a view that it does not borrow.
struct Cursor {
    index: usize,
    at: usize,
    expected: u64,
    /// The end of the last batch that was verified whole.
    verified: usize,
    finished: bool,
}

impl Cursor {
    fn behind(view: &View, after: u64) -> Result<Self> {
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

    fn at_segment(index: usize, expected: u64) -> Self {
        Self { index, at: FRAMES_AT, expected, verified: FRAMES_AT, finished: false }
    }

    fn advance(&mut self, view: &View) -> Option<Result<Located>> {
        if self.finished {
            return None;
        }
        let step = self.step(view);
        match &step {
            None => self.finished = true,
            Some(Err(e)) => self.finished = !matches!(e, Error::Gap { .. }),
            Some(Ok(_)) => {}
        }
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
        let (segment, end) = (&view.segments[self.index], view.end_of(self.index));
        let (at, index) = (self.at, self.index);
        let header = if at == self.verified {
            self.verify_batch(segment, end)?
        } else {
            frame::peek(segment.frames(end)?, at).ok_or_else(|| damaged(segment, end, at, self.expected))?
        };
        self.at += header.frame_size();
        self.expected += 1;
        Ok(Located { index, at, header })
    }

    /// Verifies frames up to the next end of a batch, and returns the first: of one that is damaged nothing is shown.
    fn verify_batch(&mut self, segment: &Segment, end: End) -> Result<Header> {
        let first = verify(segment, end, self.at, self.expected)?;
        let (mut at, mut seq) = (self.at + first.frame_size(), self.expected + 1);
        let mut last = first;
        while !last.commit {
            last = verify(segment, end, at, seq)?;
            (at, seq) = (at + last.frame_size(), seq + 1);
        }
        // A sealed segment that ends too early or too late was not sealed by this manifest.
        if (at == end.offset) != (seq == segment.base_seq() + end.count) {
            return Err(segment.damage(at, seq, end.offset, "the segment does not end as the manifest says"));
        }
        self.verified = at;
        Ok(first)
    }
}

/// The records of a [`Snapshot`] in order.
pub struct Replay<'a> {
    view: &'a Arc<View>,
    cursor: Cursor,
}

impl<'a> Iterator for Replay<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let located = self.cursor.advance(self.view)?;
        Some(located.and_then(|place| self.view.record(place)))
    }
}

/// The records of a [`Snapshot`] in order, each of which owns what it shows.
pub struct IntoReplay {
    view: Arc<View>,
    cursor: Cursor,
}

impl Iterator for IntoReplay {
    type Item = Result<PinnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let located = self.cursor.advance(&self.view)?;
        Some(located.map(|place| PinnedRecord { view: Arc::clone(&self.view), place }))
    }
}

impl std::iter::FusedIterator for Replay<'_> {}
impl std::iter::FusedIterator for IntoReplay {}

impl<'a> Record<'a> {
    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The tag it was appended with.
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// Its bytes, in the memory of the segment.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The record as a value of its own, which keeps its segment in memory; nothing is copied.
    #[must_use]
    pub fn pin(&self) -> PinnedRecord {
        PinnedRecord { view: Arc::clone(self.view), place: self.place }
    }
}

impl std::fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("seq", &self.seq)
            .field("tag", &self.tag)
            .field("len", &self.payload.len())
            .finish()
    }
}

/// A record that keeps its segment in memory.
#[derive(Clone)]
pub struct PinnedRecord {
    view: Arc<View>,
    place: Located,
}

impl PinnedRecord {
    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.place.header.seq
    }

    /// The tag it was appended with.
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.place.header.tag
    }

    /// Its bytes, in the memory of the segment.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        // The map was there when the record was read, and stays for as long as the view.
        self.view.payload(self.place).unwrap_or_default()
    }
}

impl std::fmt::Debug for PinnedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedRecord").field("seq", &self.seq()).field("tag", &self.tag()).finish()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.first_seq(), self.last_seq());
        f.debug_struct("Snapshot").field("first_seq", &first).field("last_seq", &last).finish_non_exhaustive()
    }
}
