//! Views of a log: what was there at one moment, without a copy, for as long as anybody looks.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame;
use crate::segment::{End, MappedPart, Mapping};
use crate::view::{Backward, Forward, Found, Located, MapWindow, View, find, find_at_once};

/// An immutable view of a log.
///
/// A segment is mapped when something of it is first shown by [`get`](Snapshot::get), [`replay`](Snapshot::replay) or
/// [`replay_back`](Snapshot::replay_back), and stays mapped for as long as the snapshot and its clones live: what they have
/// returned stays where it is, unchanged. A handle holds at most [`max_maps`](crate::Options::max_maps) maps; a log of more
/// segments is read with a [`cursor`](Snapshot::cursor), which holds one.
///
/// **Truncation.** All that a snapshot of a [`Wal`](crate::Wal) shows stays readable while the handle goes on, truncates,
/// cuts or resets its log. That of a [`Reader`](crate::Reader), or of a handle that was closed, does not stop the process
/// that writes: what that truncates before it was mapped is [`Error::Truncated`], what it cuts off
/// [`Error::TruncatedBack`]. What was mapped stays readable, and [`map_all`](Snapshot::map_all) maps everything.
///
/// In a child of `fork` the records that were shown before the fork can be read and do not change; to ask for others is
/// [`Error::Forked`](crate::Error::Forked). A child that wants to read the log opens a [`Reader`](crate::Reader).
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
}

/// One record, in the memory of its segment.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    payload: &'a [u8],
    mapping: &'a Arc<Mapping>,
    place: Located,
}

impl Snapshot {
    /// Wraps a view.
    pub(crate) fn new(view: View) -> Self {
        Self { view: Arc::new(view) }
    }

