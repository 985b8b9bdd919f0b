//! The search for frames behind the end of the log, and for what they claim.

use crate::format::frame::{self, Header};
use crate::format::segment::FRAMES_AT;
use crate::format::{ALIGN, salted_crc};
use core::ops::Range;

/// Which frames are possible and which claims count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// e: the least seq that is possible.
    pub(crate) next_seq: u64,
    /// How many bytes of the log lie between the cut and the start of the search.
    pub(crate) ahead: usize,
    /// Only a larger D counts.
    pub(crate) above: usize,
}

impl Window {
    /// Whether `seq` is possible `behind` bytes after the start of the search: each record before it took a header.
    fn holds(&self, seq: u64, behind: usize) -> bool {
        let most = self.ahead.saturating_add(behind) / frame::HEADER;
        seq.checked_sub(self.next_seq).is_some_and(|records| records <= most as u64)
    }
}

/// What a search found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The largest D that counts.
    pub(crate) claim: Option<usize>,
    /// Possible frames. One that stands in the payload of another counts too.
    pub(crate) frames: u64,
}

/// Looks for possible frames at every multiple of 8 from `from`, which is one, to the end of `frames`.
///
/// `frames` is the bytes from [`FRAMES_AT`] on; `from` is an offset in the file behind them.
pub(crate) fn search(frames: &[u8], salt: u32, from: usize, window: Window) -> Behind {
    Verifier::new(frames, salt, from).search(window)
}

/// Whether a frame verifies at any multiple of 8, whatever its number.
///
/// `frames` is the bytes from [`FRAMES_AT`] on.
pub(crate) fn holds_frame(frames: &[u8], salt: u32) -> bool {
    Verifier::new(frames, salt, FRAMES_AT).holds_frame()
}

/// Bytes from one prefix CRC to the next; one takes 4 bytes, so the table is a sixteenth of what is searched.
const STRIDE: usize = 64;

/// Verifies frames that may overlap, in linear time all together.
///
/// Honest frames do not overlap, so hashing each is at most one pass. Once that much was hashed the bytes are crafted
/// (payloads that look like headers of long frames), and CRCs of more than a table of prefix CRCs would make anybody hash
/// come from such a table instead.
pub(crate) struct Verifier<'a> {
    /// The bytes from [`FRAMES_AT`] on.
    frames: &'a [u8],
    salt: u32,
    /// Where the search starts in `frames`. All ranges here are ranges of `frames`.
    start: usize,
    /// How many bytes may still be hashed directly.
    direct: usize,
    /// The unsalted CRC of the bytes from `start` to each multiple of [`STRIDE`] behind it.
    prefixes: Vec<u32>,
    #[cfg(test)]
    hashed: usize,
}

impl<'a> Verifier<'a> {
    /// For the frames at or behind `from`, an offset in the file; `frames` is the bytes from [`FRAMES_AT`] on.
    pub(crate) fn new(frames: &'a [u8], salt: u32, from: usize) -> Self {
        let start = from.saturating_sub(FRAMES_AT);
        let direct = frames.len().saturating_sub(start);
        Self {
            frames,
            salt,
            start,
            direct,
            prefixes: Vec::new(),
            #[cfg(test)]
            hashed: 0,
        }
    }

    fn search(&mut self, window: Window) -> Behind {
        let mut found = Behind::default();
        let frames = self.frames;
        let seqs = frames.get(self.start.saturating_add(frame::SEQ)..).unwrap_or_default();
        // One comparison dismisses zeros, records of an earlier life and nearly all payload, at the speed of memory.
        let most = window.ahead.saturating_add(seqs.len()) as u64 / frame::HEADER as u64;
        for (i, word) in seqs.as_chunks::<ALIGN>().0.iter().enumerate() {
            let seq = u64::from_le_bytes(*word);
            if seq.wrapping_sub(window.next_seq) <= most && window.holds(seq, i * ALIGN) {
                self.weigh(FRAMES_AT + self.start + i * ALIGN, window.above, &mut found);
            }
        }
        found
    }

    fn holds_frame(&mut self) -> bool {
        let frames = self.frames;
        // No record has the number 0, and zeros are no frame.
        let numbered = |header: &Header| header.seq != 0;
        (FRAMES_AT..FRAMES_AT + frames.len())
            .step_by(ALIGN)
            .any(|at| frame::peek(frames, at).filter(numbered).is_some_and(|header| self.verifies(at, &header)))
    }

    /// Adds the frame at `at` to what was found, if it verifies.
    fn weigh(&mut self, at: usize, above: usize, found: &mut Behind) {
        let Some(header) = frame::peek(self.frames, at) else { return };
        if self.verifies(at, &header) {
            found.frames += 1;
            found.claim = found.claim.max(header.claim(at).filter(|d| *d > above));
        }
    }

