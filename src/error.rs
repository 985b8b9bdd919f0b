//! What can go wrong, each in one sentence that ends in what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    #[error(
        "the log at {} is open for writing by {}; close that writer or open the log read-only",
        path.display(), Holder(*pid)
    )]
    Locked {
        /// What stands in the lock file: the writer's process id, if it could write it.
        pid: Option<u32>,
        /// The directory of the log.
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
        "no slot of {} verifies; restore it from a copy, or see what can be rebuilt from the segments: `mmap-wal repair`, `Log::plan_repair`",
        path.display()
    )]
    NoManifest {
        /// The manifest that should be there.
        path: Box<PathBuf>,
    },

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

    /// A record or a batch is longer than any segment can be.
    #[error("a record or batch of {len} bytes was given, and at most {max} fit; split it")]
    RecordTooLarge {
        /// Length in bytes.
        len: u64,
        /// The most that fits, in bytes.
        max: u64,
    },

    /// A sequence number that is not in the log.
    #[error("sequence number {seq} is out of range, the log ends at {last_seq}; use a number that was appended")]
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
}

/// A refusal of the operating system.
#[derive(Debug, thiserror::Error)]
#[error("cannot {context} {}: {source}", path.display())]
pub struct IoFailure {
    /// What was tried, as a verb.
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

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOptions {
    /// The option's name.
    pub field: &'static str,
    /// Why its value is refused, and what is allowed.
    pub reason: &'static str,
}

/// Who holds the lock, for a sentence.
struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// What helps where there is no space.
fn relief(failure: &IoFailure) -> &'static str {
    match failure.source.kind() {
        io::ErrorKind::FileTooLarge => "raise that limit (`ulimit -f`), and try again",
        _ => "free some space, for example by truncating the front of the log, and try again",
    }
}

impl Error {
    /// An I/O error; want of space becomes [`Error::NoSpace`].
    pub(crate) fn io(context: &'static str, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let failure = Box::new(IoFailure { context, path: path.to_owned(), source });
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

    /// Whether this says that something may not be done.
    pub(crate) fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Io(failure) if failure.source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether this says that a file is there already.
    pub(crate) fn is_already_there(&self) -> bool {
        matches!(self, Self::Io(failure) if failure.source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether this says that a file is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(failure) if failure.source.kind() == io::ErrorKind::NotFound)
    }
}

const _: () = assert!(size_of::<Result<u64>>() <= 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_failing_one() {
        let full = |kind: io::ErrorKind| Error::io("allocate", Path::new("x"), kind.into());
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            assert!(matches!(full(kind), Error::NoSpace(_)), "{kind}");
        }
        assert!(matches!(full(io::ErrorKind::PermissionDenied), Error::Io(_)));
    }

    #[test]
    fn every_sentence_names_the_file_and_what_to_do() {
        let locked = Error::Locked { pid: Some(7), path: Box::new("data".into()) };
        assert_eq!(
            locked.to_string(),
            "the log at data is open for writing by process 7; close that writer or open the log read-only"
        );
        let missing = MissingSegment { path: "a.wal".into(), expected_len: 8, found_len: None };
        assert!(Error::MissingSegment(Box::new(missing)).to_string().starts_with("the segment a.wal of 8 bytes"));
    }
}
