//! The writer: records are encoded straight into the map, and published when they are whole.

mod notes;
mod scratch;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use crate::append::notes::Notes;
use crate::append::scratch::{Scratch, frames_size, place_payloads};
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::frame::{self, HEADER, Header};
use crate::format::manifest::Entry;
use crate::format::segment::FRAMES_AT;
use crate::map::{self, Map, Tail};
use crate::planted::{Bug, planted};
use crate::segment::{End, Pages, Segment, Spare, frame_size};
use crate::storage::Owner;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Counter, Instant, this_thread};

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
    /// Those of `segment`.
    pages: Option<Arc<Pages>>,
    /// Whether an append makes its pages writable before it stores to them: where it waits for a sync, that adds little.
    prefaults: bool,
    /// What was last made writable in `segment`.
    prefaulted: Option<Prefaulted>,
}

/// Pages that were made writable for one thread's append. Other threads that append between the same two syncs, within
/// [`SHARED_FOR`], do not ask again; the same thread does, so that nothing comes between its question and its store.
struct Prefaulted {
    turn: u64,
    to: usize,
    by: usize,
    at: Instant,
}

/// About as long as the sync takes that those threads share.
const SHARED_FOR: Duration = Duration::from_millis(1);

impl Prefaulted {
    fn now(turn: u64, to: usize) -> Self {
        Self { turn, to, by: this_thread(), at: Instant::now() }
    }

