//! The walk: valid frames, one after the other.

use crate::format::ALIGN;
use crate::format::frame::{self, Header};
use crate::format::segment::FRAMES_AT;
use crate::map::prefetch;

/// How far ahead of a frame that is verified those behind it are brought into the cache, in bytes.
pub(crate) const AHEAD: usize = 2048;

/// A valid frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Where the next one would begin.
    pub(crate) end: usize,
    pub(crate) header: Header,
}

/// The valid frames of a segment from an offset on; none after the first invalid one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames<'a> {
    /// The bytes from `at` on, to where the last frame may end.
    rest: &'a [u8],
    salt: u32,
    at: usize,
    expected: u64,
}

impl<'a> Frames<'a> {
    /// The frames from `at` that end at or before `end`; the first has the number `expected`.
    ///
    /// `frames` is the bytes from [`FRAMES_AT`] on, at least those before `end`; `at` and `end` are offsets in the file.
    pub(crate) fn new(frames: &'a [u8], salt: u32, at: usize, end: usize, expected: u64) -> Self {
        let index = |offset: usize| offset.checked_sub(FRAMES_AT);
        let to = index(end).map(|end| end.min(frames.len()));
        let rest =
            index(at).filter(|index| index.is_multiple_of(ALIGN)).zip(to).and_then(|(at, to)| frames.get(at..to));
        Self::of_piece(rest.unwrap_or_default(), salt, at, expected)
    }

    /// The frames of `piece`, the bytes of the file from `at` on, a multiple of 8; the first has the number `expected`.
    pub(crate) fn of_piece(piece: &'a [u8], salt: u32, at: usize, expected: u64) -> Self {
        Self { rest: piece, salt, at, expected }
    }

    /// What no frame was found in.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Where the next frame begins, or would begin.
    #[cfg(test)]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The number that the next frame has, or would have.
    #[cfg(test)]
    pub(crate) fn expected(&self) -> u64 {
        self.expected
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let header = frame::front(self.rest)?;
        // The number after this one must exist, so no frame has the number `u64::MAX`.
        let expected = self.expected.checked_add(1)?;
        let behind = self.rest.get(header.frame_size()..)?;
        prefetch(self.rest, AHEAD..AHEAD + header.frame_size().min(AHEAD));
        if header.seq != self.expected || !frame::front_verifies(self.rest, self.at, &header, self.salt) {
            return None;
        }
        let end = self.at + header.frame_size();
        *self = Self { rest: behind, at: end, expected, ..*self };
        Some(Frame { end, header })
    }
}

/// Where the frames of an unsealed segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// X: the first offset without a valid frame.
    pub(crate) x: usize,
    /// The end of the last COMMIT frame before X.
    pub(crate) cut: usize,
    /// e: the seq expected at `cut`.
    pub(crate) next_seq: u64,
    /// Valid frames between `cut` and X.
    pub(crate) frames_behind_cut: u64,
}

impl Walk {
    /// Before the first frame of a segment whose first record is `base_seq`.
    pub(crate) fn front(base_seq: u64) -> Self {
        Self { x: FRAMES_AT, cut: FRAMES_AT, next_seq: base_seq, frames_behind_cut: 0 }
    }

    /// Goes on from `cut` in `frames`, the bytes from [`FRAMES_AT`] on, through the frames that end at or before `end`;
    /// those in front of `cut` are not looked at again.
    pub(crate) fn on(self, frames: &[u8], salt: u32, end: usize) -> Self {
        let mut walk = Self { x: self.cut, frames_behind_cut: 0, ..self };
        walk.pass_all(&mut Frames::new(frames, salt, self.cut, end, self.next_seq));
        walk
    }

    /// The seq expected at X.
    pub(crate) fn expected(&self) -> u64 {
        self.next_seq + self.frames_behind_cut
    }

    /// Passes through all of `frames`, of which the first stands at `x`.
    pub(super) fn pass_all(&mut self, frames: &mut Frames<'_>) {
        for frame in frames {
            self.pass(frame.end, &frame.header);
        }
    }

    /// Passes a frame that stands at `x` and ends at `end`.
    pub(crate) fn pass(&mut self, end: usize, header: &Header) {
        (self.x, self.frames_behind_cut) = (end, self.frames_behind_cut + 1);
        if header.commit {
            *self = Self { x: end, cut: end, next_seq: header.seq + 1, frames_behind_cut: 0 };
        }
    }
}

