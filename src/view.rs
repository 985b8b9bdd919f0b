//! What a view of a log is made of, and how one walks through it: every checksum is verified before anything is shown.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::segment::FRAMES_AT;
use crate::index::Place;
use crate::segment::{End, Segment};
use crate::storage::StoredFile;

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

    /// Where the record `seq` of segment `index` stands.
    pub(crate) fn locate(&self, index: usize, seq: u64) -> Result<usize> {
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

    /// The payload of a frame that was verified.
    pub(crate) fn payload(&self, place: Located) -> Result<&[u8]> {
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
        // A sealed segment that ends too early or too late was not sealed by this manifest.
        let behind = segment.base_seq() + end.count;
        let fits = if at == end.offset { seq == behind } else { seq < behind };
        if whole && !fits {
            return Err(segment.damage(at, seq, end.offset, "the segment does not end as the manifest says"));
        }
        self.verified = at;
        Ok(first)
    }
}
