//! A file in memory: words that are shared, a prefix that never changes again, and a tail with one writer.
//!
//! This is the only file with `unsafe` in it. A map is cut in three:
//!
//! ```text
//! 0 ........ start        words: touched only as atomics
//! start .... published    borrowed by readers
//! published .. len        written by the one `Tail`
//! ```
//!
//! Three invariants carry every proof below:
//!
//! 1. **The file is never shorter than the map.** A file that is shorter is not mapped, and nothing in this crate ever
//!    shortens one. (Another process that truncates a mapped file brings `SIGBUS`, which ends the process and is no
//!    undefined behaviour; no program can defend against that.)
//! 2. **Bytes in `start..published` do not change**, and `published` never falls.
//! 3. **There is one tail writer**: [`Map::writable`] makes the only [`Tail`] of a map, and a `Tail` cannot be cloned.
//!
//! A file may be mapped more than once: by a view of an earlier handle, by a reader in this process or another. Rust sees
//! each map as memory of its own, which the system may change at any time outside `start..published`; so what another
//! map, or a write call, does to the same file is the same as what the system does, and invariant 2 must hold against it
//! too. It does, because of what the callers keep to:
//!
//! - The lock of the log admits one handle that writes; a handle writes nothing after it has given the lock back.
//! - `published` of a map is set to where records were verified or are whole, and nobody writes below that again: an
//!   append writes behind it, a cut goes on in another file, recovery makes zero only what stands behind the last record,
//!   and what it writes again are the same bytes.
//! - A file is used again only when nobody looks at a map of it any more: the segment has no other user in this handle,
//!   and no other handle holds the lock on `READERS` that everybody holds who has a map.
//!
//! What remains is a program that writes into the files by other means, against which no map is safe, and a device that
//! delivers other bytes when a page comes in again. `SECURITY.md` says so.
//!
//! Under Miri, which knows no maps, memory from the heap stands in: the code is the same, and Miri checks it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
#[cfg(all(target_os = "linux", not(miri)))]
use std::sync::atomic::{AtomicBool, AtomicPtr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(miri)]
use heap::{Advice, MmapOptions, MmapRaw};
#[cfg(not(miri))]
use memmap2::{Advice, MmapOptions, MmapRaw};

/// A shared mapping of a whole file.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
    start: usize,
    published: AtomicUsize,
    writable: bool,
}