    /// The first record's sequence number; one more than [`Snapshot::last_seq`] if there is none.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.view.first_seq
    }

    /// The last record's sequence number; 0 if the log never had one.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.view.last_seq()
    }

    /// The checkpoint; 0 if there is none.
    #[must_use]
    pub fn checkpoint_seq(&self) -> u64 {
        self.view.checkpoint_seq
    }

    /// The records with a sequence number above `after`, in order; 0 starts at the front, wherever that is.
    ///
    /// Every checksum is verified before a record is shown, and of a batch that is damaged no record is. What a replay of
    /// the same handle has come through, to the end of a segment or of a view, is not verified anew.
    ///
    /// ```
    /// # fn main() -> Result<(), mmap_wal::Error> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let wal = mmap_wal::Wal::open(dir.path())?;
    /// wal.append(b"hello")?;
    /// for record in wal.snapshot().replay(0)? {
    ///     let record = record?;
    ///     assert_eq!((record.seq(), record.payload()), (1, &b"hello"[..]));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Truncated`](crate::Error::Truncated) if records above `after` were truncated, [`Error::Ahead`](crate::Error::Ahead) if `after` was never appended;
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::MissingSegment`](crate::Error::MissingSegment) or [`Error::Io`](crate::Error::Io) if the way there is damaged;
    /// [`Error::MapLimit`] if a segment is needed and may not be mapped. The iterator yields
    /// [`Error::Gap`](crate::Error::Gap) where a repair left records out and goes on behind it; after any other error it is finished.
    pub fn replay(&self, after: u64) -> Result<Replay<'_>> {
        Ok(Replay { view: &self.view, forward: Forward::pinning(&self.view, after)?, part: None })
    }

    /// The same records as [`Snapshot::replay`], lent out one at a time: a record can be looked at until the next one is
    /// asked for. However many segments there are, at most one is mapped at a time, besides those that the snapshot has
    /// mapped.
    ///
    /// ```
    /// # fn main() -> Result<(), mmap_wal::Error> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let wal = mmap_wal::Wal::open(dir.path())?;
    /// wal.append_batch(&["a", "b"])?;
    /// let mut cursor = wal.snapshot().cursor(0)?;
    /// let mut bytes = 0;
    /// while let Some(record) = cursor.next()? {
    ///     bytes += record.payload().len();
    /// }
    /// assert_eq!(bytes, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::replay`].
    pub fn cursor(&self, after: u64) -> Result<Cursor> {
        let mut window = MapWindow::default();
        let forward = Forward::through(&self.view, &mut window, after)?;
        Ok(Cursor { view: Arc::clone(&self.view), forward, window })
    }

    /// As [`Snapshot::replay`], as an iterator that owns what it shows. As a [`cursor`](Snapshot::cursor) it maps one
    /// segment at a time; each record that is kept keeps its own segment mapped.
    ///
    /// # Errors
    /// As [`Snapshot::replay`].
    pub fn into_replay(self, after: u64) -> Result<IntoReplay> {
        self.cursor(after).map(IntoReplay)
    }

    /// Maps everything that this shows, so that all of it can be read for as long as this lives, whatever another process
    /// truncates. A segment that is damaged or missing is told by the replay that comes to it.
    ///
    /// # Errors
    /// [`Error::Truncated`] or [`Error::TruncatedBack`] if some of it is gone already: take another snapshot.
    /// [`Error::MapLimit`] if there are more segments than may be mapped; [`Error::Io`]. What was mapped before stays so.
    pub fn map_all(&self) -> Result<()> {
        for index in 0..self.view.shown {
            match self.view.mapping(index) {
                Err(Error::Corrupt(_) | Error::Foreign(_) | Error::MissingSegment(_)) => {}
                other => other.map(drop)?,
            }
        }
        Ok(())
    }

    /// What is shown.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The records with a sequence number below `before`, from the last of them to the front; `u64::MAX` starts at the
    /// last record, wherever that is. For those who look for the latest record of a kind.
    ///
    /// Every checksum is verified before a record is shown, and of a batch that is damaged no record is. A record is found
    /// from one in front of it: so what is shown ends with the error at the first damage that is met, and up to 64
    /// records behind the damage are not shown either (all behind it in its segment, if nobody has come that far before).
    /// [`Snapshot::replay`] shows those in front of it.
    ///
    /// ```
    /// # fn main() -> Result<(), mmap_wal::Error> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let wal = mmap_wal::Wal::open(dir.path())?;
    /// wal.append_batch(&["set a", "get a", "set b", "get b"])?;
    /// let snapshot = wal.snapshot();
    /// let mut back = snapshot.replay_back(u64::MAX)?;
    /// let set = back.find(|record| record.as_ref().map_or(true, |record| record.payload().starts_with(b"set")));
    /// assert_eq!(set.transpose()?.map(|record| record.seq()), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Ahead`](crate::Error::Ahead) if `before` lies further on than what will be appended next, [`Error::Truncated`](crate::Error::Truncated) if it lies in
    /// front of the first record; nothing is in front of the first record itself, nor of an empty log's end. The iterator
    /// yields [`Error::Gap`](crate::Error::Gap) where a repair left records out and goes on in front of it; after
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::MissingSegment`](crate::Error::MissingSegment) or [`Error::Io`](crate::Error::Io) it is finished.
    pub fn replay_back(&self, before: u64) -> Result<ReplayBack<'_>> {
        Ok(ReplayBack { view: &self.view, backward: Backward::before(&self.view, before)? })
    }

    /// The record `seq`; `None` if it is not in this view.
    ///
    /// In a segment whose records this handle appended or an earlier lookup has come by, it is found at once if the up to
    /// 64 records around it occupy as many bytes each, and else from one that is at most 63 records in front of it; in
    /// others the records up to it are walked through, once. (More records around it or in front of it in segments of more
    /// than 384 MiB, and with little [`Options::index_memory`](crate::Options::index_memory).)
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::MissingSegment`](crate::Error::MissingSegment) or [`Error::Io`](crate::Error::Io) if the way there is damaged;
    /// [`Error::Truncated`], [`Error::TruncatedBack`] or [`Error::MapLimit`] if its segment cannot be mapped any more.
    pub fn get(&self, seq: u64) -> Result<Option<Record<'_>>> {
        let view = &self.view;
        view.check_owner()?;
        let Some(index) = view.segment_of(seq).filter(|_| seq >= view.first_seq) else { return Ok(None) };
        let part = view.part(index)?;
        match find_at_once(&part, index, seq) {
            Some(found) => Ok(Some(Record::shown(found))),
            None => find(&part, index, seq).map(|found| Some(Record::shown(found))),
        }
    }
}

