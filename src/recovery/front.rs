//! Parts of segment files, read by calls: the first pages, one frame, or all of it.

use crate::blank::Blank;
use crate::error::{Operation, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::salted_crc;
use crate::format::segment::FRAMES_AT;
use crate::scan::{self, Front};
use crate::segment::in_memory;
use crate::storage::StoredFile;

/// How much is read by one call: it stays in the cache of a processor until it was looked at.
pub(crate) const PIECE: usize = 256 << 10;

/// The bytes of `file` from `FRAMES_AT` to `capacity`, zero in place of those in front of `from`. Of a segment most is zero,
/// and memory that is not written to is not taken. (Not even what `published` covers is looked at through a map: after a
/// power failure it may cover what the next writer makes zero, and writes again, while it is looked at.)
pub(crate) fn copy(file: &StoredFile, from: usize, capacity: usize) -> Result<Blank> {
    let mut bytes = in_memory(Operation::Copy, file.path(), Blank::new(capacity - FRAMES_AT))?;
    let mut piece = vec![0; PIECE.min(capacity)];
    for at in (from..capacity).step_by(PIECE) {
        let to = (at + PIECE).min(capacity);
        let read = &mut piece[..to - at];
        file.read_at(read, at as u64)?;
        if !scan::is_zero(read) {
            bytes[at - FRAMES_AT..to - FRAMES_AT].copy_from_slice(read);
        }
    }
    Ok(bytes)
}

/// What is seen at the front of the segment `file`, which has these bytes before its frames.
pub(crate) fn front(file: &StoredFile, head: &[u8], salt: u32, capacity: u64) -> Result<Front> {
    let first = frame_at(file, salt, FRAMES_AT, capacity)?.map(|header| header.seq);
    Ok(Front::of(head, salt, usize::try_from(capacity).unwrap_or(usize::MAX), first))
}

/// The frame at `at`, a position behind the head, if one verifies there that has a number.
pub(crate) fn frame_at(file: &StoredFile, salt: u32, at: usize, capacity: u64) -> Result<Option<Header>> {
    let room = usize::try_from(capacity).unwrap_or(usize::MAX).saturating_sub(at);
    let mut fields = [0; HEADER];
    if !at.is_multiple_of(crate::format::ALIGN) || room < HEADER {
        return Ok(None);
    }
    file.read_at(&mut fields, at as u64)?;
    let header = frame::front(&fields).filter(|header| header.seq >= 1 && header.frame_size() <= room);
    let Some(header) = header else { return Ok(None) };
    let mut crc = frame::front_crc(&fields, at, salt);
    let (from, to) = (at + HEADER, at + HEADER + header.len as usize);
    let mut piece = vec![0; PIECE.min(to - from)];
    for from in (from..to).step_by(PIECE) {
        let bytes = &mut piece[..PIECE.min(to - from)];
        file.read_at(bytes, from as u64)?;
        crc = salted_crc(crc, bytes);
    }
    Ok((crc == frame::stored_crc(&fields)).then_some(header))
}