impl Map {
    /// Maps the first `len` bytes of `file`, whose bytes in `start..published` will not change any more.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn read_only(file: &File, len: usize, start: usize, published: usize) -> io::Result<Self> {
        check_len(file, len)?;
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        Self::checked(raw, start, published, false)
    }

    /// Maps the first `len` bytes of `file` for the one writer, who goes on at `published`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn writable(file: &File, len: usize, start: usize, published: usize) -> io::Result<Tail> {
        check_len(file, len)?;
        let raw = MmapOptions::new().len(len).map_raw(file)?;
        Ok(Tail { map: Arc::new(Self::checked(raw, start, published, true)?), locked: false })
    }

    fn checked(raw: MmapRaw, start: usize, published: usize, writable: bool) -> io::Result<Self> {
        let ordered = start <= published && published <= raw.len() && start.is_multiple_of(size_of::<u64>());
        if !ordered {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // What Linux reads ahead of its own accord it keeps in ever larger folios, of up to 2 MiB, and when one byte of a
        // folio has changed it writes all of it back. A system that does not take the hint is as right, and slower.
        let _ = raw.advise(Advice::Random);
        Ok(Self { raw, start, published: AtomicUsize::new(published), writable })
    }

    /// Whether a [`Tail`] writes to it.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The end of the prefix that never changes again.
    #[inline]
    pub(crate) fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// Gives what its writer, through another map, has published up to `to` since to the readers of this map; never less
    /// than before, and nothing outside. The caller has seen, in the file, that it is published (invariant 2).
    pub(crate) fn raise(&self, to: usize) {
        assert!(!self.writable, "the published position of a writable map is its tail's");
        assert!(to <= self.len(), "published must stay within the map");
        self.published.fetch_max(to, Ordering::AcqRel);
    }

    /// The bytes from `start` to the published position as of now.
    pub(crate) fn prefix(&self) -> &[u8] {
        let len = self.published() - self.start;
        // SAFETY: `checked` and `publish` keep start <= published <= len, so the result points into the mapping.
        let first = unsafe { self.raw.as_ptr().add(self.start) };
        // SAFETY: the mapping is readable and as long as the file (invariant 1), `first` and `len` bytes from it lie in
        // it, u8 has no alignment, and no length of a mapping exceeds `isize::MAX`. Nobody writes these bytes any more
        // (invariant 2) while `&self` keeps the mapping; what was written to them through the tail happened before the
        // `Release` store that the `Acquire` load of `published` has read. The words and the tail are not in the range.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// The word at `at`; what was written to the map before it was stored is visible to whoever reads the word.
    pub(crate) fn load(&self, at: usize) -> u64 {
        let word = self.word(at);
        if self.writable {
            return u64::from_le(word.load(Ordering::Acquire));
        }
        // Of memory that may only be read, Rust allows no atomic load but a relaxed one; the fence makes it acquire.
        let value = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        u64::from_le(value)
    }

    /// Sets the word at `at`; what was written to the map before is visible to whoever reads the word.
    #[inline]
    pub(crate) fn store(&self, at: usize, value: u64) {
        assert!(self.writable, "a store to a read-only map");
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        let end = at.checked_add(size_of::<u64>());
        let in_words = at.is_multiple_of(size_of::<u64>()) && end.is_some_and(|end| end <= self.start);
        assert!(in_words, "a word outside the words");
        // SAFETY: at + 8 <= start <= len, as asserted here and by `checked`.
        let word = unsafe { self.raw.as_ptr().add(at) };
        // SAFETY: the mapping begins at a page and `at` is a multiple of 8, so the pointer is aligned, and every value is
        // one of an atomic. The mapping is as long as the file (invariant 1) and stays while `&self` keeps it. Everything
        // below `start` is touched only through this function, so every access is atomic; a change by another map of the
        // file is one that an atomic allows for. No access writes unless the map is writable: `store` refuses, and `load`
        // is relaxed there. (`AtomicU64::from_ptr` would ask for memory that can be written.)
        unsafe { &*word.cast::<AtomicU64>() }
    }

    /// Writes the pages that hold `range` to the device and waits for it.
    ///
    /// # Errors
    /// What the system says; the pages may then be clean in memory and absent on disk.
    pub(crate) fn sync(&self, range: Range<usize>) -> io::Result<()> {
        let len = self.len_of(&range)?;
        if len >= LET_GO {
            self.let_go(range.start, len);
        }
        self.raw.flush_range(range.start, len)
    }

    /// Takes the pages of a range that lies in the map out of the process's tables, all at once; they come back when they
    /// are touched. Else the system takes the right to store from each by itself when it writes it back, and interrupts
    /// every processor on which the process runs for each. If it refuses (locked memory, say), it does just that.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn let_go(&self, start: usize, len: usize) {
        // SAFETY: the mapping is a shared one of a file, of which this forgets where pages are and no byte of them
        // (madvise(2), `MADV_DONTNEED`): what was stored is in the page cache, from which the next access, at any time and
        // by any thread, maps it again. So nobody sees any byte change, and the range stays mapped.
        let _ = unsafe { self.raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    fn let_go(&self, _: usize, _: usize) {}

    /// Lets the system begin to read what of `range` is not in memory, which it then keeps page by page. It may not: who
    /// needs the pages waits for them in any case.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        if let Ok(len) = self.len_of(&range) {
            let _ = self.raw.advise_range(Advice::WillNeed, range.start, len);
        }
    }

    /// Brings the pages of `range` in for reading, so that a device that cannot deliver them says so here.
    ///
    /// # Errors
    /// What the system says; `Unsupported` or `InvalidInput` where it has no such call.
    pub(crate) fn populate_read(&self, range: Range<usize>) -> io::Result<()> {
        let len = self.len_of(&range)?;
        advise(&self.raw, Populate::Read, range.start, len)
    }

    /// Makes the pages of `range` present and writable without changing a byte.
    ///
    /// # Errors
    /// What the system says; `Unsupported` or `InvalidInput` where it has no such call.
    pub(crate) fn populate_write(&self, range: Range<usize>) -> io::Result<()> {
        let len = self.len_of(&range)?;
        advise(&self.raw, Populate::Write, range.start, len)
    }

    /// How many bytes `range` has, if it lies in the map: what the system would do with other pages is nobody's wish.
    fn len_of(&self, range: &Range<usize>) -> io::Result<usize> {
        let inside = range.start <= range.end && range.end <= self.len();
        if inside { Ok(range.end - range.start) } else { Err(io::Error::other("a range outside the map")) }
    }
}

