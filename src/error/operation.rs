//! What was tried when something failed, as a type: decisions rest on it, and never on the text of a message.

use std::fmt;

/// What was asked of the operating system, or done with what it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Create a file or a directory.
    Create,
    /// Open a file or a directory.
    Open,
    /// Reserve space for a file.
    Allocate,
    /// Read from a file, by a call or by populating a map.
    Read,
    /// Write to a file.
    Write,
    /// Ask which file a name is, or what became of a directory.
    Look,
    /// Map a file.
    Map,
    /// Lock the pages of a map in memory.
    LockMemory,
    /// Sync a range of a map, a file or a directory.
    Sync,
    /// Sync the whole file system of a directory.
    SyncFileSystem,
    /// Set the time of change of a file.
    SetTimes,
    /// Use the file of a truncated segment again.
    Recycle,
    /// List a directory.
    List,
    /// Rename a file.
    Rename,
    /// Give a file a second name.
    Link,
    /// Remove a file.
    Remove,
    /// Take or release a file lock.
    Lock,
    /// Draw random bits.
    DrawRandom,
    /// Start a thread.
    StartThread,
    /// Run a thread of the log.
    Maintain,
    /// Change the manifest.
    Update,
    /// Make durable what recovery found.
    Recover,
    /// Copy bytes into memory.
    Copy,
    /// Compare what was written with what is read back.
    Verify,
    /// Make a manifest from the segments.
    Rebuild,
    /// Make a new log of the records that verify.
    Salvage,
    /// Take a reader's slot on the stats page.
    Announce,
}

impl Operation {
    /// The operation as the words between "cannot" and the name of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Allocate => "allocate space for",
            Self::Read => "read",
            Self::Write => "write",
            Self::Look => "look up",
            Self::Map => "map",
            Self::LockMemory => "lock in memory (`lock_memory` is on, and `ulimit -l` limits it)",
            Self::Sync => "sync",
            Self::SyncFileSystem => "sync the file system of",
            Self::SetTimes => "set the time of change of",
            Self::Recycle => "use again",
            Self::List => "list",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Remove => "remove",
            Self::Lock => "lock",
            Self::DrawRandom => "draw random bits for",
            Self::StartThread => "start a thread for",
            Self::Maintain => "maintain",
            Self::Update => "update",
            Self::Recover => "recover",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Rebuild => "rebuild",
            Self::Salvage => "salvage into",
            Self::Announce => "announce a reader in",
        }
    }

    /// Whether a failure leaves unknown what is on the disk. After a failed sync the kernel may hold pages as clean that
    /// never reached the device, and a rename that failed may or may not have replaced the file. Every other operation
    /// either did not happen or changed only bytes that no durable state refers to.
    pub(crate) const fn leaves_disk_unknown(self) -> bool {
        matches!(self, Self::Sync | Self::Rename)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