/// Walks a whole segment whose first record is `base_seq`; `frames` is the bytes from [`FRAMES_AT`] on.
pub(crate) fn walk(frames: &[u8], salt: u32, base_seq: u64) -> Walk {
    Walk::front(base_seq).on(frames, salt, FRAMES_AT + frames.len())
}

#[cfg(test)]
pub(super) mod tests {
    //! What a walk yields and where it stops. Not proved here: that the bytes of a frame are the documented ones.
    use super::*;
    use crate::format::PAGE;
    use crate::format::frame::{seal, size};
    use crate::format::segment::MIN_CAPACITY;
    use proptest::prelude::*;

    pub(in crate::scan) const SALT: u32 = 0x1122_3344;

    /// Seals a frame at `at`, an offset in the file, around the bytes that stand there; returns its end.
    pub(in crate::scan) fn plant(
        frames: &mut [u8],
        at: usize,
        len: usize,
        seq: u64,
        d: Option<usize>,
        commit: bool,
    ) -> usize {
        let end = at + size(len).unwrap();
        seal(&mut frames[at - FRAMES_AT..end - FRAMES_AT], &Header::new(at, len as u32, seq, d, commit, 7), at, SALT);
        end
    }

    fn frames_with(commits: &[bool]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; PAGE];
        let mut ends = vec![FRAMES_AT];
        for (i, commit) in commits.iter().enumerate() {
            let at = ends[i];
            bytes[at - FRAMES_AT + frame::HEADER..][..i].fill(b'a');
            ends.push(plant(&mut bytes, at, i, 5 + i as u64, None, *commit));
        }
        (bytes, ends)
    }

    #[test]
    fn frames_come_in_order_with_their_payloads() {
        let (bytes, ends) = frames_with(&[true; 10]);
        let mut frames = Frames::new(&bytes, SALT, FRAMES_AT, MIN_CAPACITY, 5);
        for i in 0..10 {
            let frame = frames.next().unwrap();
            assert_eq!((frame.end, frame.header.seq, frame.header.tag), (ends[i + 1], 5 + i as u64, 7));
            assert_eq!(frame::payload(&bytes, ends[i], &frame.header), vec![b'a'; i].as_slice());
        }
        assert!(frames.next().is_none() && frames.next().is_none());
        assert_eq!((frames.at(), frames.expected()), (ends[10], 15));
    }

    #[test]
    fn a_frame_that_crosses_the_end_is_not_shown() {
        let (bytes, ends) = frames_with(&[true; 3]);
        assert_eq!(Frames::new(&bytes, SALT, FRAMES_AT, ends[2], 5).count(), 2);
        assert_eq!(Frames::new(&bytes, SALT, FRAMES_AT, ends[2] - 1, 5).count(), 1);
    }

    #[test]
    fn another_number_another_salt_or_a_flipped_bit_ends_the_walk() {
        let (mut bytes, ends) = frames_with(&[true; 3]);
        assert_eq!(walk(&bytes, SALT, 4).x, FRAMES_AT);
        assert_eq!(walk(&bytes, SALT + 1, 5).x, FRAMES_AT);
        bytes[ends[2] - FRAMES_AT + frame::HEADER] ^= 1;
        assert_eq!(walk(&bytes, SALT, 5), Walk { x: ends[2], cut: ends[2], next_seq: 7, frames_behind_cut: 0 });
    }

    #[test]
    fn a_batch_without_its_commit_is_behind_the_cut() {
        let (bytes, ends) = frames_with(&[true, true, false, false]);
        assert_eq!(walk(&bytes, SALT, 5), Walk { x: ends[4], cut: ends[2], next_seq: 7, frames_behind_cut: 2 });
    }

    #[test]
    fn the_last_number_is_never_a_frame() {
        let mut bytes = vec![0; PAGE];
        let second = plant(&mut bytes, FRAMES_AT, 0, u64::MAX - 1, None, true);
        plant(&mut bytes, second, 0, u64::MAX, None, true);
        let walk = walk(&bytes, SALT, u64::MAX - 1);
        assert_eq!((walk.x, walk.next_seq), (second, u64::MAX));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_walk_panic(len in 0..300_usize, at: usize, end: usize, seq: u64, rest: Vec<u8>) {
            let mut bytes = vec![0; len];
            bytes.extend(rest);
            walk(&bytes, SALT, seq);
            prop_assert_eq!(Frames::new(&bytes, SALT, at, end, seq).count(), 0);
        }
    }
}