/// From so many bytes on, the pages of a sync are let go first.
const LET_GO: usize = 64 << 10;

/// For what pages are made present.
enum Populate {
    Read,
    Write,
}

#[cfg(any(target_os = "linux", miri))]
fn advise(raw: &MmapRaw, what: Populate, start: usize, len: usize) -> io::Result<()> {
    let advice = match what {
        Populate::Read => Advice::PopulateRead,
        Populate::Write => Advice::PopulateWrite,
    };
    raw.advise_range(advice, start, len)
}

/// No other system has such a call. (`WILLNEED` is no promise, and says nothing of a page that cannot be read.)
#[cfg(not(any(target_os = "linux", miri)))]
fn advise(_: &MmapRaw, _: Populate, _: usize, _: usize) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Invariant 1, at the moment in which it begins to hold.
fn check_len(file: &File, len: usize) -> io::Result<()> {
    if file.metadata()?.len() >= len as u64 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than what is mapped of it"))
}

/// The right to write what is not published: one for each writable map.
#[derive(Debug)]
pub(crate) struct Tail {
    map: Arc<Map>,
    /// Whether its pages are kept in memory.
    locked: bool,
}

impl Tail {
    /// The map that this is the tail of.
    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Keeps every page of the map in memory for as long as this tail lives.
    ///
    /// # Errors
    /// What the system says: there is a limit to it.
    pub(crate) fn lock(&mut self) -> io::Result<()> {
        self.map.will_need(0..self.map.len());
        self.map.raw.lock()?;
        self.locked = true;
        Ok(())
    }

    /// The bytes of `range`, to be written; `None` if any of them is published or outside.
    #[inline]
    pub(crate) fn bytes(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let free = self.map.published() <= range.start && range.start <= range.end && range.end <= self.map.len();
        if !free {
            return None;
        }
        // SAFETY: start <= published <= range.start <= len, so the result points into the mapping.
        let first = unsafe { self.map.raw.as_mut_ptr().add(range.start) };
        // SAFETY: the range lies in the mapping, which `writable` made writable and which is as long as the file
        // (invariant 1). Readers borrow only below `published`, which cannot rise while `&mut self` is borrowed, since
        // only `publish` raises it and there is no other tail (invariant 3). The words end at `start`, which is not
        // behind `published`. So nothing else in this process reads or writes the slice through this map.
        Some(unsafe { std::slice::from_raw_parts_mut(first, range.end - range.start) })
    }

    /// Gives everything below `to` to the readers, for good.
    #[inline]
    pub(crate) fn publish(&mut self, to: usize) {
        assert!(self.map.published() <= to && to <= self.map.len(), "published must rise within the map");
        self.map.published.store(to, Ordering::Release);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if self.locked {
            // Nobody appends here any more. What the system refuses to unlock now it does when the map goes.
            let _ = self.map.raw.unlock();
        }
    }
}

/// Bytes that a processor brings into its cache at once.
const LINE: usize = 64;

