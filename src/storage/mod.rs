//! Files and the directory, behind one thin seam.
//!
//! Everything that a log asks of the file system goes through [`Storage`], as an [`Act`] that an [`Observer`] sees
//! before and after; an observer may refuse it. Without an observer the seam costs one test of an option per system
//! call, and appending makes no system call.

mod act;
mod dir;
mod file;
mod owner;
mod place;
mod space;

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW};

use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::segment::FRAMES_AT;
use crate::map::Map;
use crate::planted::{Bug, planted};

use dir::{Dir, Named, above_standard_streams};

pub use act::{Act, Observer};
pub(crate) use dir::FileId;
pub(crate) use file::StoredFile;
pub(crate) use owner::Owner;
pub(crate) use place::Place;

/// The open directory of a log.
///
/// Names are resolved relative to its descriptor, never through its path again; paths are for messages and observers.
#[derive(Clone)]
pub(crate) struct Storage(Arc<Inner>);

struct Inner {
    dir: Dir,
    /// As the caller named it.
    path: PathBuf,
    file_mode: u32,
    lock_memory: bool,
    observer: Option<Arc<dyn Observer>>,
    /// The process whose handle this is.
    owner: Owner,
}

/// What came of locking a directory.
pub(crate) enum DirLock {
    /// This handle holds it.
    Taken(LockedDir),
    /// Another one does.
    Held,
    /// The file system locks no directories.
    Unsupported,
}

/// The lock of a directory.
pub(crate) struct LockedDir {
    storage: Storage,
    dir: Dir,
}

impl LockedDir {
    /// Gives the lock back, as [`StoredFile::unlock`] does that of a file.
    pub(crate) fn unlock(&self) -> Result<()> {
        self.storage.owner().check()?;
        let unlocked = fs2::FileExt::unlock(self.dir.file());
        self.storage.act(Act::Lock(self.storage.dir()), || unlocked)
    }
}

/// A name in the directory.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) is_file: bool,
    pub(crate) len: u64,
    /// What tells two names of one file from two files.
    pub(crate) id: FileId,
}

impl Storage {
    /// Whether somebody looks at what is asked of the file system.
    pub(crate) fn is_observed(&self) -> bool {
        self.0.observer.is_some()
    }

