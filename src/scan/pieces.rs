//! The walk through what comes piece by piece: through a file that is read into the same little memory, where no byte is
//! kept and each is judged while it is in the processor's cache, and through a map that is brought in on the way.

use super::frames::{Frames, Walk};
use crate::format::frame::{self, HEADER, Header};
use crate::format::salted_crc;
use crate::format::segment::FRAMES_AT;
use core::ops::Range;

/// Walks the frames that end at or before `end` of a segment whose first record is `base_seq`. `read` fills memory with the
/// bytes of the file from an offset on; `buffer` is that memory, and has room for a header at least.
///
/// # Errors
/// Those of `read`.
pub(crate) fn walk_pieces<E>(
    buffer: &mut [u8],
    salt: u32,
    base_seq: u64,
    end: usize,
    mut read: impl FnMut(&mut [u8], usize) -> Result<(), E>,
) -> Result<Walk, E> {
    let mut walk = Walk::front(base_seq);
    // So many bytes of the file from `walk.x` on are at the front of the buffer already.
    let mut held = 0;
    loop {
        let filled = end.saturating_sub(walk.x).min(buffer.len());
        read(&mut buffer[held..filled], walk.x + held)?;
        let mut frames = Frames::of_piece(&buffer[..filled], salt, walk.x, walk.expected());
        walk.pass_all(&mut frames);
        held = frames.rest().len();
        let cut_off = match cut_off(frames.rest(), end, &walk) {
            CutOff::Nothing => return Ok(walk),
            CutOff::Header => None,
            CutOff::Frame(header) => Some(header).filter(|header| header.frame_size() > buffer.len()),
        };
        let rest = filled - held..filled;
        let Some(header) = cut_off else {
            buffer.copy_within(rest, 0);
            continue;
        };
        if !verifies(buffer, rest, walk.x, &header, salt, &mut read)? {
            return Ok(walk);
        }
        walk.pass(walk.x + header.frame_size(), &header);
        held = 0;
    }
}

/// Walks the frames that end at or before `end` of a segment whose first record is `base_seq`, in `frames`, the bytes of a
/// map from [`FRAMES_AT`] on. Nothing is looked at before `bring_in` has brought it in, a range of offsets in the file;
/// that returns up to where there is everything from the beginning of the range on, which is its end or further.
///
/// # Errors
/// Those of `bring_in`: every frame in front of what it could not bring in is valid.
pub(crate) fn walk_present<E>(
    frames: &[u8],
    salt: u32,
    base_seq: u64,
    end: usize,
    mut bring_in: impl FnMut(Range<usize>) -> Result<usize, E>,
) -> Result<Walk, E> {
    let end = end.min(FRAMES_AT + frames.len());
    let (mut walk, mut present) = (Walk::front(base_seq), FRAMES_AT);
    loop {
        let piece = &frames[walk.x - FRAMES_AT..present - FRAMES_AT];
        let mut valid = Frames::of_piece(piece, salt, walk.x, walk.expected());
        walk.pass_all(&mut valid);
        let wanted = match cut_off(valid.rest(), end, &walk) {
            CutOff::Nothing => return Ok(walk),
            CutOff::Header => walk.x + HEADER,
            CutOff::Frame(header) => walk.x + header.frame_size(),
        };
        present = bring_in(walk.x..wanted.min(end))?.min(end);
    }
}

/// What the end of a piece cuts off, of which the rest must be there to tell whether it is a frame.
enum CutOff {
    Nothing,
    Header,
    Frame(Header),
}

/// `rest` is the end of a piece, from `walk.x` on, in which no frame was found; frames end at or before `end`.
fn cut_off(rest: &[u8], end: usize, walk: &Walk) -> CutOff {
    let left = end.saturating_sub(walk.x);
    if rest.len() == left {
        return CutOff::Nothing;
    }
    if rest.len() < HEADER {
        return CutOff::Header;
    }
    let can_be = |header: &Header| {
        let (size, seq) = (header.frame_size(), walk.expected());
        header.seq == seq && seq < u64::MAX && rest.len() < size && size <= left
    };
    frame::front(rest).filter(can_be).map_or(CutOff::Nothing, CutOff::Frame)
}

