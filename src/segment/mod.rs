//! One segment file: prepared, begun, written, synced, read.

mod end;
mod pages;
mod spare;

use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Corruption, Error, MissingSegment, Result};
use crate::format::PAGE;
use crate::format::frame;
use crate::format::manifest::Entry;
use crate::format::name::SegmentName;
use crate::format::segment::{self as words, CLOSED, CUT, DURABLE_AT, FRAMES_AT, PUBLISHED_AT};
use crate::identity::check_identity;
use crate::index::SparseIndex;
use crate::map::{Map, Tail};
use crate::presence::Presence;
use crate::scan::{self, Walk};
use crate::storage::Storage;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, lock};

pub(crate) use crate::segment::end::{End, Published};
pub(crate) use crate::segment::pages::Pages;
pub(crate) use crate::segment::spare::{Preparation, Spare, in_steps};

/// How many bytes in front of what was synced the system is asked for.
const ASK_AHEAD: usize = 1 << 20;

/// The name of the segment file `ordinal`.
pub(crate) fn file_name(ordinal: u64) -> SegmentName {
    SegmentName::encode(ordinal)
}

/// A segment that holds records, shared by the writer and by every view.
pub(crate) struct Segment {
    storage: Storage,
    path: PathBuf,
    log_id: Option<[u8; 16]>,
    entry: Entry,
    map: OnceLock<Arc<Map>>,
    /// If it is appended to.
    pages: Option<Arc<Pages>>,
    end: AtomicU64,
    /// D for new frames; 0 while an earlier segment is not wholly durable.
    watermark: AtomicUsize,
    /// Which slot of `durable` is written next.
    turn: AtomicUsize,
    /// The page that holds `durable` cannot be stored to, for want of space.
    mute: AtomicBool,
    /// Up to where the system was asked to read what will be written to.
    asked: AtomicUsize,
    index: Mutex<SparseIndex>,
    present: Presence,
    /// The records in front of this were verified through this map, batch by batch.
    verified: AtomicUsize,
    /// Shared by all that stand for the same file.
    users: Arc<()>,
}

impl Segment {
    /// A sealed segment, which is mapped when it is first read.
    pub(crate) fn sealed(storage: &Storage, entry: Entry, log_id: [u8; 16]) -> Arc<Self> {
        Arc::new(Self::unmapped(storage, entry, log_id))
    }

    fn unmapped(storage: &Storage, entry: Entry, log_id: [u8; 16]) -> Self {
        let end = End { offset: entry.end_offset as usize, count: entry.last_seq + 1 - entry.base_seq };
        Self {
            path: storage.path(file_name(entry.ordinal).as_str()),
            storage: storage.clone(),
            log_id: Some(log_id),
            entry,
            map: OnceLock::new(),
            pages: None,
            end: AtomicU64::new(end.pack()),
            watermark: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            mute: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            index: Mutex::default(),
            present: Presence::none(entry.capacity as usize),
            verified: AtomicUsize::new(FRAMES_AT),
            users: Arc::default(),
        }
    }

    /// A segment whose map is there, with frames up to `end`.
    fn live(storage: &Storage, entry: Entry, path: PathBuf, map: Arc<Map>, end: End) -> Self {
        Self {
            storage: storage.clone(),
            path,
            log_id: None,
            entry,
            map: OnceLock::from(map),
            pages: None,
            end: AtomicU64::new(end.pack()),
            watermark: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            mute: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            index: Mutex::default(),
            present: Presence::none(entry.capacity as usize),
            verified: AtomicUsize::new(FRAMES_AT),
            users: Arc::default(),
        }
    }

    /// A segment that is appended to: `pages` hold frames up to `end`.
    fn appended(storage: &Storage, entry: Entry, pages: Arc<Pages>, end: End) -> Arc<Self> {
        let (path, map) = (pages.path().clone(), Arc::clone(pages.map()));
        Arc::new(Self { pages: Some(pages), ..Self::live(storage, entry, path, map, end) })
    }

    /// Goes on appending to the active segment of an existing log, of which everything up to `end` is durable.
    pub(crate) fn resume(storage: &Storage, entry: Entry, end: End) -> Result<(Arc<Self>, Tail)> {
        let file = storage.open_write(file_name(entry.ordinal).as_str())?;
        let tail = file.map_writable(entry.capacity as usize, end.offset)?;
        let pages = Pages::new(storage, entry.ordinal, &file, tail.map());
        pages.reserve_if_there_is_space(&file)?;
        let segment = Self::appended(storage, entry, pages, end);
        segment.watermark.store(end.offset, Ordering::Relaxed);
        Ok((segment, tail))
    }

