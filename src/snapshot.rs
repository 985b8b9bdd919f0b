//! Views of a log: what was there at one moment, without a copy, for as long as anybody looks.

use std::sync::Arc;

use crate::error::Result;
use crate::view::{BackCursor, Cursor, Found, Located, View};

/// An immutable view of a log.
///
/// It pins what it shows: records stay where they are, unchanged, while the log goes on, is truncated or closed.
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
    view: &'a Arc<View>,
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
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::MissingSegment`](crate::Error::MissingSegment) or [`Error::Io`](crate::Error::Io) if the way there is damaged. The iterator yields
    /// [`Error::Gap`](crate::Error::Gap) where a repair left records out and goes on behind it; after any other error it is finished.
    pub fn replay(&self, after: u64) -> Result<Replay<'_>> {
        Ok(Replay { view: &self.view, cursor: Cursor::behind(&self.view, after)? })
    }

    /// As [`Snapshot::replay`], as an iterator that owns what it shows.
    ///
    /// # Errors
    /// As [`Snapshot::replay`].
    pub fn into_replay(self, after: u64) -> Result<IntoReplay> {
        let cursor = Cursor::behind(&self.view, after)?;
        Ok(IntoReplay { view: self.view, cursor })
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
        Ok(ReplayBack { view: &self.view, cursor: BackCursor::before(&self.view, before)? })
    }

    /// What is shown, and the way to what is behind `after`.
    ///
    /// # Errors
    /// As [`Snapshot::replay`].
    pub(crate) fn cursor(&self, after: u64) -> Result<(&View, Cursor)> {
        Ok((&self.view, Cursor::behind(&self.view, after)?))
    }

    /// The record `seq`; `None` if it is not in this view.
    ///
    /// In a segment whose records this handle appended or an earlier lookup has come by, it is found at once if the up to
    /// 64 records around it occupy as many bytes each, and else from one that is at most 63 records in front of it; in
    /// others the records up to it are walked through, once. (More records around it or in front of it in segments of more
    /// than 384 MiB, and with little [`Options::index_memory`](crate::Options::index_memory).)
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::MissingSegment`](crate::Error::MissingSegment) or [`Error::Io`](crate::Error::Io) if the way there is damaged.
    pub fn get(&self, seq: u64) -> Result<Option<Record<'_>>> {
        let view = &self.view;
        view.check_owner()?;
        let Some(index) = view.segment_of(seq).filter(|_| seq >= view.first_seq) else { return Ok(None) };
        match view.find_at_once(index, seq) {
            Some(found) => Ok(Some(Record::shown(view, found))),
            None => Record::of(view, view.find(index, seq)?).map(Some),
        }
    }
}

impl Snapshot {
    /// Where the record `seq` ends, shown or truncated, and whether it ends a batch; `None` if it is not there.
    pub(crate) fn end_of(&self, seq: u64) -> Result<Option<(usize, bool)>> {
        let view = &self.view;
        let Some(index) = view.segment_of(seq) else { return Ok(None) };
        let Located { at, header, .. } = view.find(index, seq)?;
        Ok(Some((at + header.frame_size(), header.commit)))
    }
}

/// The records of a [`Snapshot`] in order.
pub struct Replay<'a> {
    view: &'a Arc<View>,
    cursor: Cursor,
}

impl<'a> Iterator for Replay<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.cursor.advance(self.view)?;
        Some(found.map(|found| Record::shown(self.view, found)))
    }
}

/// The records of a [`Snapshot`], the last one first.
pub struct ReplayBack<'a> {
    view: &'a Arc<View>,
    cursor: BackCursor,
}

impl<'a> Iterator for ReplayBack<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let located = self.cursor.advance(self.view)?;
        Some(located.and_then(|place| Record::of(self.view, place)))
    }
}

/// The records of a [`Snapshot`] in order, each of which owns what it shows.
pub struct IntoReplay {
    view: Arc<View>,
    cursor: Cursor,
}

impl Iterator for IntoReplay {
    type Item = Result<PinnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.cursor.advance(&self.view)?;
        Some(found.map(|found| PinnedRecord { view: Arc::clone(&self.view), place: found.place }))
    }
}

impl std::iter::FusedIterator for Replay<'_> {}
impl std::iter::FusedIterator for ReplayBack<'_> {}
impl std::iter::FusedIterator for IntoReplay {}

impl<'a> Record<'a> {
    /// The record at `place`, which was verified.
    pub(crate) fn of(view: &'a Arc<View>, place: Located) -> Result<Self> {
        view.payload(place).map(|payload| Self::shown(view, Found { place, payload }))
    }

    /// The record that a walk through `view` has found.
    pub(crate) fn shown(view: &'a Arc<View>, found: Found<'a>) -> Self {
        let Found { place, payload } = found;
        Self { payload, view, place }
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

    /// The record as a value of its own, which keeps its segment in memory; nothing is copied.
    #[must_use]
    pub fn pin(&self) -> PinnedRecord {
        PinnedRecord { view: Arc::clone(self.view), place: self.place }
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

/// A record that keeps its segment in memory.
#[derive(Clone)]
pub struct PinnedRecord {
    view: Arc<View>,
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
        // The map was there when the record was read, and stays for as long as the view.
        self.view.payload(self.place).unwrap_or_default()
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
