//! What a log asks of the file system, and who sees it.

use std::io;
use std::path::Path;

use crate::error::Operation;

/// One thing that is asked of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act<'a> {
    /// Make a directory.
    MakeDir(&'a Path),
    /// Create a file that is not there.
    Create(&'a Path),
    /// Open a file that is there.
    Open(&'a Path),
    /// Give a file its length, with the space for it.
    Allocate {
        /// The file.
        path: &'a Path,
        /// Its length in bytes.
        len: u64,
    },
    /// Read at an offset.
    Read(&'a Path),
    /// Write at an offset.
    Write {
        /// The file.
        path: &'a Path,
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Ask which file a name is, or what became of a directory.
    Look(&'a Path),
    /// Map a file.
    Map(&'a Path),
    /// Keep the pages of a map in memory.
    LockMemory(&'a Path),
    /// Make the pages of a range of a map present.
    Populate(&'a Path),
    /// Make the pages of a range of a map writable before they are stored to.
    Prefault {
        /// The file.
        path: &'a Path,
        /// Offset of the first page.
        offset: u64,
        /// Length in bytes, up to the end of the last page.
        len: u64,
    },
    /// Write the pages of a range of a map to the device.
    SyncRange {
        /// The file.
        path: &'a Path,
        /// Offset of the first page.
        offset: u64,
        /// Length in bytes, up to the end of the last page.
        len: u64,
    },
    /// Write what is dirty of a file to the device.
    SyncFile(&'a Path),
    /// Make the names in a directory durable.
    SyncDir(&'a Path),
    /// Write what is dirty of the whole file system of a directory to the device.
    SyncFileSystem(&'a Path),
    /// List a directory.
    List(&'a Path),
    /// Give a file another name, replacing what has it.
    Rename {
        /// The old name.
        from: &'a Path,
        /// The new name.
        to: &'a Path,
    },
    /// Give a file a second name, which must not be there.
    Link {
        /// The name that it has.
        from: &'a Path,
        /// The name that it gets.
        to: &'a Path,
    },
    /// Take a name away.
    Remove(&'a Path),
    /// Lock a file.
    Lock(&'a Path),
    /// Say that a file was changed now.
    SetTimes(&'a Path),
}

impl<'a> Act<'a> {
    /// The file or directory that it is about.
    #[must_use]
    pub fn path(&self) -> &'a Path {
        match *self {
            Self::MakeDir(path) | Self::Create(path) | Self::Open(path) | Self::Read(path) | Self::Map(path) => path,
            Self::Populate(path) | Self::SyncFile(path) | Self::SyncDir(path) | Self::List(path) => path,
            Self::Remove(path) | Self::Lock(path) | Self::LockMemory(path) | Self::SetTimes(path) => path,
            Self::SyncFileSystem(path) | Self::Look(path) => path,
            Self::Allocate { path, .. } | Self::Write { path, .. } | Self::SyncRange { path, .. } => path,
            Self::Prefault { path, .. } => path,
            Self::Rename { from, .. } | Self::Link { from, .. } => from,
        }
    }

    /// What it does.
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::MakeDir(_) | Self::Create(_) => Operation::Create,
            Self::Open(_) => Operation::Open,
            Self::Allocate { .. } => Operation::Allocate,
            Self::Read(_) | Self::Populate(_) => Operation::Read,
            Self::Write { .. } | Self::Prefault { .. } => Operation::Write,
            Self::Map(_) => Operation::Map,
            Self::LockMemory(_) => Operation::LockMemory,
            Self::SyncRange { .. } | Self::SyncFile(_) | Self::SyncDir(_) => Operation::Sync,
            Self::List(_) => Operation::List,
            Self::Rename { .. } => Operation::Rename,
            Self::Link { .. } => Operation::Link,
            Self::Remove(_) => Operation::Remove,
            Self::Lock(_) => Operation::Lock,
            Self::Look(_) => Operation::Look,
            Self::SyncFileSystem(_) => Operation::SyncFileSystem,
            Self::SetTimes(_) => Operation::SetTimes,
        }
    }
}

/// Sees every [`Act`] of a log; for tests that simulate power loss or inject errors.
pub trait Observer: Send + Sync {
    /// Called before `act`, with everything that was written to the maps so far in the files; an error takes its place.
    ///
    /// # Errors
    /// Whatever the test wants the log to see.
    fn before(&self, act: &Act<'_>) -> io::Result<()>;
    /// Called after `act` succeeded.
    fn after(&self, act: &Act<'_>);
    /// Random bits in place of the system's, so that a run can be repeated.
    fn random(&self) -> Option<u64> {
        None
    }
    /// Unix time in nanoseconds in place of the system's, so that a run can be repeated.
    fn now(&self) -> Option<u64> {
        None
    }
}
