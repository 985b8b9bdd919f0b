//! Segments made of the frames of others.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::frame::{self, HEADER, Header};
use crate::format::manifest::Entry;
use crate::format::segment::{
    BEGUN_AT, CLOSED, DURABLE_AT, FRAMES_AT, IDENTITY_AT, IDENTITY_LEN, Identity, MIN_CAPACITY, PUBLISHED_AT, checked,
};
use crate::inspect::runs::Mark;
use crate::manifest::remove_if_there;
use crate::planted::{Bug, planted};
use crate::segment::file_name;
use crate::storage::Storage;

/// What follows the name of a segment that is being made.
const UNFINISHED: &str = ".new";

/// How much is written by one call.
const CHUNK: usize = 1 << 20;

/// Frames that are copied, all of which verify.
pub(crate) struct Frames {
    /// As they will stand in the new segment.
    bytes: Vec<u8>,
    first_seq: u64,
    next_seq: u64,
}

/// Which frames are copied, and out of what.
pub(crate) struct Source<'a> {
    /// The segment, and its salt.
    pub(crate) path: PathBuf,
    pub(crate) of: u32,
    /// Its bytes from [`FRAMES_AT`] on.
    pub(crate) frames: &'a [u8],
    pub(crate) from: Mark,
    pub(crate) to: Mark,
    /// Outside of these offsets each record becomes a batch of its own.
    pub(crate) whole: std::ops::Range<usize>,
    /// Records with lower numbers are left out.
    pub(crate) least_seq: u64,
    /// The salt of the new segment.
    pub(crate) salt: u32,
}

impl Source<'_> {
    fn changed(&self) -> Error {
        let source = std::io::Error::other("it reads otherwise than a moment ago");
        Error::io("read", &self.path, source)
    }
}

impl Frames {
    /// No frames, before the number `seq`.
    pub(crate) fn none(seq: u64) -> Self {
        Self { bytes: Vec::new(), first_seq: seq, next_seq: seq }
    }

    /// Copies frames, with the same numbers, payloads, tags and batches.
    ///
    /// # Errors
    /// `Io` if one does not verify that did when it was planned: the file was read twice.
    pub(crate) fn copy(source: &Source<'_>) -> Result<Self> {
        let mut copied = Self::none(source.from.seq.max(source.least_seq));
        let (mut at, mut begins, mut seq) = (source.from.offset, FRAMES_AT, source.from.seq);
        while at < source.to.offset {
            let header = frame::decode(source.frames, at, source.of).filter(|header| header.seq == seq);
            let Some(header) = header else { return Err(source.changed()) };
            let end = at + header.frame_size();
            seq += 1;
            if header.seq >= source.least_seq {
                let commit = header.commit || end <= source.whole.start || at >= source.whole.end;
                copied.add(frame::payload(source.frames, at, &header), &header, commit, begins, source.salt);
                begins = if commit { FRAMES_AT + copied.bytes.len() } else { begins };
            }
            at = end;
        }
        if (at, seq) == (source.to.offset, source.to.seq) { Ok(copied) } else { Err(source.changed()) }
    }

    /// Adds a frame of the batch that begins at `begins`: where a batch begins, a later repair sees by the claim.
    fn add(&mut self, payload: &[u8], header: &Header, commit: bool, begins: usize, salt: u32) {
        let at = FRAMES_AT + self.bytes.len();
        let header = Header::new(at, header.len, header.seq, Some(begins), commit, header.tag);
        let from = self.bytes.len();
        self.bytes.resize(from + header.frame_size(), 0);
        self.bytes[from + HEADER..from + HEADER + payload.len()].copy_from_slice(payload);
        frame::seal(&mut self.bytes[from..], &header, at, salt);
        self.next_seq = header.seq + 1;
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u64 {
        self.next_seq - self.first_seq
    }

    /// Their size in bytes, headers included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn end(&self) -> usize {
        FRAMES_AT + self.bytes.len()
    }

    /// The size of a segment that holds them.
    pub(crate) fn capacity(&self) -> u64 {
        self.end().next_multiple_of(PAGE).max(MIN_CAPACITY) as u64
    }
}

/// Writes a sealed segment that holds `frames` and is what `identity` says, and syncs it; its name is added to `made`.
pub(crate) fn write_sealed(
    storage: &Storage,
    identity: &Identity,
    frames: &Frames,
    made: &mut Vec<String>,
) -> Result<Entry> {
    let name = file_name(identity.ordinal);
    // Without a manifest a segment that is there in part would count as a lost one: it gets its name when it is whole.
    let unfinished = format!("{}{UNFINISHED}", name.as_str());
    remove_if_there(storage, &unfinished)?;
    let file = storage.create(&unfinished)?;
    made.push(unfinished.clone());
    file.allocate(identity.capacity)?;
    file.write_at(&head(identity, frames), 0)?;
    for (i, chunk) in frames.bytes.chunks(CHUNK).enumerate() {
        file.write_at(chunk, (FRAMES_AT + i * CHUNK) as u64)?;
    }
    if !planted(Bug::RepairNotSynced) {
        file.sync()?;
    }
    storage.rename(&unfinished, name.as_str())?;
    made.push(name.as_str().to_owned());
    Ok(Entry {
        ordinal: identity.ordinal,
        salt: identity.salt,
        virgin: true,
        capacity: identity.capacity,
        base_seq: frames.first_seq,
        end_offset: frames.end() as u64,
        last_seq: frames.next_seq - 1,
    })
}

/// Lets the segment in which a log goes on say where it begins, should the manifest be lost.
pub(crate) fn begin(storage: &Storage, entry: &Entry) -> Result<()> {
    let file = storage.open_write(file_name(entry.ordinal).as_str())?;
    for at in BEGUN_AT {
        file.write_at(&checked(entry.salt, entry.base_seq), at as u64)?;
    }
    file.sync()
}

fn head(identity: &Identity, frames: &Frames) -> Vec<u8> {
    let mut head = vec![0; FRAMES_AT];
    let copy = identity.encode();
    let (begun, durable) = (checked(identity.salt, frames.first_seq), checked(identity.salt, frames.end() as u64));
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    IDENTITY_AT.into_iter().for_each(|at| put(at, &copy[..IDENTITY_LEN]));
    put(PUBLISHED_AT, &(frames.end() as u64 | CLOSED).to_le_bytes());
    BEGUN_AT.into_iter().for_each(|at| put(at, &begun));
    DURABLE_AT.into_iter().for_each(|at| put(at, &durable));
    head
}
