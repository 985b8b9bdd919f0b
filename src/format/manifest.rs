//! A slot of the manifest: the whole state of a log.

use super::frame;
use super::segment::{FRAMES_AT, MAX_CAPACITY, MIN_CAPACITY};
use super::{ALIGN, PAGE, VERSION, array, get_u32, get_u64, padded, put, salted_crc};

const MAGIC: &[u8; 8] = b"MMAPWALM";
const VERSION_AT: usize = MAGIC.len();
const FEATURES: usize = VERSION_AT + 4;
const GENERATION: usize = FEATURES + 4;
const LOG_ID: usize = GENERATION + 8;
const USER_TAG: usize = LOG_ID + 16;
const FIRST_SEQ: usize = USER_TAG + 16;
const CHECKPOINT_SEQ: usize = FIRST_SEQ + 8;
const CLEAN_OFFSET: usize = CHECKPOINT_SEQ + 8;
const META_LEN: usize = CLEAN_OFFSET + 8;
const COUNT: usize = META_LEN + 4;
/// Bytes before the meta.
pub(crate) const HEADER: usize = COUNT + 4;
const CRC_LEN: usize = 4;

/// Where the fields of an entry stand.
const ENTRY_SALT: usize = 8;
const ENTRY_FLAGS: usize = ENTRY_SALT + 4;
const ENTRY_CAPACITY: usize = ENTRY_FLAGS + 4;
const ENTRY_BASE_SEQ: usize = ENTRY_CAPACITY + 8;
const ENTRY_END_OFFSET: usize = ENTRY_BASE_SEQ + 8;
const ENTRY_LAST_SEQ: usize = ENTRY_END_OFFSET + 8;
const ENTRY_LEN: usize = ENTRY_LAST_SEQ + 8;
const _: () = assert!(HEADER == 88 && ENTRY_LEN == 48);

/// The most that a user may store as meta.
pub(crate) const MAX_META: usize = 1024;
/// The size of a slot in a new manifest.
pub(crate) const FIRST_SLOT: usize = 64 * 1024;
/// The smallest slot that is read.
pub(crate) const MIN_SLOT: usize = PAGE;
/// The largest slot that is read: more than five million segments.
pub(crate) const MAX_SLOT: usize = 1 << 28;

/// The largest generation, ordinal or seq, so that counting on never overflows.
pub(crate) const MAX_NUMBER: u64 = u64::MAX >> 1;

const VIRGIN: u32 = 1;

/// What a slot says apart from meta and entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) generation: u64,
    pub(crate) log_id: [u8; 16],
    pub(crate) user_tag: [u8; 16],
    pub(crate) first_seq: u64,
    pub(crate) checkpoint_seq: u64,
    /// Append position in the active segment after a clean close, else 0.
    pub(crate) clean_offset: u64,
}

/// One segment, as the manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) ordinal: u64,
    pub(crate) salt: u32,
    /// Zero behind page 1 when it was prepared.
    pub(crate) virgin: bool,
    pub(crate) capacity: u64,
    /// 0 in a spare.
    pub(crate) base_seq: u64,
    /// 0 unless sealed.
    pub(crate) end_offset: u64,
    /// 0 unless sealed.
    pub(crate) last_seq: u64,
}

/// What an entry is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Sealed,
    Active,
    Spare,
}

impl Entry {
    /// What the entry is, iff its fields agree.
    pub(crate) fn role(&self) -> Option<Role> {
        let in_range = (MIN_CAPACITY as u64..=MAX_CAPACITY as u64).contains(&self.capacity);
        let sized = in_range && self.capacity.is_multiple_of(PAGE as u64);
        let bounded = [self.ordinal, self.base_seq, self.last_seq].iter().all(|n| *n <= MAX_NUMBER);
        match (self.base_seq, self.end_offset, self.last_seq) {
            _ if !sized || !bounded || self.salt == 0 => None,
            (0, 0, 0) => Some(Role::Spare),
            (0, _, _) => None,
            (_, 0, 0) => Some(Role::Active),
            (base, end, last) => {
                let in_file = end >= FRAMES_AT as u64 && end <= self.capacity && end.is_multiple_of(ALIGN as u64);
                let count = (last + 1).checked_sub(base);
                let fits = |count| count <= (end - FRAMES_AT as u64) / frame::HEADER as u64;
                let empty = end == FRAMES_AT as u64;
                (in_file && count.is_some_and(fits) && (count == Some(0)) == empty).then_some(Role::Sealed)
            }
        }
    }

