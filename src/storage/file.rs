//! One open file of a log.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::blank::headroom;
use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::map::{Map, Tail, has_no_other_user};
use crate::storage::space::Lacking;
use crate::storage::{Act, FileId, Storage};

/// An open file of the log.
pub(crate) struct StoredFile {
    pub(super) storage: Storage,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl StoredFile {
    /// Where it stands.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The same file after it was given another name.
    pub(crate) fn renamed(self, name: &str) -> Self {
        Self { path: self.storage.path(name), ..self }
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> Result<FileId> {
        self.storage.act(Act::Look(&self.path), || FileId::of_file(&self.file))
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> Result<u64> {
        self.storage.act(Act::Read(&self.path), || Ok(self.file.metadata()?.len()))
    }

    /// Its length in bytes, and what tells it from every other file: the numbers of its device and inode.
    pub(crate) fn len_and_id(&self) -> Result<(u64, (u64, u64))> {
        self.storage.act(Act::Read(&self.path), || {
            let found = self.file.metadata()?;
            Ok((found.len(), (found.dev(), found.ino())))
        })
    }

    /// Fills `bytes` from `offset` on.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.storage.act(Act::Read(&self.path), || self.file.read_exact_at(bytes, offset))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let len = bytes.len() as u64;
        self.storage.act(Act::Write { path: &self.path, offset, len }, || {
            within_limit(offset.saturating_add(len))?;
            self.file.write_all_at(bytes, offset)
        })
    }

    /// Lets the next read of what was synced come from the device, where the system can be asked to.
    pub(crate) fn forget_cached(&self) -> Result<()> {
        #[cfg(target_os = "linux")]
        self.storage.act(Act::Read(&self.path), || {
            // Advice: where it is not taken, what is read is what the system holds for the device.
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
            Ok(())
        })?;
        Ok(())
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.storage.act(Act::SyncFile(&self.path), || self.file.sync_data())
    }

    /// Gives the file `len` bytes of space and of length.
    ///
    /// `fallocate` and not `posix_fallocate`: the latter sets no `errno`, and a full disk would read "Success".
    pub(crate) fn allocate(&self, len: u64) -> Result<()> {
        self.storage.act(Act::Allocate { path: &self.path, len }, || {
            within_limit(len)?;
            let allocate = || rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len);
            match rustix::io::retry_on_intr(allocate) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeros(&self.file, len)?,
                other => other?,
            }
            if self.file.metadata()?.len() < len { self.file.set_len(len) } else { Ok(()) }
        })
    }

    /// Takes the space that the first `len` bytes of the file do not have of their own, without changing a byte: a file
    /// that was restored may have holes, or share its blocks with another one.
    pub(crate) fn reserve(&self, len: u64) -> Result<()> {
        let lacking = Lacking::of(&self.file, len).map_err(|e| Error::io(Operation::Read, &self.path, e))?;
        if lacking.is_empty() {
            return Ok(());
        }
        self.storage.act(Act::Allocate { path: &self.path, len }, || match lacking.take(&self.file) {
            // XFS may say so of what it has just made the file's own.
            Err(_) if Lacking::of(&self.file, len)?.is_empty() => Ok(()),
            other => other,
        })
    }

    /// Refuses if a write that ends at `end` would be refused by the limit on the size of files.
    pub(crate) fn check_limit(&self, end: u64) -> Result<()> {
        within_limit(end).map_err(|source| Error::io(Operation::Write, &self.path, source))
    }

    /// Maps the file for reading: the bytes of `FRAMES_AT..published` will not change any more.
    pub(crate) fn map_read_only(&self, len: usize, published: usize) -> Result<Map> {
        self.storage.act(Act::Map(&self.path), || {
            let _headroom = headroom()?;
            Map::read_only(&self.file, len, FRAMES_AT, published)
        })
    }

    /// Maps the file for its one writer.
    pub(crate) fn map_writable(&self, len: usize, published: usize) -> Result<Tail> {
        let map = || {
            let _headroom = headroom()?;
            Map::writable(&self.file, len, FRAMES_AT, published)
        };
        let mut tail = self.storage.act(Act::Map(&self.path), map)?;
        if self.storage.0.lock_memory {
            self.storage.act(Act::LockMemory(&self.path), || tail.lock())?;
        }
        Ok(tail)
    }

    /// Brings the pages of `range` of `map`, a map of this file, in for reading.
    pub(crate) fn populate_read(&self, map: &Map, range: Range<usize>) -> Result<()> {
        self.storage.populate_read(&self.path, map, range)
    }

    /// Makes the pages of `range` of the file's map writable, or writes the file's own bytes again where the system has
    /// no such call: either way the blocks behind them are written and not merely reserved.
    pub(crate) fn populate_write(&self, map: &Map, range: Range<usize>) -> Result<()> {
        self.storage.act(Act::Populate(&self.path), || match map.populate_write(range.clone()) {
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
                rewrite(&self.file, range)
            }
            other => other,
        })
    }

    /// Locks the file for this handle alone, without waiting; `false` if another one holds a lock.
    pub(crate) fn try_lock_exclusive(&self) -> Result<bool> {
        self.storage.act(Act::Lock(&self.path), || contended(fs2::FileExt::try_lock_exclusive(&self.file)))
    }

    /// Locks the file for this handle alone, waiting while others have it.
    pub(crate) fn lock_exclusive(&self) -> Result<()> {
        self.storage.act(Act::Lock(&self.path), || uninterrupted(|| fs2::FileExt::lock_exclusive(&self.file)))
    }

    /// Locks the file together with others, waiting while one holds it alone.
    pub(crate) fn lock_shared(&self) -> Result<()> {
        self.storage.act(Act::Lock(&self.path), || uninterrupted(|| fs2::FileExt::lock_shared(&self.file)))
    }

    /// Whether this is the only open file of it, and nobody has it mapped: not through another open file, of this process
    /// or any other. `false` where the system does not tell.
    pub(crate) fn is_only_user(&self) -> Result<bool> {
        self.storage.act(Act::Look(&self.path), || Ok(has_no_other_user(&self.file)))
    }

    /// Gives the lock back. The call is made even if an observer refuses it, and the refusal is reported: to close the file
    /// does not release a `flock` that a child has inherited between `fork` and `exec`.
    pub(crate) fn unlock(&self) -> Result<()> {
        // A forked child shares the lock, and must leave it.
        self.storage.owner().check()?;
        let unlocked = fs2::FileExt::unlock(&self.file);
        self.storage.act(Act::Lock(&self.path), || unlocked)
    }
}

/// Refuses what ends behind the limit of this process on the size of files: the system would answer the call with `SIGXFSZ`,
/// which ends the process. Stores through a map are not limited.
fn within_limit(end: u64) -> io::Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if end > limit => {
            let said = format!("it would take {end} bytes, and this process may write {limit} bytes of a file");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, said))
        }
        _ => Ok(()),
    }
}

/// Locks again when a signal came between.
fn uninterrupted(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

pub(super) fn contended(locked: io::Result<()>) -> io::Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(e) => Err(e),
    }
}

/// For file systems without `fallocate`: small writes, because big ones leave big folios in the page cache.
fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let count = (len - at).min(PAGE as u64);
        file.write_all_at(&[0; PAGE][..count as usize], at)?;
        at += count;
    }
    Ok(())
}

fn rewrite(file: &File, range: Range<usize>) -> io::Result<()> {
    let mut page = [0; PAGE];
    for at in range.step_by(PAGE) {
        file.read_exact_at(&mut page, at as u64)?;
        file.write_all_at(&page, at as u64)?;
    }
    Ok(())
}
