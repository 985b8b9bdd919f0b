//! The open directory of a log. Every name is resolved relative to its descriptor, so that a handle stays with the
//! directory that it opened when the path to it changes its meaning (`chdir`, a renamed directory, a flipped link).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;

/// Standard input, output and error: what others write to them must not reach a file of a log.
const STANDARD_STREAMS: i32 = 3;

/// A directory, opened for reading.
pub(super) struct Dir(File);

/// Which file a name is, or an open file: two names with the same id are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    // Other systems have narrower types.
    #[allow(clippy::unnecessary_cast)]
    fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }

    /// Which file `file` is.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }

    /// The numbers of its device and of its inode.
    pub(crate) fn numbers(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// What a name in the directory is.
pub(super) struct Named {
    pub(super) id: FileId,
    pub(super) is_file: bool,
    pub(super) len: u64,
    pub(super) links: u64,
}

impl Named {
    // As above.
    #[allow(clippy::unnecessary_cast)]
    fn of(stat: &Stat) -> Self {
        Self {
            id: FileId::of(stat),
            is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            len: stat.st_size as u64,
            links: stat.st_nlink as u64,
        }
    }
}

impl Dir {
    /// Opens the directory at `path`, following links as the path says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // An empty path is the present directory elsewhere in this crate, too.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        open_at(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens the regular file `name`, which may not be a link.
    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // NONBLOCK: opening a pipe must not wait for its other end.
        let file = open_at(&self.0, name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty())?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Creates the file `name`, which must not be there, for reading and writing.
    pub(super) fn create_file(&self, name: &str, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        open_at(&self.0, name, flags, Mode::from_raw_mode(mode as rustix::fs::RawMode))
    }

    /// The names in the directory, and what they are.
    pub(super) fn list(&self) -> io::Result<Vec<(String, Named)>> {
        let mut listed = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => listed.push((name.to_string_lossy().into_owned(), Named::of(&stat))),
                // Removed between listing and looking.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(listed)
    }

    /// What `name` is, which is not followed if it is a link.
    pub(super) fn look_up(&self, name: &str) -> io::Result<Named> {
        Ok(Named::of(&rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    pub(super) fn link(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.0, from, &self.0, to, AtFlags::empty())?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Sets the times of `name`, which is not followed if it is a link.
    pub(super) fn set_times(&self, name: &str, times: &Timestamps) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.0, name, times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// Which directory it is.
    pub(super) fn id(&self) -> io::Result<FileId> {
        FileId::of_file(&self.0)
    }

    /// Whether it has no name any more.
    pub(super) fn is_removed(&self) -> io::Result<bool> {
        Ok(rustix::fs::fstat(&self.0)?.st_nlink == 0)
    }

    /// Whether the superblock of its file system is read-only, and not only the mount by which it was reached: a container
    /// may have a directory read-only that others write. `false` where that is not told.
    #[cfg(target_os = "linux")]
    pub(super) fn is_on_read_only_file_system(&self) -> io::Result<bool> {
        use rustix::fs::StatxFlags;
        let found = rustix::fs::statx(&self.0, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        // An older kernel says nothing of it.
        if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return Ok(false);
        }
        // Where it cannot be read, nothing is known of it. Names in it are bytes of any kind.
        let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return Ok(false) };
        Ok(has_read_only_mount(&mounts, found.stx_mnt_id))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn is_on_read_only_file_system(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Its descriptor.
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// The directory in which its name stands, opened for walking on and not for reading, which may be refused; `None`
    /// for the root.
    pub(super) fn parent(&self) -> io::Result<Option<Self>> {
        let above = Self(open_at(&self.0, "..", WALK | OFlags::DIRECTORY, Mode::empty())?);
        Ok(if above.id()? == self.id()? { None } else { Some(above) })
    }

    /// The same directory, opened for reading.
    pub(super) fn readable(&self) -> io::Result<Self> {
        open_at(&self.0, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map(Self)
    }

    /// Whether this process may make names in it.
    pub(super) fn is_writable(&self) -> bool {
        rustix::fs::accessat(&self.0, ".", rustix::fs::Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    }

    /// Writes the whole file system of this directory to the device.
    #[cfg(target_os = "linux")]
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
fn has_read_only_mount(mounts: &[u8], id: u64) -> bool {
    String::from_utf8_lossy(mounts).lines().any(|line| is_read_only_mount(line, id))
}

/// Whether `line` of `/proc/self/mountinfo` is of the mount `id`, and its superblock is read-only: proc_pid_mountinfo(5).
#[cfg(target_os = "linux")]
fn is_read_only_mount(line: &str, id: u64) -> bool {
    let Some((mount, superblock)) = line.split_once(" - ") else { return false };
    let is_this = mount.split(' ').next().and_then(|number| number.parse().ok()) == Some(id);
    // Its type, its source, and its options; spaces in a name are escaped.
    is_this && superblock.split(' ').nth(2).is_some_and(|options| options.split(',').any(|option| option == "ro"))
}

/// Opens a directory only as a place to walk on from.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
const WALK: OFlags = OFlags::PATH;
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
const WALK: OFlags = OFlags::RDONLY;

fn open_at(
    dir: impl std::os::fd::AsFd,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
) -> io::Result<File> {
    let opened = rustix::io::retry_on_intr(|| rustix::fs::openat(&dir, path, flags | OFlags::CLOEXEC, mode));
    above_standard_streams(opened?).map(File::from)
}

/// `fd` with a number above those of the standard streams. In a process that has closed these, the next file that is
/// opened gets one of their numbers, and what is then written to standard error would overwrite it.
pub(super) fn above_standard_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() >= STANDARD_STREAMS {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, STANDARD_STREAMS)?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn read_only_superblock_is_told_from_read_only_mount() {
        let line = |mount: &str, superblock: &str| {
            format!("36 35 98:0 / /mnt {mount} master:1 - ext4 /dev/a\\040b {superblock}")
        };
        assert!(is_read_only_mount(&line("ro,noatime", "ro,errors=continue"), 36));
        assert!(!is_read_only_mount(&line("ro,noatime", "rw,errors=continue"), 36));
        assert!(!is_read_only_mount(&line("ro", "ro"), 3));
        assert!(!is_read_only_mount("36 35 98:0 / /mnt ro", 36));
        assert!(!is_read_only_mount("", 36));
    }

    #[test]
    fn names_of_other_mounts_may_be_any_bytes() {
        let mounts = b"1 2 3:4 / /caf\xe9 rw - tmpfs none rw\n36 35 98:0 / /mnt ro - ext3 /dev/root ro\n";
        assert!(has_read_only_mount(mounts, 36) && !has_read_only_mount(mounts, 1));
    }
}
