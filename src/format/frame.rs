//! A frame: one record, its number, and what was durable when it was written.
//!
//! `at` is always an offset in the file, and `frames` the bytes of the file from [`FRAMES_AT`] to the capacity (or to
//! where frames may end), because a map lends out nothing before them.

use super::segment::FRAMES_AT;
use super::{ALIGN, get_u16, get_u32, get_u64, padded, put, salted_crc};

/// Where the fields stand.
const CRC: usize = 0;
const LEN: usize = CRC + 4;
pub(crate) const SEQ: usize = LEN + 4;
const DURABLE_BACK: usize = SEQ + 8;
const FLAGS: usize = DURABLE_BACK + 4;
const RESERVED: usize = FLAGS + 1;
const TAG: usize = RESERVED + 1;
/// Bytes before the payload.
pub(crate) const HEADER: usize = TAG + 2;
const _: () = assert!(HEADER == 24 && HEADER.is_multiple_of(ALIGN));

/// The longest payload.
pub(crate) const MAX_LEN: usize = (u32::MAX - 8192) as usize;
/// The flag of the last frame of a batch.
const COMMIT: u8 = 1;
/// The `durable_back` of a frame that claims nothing.
const NO_CLAIM: u32 = u32::MAX;

/// Bytes that a frame with a payload of `len` occupies, padding included; `None` if no frame may be so long.
#[inline]
pub(crate) const fn size(len: usize) -> Option<usize> {
    if len > MAX_LEN {
        return None;
    }
    padded(HEADER + len)
}

/// The fields of a header but for the CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Length of the payload in bytes.
    pub(crate) len: u32,
    /// The record's sequence number.
    pub(crate) seq: u64,
    /// The raw `durable_back`.
    durable_back: u32,
    /// Whether this is the last frame of its batch.
    pub(crate) commit: bool,
    /// The user's tag.
    pub(crate) tag: u16,
}

impl Header {
    /// The header of a frame at `at`, written when everything below `durable` was durable (`None`: no claim).
    #[inline]
    pub(crate) fn new(at: usize, len: u32, seq: u64, durable: Option<usize>, commit: bool, tag: u16) -> Self {
        let back = durable.and_then(|d| at.checked_sub(d)).and_then(|bytes| u32::try_from(bytes / ALIGN).ok());
        Self { len, seq, durable_back: back.unwrap_or(NO_CLAIM), commit, tag }
    }

    /// D, if the frame, standing at `at`, claims one.
    pub(crate) fn claim(&self, at: usize) -> Option<usize> {
        let back = (self.durable_back as usize).checked_mul(ALIGN)?;
        let durable = at.checked_sub(back)?;
        (self.durable_back != NO_CLAIM && durable >= FRAMES_AT).then_some(durable)
    }

    /// The bytes of the header, with 0 for the CRC.
    #[inline]
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        put(&mut bytes, LEN, &self.len.to_le_bytes());
        put(&mut bytes, SEQ, &self.seq.to_le_bytes());
        put(&mut bytes, DURABLE_BACK, &self.durable_back.to_le_bytes());
        bytes[FLAGS] = if self.commit { COMMIT } else { 0 };
        put(&mut bytes, TAG, &self.tag.to_le_bytes());
        bytes
    }

    /// Bytes of the whole frame, padding included.
    pub(crate) fn frame_size(&self) -> usize {
        // `decode` and the writers have bounded `len`, so this neither overflows nor exceeds the segment.
        (HEADER + self.len as usize + (ALIGN - 1)) & !(ALIGN - 1)
    }
}

/// Notes the length of a payload in a frame that is not sealed yet, and so does not verify.
pub(crate) fn note_len(frame: &mut [u8], len: u32) {
    put(frame, LEN, &len.to_le_bytes());
}

/// The length that [`note_len`] noted.
pub(crate) fn noted_len(frame: &[u8]) -> u32 {
    get_u32(frame, LEN)
}

/// What the CRC of a frame at `at` starts from: a copy of the frame elsewhere, in a payload say, does not verify, and so
/// claims nothing.
pub(crate) fn initial(salt: u32, at: usize) -> u32 {
    // Capacities are bounded so that an offset divided by 8 fits.
    salt ^ (at / ALIGN) as u32
}

/// Writes header, CRC and padding around the payload that already stands in `frame`, which is exactly the size of the
/// frame and will stand at `at`.
#[inline]
pub(crate) fn seal(frame: &mut [u8], header: &Header, at: usize, salt: u32) {
    let end = HEADER + header.len as usize;
    // At once, so that the length is compared once.
    frame[..HEADER].copy_from_slice(&header.encode());
    if end < frame.len() {
        frame[end..].fill(0);
    }
    let crc = salted_crc(initial(salt, at), &frame[LEN..end]);
    put(frame, CRC, &crc.to_le_bytes());
}

