//! What can go wrong, each in one sentence that ends in what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod operation;

pub use operation::Operation;

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
///
/// Large details are boxed, so that `Result<u64>` stays at three words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something, or a device failed.
    #[error("{0}")]
    Io(#[source] Box<IoFailure>),

    /// There is no space left for what was asked: on the disk, in the quota, or below the limit of the process on the size
    /// of files (`RLIMIT_FSIZE`). Nothing appended is lost and no sequence number was used.
    #[error("{}; {}", .0, relief(.0))]
    NoSpace(#[source] Box<IoFailure>),

    /// Another handle, in this process or another, has the log open for writing.
    #[error("{}", Holder { pid: *pid, path, lock: *lock })]
    Locked {
        /// The process id of the holder, if it is known.
        pid: Option<u32>,
        /// The directory of the log.
        path: Box<PathBuf>,
        /// Which of the writer's two locks is held.
        lock: LockKind,
    },

    /// A file that the writer has open is not the file of that name any more, or the directory was removed.
    #[error(
        "{} was removed or replaced while the log was open, so nothing more is written; put back what was there,          or restore the whole directory, and open the log again",
        path.display()
    )]
    Replaced {
        /// The file or directory.
        path: Box<PathBuf>,
    },

    /// Something that was durable is damaged.
    #[error(
        "{0}; restore the file from a copy, or see what a repair would keep: `mmap-wal repair`, `Log::plan_repair`"
    )]
    Corrupt(Box<Corruption>),

    /// The log ends in a torn record or batch, and [`strict`](crate::Options::strict) refuses that.
    #[error("{0}; open the log without strict to cut the torn end")]
    TornTail(Box<Corruption>),

    /// A segment that the manifest names is absent, or has another length.
    #[error(
        "{0}; restore the file from a copy, or see what a repair would keep: `mmap-wal repair`, `Log::plan_repair`"
    )]
    MissingSegment(Box<MissingSegment>),

    /// There are segments, or a manifest file, but no slot of the manifest verifies.
    #[error(
        "no slot of {} verifies; restore the whole directory from one backup, or see what can be rebuilt from the segments: `mmap-wal repair`, `Log::plan_repair`",
        path.display()
    )]
    NoManifest {
        /// The manifest that should be there.
        path: Box<PathBuf>,
    },

    /// The segments say that the log went on after the manifest was written: somebody has restored the MANIFEST alone.
    /// Nothing was changed.
    #[error(
        "{0}; restore the whole directory from one backup, or see what a repair would keep: `mmap-wal repair`, `Log::plan_repair`"
    )]
    StaleManifest(Box<StaleManifest>),

    /// The directory holds a copy of a log that was not finished, so it is not known what is missing.
    #[error(
        "{} holds a copy of a log that was not finished; make the same copy again, or remove the directory",
        path.display()
    )]
    UnfinishedCopy {
        /// The directory.
        path: Box<PathBuf>,
    },

    /// The log is not copied to that directory. Nothing that was there has changed.
    #[error("cannot copy to {}: {}", .0.path.display(), .0.reason)]
    Destination(Box<Destination>),

    /// The files belong to another log, or the log to another user.
    #[error("{} is not part of this log: {}; check that the directory is the right one", .0.path.display(), .0.reason)]
    Foreign(Box<Foreign>),

    /// The log was written by a later version of the format.
    #[error(
        "{} is of format version {version} with features {features:#x}, and this library reads version 1; use a newer one",
        path.display()
    )]
    Version {
        /// The version that stands there.
        version: u32,
        /// The feature bits that stand there.
        features: u32,
        /// The manifest.
        path: Box<PathBuf>,
    },

    /// A record or a batch is longer than any segment can be, or metadata than what is kept of it.
    #[error("{len} bytes were given, and at most {max} fit; give less, or split them")]
    RecordTooLarge {
        /// Length in bytes.
        len: u64,
        /// The most that fits, in bytes.
        max: u64,
    },

    /// A sequence number that is not in the log.
    #[error("sequence number {seq} is out of range, the log ends at {last_seq}; {}", InRange { seq: *seq, last_seq: *last_seq })]
    OutOfRange {
        /// What was asked for.
        seq: u64,
        /// The last number of the log.
        last_seq: u64,
    },

    /// The records asked for were truncated.
    #[error(
        "the records asked for were truncated, the log begins at {first_seq}; start from a snapshot that covers them"
    )]
    Truncated {
        /// The first number that is still there.
        first_seq: u64,
    },

    /// The records asked for or waited for were cut off at the back.
    #[error("the log was cut back to {last_seq}; drop what was derived from later records")]
    TruncatedBack {
        /// The last number that was kept.
        last_seq: u64,
    },

    /// A cut, or the start of a copy, inside a batch.
    #[error(
        "sequence number {seq} is inside a batch, which is there whole or not at all; give the number of its last record"
    )]
    InsideBatch {
        /// Where it was wanted.
        seq: u64,
    },

    /// The caller has applied more than the log holds.
    #[error(
        "the log ends at {last_seq}, before the number asked for; the caller is ahead of its log and must not go on"
    )]
    Ahead {
        /// The last number of the log.
        last_seq: u64,
    },

    /// Sequence numbers that a repair left out.
    #[error("the records {from} to {to} were lost in a repair; go on behind them if the state can do without")]
    Gap {
        /// The first number that is missing.
        from: u64,
        /// The last number that is missing.
        to: u64,
    },

    /// The log is no longer what a repair was planned for.
    #[error("the log in {} has changed since the repair was planned; plan it again", path.display())]
    Stale {
        /// The directory of the log.
        path: Box<PathBuf>,
    },

    /// An option is out of its range.
    #[error("the option {} {}", .0.field, .0.reason)]
    InvalidOptions(Box<InvalidOptions>),

    /// No more segments can be mapped: the limit of the handle, [`max_maps`](crate::Options::max_maps), or one of the
    /// system is reached.
    #[error("{0}")]
    MapLimit(Box<MapLimit>),

    /// An earlier sync or manifest update failed, so nothing can be promised any more.
    #[error("the log refuses to write since an earlier failure ({0}); open it again to find out what is durable")]
    Poisoned(#[source] Arc<Error>),

    /// A callback of an append called the same log.
    #[error(
        "the log was called from within a callback of one of its own appends; call it after the append has returned"
    )]
    Reentrant,

    /// The handle was closed.
    #[error("the log was closed; open it again")]
    Closed,

    /// The handle was opened by another process, of which this one is a child by `fork`. Nothing was read or written.
    #[error("the log was opened before this process was forked; drop that handle and open the log in this process")]
    Forked,
}

