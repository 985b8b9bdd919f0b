//! The two pages before a segment's frames: the identity, and the words.

use super::{ALIGN, PAGE, SECTOR, VERSION, array, get_u32, get_u64, put, salted_crc};

/// First words of an identity.
const MAGIC: &[u8; 8] = b"MMAPWAL\0";

const IDENTITY_VERSION: usize = MAGIC.len();
const IDENTITY_SALT: usize = IDENTITY_VERSION + 4;
const IDENTITY_LOG_ID: usize = IDENTITY_SALT + 4;
const IDENTITY_ORDINAL: usize = IDENTITY_LOG_ID + 16;
const IDENTITY_CAPACITY: usize = IDENTITY_ORDINAL + 8;
const IDENTITY_CREATED: usize = IDENTITY_CAPACITY + 8;
const IDENTITY_REPLACES: usize = IDENTITY_CREATED + 8;
const IDENTITY_CRC: usize = IDENTITY_LEN - 4;
/// Length of an identity.
pub(crate) const IDENTITY_LEN: usize = 128;
/// Where the two copies of the identity stand.
pub(crate) const IDENTITY_AT: [usize; 2] = [0, SECTOR];
const _: () = assert!(IDENTITY_REPLACES + 8 <= IDENTITY_CRC && IDENTITY_AT[1] + IDENTITY_LEN <= PAGE);

/// Where `published` stands.
pub(crate) const PUBLISHED_AT: usize = PAGE;
/// Where the two copies of `begun` stand, in two sectors.
pub(crate) const BEGUN_AT: [usize; 2] = [PAGE + 64, PAGE + SECTOR + 64];
/// Where the two slots of `durable` stand, in two sectors.
pub(crate) const DURABLE_AT: [usize; 2] = [PAGE + 128, PAGE + SECTOR + 128];
/// Length of a word and its check.
pub(crate) const WORD_LEN: usize = 16;
/// Where frames begin.
pub(crate) const FRAMES_AT: usize = 2 * PAGE;
/// The smallest segment: one page of frames.
pub(crate) const MIN_CAPACITY: usize = FRAMES_AT + PAGE;
/// The largest segment: every offset in it, divided by 8, fits 32 bits with room to spare.
pub(crate) const MAX_CAPACITY: usize = 1 << 34;

/// In `published`: the log goes on in the next segment.
pub(crate) const CLOSED: u64 = 1 << 63;
/// In `published`: something published here was cut off again.
pub(crate) const CUT: u64 = 1 << 62;

/// What a segment file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) salt: u32,
    pub(crate) log_id: [u8; 16],
    pub(crate) ordinal: u64,
    pub(crate) capacity: u64,
    /// Unix time of preparation in nanoseconds.
    pub(crate) created: u64,
    /// The ordinal of the damaged segment whose records these are and in whose place it stands; 0 if it is none.
    pub(crate) replaces: u64,
}

impl Identity {
    /// One copy, as bytes.
    pub(crate) fn encode(&self) -> [u8; IDENTITY_LEN] {
        let mut bytes = [0; IDENTITY_LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, IDENTITY_VERSION, &VERSION.to_le_bytes());
        put(&mut bytes, IDENTITY_SALT, &self.salt.to_le_bytes());
        put(&mut bytes, IDENTITY_LOG_ID, &self.log_id);
        put(&mut bytes, IDENTITY_ORDINAL, &self.ordinal.to_le_bytes());
        put(&mut bytes, IDENTITY_CAPACITY, &self.capacity.to_le_bytes());
        put(&mut bytes, IDENTITY_CREATED, &self.created.to_le_bytes());
        put(&mut bytes, IDENTITY_REPLACES, &self.replaces.to_le_bytes());
        let crc = salted_crc(0, &bytes[..IDENTITY_CRC]);
        put(&mut bytes, IDENTITY_CRC, &crc.to_le_bytes());
        bytes
    }

    /// The copy in `bytes`, iff it is whole and verifies.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; IDENTITY_LEN] = array(bytes.get(..IDENTITY_LEN)?, 0);
        if version(&bytes) != Some(VERSION) {
            return None;
        }
        Some(Self {
            salt: get_u32(&bytes, IDENTITY_SALT),
            log_id: array(&bytes, IDENTITY_LOG_ID),
            ordinal: get_u64(&bytes, IDENTITY_ORDINAL),
            capacity: get_u64(&bytes, IDENTITY_CAPACITY),
            created: get_u64(&bytes, IDENTITY_CREATED),
            replaces: get_u64(&bytes, IDENTITY_REPLACES),
        })
    }
}

