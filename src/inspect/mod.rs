//! A log as an examiner sees it: what it is made of, whether all of it verifies, and its bytes frame by frame.
//!
//! Nothing here writes to the log or touches the writer's lock, [`Log::repair`] apart: everything works beside a living
//! writer, and on a log that is damaged.

mod assess;
mod compare;
mod copy;
mod ending;
mod files;
mod frames;
mod held;
mod holder;
mod live;
mod make;
mod plan;
mod prefix;
mod rebuild;
mod repair;
mod runs;
mod salvage;
mod stat;
mod survey;
mod target;
mod verify;
mod wanted;

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::name::{MANIFEST, is_of_a_log};
use crate::inspect::survey::Survey;
use crate::limits::default_max_maps;
use crate::reader::{attend, present};
use crate::segment::Maps;
use crate::storage::{Observer, Place, Storage};

pub use crate::inspect::copy::Copied;
pub use crate::inspect::frames::{Frames, RawFrame};
pub use crate::inspect::holder::WriterLock;
pub use crate::inspect::live::{LiveStat, ReaderStat, WriterState};
pub use crate::inspect::plan::{Lost, NewSegment, RebuiltManifest, RepairPlan, SetAside};
pub use crate::inspect::prefix::Prefix;
pub use crate::inspect::salvage::Salvage;
pub use crate::inspect::stat::{SegmentRole, SegmentStat, Stat};
pub use crate::inspect::verify::{Progress, Verification};

/// The names in `dir` that say that it is there for something else: those that are not of a log, sorted, if it holds no
/// log. None if it does, is empty or is not there, or holds only what stands at the root of a file system (`lost+found`).
///
/// [`Wal::open`](crate::Wal::open) creates a log beside whatever is there; a program that is given a directory by a person
/// may want to ask first, as the command `mmap-wal append` does.
///
/// ```
/// # fn main() -> Result<(), mmap_wal::Error> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let dir = dir.path();
/// std::fs::write(dir.join("notes.txt"), "mine").expect("a file");
/// assert_eq!(mmap_wal::inspect::foreign_names(dir)?, ["notes.txt"]);
/// mmap_wal::Wal::open(dir)?;
/// assert!(mmap_wal::inspect::foreign_names(dir)?.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if the directory cannot be listed.
pub fn foreign_names(dir: impl AsRef<Path>) -> Result<Vec<String>> {
    let place = Place::new(dir.as_ref(), 0o600, None);
    let listed = match place.open().and_then(|storage| storage.list()) {
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        other => other?,
    };
    let mut names: Vec<String> = listed.into_iter().map(|file| file.name).collect();
    if names.iter().any(|name| name == MANIFEST) {
        return Ok(Vec::new());
    }
    names.retain(|name| !is_of_a_log(name) && name != LOST_AND_FOUND);
    names.sort_unstable();
    Ok(names)
}

/// What `mkfs` makes at the root of a file system.
const LOST_AND_FOUND: &str = "lost+found";

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
    /// Held so that no file is recycled while it is looked at.
    maps: Arc<Maps>,
}