    /// Whether the CRC of the frame at `at` is right; `header` came from [`frame::peek`] at `at`.
    pub(crate) fn verifies(&mut self, at: usize, header: &Header) -> bool {
        let (crc, covered) = frame::checked(self.frames, at, header);
        let initial = frame::initial(self.salt, at);
        if covered.len() <= 2 * STRIDE {
            return self.hash(initial, covered) == crc;
        }
        match self.direct.checked_sub(covered.len()) {
            Some(left) => {
                self.direct = left;
                self.hash(initial, covered) == crc
            }
            None => {
                let end = at - FRAMES_AT + frame::HEADER + header.len as usize;
                self.combined(initial, end - covered.len()..end) == crc
            }
        }
    }

    /// The CRC of `range`, which is not empty, continued from `initial`, out of the CRCs of the two prefixes that end where it begins and ends.
    ///
    /// Let `shift(c, n)` be the CRC `c` carried over `n` bytes. Then crc(a || b) = shift(crc(a), len b) ^ crc(b), and
    /// `shift` is linear; so crc(b) = crc(a || b) ^ shift(crc(a), len b), and continued from `initial` it is
    /// crc(a || b) ^ shift(crc(a) ^ initial, len b).
    fn combined(&mut self, initial: u32, range: Range<usize>) -> u32 {
        let (before, through) = (self.prefix(range.start), self.prefix(range.end));
        let mut crc = crc32fast::Hasher::new_with_initial(before ^ initial);
        crc.combine(&crc32fast::Hasher::new_with_initial_len(through, range.len() as u64));
        crc.finalize()
    }

    /// The unsalted CRC of the bytes from `start` to `to`.
    fn prefix(&mut self, to: usize) -> u32 {
        if self.prefixes.is_empty() {
            self.build();
        }
        let i = (to - self.start) / STRIDE;
        self.hash(self.prefixes[i], &self.frames[self.start + i * STRIDE..to])
    }

    fn build(&mut self) {
        let strides = (self.frames.len() - self.start) / STRIDE;
        self.prefixes.reserve_exact(strides + 1);
        self.prefixes.push(0);
        for i in 0..strides {
            let at = self.start + i * STRIDE;
            let crc = self.hash(self.prefixes[i], &self.frames[at..at + STRIDE]);
            self.prefixes.push(crc);
        }
    }

    /// The one place where bytes are hashed.
    fn hash(&mut self, initial: u32, bytes: &[u8]) -> u32 {
        #[cfg(test)]
        {
            self.hashed += bytes.len();
        }
        salted_crc(initial, bytes)
    }
}

#[cfg(test)]
mod tests {
    //! That the search finds exactly what looking at every offset finds, and in bounded work. Not proved here: what
    //! follows from a claim.
    use super::*;
    use crate::format::PAGE;
    use crate::scan::frames::tests::{SALT, plant};
    use proptest::prelude::*;

    const WINDOW: Window = Window { next_seq: 10, ahead: 48, above: FRAMES_AT };

    /// The same in quadratic time.
    fn naive(frames: &[u8], from: usize, window: Window) -> Behind {
        let mut found = Behind::default();
        for at in (from..FRAMES_AT + frames.len()).step_by(8) {
            let Some(header) = frame::decode(frames, at, SALT) else { continue };
            let most = window.next_seq.saturating_add(((window.ahead + at - from) / 24) as u64);
            if header.seq < window.next_seq || header.seq > most {
                continue;
            }
            found.frames += 1;
            found.claim = found.claim.max(header.claim(at).filter(|d| *d > window.above));
        }
        found
    }

    #[test]
    fn a_claim_behind_a_hole_is_found() {
        let mut frames = vec![0; PAGE];
        let at = FRAMES_AT + 1024;
        plant(&mut frames, at, 33, 12, Some(at - 64), true);
        assert_eq!(search(&frames, SALT, FRAMES_AT, WINDOW), Behind { claim: Some(at - 64), frames: 1 });
        assert_eq!(search(&frames, SALT, at + 8, WINDOW), Behind::default());
        assert_eq!(search(&frames, SALT + 1, FRAMES_AT, WINDOW), Behind::default());
    }

    #[test]
    fn a_claim_that_is_not_above_does_not_count_but_its_frame_does() {
        let mut frames = vec![0; PAGE];
        plant(&mut frames, FRAMES_AT + 64, 0, 10, Some(FRAMES_AT), true);
        assert_eq!(search(&frames, SALT, FRAMES_AT, WINDOW), Behind { claim: None, frames: 1 });
        let any = Window { above: 0, ..WINDOW };
        assert_eq!(search(&frames, SALT, FRAMES_AT, any), Behind { claim: Some(FRAMES_AT), frames: 1 });
    }

