//! The records of a segment that still verify, whatever stands between them: a pure function of its bytes.

use crate::format::ALIGN;
use crate::format::frame::{self, HEADER, Header};
use crate::format::segment::FRAMES_AT;
use crate::scan::Verifier;

/// A place between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Where a frame would begin.
    pub(crate) offset: usize,
    /// The number that it would have.
    pub(crate) seq: u64,
}

/// Frames that verify, back to back, with consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) from: Mark,
    /// From here on batches are whole: what is before may be the tail of one whose start is lost.
    pub(crate) whole_from: Mark,
    /// The end of the last COMMIT.
    pub(crate) whole_to: Mark,
    pub(crate) to: Mark,
}

impl Stretch {
    /// Records in whole batches.
    pub(crate) fn whole(&self) -> u64 {
        self.whole_to.seq - self.whole_from.seq
    }
}

/// Which frames of a segment are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The least number. A stretch that begins with it at the start of the segment begins a batch.
    pub(crate) base_seq: u64,
    /// How many records more than fit the bytes before it a frame may be away from `base_seq`.
    pub(crate) ahead: u64,
    /// The largest number.
    pub(crate) last_seq: u64,
    /// Where frames end at the latest, as an offset in the file.
    pub(crate) to: usize,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// In the order of the file and of their numbers.
    pub(crate) stretches: Vec<Stretch>,
    /// Behind the last frame that verifies.
    pub(crate) end: Mark,
    /// The largest D that is claimed.
    pub(crate) claim: usize,
}

impl Found {
    /// What is found where nothing can be read.
    pub(crate) fn nothing(base_seq: u64) -> Self {
        Self { stretches: Vec::new(), end: Mark { offset: FRAMES_AT, seq: base_seq }, claim: FRAMES_AT }
    }

    /// The largest number that can stand below `offset`: each record behind the last that verifies took a header.
    pub(crate) fn reach(&self, offset: usize) -> u64 {
        let behind = offset.saturating_sub(self.end.offset) / HEADER;
        (self.end.seq - 1).saturating_add(behind as u64)
    }
}

/// Finds the frames of a segment; `frames` is the bytes from [`FRAMES_AT`] on, and at each of `boundaries`, offsets in
/// the file, a batch is known to begin.
///
/// Behind a damage a batch begins where somebody claims that everything before was durable, or behind the next COMMIT.
pub(crate) fn find(frames: &[u8], salt: u32, bounds: &Bounds, boundaries: &[usize]) -> Found {
    let mut finder = Finder {
        frames,
        verifier: Verifier::new(frames, salt, FRAMES_AT),
        bounds: *bounds,
        drafts: Vec::new(),
        found: Found::nothing(bounds.base_seq),
    };
    while let Some((at, header)) = finder.next_good() {
        finder.add(at, &header);
    }
    boundaries.iter().for_each(|offset| finder.begins_batch(*offset));
    let stretches = finder.drafts.iter().map(Draft::stretch).collect();
    Found { stretches, ..finder.found }
}

struct Finder<'a> {
    frames: &'a [u8],
    verifier: Verifier<'a>,
    bounds: Bounds,
    drafts: Vec<Draft>,
    found: Found,
}

/// A stretch that is still growing.
struct Draft {
    from: Mark,
    whole_from: Option<Mark>,
    whole_to: Option<Mark>,
    to: Mark,
}

impl Draft {
    fn stretch(&self) -> Stretch {
        let (whole_from, whole_to) = match (self.whole_from, self.whole_to) {
            (Some(from), Some(to)) => (from, to),
            _ => (self.from, self.from),
        };
        Stretch { from: self.from, whole_from, whole_to, to: self.to }
    }
}

