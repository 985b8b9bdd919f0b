//! Walking through a view from behind. A frame is found only from one in front of it: so each step back goes to a mark of
//! the index, and walks forward from there.

use crate::error::{Error, Result};
use crate::format::ALIGN;
use crate::format::frame;
use crate::index::{Budget, Place, SparseIndex};
use crate::segment::MappedPart;
use crate::view::find::known_stretch;
use crate::view::{Found, Located, View, check_end, damaged, ends, passed, verify};

/// Records that are walked through at once, at most, by the marks that all share: where these are further apart, for want
/// of memory, a walk makes marks of its own.
const LONGEST: u64 = 1024;
/// Bytes for those.
const OWN_MEMORY: usize = 64 << 10;

/// Where a replay that goes backwards stands in a view that it does not borrow.
pub(crate) struct Backward {
    /// The segment that it stands in.
    index: usize,
    /// What comes next is in front of this record.
    below: u64,
    /// The records from here up to `below` stand in whole batches that verify.
    whole_from: u64,
    /// Offsets, divided by 8, of records that were walked through; the last one is the one in front of `below`.
    block: Vec<u32>,
    /// Marks of its own, of the segment with this index.
    own: Option<(usize, SparseIndex)>,
    finished: bool,
}

impl Backward {
    /// In front of the record `before`; `u64::MAX` is behind the last one.
    pub(crate) fn before(view: &View, before: u64) -> Result<Self> {
        view.check_owner()?;
        let (first_seq, last_seq) = (view.first_seq, view.last_seq());
        let below = if before == u64::MAX { last_seq + 1 } else { before };
        if below > last_seq + 1 {
            return Err(Error::Ahead { last_seq });
        }
        if below > 1 && below < first_seq {
            return Err(Error::Truncated { first_seq });
        }
        let index = view.segment_before(below.saturating_sub(1));
        Ok(Self { index, below, whole_from: below, block: Vec::new(), own: None, finished: false })
    }

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

    fn step<'a>(&mut self, view: &'a View) -> Option<Result<Found<'a>>> {
        while self.below > view.first_seq {
            let (base_seq, end) = (view.segments[self.index].base_seq(), view.end_of(self.index));
            if self.below > base_seq + end.count {
                return Some(Err(self.pass_over(view, base_seq + end.count)));
            }
            if self.below > base_seq {
                return Some(self.read(view));
            }
            match self.index.checked_sub(1) {
                Some(index) => self.index = index,
                None => return Some(Err(self.pass_over(view, view.first_seq))),
            }
        }
        None
    }

    /// Goes on in front of `from`; the error says that there is nothing from there on.
    fn pass_over(&mut self, view: &View, from: u64) -> Error {
        let (from, to) = (from.max(view.first_seq), self.below - 1);
        (self.below, self.whole_from) = (from, from);
        self.block.clear();
        Error::Gap { from, to }
    }

    /// The record in front of `below`.
    fn read<'a>(&mut self, view: &'a View) -> Result<Found<'a>> {
        let part = view.part(self.index)?;
        if self.below == self.whole_from {
            self.verify_batches(&part)?;
        }
        if self.block.is_empty() {
            self.walk(&part, self.below, false)?;
        }
        let at = self.block.pop().unwrap_or_default() as usize * ALIGN;
        let header = frame::peek(part.frames, at).filter(|header| header.seq == self.below - 1);
        let header = header.ok_or_else(|| damaged(&part, at, self.below - 1))?;
        self.below -= 1;
        Ok(Found::of(&part, Located { index: self.index, at, header }))
    }

    /// Verifies the batch in front of `below`, and those in front of it that were met on the way.
    fn verify_batches(&mut self, part: &MappedPart<'_>) -> Result<()> {
        let (mut starts, mut behind) = self.walk(part, self.below, true)?;
        // `before` may lie inside a batch, of which the rest counts too.
        while !behind.commit {
            let header = verify(part, behind.at, behind.seq)?;
            behind = Behind { at: behind.at + header.frame_size(), seq: behind.seq + 1, commit: header.commit };
        }
        check_end(part, behind.at, behind.seq)?;
        let mut from = self.below - self.block.len() as u64;
        while starts.is_none() {
            (starts, _) = self.walk(part, from, true)?;
            from -= self.block.len() as u64;
            // What was walked through before comes first.
            self.block.clear();
        }
        self.whole_from = starts.unwrap_or(self.below);
        Ok(())
    }

    /// Walks, from the nearest mark, through the records in front of `to`, and keeps where they stand. Returns the first
    /// of them, and so the first batch that is known to begin, and where the walk ended.
    fn walk(&mut self, part: &MappedPart<'_>, to: u64, verifies: bool) -> Result<(Option<u64>, Behind)> {
        let base_seq = part.segment.base_seq();
        let mut place = self.mark(part, to - 1 - base_seq)?;
        let mut starts = (place.rank == 0).then_some(base_seq);
        let mut commit = true;
        self.block.clear();
        while base_seq + place.rank < to {
            let seq = base_seq + place.rank;
            let header = if verifies { verify(part, place.offset, seq)? } else { passed(part, place)? };
            // Capacities are bounded so that an offset divided by 8 fits.
            self.block.push((place.offset / ALIGN) as u32);
            commit = header.commit;
            if commit && seq + 1 < self.below {
                starts = starts.or(Some(seq + 1));
            }
            place = place.behind(header.frame_size());
        }
        Ok((starts, Behind { at: place.offset, seq: to, commit }))
    }

    /// A place not far in front of the `rank`th record of the segment.
    fn mark(&mut self, part: &MappedPart<'_>, rank: u64) -> Result<Place> {
        let segment = part.segment;
        if self.own.as_ref().is_none_or(|(index, _)| *index != self.index) {
            let shared = known_stretch(&mut segment.index(), part, rank)?.first();
            if rank - shared.rank < LONGEST {
                return Ok(shared);
            }
            let mut own = SparseIndex::default();
            own.draw_on(&Budget::new(OWN_MEMORY));
            self.own = Some((self.index, own));
        }
        match &mut self.own {
            Some((_, own)) => known_stretch(own, part, rank),
            None => known_stretch(&mut segment.index(), part, rank),
        }
        .map(|stretch| stretch.first())
    }
}

/// Where a walk ended, and whether a batch did.
#[derive(Clone, Copy)]
struct Behind {
    at: usize,
    seq: u64,
    commit: bool,
}