/// A refusal of the operating system.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct IoFailure {
    /// What was tried.
    pub operation: Operation,
    /// The same in words, for a message: `operation.as_str()`.
    pub context: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Where a log is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is damaged at byte {offset}, where record {expected_seq} should be ({reason}; durable up to byte {durable_offset})",
    path.display()
)]
pub struct Corruption {
    /// The file.
    pub path: PathBuf,
    /// The ordinal of the segment.
    pub segment: u64,
    /// Byte offset in the file.
    pub offset: u64,
    /// The sequence number that should stand there.
    pub expected_seq: u64,
    /// Byte offset in the same file up to which everything is known to have been durable.
    pub durable_offset: u64,
    /// What is wrong.
    pub reason: &'static str,
}

/// A segment that is not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the segment {} of {expected_len} bytes that the manifest names {}",
    path.display(), found_len.map_or("is not there".to_owned(), |len| format!("is {len} bytes long"))
)]
pub struct MissingSegment {
    /// The file.
    pub path: PathBuf,
    /// The length that it should have, in bytes.
    pub expected_len: u64,
    /// The length that it has, if it is there.
    pub found_len: Option<u64>,
}

/// What a segment says that the manifest does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is older than the segments: {} {reason}", manifest.display(), path.display())]
pub struct StaleManifest {
    /// The manifest.
    pub manifest: PathBuf,
    /// The segment file that says so.
    pub path: PathBuf,
    /// What it says.
    pub reason: &'static str,
}

/// A file that belongs elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// The file.
    pub path: PathBuf,
    /// Which of the marks differs.
    pub reason: &'static str,
}

/// A directory that a log is not copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The directory.
    pub path: PathBuf,
    /// Why not, and what to do.
    pub reason: String,
}