    /// The path by which the directory was opened, for messages.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.path
    }

    /// The path of the file `name` in it, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path.join(name)
    }

    /// Another place, under the same eyes; new files get `file_mode`.
    pub(crate) fn elsewhere(&self, path: &Path, file_mode: u32) -> Place {
        Place::new(path, file_mode, self.0.observer.clone()).owned_by(self.0.owner)
    }

    /// Random bits: of the operating system, or of the observer.
    pub(crate) fn random(&self) -> Result<u64> {
        match self.0.observer.as_ref().and_then(|observer| observer.random()) {
            Some(bits) => Ok(bits),
            None => system_random().map_err(|source| Error::io(Operation::DrawRandom, &self.0.path, source)),
        }
    }

    /// Unix time in nanoseconds, as [`nanos`] stores it.
    pub(crate) fn now(&self) -> u64 {
        self.0.observer.as_ref().and_then(|observer| observer.now()).unwrap_or_else(|| nanos(SystemTime::now()))
    }

    /// The process that opened the log here.
    pub(crate) fn owner(&self) -> Owner {
        self.0.owner
    }

    fn act<T>(&self, act: Act<'_>, run: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.0.owner.check()?;
        observed(self.0.observer.as_deref(), act, run)
    }

    /// Opens `name` for reading, if it is a regular file and no link.
    pub(crate) fn open_read(&self, name: &str) -> Result<StoredFile> {
        self.open(name, OFlags::RDONLY)
    }

    /// Opens `name` for reading and writing, if it is a regular file and no link.
    pub(crate) fn open_write(&self, name: &str) -> Result<StoredFile> {
        self.open(name, OFlags::RDWR)
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<StoredFile> {
        let path = self.path(name);
        let file = self.act(Act::Open(&path), || self.0.dir.open_file(name, flags).inspect(read_as_asked))?;
        Ok(StoredFile { storage: self.clone(), path, file })
    }

    /// Creates `name`, which must not be there.
    pub(crate) fn create(&self, name: &str) -> Result<StoredFile> {
        let path = self.path(name);
        let create = || self.0.dir.create_file(name, self.0.file_mode).inspect(overwrite_in_place);
        let file = self.act(Act::Create(&path), create)?;
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
        let listed = self.act(Act::List(&self.0.path), || self.0.dir.list())?;
        let listed = listed.into_iter();
        Ok(listed.map(|(name, Named { id, is_file, len, .. })| Listed { name, is_file, len, id }).collect())
    }

    /// Which file `name` is now; `None` if there is none.
    pub(crate) fn id_of(&self, name: &str) -> Result<Option<FileId>> {
        let path = self.path(name);
        self.act(Act::Look(&path), || match self.0.dir.look_up(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|named| Some(named.id)),
        })
    }

    /// Which directory this is.
    pub(crate) fn own_id(&self) -> Result<FileId> {
        self.act(Act::Look(&self.0.path), || self.0.dir.id())
    }

    /// Whether the directory itself was removed: what is written in it can be found by nobody.
    pub(crate) fn is_removed(&self) -> Result<bool> {
        self.act(Act::Look(&self.0.path), || self.0.dir.is_removed())
    }

    /// Whether nobody can write to the file system of the directory, by this mount or another one.
    pub(crate) fn is_on_read_only_file_system(&self) -> Result<bool> {
        self.act(Act::Look(&self.0.path), || self.0.dir.is_on_read_only_file_system())
    }

    /// Locks the directory itself, without waiting.
    pub(crate) fn try_lock_dir(&self) -> Result<DirLock> {
        // Opened once more, so that the lock ends with what holds it, and not with the last view of the log.
        let dir = self.act(Act::Open(&self.0.path), || self.0.dir.readable())?;
        let lock = || file::contended(fs2::FileExt::try_lock_exclusive(dir.file()));
        match self.act(Act::Lock(&self.0.path), lock) {
            Ok(true) => Ok(DirLock::Taken(LockedDir { storage: self.clone(), dir })),
            Ok(false) => Ok(DirLock::Held),
            Err(Error::Io(failure)) if is_unlockable(&failure.source) => Ok(DirLock::Unsupported),
            Err(e) => Err(e),
        }
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_dir(&self) -> Result<()> {
        if planted(Bug::NoDirectorySync) {
            return Ok(());
        }
        self.act(Act::SyncDir(&self.0.path), || self.0.dir.sync())
    }

    /// Makes the name of the directory durable, and of every directory above it that was made, now or by a creation that
    /// was killed before it came to that. The latter leaves no trace, so every directory above on this file system is
    /// synced. One that cannot be synced (it may not be read, or its file system has no such call) is made durable with
    /// its whole file system. Returns whether all of them are durable: `false` where that is refused, too.
    ///
    /// # Errors
    /// A failed sync.
    pub(crate) fn sync_own_name(&self) -> Result<bool> {
        if planted(Bug::NoDirectorySync) {
            return Ok(true);
        }
        let mut is_synced = true;
        for (distance, (above, path)) in self.above()?.into_iter().enumerate() {
            match self.act(Act::SyncDir(&path), || above.readable()?.sync()) {
                // Above the parent, this process has made nothing where it may not.
                Err(e) if e.is_refused() => is_synced &= distance > 0 && !above.is_writable(),
                other => other?,
            }
        }
        if is_synced {
            return Ok(true);
        }
        match self.act(Act::SyncFileSystem(&self.0.path), || self.0.dir.sync_file_system()) {
            Err(e) if e.is_refused() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// The directory in which the name of this one stands, and those above it on the same file system as this one, with
    /// paths for messages.
    fn above(&self) -> Result<Vec<(Dir, PathBuf)>> {
        self.act(Act::Open(&self.0.path), || {
            let device = self.0.dir.id()?.numbers().0;
            let mut above: Vec<(Dir, PathBuf)> = Vec::new();
            loop {
                let (child, path) = match above.last() {
                    None => (&self.0.dir, self.parent_path()),
                    Some((child, path)) => (child, parent_of(path)),
                };
                match child.parent() {
                    Ok(Some(next)) if above.is_empty() || next.id()?.numbers().0 == device => above.push((next, path)),
                    Ok(_) => return Ok(above),
                    // What may not even be searched was not reached through this name.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(above),
                    Err(e) => return Err(e),
                }
            }
        })
    }

    fn parent_path(&self) -> PathBuf {
        parent_of(&std::path::absolute(&self.0.path).unwrap_or_else(|_| self.0.path.clone()))
    }

    /// Renames `from` to `to`.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let act = Act::Rename { from: &self.path(from), to: &self.path(to) };
        self.act(act, || self.0.dir.rename(from, to))
    }

    /// Refuses a file that has other names: whoever made one, a copy by hard links perhaps, wants the file as it is.
    pub(crate) fn refuse_other_names(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        self.act(Act::Read(&path), || match self.0.dir.look_up(name)?.links {
            1 => Ok(()),
            _ => Err(io::Error::other("the file has another name, by which it may be looked at")),
        })
    }

    /// Gives the file `from` a second name `to`, which must not be there.
    pub(crate) fn link(&self, from: &str, to: &str) -> Result<()> {
        let act = Act::Link { from: &self.path(from), to: &self.path(to) };
        self.act(act, || self.0.dir.link(from, to))
    }

    /// Removes `name`.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.act(Act::Remove(&self.path(name)), || self.0.dir.remove(name))
    }

    /// Says of `name` that it was changed now.
    pub(crate) fn set_times(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        // Both times, for which leave to write is enough; one alone is for the owner.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        self.act(Act::SetTimes(&path), || self.0.dir.set_times(name, &times))
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
        self.act(act, || map.sync(pages.clone()).and_then(|()| flush_device(self.0.dir.file())))
    }
}

