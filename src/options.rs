//! How a log is opened.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::format::PAGE;
use crate::format::segment::{MAX_CAPACITY, MIN_CAPACITY};

/// When an append returns, and what a power failure may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// A single append returns when it is durable. Nothing acknowledged is lost.
    Sync,
    /// A single append returns when it is published. A sync runs after every `records` appended records and `delay`
    /// after the first that is not durable; a power failure may take that window.
    Batch {
        /// How many records may be published before a sync starts; appends wait when twice as many are not durable.
        records: u32,
        /// How long a record may stay unsynced.
        delay: Duration,
    },
    /// A single append returns when it is published; what the kernel had not written since the last rotation or
    /// [`sync`](crate::Wal::sync) is lost by a power failure. Process crashes lose nothing.
    None,
}

impl SyncMode {
    /// [`SyncMode::Batch`] with a delay of 10 ms.
    #[must_use]
    pub const fn batch(records: u32) -> Self {
        Self::Batch { records, delay: Duration::from_millis(10) }
    }
}

/// Who does what need not be done by an append: preparing segments, sealing them, keeping the delay of
/// [`SyncMode::Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Background {
    /// Two threads of the log's own: one keeps the delay of [`SyncMode::Batch`], syncs for futures, and keeps the pages
    /// in front of the append position writable; the other seals and prepares segments.
    #[default]
    Thread,
    /// The caller: [`maintain`](crate::Wal::maintain) on a core of its choice, or the append that rotates. Nothing then
    /// keeps the delay of [`SyncMode::Batch`] but `maintain`.
    Caller,
}

/// Options of a log, set one by one and validated once, by [`open`](Options::open).
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// use mmap_wal::{Options, SyncMode};
/// let wal = Options::new().sync_mode(SyncMode::batch(100)).segment_size(16 << 20).open(dir.path())?;
/// wal.append(b"hello")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) sync_mode: SyncMode,
    pub(crate) segment_size: u64,
    pub(crate) create: bool,
    pub(crate) spare_segments: usize,
    pub(crate) strict: bool,
    pub(crate) user_tag: Option<[u8; 16]>,
    pub(crate) file_mode: u32,
    pub(crate) background: Background,
    pub(crate) lock_memory: bool,
    pub(crate) index_memory: usize,
    pub(crate) max_maps: Option<usize>,
    pub(crate) listener: Listener,
}