/// A file that was not mapped, and the limits that apply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapLimit {
    /// The file.
    pub path: PathBuf,
    /// How many maps of segments the handle holds.
    pub held: usize,
    /// How many it may hold: [`Options::max_maps`](crate::Options::max_maps) or
    /// [`ReaderOptions::max_maps`](crate::ReaderOptions::max_maps).
    pub max_maps: usize,
    /// How many maps the system allows a process (`vm.max_map_count`), where it says so (Linux).
    pub max_map_count: Option<u64>,
    /// How many bytes of address space the system allows the process (`ulimit -v`); `None` if any number.
    pub address_space: Option<u64>,
    /// Whether the system has refused the map, and not the handle.
    pub by_system: bool,
}

impl std::fmt::Display for MapLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { held, max_maps, .. } = self;
        let system = self.max_map_count.map_or("unknown".to_owned(), |count| format!("{count}"));
        let space = self.address_space.map_or("unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
        write!(f, "cannot map {}: ", self.path.display())?;
        if self.by_system {
            write!(
                f,
                "the process has reached a limit of the system (vm.max_map_count is {system}, the address space of \
                 ulimit -v is {space}"
            )?;
            if *held > 0 {
                write!(f, "; this handle holds {held} maps and may hold {max_maps}, max_maps")?;
            }
            f.write_str("); drop snapshots, read with Snapshot::cursor, or raise the limit of the system")
        } else {
            write!(
                f,
                "this handle holds {held} maps and may hold {max_maps} (max_maps; vm.max_map_count of the system is \
                 {system}); drop snapshots, read with Snapshot::cursor, or raise max_maps"
            )
        }
    }
}

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOptions {
    /// The option's name.
    pub field: &'static str,
    /// Why its value is refused, and what is allowed.
    pub reason: &'static str,
}

/// The largest number that a log is reset to, so that there is no end of numbers behind it.
pub(crate) const MAX_RESET: u64 = (1 << 62) - 1;

/// Which numbers would have been taken in place of `seq`, for a sentence. Up to the last one only a reset refuses; above
/// that, up to [`MAX_RESET`], only everything else.
struct InRange {
    seq: u64,
    last_seq: u64,
}

impl std::fmt::Display for InRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seq, last_seq } = *self;
        let first = last_seq.saturating_add(1);
        match (seq <= last_seq, last_seq < MAX_RESET) {
            (true, true) => write!(f, "use a number from {first} to {MAX_RESET}"),
            (true, false) => f.write_str("it cannot be reset any more, begin a new log"),
            (false, true) if seq > MAX_RESET => {
                write!(f, "use a number up to {last_seq}, or for a reset one from {first} to {MAX_RESET}")
            }
            (false, true) => write!(f, "use a number up to {last_seq}"),
            (false, false) => write!(f, "use a number up to {last_seq}, and to reset it begin a new log"),
        }
    }
}

/// The two locks that a writer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockKind {
    /// The file LOCK.
    File,
    /// The directory itself, by its own descriptor.
    Directory,
}

/// Who holds which lock, for a sentence.
struct Holder<'a> {
    pid: Option<u32>,
    path: &'a Path,
    lock: LockKind,
}

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        let by = self.pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        match self.lock {
            LockKind::File => {
                write!(f, "the log at {path} is open for writing by {by}; close that writer or open the log read-only")
            }
            LockKind::Directory => write!(
                f,
                "the directory {path} is locked by {by}, though its file LOCK is free (a writer whose file LOCK was \
                 removed, or a program that locks directories); end that process or open the log read-only"
            ),
        }
    }
}

/// What helps where there is no space.
fn relief(failure: &IoFailure) -> &'static str {
    if failure.is_limit() {
        "raise that limit (`ulimit -f`), and try again"
    } else {
        "free some space, for example by truncating the front of the log, and try again"
    }
}

impl Error {
    /// An I/O error; want of space becomes [`Error::NoSpace`].
    pub(crate) fn io(operation: Operation, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let context = operation.as_str();
        let failure = Box::new(IoFailure { operation, context, path: path.to_owned(), source });
        if full { Self::NoSpace(failure) } else { Self::Io(failure) }
    }

