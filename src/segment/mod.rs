//! One segment file: prepared, begun, written, synced, read.

mod budget;
mod end;
mod mapped;
mod mapping;
mod maps;
mod pages;
mod part;
mod spare;

use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Corruption, Error, Result};
use crate::format::frame;
use crate::format::manifest::Entry;
use crate::format::name::SegmentName;
use crate::format::segment::{self as words, CLOSED, CUT, DURABLE_AT, FRAMES_AT, PUBLISHED_AT};
use crate::format::{PAGE, get_u64};
use crate::index::SparseIndex;
use crate::map::{Map, Tail};
use crate::storage::{FileId, Owner, Storage};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

use crate::segment::mapped::FileMap;
use crate::segment::maps::Purpose;

pub(crate) use crate::segment::end::End;
pub(crate) use crate::segment::mapping::Mapping;
pub(crate) use crate::segment::maps::{Maps, in_memory, no_room};
pub(crate) use crate::segment::pages::Pages;
pub(crate) use crate::segment::part::MappedPart;
pub(crate) use crate::segment::spare::{Preparation, Spare, in_steps};

/// How many bytes in front of what was synced the system is asked for.
const ASK_AHEAD: usize = 1 << 20;

/// The name of the segment file `ordinal`.
pub(crate) fn file_name(ordinal: u64) -> SegmentName {
    SegmentName::encode(ordinal)
}

/// A segment that holds records, shared by the writer and by every view.
///
/// It is mapped when it is first read. Whoever reads holds the map: a view for as long as it lives, a cursor while it is
/// in the segment. While the segment is appended to, it holds the map itself.
pub(crate) struct Segment {
    storage: Storage,
    log_id: [u8; 16],
    entry: Entry,
    maps: Arc<Maps>,
    /// Shared by all that stand for the same file.
    file: Arc<Mutex<FileMap>>,
    end: AtomicU64,
    /// D for new frames; 0 while an earlier segment is not wholly durable.
    watermark: AtomicUsize,
    /// Which slot of `durable` is written next.
    turn: AtomicUsize,
    /// The page that holds `durable` cannot be stored to, for want of space.
    mute: AtomicBool,
    /// Up to where the system was asked to read what will be written to.
    asked: AtomicUsize,
    /// Where it ended when the file's time of change was last set.
    stamped: AtomicUsize,
    index: Mutex<SparseIndex>,
    /// The records in front of this were verified in this file, batch by batch.
    verified: AtomicUsize,
}

impl Segment {
    /// A sealed segment.
    pub(crate) fn sealed(storage: &Storage, entry: Entry, log_id: [u8; 16], maps: &Arc<Maps>) -> Arc<Self> {
        let end = End { offset: entry.end_offset as usize, count: entry.last_seq + 1 - entry.base_seq };
        Arc::new(Self::new(storage, entry, log_id, maps, end))
    }

    fn new(storage: &Storage, entry: Entry, log_id: [u8; 16], maps: &Arc<Maps>, end: End) -> Self {
        Self {
            storage: storage.clone(),
            log_id,
            entry,
            maps: Arc::clone(maps),
            file: FileMap::unmapped(),
            end: AtomicU64::new(end.pack()),
            watermark: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            mute: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            stamped: AtomicUsize::new(end.offset),
            index: Mutex::default(),
            verified: AtomicUsize::new(FRAMES_AT),
        }
    }

    /// A segment whose map is there, and is kept: frames up to `end`. If it is appended to, that is in `pages`.
    fn live(
        storage: &Storage,
        entry: Entry,
        log_id: [u8; 16],
        maps: &Arc<Maps>,
        mapping: Mapping,
        pages: Option<Arc<Pages>>,
        end: End,
    ) -> Arc<Self> {
        let segment = Self::new(storage, entry, log_id, maps, end);
        let mapping = Arc::new(mapping);
        let mut slot = lock(&segment.file);
        slot.last = Arc::downgrade(&mapping);
        (slot.kept, slot.pages) = (Some(mapping), pages);
        drop(slot);
        Arc::new(segment)
    }

    /// Goes on appending to the active segment of an existing log, of which everything up to `end` is durable; returns also
    /// which file it is.
    pub(crate) fn resume(
        storage: &Storage,
        entry: Entry,
        log_id: [u8; 16],
        maps: &Arc<Maps>,
        end: End,
    ) -> Result<(Arc<Self>, Tail, FileId)> {
        let file = storage.open_write(file_name(entry.ordinal).as_str())?;
        let tail = maps.map_writable(&file, entry.capacity as usize, end.offset)?;
        let mapping = maps.of_writer(storage, file.path().to_owned(), &tail);
        let pages = Pages::new(storage, entry.ordinal, &file, tail.map())?;
        pages.reserve_if_there_is_space(&file)?;
        let id = pages.id();
        let segment = Self::live(storage, entry, log_id, maps, mapping, Some(pages), end);
        segment.watermark.store(end.offset, Ordering::Relaxed);
        Ok((segment, tail, id))
    }

    /// The unsealed segment of a log that is only read, up to `end`, which is bounded by what the reader verified.
    pub(crate) fn view(
        storage: &Storage,
        entry: Entry,
        log_id: [u8; 16],
        maps: &Arc<Maps>,
        end: End,
    ) -> Result<Arc<Self>> {
        let file = storage.open_read(file_name(entry.ordinal).as_str())?;
        let mapping = maps.map_read_only(storage, &file, entry.capacity as usize, end.offset, Purpose::Read)?;
        Ok(Self::live(storage, entry, log_id, maps, mapping, None, end))
    }

