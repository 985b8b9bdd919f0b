//! One segment: its identity copies, its words, its frames.

use super::bytes::{array, padded, u16_at, u32_at, u64_at};
use super::crc;
use super::manifest::Entry;

pub const FRAMES: usize = 8192;

/// A segment that the manifest names, with bytes as long as its capacity.
pub struct Segment<'a> {
    pub entry: &'a Entry,
    pub bytes: &'a [u8],
}

pub struct Identity {
    pub salt: u32,
    pub log_id: [u8; 16],
    pub ordinal: u64,
    pub capacity: u64,
    pub replaces: u64,
}

#[derive(Clone)]
pub struct Frame<'a> {
    pub at: usize,
    pub end: usize,
    pub seq: u64,
    pub tag: u16,
    pub commit: bool,
    /// D, if the frame claims.
    pub claim: Option<u64>,
    pub payload: &'a [u8],
}

/// What a walk over valid frames found.
pub struct Walk<'a> {
    pub committed: Vec<Frame<'a>>,
    pub cut: usize,
    pub x: usize,
    /// The seq expected at `cut`.
    pub e: u64,
}

impl Walk<'_> {
    /// The walk as far as `offset`, if it starts there or a batch ends there.
    pub fn up_to(&self, offset: u64) -> Option<Self> {
        let ends_there = |frame: &Frame<'_>| frame.commit && frame.end as u64 == offset;
        let count = if offset == 8192 { 0 } else { self.committed.iter().position(ends_there)? + 1 };
        let (kept, dropped) = self.committed.split_at(count);
        let cut = usize::try_from(offset).ok()?;
        Some(Self { committed: kept.to_vec(), cut, x: cut, e: self.e - dropped.len() as u64 })
    }
}

/// The identity copies that verify, in the order in which they stand.
pub fn identities(bytes: &[u8]) -> Vec<Identity> {
    [0, 512].into_iter().filter_map(|at| identity(bytes.get(at..at + 128)?)).collect()
}

fn identity(copy: &[u8]) -> Option<Identity> {
    let verifies = copy.starts_with(b"MMAPWAL\0")
        && u32_at(copy, 8)? == 1
        && u32_at(copy, 124)? == crc::salted(0, copy.get(..124)?);
    verifies.then_some(Identity {
        salt: u32_at(copy, 12)?,
        log_id: array(copy, 16)?,
        ordinal: u64_at(copy, 32)?,
        capacity: u64_at(copy, 40)?,
        replaces: u64_at(copy, 56)?,
    })
}

impl<'a> Segment<'a> {
    pub fn frame(&self, at: usize) -> Option<Frame<'a>> {
        frame(self.bytes, self.entry.salt, at)
    }

    pub fn walk(&self, base: u64) -> Walk<'a> {
        let mut walk = Walk { committed: Vec::new(), cut: FRAMES, x: FRAMES, e: base };
        let mut batch = Vec::new();
        let mut expected = base;
        while let Some(frame) = self.frame(walk.x).filter(|frame| frame.seq == expected) {
            walk.x = frame.end;
            expected += 1;
            let commit = frame.commit;
            batch.push(frame);
            if commit {
                walk.committed.append(&mut batch);
                walk.cut = walk.x;
                walk.e = expected;
            }
        }
        walk
    }

    /// The base of a spare that is begun.
    pub fn begun(&self) -> Option<u64> {
        [4160, 4672]
            .into_iter()
            .find_map(|at| self.word(at).filter(|base| *base >= 1))
            .or_else(|| self.frame(FRAMES).map(|frame| frame.seq).filter(|seq| *seq >= 1))
    }

    /// The largest `durable` slot that verifies.
    pub fn durable(&self) -> Option<u64> {
        let is_position = |offset: &u64| offset.is_multiple_of(8) && (8192..=self.entry.capacity).contains(offset);
        [4224, 4736].into_iter().filter_map(|at| self.word(at).filter(is_position)).max()
    }

    fn word(&self, at: usize) -> Option<u64> {
        let value = u64_at(self.bytes, at)?;
        (u64_at(self.bytes, at + 8)? == crc::check(self.entry.salt, value)).then_some(value)
    }

    /// The frames at `from` or behind that are possible when `e` is expected at a cut `distance` bytes before `from`.
    pub fn possible(&self, from: usize, distance: usize, e: u64) -> Vec<Frame<'a>> {
        let is_possible = |frame: &Frame<'_>| {
            let d = (distance + (frame.at - from)) as u64;
            (e..=e + d / 24).contains(&frame.seq)
        };
        frames(self.bytes, self.entry.salt, from).filter(is_possible).collect()
    }
}

/// Every frame with a seq that verifies at `from` or behind, whether or not another one covers it.
pub fn frames(bytes: &[u8], salt: u32, from: usize) -> impl Iterator<Item = Frame<'_>> {
    (from..bytes.len()).step_by(8).filter_map(move |at| frame(bytes, salt, at)).filter(|frame| frame.seq >= 1)
}

fn frame(bytes: &[u8], salt: u32, at: usize) -> Option<Frame<'_>> {
    let seq = u64_at(bytes, at.checked_add(8)?)?;
    if seq == 0 {
        // No frame of a log has seq 0, and zeros need no CRC.
        return None;
    }
    let len = u32_at(bytes, at + 4)?;
    let [flags, reserved] = array(bytes, at + 20)?;
    let payload_end = at.checked_add(24)?.checked_add(usize::try_from(len).ok()?)?;
    let end = padded(payload_end)?;
    let fits = at.is_multiple_of(8) && at >= FRAMES && len <= u32::MAX - 8192 && end <= bytes.len();
    let is_known = flags <= 1 && reserved == 0;
    if !(fits && is_known && u32_at(bytes, at)? == crc::salted(salt ^ (at / 8) as u32, bytes.get(at + 4..payload_end)?))
    {
        return None;
    }
    Some(Frame {
        at,
        end,
        seq,
        tag: u16_at(bytes, at + 22)?,
        commit: flags == 1,
        claim: claim(at, u32_at(bytes, at + 16)?),
        payload: bytes.get(at + 24..payload_end)?,
    })
}

fn claim(at: usize, durable_back: u32) -> Option<u64> {
    let d = (at as u64).checked_sub(8 * u64::from(durable_back))?;
    (durable_back != u32::MAX && d >= 8192).then_some(d)
}