    fn covers(&self, turn: Option<u64>, end: usize) -> bool {
        turn == Some(self.turn) && end <= self.to && self.by != this_thread() && self.at.elapsed() < SHARED_FOR
    }
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
    pub(crate) fn new(segment: Arc<Segment>, tail: Tail, next_seq: u64, spares: Vec<Spare>, prefaults: bool) -> Self {
        let (End { offset, .. }, owner, pages) = (segment.end(), segment.owner(), segment.pages());
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
            pages,
            prefaults,
            prefaulted: None,
        }
    }

    /// Makes writable what an append of `size` bytes of frames stores to, if it fits; not inlined, since it calls the
    /// system.
    #[inline(never)]
    fn prefault(&mut self, size: usize) -> Result<()> {
        let end = self.at.saturating_add(size);
        let turn = self.pages.as_ref().and_then(|pages| pages.sync_turn());
        let is_done = self.prefaulted.as_ref().is_some_and(|asked| asked.covers(turn, end));
        if is_done || end > self.segment.capacity() {
            return Ok(());
        }
        self.ask_for(end)?;
        self.prefaulted = turn.map(|turn| Prefaulted::now(turn, end.next_multiple_of(PAGE)));
        Ok(())
    }

    fn ask_for(&self, end: usize) -> Result<()> {
        let Some(pages) = &self.pages else { return Ok(()) };
        // Page by page, and not what lies between: what is made writable is written back.
        let first = self.at - self.at % PAGE;
        if first == FRAMES_AT {
            return pages.prefault(PAGE..end);
        }
        pages.prefault(PAGE..FRAMES_AT)?;
        pages.prefault(first..end)
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
        if self.lacks_space() {
            return Ok(Attempt::Full(size));
        }
        if self.prefaults {
            self.prefault(size)?;
        }
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
        if self.prefaults {
            self.prefault(most)?;
        }
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
        Ok(if self.has_room(size) { Attempt::Done(()) } else { Attempt::Full(size) })
    }

    /// Appends `records` as one batch. Payloads come first and headers only when the last `as_ref` has returned, so that
    /// a batch that is abandoned leaves no frame that verifies.
    pub(crate) fn append_batch<T: AsRef<[u8]>>(&mut self, tag: u16, records: &[T]) -> Result<Attempt<Seqs>> {
        let (start, capacity) = (self.at, self.segment.capacity());
        if self.lacks_space() {
            let need = frames_size(records)?;
            self.owner.check()?;
            return Ok(Attempt::Full(need));
        }
        let pages = self.pages.as_ref().filter(|_| self.prefaults);
        if let Some(pages) = pages {
            pages.prefault(PAGE..FRAMES_AT)?;
        }
        let Some(bytes) = self.tail.bytes(start..capacity) else { return Ok(Attempt::Full(FRAMES_AT)) };
        let mut scratch = Scratch { touched: 0, bytes, owner: self.owner };
        let mut asked = start;
        let need = place_payloads(&mut scratch, records, |to| match pages {
            Some(pages) if start + to > asked => {
                let from = std::mem::replace(&mut asked, (start + to).next_multiple_of(PAGE));
                pages.prefault(from..start + to)
            }
            _ => Ok(()),
        })?;
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

    /// Whether nothing can be appended to this segment for want of space.
    #[inline]
    fn lacks_space(&self) -> bool {
        self.pages.as_ref().is_some_and(|pages| pages.lacks_space())
    }

    /// Whether `need` bytes of frames can be appended to this segment.
    pub(crate) fn has_room(&self, need: usize) -> bool {
        need <= self.segment.capacity() - self.at && !self.lacks_space()
    }

    /// The segments that nothing can be appended to for want of space.
    pub(crate) fn lacking(&self) -> Vec<Arc<Pages>> {
        let spares = self.spares.iter().map(Spare::pages);
        self.pages.iter().chain(spares).filter(|pages| pages.lacks_space()).cloned().collect()
    }

    /// Whether `need` bytes of frames can go into a spare now: the rotation before is sealed and a spare is announced.
    pub(crate) fn can_rotate(&self, need: usize) -> bool {
        (self.rotated.is_none() || planted(Bug::RotateBeforeSeal)) && self.spare_for(need).is_some()
    }

    fn spare_for(&self, need: usize) -> Option<usize> {
        let holds = |spare: &Spare| need <= spare.entry.capacity as usize - FRAMES_AT && !spare.pages().lacks_space();
        self.spares.iter().position(holds)
    }

    /// Makes writable what a rotation for `need` bytes of frames stores to, in this segment and the next.
    ///
    /// # Errors
    /// As [`Pages::prefault`].
    pub(crate) fn prefault_rotation(&self, need: usize) -> Result<()> {
        if let Some(at) = self.spare_for(need) {
            self.spares[at].prefault_front(need)?;
        }
        self.pages.as_ref().map_or(Ok(()), |pages| pages.prefault(PAGE..FRAMES_AT))
    }

    /// Goes on in the first announced spare that holds `need` bytes; the caller has asked [`Writer::can_rotate`].
    pub(crate) fn rotate(&mut self, need: usize) -> Option<Arc<Segment>> {
        let spare = self.spares.remove(self.spare_for(need)?)?;
        let (next, tail) = spare.begin(self.next_seq, self.segment.maps());
        let before = std::mem::replace(&mut self.segment, Arc::clone(&next));
        let left = std::mem::replace(&mut self.tail, tail);
        (self.at, self.notes, self.pages) = (FRAMES_AT, Notes::of(&next), next.pages());
        self.prefaulted = None;
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
        self.can_rotate(0) && self.index_above(above).is_some()
    }

    /// The spare that [`Writer::restart`] would take: the first with an ordinal above this one that has its space.
    pub(crate) fn spare_above(&self, above: u64) -> Option<Entry> {
        self.spares.get(self.index_above(above)?).map(|spare| spare.entry)
    }

    fn index_above(&self, above: u64) -> Option<usize> {
        self.spares.iter().position(|spare| spare.entry.ordinal > above && !spare.pages().lacks_space())
    }

    /// Makes writable what [`Writer::restart`] stores to.
    ///
    /// # Errors
    /// As [`Pages::prefault`].
    pub(crate) fn prefault_restart(&self, above: u64) -> Result<()> {
        self.index_above(above).map_or(Ok(()), |at| self.spares[at].prefault_front(0))
    }

    /// The pages of the spare that comes next.
    pub(crate) fn next_pages(&self) -> Option<Arc<Pages>> {
        self.spares.get(self.spare_for(0)?).map(|spare| Arc::clone(spare.pages()))
    }

    /// Goes on in the first spare with an ordinal above `above` that has its space, with the record `base_seq`, whatever was
    /// written before. Returns also the ordinals of spares that were let go because they have smaller ones.
    pub(crate) fn restart(&mut self, above: u64, base_seq: u64) -> Option<(Arc<Segment>, Vec<u64>)> {
        let ordinal = self.spare_above(above)?.ordinal;
        let (earlier, mut later): (VecDeque<Spare>, VecDeque<Spare>) =
            self.spares.drain(..).partition(|spare| spare.entry.ordinal < ordinal);
        let next = later.iter().position(|spare| spare.entry.ordinal == ordinal).and_then(|at| later.remove(at));
        self.spares = later;
        let skipped = earlier.iter().map(|spare| spare.entry.ordinal).collect();
        let (segment, tail) = next?.begin(base_seq, self.segment.maps());
        (self.segment, self.tail, self.pages) = (Arc::clone(&segment), tail, segment.pages());
        (self.at, self.next_seq, self.notes) = (FRAMES_AT, base_seq, Notes::of(&segment));
        (self.closing, self.rotated, self.left, self.prefaulted) = (None, None, None, None);
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

/// D for a frame that is written at `at` now.
fn watermark(segment: &Segment, at: usize) -> Option<usize> {
    if planted(Bug::WatermarkTooHigh) { Some(at) } else { segment.watermark() }
}
