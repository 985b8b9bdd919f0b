//! Writes logs byte by byte, well or badly, for tests.

use super::Files;
use super::crc::{check, salted};

pub const LOG_ID: [u8; 16] = *b"the log's own id";
pub const CAPACITY: usize = 12288;
pub const NO_CLAIM: u32 = u32::MAX;
pub const COMMIT: u8 = 1;

/// A MANIFEST, its two slots equal.
#[derive(Clone)]
pub struct Manifest {
    pub version: u32,
    pub features: u32,
    pub generation: u64,
    pub first_seq: u64,
    pub checkpoint_seq: u64,
    pub clean_offset: u64,
    pub meta: Vec<u8>,
    pub entries: Vec<Entry>,
}

#[derive(Clone)]
pub struct Entry {
    pub ordinal: u64,
    pub salt: u32,
    pub flags: u32,
    pub capacity: usize,
    pub base_seq: u64,
    pub end_offset: u64,
    pub last_seq: u64,
}

impl Manifest {
    pub fn of(entries: &[Entry]) -> Self {
        Self {
            version: 1,
            features: 0,
            generation: 1,
            first_seq: entries.first().map_or(1, |entry| entry.base_seq),
            checkpoint_seq: 0,
            clean_offset: 0,
            meta: Vec::new(),
            entries: entries.to_vec(),
        }
    }

    pub fn slot(&self) -> Vec<u8> {
        let mut slot = b"MMAPWALM".to_vec();
        slot.extend(self.version.to_le_bytes());
        slot.extend(self.features.to_le_bytes());
        slot.extend(self.generation.to_le_bytes());
        slot.extend(LOG_ID);
        slot.extend([0; 16]);
        slot.extend(self.first_seq.to_le_bytes());
        slot.extend(self.checkpoint_seq.to_le_bytes());
        slot.extend(self.clean_offset.to_le_bytes());
        slot.extend((self.meta.len() as u32).to_le_bytes());
        slot.extend((self.entries.len() as u32).to_le_bytes());
        slot.extend(&self.meta);
        slot.resize(slot.len().next_multiple_of(8), 0);
        slot.extend(self.entries.iter().flat_map(Entry::bytes));
        slot.extend(salted(0, &slot).to_le_bytes());
        slot.resize(slot.len().next_multiple_of(4096), 0);
        slot
    }

    pub fn file(&self) -> Vec<u8> {
        [self.slot(), self.slot()].concat()
    }
}

impl Entry {
    pub fn active(ordinal: u64, base_seq: u64) -> Self {
        Self {
            ordinal,
            salt: 0x1000_0000 + ordinal as u32,
            flags: 0,
            capacity: CAPACITY,
            base_seq,
            end_offset: 0,
            last_seq: 0,
        }
    }

    pub fn spare(ordinal: u64) -> Self {
        Self::active(ordinal, 0)
    }

    pub fn sealed(ordinal: u64, base_seq: u64, end_offset: u64, last_seq: u64) -> Self {
        Self { end_offset, last_seq, ..Self::active(ordinal, base_seq) }
    }

    pub fn virgin(self) -> Self {
        Self { flags: 1, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.ordinal.to_le_bytes().to_vec();
        bytes.extend(self.salt.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend((self.capacity as u64).to_le_bytes());
        bytes.extend(self.base_seq.to_le_bytes());
        bytes.extend(self.end_offset.to_le_bytes());
        bytes.extend(self.last_seq.to_le_bytes());
        bytes
    }
}

/// The bytes of one segment, and where the next frame goes.
#[derive(Clone)]
pub struct Segment {
    pub name: String,
    pub bytes: Vec<u8>,
    pub salt: u32,
    pub next: usize,
}

impl Segment {
    /// As prepared: both identity copies, nothing else.
    pub fn of(entry: &Entry) -> Self {
        let mut segment = Self {
            name: format!("{:020}.wal", entry.ordinal),
            bytes: vec![0; entry.capacity],
            salt: entry.salt,
            next: 8192,
        };
        for at in [0, 512] {
            segment.put(at, &identity(entry, LOG_ID));
        }
        segment
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn begin(mut self, base: u64) -> Self {
        for at in [4160, 4672] {
            self.put_word(at, base);
        }
        self
    }

    pub fn mark_durable(mut self, offset: u64) -> Self {
        self.put_word(4224, offset);
        self
    }

    pub fn put_word(&mut self, at: usize, value: u64) {
        let check = check(self.salt, value);
        self.put(at, &value.to_le_bytes());
        self.put(at + 8, &check.to_le_bytes());
    }

    /// With `published` at the end of what is there, as a segment that the log has left.
    pub fn close(mut self) -> Self {
        let word = self.next as u64 | 1 << 63;
        self.put(4096, &word.to_le_bytes());
        self
    }

    /// A batch of one, without a claim.
    pub fn append(self, seq: u64, payload: &[u8]) -> Self {
        self.frame(seq, NO_CLAIM, COMMIT, payload)
    }

    /// A frame that leaves its batch open.
    pub fn append_open(self, seq: u64, payload: &[u8]) -> Self {
        self.frame(seq, NO_CLAIM, 0, payload)
    }

    /// A batch of one that claims everything below `d`.
    pub fn append_claiming(self, seq: u64, d: usize) -> Self {
        let back = ((self.next - d) / 8) as u32;
        self.frame(seq, back, COMMIT, b"claims")
    }

    pub fn frame(mut self, seq: u64, durable_back: u32, flags: u8, payload: &[u8]) -> Self {
        let frame = frame(self.salt, self.next, seq, durable_back, [flags, 0], 0, payload);
        self.put(self.next, &frame);
        self.next += frame.len();
        self
    }

    /// Leaves `len` zeros where frames did not reach the disk.
    pub fn skip(mut self, len: usize) -> Self {
        self.next += len;
        self
    }
}

pub fn identity(entry: &Entry, log_id: [u8; 16]) -> Vec<u8> {
    let mut copy = b"MMAPWAL\0".to_vec();
    copy.extend(1u32.to_le_bytes());
    copy.extend(entry.salt.to_le_bytes());
    copy.extend(log_id);
    copy.extend(entry.ordinal.to_le_bytes());
    copy.extend((entry.capacity as u64).to_le_bytes());
    copy.extend([0; 8 + 68]);
    copy.extend(salted(0, &copy).to_le_bytes());
    copy
}

pub fn frame(salt: u32, at: usize, seq: u64, durable_back: u32, flags: [u8; 2], tag: u16, payload: &[u8]) -> Vec<u8> {
    let mut covered = (payload.len() as u32).to_le_bytes().to_vec();
    covered.extend(seq.to_le_bytes());
    covered.extend(durable_back.to_le_bytes());
    covered.extend(flags);
    covered.extend(tag.to_le_bytes());
    covered.extend(payload);
    let mut frame = salted(salt ^ (at / 8) as u32, &covered).to_le_bytes().to_vec();
    frame.extend(covered);
    frame.resize(frame.len().next_multiple_of(8), 0);
    frame
}

pub fn directory(manifest: &Manifest, segments: &[Segment]) -> Files {
    let mut files = leftovers(segments);
    files.insert("MANIFEST".into(), manifest.file());
    files
}

pub fn leftovers(segments: &[Segment]) -> Files {
    segments.iter().map(|segment| (segment.name.clone(), segment.bytes.clone())).collect()
}