    /// An option out of its range.
    pub(crate) fn invalid(field: &'static str, reason: &'static str) -> Self {
        Self::InvalidOptions(Box::new(InvalidOptions { field, reason }))
    }

    /// A directory that a log is not copied to.
    pub(crate) fn destination(path: &Path, reason: impl Into<String>) -> Self {
        Self::Destination(Box::new(Destination { path: path.to_owned(), reason: reason.into() }))
    }

    /// Whether the system refuses such a call on such a file, to this user or to everybody, and nothing has failed.
    pub(crate) fn is_refused(&self) -> bool {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        matches!(self, Self::Io(failure) if matches!(failure.source.kind(), InvalidInput | PermissionDenied | Unsupported))
    }

    /// Whether this says that there is no room for one more map.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Io(failure)
            if failure.operation != Operation::LockMemory && failure.source.kind() == io::ErrorKind::OutOfMemory)
    }

    /// Whether this says that this process may not write there.
    pub(crate) fn is_unwritable(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io(failure) if matches!(failure.source.kind(), PermissionDenied | ReadOnlyFilesystem))
    }

    /// Whether this says that a file is there already.
    pub(crate) fn is_already_there(&self) -> bool {
        matches!(self, Self::Io(failure) if failure.source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether the process, or the system, may have no more files open: nothing is wrong with the file itself.
    pub(crate) fn is_want_of_descriptors(&self) -> bool {
        let numbers = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        matches!(self, Self::Io(failure) if numbers.contains(&failure.source.raw_os_error()))
    }

    /// The failure of a change that has happened in part, after which want of space does not mean that nothing was done.
    pub(crate) fn once_begun(self) -> Self {
        match self {
            Self::NoSpace(failure) => Self::Io(failure),
            other => other,
        }
    }

    /// Whether this says that a file is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(failure) if failure.source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the failure leaves unknown what is on the disk, so that nothing may be written any more. Want of space, of
    /// descriptors or of permission does not; a failed sync or rename does, and so does everything that no system call
    /// has returned, because nobody expects it there.
    pub(crate) fn leaves_disk_unknown(&self) -> bool {
        match self {
            Self::NoSpace(_) | Self::MapLimit(_) => false,
            Self::Io(failure) => failure.operation.leaves_disk_unknown(),
            _ => true,
        }
    }

    /// Whether `other` says the same: the same variant with the same details. Of what the system said, the kind and the
    /// number are compared, and not the message.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Io(a), Self::Io(b)) | (Self::NoSpace(a), Self::NoSpace(b)) => a.is_same_as(b),
            (Self::Locked { pid: a, path: at, lock }, Self::Locked { pid: b, path: other_at, lock: other_lock }) => {
                (a, at, lock) == (b, other_at, other_lock)
            }
            (Self::Corrupt(a), Self::Corrupt(b)) | (Self::TornTail(a), Self::TornTail(b)) => a == b,
            (Self::MissingSegment(a), Self::MissingSegment(b)) => a == b,
            (Self::NoManifest { path: a }, Self::NoManifest { path: b })
            | (Self::Replaced { path: a }, Self::Replaced { path: b })
            | (Self::UnfinishedCopy { path: a }, Self::UnfinishedCopy { path: b })
            | (Self::Stale { path: a }, Self::Stale { path: b }) => a == b,
            (Self::Destination(a), Self::Destination(b)) => a == b,
            (Self::Foreign(a), Self::Foreign(b)) => a == b,
            (
                Self::Version { version: a, features: with, path: at },
                Self::Version { version: b, features: other_with, path: other_at },
            ) => (a, with, at) == (b, other_with, other_at),
            (Self::RecordTooLarge { len: a, max }, Self::RecordTooLarge { len: b, max: other_max }) => {
                (a, max) == (b, other_max)
            }
            (Self::OutOfRange { seq: a, last_seq: at }, Self::OutOfRange { seq: b, last_seq: other_at }) => {
                (a, at) == (b, other_at)
            }
            (Self::Truncated { first_seq: a }, Self::Truncated { first_seq: b })
            | (Self::TruncatedBack { last_seq: a }, Self::TruncatedBack { last_seq: b })
            | (Self::InsideBatch { seq: a }, Self::InsideBatch { seq: b })
            | (Self::Ahead { last_seq: a }, Self::Ahead { last_seq: b }) => a == b,
            (Self::Gap { from: a, to }, Self::Gap { from: b, to: other_to }) => (a, to) == (b, other_to),
            (Self::InvalidOptions(a), Self::InvalidOptions(b)) => a == b,
            (Self::Poisoned(a), Self::Poisoned(b)) => a.is_same_as(b),
            // Two kinds, or one without details.
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl IoFailure {
    /// Whether it is the limit of this process on the size of files that forbids it.
    pub(crate) fn is_limit(&self) -> bool {
        self.source.kind() == io::ErrorKind::FileTooLarge
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let details = |failure: &Self| (failure.operation, failure.source.kind(), failure.source.raw_os_error());
        details(self) == details(other) && self.path == other.path
    }
}

const _: () = assert!(size_of::<Result<u64>>() <= 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_failing_one() {
        let full = |kind: io::ErrorKind| Error::io(Operation::Allocate, Path::new("x"), kind.into());
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            assert!(matches!(full(kind), Error::NoSpace(_)), "{kind}");
        }
        assert!(matches!(full(io::ErrorKind::PermissionDenied), Error::Io(_)));
    }

    #[test]
    fn only_a_sync_and_a_rename_leave_the_disk_unknown() {
        let failed = |operation| Error::io(operation, Path::new("x"), io::Error::other("cannot sync or rename"));
        for operation in [Operation::Create, Operation::Allocate, Operation::Write, Operation::Link, Operation::Lock] {
            assert!(!failed(operation).leaves_disk_unknown(), "{operation}");
        }
        for operation in [Operation::Sync, Operation::Rename] {
            assert!(failed(operation).leaves_disk_unknown(), "{operation}");
            let full = Error::io(operation, Path::new("x"), io::ErrorKind::StorageFull.into());
            assert!(!full.leaves_disk_unknown(), "{operation}");
        }
        assert!(Error::Closed.leaves_disk_unknown());
    }

    #[test]
    fn errors_are_the_same_by_what_they_say_and_not_by_their_words() {
        let io = |operation, path: &str, kind: io::ErrorKind, words: &str| {
            Error::io(operation, Path::new(path), io::Error::new(kind, words))
        };
        let other = io::ErrorKind::Other;
        let one = io(Operation::Read, "a", other, "some words");
        assert!(one.is_same_as(&io(Operation::Read, "a", other, "other words")));
        assert!(!one.is_same_as(&io(Operation::Open, "a", other, "some words")));
        assert!(!one.is_same_as(&io(Operation::Read, "b", other, "some words")));
        assert!(!one.is_same_as(&io(Operation::Read, "a", io::ErrorKind::NotFound, "some words")));
        let corrupt = |offset, of: fn(Box<Corruption>) -> Error| {
            let (segment, expected_seq, durable_offset) = (1, 2, 3);
            of(Box::new(Corruption { path: "a".into(), segment, offset, expected_seq, durable_offset, reason: "torn" }))
        };
        assert!(corrupt(1, Error::Corrupt).is_same_as(&corrupt(1, Error::Corrupt)));
        assert!(!corrupt(1, Error::Corrupt).is_same_as(&corrupt(2, Error::Corrupt)));
        assert!(!corrupt(1, Error::Corrupt).is_same_as(&corrupt(1, Error::TornTail)));
        assert!(Error::Gap { from: 1, to: 2 }.is_same_as(&Error::Gap { from: 1, to: 2 }));
        assert!(!Error::Gap { from: 1, to: 2 }.is_same_as(&Error::Gap { from: 1, to: 3 }));
        assert!(Error::Closed.is_same_as(&Error::Closed) && !Error::Closed.is_same_as(&Error::Reentrant));
    }

    #[test]
    fn every_sentence_names_the_file_and_what_to_do() {
        let locked = Error::Locked { pid: Some(7), path: Box::new("data".into()), lock: LockKind::File };
        assert_eq!(
            locked.to_string(),
            "the log at data is open for writing by process 7; close that writer or open the log read-only"
        );
        let missing = MissingSegment { path: "a.wal".into(), expected_len: 8, found_len: None };
        assert!(Error::MissingSegment(Box::new(missing)).to_string().starts_with("the segment a.wal of 8 bytes"));
    }
}