/// Asks the processor to bring the bytes of `range` into its cache, as far as `bytes` reach: what comes next in memory it
/// guesses only to the end of a page. This is a hint, which changes nothing but the time that things take, and which not
/// every processor is given.
#[inline]
pub(crate) fn prefetch(bytes: &[u8], range: Range<usize>) {
    let (mut at, end) = (range.start, range.end.min(bytes.len()));
    while at < end {
        prefetch_line(bytes.as_ptr().wrapping_add(at));
        at += LINE;
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn prefetch_line(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every processor of this architecture has the instruction. It gives the program nothing to read and raises
    // no fault, whatever the address is; this one lies in a slice that is borrowed.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

/// Elsewhere there is no way to say it that is stable, or nothing to say it to.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn prefetch_line(_: *const u8) {}

/// A word that keeps what this process stores in it, and that the kernel sets to 0 in a child of `fork`; the same one at
/// each call. `None` where the kernel wipes no memory at a fork, or has none left.
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) fn word_wiped_by_fork() -> Option<&'static AtomicU64> {
    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    static UNKNOWN: AtomicBool = AtomicBool::new(false);
    // No lock: one that another thread holds at a fork is held for ever in the child.
    let mut word = WORD.load(Ordering::Acquire);
    if word.is_null() && !UNKNOWN.load(Ordering::Relaxed) {
        word = match map_wiped() {
            // A page that another thread has mapped meanwhile is used, and this one is left, 4 KiB once.
            Ok(Some(new)) => match WORD.compare_exchange(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => new,
                Err(found) => found,
            },
            Ok(None) => {
                UNKNOWN.store(true, Ordering::Relaxed);
                word
            }
            // No memory now.
            Err(_) => word,
        };
    }
    // SAFETY: it is null, or points to the start of a page that `map_wiped` has mapped for reading and writing, which no
    // code unmaps. Every value is one of an atomic, and nothing but this word of the page is used.
    unsafe { word.as_ref() }
}

/// Maps a page that the kernel wipes at a fork (`MADV_WIPEONFORK`); `None` if it does not know that.
#[cfg(all(target_os = "linux", not(miri)))]
fn map_wiped() -> io::Result<Option<*mut AtomicU64>> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    let len = size_of::<AtomicU64>();
    let map = |flags| {
        // SAFETY: without a wish for an address the kernel maps pages that nothing uses.
        unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }
    };
    let is_wiped = |page| {
        // SAFETY: the page was mapped just now and holds nothing; the advice changes it in children alone.
        unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.is_ok()
    };
    // Shared memory cannot be wiped: an emulator that says it is says so of every advice, and follows none.
    let shared = map(MapFlags::SHARED)?;
    let says_so = is_wiped(shared);
    // SAFETY: the page was mapped just now, and nothing refers to it.
    unsafe { munmap(shared, len) }?;
    if says_so {
        return Ok(None);
    }
    let private = map(MapFlags::PRIVATE)?;
    Ok(is_wiped(private).then_some(private.cast()))
}

/// No other system has such memory; Miri knows none.
#[cfg(not(all(target_os = "linux", not(miri))))]
pub(crate) fn word_wiped_by_fork() -> Option<&'static AtomicU64> {
    None
}

/// Memory of the heap in place of a map, for Miri: what of `memmap2` is used here, over a copy of the file's bytes.
#[cfg(miri)]
mod heap {
    use std::alloc::Layout;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::AtomicU64;

