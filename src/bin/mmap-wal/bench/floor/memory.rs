//! What a record costs in memory alone: its checksum, one copy into memory that is there, and the store that shows it.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a frame in front of its payload, as in the log.
pub(crate) const HEADER: usize = 24;
const ALIGN: usize = 8;
/// Small enough to be filled in a moment, and as large as a segment, so that no cache holds it.
const RING: usize = 64 << 20;

/// Bytes of the frame of a payload of `len` bytes.
pub(crate) fn frame_size(len: usize) -> usize {
    HEADER + len.next_multiple_of(ALIGN)
}

/// Writes the frame `seq` of `payload` to the front of `to`: header, payload, and the checksum over both.
pub(crate) fn encode(to: &mut [u8], seq: u64, payload: &[u8]) {
    let frame = &mut to[..HEADER + payload.len()];
    frame[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame[8..16].copy_from_slice(&seq.to_le_bytes());
    frame[16..HEADER].copy_from_slice(&1_u64.to_le_bytes());
    frame[HEADER..].copy_from_slice(payload);
    let crc = crc32fast::hash(&frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Memory to which frames are written one behind the other, from the front again when it is full.
pub(crate) struct Ring {
    memory: Vec<u8>,
    at: usize,
    seq: u64,
    published: AtomicU64,
}

impl Ring {
    /// Memory every page of which has been written.
    pub(crate) fn new() -> Self {
        Self { memory: touched(RING), at: 0, seq: 0, published: AtomicU64::new(0) }
    }

    /// Appends a record as a log in memory would, that nobody reads and that never ends.
    #[inline]
    pub(crate) fn append(&mut self, payload: &[u8]) -> u64 {
        let size = frame_size(payload.len());
        if self.at + size > self.memory.len() {
            self.at = 0;
        }
        self.seq += 1;
        encode(&mut self.memory[self.at..], self.seq, payload);
        self.at += size;
        self.published.store(self.seq, Ordering::Release);
        self.seq
    }
}

/// `len` bytes of memory that the system has given out already.
pub(crate) fn touched(len: usize) -> Vec<u8> {
    // Zeros would come as pages that are not there yet.
    let mut memory = vec![1_u8; len];
    black_box(&mut memory);
    memory
}

/// `count` frames of payloads of `len` bytes, back to back.
pub(crate) fn frames(count: usize, len: usize) -> Vec<u8> {
    frames_of(&vec![len; count]).0
}

/// Frames of payloads of these lengths, back to back, and where each of them stands.
pub(crate) fn frames_of(lens: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let mut end = 0;
    let mut place = |len: &usize| {
        end += frame_size(*len);
        end - frame_size(*len)
    };
    let places: Vec<usize> = lens.iter().map(&mut place).collect();
    let payload = vec![0xa5_u8; lens.iter().copied().max().unwrap_or(0)];
    let mut memory = touched(end);
    for (seq, (at, len)) in (1..).zip(places.iter().zip(lens)) {
        encode(&mut memory[*at..], seq, &payload[..*len]);
    }
    (memory, places)
}

/// Whether the frame at the front of `frames` verifies, and its size.
#[inline]
fn verified(frames: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(frames.get(4..8)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(frames[..4].try_into().ok()?);
    (crc32fast::hash(frames.get(4..HEADER + len)?) == crc).then(|| frame_size(len))
}

/// Verifies frame after frame, and returns how many there are.
pub(crate) fn verify_all(frames: &[u8]) -> u64 {
    let (mut at, mut count) = (0, 0);
    while let Some(size) = verified(&frames[at..]) {
        at += size;
        count += 1;
    }
    count
}

/// Verifies the frame at `at`, and touches its payload.
#[inline]
pub(crate) fn look_up(frames: &[u8], at: usize) -> Option<u8> {
    verified(&frames[at..]).and_then(|_| frames.get(at + HEADER).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_verified_whole_and_a_changed_one_is_not() {
        let mut frames = frames(3, 13);
        assert_eq!(frames.len(), 3 * frame_size(13));
        assert_eq!(verify_all(&frames), 3);
        assert_eq!(look_up(&frames, frame_size(13)), Some(0xa5));
        frames[2 * frame_size(13) + HEADER] ^= 1;
        assert_eq!(verify_all(&frames), 2);
    }

    #[test]
    fn frames_of_any_lengths_verify_where_they_are_said_to_stand() {
        let (frames, places) = frames_of(&[5, 0, 130]);
        assert_eq!(places, [0, frame_size(5), frame_size(5) + frame_size(0)]);
        assert_eq!(verify_all(&frames), 3);
        assert_eq!(look_up(&frames, places[2]), Some(0xa5));
    }

    #[test]
    fn a_ring_goes_on_at_its_front_when_it_is_full() {
        let mut ring = Ring::new();
        let payload = vec![7; 16 << 20];
        for seq in 1..=5 {
            assert_eq!(ring.append(&payload), seq);
        }
        assert!(ring.at <= RING);
    }
}
