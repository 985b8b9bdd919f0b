//! What a durable write costs alone: an overwrite of pages that the file has already, in one call or two.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Bytes of a page, the least that a disk is given.
pub(crate) const PAGE: usize = 4096;
/// The most bytes of one write.
const MOST: usize = 1 << 20;

/// Past the page cache, and done when the device says that it is.
#[cfg(target_os = "linux")]
const DIRECT: Option<OFlags> = Some(OFlags::DIRECT.union(OFlags::DSYNC));
#[cfg(not(target_os = "linux"))]
const DIRECT: Option<OFlags> = None;

/// Two files of pages that were written before, one for either way of overwriting them.
pub(crate) struct Disk {
    direct: Option<File>,
    buffered: File,
    memory: Vec<u8>,
    /// Where the aligned part of `memory` begins.
    start: usize,
}

impl Disk {
    /// Files of `len` written bytes in `dir`.
    pub(crate) fn create(dir: &Path, len: usize) -> io::Result<Self> {
        let memory = vec![0xa5; MOST + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        let buffered = written(&dir.join("buffered"), len)?;
        let path = dir.join("direct");
        written(&path, len)?;
        Ok(Self { direct: open_direct(&path)?, buffered, memory, start })
    }

    /// Whether [`Disk::overwrite`] goes past the page cache; where that cannot be had, it writes and syncs.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// How [`Disk::overwrite`] writes.
    pub(crate) fn way(&self) -> &'static str {
        if self.is_direct() { "O_DIRECT|O_DSYNC pwrite" } else { "pwrite + fdatasync (no O_DIRECT here)" }
    }

    /// Overwrites the pages that hold the `len` bytes at `from`, durably, in one call.
    pub(crate) fn overwrite(&self, from: u64, len: usize) -> io::Result<()> {
        let (first, bytes) = self.pages(from, len)?;
        match &self.direct {
            Some(file) => file.write_all_at(bytes, first),
            None => self.overwrite_synced(from, len),
        }
    }

    /// The same by a write to the page cache and a sync.
    pub(crate) fn overwrite_synced(&self, from: u64, len: usize) -> io::Result<()> {
        let (first, bytes) = self.pages(from, len)?;
        self.buffered.write_all_at(bytes, first)?;
        self.buffered.sync_data()
    }

    /// Copies `bytes` to where the next overwrite takes them from.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(MOST - PAGE);
        self.memory[self.start..self.start + len].copy_from_slice(&bytes[..len]);
    }

    /// Where the pages that hold the `len` bytes at `from` begin, and bytes for them.
    fn pages(&self, from: u64, len: usize) -> io::Result<(u64, &[u8])> {
        let (first, size) = span(from, len);
        let bytes = self.memory.get(self.start..self.start + size);
        bytes.map(|bytes| (first, bytes)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// Where the pages that hold the `len` bytes at `from` begin, and how many bytes they are.
pub(crate) fn span(from: u64, len: usize) -> (u64, usize) {
    let page = PAGE as u64;
    let first = from / page * page;
    let end = (from + len as u64).next_multiple_of(page);
    (first, (end - first) as usize)
}

/// A file of `len` bytes that are on the disk.
fn written(path: &Path, len: usize) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // One page at a time, so that the page cache holds it in pages: one dirty byte writes a whole large folio back.
    let page = [0x5a; PAGE];
    for at in (0..len as u64).step_by(PAGE) {
        file.write_all_at(&page, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// The file for writes past the page cache; `None` where the file system has none.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let Some(flags) = DIRECT else { return Ok(None) };
    match OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_some_bytes_are_those_that_hold_any_of_them() {
        assert_eq!(span(0, 1), (0, PAGE));
        assert_eq!(span(4095, 1), (0, PAGE));
        assert_eq!(span(4095, 2), (0, 2 * PAGE));
        assert_eq!(span(8192, 4096), (8192, PAGE));
        assert_eq!(span(8200, 15_200), (8192, 4 * PAGE));
    }

    #[test]
    fn both_ways_overwrite_and_neither_grows_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::create(dir.path(), 4 * PAGE).unwrap();
        disk.fill(b"begin");
        disk.overwrite(PAGE as u64, 10).unwrap();
        disk.overwrite_synced(2 * PAGE as u64, 2 * PAGE).unwrap();
        for name in ["direct", "buffered"] {
            let bytes = std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(bytes.len(), 4 * PAGE);
            assert_eq!(bytes[0], 0x5a);
        }
        let way = if disk.is_direct() { "direct" } else { "buffered" };
        assert_eq!(std::fs::read(dir.path().join(way)).unwrap()[PAGE..PAGE + 5], *b"begin");
        assert!(disk.overwrite(0, MOST + 1).is_err());
    }
}