/// Whether the frame at `at` verifies that does not fit the buffer, of which it holds the beginning at `here`.
fn verifies<E>(
    buffer: &mut [u8],
    here: Range<usize>,
    at: usize,
    header: &Header,
    salt: u32,
    mut read: impl FnMut(&mut [u8], usize) -> Result<(), E>,
) -> Result<bool, E> {
    let covered = HEADER + header.len as usize;
    let beginning = &buffer[here];
    let beginning = &beginning[..beginning.len().min(covered)];
    let (stored, mut crc) = (frame::stored_crc(beginning), frame::front_crc(beginning, at, salt));
    let (mut done, room) = (beginning.len(), buffer.len());
    while done < covered {
        let piece = &mut buffer[..room.min(covered - done)];
        read(piece, at + done)?;
        crc = salted_crc(crc, piece);
        done += piece.len();
    }
    Ok(crc == stored)
}

#[cfg(test)]
mod tests {
    //! That a walk piece by piece is the walk of the whole, whatever the pieces.
    use super::*;
    use crate::scan::frames::tests::{SALT, plant};
    use proptest::prelude::*;

    /// Frames of payloads of these lengths, from number 5 on, and whether each ends a batch; then `noise`.
    fn frames_of(lens: &[(usize, bool)], noise: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; lens.iter().map(|(len, _)| HEADER + len + 8).sum::<usize>() + 64];
        let mut at = FRAMES_AT;
        for (i, (len, commit)) in lens.iter().enumerate() {
            bytes[at - FRAMES_AT + HEADER..][..*len].fill(i as u8 + 1);
            at = plant(&mut bytes, at, *len, 5 + i as u64, None, *commit);
        }
        let noise = &noise[..noise.len().min(64)];
        bytes[at - FRAMES_AT..][..noise.len()].copy_from_slice(noise);
        bytes
    }

    /// The walk through a buffer of `room` bytes, and how many bytes were read.
    fn by_pieces(bytes: &[u8], room: usize, end: usize) -> (Walk, usize) {
        let (mut buffer, mut count) = (vec![0xee; room], 0);
        let read = |to: &mut [u8], at: usize| {
            let from = bytes.get(at - FRAMES_AT..).and_then(|from| from.get(..to.len())).ok_or("outside")?;
            to.copy_from_slice(from);
            count += to.len();
            Ok::<(), &str>(())
        };
        (walk_pieces(&mut buffer, SALT, 5, end, read).expect("within the file"), count)
    }

    fn whole(bytes: &[u8], end: usize) -> Walk {
        Walk::front(5).on(bytes, SALT, end)
    }

    #[test]
    fn a_frame_longer_than_the_buffer_is_verified_in_parts() {
        let mut bytes = frames_of(&[(3, true), (1000, true), (1, true)], &[]);
        let end = FRAMES_AT + bytes.len();
        assert_eq!(by_pieces(&bytes, 64, end).0, whole(&bytes, end));
        assert_eq!(whole(&bytes, end).next_seq, 8);
        bytes[900] ^= 1;
        assert_eq!(by_pieces(&bytes, 64, end).0, whole(&bytes, end));
        assert_eq!(whole(&bytes, end).next_seq, 6);
    }

    #[test]
    fn a_length_that_does_not_fit_is_not_read() {
        let mut bytes = frames_of(&[(3, true), (3, true)], &[]);
        bytes.resize(1 << 16, 0);
        let second = by_pieces(&bytes, 64, FRAMES_AT + 64).0.x - FRAMES_AT - 32;
        bytes[second + 4..second + 8].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        let (walk, count) = by_pieces(&bytes, 64, FRAMES_AT + bytes.len());
        assert_eq!((walk.next_seq, count), (6, 64));
    }

    #[test]
    fn an_error_of_a_read_ends_the_walk() {
        let mut asked = 0;
        let read = |_: &mut [u8], at: usize| {
            asked = at;
            Err("unreadable")
        };
        assert_eq!(walk_pieces(&mut [0; 64], SALT, 5, FRAMES_AT + 640, read).err(), Some("unreadable"));
        assert_eq!(asked, FRAMES_AT);
    }

    /// What a stretch of `step` bytes is: it comes whole, unless it holds `bad`.
    fn stretches(step: usize, bad: usize) -> impl FnMut(Range<usize>) -> Result<usize, usize> {
        move |wanted| {
            let whole = wanted.start..wanted.end.next_multiple_of(step);
            if !whole.contains(&bad) {
                return Ok(whole.end);
            }
            if wanted.contains(&bad) { Err(wanted.start) } else { Ok(wanted.end) }
        }
    }

    #[test]
    fn damage_in_front_of_what_cannot_be_brought_in_is_found_first() {
        let mut bytes = frames_of(&[(8, true); 20], &[]);
        let (end, bad) = (FRAMES_AT + 20 * 32, FRAMES_AT + 10 * 32 + 24);
        let walk = |bytes: &[u8]| walk_present(bytes, SALT, 5, end, stretches(4096, bad));
        assert_eq!(walk(&bytes).err(), Some(FRAMES_AT + 10 * 32), "each frame in front of it is valid");
        bytes[9 * 32 + 24] ^= 1;
        assert_eq!(walk(&bytes).map(|walk| (walk.x, walk.expected())), Ok((FRAMES_AT + 9 * 32, 14)));
    }

    #[test]
    fn nothing_is_looked_at_before_it_was_brought_in() {
        let bytes = frames_of(&[(8, true), (300, true), (8, true)], &[]);
        let mut asked = Vec::new();
        let bring_in = |wanted: Range<usize>| {
            asked.push(wanted.start - FRAMES_AT..wanted.end - FRAMES_AT);
            Ok::<usize, ()>(wanted.end)
        };
        let walk = walk_present(&bytes, SALT, 5, FRAMES_AT + bytes.len(), bring_in).expect("all of it");
        assert_eq!(walk.next_seq, 8);
        // Each header, then the rest of its frame; and what is no header ends it.
        assert_eq!(asked, [0..24, 0..32, 32..56, 32..360, 360..384, 360..392, 392..416]);
    }

    /// `bytes`, with one bit of one of them changed.
    fn flipped(mut bytes: Vec<u8>, flip: Option<(usize, u8)>) -> Vec<u8> {
        if let Some((at, bit)) = flip {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_map_that_is_brought_in_on_the_way_is_walked_as_if_all_of_it_were_there(
            lens in prop::collection::vec((0..200_usize, any::<bool>()), 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..64),
            step in 1..100_usize,
            short in 0..300_usize,
            flip in prop::option::of((0..4000_usize, 0..8_u8)),
        ) {
            let bytes = flipped(frames_of(&lens, &noise), flip);
            let end = FRAMES_AT + bytes.len().saturating_sub(short);
            prop_assert_eq!(walk_present(&bytes, SALT, 5, end, stretches(8 * step, 0)), Ok(whole(&bytes, end)));
        }

        #[test]
        fn piece_by_piece_is_the_same_as_all_at_once(
            lens in prop::collection::vec((0..200_usize, any::<bool>()), 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..64),
            room in HEADER..400_usize,
            short in 0..300_usize,
            flip in prop::option::of((0..4000_usize, 0..8_u8)),
        ) {
            let bytes = flipped(frames_of(&lens, &noise), flip);
            let end = FRAMES_AT + bytes.len().saturating_sub(short);
            let (walk, count) = by_pieces(&bytes, room, end);
            prop_assert_eq!(walk, whole(&bytes, end));
            // What is looked at twice is at most the beginning of a frame that was cut off, which is kept.
            prop_assert!(count <= bytes.len());
        }
    }
}
