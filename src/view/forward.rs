//! The way through a view in order: every batch is verified before its first record is shown, though not anew by a replay
//! of what one has come through before.

use super::find::locate;
use super::held::MapWindow;
use super::{DAMAGED, Found, Located, View, check_end, damaged, ends, record, verify_in};
use crate::error::{Error, Result};
use crate::format::frame::Header;
use crate::format::segment::FRAMES_AT;
use crate::map::prefetch;
use crate::scan::AHEAD;
use crate::segment::MappedPart;

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
pub(crate) struct Forward {
    pub(crate) index: usize,
    /// Where the next frame stands.
    pub(crate) at: usize,
    /// The number that it has.
    pub(crate) expected: u64,
    /// The end of the last batch that is known to be whole.
    verified: usize,
    /// Where this replay began to verify.
    from: usize,
    /// Everything from `at` up to here was brought in.
    present: usize,
    finished: bool,
}

impl Forward {
    /// Behind the record `after`; `locate` says where the record with a number stands in the segment with an index.
    pub(crate) fn behind(view: &View, after: u64, locate: impl FnOnce(usize, u64) -> Result<usize>) -> Result<Self> {
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
            Some(index) => locate(index, wanted)?,
            None => view.end_of(cursor.index).offset,
        };
        cursor.present = cursor.at;
        cursor.trust(view);
        Ok(cursor)
    }

    /// Behind the record `after`, through maps that the view keeps.
    pub(crate) fn pinning(view: &View, after: u64) -> Result<Self> {
        Self::behind(view, after, |index, seq| locate(&view.part(index)?, seq))
    }

    /// Behind the record `after`, through `window`.
    pub(crate) fn through(view: &View, window: &mut MapWindow, after: u64) -> Result<Self> {
        Self::behind(view, after, |index, seq| locate(&window.part(view, index)?, seq))
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

    /// At `at`, where the record `expected` will stand, in the one segment of a tail.
    pub(crate) fn within(at: usize, expected: u64) -> Self {
        Self { at, verified: at, from: at, present: at, ..Self::at_segment(0, expected) }
    }

    /// The next record of `view`; the map that it is read through comes from `part`, in which the last one is kept.
    #[inline(always)]
    pub(crate) fn advance<'a>(
        &mut self,
        view: &'a View,
        part: &mut Option<MappedPart<'a>>,
    ) -> Option<Result<Found<'a>>> {
        if self.finished {
            return None;
        }
        let step = match (view.check_owner(), part) {
            (Err(e), _) => Some(Err(e)),
            (Ok(()), Some(part)) if self.at < part.end.offset => Some(self.read(part, true)),
            (Ok(()), part) => self.step(view, part),
        };
        self.finished = ends(&step);
        step
    }

    /// The first record of the next segment, or the first of all.
    #[cold]
    fn step<'a>(&mut self, view: &'a View, part: &mut Option<MappedPart<'a>>) -> Option<Result<Found<'a>>> {
        *part = None;
        if let Some(gap) = self.enter(view)? {
            return Some(Err(gap));
        }
        match view.part(self.index) {
            Ok(now) => Some(self.read(part.insert(now), true)),
            Err(e) => Some(Err(e)),
        }
    }

    /// The next record of `view`, read through `window`.
    #[inline]
    pub(crate) fn advance_in<'a>(&mut self, view: &'a View, window: &'a mut MapWindow) -> Option<Result<Found<'a>>> {
        if self.finished {
            return None;
        }
        if let Err(e) = view.check_owner() {
            self.finished = true;
            return Some(Err(e));
        }
        let step = match self.enter(view) {
            None => None,
            Some(Some(gap)) => Some(Err(gap)),
            Some(None) => Some(window.part(view, self.index).and_then(|part| self.read(&part, true))),
        };
        self.finished = ends(&step);
        step
    }

    /// Goes on in the segment of the next record; `None` if there is none, the error if records are missing before it.
    #[inline]
    fn enter(&mut self, view: &View) -> Option<Option<Error>> {
        while self.at == view.end_of(self.index).offset {
            if let Some(gap) = self.enter_next(view)? {
                return Some(Some(gap));
            }
        }
        Some(None)
    }

    /// Goes on in the next segment; `None` if there is none, the error if records are missing before it or in this one.
    #[cold]
    fn enter_next(&mut self, view: &View) -> Option<Option<Error>> {
        let (segment, end) = (&*view.segments[self.index], view.end_of(self.index));
        if self.expected < segment.base_seq() + end.count {
            // What was verified has changed since: the frame that ends here is not that of the last record.
            return Some(Some(segment.damage(self.at, self.expected, end.offset, DAMAGED)));
        }
        segment.note_verified(self.from, self.verified);
        let index = self.index + 1;
        let next = view.segments[..view.shown].get(index)?;
        let (from, to) = (self.expected, next.base_seq() - 1);
        *self = Self::at_segment(index, next.base_seq());
        self.trust(view);
        Some((from <= to).then_some(Error::Gap { from, to }))
    }

    /// The next frame of `part`, which ends at or before an end of a batch in a segment that goes on.
    #[inline]
    pub(crate) fn read_part<'a>(&mut self, part: &MappedPart<'a>) -> Result<Found<'a>> {
        self.read(part, false)
    }

    /// The next frame of `part`, with which the segment ends if it is `whole`.
    #[inline(always)]
    fn read<'a>(&mut self, part: &MappedPart<'a>, whole: bool) -> Result<Found<'a>> {
        let (at, frames) = (self.at, part.frames);
        let header = if at == self.verified {
            self.verify_batch(part, whole)?
        } else {
            // A frame that reaches beyond what was verified has changed since, and behind it is no place of a frame.
            let to = self.verified.min(part.end.offset);
            let bytes = frames.get(at - FRAMES_AT..to - FRAMES_AT).unwrap_or_default();
            let header = record(bytes, self.expected).ok_or_else(|| damaged(part, at, self.expected))?;
            prefetch_passed(frames, at, header.frame_size());
            header
        };
        self.at += header.frame_size();
        self.expected += 1;
        Ok(Found::of(part, Located { index: self.index, at, header }))
    }

    /// Verifies frames up to the next end of a batch, and returns the first: of one that is damaged nothing is shown.
    #[inline(always)]
    fn verify_batch(&mut self, part: &MappedPart<'_>, whole: bool) -> Result<Header> {
        let (mut at, mut seq) = (self.at, self.expected);
        let first = verify_in(part, at, seq, &mut self.present)?;
        let mut last = first;
        loop {
            let size = last.frame_size();
            (at, seq) = (at + size, seq + 1);
            let ahead = at - FRAMES_AT + AHEAD;
            prefetch(part.frames, ahead..ahead + size.min(AHEAD));
            if last.commit {
                break;
            }
            last = verify_in(part, at, seq, &mut self.present)?;
        }
        if whole {
            check_end(part, at, seq)?;
        }
        self.verified = at;
        Ok(first)
    }
}
