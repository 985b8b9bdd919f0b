//! A log as an examiner sees it: what it is made of, whether all of it verifies, and its bytes frame by frame.
//!
//! Nothing here writes, and nothing touches the writer's lock: everything works beside a living writer, and on a log
//! that is damaged.

mod frames;
mod holder;
mod live;
mod prefix;
mod stat;
mod verify;

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::reader::{attend, present};
use crate::storage::{Storage, StoredFile};

pub use crate::inspect::frames::{Frames, RawFrame};
pub use crate::inspect::live::{LiveStat, ReaderStat};
pub use crate::inspect::prefix::Prefix;
pub use crate::inspect::stat::{SegmentRole, SegmentStat, Stat};
pub use crate::inspect::verify::{Progress, Verification};

/// A log that is looked at.
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// use mmap_wal::{Wal, inspect::Log};
/// let wal = Wal::open(dir.path())?;
/// wal.append(b"hello")?;
/// let log = Log::open(dir.path())?;
/// assert_eq!(log.stat()?.last_seq, 1);
/// let verification = log.verify(|_| {})?;
/// assert!(verification.damages.is_empty());
/// let frame = log.frames(1)?.next().expect("a frame");
/// assert_eq!((frame.seq, &frame.payload[..]), (1, &b"hello"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Log {
    storage: Storage,
    /// Held so that no file is used again while it is looked at.
    readers: Arc<StoredFile>,
}

impl Log {
    /// Opens the log in `dir` for examination.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if there is no log or it cannot be read,
    /// [`Error::NoManifest`](crate::Error::NoManifest) or [`Error::Version`](crate::Error::Version) if it is not known
    /// what the log is.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let (storage, readers) = attend(dir.as_ref())?;
        Ok(Self { storage, readers })
    }

    /// What the log is made of and how it ends, as an open for writing would find it.
    ///
    /// # Errors
    /// As [`Reader::snapshot`](crate::Reader::snapshot).
    pub fn stat(&self) -> Result<Stat> {
        stat::stat(&self.storage)
    }

    /// What the log shows of itself while it is open for writing; `None` if it never did.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if that cannot be read.
    pub fn live(&self) -> Result<Option<LiveStat>> {
        live::live(&self.storage)
    }

    /// The ordinals of the segments that the manifest names, in order: also where [`Log::stat`] fails for a damage.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn ordinals(&self) -> Result<Vec<u64>> {
        Ok(present(&self.storage)?.entries.iter().map(|entry| entry.ordinal).collect())
    }

    /// Judges the end of the log as an open would, and reads everything else: every checksum, number and identity.
    ///
    /// Damage is collected, one error for each damaged segment, and does not end the examination. `progress` is called
    /// every now and then.
    ///
    /// # Errors
    /// As [`Log::open`]: if it is not known what the log is.
    pub fn verify(&self, progress: impl FnMut(Progress)) -> Result<Verification> {
        verify::verify(&self.storage, progress)
    }

    /// The frames of the segment `ordinal` as they stand in the file, with those that are not committed or do not
    /// verify. The file need not be one that the manifest names.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file is not there or cannot be read.
    pub fn frames(&self, ordinal: u64) -> Result<Frames> {
        frames::frames(&self.storage, ordinal)
    }

    /// Everything before the first damage, and that damage: what a replay can show of a log that cannot be opened.
    ///
    /// Damage inside a segment shows only when the replay comes to it.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn prefix(&self) -> Result<Prefix> {
        prefix::prefix(&self.storage, &self.readers)
    }
}