    fn encode(&self, bytes: &mut [u8]) {
        put(bytes, 0, &self.ordinal.to_le_bytes());
        put(bytes, ENTRY_SALT, &self.salt.to_le_bytes());
        put(bytes, ENTRY_FLAGS, &(if self.virgin { VIRGIN } else { 0 }).to_le_bytes());
        put(bytes, ENTRY_CAPACITY, &self.capacity.to_le_bytes());
        put(bytes, ENTRY_BASE_SEQ, &self.base_seq.to_le_bytes());
        put(bytes, ENTRY_END_OFFSET, &self.end_offset.to_le_bytes());
        put(bytes, ENTRY_LAST_SEQ, &self.last_seq.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let flags = get_u32(bytes, ENTRY_FLAGS);
        (flags & !VIRGIN == 0).then(|| Self {
            ordinal: get_u64(bytes, 0),
            salt: get_u32(bytes, ENTRY_SALT),
            virgin: flags & VIRGIN != 0,
            capacity: get_u64(bytes, ENTRY_CAPACITY),
            base_seq: get_u64(bytes, ENTRY_BASE_SEQ),
            end_offset: get_u64(bytes, ENTRY_END_OFFSET),
            last_seq: get_u64(bytes, ENTRY_LAST_SEQ),
        })
    }
}

/// Bytes of a slot with `meta_len` bytes of meta and `count` entries; `None` if that overflows.
pub(crate) fn size(meta_len: usize, count: usize) -> Option<usize> {
    let entries = count.checked_mul(ENTRY_LEN)?;
    (HEADER + CRC_LEN).checked_add(padded(meta_len)?)?.checked_add(entries)
}

/// How many entries fit a slot beside the largest meta.
pub(crate) const fn room(slot: usize) -> usize {
    slot.saturating_sub(HEADER + MAX_META + CRC_LEN) / ENTRY_LEN
}

/// Writes a slot into `bytes`, which is exactly [`size`] long and zero.
pub(crate) fn encode(bytes: &mut [u8], header: &Header, meta: &[u8], entries: &[Entry]) {
    put(bytes, 0, MAGIC);
    put(bytes, VERSION_AT, &VERSION.to_le_bytes());
    put(bytes, FEATURES, &0_u32.to_le_bytes());
    put(bytes, GENERATION, &header.generation.to_le_bytes());
    put(bytes, LOG_ID, &header.log_id);
    put(bytes, USER_TAG, &header.user_tag);
    put(bytes, FIRST_SEQ, &header.first_seq.to_le_bytes());
    put(bytes, CHECKPOINT_SEQ, &header.checkpoint_seq.to_le_bytes());
    put(bytes, CLEAN_OFFSET, &header.clean_offset.to_le_bytes());
    put(bytes, META_LEN, &(meta.len() as u32).to_le_bytes());
    put(bytes, COUNT, &(entries.len() as u32).to_le_bytes());
    put(bytes, HEADER, meta);
    let first_entry = HEADER + meta.len().next_multiple_of(ALIGN);
    for (entry, place) in entries.iter().zip(bytes[first_entry..].chunks_exact_mut(ENTRY_LEN)) {
        entry.encode(place);
    }
    let end = bytes.len() - CRC_LEN;
    let crc = salted_crc(0, &bytes[..end]);
    put(bytes, end, &crc.to_le_bytes());
}

/// Why a slot is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not a slot, or a damaged one.
    Damaged,
    /// It verifies, but another version or an unknown feature is set.
    Version { version: u32, features: u32 },
}

/// Bytes of the slot that begins with `header` ([`HEADER`] bytes), bounded by the slot size; `None` if it is no slot.
pub(crate) fn used(header: &[u8], slot: usize) -> Option<usize> {
    if header.len() < HEADER || !header.starts_with(MAGIC) {
        return None;
    }
    let meta_len = get_u32(header, META_LEN) as usize;
    let count = get_u32(header, COUNT) as usize;
    size(meta_len, count).filter(|used| meta_len <= MAX_META && *used <= slot)
}

/// A slot that verifies, as borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    pub(crate) header: Header,
    pub(crate) meta: &'a [u8],
    entries: &'a [u8],
}

impl<'a> Slot<'a> {
    /// The entries in order. [`decode`] has checked their order and all but the uniqueness of their ordinals.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + use<'a> {
        self.entries.chunks_exact(ENTRY_LEN).filter_map(Entry::decode)
    }
}

/// The slot in `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Slot<'_>, Refusal> {
    let used = used(bytes, bytes.len()).ok_or(Refusal::Damaged)?;
    let end = used - CRC_LEN;
    if salted_crc(0, &bytes[..end]) != get_u32(bytes, end) {
        return Err(Refusal::Damaged);
    }
    let (version, features) = (get_u32(bytes, VERSION_AT), get_u32(bytes, FEATURES));
    if version != VERSION || features != 0 {
        return Err(Refusal::Version { version, features });
    }
    let meta_len = get_u32(bytes, META_LEN) as usize;
    let slot = Slot {
        header: Header {
            generation: get_u64(bytes, GENERATION),
            log_id: array(bytes, LOG_ID),
            user_tag: array(bytes, USER_TAG),
            first_seq: get_u64(bytes, FIRST_SEQ),
            checkpoint_seq: get_u64(bytes, CHECKPOINT_SEQ),
            clean_offset: get_u64(bytes, CLEAN_OFFSET),
        },
        meta: &bytes[HEADER..HEADER + meta_len],
        entries: &bytes[HEADER + meta_len.next_multiple_of(ALIGN)..end],
    };
    if in_order(&slot) { Ok(slot) } else { Err(Refusal::Damaged) }
}

/// Whether the entries stand in order: sealed ones, the active one, spares.
fn in_order(slot: &Slot<'_>) -> bool {
    let mut active = false;
    let mut next_seq = 1;
    for bytes in slot.entries.chunks_exact(ENTRY_LEN) {
        let Some(entry) = Entry::decode(bytes) else { return false };
        match entry.role() {
            Some(Role::Sealed) if !active && entry.base_seq >= next_seq => {
                next_seq = entry.last_seq + 1;
            }
            Some(Role::Active) if !active && entry.base_seq >= next_seq => active = true,
            Some(Role::Spare) if active => {}
            _ => return false,
        }
    }
    let first_base = slot.entries().next().map_or(u64::MAX, |entry| entry.base_seq);
    let Header { generation, first_seq, checkpoint_seq, .. } = slot.header;
    let bounded = [generation, first_seq, checkpoint_seq].iter().all(|n| *n <= MAX_NUMBER);
    active && bounded && first_seq >= first_base
}