impl Finder<'_> {
    /// The next frame that verifies and can be where it stands.
    fn next_good(&mut self) -> Option<(usize, Header)> {
        let end = self.bounds.to.min(FRAMES_AT + self.frames.len());
        for at in (self.found.end.offset..end).step_by(ALIGN) {
            let Some(header) = frame::peek(self.frames, at).filter(|header| self.is_possible(at, header)) else {
                continue;
            };
            if at + header.frame_size() <= end && self.verifier.verifies(at, &header) {
                return Some((at, header));
            }
        }
        None
    }

    fn is_possible(&self, at: usize, header: &Header) -> bool {
        let most = self.bounds.ahead.saturating_add(((at - FRAMES_AT) / HEADER) as u64);
        let records = header.seq.checked_sub(self.bounds.base_seq);
        header.seq >= self.found.end.seq
            && header.seq <= self.bounds.last_seq
            && records.is_some_and(|records| records <= most)
    }

    fn add(&mut self, at: usize, header: &Header) {
        let from = Mark { offset: at, seq: header.seq };
        let to = Mark { offset: at + header.frame_size(), seq: header.seq + 1 };
        let starts = from == Mark { offset: FRAMES_AT, seq: self.bounds.base_seq };
        if self.drafts.is_empty() || self.found.end != from {
            self.drafts.push(Draft { from, whole_from: starts.then_some(from), whole_to: None, to });
        }
        if let Some(draft) = self.drafts.last_mut() {
            draft.to = to;
            if header.commit {
                draft.whole_from = draft.whole_from.or(Some(to));
                draft.whole_to = Some(to);
            }
        }
        self.found.end = to;
        if let Some(durable) = header.claim(at) {
            self.found.claim = self.found.claim.max(durable);
            self.begins_batch(durable);
        }
    }

    /// What was durable at a time ends with a batch, so what stands at its end begins one.
    fn begins_batch(&mut self, offset: usize) {
        if let Ok(index) = self.drafts.binary_search_by_key(&offset, |draft| draft.from.offset) {
            let draft = &mut self.drafts[index];
            draft.whole_from = Some(draft.from);
        }
    }
}

#[cfg(test)]
mod tests {
    //! What is found among damaged bytes. Not proved here: what becomes of it.
    use super::*;
    use crate::format::PAGE;
    use crate::format::frame::{seal, size};
    use proptest::prelude::*;

    const SALT: u32 = 0x1122_3344;
    const BOUNDS: Bounds = Bounds { base_seq: 5, ahead: 0, last_seq: u64::MAX >> 1, to: usize::MAX };

    /// Frames of 16 bytes of payload, 40 in all, one for each pair of COMMIT and claim.
    fn frames(kinds: &[(bool, Option<usize>)]) -> Vec<u8> {
        let mut bytes = vec![0; PAGE];
        for (i, (commit, durable)) in kinds.iter().enumerate() {
            let header = Header::new(place(i), 16, 5 + i as u64, durable.map(place), *commit, 7);
            let (from, len) = (place(i) - FRAMES_AT, size(16).unwrap());
            seal(&mut bytes[from..from + len], &header, place(i), SALT);
        }
        bytes
    }

    fn place(i: usize) -> usize {
        FRAMES_AT + i * 40
    }

    fn mark(i: usize) -> Mark {
        Mark { offset: place(i), seq: 5 + i as u64 }
    }

    fn stretch(from: usize, whole_from: usize, whole_to: usize, to: usize) -> Stretch {
        Stretch { from: mark(from), whole_from: mark(whole_from), whole_to: mark(whole_to), to: mark(to) }
    }

    fn found(bytes: &[u8]) -> Vec<Stretch> {
        find(bytes, SALT, &BOUNDS, &[]).stretches
    }

    #[test]
    fn a_whole_segment_is_one_stretch() {
        let bytes = frames(&[(true, None); 10]);
        assert_eq!(found(&bytes), [stretch(0, 0, 10, 10)]);
        assert_eq!(find(&bytes, SALT, &BOUNDS, &[]).end, mark(10));
    }

    #[test]
    fn behind_a_damage_the_first_commit_may_end_a_batch_that_is_lost() {
        let mut bytes = frames(&[(true, None); 10]);
        bytes[place(4) - FRAMES_AT + 30] ^= 1;
        assert_eq!(found(&bytes), [stretch(0, 0, 4, 4), stretch(5, 6, 10, 10)]);
    }

