//! The frames of a segment file as they stand, good or bad.

use crate::blank::Blank;
use crate::error::{Error, Operation, Result};
use crate::format::ALIGN;
use crate::format::frame::{self, HEADER, Header};
use crate::format::segment::{FRAMES_AT, IDENTITY_AT, Identity, MAX_CAPACITY};
use crate::reader::present;
use crate::segment::{file_name, in_memory};
use crate::storage::Storage;

/// How often, at most, the bytes of a segment are hashed while good frames are looked for behind bad ones.
const HASH_ROUNDS: usize = 8;

/// A frame as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawFrame {
    /// Byte offset in the file.
    pub offset: u64,
    /// The sequence number that stands there.
    pub seq: u64,
    /// The payload's length in bytes that stands there.
    pub len: u32,
    /// Whether it is the last of its batch.
    pub commit: bool,
    /// The user's tag.
    pub tag: u16,
    /// The byte offset below which the file was durable when the frame was written, if it says so.
    pub durable_offset: Option<u64>,
    /// Whether fields and checksum verify. If not, none of the others can be relied upon.
    pub verifies: bool,
    /// A copy of the payload, of a frame that does not verify at most up to the next one that does.
    pub payload: Vec<u8>,
}

/// The frames of a segment in the order of the file, up to the last byte that is not zero.
///
/// Behind a frame that does not verify, the next one that does is looked for.
pub struct Frames {
    /// The bytes from `FRAMES_AT` on.
    frames: Blank,
    salt: u32,
    at: usize,
    /// Behind it everything is zero.
    end: usize,
    /// How many bytes may still be hashed in the search for good frames.
    budget: usize,
}

/// Reads the segment `ordinal`.
pub(crate) fn frames(storage: &Storage, ordinal: u64) -> Result<Frames> {
    let file = storage.open_read(file_name(ordinal).as_str())?;
    let len = file.len()?.min(MAX_CAPACITY as u64) as usize;
    let mut head = vec![0; FRAMES_AT.min(len)];
    file.read_at(&mut head, 0)?;
    let mut frames = in_memory(Operation::Read, file.path(), Blank::new(len - head.len()))?;
    file.read_at(&mut frames, head.len() as u64)?;
    let named = match present(storage) {
        Ok(manifest) => manifest.entries.into_iter().find(|entry| entry.ordinal == ordinal),
        Err(Error::NoManifest { .. }) => None,
        Err(e) => return Err(e),
    };
    let identity = || IDENTITY_AT.into_iter().find_map(|at| Identity::decode(head.get(at..)?));
    let Some(salt) = named.map(|entry| entry.salt).or_else(|| identity().map(|copy| copy.salt)) else {
        let reason = "the manifest does not name the file, and it does not say what it is";
        return Err(Error::io(Operation::Read, file.path(), std::io::Error::other(reason)));
    };
    let end = frames.iter().rposition(|byte| *byte != 0).map_or(FRAMES_AT, |last| FRAMES_AT + last + 1);
    Ok(Frames { budget: frames.len().saturating_mul(HASH_ROUNDS), frames, salt, at: FRAMES_AT, end })
}

impl Frames {
    /// The next offset at which a frame verifies, from `from` on; the end if there is none.
    fn next_good(&mut self, from: usize) -> usize {
        for at in (from..self.end).step_by(ALIGN) {
            // No record has the number 0, so stretches of zeros cost nothing.
            let Some(header) = frame::peek(&self.frames, at).filter(|header| header.seq != 0) else { continue };
            let Some(left) = self.budget.checked_sub(header.frame_size()) else { return self.end };
            self.budget = left;
            if frame::decode(&self.frames, at, self.salt).is_some() {
                return at;
            }
        }
        self.end
    }

    fn shown(&self, at: usize, header: &Header, verifies: bool, to: usize) -> RawFrame {
        let from = at - FRAMES_AT + HEADER;
        let to = from.saturating_add(header.len as usize).min(to - FRAMES_AT).max(from);
        RawFrame {
            offset: at as u64,
            seq: header.seq,
            len: header.len,
            commit: header.commit,
            tag: header.tag,
            durable_offset: header.claim(at).map(|offset| offset as u64),
            verifies,
            payload: self.frames.get(from..to).unwrap_or_default().to_vec(),
        }
    }
}

impl Iterator for Frames {
    type Item = RawFrame;

    fn next(&mut self) -> Option<RawFrame> {
        let at = self.at;
        let header = if at < self.end { frame::raw(&self.frames, at) } else { None };
        let header = header?;
        let verifies = frame::decode(&self.frames, at, self.salt).is_some();
        let next = if verifies { at + header.frame_size() } else { self.next_good(at + ALIGN) };
        self.at = next;
        Some(self.shown(at, &header, verifies, next.min(FRAMES_AT + self.frames.len())))
    }
}

impl std::iter::FusedIterator for Frames {}
