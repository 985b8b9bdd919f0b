//! Segments made of the frames of others.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::frame::{self, HEADER, Header};
use crate::format::manifest::Entry;
use crate::format::name::SegmentName;
use crate::format::segment::{
    BEGUN_AT, CLOSED, DURABLE_AT, FRAMES_AT, IDENTITY_AT, IDENTITY_LEN, Identity, MIN_CAPACITY, PUBLISHED_AT, checked,
};
use crate::inspect::runs::Mark;
use crate::manifest::remove_if_there;
use crate::planted::{Bug, planted};
use crate::segment::{file_name, in_memory};
use crate::storage::{Storage, StoredFile};

/// What follows the name of a segment that is being made.
const BEING_MADE: &str = ".new";

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
        let source = io::Error::other("it reads otherwise than a moment ago");
        Error::io(Operation::Read, &self.path, source)
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
                // Where a batch begins, a later repair sees by the claim.
                let payload = frame::payload(source.frames, at, &header);
                let added = copied.add(payload, &header, commit, begins, source.salt);
                in_memory(Operation::Copy, &source.path, added)?;
                begins = if commit { FRAMES_AT + copied.bytes.len() } else { begins };
            }
            at = end;
        }
        if (at, seq) == (source.to.offset, source.to.seq) { Ok(copied) } else { Err(source.changed()) }
    }

    /// Adds a frame of the batch that begins at `begins`.
    fn add(&mut self, payload: &[u8], header: &Header, commit: bool, begins: usize, salt: u32) -> io::Result<()> {
        let at = FRAMES_AT + self.bytes.len();
        let copied = Header::new(at, header.len, header.seq, Some(begins), commit, header.tag);
        put_frame(&mut self.bytes, at, payload, &copied, salt)?;
        self.next_seq = header.seq + 1;
        Ok(())
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u64 {
        self.next_seq - self.first_seq
    }

    /// Their size in bytes, headers included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The size of a segment that holds them.
    pub(crate) fn capacity(&self) -> u64 {
        capacity_for(self.len())
    }
}

/// The size of a segment that holds `len` bytes of frames and nothing else.
pub(crate) fn capacity_for(len: usize) -> u64 {
    (FRAMES_AT + len).next_multiple_of(PAGE).max(MIN_CAPACITY) as u64
}

/// Adds a frame that will stand at `at`.
///
/// # Errors
/// `OutOfMemory` if there is no memory for it: a record may be as long as a segment.
fn put_frame(bytes: &mut Vec<u8>, at: usize, payload: &[u8], header: &Header, salt: u32) -> io::Result<()> {
    let from = bytes.len();
    bytes.try_reserve(header.frame_size()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(from + header.frame_size(), 0);
    bytes[from + HEADER..from + HEADER + payload.len()].copy_from_slice(payload);
    frame::seal(&mut bytes[from..], header, at, salt);
    Ok(())
}

/// Writes a sealed segment that holds `frames` and is what `identity` says, and syncs it; its names are added to `made`.
pub(crate) fn write_sealed(
    storage: &Storage,
    identity: &Identity,
    frames: &Frames,
    made: &mut Vec<String>,
) -> Result<Entry> {
    made.extend([unfinished(identity.ordinal), file_name(identity.ordinal).as_str().to_owned()]);
    let mut sealing = Sealing::begin(storage, identity, frames.first_seq)?;
    for chunk in frames.bytes.chunks(CHUNK) {
        sealing.write(chunk)?;
    }
    sealing.finish(frames.next_seq)
}

/// The name of the segment `ordinal` while it is being made. Without a manifest a segment that is there in part would
/// count as a lost one: it gets its own name when it is whole.
pub(crate) fn unfinished(ordinal: u64) -> String {
    format!("{}{BEING_MADE}", file_name(ordinal).as_str())
}

/// The ordinal of the segment that is being made under `name`, if one is.
pub(crate) fn unfinished_ordinal(name: &str) -> Option<u64> {
    SegmentName::decode(name.strip_suffix(BEING_MADE)?)
}

/// A sealed segment that is being written.
struct Sealing<'a> {
    storage: &'a Storage,
    identity: &'a Identity,
    file: StoredFile,
    first_seq: u64,
    /// Where the next frame goes.
    end: usize,
}

