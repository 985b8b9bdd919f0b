//! The writer's two locks: the file LOCK, and the directory itself.
//!
//! LOCK alone is not enough, because people and programs remove files that look like left-over locks: the next writer
//! would make a new one and lock that. The directory alone is not enough either, because some file systems lock no
//! directories.

use std::time::Duration;

use crate::error::{Error, LockKind, Result};
use crate::format::name::LOCK;
use crate::storage::{DirLock, FileId, LockedDir, Storage, StoredFile};
use crate::sync::pass;

/// What the lock file holds, at most: a pid and the end of the line.
pub(crate) const LOCK_LEN: u64 = 11;

/// How often a held directory, or a LOCK that is removed meanwhile, is tried again, and how long it is waited before the
/// first time; twice as long each time, so a little more than a second together. A backup may lock a directory for a
/// moment.
const TRIES: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(1);

/// Both locks, held until they are given back or the process ends.
pub(crate) struct Locks {
    file: StoredFile,
    /// `None` where the file system locks no directories.
    dir: Option<LockedDir>,
    given_back: bool,
}

impl Locks {
    /// Takes both, without waiting for another writer.
    ///
    /// # Errors
    /// `Locked`; what the system says.
    pub(crate) fn take(storage: &Storage) -> Result<Self> {
        let file = lock_file(storage)?;
        let dir = lock_dir(storage).inspect_err(|_| {
            // Closing alone would leave the lock to a child that was forked meanwhile. The refusal says more than this.
            let _ = file.unlock();
        })?;
        // For messages only, so a full disk must not stand in the way of an open.
        let _ = file.write_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0);
        Ok(Self { file, dir, given_back: false })
    }

    /// Whether the directory is locked, too.
    pub(crate) fn has_dir(&self) -> bool {
        self.dir.is_some()
    }

    /// Which file LOCK was when it was locked.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn file_id(&self) -> Result<FileId> {
        self.file.id()
    }

    /// Gives both back.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn unlock(mut self) -> Result<()> {
        self.give_back()
    }

    /// LOCK last: a writer that finds it free is not to find the directory held.
    fn give_back(&mut self) -> Result<()> {
        self.given_back = true;
        let dir = self.dir.as_ref().map_or(Ok(()), LockedDir::unlock);
        let file = self.file.unlock();
        dir.and(file)
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        if !self.given_back {
            // Closing alone would leave the locks to a child that was forked meanwhile. What failed before says more than
            // this, and in such a child itself this is refused.
            let _ = self.give_back();
        }
    }
}

/// Locks LOCK, and sees to it that this is still the file of that name: it may be removed between the two.
fn lock_file(storage: &Storage) -> Result<StoredFile> {
    let path = || Box::new(storage.dir().to_owned());
    for _ in 0..TRIES {
        let file = storage.open_or_create(LOCK)?;
        if !file.try_lock_exclusive()? {
            let mut text = vec![0; file.len()?.min(32) as usize];
            file.read_at(&mut text, 0)?;
            let pid = String::from_utf8_lossy(&text).trim().parse().ok();
            return Err(Error::Locked { pid, path: path(), lock: LockKind::File });
        }
        match (storage.id_of(LOCK), file.id()) {
            (Ok(now), Ok(locked)) if now == Some(locked) => return Ok(file),
            (now, locked) => {
                file.unlock()?;
                now.and(locked)?;
            }
        }
    }
    Err(Error::Replaced { path: Box::new(storage.path(LOCK)) })
}

/// Locks the directory, if its file system does that.
fn lock_dir(storage: &Storage) -> Result<Option<LockedDir>> {
    for attempt in 0..=TRIES {
        match storage.try_lock_dir()? {
            DirLock::Taken(locked) => return Ok(Some(locked)),
            DirLock::Unsupported => return Ok(None),
            DirLock::Held if attempt < TRIES => pass(FIRST_WAIT * 2_u32.pow(attempt)),
            DirLock::Held => {}
        }
    }
    Err(Error::Locked { pid: None, path: Box::new(storage.dir().to_owned()), lock: LockKind::Directory })
}
