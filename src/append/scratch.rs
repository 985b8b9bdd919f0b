//! Bytes of a segment that are not published yet.

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER};
use crate::format::segment::{FRAMES_AT, MAX_CAPACITY};
use crate::segment::frame_size;
use crate::storage::Owner;

/// Copies the payloads to where their frames will be and notes their lengths, as far as there is room; returns the bytes
/// that all of them need. Before anything is stored, `prefault` is told up to where.
pub(super) fn place_payloads<T: AsRef<[u8]>>(
    scratch: &mut Scratch<'_>,
    records: &[T],
    mut prefault: impl FnMut(usize) -> Result<()>,
) -> Result<usize> {
    let mut need = 0_usize;
    for record in records {
        let payload = record.as_ref();
        scratch.owner.check()?;
        let size = frame_size(payload.len())?;
        let at = need;
        need = need.saturating_add(size);
        if let Some(frame) = scratch.bytes.get_mut(at..need) {
            prefault(need)?;
            scratch.touched = need;
            frame[HEADER..HEADER + payload.len()].copy_from_slice(payload);
            frame::note_len(frame, payload.len() as u32);
        }
    }
    within_segment(need)
}

/// The bytes that the frames of `records` need.
pub(super) fn frames_size<T: AsRef<[u8]>>(records: &[T]) -> Result<usize> {
    let add = |sum: usize, record: &T| Ok(sum.saturating_add(frame_size(record.as_ref().len())?));
    within_segment(records.iter().try_fold(0, add)?)
}

/// `need`, unless no segment can hold so many bytes of frames.
fn within_segment(need: usize) -> Result<usize> {
    let max = MAX_CAPACITY - FRAMES_AT;
    if need > max { Err(Error::RecordTooLarge { len: need as u64, max: max as u64 }) } else { Ok(need) }
}

/// Unpublished bytes that become zero again unless they are kept, whatever happens in user code but a fork: to the child
/// they do not belong.
pub(super) struct Scratch<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) touched: usize,
    pub(super) owner: Owner,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if self.owner.is_current() {
            self.bytes[..self.touched].fill(0);
        }
    }
}