    #[test]
    fn the_last_possible_frame_counts() {
        let mut frames = vec![0; PAGE];
        let at = FRAMES_AT + PAGE - frame::HEADER;
        plant(&mut frames, at, 0, 12, Some(at - 64), true);
        for from in [FRAMES_AT, at - 8, at] {
            assert_eq!(search(&frames, SALT, from, WINDOW), Behind { claim: Some(at - 64), frames: 1 }, "{from}");
        }
        assert!(holds_frame(&frames, SALT));
    }

    #[test]
    fn only_the_numbers_that_fit_the_distance_are_possible() {
        // 48 bytes ahead and 72 behind: five headers.
        for (seq, possible) in [(0, 0), (9, 0), (10, 1), (15, 1), (16, 0), (u64::MAX, 0)] {
            let mut frames = vec![0; PAGE];
            plant(&mut frames, FRAMES_AT + 72, 0, seq, None, true);
            assert_eq!(search(&frames, SALT, FRAMES_AT, WINDOW).frames, possible, "{seq}");
        }
    }

    #[test]
    fn earlier_frames_and_zeros_are_dismissed_without_hashing() {
        let mut frames = vec![0; PAGE];
        let mut at = FRAMES_AT;
        for seq in 0..10 {
            at = plant(&mut frames, at, 40, seq, Some(FRAMES_AT), true);
        }
        let mut verifier = Verifier::new(&frames, SALT, FRAMES_AT);
        assert_eq!((verifier.search(WINDOW), verifier.hashed), (Behind::default(), 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "four million bytes, and no other code than the tests beside it run")]
    fn crafted_bytes_take_linear_work_and_little_memory() {
        // Every word is at once a possible seq and the len, flags and reserved byte of the headers around it.
        let (len, long) = (4 << 20, 0x15_0000_u64);
        let seq = long << 32;
        let frames = seq.to_le_bytes().repeat(len / 8);
        let mut verifier = Verifier::new(&frames, SALT, FRAMES_AT);
        assert_eq!(verifier.search(Window { next_seq: seq, ..WINDOW }).frames, 0);
        assert!(!verifier.holds_frame());
        let candidates = 2 * (len - long as usize) / 8;
        assert!(verifier.hashed > 2 * len, "{}: every offset is a candidate", verifier.hashed);
        assert!(verifier.hashed <= 2 * len + 2 * STRIDE * candidates, "{}", verifier.hashed);
        assert!(verifier.prefixes.capacity() * 4 <= len / 8);
    }

    proptest! {
        #[test]
        fn combined_is_the_direct_crc(bytes in prop::collection::vec(any::<u8>(), 1..1000), salt: u32, a: usize, b: usize) {
            let (a, b) = (a % bytes.len(), b % bytes.len());
            let range = a.min(b)..a.max(b) + 1;
            for from in [0, range.start / 2, range.start] {
                let got = Verifier::new(&bytes, salt, FRAMES_AT + from).combined(salt, range.clone());
                prop_assert_eq!(got, salted_crc(salt, &bytes[range.clone()]));
            }
        }

        // A later frame around earlier ones keeps them as payload, so frames nest as crafted ones do.
        #[test]
        fn the_search_finds_what_looking_everywhere_finds(
            noise in prop::collection::vec(any::<u8>(), 0..64),
            plants in prop::collection::vec((0..128_usize, 0..400_usize, 8..60_u64, prop::option::of(0..128_usize)), 0..12),
            start in 0..64_usize,
            direct in prop::option::of(0..300_usize),
        ) {
            let mut frames = vec![0; 2048];
            frames[512..][..noise.len()].copy_from_slice(&noise);
            for (at, len, seq, back) in plants {
                let at = FRAMES_AT + at * 8;
                plant(&mut frames, at, len, seq, back.and_then(|b| at.checked_sub(b * 8)), true);
            }
            let from = FRAMES_AT + start * 8;
            let mut verifier = Verifier::new(&frames, SALT, from);
            verifier.direct = direct.unwrap_or(verifier.direct);
            prop_assert_eq!(verifier.search(WINDOW), naive(&frames, from, WINDOW));
            let verifies = |at| frame::decode(&frames, at, SALT).is_some_and(|header| header.seq != 0);
            prop_assert_eq!(holds_frame(&frames, SALT), (FRAMES_AT..FRAMES_AT + frames.len()).step_by(8).any(verifies));
        }

        #[test]
        fn no_bytes_make_the_search_panic(bytes: Vec<u8>, short: bool, from: usize, next_seq in 0..3_u64, ahead: usize) {
            let mut frames = bytes;
            frames.extend(vec![0; if short { 0 } else { 48 }]);
            for (from, ahead) in [(from, ahead), (FRAMES_AT, ahead), (0, ahead), (FRAMES_AT, usize::MAX)] {
                for above in [0, usize::MAX] {
                    search(&frames, SALT, from, Window { next_seq, ahead, above });
                }
            }
        }
    }
}
