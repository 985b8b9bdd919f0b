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
//! 1. **The file is never shorter than the map.** Segment files get their whole length before they are mapped, and
//!    nothing in this crate ever shortens one. (Another process that truncates a mapped file brings `SIGBUS`; no
//!    program can defend against that.)
//! 2. **Bytes in `start..published` are never written**, and `published` never falls.
//! 3. **There is one tail writer**: [`Map::writable`] makes the only [`Tail`] of a map, and a `Tail` cannot be cloned.
//!    Across processes the log's lock keeps writers apart, and other processes map files read-only.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        Self::checked(raw, start, published, false)
    }

    /// Maps the first `len` bytes of `file` for the one writer, who goes on at `published`.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn writable(file: &File, len: usize, start: usize, published: usize) -> io::Result<Tail> {
        let raw = MmapOptions::new().len(len).map_raw(file)?;
        Ok(Tail { map: Arc::new(Self::checked(raw, start, published, true)?) })
    }

    fn checked(raw: MmapRaw, start: usize, published: usize, writable: bool) -> io::Result<Self> {
        let ordered = start <= published && published <= raw.len() && start.is_multiple_of(size_of::<u64>());
        if !ordered {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(Self { raw, start, published: AtomicUsize::new(published), writable })
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The end of the prefix that never changes again.
    pub(crate) fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// Gives what its writer, another process, has published up to `to` since to the readers of this map; never less than
    /// before, and nothing outside.
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
        // it, u8 has no alignment, and nobody writes these bytes any more (invariant 2) while `&self` keeps the mapping.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// The word at `at`.
    pub(crate) fn load(&self, at: usize) -> u64 {
        u64::from_le(self.word(at).load(Ordering::Acquire))
    }

    /// Sets the word at `at`; what was written to the map before is visible to whoever reads the word.
    pub(crate) fn store(&self, at: usize, value: u64) {
        assert!(self.writable, "a store to a read-only map");
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        let in_words = at.is_multiple_of(size_of::<u64>()) && at + size_of::<u64>() <= self.start;
        assert!(in_words, "a word outside the words");
        // SAFETY: at + 8 <= start <= len, as asserted here and by `checked`.
        let word = unsafe { self.raw.as_mut_ptr().add(at) };
        // SAFETY: the mapping begins at a page and `at` is a multiple of 8, so the pointer is aligned; it is valid while
        // `&self` keeps the mapping (invariant 1). Everything below `start` is touched only through this function, so
        // every access is atomic. Loads from a read-only mapping are plain reads; stores are refused by `store`.
        unsafe { AtomicU64::from_ptr(word.cast::<u64>()) }
    }

    /// Writes the pages that hold `range` to the device and waits for it.
    ///
    /// # Errors
    /// What the system says; the pages may then be clean in memory and absent on disk.
    pub(crate) fn sync(&self, range: Range<usize>) -> io::Result<()> {
        self.raw.flush_range(range.start, range.end - range.start)
    }

    /// Brings the pages of `range` in for reading, so that a device that cannot deliver them says so here.
    ///
    /// # Errors
    /// What the system says; `Unsupported` or `InvalidInput` where it has no such call.
    pub(crate) fn populate_read(&self, range: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        return self.raw.advise_range(Advice::PopulateRead, range.start, range.end - range.start);
        #[cfg(not(target_os = "linux"))]
        return self.raw.advise_range(Advice::WillNeed, range.start, range.end - range.start);
    }

    /// Makes the pages of `range` present and writable without changing a byte.
    ///
    /// # Errors
    /// What the system says; `Unsupported` or `InvalidInput` where it has no such call.
    pub(crate) fn populate_write(&self, range: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        return self.raw.advise_range(Advice::PopulateWrite, range.start, range.end - range.start);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = range;
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
    }
}

/// The right to write what is not published: one for each writable map.
#[derive(Debug)]
pub(crate) struct Tail {
    map: Arc<Map>,
}

impl Tail {
    /// The map that this is the tail of.
    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The bytes of `range`, to be written; `None` if any of them is published or outside.
    pub(crate) fn bytes(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let free = self.map.published() <= range.start && range.start <= range.end && range.end <= self.map.len();
        if !free {
            return None;
        }
        // SAFETY: start <= published <= range.start <= len, so the result points into the mapping.
        let first = unsafe { self.map.raw.as_mut_ptr().add(range.start) };
        // SAFETY: the range lies in the mapping, which `writable` made writable and which is as long as the file
        // (invariant 1). Readers borrow only below `published`, which cannot rise while `&mut self` is borrowed, since
        // only `publish` raises it and there is no other tail (invariant 3); so the slice is not aliased.
        Some(unsafe { std::slice::from_raw_parts_mut(first, range.end - range.start) })
    }

    /// Gives everything below `to` to the readers, for good.
    pub(crate) fn publish(&mut self, to: usize) {
        assert!(self.map.published() <= to && to <= self.map.len(), "published must rise within the map");
        self.map.published.store(to, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(len).expect("its length");
        file
    }

    #[test]
    fn what_is_published_is_seen_and_can_no_longer_be_written() {
        let mut tail = Map::writable(&file(8192), 8192, 4096, 4096).expect("a map");
        tail.bytes(4096..4099).expect("free bytes").copy_from_slice(b"abc");
        assert_eq!(tail.map().prefix(), b"");
        tail.publish(4099);
        assert_eq!(tail.map().prefix(), b"abc");
        assert!(tail.bytes(4098..4100).is_none());
        assert!(tail.bytes(4099..8193).is_none());
        assert!(tail.bytes(4099..8192).is_some());
    }

    #[test]
    fn words_are_shared_between_maps_of_one_file() {
        let file = file(4096);
        let tail = Map::writable(&file, 4096, 4096, 4096).expect("a map");
        let reader = Map::read_only(&file, 4096, 4096, 4096).expect("a second map");
        tail.map().store(64, 7);
        assert_eq!(reader.load(64), 7);
    }

    #[test]
    #[should_panic(expected = "read-only")]
    fn a_store_to_a_read_only_map_is_refused() {
        Map::read_only(&file(4096), 4096, 4096, 4096).expect("a map").store(0, 1);
    }

    #[test]
    fn a_map_longer_than_its_parts_is_refused() {
        assert!(Map::writable(&file(4096), 4096, 4096, 8192).is_err());
        assert!(Map::read_only(&file(4096), 4096, 12, 12).is_err());
    }
}