    #[test]
    fn a_claim_at_a_record_says_that_it_begins_a_batch_also_a_later_one() {
        for claimer in [5, 8] {
            let mut kinds = [(true, None); 10];
            kinds[claimer].1 = Some(5);
            let mut bytes = frames(&kinds);
            bytes[place(4) - FRAMES_AT + 30] ^= 1;
            assert_eq!(found(&bytes), [stretch(0, 0, 4, 4), stretch(5, 5, 10, 10)], "{claimer}");
        }
        let mut bytes = frames(&[(true, None); 10]);
        bytes[place(4) - FRAMES_AT + 30] ^= 1;
        assert_eq!(find(&bytes, SALT, &BOUNDS, &[place(5)]).stretches[1], stretch(5, 5, 10, 10));
    }

    #[test]
    fn a_batch_that_is_damaged_is_not_whole_on_either_side() {
        let kinds = [true, true, false, false, false, true, true].map(|commit| (commit, None));
        let mut bytes = frames(&kinds);
        bytes[place(3) - FRAMES_AT] ^= 1;
        assert_eq!(found(&bytes), [stretch(0, 0, 2, 3), stretch(4, 6, 7, 7)]);
        let partial: u64 = found(&bytes).iter().map(|s| s.to.seq - s.from.seq - s.whole()).sum();
        assert_eq!(partial, 3);
    }

    #[test]
    fn numbers_that_cannot_be_there_are_not_found() {
        let bytes = frames(&[(true, None); 10]);
        let count = |bounds: Bounds| find(&bytes, SALT, &bounds, &[]).end.seq;
        assert_eq!(count(Bounds { last_seq: 8, ..BOUNDS }), 9);
        assert_eq!(count(Bounds { to: place(3), ..BOUNDS }), 8);
        assert_eq!(find(&bytes, SALT, &Bounds { base_seq: 1, ..BOUNDS }, &[]).stretches[0].from, mark(6));
        assert_eq!(find(&bytes, SALT, &Bounds { base_seq: 1, ahead: 9, ..BOUNDS }, &[]).stretches[0].from, mark(0));
        assert_eq!(find(&bytes, SALT, &Bounds { base_seq: 20, ..BOUNDS }, &[]).stretches, []);
    }

    #[test]
    fn the_reach_counts_headers_behind_the_last_record() {
        let found = find(&frames(&[(true, None); 10]), SALT, &BOUNDS, &[]);
        assert_eq!((found.reach(0), found.reach(place(10) + 23), found.reach(place(10) + 49)), (14, 14, 16));
    }

    proptest! {
        #[test]
        fn whatever_is_damaged_only_undamaged_frames_are_found_and_all_of_them(
            commits in prop::collection::vec(any::<bool>(), 1..90),
            from in 0..3600_usize, len in 1..400_usize, with: u8,
        ) {
            let kinds: Vec<_> = commits.iter().map(|commit| (*commit, None)).collect();
            let whole = frames(&kinds);
            let mut bytes = whole.clone();
            let to = (from + len).min(bytes.len());
            bytes[from..to].iter_mut().for_each(|byte| *byte ^= with | 1);
            let kept = (0..commits.len()).filter(|i| {
                let at = place(*i) - FRAMES_AT;
                bytes[at..at + 40] == whole[at..at + 40]
            });
            let expected: Vec<u64> = kept.map(|i| 5 + i as u64).collect();
            let stretches = found(&bytes);
            let seqs: Vec<u64> = stretches.iter().flat_map(|s| s.from.seq..s.to.seq).collect();
            prop_assert_eq!(seqs, expected);
            for s in &stretches {
                let is_start = |seq: u64| seq == 5 || commits[seq as usize - 6];
                prop_assert!(s.whole() == 0 || (is_start(s.whole_from.seq) && is_start(s.whole_to.seq)));
            }
        }

        #[test]
        fn no_bytes_make_the_search_panic(bytes: Vec<u8>, base_seq in 1..9_u64, ahead: u64, last_seq: u64, to: usize) {
            let last_seq = last_seq >> 1;
            for bounds in [Bounds { base_seq, ahead, last_seq, to }, Bounds { base_seq, ahead, last_seq, to: usize::MAX }] {
                find(&bytes, SALT, &bounds, &[to]);
            }
        }
    }
}
