//! The space that a file has of its own on the device: a file that was restored may have holes, or share blocks with another.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The stretches of a file for which a store may need space that it does not have.
#[derive(Default)]
pub(super) struct Lacking {
    holes: Vec<Range<u64>>,
    /// Blocks that are another file's, too, and that the file system can make this file's own: on XFS.
    shared: Vec<Range<u64>>,
}

impl Lacking {
    /// What is lacking in the first `len` bytes of `file`, as far as the file system tells. Looking asks the device for
    /// nothing.
    pub(super) fn of(file: &File, len: u64) -> io::Result<Self> {
        match by_extents(file, len) {
            Some(told) => told,
            None if has_hole(file, len)? => Ok(Self { holes: std::iter::once(0..len).collect(), shared: Vec::new() }),
            None => Ok(Self::default()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holes.is_empty() && self.shared.is_empty()
    }

    /// Takes that space, without changing a byte. Nothing is asked for what is there: XFS wants room for the whole stretch
    /// that it is told of before it looks what of it is missing.
    pub(super) fn take(&self, file: &File) -> io::Result<()> {
        self.holes.iter().try_for_each(|hole| allocate(file, FallocateFlags::empty(), hole))?;
        self.shared.iter().try_for_each(|shared| allocate(file, unshare(), shared))
    }
}

/// Allocates a stretch, where the file system has a call for that: one that has not allocates at each write.
fn allocate(file: &File, how: FallocateFlags, Range { start, end }: &Range<u64>) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, how, *start, end - start)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

/// What the file system tells of each stretch; `None` where it has no call for that.
#[cfg(target_os = "linux")]
fn by_extents(file: &File, len: u64) -> Option<io::Result<Lacking>> {
    let can_unshare = can_unshare(file);
    let (mut at, mut lacking) = (0, Lacking::default());
    while at < len {
        let extents = match crate::map::extents(file, at..len) {
            Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Some(Err(e)),
            // There is no such call, or a sandbox forbids it.
            Err(_) => return None,
            Ok(extents) => extents,
        };
        let before = at;
        for extent in &extents {
            let (start, end) = (extent.bytes.start.clamp(at, len), extent.bytes.end.min(len));
            lacking.holes.extend((at < start).then_some(at..start));
            lacking.shared.extend((extent.is_shared && can_unshare && start < end).then_some(start..end));
            at = at.max(end);
        }
        if at == before {
            lacking.holes.push(at..len);
            at = len;
        }
    }
    Some(Ok(lacking))
}

#[cfg(not(target_os = "linux"))]
fn by_extents(_: &File, _: u64) -> Option<io::Result<Lacking>> {
    None
}

/// Whether some of the first `len` bytes have no block: what was allocated and not written counts as a hole on some file
/// systems.
fn has_hole(file: &File, len: u64) -> io::Result<bool> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(0)) {
        Ok(hole) => Ok(hole < len),
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(target_os = "linux")]
fn can_unshare(file: &File) -> bool {
    // `XFS_SUPER_MAGIC`, as statfs(2) lists it.
    const XFS: u64 = 0x5846_5342;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u64 & 0xffff_ffff == XFS)
}

#[cfg(target_os = "linux")]
fn unshare() -> FallocateFlags {
    FallocateFlags::UNSHARE_RANGE
}

#[cfg(not(target_os = "linux"))]
fn unshare() -> FallocateFlags {
    FallocateFlags::empty()
}
