//! The page that shows a living log to other processes: what its writer has counted, and where readers stand.
//!
//! It is no part of the log: it is never synced, no recovery reads it, and a log without it is whole. It has a version of
//! its own. Integers are little-endian, times are Unix times in nanoseconds.
//!
//! ```text
//!    0  magic "MMAPWALS"        8
//!    8  version u32             1
//!   12  pid u32                 of the writer; 0 after a close
//!   16  opened u64              when the writer opened the log
//!   24  updated u64             when this was written
//!   32  mode u32                0 sync, 1 batch, 2 none
//!   36  namespace u32           inode number of the pid namespace in which `pid` counts; 0: not known
//!   40  numbers                 14 u64: see `Writer`, in its order
//!  152  sync_micros             32 u64 counts by powers of two, sum u64, max u64
//!  424  group_records           the same
//!  696  crc u32                 over everything before it
//! 2048  32 slots of 64 bytes, one for each reader that says where it stands:
//!         0  token u64          random, not 0; 0: free
//!         8  pid u64
//!        16  seq u64            the last record it has dealt with
//!        24  updated u64
//!        32  crc u32            over everything before it
//! ```

use super::{array, get_u32, get_u64, put, salted_crc};

const MAGIC: &[u8; 8] = b"MMAPWALS";
const VERSION: u32 = 1;
const PID_AT: usize = 12;
const OPENED_AT: usize = 16;
const UPDATED_AT: usize = 24;
const MODE_AT: usize = 32;
const NAMESPACE_AT: usize = 36;
const NUMBERS_AT: usize = 40;
const NUMBERS: usize = 14;
const SYNC_MICROS_AT: usize = NUMBERS_AT + NUMBERS * 8;
const POWERS: usize = 32;
const COUNTS_LEN: usize = (POWERS + 2) * 8;
const GROUP_RECORDS_AT: usize = SYNC_MICROS_AT + COUNTS_LEN;
const CRC_AT: usize = GROUP_RECORDS_AT + COUNTS_LEN;
/// Length of what the writer writes.
pub(crate) const WRITER_LEN: usize = CRC_AT + 4;

/// Length of the page.
pub(crate) const PAGE_LEN: usize = super::PAGE;
/// Where the slots of readers begin.
pub(crate) const SLOTS_AT: usize = PAGE_LEN / 2;
/// Length of a slot.
pub(crate) const SLOT_LEN: usize = 64;
/// How many slots there are.
pub(crate) const SLOTS: usize = (PAGE_LEN - SLOTS_AT) / SLOT_LEN;
const SLOT_CRC_AT: usize = 32;
const _: () = assert!(WRITER_LEN <= SLOTS_AT && SLOT_CRC_AT + 4 <= SLOT_LEN);

/// Counts by powers of two, their sum and the largest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) buckets: [u64; POWERS],
    pub(crate) sum: u64,
    pub(crate) max: u64,
}

/// What a writer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) pid: u32,
    pub(crate) opened: u64,
    pub(crate) updated: u64,
    pub(crate) mode: u32,
    pub(crate) namespace: u32,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) checkpoint_seq: u64,
    pub(crate) segments: u64,
    pub(crate) active: u64,
    pub(crate) position: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) rotations: u64,
    pub(crate) segment_waits: u64,
    pub(crate) prepared: u64,
    pub(crate) recycled: u64,
    pub(crate) removed: u64,
    pub(crate) sync_micros: Counts,
    pub(crate) group_records: Counts,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) token: u64,
    pub(crate) pid: u64,
    pub(crate) seq: u64,
    pub(crate) updated: u64,
}

impl Writer {
    fn numbers(&self) -> [u64; NUMBERS] {
        let Self { first_seq, last_seq, durable_seq, checkpoint_seq, segments, active, position, .. } = *self;
        let Self { records, bytes, rotations, segment_waits, prepared, recycled, removed, .. } = *self;
        let here = [first_seq, last_seq, durable_seq, checkpoint_seq, segments, active, position];
        let counted = [records, bytes, rotations, segment_waits, prepared, recycled, removed];
        let mut numbers = [0; NUMBERS];
        numbers[..here.len()].copy_from_slice(&here);
        numbers[here.len()..].copy_from_slice(&counted);
        numbers
    }