/// The default size of a segment.
const DEFAULT_SEGMENT: u64 = 64 << 20;
/// The most spares that make sense.
const MAX_SPARES: usize = 64;

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults: [`SyncMode::Sync`], segments of 64 MiB, created if absent, one spare segment, not strict, files
    /// for the owner alone.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            sync_mode: SyncMode::Sync,
            segment_size: DEFAULT_SEGMENT,
            create: true,
            spare_segments: 1,
            strict: false,
            user_tag: None,
            file_mode: 0o600,
            background: Background::Thread,
            lock_memory: false,
            listener: Listener::none(),
            index_memory: 16 << 20,
            max_maps: None,
        }
    }

    /// When a single append returns.
    #[must_use]
    pub fn sync_mode(mut self, mode: SyncMode) -> Self {
        self.sync_mode = mode;
        self
    }

    /// The size of new segment files in bytes, 12 KiB to 16 GiB, rounded up to a multiple of 4096; 8 KiB of it are
    /// not for records. A larger record or batch gets a segment of its own size.
    #[must_use]
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = bytes;
        self
    }

    /// Whether an absent log is created, with the directories above it.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How many prepared segments are kept ahead, 1 to 64.
    #[must_use]
    pub fn spare_segments(mut self, count: usize) -> Self {
        self.spare_segments = count;
        self
    }

    /// Whether a torn end is refused with [`Error::TornTail`] instead of being cut.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// A mark of the user's that a new log carries and an existing one must carry ([`Error::Foreign`] otherwise).
    #[must_use]
    pub fn user_tag(mut self, tag: [u8; 16]) -> Self {
        self.user_tag = Some(tag);
        self
    }

    /// Permission bits of new files (default `0o600`); a new directory gets the same with search where it can be read.
    #[must_use]
    pub fn file_mode(mut self, mode: u32) -> Self {
        self.file_mode = mode;
        self
    }

    /// Bytes that may be taken, at most, for knowing where records stand (default 16 MiB): an eighth of a byte, at most,
    /// for a record that this handle appended or that a lookup has come by; while a segment of the default size is
    /// appended to or kept ready, 171 KiB for it. With less, a lookup walks further.
    #[must_use]
    pub fn index_memory(mut self, bytes: usize) -> Self {
        self.index_memory = bytes;
        self
    }

    /// How many sealed segments the handle maps at most, for its snapshots, cursors, tails and pinned records all together,
    /// from 2 up; the default is a quarter of what the system allows a process (`vm.max_map_count` on Linux, 65,530 unless
    /// somebody has changed it), and 16,384 where it does not say. What would be one more is
    /// [`Error::MapLimit`](crate::Error::MapLimit), and nothing else is affected: appends, syncs and truncation work, the
    /// segment that is appended to and the spares are not counted. Half of them may be kept mapped for the next snapshot
    /// that shows them.
    ///
    /// A truncation maps what a snapshot shows before it removes its files, with at most half of the maps. What may not be
    /// mapped any more keeps its file until no snapshot shows it.
    #[must_use]
    pub fn max_maps(mut self, count: usize) -> Self {
        self.max_maps = Some(count);
        self
    }

    /// Whether the segment that is appended to and the spares behind it are kept in memory (default no): no append then
    /// waits for a page that the system has taken away. They are let go when they are sealed. The system bounds how much
    /// a process may keep (`ulimit -l`); where that is less than `1 + spare_segments` segments,
    /// [`open`](Options::open) or the append that needs a segment fails with [`Error::Io`], and nothing is lost.
    #[must_use]
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.lock_memory = lock;
        self
    }

    /// Who prepares and seals segments.
    #[must_use]
    pub fn background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }

    /// What is called when something happens in the log, from the thread in which it happens: one of the log's own, or
    /// one that calls the log, of which the call then takes as long as the listener does.
    ///
    /// The log holds no lock meanwhile. The listener may call the log, for example truncate its front at
    /// [`Event::NoSpace`], close it, and drop its last handle. What its own calls cause is told when it has returned, not
    /// from within itself. It must not wait for another thread that waits for the log. A panic of it ends there, and is
    /// counted by [`Stats::callback_panics`](crate::Stats::callback_panics): the append in which it happened is not
    /// affected, and neither is the log. All this holds for the wakers of futures, too.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(listener);
        self
    }

    /// These options, in their ranges and rounded.
    pub(crate) fn validated(&self) -> Result<Self> {
        if !(MIN_CAPACITY as u64..=MAX_CAPACITY as u64).contains(&self.segment_size) {
            return Err(Error::invalid("segment_size", "must be from 12 KiB to 16 GiB"));
        }
        if !(1..=MAX_SPARES).contains(&self.spare_segments) {
            return Err(Error::invalid("spare_segments", "must be from 1 to 64"));
        }
        if self.max_maps.is_some_and(|count| count < 2) {
            return Err(Error::invalid("max_maps", "must be at least 2"));
        }
        if self.file_mode & !0o777 != 0 || self.file_mode & 0o600 != 0o600 {
            return Err(Error::invalid(
                "file_mode",
                "must be permission bits (at most 0777) that let the owner read and write",
            ));
        }
        if let SyncMode::Batch { records: 0, .. } = self.sync_mode {
            return Err(Error::invalid("sync_mode", "must batch at least one record"));
        }
        if let SyncMode::Batch { delay: Duration::ZERO, .. } = self.sync_mode {
            return Err(Error::invalid("sync_mode", "must have a delay above zero"));
        }
        Ok(Self { segment_size: self.segment_size.next_multiple_of(PAGE as u64), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &Options) -> &'static str {
        match options.validated() {
            Err(Error::InvalidOptions(invalid)) => invalid.field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_option_out_of_range_is_refused_by_name() {
        assert_eq!(refused(&Options::new().segment_size(8192)), "segment_size");
        assert_eq!(refused(&Options::new().segment_size(u64::MAX)), "segment_size");
        assert_eq!(refused(&Options::new().spare_segments(0)), "spare_segments");
        assert_eq!(refused(&Options::new().max_maps(1)), "max_maps");
        assert_eq!(refused(&Options::new().file_mode(0o400)), "file_mode");
        assert_eq!(refused(&Options::new().sync_mode(SyncMode::batch(0))), "sync_mode");
    }

    #[test]
    fn each_option_is_taken_at_its_bounds_and_refused_beyond() {
        for size in [MIN_CAPACITY as u64, MAX_CAPACITY as u64] {
            assert_eq!(Options::new().segment_size(size).validated().map(|o| o.segment_size).ok(), Some(size));
        }
        let sizes = [0, MIN_CAPACITY as u64 - 1, MAX_CAPACITY as u64 + 1];
        assert!(sizes.map(|size| refused(&Options::new().segment_size(size))) == ["segment_size"; 3]);
        assert!([1, 64].map(|count| Options::new().spare_segments(count).validated().is_ok()) == [true; 2]);
        assert!([0, 65].map(|count| refused(&Options::new().spare_segments(count))) == ["spare_segments"; 2]);
        assert!([0o600, 0o777].map(|mode| Options::new().file_mode(mode).validated().is_ok()) == [true; 2]);
        let modes = [0, 0o200, 0o577, 0o1600, u32::MAX];
        assert!(modes.map(|mode| refused(&Options::new().file_mode(mode))) == ["file_mode"; 5]);
        let batch = |records, delay| Options::new().sync_mode(SyncMode::Batch { records, delay });
        for taken in [batch(1, Duration::from_nanos(1)), batch(u32::MAX, Duration::MAX)] {
            assert!(taken.validated().is_ok());
        }
        assert_eq!(refused(&batch(0, Duration::MAX)), "sync_mode");
        assert_eq!(refused(&batch(1, Duration::ZERO)), "sync_mode");
    }

    #[test]
    fn a_segment_size_is_rounded_up_to_pages() {
        let size = Options::new().segment_size(12_289).validated().map(|options| options.segment_size);
        assert_eq!(size.ok(), Some(16_384));
    }
}