    /// The maps of its handle.
    pub(crate) fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// The directory that its file is in.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The id of the log that it is of.
    pub(crate) fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    /// What is known of where its records stand.
    pub(crate) fn index(&self) -> MutexGuard<'_, SparseIndex> {
        lock(&self.index)
    }

    /// Nothing is appended to it any more: its map may be given up.
    pub(crate) fn settle(&self) {
        let end = self.end().place();
        self.index().settle(end);
        let mut slot = lock(&self.file);
        let (kept, pages) = (slot.kept.take(), slot.pages.take());
        drop(slot);
        drop(pages);
        if let Some(mapping) = kept {
            self.maps.keep_idle(mapping);
        }
    }

    /// The process whose handle has it.
    pub(crate) fn owner(&self) -> Owner {
        self.storage.owner()
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

    /// Where its file stands.
    pub(crate) fn path(&self) -> PathBuf {
        self.storage.path(file_name(self.entry.ordinal).as_str())
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
        let mapping = self.mapping()?;
        let sync = || self.storage.sync_map(mapping.path(), mapping.map(), first_page..to);
        match self.pages() {
            Some(pages) => pages.while_syncing(sync)?,
            None => sync()?,
        }
        self.ask_ahead(mapping.map(), to);
        // The page of `durable`, which is stored to next, may have been written back.
        self.prefault_durable()
    }

    fn prefault_durable(&self) -> Result<()> {
        let asked = self.prefault(PAGE..FRAMES_AT);
        self.mute.store(asked.is_err(), Ordering::Relaxed);
        match asked {
            // What was synced is durable all the same.
            Err(Error::NoSpace(_)) => Ok(()),
            Err(e) if e.is_want_of_descriptors() => Ok(()),
            other => other,
        }
    }

    /// The pages that it is appended to in, if it is.
    pub(crate) fn pages(&self) -> Option<Arc<Pages>> {
        lock(&self.file).pages.clone()
    }

    /// Makes the pages of `range` writable, as [`Pages::prefault`] does.
    ///
    /// # Errors
    /// As [`Pages::prefault`].
    fn prefault(&self, range: Range<usize>) -> Result<()> {
        self.pages().map_or(Ok(()), |pages| pages.prefault(range))
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

    /// The same file as a sealed segment that ends at `end`.
    pub(crate) fn cut_at(&self, end: End) -> Arc<Self> {
        let last_seq = self.entry.base_seq + end.count - 1;
        let entry = Entry { end_offset: end.offset as u64, last_seq, ..self.entry };
        let cut = Self::new(&self.storage, entry, self.log_id, &self.maps, end);
        Arc::new(Self { file: Arc::clone(&self.file), ..cut })
    }

    /// Says, to readers that follow, that something that was published here was cut off.
    pub(crate) fn mark_cut(&self) -> Result<()> {
        let file = self.storage.open_write(file_name(self.entry.ordinal).as_str())?;
        let mut word = [0; size_of::<u64>()];
        file.read_at(&mut word, PUBLISHED_AT as u64)?;
        let marked = u64::from_le_bytes(word) | CUT;
        file.write_at(&marked.to_le_bytes(), PUBLISHED_AT as u64)
    }

    /// Stores where it ends, as far as there is space to, and makes that durable.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn witness_end(&self) -> Result<()> {
        self.prefault_durable()?;
        self.witness(self.end().offset)?;
        let mapping = self.mapping()?;
        self.storage.sync_map(mapping.path(), mapping.map(), PAGE..FRAMES_AT)
    }

    /// Sets the file's time of change. A store through a map moves it only if the page had been written back, and a sync does
    /// not; backup tools compare it. Nothing in the log depends on it, so what cannot be set stays as it is.
    pub(crate) fn stamp(&self) {
        self.stamped.store(self.end().offset, Ordering::Relaxed);
        let _ = self.storage.set_times(file_name(self.entry.ordinal).as_str());
    }

    /// As [`Segment::stamp`], if something was appended since.
    pub(crate) fn stamp_appended(&self) {
        if self.stamped.load(Ordering::Relaxed) != self.end().offset {
            self.stamp();
        }
    }

    /// Whether a read of the file that has its name gives the words that `map`, a map of it, shows; also if there is no
    /// such file.
    pub(crate) fn shows_its_file(&self, map: &Map) -> Result<bool> {
        let file = match self.storage.open_read(file_name(self.entry.ordinal).as_str()) {
            Err(e) if e.is_not_found() => return Ok(true),
            other => other?,
        };
        let mut page = [0; FRAMES_AT - PAGE];
        let words = || -> [u64; (FRAMES_AT - PAGE) / size_of::<u64>()] {
            std::array::from_fn(|word| map.load(PAGE + word * size_of::<u64>()))
        };
        let before = words();
        file.read_at(&mut page, PAGE as u64)?;
        // A word that has changed in the map meanwhile was written by who writes the file.
        let same = |(word, (before, after)): (usize, (u64, u64))| {
            before != after || after == get_u64(&page, word * size_of::<u64>())
        };
        Ok(before.into_iter().zip(words()).enumerate().all(same))
    }

    /// Records in the file that everything below `durable` is, once that is true. Where there is no space for that, the
    /// file says less than it could.
    pub(crate) fn witness(&self, durable: usize) -> Result<()> {
        let mapping = self.mapping()?;
        // Of a sealed segment the manifest says so, and its map may be one that is only read.
        if mapping.map().is_writable() && !self.mute.load(Ordering::Relaxed) {
            let at = DURABLE_AT[self.turn.fetch_xor(1, Ordering::Relaxed) & 1];
            mapping.map().store(at, durable as u64);
            mapping.map().store(at + size_of::<u64>(), words::check(self.entry.salt, durable as u64));
        }
        Ok(())
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
            path: self.path(),
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