impl Snapshot {
    /// Where the record `seq` ends, shown or truncated, and whether it ends a batch; `None` if it is not there.
    pub(crate) fn end_of(&self, seq: u64) -> Result<Option<(usize, bool)>> {
        let view = &self.view;
        let Some(index) = view.segment_of(seq) else { return Ok(None) };
        let mut window = MapWindow::default();
        let Located { at, header, .. } = find(&window.part(view, index)?, index, seq)?.place;
        Ok(Some((at + header.frame_size(), header.commit)))
    }
}

/// The records of a [`Snapshot`] in order.
pub struct Replay<'a> {
    view: &'a View,
    forward: Forward,
    /// Where it is.
    part: Option<MappedPart<'a>>,
}

impl<'a> Iterator for Replay<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.forward.advance(self.view, &mut self.part)?;
        Some(found.map(Record::shown))
    }
}

/// The records of a [`Snapshot`], the last one first.
pub struct ReplayBack<'a> {
    view: &'a View,
    backward: Backward,
}

impl<'a> Iterator for ReplayBack<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.backward.advance(self.view)?;
        Some(found.map(Record::shown))
    }
}

/// The records of a [`Snapshot`] in order, each of which can be looked at until the next one is asked for; see
/// [`Snapshot::cursor`].
pub struct Cursor {
    view: Arc<View>,
    forward: Forward,
    window: MapWindow,
}

impl Cursor {
    /// The next record; `None` at the end of the snapshot.
    ///
    /// # Errors
    /// [`Error::Gap`] where a repair left records out, once: the next call shows what is behind it. As [`Snapshot::replay`]
    /// otherwise; after that there is no more record.
    // The name is that of an iterator, which this cannot be: what it lends out is its own.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend out what it holds")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        self.forward.advance_in(&self.view, &mut self.window).map(|found| found.map(Record::shown)).transpose()
    }

    /// The last sequence number that was shown, or passed over: `after` of a cursor that goes on here.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.forward.expected - 1
    }
}

/// The records of a [`Snapshot`] in order, each of which owns what it shows.
pub struct IntoReplay(Cursor);

impl Iterator for IntoReplay {
    type Item = Result<PinnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|record| record.map(|record| record.pin())).transpose()
    }
}

impl std::iter::FusedIterator for Replay<'_> {}
impl std::iter::FusedIterator for ReplayBack<'_> {}
impl std::iter::FusedIterator for IntoReplay {}

impl<'a> Record<'a> {
    /// The record that a walk through a view has found.
    #[inline]
    pub(crate) fn shown(found: Found<'a>) -> Self {
        let Found { place, payload, mapping } = found;
        Self { payload, mapping, place }
    }

    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.place.header.seq
    }

    /// The tag it was appended with.
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.place.header.tag
    }

    /// Its bytes, in the memory of the segment.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The record as a value of its own, which keeps its segment mapped, and no other; nothing is copied.
    #[must_use]
    pub fn pin(&self) -> PinnedRecord {
        PinnedRecord { mapping: Arc::clone(self.mapping), place: self.place }
    }
}

impl std::fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("seq", &self.seq())
            .field("tag", &self.tag())
            .field("len", &self.payload.len())
            .finish()
    }
}

/// A record that keeps its segment mapped: one of at most [`max_maps`](crate::Options::max_maps) maps of its handle,
/// however many records of it are kept. It outlives its snapshot, truncation and the handle.
#[derive(Clone)]
pub struct PinnedRecord {
    mapping: Arc<Mapping>,
    place: Located,
}

impl PinnedRecord {
    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.place.header.seq
    }

    /// The tag it was appended with.
    #[must_use]
    pub fn tag(&self) -> u16 {
        self.place.header.tag
    }

    /// Its bytes, in the memory of the segment.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let Located { at, header, .. } = &self.place;
        let frames = self.mapping.frames(End { offset: at + header.frame_size(), count: 0 });
        frame::payload(frames, *at, header)
    }
}

impl std::fmt::Debug for PinnedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedRecord").field("seq", &self.seq()).field("tag", &self.tag()).finish()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.first_seq(), self.last_seq());
        f.debug_struct("Snapshot").field("first_seq", &first).field("last_seq", &last).finish_non_exhaustive()
    }
}