/// Unix time in nanoseconds; 0 before 1970, and `u64::MAX` from the year 2554 on, which both say that it is not known.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Brings the readable part of `pages` in by letting the system read a byte of each: of a page that cannot be read, that is
/// an error, where a load would raise a signal.
fn touch(map: &Map, pages: &Range<usize>) -> io::Result<()> {
    let prefix = map.prefix();
    let index = |offset: usize| offset.saturating_sub(FRAMES_AT).min(prefix.len());
    let (reader, writer) = io::pipe()?;
    let mut reader = io::PipeReader::from(above_standard_streams(reader.into())?);
    let mut writer = io::PipeWriter::from(above_standard_streams(writer.into())?);
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
fn flush_device(on_it: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_fullfsync(on_it)?)
}

#[cfg(not(target_vendor = "apple"))]
fn flush_device(_on_it: &File) -> io::Result<()> {
    Ok(())
}

/// Whether the system has no locks for such a file: some file systems lock no directories.
fn is_unlockable(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [Errno::BADF, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::INVAL, Errno::NOSYS, Errno::NOLCK];
    refusals.iter().any(|refusal| e.raw_os_error() == Some(refusal.raw_os_error()))
}

/// The path of the directory above `path`, for messages.
fn parent_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| path.join(".."), Path::to_owned)
}

/// Runs `run`, which does `act`, between the two looks of `observer`, which may refuse it.
fn observed<T>(observer: Option<&dyn Observer>, act: Act<'_>, run: impl FnOnce() -> io::Result<T>) -> Result<T> {
    let done = match observer {
        None => run(),
        Some(observer) => observer.before(&act).and_then(|()| run()).inspect(|_| observer.after(&act)),
    };
    done.map_err(|source| Error::io(act.operation(), act.path(), source))
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
    fn a_clock_outside_of_what_can_be_stored_does_not_wrap() {
        use std::time::Duration;
        let last = UNIX_EPOCH + Duration::from_nanos(u64::MAX);
        assert_eq!(nanos(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(nanos(UNIX_EPOCH + Duration::from_nanos(7)), 7);
        assert_eq!([nanos(last), nanos(last + Duration::from_secs(1))], [u64::MAX; 2]);
        assert_eq!(nanos(UNIX_EPOCH + Duration::from_secs(1 << 40)), u64::MAX);
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
