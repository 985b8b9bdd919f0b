//! The MANIFEST: two slots, the valid one of the highest generation.

use super::Verdict;
use super::bytes::{array, padded, u32_at, u64_at};
use super::crc;

#[derive(Clone, Debug)]
pub struct Manifest {
    pub generation: u64,
    pub log_id: [u8; 16],
    pub first_seq: u64,
    pub checkpoint_seq: u64,
    pub clean_offset: u64,
    pub meta: Vec<u8>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub ordinal: u64,
    pub salt: u32,
    pub flags: u32,
    pub capacity: u64,
    pub base_seq: u64,
    pub end_offset: u64,
    pub last_seq: u64,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Sealed,
    Active,
    Spare,
}

impl Entry {
    pub fn kind(&self) -> Kind {
        match (self.base_seq, self.end_offset) {
            (0, _) => Kind::Spare,
            (_, 0) => Kind::Active,
            _ => Kind::Sealed,
        }
    }

    pub fn is_sealed(&self) -> bool {
        self.kind() == Kind::Sealed
    }

    pub fn is_virgin(&self) -> bool {
        self.flags & 1 == 1
    }
}

enum Slot {
    Valid(Manifest),
    Unknown,
    Invalid,
}

/// Generations, ordinals and seqs stay below this.
const LIMIT: u64 = 1 << 63;

pub fn decode(file: &[u8]) -> Result<Manifest, Verdict> {
    if file.is_empty() || !file.len().is_multiple_of(8192) || file.len() > 1 << 29 {
        return Err(Verdict::NoManifest);
    }
    let (first, second) = file.split_at(file.len() / 2);
    match (slot(first), slot(second)) {
        (Slot::Valid(a), Slot::Valid(b)) => Ok(if b.generation > a.generation { b } else { a }),
        (Slot::Valid(valid), _) | (_, Slot::Valid(valid)) => Ok(valid),
        (Slot::Unknown, _) | (_, Slot::Unknown) => Err(Verdict::Version),
        (Slot::Invalid, Slot::Invalid) => Err(Verdict::NoManifest),
    }
}

fn slot(bytes: &[u8]) -> Slot {
    let Some((version, features, manifest)) = fields(bytes) else { return Slot::Invalid };
    if version != 1 || features != 0 {
        return Slot::Unknown;
    }
    if is_valid(&manifest) { Slot::Valid(manifest) } else { Slot::Invalid }
}

/// The fields of a slot whose magic, lengths and CRC are right, whatever its version.
fn fields(slot: &[u8]) -> Option<(u32, u32, Manifest)> {
    let meta_len = usize::try_from(u32_at(slot, 80)?).ok()?;
    let count = usize::try_from(u32_at(slot, 84)?).ok()?;
    let entries_at = padded(meta_len)?.checked_add(88)?;
    let crc_at = count.checked_mul(48)?.checked_add(entries_at)?;
    let sound = slot.starts_with(b"MMAPWALM")
        && meta_len <= 1024
        && u32_at(slot, crc_at)? == crc::salted(0, slot.get(..crc_at)?);
    if !sound {
        return None;
    }
    let manifest = Manifest {
        generation: u64_at(slot, 16)?,
        log_id: array(slot, 24)?,
        first_seq: u64_at(slot, 56)?,
        checkpoint_seq: u64_at(slot, 64)?,
        clean_offset: u64_at(slot, 72)?,
        meta: slot.get(88..88 + meta_len)?.to_vec(),
        entries: (0..count).map(|index| entry(slot, entries_at + 48 * index)).collect::<Option<_>>()?,
    };
    Some((u32_at(slot, 8)?, u32_at(slot, 12)?, manifest))
}

fn entry(slot: &[u8], at: usize) -> Option<Entry> {
    Some(Entry {
        ordinal: u64_at(slot, at)?,
        salt: u32_at(slot, at + 8)?,
        flags: u32_at(slot, at + 12)?,
        capacity: u64_at(slot, at + 16)?,
        base_seq: u64_at(slot, at + 24)?,
        end_offset: u64_at(slot, at + 32)?,
        last_seq: u64_at(slot, at + 40)?,
    })
}

fn is_valid(manifest: &Manifest) -> bool {
    let entries = &manifest.entries;
    entries.first().is_some_and(|first| manifest.first_seq >= first.base_seq)
        && [manifest.generation, manifest.first_seq, manifest.checkpoint_seq].iter().all(|number| *number < LIMIT)
        && entries.iter().all(is_sound)
        && is_sealed_then_active_then_spares(entries)
        && each_base_is_above_every_earlier_last(entries)
        && no_ordinal_occurs_twice(entries)
}

fn is_sound(entry: &Entry) -> bool {
    let fields_fit = match entry.kind() {
        Kind::Sealed => is_sound_sealed(entry),
        Kind::Active => entry.last_seq == 0,
        Kind::Spare => entry.end_offset == 0 && entry.last_seq == 0,
    };
    fields_fit
        && [entry.ordinal, entry.base_seq, entry.last_seq].iter().all(|number| *number < LIMIT)
        && entry.salt != 0
        && entry.flags <= 1
        && (12288..=1 << 34).contains(&entry.capacity)
        && entry.capacity.is_multiple_of(4096)
}

fn is_sound_sealed(entry: &Entry) -> bool {
    let before_base = entry.base_seq - 1;
    (8192..=entry.capacity).contains(&entry.end_offset)
        && entry.end_offset.is_multiple_of(8)
        && entry.last_seq >= before_base
        && (entry.last_seq == before_base) == (entry.end_offset == 8192)
        && entry.last_seq - before_base <= (entry.end_offset - 8192) / 24
}

fn is_sealed_then_active_then_spares(entries: &[Entry]) -> bool {
    let Some(active) = entries.iter().position(|entry| entry.kind() == Kind::Active) else { return false };
    entries[..active].iter().all(Entry::is_sealed)
        && entries[active + 1..].iter().all(|entry| entry.kind() == Kind::Spare)
}

fn each_base_is_above_every_earlier_last(entries: &[Entry]) -> bool {
    entries.iter().enumerate().all(|(index, entry)| {
        // The first entry has nothing earlier; a spare has no base.
        entry.kind() == Kind::Spare || entries[..index].iter().all(|earlier| entry.base_seq > earlier.last_seq)
    })
}

fn no_ordinal_occurs_twice(entries: &[Entry]) -> bool {
    entries
        .iter()
        .enumerate()
        .all(|(index, entry)| entries[..index].iter().all(|earlier| earlier.ordinal != entry.ordinal))
}