impl Log {
    /// Opens the log in `dir` for examination, also if its manifest is lost: then only [`Log::frames`],
    /// [`Log::plan_repair`], [`Log::repair`] and [`Log::salvage`] can do something with it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if there is no log or it cannot be read,
    /// [`Error::Version`](crate::Error::Version) if it is of a later format.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_observed(dir, None)
    }

    /// As [`Log::open`], with `observer` between the log and the file system.
    ///
    /// # Errors
    /// As [`Log::open`].
    #[doc(hidden)]
    pub fn open_observed(dir: impl AsRef<Path>, observer: Option<Arc<dyn Observer>>) -> Result<Self> {
        let storage = Place::new(dir.as_ref(), 0o600, observer).open()?;
        match present(&storage) {
            Ok(_) | Err(crate::error::Error::NoManifest { .. }) => {}
            Err(e) => return Err(e),
        }
        let maps = attend(&storage, default_max_maps())?;
        Ok(Self { storage, maps })
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
    /// As [`Log::open`], and [`Error::NoManifest`](crate::Error::NoManifest).
    pub fn ordinals(&self) -> Result<Vec<u64>> {
        Ok(present(&self.storage)?.entries.iter().map(|entry| entry.ordinal).collect())
    }

    /// Judges the end of the log as an open would, and reads everything else: every checksum, number and identity.
    ///
    /// Damage is collected, one error for each damaged segment, and does not end the examination. `progress` is called
    /// every now and then.
    ///
    /// # Errors
    /// As [`Log::open`], and [`Error::NoManifest`](crate::Error::NoManifest) or
    /// [`Error::StaleManifest`](crate::Error::StaleManifest): if it is not known what the log is.
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
    /// As [`Log::open`], and [`Error::NoManifest`](crate::Error::NoManifest) or
    /// [`Error::StaleManifest`](crate::Error::StaleManifest).
    pub fn prefix(&self) -> Result<Prefix> {
        prefix::prefix(&self.storage, &self.maps)
    }

    /// Finds what is damaged, and what a repair would do about it; reads everything and writes nothing.
    ///
    /// Everything that verifies is kept, but for records of batches that are not whole. What is lost becomes a gap in the
    /// numbers, at which a replay yields [`Error::Gap`](crate::Error::Gap) once and goes on behind it. No number that may
    /// have been durable is given again.
    ///
    /// # Errors
    /// As [`Log::open`]; [`Error::Foreign`](crate::Error::Foreign) if the segments are those of another log than the
    /// manifest, or of two; [`Error::Io`](crate::Error::Io) if a lost manifest cannot be made of what they say.
    pub fn plan_repair(&self) -> Result<RepairPlan> {
        Survey::settled(&self.storage).map(|survey| survey.plan)
    }

    /// Carries out what [`Log::plan_repair`] has planned, under the writer's lock. After that
    /// [`Wal::open`](crate::Wal::open) works and shows what the plan keeps.
    ///
    /// Nothing is deleted: damaged files keep their bytes under the names that the plan tells. After a crash, or an error,
    /// the log is as before or as repaired; plan and repair again.
    ///
    /// ```
    /// # fn main() -> Result<(), mmap_wal::Error> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let dir = dir.path();
    /// use mmap_wal::{Error, Wal, inspect::Log};
    /// # let wal = Wal::open(dir)?;
    /// # wal.append(b"one")?;
    /// # wal.append(b"two")?;
    /// # wal.close()?;
    /// # std::fs::remove_file(dir.join("MANIFEST")).expect("a removal");
    /// assert!(matches!(Wal::open(dir), Err(Error::NoManifest { .. })));
    /// let log = Log::open(dir)?;
    /// let plan = log.plan_repair()?;
    /// println!("{plan}");
    /// assert!(plan.lost.is_empty());
    /// log.repair(&plan)?;
    /// assert_eq!(Wal::open(dir)?.append(b"three")?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Locked`](crate::Error::Locked) if a writer has the log open;
    /// [`Error::Stale`](crate::Error::Stale) if it has changed since the plan was made;
    /// [`Error::NoSpace`](crate::Error::NoSpace) if the new segments do not fit, and then nothing was changed;
    /// [`Error::Io`](crate::Error::Io), also for a file system without hard links; and as [`Log::plan_repair`].
    pub fn repair(&self, plan: &RepairPlan) -> Result<()> {
        if plan.is_empty() { Ok(()) } else { repair::repair(&self.storage, plan) }
    }

    /// Copies every record that verifies into a new log in `dir`, which must not be there or be empty: with their
    /// numbers, tags and batches, and also those of batches that are not whole. Works beside a living writer.
    ///
    /// If it fails or is killed, `dir` holds no manifest: what is there is no log yet and can be removed.
    ///
    /// # Errors
    /// As [`Log::plan_repair`]; [`Error::NoSpace`](crate::Error::NoSpace); [`Error::Io`](crate::Error::Io), also if `dir`
    /// is not empty.
    pub fn salvage(&self, dir: impl AsRef<Path>) -> Result<Salvage> {
        salvage::salvage(&self.storage, dir.as_ref())
    }

    /// Copies the log, as it is at this moment, to the directory `dir`: a backup, also while it is written. The copy is a
    /// log of its own with the same numbers, tags, batches, gaps, checkpoint, metadata and user tag, closed, in segments
    /// that are no larger than what they hold.
    ///
    /// `after` is the last record that is not wanted; 0 copies everything. It must end a batch, or be the record in front
    /// of the log's first. `dir` must not be there, be empty, or hold an earlier copy of this log:
    ///
    /// - If that was not finished, this one goes on where it ended. Until then nothing opens what is in `dir`
    ///   ([`Error::UnfinishedCopy`](crate::Error::UnfinishedCopy)).
    /// - If it was finished, what came since is added. Records that the log has truncated meanwhile stay in the copy; were
    ///   they cut off and replaced before that, nothing tells, and the copy keeps those that were cut off. It is refused
    ///   if it lacks records that the log has, after a repair, or if somebody has stored something with it.
    ///
    /// Everything that `dir` holds is read from the files and compared with the log (what the log has truncated, with its
    /// checksums), and everything is durable, before this returns. `progress` is called every now and then.
    ///
    /// However many segments there are, a few are mapped at a time. If the log is truncated or cut while it is copied, and
    /// what was wanted is gone with that, the copy begins again with the log as it is then.
    ///
    /// What was published is copied, also what is not durable yet: if the log loses that in a failure of power, it is no
    /// longer the log that was copied, and `dir` is refused from then on.
    ///
    /// ```
    /// # fn main() -> Result<(), mmap_wal::Error> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let (data, backup) = (dir.path().join("data"), dir.path().join("backup"));
    /// use mmap_wal::{Reader, Wal, inspect::Log};
    /// let wal = Wal::open(&data)?;
    /// wal.append(b"one")?;
    /// assert_eq!(Log::open(&data)?.copy(&backup, 0, |_| {})?.records, 1);
    /// wal.append(b"two")?;
    /// assert_eq!(Log::open(&data)?.copy(&backup, 0, |_| {})?.records, 1);
    /// assert_eq!(Reader::open(&backup)?.snapshot()?.last_seq(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Reader::snapshot`](crate::Reader::snapshot) and a replay of it, if the log is damaged: then the copy is not
    /// finished, or what it was. [`Error::Destination`](crate::Error::Destination) if `dir` is no place for this copy, and
    /// then nothing in it has changed; [`Error::Locked`](crate::Error::Locked) if somebody writes there;
    /// [`Error::Truncated`](crate::Error::Truncated), [`Error::Ahead`](crate::Error::Ahead) or
    /// [`Error::InsideBatch`](crate::Error::InsideBatch) for an `after` that cannot be;
    /// [`Error::NoSpace`](crate::Error::NoSpace) and [`Error::Io`](crate::Error::Io), after which the same copy can be made
    /// again.
    pub fn copy(&self, dir: impl AsRef<Path>, after: u64, mut progress: impl FnMut(Progress)) -> Result<Copied> {
        copy::copy(&self.storage, &self.maps, dir.as_ref(), after, &mut progress)
    }
}
