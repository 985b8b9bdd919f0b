//! Files and the directory, behind one thin seam.
//!
//! Everything that a log asks of the file system goes through [`Storage`], as an [`Act`] that an [`Observer`] sees
//! before and after; an observer may refuse it. Without an observer the seam costs one test of an option per system
//! call, and appending makes no system call.

mod act;
mod file;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::map::Map;
use crate::planted::{Bug, planted};

pub use act::{Act, Observer};
pub(crate) use file::StoredFile;

/// The directory of a log.
#[derive(Clone)]
pub(crate) struct Storage(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    file_mode: u32,
    lock_memory: bool,
    observer: Option<Arc<dyn Observer>>,
}

/// A name in the directory.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) is_file: bool,
    pub(crate) len: u64,
    /// What tells two names of one file from two files.
    pub(crate) inode: u64,
}

impl Storage {
    /// The directory `dir`, there or not; new files get `file_mode`.
    pub(crate) fn new(dir: &Path, file_mode: u32, observer: Option<Arc<dyn Observer>>) -> Self {
        Self(Arc::new(Inner { dir: dir.to_owned(), file_mode, lock_memory: false, observer }))
    }

    /// The same directory; what is mapped to be written is kept in memory if `lock_memory`.
    pub(crate) fn locking_memory(&self, lock_memory: bool) -> Self {
        let Inner { dir, file_mode, observer, .. } = &*self.0;
        Self(Arc::new(Inner { dir: dir.clone(), file_mode: *file_mode, lock_memory, observer: observer.clone() }))
    }

    /// Another directory, under the same eyes; new files get `file_mode`.
    pub(crate) fn elsewhere(&self, dir: &Path, file_mode: u32) -> Self {
        Self::new(dir, file_mode, self.0.observer.clone())
    }

    /// Whether somebody looks at what is asked of the file system.
    pub(crate) fn is_observed(&self) -> bool {
        self.0.observer.is_some()
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

    /// What stands under the directory's own name, which may be a link; `None` if nothing does.
    pub(crate) fn kind(&self) -> Result<Option<std::fs::FileType>> {
        self.act(Act::Open(&self.0.dir), || match self.0.dir.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|found| Some(found.file_type())),
        })
    }

    /// How many directories below `other` this one stands, or will stand; `None` if it stands elsewhere.
    pub(crate) fn depth_in(&self, other: &Self) -> Result<Option<usize>> {
        self.act(Act::Open(&self.0.dir), || {
            let id = |dir: &Path| dir.metadata().map(|found| (found.dev(), found.ino()));
            let log = id(&other.0.dir)?;
            let whole = std::path::absolute(&self.0.dir)?;
            let mut missing = 0;
            for dir in whole.ancestors() {
                match dir.canonicalize() {
                    Ok(real) => {
                        return Ok(real
                            .ancestors()
                            .position(|dir| id(dir).is_ok_and(|id| id == log))
                            .map(|depth| depth + missing));
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => missing += 1,
                    Err(e) => return Err(e),
                }
            }
            Ok(None)
        })
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
                read_as_asked(&file);
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
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(self.0.file_mode).open(&path)?;
            overwrite_in_place(&file);
            Ok(file)
        })?;
        Ok(StoredFile { storage: self.clone(), path, file })
    }

    /// Opens `name` for reading and writing, creating it if it is not there.
    pub(crate) fn open_or_create(&self, name: &str) -> Result<StoredFile> {
        match self.open_write(name) {
            Err(e) if e.is_not_found() => match self.create(name) {
                // Another process was faster.
                Err(e) if e.is_already_there() => self.open_write(name),
                other => other,
            },
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
                listed.push(Listed { name, is_file: metadata.is_file(), len: metadata.len(), inode: metadata.ino() });
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

    /// The directories above this one on the same file system, nearest first.
    pub(crate) fn above(&self) -> Vec<PathBuf> {
        let device = |dir: &Path| dir.metadata().map(|found| found.dev()).ok();
        let whole = std::path::absolute(&self.0.dir).unwrap_or_else(|_| self.0.dir.clone());
        let here = device(&whole);
        whole.ancestors().skip(1).take_while(|dir| device(dir) == here).map(Path::to_owned).collect()
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

    /// Refuses a file that has other names: whoever made one, a copy by hard links perhaps, wants the file as it is.
    pub(crate) fn refuse_other_names(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        self.act(Act::Read(&path), || match path.symlink_metadata()?.nlink() {
            1 => Ok(()),
            _ => Err(io::Error::other("the file has another name, by which it may be looked at")),
        })
    }

    /// Gives the file `from` a second name `to`, which must not be there.
    pub(crate) fn link(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        self.act(Act::Link { from: &from, to: &to }, || std::fs::hard_link(&from, &to))
    }

    /// Removes `name`.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        self.act(Act::Remove(&path), || std::fs::remove_file(&path))
    }

    /// Brings the pages of `range` of `map`, the map of the file at `path`, in for reading.
    pub(crate) fn populate_read(&self, path: &Path, map: &Map, range: Range<usize>) -> Result<()> {
        let pages = range.start - range.start % PAGE..range.end.next_multiple_of(PAGE).min(map.len());
        // A map is read page by page: without this, each would be waited for.
        map.will_need(pages.clone());
        self.act(Act::Populate(path), || match map.populate_read(pages.clone()) {
            // An older kernel, or another system, has no such call.
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
                touch(map, &pages)
            }
            // The system does not say why.
            Err(e) if is_fault(&e) => Err(unreadable()),
            other => other,
        })
    }

    /// Makes the pages of `range` of `map`, the writable map of the file at `path`, present and writable: of a page to
    /// which a store would be a signal, that is an error. A kernel that has no such call, or no memory at the moment, says
    /// nothing of the pages.
    pub(crate) fn prefault(&self, path: &Path, map: &Map, range: Range<usize>) -> Result<()> {
        let pages = range.start - range.start % PAGE..range.end.next_multiple_of(PAGE).min(map.len());
        let act = Act::Prefault { path, offset: pages.start as u64, len: (pages.end - pages.start) as u64 };
        self.act(act, || match map.populate_write(pages.clone()) {
            Err(e) if is_fault(&e) => Err(unwritable()),
            _ => Ok(()),
        })
    }

    /// Writes the pages of `range` of `map`, the map of the file at `path`, to the device.
    pub(crate) fn sync_map(&self, path: &Path, map: &Map, range: Range<usize>) -> Result<()> {
        let pages = range.start - range.start % PAGE..range.end.next_multiple_of(PAGE).min(map.len());
        let act = Act::SyncRange { path, offset: pages.start as u64, len: (pages.end - pages.start) as u64 };
        self.act(act, || map.sync(pages.clone()).and_then(|()| flush_device(path)))
    }
}

