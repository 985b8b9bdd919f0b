//! The writer: records are encoded straight into the map, and published when they are whole.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER, Header};
use crate::format::manifest::Entry;
use crate::format::segment::{FRAMES_AT, MAX_CAPACITY};
use crate::index::Sheet;
use crate::map::{self, Map, Tail};
use crate::planted::{Bug, planted};
use crate::segment::{End, Segment, Spare, frame_size};
use crate::storage::Owner;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Counter};

/// So many bytes behind a record, memory is asked for what the records after the next few are written to: a store to what
/// no cache holds is waited for by the unlocking of the writer.
const FETCH_AHEAD: usize = 1 << 10;
/// Of longer records the processor notices by itself where they go on.
const FETCH_MOST: usize = 256;

/// The sequence numbers that an append was given, dense and ascending; empty for an empty batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seqs {
    first: u64,
    len: u64,
}

impl Seqs {
    /// `len` numbers from `first` on.
    pub(crate) const fn new(first: u64, len: u64) -> Self {
        Self { first, len }
    }

    /// The first number; `None` if there is none.
    #[must_use]
    pub const fn first(&self) -> Option<u64> {
        if self.len == 0 { None } else { Some(self.first) }
    }

    /// The last number; `None` if there is none.
    #[must_use]
    pub const fn last(&self) -> Option<u64> {
        if self.len == 0 { None } else { Some(self.first + self.len - 1) }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each of them.
    pub fn iter(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.len
    }
}

impl IntoIterator for Seqs {
    type Item = u64;
    type IntoIter = std::ops::Range<u64>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for &Seqs {
    type Item = u64;
    type IntoIter = std::ops::Range<u64>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What came of trying to write into the present segment.
pub(crate) enum Attempt<T> {
    /// It is written and published.
    Done(T),
    /// It does not fit; so many bytes of frames are needed.
    Full(usize),
}

/// The end of the log that is written to.
pub(crate) struct Writer {
    segment: Arc<Segment>,
    tail: Tail,
    at: usize,
    next_seq: u64,
    notes: Notes,
    spares: VecDeque<Spare>,
    /// The segment before, until the first record behind it is published.
    closing: Option<(Arc<Segment>, Arc<Map>)>,
    /// The segment before, until the manifest has sealed it.
    rotated: Option<Arc<Segment>>,
    /// The tail of the segment before, in which nothing is written any more: letting go of it may take a while.
    left: Option<Tail>,
    counts: Arc<Counts>,
    /// User code that runs in an append may fork.
    owner: Owner,
}

/// What this handle wrote; read without the writer's lock, and written by the writer alone.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) rotations: Counter,
}

fn count(counter: &Counter, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl Writer {
    /// Goes on at the end of `segment` with the record `next_seq`.
    pub(crate) fn new(segment: Arc<Segment>, tail: Tail, next_seq: u64, spares: Vec<Spare>) -> Self {
        let (End { offset, .. }, owner) = (segment.end(), segment.owner());
        Self {
            notes: Notes::of(&segment),
            segment,
            tail,
            at: offset,
            next_seq,
            spares: spares.into(),
            closing: None,
            rotated: None,
            left: None,
            counts: Arc::default(),
            owner,
        }
    }

    /// The last seq that was given.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Appends `payload` as one record.
    #[inline]
    pub(crate) fn append(&mut self, tag: u16, payload: &[u8]) -> Result<Attempt<u64>> {
        self.append_copied(tag, payload.len(), |bytes| bytes.copy_from_slice(payload))
    }

    /// Appends one record, gathered from `parts`.
    pub(crate) fn append_vectored(&mut self, tag: u16, parts: &[IoSlice<'_>]) -> Result<Attempt<u64>> {
        let len = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.len())).unwrap_or(usize::MAX);
        self.append_copied(tag, len, |bytes| {
            let mut to = 0;
            for part in parts {
                bytes[to..to + part.len()].copy_from_slice(part);
                to += part.len();
            }
        })
    }

    /// Appends one record of `len` bytes, all of which `copy` writes.
    #[inline]
    fn append_copied(&mut self, tag: u16, len: usize, copy: impl FnOnce(&mut [u8])) -> Result<Attempt<u64>> {
        let size = frame_size(len)?;
        let free = self.tail.bytes(self.at..self.segment.capacity()).unwrap_or_default();
        map::prefetch(free, size + FETCH_AHEAD..size + FETCH_AHEAD + size.min(FETCH_MOST));
        let Some(bytes) = free.get_mut(..size) else {
            return Ok(Attempt::Full(size));
        };
        copy(&mut bytes[HEADER..HEADER + len]);
        let header = Header::new(self.at, len as u32, self.next_seq, watermark(&self.segment, self.at), true, tag);
        frame::seal(bytes, &header, self.at, self.segment.salt());
        self.notes.take(self.next_seq, self.at, size);
        Ok(Attempt::Done(self.publish(size, 1).first))
    }

    /// Appends one record of at most `max_len` bytes, which `fill` writes into the zeroed bytes of the map.
    pub(crate) fn append_with<E>(
        &mut self,
        max_len: usize,
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<usize, E>,
    ) -> Result<std::result::Result<u64, E>> {
        let most = frame_size(max_len)?;
        let at = self.at;
        let header = |len| Header::new(at, len, self.next_seq, watermark(&self.segment, at), true, 0);
        let Some(bytes) = self.tail.bytes(at..at + most) else {
            return Err(Error::RecordTooLarge { len: max_len as u64, max: self.segment.capacity() as u64 });
        };
        let mut scratch = Scratch { touched: bytes.len(), bytes, owner: self.owner };
        // Not only a recycled segment is not zero here: the zeros behind an attempt that failed are never synced.
        scratch.bytes.fill(0);
        let filled = fill(&mut scratch.bytes[HEADER..HEADER + max_len]);
        // In a child that was forked in there, the bytes are the parent's.
        self.owner.check()?;
        let len = match filled {
            Ok(len) if len <= max_len => len,
            Ok(len) => return Err(Error::RecordTooLarge { len: len as u64, max: max_len as u64 }),
            Err(e) => return Ok(Err(e)),
        };
        let size = frame_size(len)?;
        let (frame, rest) = scratch.bytes.split_at_mut(size);
        rest.fill(0);
        frame::seal(frame, &header(len as u32), at, self.segment.salt());
        scratch.touched = 0;
        drop(scratch);
        self.notes.take(self.next_seq, at, size);
        Ok(Ok(self.publish(size, 1).first))
    }

    /// Whether a record of `max_len` bytes fits the present segment; otherwise how many bytes it needs.
    pub(crate) fn room_for(&self, max_len: usize) -> Result<Attempt<()>> {
        let size = frame_size(max_len)?;
        let fits = size <= self.segment.capacity() - self.at;
        Ok(if fits { Attempt::Done(()) } else { Attempt::Full(size) })
    }

    /// Appends `records` as one batch. Payloads come first and headers only when the last `as_ref` has returned, so that
    /// a batch that is abandoned leaves no frame that verifies.
    pub(crate) fn append_batch<T: AsRef<[u8]>>(&mut self, tag: u16, records: &[T]) -> Result<Attempt<Seqs>> {
        let (start, capacity) = (self.at, self.segment.capacity());
        let Some(bytes) = self.tail.bytes(start..capacity) else { return Ok(Attempt::Full(FRAMES_AT)) };
        let mut scratch = Scratch { touched: 0, bytes, owner: self.owner };
        let need = place_payloads(&mut scratch, records)?;
        if need > scratch.bytes.len() {
            return Ok(Attempt::Full(need));
        }
        let (mut at, mut seq) = (start, self.next_seq);
        while at < start + need {
            let frame = &mut scratch.bytes[at - start..need];
            let len = frame::noted_len(frame);
            let size = frame_size(len as usize)?;
            let commit = size == frame.len() || planted(Bug::BatchWithoutCommit);
            let header = Header::new(at, len, seq, watermark(&self.segment, at), commit, tag);
            frame::seal(&mut frame[..size], &header, at, self.segment.salt());
            self.notes.take(seq, at, size);
            (at, seq) = (at + size, seq + 1);
        }
        scratch.touched = 0;
        drop(scratch);
        Ok(Attempt::Done(self.publish(need, records.len() as u64)))
    }

    /// Shows the next `records` records, `size` bytes, which are noted, and then closes the segment before, if this is the
    /// first record behind it.
    #[inline]
    fn publish(&mut self, size: usize, records: u64) -> Seqs {
        let seqs = Seqs::new(self.next_seq, records);
        self.at += size;
        self.next_seq += records;
        count(&self.counts.records, records);
        count(&self.counts.bytes, size as u64);
        self.segment.publish(&mut self.tail, self.at, records);
        if self.closing.is_some() {
            self.close_before();
        }
        seqs
    }

    #[cold]
    fn close_before(&mut self) {
        if let Some((before, map)) = self.closing.take() {
            before.close(&map);
        }
    }

    /// Whether `need` bytes of frames can go into a spare now: the rotation before is sealed and a spare is announced.
    pub(crate) fn can_rotate(&self, need: usize) -> bool {
        (self.rotated.is_none() || planted(Bug::RotateBeforeSeal)) && self.spare_for(need).is_some()
    }

    fn spare_for(&self, need: usize) -> Option<usize> {
        self.spares.iter().position(|spare| need <= spare.entry.capacity as usize - FRAMES_AT)
    }

    /// Goes on in the first announced spare that holds `need` bytes; the caller has asked [`Writer::can_rotate`].
    pub(crate) fn rotate(&mut self, need: usize) -> Option<Arc<Segment>> {
        let spare = self.spares.remove(self.spare_for(need)?)?;
        let (next, tail) = spare.begin(self.next_seq, self.segment.maps());
        let before = std::mem::replace(&mut self.segment, Arc::clone(&next));
        let left = std::mem::replace(&mut self.tail, tail);
        (self.at, self.notes) = (FRAMES_AT, Notes::of(&next));
        count(&self.counts.rotations, 1);
        if let Some((earlier, map)) = self.closing.replace((Arc::clone(&before), Arc::clone(left.map()))) {
            earlier.close(&map);
        }
        self.left = Some(left);
        self.rotated = Some(before);
        Some(next)
    }

    /// There is no segment to append to: nothing has happened.
    pub(crate) fn was_refused(&mut self) {
        if planted(Bug::NumberWithoutSpace) {
            self.segment.publish(&mut self.tail, self.at, 1);
            self.next_seq += 1;
        }
    }

    /// Whether the log can be cut now and go on in a spare with an ordinal above this one.
    pub(crate) fn can_restart(&self, above: u64) -> bool {
        self.can_rotate(0) && self.spare_above(above).is_some()
    }

    /// The spare that [`Writer::restart`] would take: the first with an ordinal above this one.
    pub(crate) fn spare_above(&self, above: u64) -> Option<Entry> {
        self.spares.iter().map(|spare| spare.entry).find(|entry| entry.ordinal > above)
    }

    /// The spare that comes next, and its map.
    pub(crate) fn next_map(&self) -> Option<(u64, Arc<Map>)> {
        self.spares.front().map(|spare| (spare.entry.ordinal, Arc::clone(spare.map())))
    }

    /// Goes on in the first spare with an ordinal above `above` with the record `base_seq`, whatever was written before.
    /// Returns also the ordinals of spares that were let go because they have smaller ones.
    pub(crate) fn restart(&mut self, above: u64, base_seq: u64) -> Option<(Arc<Segment>, Vec<u64>)> {
        let ordinal = self.spare_above(above)?.ordinal;
        let (earlier, mut later): (VecDeque<Spare>, VecDeque<Spare>) =
            self.spares.drain(..).partition(|spare| spare.entry.ordinal < ordinal);
        let next = later.iter().position(|spare| spare.entry.ordinal == ordinal).and_then(|at| later.remove(at));
        self.spares = later;
        let skipped = earlier.iter().map(|spare| spare.entry.ordinal).collect();
        let (segment, tail) = next?.begin(base_seq, self.segment.maps());
        (self.segment, self.tail) = (Arc::clone(&segment), tail);
        (self.at, self.next_seq, self.notes) = (FRAMES_AT, base_seq, Notes::of(&segment));
        (self.closing, self.rotated, self.left) = (None, None, None);
        Some((segment, skipped))
    }

    /// The segment that was rotated away and is not sealed, with the one that the log goes on in.
    pub(crate) fn unsealed(&self) -> Option<(Arc<Segment>, Arc<Segment>)> {
        self.rotated.as_ref().map(|before| (Arc::clone(before), Arc::clone(&self.segment)))
    }

    /// The tail of the segment that was rotated away, to be let go without the writer's lock.
    #[must_use]
    pub(crate) fn left_tail(&mut self) -> Option<Tail> {
        self.left.take()
    }

    /// The manifest has sealed the segment before.
    pub(crate) fn sealed(&mut self) {
        self.rotated = None;
    }

    /// Takes in a spare that the manifest has announced.
    pub(crate) fn announced(&mut self, spare: Spare) {
        self.spares.push_back(spare);
    }

    /// How many spares are announced.
    pub(crate) fn spare_count(&self) -> usize {
        self.spares.len()
    }

    /// Whether a spare holds `need` bytes of frames.
    pub(crate) fn has_spare_for(&self, need: usize) -> bool {
        self.spare_for(need).is_some()
    }

    /// What this handle wrote.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The segment that is appended to.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }
}

/// What the writer puts down of where records stand: two comparisons for each, a store or two for every so many.
struct Notes {
    sheet: Option<Arc<Sheet>>,
    base_seq: u64,
    /// The next record whose place is put down.
    due: u64,
    /// Bytes of each record since the last one whose place was put down; `DIFFERENT` once they are not of one size.
    alike: usize,
}

/// The size of no record.
const DIFFERENT: usize = 0;

impl Notes {
    /// Of `segment`, which has no records if it has a sheet.
    fn of(segment: &Segment) -> Self {
        let (sheet, base_seq) = (segment.index().sheet(), segment.base_seq());
        let due = if sheet.is_some() { base_seq } else { u64::MAX };
        Self { sheet, base_seq, due, alike: DIFFERENT }
    }