    /// No better aligned than the words need, so that nothing more is relied upon.
    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, align_of::<AtomicU64>()).expect("a length that a file can have")
    }

    pub(super) enum Advice {
        Random,
        WillNeed,
        PopulateRead,
        PopulateWrite,
    }

    #[derive(Debug)]
    pub(super) struct MmapRaw {
        first: *mut u8,
        len: usize,
    }

    // SAFETY: it owns its memory, and gives out nothing but pointers to it, as a map does.
    unsafe impl Send for MmapRaw {}
    // SAFETY: as above; who follows the pointers must see to it that threads do not disturb each other.
    unsafe impl Sync for MmapRaw {}

    impl MmapRaw {
        pub(super) fn as_ptr(&self) -> *const u8 {
            self.first
        }

        pub(super) fn as_mut_ptr(&self) -> *mut u8 {
            self.first
        }

        pub(super) fn len(&self) -> usize {
            self.len
        }

        pub(super) fn flush_range(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn advise(&self, _: Advice) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn advise_range(&self, _: Advice, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn lock(&self) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn unlock(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for MmapRaw {
        fn drop(&mut self) {
            // SAFETY: `map_raw` allocated it with this layout, and nothing borrows it any more.
            unsafe { std::alloc::dealloc(self.first, layout(self.len)) };
        }
    }

    pub(super) struct MmapOptions(usize);

    impl MmapOptions {
        pub(super) fn new() -> Self {
            Self(0)
        }

        pub(super) fn len(&mut self, len: usize) -> &mut Self {
            self.0 = len;
            self
        }

        pub(super) fn map_raw(&self, file: &File) -> io::Result<MmapRaw> {
            assert!(self.0 > 0, "no file of a log is empty");
            // SAFETY: the layout is not of size zero.
            let first = unsafe { std::alloc::alloc_zeroed(layout(self.0)) };
            assert!(!first.is_null(), "memory");
            let raw = MmapRaw { first, len: self.0 };
            // SAFETY: the memory is initialised, as long as that, and nobody else knows of it yet.
            let bytes = unsafe { std::slice::from_raw_parts_mut(raw.as_mut_ptr(), raw.len()) };
            file.read_exact_at(bytes, 0)?;
            Ok(raw)
        }

        pub(super) fn map_raw_read_only(&self, file: &File) -> io::Result<MmapRaw> {
            self.map_raw(file)
        }
    }
}

/// Whether `file`, which is open for writing, is the only open file of its inode in the whole system. A map keeps the file
/// alive through which it was made, so nobody else has the inode mapped either. `false` also if that cannot be told.
///
/// It is told by a write lease (`F_SETLEASE` in fcntl(2)), which the system refuses while there is another open file, and
/// which is given back at once. Somebody who opens the file in that moment has this process sent a signal: SIGURG, which
/// is ignored unless a handler was set, and not SIGIO, which would end the process.
#[cfg(target_os = "linux")]
pub(crate) fn has_no_other_user(file: &File) -> bool {
    use std::ffi::c_int;
    use std::os::fd::AsRawFd;
    // Numbers of <fcntl.h>, the same on every architecture.
    const SET_SIGNAL: c_int = 10;
    const SET_LEASE: c_int = 1024;
    const WRITE_LEASE: c_int = 1;
    const NO_LEASE: c_int = 2;
    unsafe extern "C" {
        fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    }
    let call = |command: c_int, argument: c_int| {
        // SAFETY: these three commands take an int and touch no memory of this process; `file` keeps the descriptor open.
        unsafe { fcntl(file.as_raw_fd(), command, argument) == 0 }
    };
    call(SET_SIGNAL, rustix::process::Signal::URG.as_raw()) && call(SET_LEASE, WRITE_LEASE) && call(SET_LEASE, NO_LEASE)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn has_no_other_user(_file: &File) -> bool {
    false
}

/// A stretch of a file that has blocks on the device, or is sure to get them.
#[cfg(target_os = "linux")]
pub(crate) struct FileExtent {
    pub(crate) bytes: Range<u64>,
    /// The blocks are another file's, too.
    pub(crate) is_shared: bool,
}

/// The first extents of `file` that hold some of `bytes`, in order, as `FS_IOC_FIEMAP` tells them; none if there are none.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTTY` where the file system has no such call.
#[cfg(target_os = "linux")]
pub(crate) fn extents(file: &File, bytes: Range<u64>) -> io::Result<Vec<FileExtent>> {
    /// `FIEMAP_EXTENT_SHARED`.
    const SHARED: u32 = 1 << 13;
    const AT_ONCE: usize = 32;

    /// `struct fiemap` of <linux/fiemap.h>, without the array at its end.
    #[repr(C)]
    struct Head {
        start: u64,
        length: u64,
        flags: u32,
        mapped: u32,
        count: u32,
        reserved: u32,
    }

    /// `struct fiemap_extent`.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Raw {
        logical: u64,
        physical: u64,
        length: u64,
        reserved: [u64; 2],
        flags: u32,
        reserved_too: [u32; 3],
    }

    #[repr(C)]
    struct Fiemap {
        head: Head,
        extents: [Raw; AT_ONCE],
    }

    const CALL: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Head>(b'f', 11);
    let head = Head {
        start: bytes.start,
        length: bytes.end.saturating_sub(bytes.start),
        flags: 0,
        mapped: 0,
        count: AT_ONCE as u32,
        reserved: 0,
    };
    let mut asked = Fiemap { head, extents: [Raw::default(); AT_ONCE] };
    // SAFETY: the call reads a `struct fiemap` and writes at most `count` extents behind it, all of which is in `asked`; any
    // bytes are valid values of its fields.
    let call = unsafe { rustix::ioctl::Updater::<CALL, Fiemap>::new(&mut asked) };
    // SAFETY: the opcode is that of a call that does nothing but this.
    unsafe { rustix::ioctl::ioctl(file, call) }?;
    let found = &asked.extents[..(asked.head.mapped as usize).min(AT_ONCE)];
    let extent = |raw: &Raw| FileExtent {
        bytes: raw.logical..raw.logical.saturating_add(raw.length),
        is_shared: raw.flags & SHARED != 0,
    };
    Ok(found.iter().map(extent).collect())
}

#[cfg(test)]
mod tests {
    //! That the parts of a map are kept apart, by one thread and by several. Run under Miri too, which sees whether what
    //! is claimed in the proofs above is so; there, a map is a copy of its file.
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::AtomicU32;

    const LEN: usize = 2 * START;
    const START: usize = 4096;

    /// A file without a name.
    fn file(len: usize) -> File {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("mmap-wal-map-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a temporary file");
        std::fs::remove_file(path).expect("a removal");
        file.set_len(len as u64).expect("its length");
        file
    }

    fn tail(published: usize) -> Tail {
        Map::writable(&file(LEN), LEN, START, published).expect("a map")
    }

    #[test]
    fn what_is_published_is_seen_and_can_no_longer_be_written() {
        let mut tail = tail(START);
        tail.bytes(START..START + 3).expect("free bytes").copy_from_slice(b"abc");
        assert_eq!(tail.map().prefix(), b"");
        tail.publish(START + 3);
        assert_eq!(tail.map().prefix(), b"abc");
        assert!(tail.bytes(START + 2..START + 4).is_none());
        assert!(tail.bytes(START + 3..LEN + 1).is_none());
        assert!(tail.bytes(0..8).is_none());
        assert!(tail.bytes(START + 3..LEN).is_some());
    }

    #[test]
    fn what_was_in_the_file_before_is_seen() {
        let file = file(LEN);
        file.write_all_at(b"abc", START as u64).expect("a write");
        let map = Map::read_only(&file, LEN, START, START + 3).expect("a map");
        assert_eq!(map.prefix(), b"abc");
    }

    #[test]
    fn a_prefix_is_the_same_while_the_words_and_the_tail_are_written() {
        let mut tail = tail(START);
        tail.bytes(START..LEN).expect("free bytes").fill(1);
        tail.publish(START + 8);
        let map = Arc::clone(tail.map());
        let before = map.prefix();
        let after = tail.bytes(START + 8..START + 16).expect("free bytes");
        map.store(START - 8, u64::MAX);
        after.fill(2);
        assert_eq!(before, [1; 8]);
        after.fill(3);
        tail.publish(START + 16);
        assert_eq!((before, &map.prefix()[8..]), (&[1; 8][..], &[3; 8][..]));
        assert_eq!(map.load(START - 8), u64::MAX);
    }

    #[test]
    #[cfg_attr(miri, ignore = "there is nothing to let go")]
    fn what_is_let_go_for_a_sync_is_there_as_before_and_goes_on() {
        let (len, file) = (START + 2 * LET_GO, file(START + 2 * LET_GO));
        let mut tail = Map::writable(&file, len, START, START).expect("a map");
        tail.bytes(START..len).expect("free bytes").fill(1);
        tail.publish(START + LET_GO);
        let map = Arc::clone(tail.map());
        let before = map.prefix();
        map.sync(START..len).expect("a sync");
        assert_eq!(before, vec![1; LET_GO]);
        tail.bytes(START + LET_GO..len).expect("free bytes")[LET_GO - 1] = 2;
        tail.publish(len);
        let mut read = vec![0; 2 * LET_GO];
        file.read_exact_at(&mut read, START as u64).expect("a read");
        assert_eq!((read[LET_GO - 1], read[2 * LET_GO - 2..].to_vec()), (1, vec![1, 2]));
        assert_eq!(map.prefix(), read);
    }

    /// Writes records of different lengths, each byte a function of its place, while readers look and keep what they saw.
    #[test]
    fn what_readers_see_is_whole_and_stays_while_one_writes() {
        let byte = |at: usize| (at * 31 % 251) as u8 + 1;
        let is_right = |prefix: &[u8]| prefix.iter().enumerate().all(|(i, found)| *found == byte(START + i));
        let mut tail = tail(START);
        let map = Arc::clone(tail.map());
        let last = START + if cfg!(miri) { 400 } else { 4000 };
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let map = Arc::clone(&map);
                scope.spawn(move || {
                    let mut kept: &[u8] = &[];
                    while kept.len() + START < last {
                        let told = map.load(0) as usize;
                        let now = map.prefix();
                        assert!(now.len() + START >= told, "the word is stored after the bytes are published");
                        assert!(is_right(now) && is_right(kept) && now.starts_with(kept));
                        map.store(8 + 8 * reader, now.len() as u64);
                        kept = now;
                        std::thread::yield_now();
                    }
                });
            }
            let (mut at, mut len) = (START, 1);
            while at < last {
                let to = (at + len).min(last);
                for (i, to) in tail.bytes(at..to).expect("free bytes").iter_mut().enumerate() {
                    *to = byte(at + i);
                }
                tail.publish(to);
                tail.map().store(0, to as u64);
                (at, len) = (to, len % 30 + 7);
            }
        });
        assert_eq!([map.load(8), map.load(16)], [(last - START) as u64; 2]);
        assert_eq!(map.prefix().len(), last - START);
    }

    #[test]
    fn a_hint_may_ask_for_what_is_not_there() {
        for range in [0..0, 0..3, 2..1000, 3..4, 1000..2000, usize::MAX - 1..usize::MAX] {
            prefetch(b"abc", range);
        }
    }

    #[test]
    fn a_map_outlives_its_tail_and_its_file() {
        let file = file(LEN);
        let mut tail = Map::writable(&file, LEN, START, START).expect("a map");
        tail.bytes(START..START + 3).expect("free bytes").copy_from_slice(b"abc");
        tail.publish(START + 3);
        let map = Arc::clone(tail.map());
        drop((tail, file));
        assert_eq!(map.prefix(), b"abc");
    }

    #[test]
    fn a_reader_that_follows_sees_more_and_never_less() {
        let file = file(LEN);
        file.write_all_at(b"abcdef", START as u64).expect("a write");
        let map = Map::read_only(&file, LEN, START, START + 3).expect("a map");
        let before = map.prefix();
        map.raise(START + 6);
        map.raise(START + 1);
        assert_eq!((before, map.prefix()), (&b"abc"[..], &b"abcdef"[..]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a copy of a file is not shared")]
    fn words_are_shared_between_maps_of_one_file() {
        let file = file(LEN);
        let tail = Map::writable(&file, LEN, START, START).expect("a map");
        let reader = Map::read_only(&file, LEN, START, START).expect("a second map");
        tail.map().store(64, 7);
        assert_eq!((reader.load(64), tail.map().load(64)), (7, 7));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a copy of a file is not shared")]
    fn what_is_stored_and_written_is_in_the_file() {
        let file = file(LEN);
        let mut tail = Map::writable(&file, LEN, START, START).expect("a map");
        tail.map().store(64, 7);
        tail.bytes(START..START + 3).expect("free bytes").copy_from_slice(b"abc");
        let (mut word, mut bytes) = ([0; 8], [0; 3]);
        file.read_exact_at(&mut word, 64).expect("a read");
        file.read_exact_at(&mut bytes, START as u64).expect("a read");
        assert_eq!((u64::from_le_bytes(word), &bytes), (7, b"abc"));
    }

    #[test]
    #[should_panic(expected = "read-only")]
    fn a_store_to_a_read_only_map_is_refused() {
        Map::read_only(&file(LEN), LEN, START, START).expect("a map").store(0, 1);
    }

    #[test]
    fn a_word_outside_the_words_is_refused() {
        let tail = tail(START);
        // A panic takes seconds under Miri.
        let cases = [usize::MAX - 7, START, 4, START - 4, LEN];
        for at in cases.into_iter().take(if cfg!(miri) { 1 } else { cases.len() }) {
            let stored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tail.map().store(at, 1)));
            assert!(stored.is_err(), "{at}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a panic takes seconds")]
    #[should_panic(expected = "must rise")]
    fn what_was_published_is_not_taken_back() {
        tail(START + 8).publish(START);
    }

    #[test]
    fn a_map_longer_than_its_parts_or_its_file_is_refused() {
        assert!(Map::writable(&file(START), START, START, LEN).is_err());
        assert!(Map::read_only(&file(START), START, 12, 12).is_err());
        for refused in [Map::writable(&file(START), LEN, 0, 0).err(), Map::read_only(&file(START), LEN, 0, 0).err()] {
            assert_eq!(refused.map(|e| e.kind()), Some(io::ErrorKind::UnexpectedEof));
        }
    }

    #[test]
    fn a_range_outside_the_map_is_neither_synced_nor_brought_in() {
        let tail = tail(START);
        let map = tail.map();
        for (start, end) in [(0, LEN + 1), (LEN, LEN + START), (START, 0)] {
            assert!(map.sync(start..end).is_err(), "{start} {end}");
            assert!(map.populate_read(start..end).is_err() && map.populate_write(start..end).is_err(), "{start} {end}");
        }
        map.sync(0..LEN).expect("a sync");
    }
}