/// Brings the readable part of `pages` in by letting the system read a byte of each: of a page that cannot be read, that is
/// an error, where a load would raise a signal.
fn touch(map: &Map, pages: &Range<usize>) -> io::Result<()> {
    let prefix = map.prefix();
    let index = |offset: usize| offset.saturating_sub(FRAMES_AT).min(prefix.len());
    let (mut reader, mut writer) = io::pipe()?;
    let mut taken = [0; TOUCHED_AT_ONCE];
    for chunk in prefix[index(pages.start)..index(pages.end)].chunks(TOUCHED_AT_ONCE * PAGE) {
        let firsts: Vec<IoSlice<'_>> = chunk.chunks(PAGE).map(|page| IoSlice::new(&page[..1])).collect();
        match writer.write_vectored(&firsts) {
            Ok(count) if count == firsts.len() => reader.read_exact(&mut taken[..count])?,
            Err(e) if !is_fault(&e) => return Err(e),
            _ => return Err(unreadable()),
        }
    }
    Ok(())
}

/// How many bytes go into the pipe before they are taken out: less than any pipe holds.
const TOUCHED_AT_ONCE: usize = 256;

/// Asks btrfs to overwrite the blocks of a new, empty `file` and not to copy them, which would make a sync of one page
/// write 70 to 170 KiB. Such a file has no checksums of the file system's; every byte that counts here has one of the
/// log's. What refuses costs speed and nothing else.
#[cfg(target_os = "linux")]
fn overwrite_in_place(file: &File) {
    use rustix::fs::{IFlags, fstatfs, ioctl_getflags, ioctl_setflags};
    /// `BTRFS_SUPER_MAGIC`, as statfs(2) lists it.
    const BTRFS: u64 = 0x9123_683e;
    if fstatfs(file).is_ok_and(|found| found.f_type as u64 & 0xffff_ffff == BTRFS)
        && let Ok(flags) = ioctl_getflags(file)
    {
        let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}

#[cfg(not(target_os = "linux"))]
fn overwrite_in_place(_file: &File) {}

/// Has the system read of `file` what is asked for and no more, which it then keeps page by page; see the hint that a map
/// gives it. Everything here reads in large pieces anyway.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn read_as_asked(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn read_as_asked(_file: &File) {}

/// Whether a load or a store in place of the call would have been a signal.
pub(crate) fn is_fault(e: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    if e.raw_os_error() == Some(rustix::io::Errno::HWPOISON.raw_os_error()) {
        return true;
    }
    e.raw_os_error() == Some(rustix::io::Errno::FAULT.raw_os_error())
}

fn unwritable() -> io::Error {
    io::Error::other("some of its pages cannot be written; check the device and the file system")
}

fn unreadable() -> io::Error {
    io::Error::other("some of its pages cannot be read; check the device, and that nobody has shortened the file")
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
    Read::read_exact(&mut File::open("/dev/urandom")?, &mut bits)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of which everything is published.
    fn map_of(file: &File, pages: usize) -> Map {
        let len = FRAMES_AT + pages * PAGE;
        file.set_len(len as u64).expect("its length");
        Map::read_only(file, len, FRAMES_AT, len).expect("a map")
    }

    #[test]
    fn a_page_that_cannot_be_read_is_an_error_without_a_call_to_bring_it_in_too() {
        let file = tempfile::tempfile().expect("a file");
        let pages = 3 * TOUCHED_AT_ONCE + 1;
        let map = map_of(&file, pages);
        let whole = 0..map.len();
        touch(&map, &whole).expect("every page can be read");
        for kept in [pages - 1, TOUCHED_AT_ONCE, 1, 0] {
            let end = FRAMES_AT + kept * PAGE;
            file.set_len(end as u64).expect("a shorter file");
            assert!(touch(&map, &whole).is_err(), "{kept}");
            assert!(
                map.populate_read(whole.clone()).is_err_and(|e| is_fault(&e)) || !cfg!(target_os = "linux"),
                "{kept}"
            );
            touch(&map, &(0..end)).expect("what is left can be read");
            assert!(touch(&map, &(end..end + PAGE)).is_err(), "{kept}");
        }
    }
}