    /// The record `seq` stands at `offset` and occupies `size` bytes; it is published only after this.
    #[inline]
    fn take(&mut self, seq: u64, offset: usize, size: usize) {
        if seq == self.due {
            self.put_down(offset);
            self.alike = size;
        } else if size != self.alike && self.alike != DIFFERENT {
            self.put_down_difference(seq);
        }
    }

    fn put_down(&mut self, offset: usize) {
        if let Some(sheet) = &self.sheet {
            sheet.put(self.due - self.base_seq, offset);
            self.due += sheet.stride();
        }
    }

    fn put_down_difference(&mut self, seq: u64) {
        self.alike = DIFFERENT;
        if let Some(sheet) = &self.sheet {
            sheet.differ(seq - self.base_seq);
        }
    }
}

/// D for a frame that is written at `at` now.
fn watermark(segment: &Segment, at: usize) -> Option<usize> {
    if planted(Bug::WatermarkTooHigh) { Some(at) } else { segment.watermark() }
}

/// Copies the payloads to where their frames will be and notes their lengths, as far as there is room; returns the bytes
/// that all of them need.
fn place_payloads<T: AsRef<[u8]>>(scratch: &mut Scratch<'_>, records: &[T]) -> Result<usize> {
    let mut need = 0_usize;
    for record in records {
        let payload = record.as_ref();
        scratch.owner.check()?;
        let size = frame_size(payload.len())?;
        let at = need;
        need = need.saturating_add(size);
        if let Some(frame) = scratch.bytes.get_mut(at..need) {
            scratch.touched = need;
            frame[HEADER..HEADER + payload.len()].copy_from_slice(payload);
            frame::note_len(frame, payload.len() as u32);
        }
    }
    let max = MAX_CAPACITY - FRAMES_AT;
    if need > max { Err(Error::RecordTooLarge { len: need as u64, max: max as u64 }) } else { Ok(need) }
}

/// Unpublished bytes that become zero again unless they are kept, whatever happens in user code but a fork: to the child
/// they do not belong.
struct Scratch<'a> {
    bytes: &'a mut [u8],
    touched: usize,
    owner: Owner,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if self.owner.is_current() {
            self.bytes[..self.touched].fill(0);
        }
    }
}