    /// As bytes.
    pub(crate) fn encode(&self) -> [u8; WRITER_LEN] {
        let mut bytes = [0; WRITER_LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, MAGIC.len(), &VERSION.to_le_bytes());
        put(&mut bytes, PID_AT, &self.pid.to_le_bytes());
        put(&mut bytes, OPENED_AT, &self.opened.to_le_bytes());
        put(&mut bytes, UPDATED_AT, &self.updated.to_le_bytes());
        put(&mut bytes, MODE_AT, &self.mode.to_le_bytes());
        put(&mut bytes, NAMESPACE_AT, &self.namespace.to_le_bytes());
        for (i, number) in self.numbers().into_iter().enumerate() {
            put(&mut bytes, NUMBERS_AT + 8 * i, &number.to_le_bytes());
        }
        self.sync_micros.encode(&mut bytes[SYNC_MICROS_AT..]);
        self.group_records.encode(&mut bytes[GROUP_RECORDS_AT..]);
        let crc = salted_crc(0, &bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// What stands in `bytes`, iff it is whole and of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; WRITER_LEN] = array(bytes.get(..WRITER_LEN)?, 0);
        let known = bytes.starts_with(MAGIC) && get_u32(&bytes, MAGIC.len()) == VERSION;
        if !known || salted_crc(0, &bytes[..CRC_AT]) != get_u32(&bytes, CRC_AT) {
            return None;
        }
        let number = |i: usize| get_u64(&bytes, NUMBERS_AT + 8 * i);
        Some(Self {
            pid: get_u32(&bytes, PID_AT),
            opened: get_u64(&bytes, OPENED_AT),
            updated: get_u64(&bytes, UPDATED_AT),
            mode: get_u32(&bytes, MODE_AT),
            namespace: get_u32(&bytes, NAMESPACE_AT),
            first_seq: number(0),
            last_seq: number(1),
            durable_seq: number(2),
            checkpoint_seq: number(3),
            segments: number(4),
            active: number(5),
            position: number(6),
            records: number(7),
            bytes: number(8),
            rotations: number(9),
            segment_waits: number(10),
            prepared: number(11),
            recycled: number(12),
            removed: number(13),
            sync_micros: Counts::decode(&bytes[SYNC_MICROS_AT..]),
            group_records: Counts::decode(&bytes[GROUP_RECORDS_AT..]),
        })
    }
}

impl Counts {
    fn encode(&self, bytes: &mut [u8]) {
        for (i, count) in self.buckets.iter().chain([&self.sum, &self.max]).enumerate() {
            put(bytes, 8 * i, &count.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut buckets = [0; POWERS];
        for (i, count) in buckets.iter_mut().enumerate() {
            *count = get_u64(bytes, 8 * i);
        }
        Self { buckets, sum: get_u64(bytes, 8 * POWERS), max: get_u64(bytes, 8 * (POWERS + 1)) }
    }
}

impl Slot {
    /// As bytes.
    pub(crate) fn encode(&self) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        for (i, number) in [self.token, self.pid, self.seq, self.updated].into_iter().enumerate() {
            put(&mut bytes, 8 * i, &number.to_le_bytes());
        }
        let crc = salted_crc(0, &bytes[..SLOT_CRC_AT]);
        put(&mut bytes, SLOT_CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// What stands in `bytes`, iff it is whole and taken.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; SLOT_LEN] = array(bytes.get(..SLOT_LEN)?, 0);
        let whole = salted_crc(0, &bytes[..SLOT_CRC_AT]) == get_u32(&bytes, SLOT_CRC_AT);
        let number = |i: usize| get_u64(&bytes, 8 * i);
        let slot = Self { token: number(0), pid: number(1), seq: number(2), updated: number(3) };
        (whole && slot.token != 0).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_a_flipped_byte_is_noticed() {
        let counts = |n| Counts { buckets: core::array::from_fn(|i| n + i as u64), sum: n, max: n + 1 };
        let (first_seq, last_seq, records, removed) = (5, 9, 77, 14);
        let said = Writer { pid: 7, opened: 1, updated: 2, mode: 1, first_seq, last_seq, ..Writer::default() };
        let said = Writer { namespace: 9, records, removed, sync_micros: counts(3), group_records: counts(4), ..said };
        let bytes = said.encode();
        assert_eq!(Writer::decode(&bytes), Some(said));
        let slot = Slot { token: 1, pid: 2, seq: 3, updated: 4 };
        assert_eq!(Slot::decode(&slot.encode()), Some(slot));
        for at in (0..WRITER_LEN).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let mut flipped = bytes;
            flipped[at] ^= 1;
            assert_eq!(Writer::decode(&flipped), None, "{at}");
        }
        assert_eq!(Slot::decode(&[0; SLOT_LEN]), None);
        assert_eq!(Writer::decode(&bytes[1..]), None);
    }
}