impl<'a> Sealing<'a> {
    fn begin(storage: &'a Storage, identity: &'a Identity, first_seq: u64) -> Result<Self> {
        let name = unfinished(identity.ordinal);
        remove_if_there(storage, &name)?;
        let file = storage.create(&name)?;
        file.allocate(identity.capacity)?;
        Ok(Self { storage, identity, file, first_seq, end: FRAMES_AT })
    }

    fn write(&mut self, frames: &[u8]) -> Result<()> {
        self.file.write_at(frames, self.end as u64)?;
        self.end += frames.len();
        Ok(())
    }

    /// Makes the segment whole and durable and gives it its name.
    fn finish(self, next_seq: u64) -> Result<Entry> {
        let Identity { ordinal, salt, capacity, .. } = *self.identity;
        self.file.write_at(&head(self.identity, self.first_seq, self.end), 0)?;
        if !planted(Bug::RepairNotSynced) {
            self.file.sync()?;
        }
        self.storage.rename(&unfinished(ordinal), file_name(ordinal).as_str())?;
        let (base_seq, end_offset, last_seq) = (self.first_seq, self.end as u64, next_seq - 1);
        Ok(Entry { ordinal, salt, virgin: true, capacity, base_seq, end_offset, last_seq })
    }
}

/// A sealed segment that is filled record by record; never more of it than a little and one record is in memory.
pub(crate) struct Filling<'a> {
    sealing: Sealing<'a>,
    /// Frames that are not written yet.
    bytes: Vec<u8>,
    /// Where the batch begins that the next record is of.
    begins: usize,
    next_seq: u64,
}

impl<'a> Filling<'a> {
    /// Begins the segment that `identity` says, with the record `first_seq`.
    pub(crate) fn begin(storage: &'a Storage, identity: &'a Identity, first_seq: u64) -> Result<Self> {
        let sealing = Sealing::begin(storage, identity, first_seq)?;
        Ok(Self { sealing, bytes: Vec::new(), begins: FRAMES_AT, next_seq: first_seq })
    }

    /// Adds a record with the number, the tag and the place in its batch that `header` says.
    pub(crate) fn add(&mut self, payload: &[u8], header: &Header) -> Result<()> {
        let at = self.sealing.end + self.bytes.len();
        let Header { len, seq, commit, tag, .. } = *header;
        let copied = Header::new(at, len, seq, Some(self.begins), commit, tag);
        let added = put_frame(&mut self.bytes, at, payload, &copied, self.sealing.identity.salt);
        in_memory(Operation::Copy, self.sealing.file.path(), added)?;
        self.next_seq = seq + 1;
        if commit {
            self.begins = self.sealing.end + self.bytes.len();
        }
        if self.bytes.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.sealing.write(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    /// Makes the segment whole and durable and gives it its name.
    pub(crate) fn finish(mut self) -> Result<Entry> {
        self.flush()?;
        self.sealing.finish(self.next_seq)
    }
}

/// Lets the segment in which a log goes on say where it begins, should the manifest be lost.
pub(crate) fn begin(storage: &Storage, entry: &Entry) -> Result<()> {
    let file = storage.open_write(file_name(entry.ordinal).as_str())?;
    for at in BEGUN_AT {
        file.write_at(&checked(entry.salt, entry.base_seq), at as u64)?;
    }
    file.sync()
}

/// What stands before the frames from `first_seq` to the offset `end`.
fn head(identity: &Identity, first_seq: u64, end: usize) -> Vec<u8> {
    let mut head = vec![0; FRAMES_AT];
    let copy = identity.encode();
    let (begun, durable) = (checked(identity.salt, first_seq), checked(identity.salt, end as u64));
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    IDENTITY_AT.into_iter().for_each(|at| put(at, &copy[..IDENTITY_LEN]));
    put(PUBLISHED_AT, &(end as u64 | CLOSED).to_le_bytes());
    BEGUN_AT.into_iter().for_each(|at| put(at, &begun));
    DURABLE_AT.into_iter().for_each(|at| put(at, &durable));
    head
}