    /// The unsealed segment of a log that is only read, up to `end`, which is bounded by what the reader verified.
    pub(crate) fn view(storage: &Storage, entry: Entry, end: End) -> Result<Arc<Self>> {
        let file = storage.open_read(file_name(entry.ordinal).as_str())?;
        let map = Arc::new(file.map_read_only(entry.capacity as usize, end.offset)?);
        Ok(Arc::new(Self::live(storage, entry, file.path().to_owned(), map, end)))
    }

    /// What is known of where its records stand.
    pub(crate) fn index(&self) -> MutexGuard<'_, SparseIndex> {
        lock(&self.index)
    }

    /// Nothing is appended to it any more.
    pub(crate) fn settle_index(&self) {
        let end = self.end().place();
        self.index().settle(end);
    }

    /// Its ordinal.
    pub(crate) fn ordinal(&self) -> u64 {
        self.entry.ordinal
    }

    /// Its salt.
    #[inline]
    pub(crate) fn salt(&self) -> u32 {
        self.entry.salt
    }

    /// Its file's length in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.entry.capacity as usize
    }

    /// The seq of its first record.
    pub(crate) fn base_seq(&self) -> u64 {
        self.entry.base_seq
    }

    /// How far it reaches as of now.
    #[inline]
    pub(crate) fn end(&self) -> End {
        End::unpack(self.end.load(Ordering::Acquire))
    }

    /// The seq of its last record as of now; `base_seq - 1` while it has none.
    pub(crate) fn last_seq(&self) -> u64 {
        self.base_seq() + self.end().count - 1
    }

    /// The bytes of its frames up to `end`, which is at most [`Segment::end`].
    pub(crate) fn frames(&self, end: End) -> Result<&[u8]> {
        let prefix = self.map()?.prefix();
        Ok(&prefix[..(end.offset - FRAMES_AT).min(prefix.len())])
    }

    /// As [`Segment::frames`], if the map was made.
    #[inline]
    pub(crate) fn mapped_frames(&self, end: End) -> Option<&[u8]> {
        self.map.get()?.prefix().get(..end.offset - FRAMES_AT)
    }

    /// The map, made at the first call: from then on the segment can be read even when its file was removed.
    pub(crate) fn map(&self) -> Result<&Arc<Map>> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => self.map_now(),
        }
    }

    #[cold]
    fn map_now(&self) -> Result<&Arc<Map>> {
        let map = Arc::new(self.open_sealed()?);
        // Two threads may both have mapped the file; one map is kept.
        Ok(self.map.get_or_init(|| map))
    }

    fn open_sealed(&self) -> Result<Map> {
        let entry = &self.entry;
        let missing = |found_len| {
            let path = self.path.clone();
            Error::MissingSegment(Box::new(MissingSegment { path, expected_len: entry.capacity, found_len }))
        };
        let file = match self.storage.open_read(file_name(entry.ordinal).as_str()) {
            Err(e) if e.is_not_found() => return Err(missing(None)),
            other => other?,
        };
        let len = file.len()?;
        if len != entry.capacity {
            return Err(missing(Some(len)));
        }
        if let Some(log_id) = self.log_id {
            let mut page = [0; PAGE];
            file.read_at(&mut page, 0)?;
            check_identity(&self.path, &page, entry, log_id)?;
        }
        file.map_read_only(self.capacity(), entry.end_offset as usize)
    }

    /// D for a frame that is written now; `None`: it may not claim anything.
    #[inline]
    pub(crate) fn watermark(&self) -> Option<usize> {
        match self.watermark.load(Ordering::Acquire) {
            0 => None,
            durable => Some(durable),
        }
    }

    /// Lets new frames claim that everything below `durable`, and every earlier segment, is durable.
    pub(crate) fn raise_watermark(&self, durable: usize) {
        self.watermark.store(durable, Ordering::Release);
    }

    /// Shows `records` more records, up to `offset`, to the readers of this and of other processes.
    #[inline]
    pub(crate) fn publish(&self, tail: &mut Tail, offset: usize, records: u64) {
        tail.publish(offset);
        tail.map().store(PUBLISHED_AT, offset as u64);
        let end = End { offset, count: self.end().count + records };
        self.end.store(end.pack(), Ordering::Release);
    }

    /// Says that the log goes on in the next segment.
    pub(crate) fn close(&self, map: &Map) {
        map.store(PUBLISHED_AT, self.end().offset as u64 | CLOSED);
    }

    /// Makes the bytes from `from` to `to` durable, and with the first ones the page that says where the segment begins.
    pub(crate) fn sync(&self, from: usize, to: usize) -> Result<()> {
        let first_page = if from == FRAMES_AT { PAGE } else { from };
        let map = self.map()?;
        let sync = || self.storage.sync_map(&self.path, map, first_page..to);
        self.pages.as_ref().map_or_else(sync, |pages| pages.while_syncing(sync))?;
        self.ask_ahead(map, to);
        // The page of `durable`, which is stored to next, was just written back.
        if from == FRAMES_AT || self.mute.load(Ordering::Relaxed) { self.prefault_durable() } else { Ok(()) }
    }

    fn prefault_durable(&self) -> Result<()> {
        let asked = self.prefault(PAGE..FRAMES_AT);
        self.mute.store(asked.is_err(), Ordering::Relaxed);
        match asked {
            // What was synced is durable all the same.
            Err(Error::NoSpace(_)) => Ok(()),
            other => other,
        }
    }

    /// The pages that it is appended to in.
    pub(crate) fn pages(&self) -> Option<&Arc<Pages>> {
        self.pages.as_ref()
    }

    /// Whether it cannot be appended to for want of space.
    #[inline]
    pub(crate) fn lacks_space(&self) -> bool {
        self.pages.as_ref().is_some_and(|pages| pages.lacks_space())
    }

    /// Makes the pages of `range` writable, as [`Pages::prefault`] does.
    ///
    /// # Errors
    /// As [`Pages::prefault`].
    pub(crate) fn prefault(&self, range: Range<usize>) -> Result<()> {
        self.pages.as_ref().map_or(Ok(()), |pages| pages.prefault(range))
    }

    /// Makes the page in which frames go on behind `synced` writable again after a sync, if they still do.
    ///
    /// # Errors
    /// As [`Pages::prefault`].
    pub(crate) fn prefault_after_sync(&self, synced: usize) -> Result<()> {
        let page = synced - synced % PAGE;
        let is_left = self.end().offset >= page + PAGE;
        if page == synced || is_left { Ok(()) } else { self.prefault(page..page + PAGE) }
    }

    /// Has the pages that appends will reach soon read in, if they are not there: after an open they may be on the disk
    /// only, and each would be waited for by itself. Nothing above `at` was written to yet.
    fn ask_ahead(&self, map: &Map, at: usize) {
        let asked = self.asked.load(Ordering::Relaxed).max(at);
        if asked < self.capacity() && asked - at < ASK_AHEAD / 2 {
            let to = at.saturating_add(ASK_AHEAD).min(self.capacity());
            map.will_need(asked - asked % PAGE..to);
            self.asked.store(to, Ordering::Relaxed);
        }
    }

    /// How far its frames are visible, as whoever writes it says in the file.
    pub(crate) fn published(&self) -> Result<Published> {
        let word = self.map()?.load(PUBLISHED_AT);
        let offset = usize::try_from(word & !(CLOSED | CUT)).ok();
        let offset = offset.filter(|offset| words::is_position(*offset, self.capacity()));
        Ok(Published { word, offset, cut: word & CUT != 0, closed: word & CLOSED != 0 })
    }

    /// Up to where it is durable, as whoever writes it says in the file.
    pub(crate) fn durable(&self) -> Result<usize> {
        let map = self.map()?;
        let slots = DURABLE_AT.map(|at| (map.load(at), map.load(at + size_of::<u64>())));
        let verified = slots.into_iter().filter(|(value, check)| words::check(self.entry.salt, *value) == *check);
        let offsets = verified.filter_map(|(value, _)| usize::try_from(value).ok());
        Ok(offsets.filter(|offset| words::is_position(*offset, self.capacity())).max().unwrap_or(FRAMES_AT))
    }

    /// Lets what was published up to `to` since be read.
    pub(crate) fn follow(&self, to: usize) -> Result<()> {
        self.map()?.raise(to);
        Ok(())
    }

    /// The same file as a sealed segment that ends at `end`.
    pub(crate) fn cut_at(&self, end: End, log_id: [u8; 16]) -> Arc<Self> {
        let last_seq = self.entry.base_seq + end.count - 1;
        let entry = Entry { end_offset: end.offset as u64, last_seq, ..self.entry };
        Arc::new(Self { users: Arc::clone(&self.users), ..Self::unmapped(&self.storage, entry, log_id) })
    }

    /// Says, to readers that follow, that something that was published here was cut off.
    pub(crate) fn mark_cut(&self) -> Result<()> {
        let file = self.storage.open_write(file_name(self.entry.ordinal).as_str())?;
        let mut word = [0; size_of::<u64>()];
        file.read_at(&mut word, PUBLISHED_AT as u64)?;
        let marked = u64::from_le_bytes(word) | CUT;
        file.write_at(&marked.to_le_bytes(), PUBLISHED_AT as u64)
    }

    /// Whether a view, or another thread, may still look at the file; `of` is the caller's own handle.
    pub(crate) fn is_shared(of: &Arc<Self>) -> bool {
        Arc::strong_count(of) > 1 || Arc::strong_count(&of.users) > 1
    }

    /// Stores where it ends, as far as there is space to, and makes that durable.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn witness_end(&self) -> Result<()> {
        self.prefault_durable()?;
        self.witness(self.end().offset)?;
        self.sync_words()
    }

    /// Makes the words durable.
    fn sync_words(&self) -> Result<()> {
        self.storage.sync_map(&self.path, self.map()?, PAGE..FRAMES_AT)
    }

    /// Records in the file that everything below `durable` is, once that is true. Where there is no space for that, the
    /// file says less than it could.
    pub(crate) fn witness(&self, durable: usize) -> Result<()> {
        if self.mute.load(Ordering::Relaxed) {
            return Ok(());
        }
        let at = DURABLE_AT[self.turn.fetch_xor(1, Ordering::Relaxed) & 1];
        let map = self.map()?;
        map.store(at, durable as u64);
        map.store(at + size_of::<u64>(), words::check(self.entry.salt, durable as u64));
        Ok(())
    }

    /// Brings the bytes of `from..to` in, so that a device that cannot deliver them says so here and not by a signal.
    /// Returns up to where everything from `from` on is there, which is `to` or further.
    pub(crate) fn bring_in(&self, from: usize, to: usize) -> Result<usize> {
        self.present.bring_in(from..to, |bytes| {
            let map = self.map()?;
            // What comes next is read while these are looked at.
            let next = bytes.end.min(map.len())..(bytes.end + bytes.len()).min(map.len());
            self.storage.populate_read(&self.path, map, bytes.start..next.start)?;
            map.will_need(next);
            Ok(())
        })?;
        Ok(self.present.holds_from(to))
    }

    /// Up to where bytes from `at` on were brought in, `at` itself if that was not.
    pub(crate) fn held_to(&self, at: usize) -> usize {
        self.present.holds_from(at)
    }

    /// Walks its frames up to `end`, verifying each; `report` is told where the walk is whenever more is brought in.
    pub(crate) fn walk(&self, end: End, mut report: impl FnMut(usize)) -> Result<Walk> {
        scan::walk_present(self.frames(end)?, self.salt(), self.base_seq(), end.offset, |wanted| {
            report(wanted.start);
            self.bring_in(wanted.start, wanted.end)
        })
    }

    /// Up to where, from its front, every batch was found whole through this map: its bytes do not change any more.
    pub(crate) fn verified(&self) -> usize {
        self.verified.load(Ordering::Relaxed)
    }

    /// Takes note that every batch of `from..to` is whole.
    pub(crate) fn note_verified(&self, from: usize, to: usize) {
        if from <= self.verified() {
            self.verified.fetch_max(to, Ordering::Relaxed);
        }
    }

    /// Damage at `offset`, where the record `expected_seq` should be.
    pub(crate) fn damage(&self, offset: usize, expected_seq: u64, durable: usize, reason: &'static str) -> Error {
        Error::Corrupt(Box::new(Corruption {
            path: self.path.clone(),
            segment: self.entry.ordinal,
            offset: offset as u64,
            expected_seq,
            durable_offset: durable as u64,
            reason,
        }))
    }
}

/// Bytes that a record of `len` bytes occupies, and the error if no record can be so long.
#[inline]
pub(crate) fn frame_size(len: usize) -> Result<usize> {
    let too_large = || Error::RecordTooLarge { len: len as u64, max: frame::MAX_LEN as u64 };
    frame::size(len).ok_or_else(too_large)
}
