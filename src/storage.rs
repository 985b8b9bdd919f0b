//! Files and the directory, behind one thin seam.
//!
//! Everything that a log asks of the file system goes through [`Storage`], as an [`Act`] that an [`Observer`] sees
//! before and after; an observer may refuse it. Without an observer the seam costs one test of an option per system
//! call, and appending makes no system call.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::map::{Map, Tail};
use crate::planted::{Bug, planted};

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
    /// Map a file.
    Map(&'a Path),
    /// Make the pages of a range of a map present.
    Populate(&'a Path),
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
    /// List a directory.
    List(&'a Path),
    /// Give a file another name, replacing what has it.
    Rename {
        /// The old name.
        from: &'a Path,
        /// The new name.
        to: &'a Path,
    },
    /// Take a name away.
    Remove(&'a Path),
    /// Lock a file.
    Lock(&'a Path),
}

impl<'a> Act<'a> {
    /// The file or directory that it is about.
    #[must_use]
    pub fn path(&self) -> &'a Path {
        match *self {
            Self::MakeDir(path) | Self::Create(path) | Self::Open(path) | Self::Read(path) | Self::Map(path) => path,
            Self::Populate(path) | Self::SyncFile(path) | Self::SyncDir(path) | Self::List(path) => path,
            Self::Remove(path) | Self::Lock(path) => path,
            Self::Allocate { path, .. } | Self::Write { path, .. } | Self::SyncRange { path, .. } => path,
            Self::Rename { from, .. } => from,
        }
    }

    /// What it does, as a verb for a sentence.
    fn verb(&self) -> &'static str {
        match self {
            Self::MakeDir(_) | Self::Create(_) => "create",
            Self::Open(_) => "open",
            Self::Allocate { .. } => "allocate space for",
            Self::Read(_) | Self::Populate(_) => "read",
            Self::Write { .. } => "write",
            Self::Map(_) => "map",
            Self::SyncRange { .. } | Self::SyncFile(_) | Self::SyncDir(_) => "sync",
            Self::List(_) => "list",
            Self::Rename { .. } => "rename",
            Self::Remove(_) => "remove",
            Self::Lock(_) => "lock",
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

/// The directory of a log.
#[derive(Clone)]
pub(crate) struct Storage(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    file_mode: u32,
    observer: Option<Arc<dyn Observer>>,
}

/// A name in the directory.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) is_file: bool,
    pub(crate) len: u64,
}

impl Storage {
    /// The directory `dir`, there or not; new files get `file_mode`.
    pub(crate) fn new(dir: &Path, file_mode: u32, observer: Option<Arc<dyn Observer>>) -> Self {
        Self(Arc::new(Inner { dir: dir.to_owned(), file_mode, observer }))
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The file `name` in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }

    /// Random bits: of the operating system, or of the observer.
    pub(crate) fn random(&self) -> Result<u64> {
        match self.0.observer.as_ref().and_then(|observer| observer.random()) {
            Some(bits) => Ok(bits),
            None => system_random().map_err(|source| Error::io("draw random bits for", &self.0.dir, source)),
        }
    }

    /// Unix time in nanoseconds; 0 if the clock stands before 1970.
    pub(crate) fn now(&self) -> u64 {
        let system = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.0.observer.as_ref().and_then(|observer| observer.now()).unwrap_or_else(system)
    }

    fn act<T>(&self, act: Act<'_>, run: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let done = match &self.0.observer {
            None => run(),
            Some(observer) => observer.before(&act).and_then(|()| run()).inspect(|_| observer.after(&act)),
        };
        done.map_err(|source| Error::io(act.verb(), act.path(), source))
    }

    /// Makes the directory and those above it that are missing; returns those whose entries changed, outermost first.
    pub(crate) fn make_dirs(&self) -> Result<Vec<PathBuf>> {
        let missing: Vec<&Path> = self.0.dir.ancestors().take_while(|dir| is_missing(dir)).collect();
        let mut changed = Vec::new();
        for dir in missing.into_iter().rev() {
            self.make_dir(dir)?;
            changed.push(parent(dir));
        }
        Ok(changed)
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        let searchable = self.0.file_mode | ((self.0.file_mode & 0o444) >> 2);
        self.act(Act::MakeDir(dir), || match std::fs::DirBuilder::new().mode(searchable).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        })
    }

    /// Opens `name` for reading, if it is a regular file and no link.
    pub(crate) fn open_read(&self, name: &str) -> Result<StoredFile> {
        self.open(name, OpenOptions::new().read(true))
    }

    /// Opens `name` for reading and writing, if it is a regular file and no link.
    pub(crate) fn open_write(&self, name: &str) -> Result<StoredFile> {
        self.open(name, OpenOptions::new().read(true).write(true))
    }

    fn open(&self, name: &str, options: &mut OpenOptions) -> Result<StoredFile> {
        let path = self.path(name);
        // NONBLOCK: opening a pipe that stands there must not wait for its other end.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
        let file = self.act(Act::Open(&path), || {
            let file = options.custom_flags(flags).open(&path)?;
            if file.metadata()?.is_file() {
                Ok(file)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
            }
        })?;
        Ok(StoredFile { storage: self.clone(), path, file })
    }

    /// Creates `name`, which must not be there.
    pub(crate) fn create(&self, name: &str) -> Result<StoredFile> {
        let path = self.path(name);
        let file = self.act(Act::Create(&path), || {
            OpenOptions::new().read(true).write(true).create_new(true).mode(self.0.file_mode).open(&path)
        })?;
        Ok(StoredFile { storage: self.clone(), path, file })
    }

    /// Opens `name` for reading and writing, creating it if it is not there.
    pub(crate) fn open_or_create(&self, name: &str) -> Result<StoredFile> {
        match self.open_write(name) {
            Err(e) if e.is_not_found() => self.create(name),
            other => other,
        }
    }

    /// What stands in the directory.
    pub(crate) fn list(&self) -> Result<Vec<Listed>> {
        self.act(Act::List(&self.0.dir), || {
            let mut listed = Vec::new();
            for entry in std::fs::read_dir(&self.0.dir)? {
                let entry = entry?;
                let metadata = match entry.metadata() {
                    // Removed between listing and looking.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                };
                let name = entry.file_name().to_string_lossy().into_owned();
                listed.push(Listed { name, is_file: metadata.is_file(), len: metadata.len() });
            }
            Ok(listed)
        })
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_dir(&self) -> Result<()> {
        self.sync_other_dir(&self.0.dir)
    }

    /// The directory in which the name of this one stands.
    pub(crate) fn parent(&self) -> PathBuf {
        parent(&self.0.dir)
    }

    /// Makes the name of the directory itself durable.
    pub(crate) fn sync_parent(&self) -> Result<()> {
        self.sync_other_dir(&self.parent())
    }

    /// Makes the names in `dir` durable.
    pub(crate) fn sync_other_dir(&self, dir: &Path) -> Result<()> {
        if planted(Bug::NoDirectorySync) {
            return Ok(());
        }
        self.act(Act::SyncDir(dir), || File::open(dir)?.sync_all())
    }

    /// Renames `from` to `to`.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        self.act(Act::Rename { from: &from, to: &to }, || std::fs::rename(&from, &to))
    }

    /// Removes `name`.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        self.act(Act::Remove(&path), || std::fs::remove_file(&path))
    }

    /// Brings the pages of `range` of `map`, the map of the file at `path`, in for reading.
    pub(crate) fn populate_read(&self, path: &Path, map: &Map, range: Range<usize>) -> Result<()> {
        let pages = range.start - range.start % PAGE..range.end.next_multiple_of(PAGE).min(map.len());
        self.act(Act::Populate(path), || match map.populate_read(pages.clone()) {
            // An older kernel has no such call: the pages come in as they are touched.
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => Ok(()),
            other => other,
        })
    }

    /// Writes the pages of `range` of `map`, the map of the file at `path`, to the device.
    pub(crate) fn sync_map(&self, path: &Path, map: &Map, range: Range<usize>) -> Result<()> {
        let pages = range.start - range.start % PAGE..range.end.next_multiple_of(PAGE).min(map.len());
        let act = Act::SyncRange { path, offset: pages.start as u64, len: (pages.end - pages.start) as u64 };
        self.act(act, || map.sync(pages.clone()).and_then(|()| flush_device(path)))
    }
}

#[cfg(target_os = "linux")]
fn system_random() -> io::Result<u64> {
    let mut bits = [0; size_of::<u64>()];
    let drawn = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
    if drawn == bits.len() { Ok(u64::from_ne_bytes(bits)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(not(target_os = "linux"))]
fn system_random() -> io::Result<u64> {
    let mut bits = [0; size_of::<u64>()];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bits)?;
    Ok(u64::from_ne_bytes(bits))
}

/// On Apple systems `msync` leaves the data in the drive's cache.
#[cfg(target_vendor = "apple")]
fn flush_device(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fcntl_fullfsync(File::open(path)?)?)
}

#[cfg(not(target_vendor = "apple"))]
fn flush_device(_path: &Path) -> io::Result<()> {
    Ok(())
}

fn is_missing(dir: &Path) -> bool {
    !dir.as_os_str().is_empty() && matches!(dir.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

/// The directory in which the name of `dir` stands.
fn parent(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(above) if above.as_os_str().is_empty() => PathBuf::from("."),
        Some(above) => above.to_owned(),
        // `/`, and `..` and the like have no name to lose.
        None => dir.to_owned(),
    }
}

/// An open file of the log.
pub(crate) struct StoredFile {
    storage: Storage,
    path: PathBuf,
    file: File,
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

    /// Its length in bytes.
    pub(crate) fn len(&self) -> Result<u64> {
        self.storage.act(Act::Read(&self.path), || Ok(self.file.metadata()?.len()))
    }

    /// Fills `bytes` from `offset` on.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.storage.act(Act::Read(&self.path), || self.file.read_exact_at(bytes, offset))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let act = Act::Write { path: &self.path, offset, len: bytes.len() as u64 };
        self.storage.act(act, || self.file.write_all_at(bytes, offset))
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
            match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeros(&self.file, len)?,
                other => other?,
            }
            if self.file.metadata()?.len() < len { self.file.set_len(len) } else { Ok(()) }
        })
    }

    /// Maps the file for reading: the bytes of `FRAMES_AT..published` will not change any more.
    pub(crate) fn map_read_only(&self, len: usize, published: usize) -> Result<Map> {
        self.storage.act(Act::Map(&self.path), || Map::read_only(&self.file, len, FRAMES_AT, published))
    }

    /// Maps the file for its one writer.
    pub(crate) fn map_writable(&self, len: usize, published: usize) -> Result<Tail> {
        self.storage.act(Act::Map(&self.path), || Map::writable(&self.file, len, FRAMES_AT, published))
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

    /// Locks the file together with others, waiting while one holds it alone.
    pub(crate) fn lock_shared(&self) -> Result<()> {
        self.storage.act(Act::Lock(&self.path), || fs2::FileExt::lock_shared(&self.file))
    }

    /// Gives the lock back.
    pub(crate) fn unlock(&self) -> Result<()> {
        self.storage.act(Act::Lock(&self.path), || fs2::FileExt::unlock(&self.file))
    }
}

fn contended(locked: io::Result<()>) -> io::Result<bool> {
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