/// The header at `at` as it stands, iff its fields are in range and the frame fits: everything but the CRC.
pub(crate) fn peek(frames: &[u8], at: usize) -> Option<Header> {
    let bytes = from(frames, at)?;
    front(bytes).filter(|header| header.frame_size() <= bytes.len())
}

/// Where the frame behind the one at `at` begins, iff that has the number `seq` and its header is one by [`peek`]: of a
/// frame that was verified before and is only passed.
#[inline]
pub(crate) fn pass(frames: &[u8], at: usize, seq: u64) -> Option<usize> {
    let rest = frames.get(at.checked_sub(FRAMES_AT)?..)?;
    let fields = rest.first_chunk::<HEADER>()?;
    let (len, flags) = (get_u32(fields, LEN) as usize, get_u16(fields, FLAGS));
    // A `len` from 32 bits cannot overflow; and one that is too long does not fit.
    let size = (HEADER + len).next_multiple_of(ALIGN);
    let sound = size <= rest.len() && len <= MAX_LEN && flags & !u16::from(COMMIT) == 0;
    (sound && get_u64(fields, SEQ) == seq).then_some(at + size)
}

/// The header at `at` as it stands, whatever its fields are.
pub(crate) fn raw(frames: &[u8], at: usize) -> Option<Header> {
    from(frames, at)?.first_chunk().map(header_of)
}

/// The header that `bytes` begin with, iff its fields are in range. They need not hold the whole frame.
pub(crate) fn front(bytes: &[u8]) -> Option<Header> {
    let fields: &[u8; HEADER] = bytes.first_chunk()?;
    let header = header_of(fields);
    let in_range = size(header.len as usize).is_some() && fields[FLAGS] & !COMMIT == 0 && fields[RESERVED] == 0;
    in_range.then_some(header)
}

/// The bytes from `at` on, if a frame can stand there.
fn from(frames: &[u8], at: usize) -> Option<&[u8]> {
    let index = at.checked_sub(FRAMES_AT).filter(|index| index.is_multiple_of(ALIGN))?;
    frames.get(index..)
}

fn header_of(fields: &[u8; HEADER]) -> Header {
    Header {
        len: get_u32(fields, LEN),
        seq: get_u64(fields, SEQ),
        durable_back: get_u32(fields, DURABLE_BACK),
        commit: fields[FLAGS] == COMMIT,
        tag: get_u16(fields, TAG),
    }
}

/// The CRC that stands in the frame at `at`, and the bytes that it covers; `header` came from [`peek`] at `at`.
pub(crate) fn checked<'a>(frames: &'a [u8], at: usize, header: &Header) -> (u32, &'a [u8]) {
    let index = at - FRAMES_AT;
    (get_u32(frames, index + CRC), &frames[index + LEN..index + HEADER + header.len as usize])
}

/// The payload of the frame at `at`; `header` came from [`peek`] at `at`.
pub(crate) fn payload<'a>(frames: &'a [u8], at: usize, header: &Header) -> &'a [u8] {
    let index = at - FRAMES_AT;
    &frames[index + HEADER..index + HEADER + header.len as usize]
}

/// The frame at `at`, iff it verifies.
pub(crate) fn decode(frames: &[u8], at: usize, salt: u32) -> Option<Header> {
    peek(frames, at).filter(|header| verifies(frames, at, header, salt))
}

/// Whether the CRC of the frame at `at` is right; `header` came from [`peek`] at `at`.
pub(crate) fn verifies(frames: &[u8], at: usize, header: &Header, salt: u32) -> bool {
    front_verifies(&frames[at - FRAMES_AT..], at, header, salt)
}

/// Whether the CRC of the frame that `bytes` begin with, and that stands at `at`, is right; `header` came from [`front`],
/// and `bytes` hold the whole frame.
pub(crate) fn front_verifies(bytes: &[u8], at: usize, header: &Header, salt: u32) -> bool {
    front_crc(&bytes[..HEADER + header.len as usize], at, salt) == stored_crc(bytes)
}

/// The CRC of the frame that `bytes` begin with, and that stands at `at`, as far as `bytes` go: it is continued over the
/// rest with [`salted_crc`].
pub(crate) fn front_crc(bytes: &[u8], at: usize, salt: u32) -> u32 {
    salted_crc(initial(salt, at), &bytes[LEN..])
}

/// The CRC that stands in the frame that `bytes` begin with.
pub(crate) fn stored_crc(bytes: &[u8]) -> u32 {
    get_u32(bytes, CRC)
}
