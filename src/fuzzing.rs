//! A door for the fuzz targets to the decoders and the search, which are pure functions of bytes.
//!
//! It is there only in builds with `--cfg fuzzing`, which `cargo fuzz` sets, and is no part of the interface.

use crate::format::frame;
use crate::format::hashed;
use crate::format::manifest::Entry;
use crate::format::segment::{self, FRAMES_AT, Identity};
use crate::manifest::Manifest;
use crate::scan::{Window, search};

/// A frame that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The record's sequence number.
    pub seq: u64,
    /// Whether it is the last of its batch.
    pub commit: bool,
    /// The user's tag.
    pub tag: u16,
    /// D, if it claims one.
    pub claim: Option<u64>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The frame written anew: the same bytes, but for the padding, which is zero.
    pub encoded: Vec<u8>,
}

/// Decodes the frame at `at`, an offset in the file; `frames` is the file's bytes from 8192 on.
#[must_use]
pub fn frame(frames: &[u8], at: usize, salt: u32) -> Option<Frame> {
    let header = frame::decode(frames, at, salt)?;
    let payload = frame::payload(frames, at, &header).to_vec();
    let mut encoded = vec![0; header.frame_size()];
    encoded[frame::HEADER..frame::HEADER + payload.len()].copy_from_slice(&payload);
    frame::seal(&mut encoded, &header, at, salt);
    let claim = header.claim(at).map(|offset| offset as u64);
    Some(Frame { seq: header.seq, commit: header.commit, tag: header.tag, claim, payload, encoded })
}

/// What a slot of the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The larger one is the log.
    pub generation: u64,
    /// The first record that is shown.
    pub first_seq: u64,
    /// The checkpoint.
    pub checkpoint_seq: u64,
    /// Where the log was closed, or 0.
    pub clean_offset: u64,
    /// The user's bytes.
    pub meta: Vec<u8>,
    /// Ordinal, salt, virgin, capacity, base seq, end offset and last seq of each segment.
    pub entries: Vec<(u64, u32, bool, u64, u64, u64, u64)>,
    /// The slot written anew: the same bytes.
    pub encoded: Vec<u8>,
}

/// Decodes the slot of the manifest that `bytes` is.
#[must_use]
pub fn slot(bytes: &[u8]) -> Option<Slot> {
    let decoded = Manifest::decode(bytes).ok()?;
    let fields = |entry: &Entry| {
        let Entry { ordinal, salt, virgin, capacity, base_seq, end_offset, last_seq } = *entry;
        (ordinal, salt, virgin, capacity, base_seq, end_offset, last_seq)
    };
    Some(Slot {
        generation: decoded.header.generation,
        first_seq: decoded.header.first_seq,
        checkpoint_seq: decoded.header.checkpoint_seq,
        clean_offset: decoded.header.clean_offset,
        encoded: decoded.encode(),
        entries: decoded.entries.iter().map(fields).collect(),
        meta: decoded.meta,
    })
}

/// Decodes the identity in `bytes`: salt, log id, ordinal and capacity, and the copy written anew.
#[must_use]
pub fn identity(bytes: &[u8]) -> Option<(u32, [u8; 16], u64, u64, Vec<u8>)> {
    let copy = Identity::decode(bytes)?;
    Some((copy.salt, copy.log_id, copy.ordinal, copy.capacity, copy.encode().to_vec()))
}

/// The base and the largest D that the words of `head` vouch for; `head` is the file's bytes before 8192.
#[must_use]
pub fn words(head: &[u8], salt: u32, capacity: usize) -> (Option<u64>, Option<usize>) {
    (segment::begun(head, salt), segment::durable(head, salt, capacity))
}

/// Searches for the frames at `from` or behind that are possible when `next_seq` is expected `ahead` bytes before
/// `from`: how many there are, and the largest D above `above` that they claim. `frames` is the file's bytes from 8192
/// on, and `from` an offset in the file.
#[must_use]
pub fn behind(
    frames: &[u8],
    salt: u32,
    from: usize,
    (next_seq, ahead, above): (u64, usize, usize),
) -> (u64, Option<usize>) {
    let found = search(frames, salt, from.max(FRAMES_AT), Window { next_seq, ahead, above });
    (found.frames, found.claim)
}

/// How many bytes this process has hashed: what bounds the work.
#[must_use]
pub fn hashed_bytes() -> u64 {
    hashed()
}