/// The version of the identity in `bytes`, iff it is whole and its CRC verifies.
pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
    let bytes = bytes.get(..IDENTITY_LEN)?;
    let whole = bytes.starts_with(MAGIC) && salted_crc(0, &bytes[..IDENTITY_CRC]) == get_u32(bytes, IDENTITY_CRC);
    whole.then(|| get_u32(bytes, IDENTITY_VERSION))
}

/// The check of the word `value`.
pub(crate) fn check(salt: u32, value: u64) -> u64 {
    let crc = salted_crc(salt, &value.to_le_bytes());
    u64::from(crc) | (u64::from(!crc) << 32)
}

/// The word `value` with its check, as bytes.
pub(crate) fn checked(salt: u32, value: u64) -> [u8; WORD_LEN] {
    let mut bytes = [0; WORD_LEN];
    put(&mut bytes, 0, &value.to_le_bytes());
    put(&mut bytes, size_of::<u64>(), &check(salt, value).to_le_bytes());
    bytes
}

/// The word at `at` of `head` with its check, iff that verifies.
fn checked_word(head: &[u8], at: usize, salt: u32) -> Option<u64> {
    let word = head.get(at..at + WORD_LEN)?;
    let value = get_u64(word, 0);
    (get_u64(word, 8) == check(salt, value)).then_some(value)
}

/// The salt of a segment whose identity is lost, from the first of its words whose check agrees with itself.
pub(crate) fn salt_of_words(head: &[u8]) -> Option<u32> {
    let salt = |at| {
        let word: [u8; WORD_LEN] = array(head.get(at..at + WORD_LEN)?, 0);
        let (crc, complement) = (get_u32(&word, 8), get_u32(&word, 12));
        (crc == !complement).then(|| initial_of(crc, &word[..8]))
    };
    BEGUN_AT.into_iter().chain(DURABLE_AT).find_map(salt)
}

/// What a CRC of `bytes` that came to `crc` was started from: each step of a CRC can be taken back.
fn initial_of(crc: u32, bytes: &[u8]) -> u32 {
    /// The polynomial, as CRC-32/ISO-HDLC shifts it.
    const REFLECTED: u32 = 0xedb8_8320;
    let back = |state: u32| if state >> 31 == 1 { (state ^ REFLECTED) << 1 | 1 } else { state << 1 };
    let state =
        bytes.iter().rev().fold(!crc, |state, byte| (0..8).fold(state, |state, _| back(state)) ^ u32::from(*byte));
    !state
}

/// The base seq of a segment that was begun, from either copy; `head` is the file up to [`FRAMES_AT`].
pub(crate) fn begun(head: &[u8], salt: u32) -> Option<u64> {
    let copy = |at| checked_word(head, at, salt).filter(|base| *base >= 1);
    BEGUN_AT.into_iter().find_map(copy)
}

/// Up to where `published` says that frames are visible; `head` is the file up to [`FRAMES_AT`].
pub(crate) fn published(head: &[u8]) -> u64 {
    head.get(PUBLISHED_AT..PUBLISHED_AT + size_of::<u64>()).map_or(0, |word| get_u64(word, 0) & !(CLOSED | CUT))
}

/// The largest D that a `durable` slot vouches for in a segment of `capacity`.
pub(crate) fn durable(head: &[u8], salt: u32, capacity: usize) -> Option<usize> {
    let slot = |at| {
        let offset = usize::try_from(checked_word(head, at, salt)?).ok()?;
        is_position(offset, capacity).then_some(offset)
    };
    DURABLE_AT.into_iter().filter_map(slot).max()
}

/// Whether `offset` can be the end of frames in a segment of `capacity`.
pub(crate) fn is_position(offset: usize, capacity: usize) -> bool {
    offset.is_multiple_of(ALIGN) && (FRAMES_AT..=capacity).contains(&offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_salt_is_what_the_check_of_a_word_was_started_from(salt: u32, value: u64, which in 0..4_usize) {
            let at = [BEGUN_AT, DURABLE_AT].concat()[which];
            let mut head = vec![1; FRAMES_AT];
            prop_assert_eq!(salt_of_words(&head), None);
            put(&mut head, at, &checked(salt, value));
            prop_assert_eq!(salt_of_words(&head), Some(salt));
            put(&mut head, at + 8, &[1; 8]);
            prop_assert_eq!(salt_of_words(&head), None);
            prop_assert_eq!(salt_of_words(&head[..at]), None);
        }
    }
}
