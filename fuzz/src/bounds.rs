//! Bounds on the memory and the work that an input takes, counted and not timed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with a count of what is allocated.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    let live = LIVE.fetch_add(by, Ordering::Relaxed) + by;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes on to the system's allocator as it came; the counters are not part of what it returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's contract is the one of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's contract is the one of the system's allocator.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        grown(new_size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the one of the system's allocator, which `at` came from.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the one of the system's allocator, which `at` came from.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes hashed for each byte of the log. An offset at which a frame may stand costs at most two stretches of a prefix
/// table, that is 16 bytes for each byte of a segment; two tables, two walks and the spares' first frames come to it.
/// A look that fails is done twice.
const HASHED: u64 = 2 * 24;
/// What a small log costs: its manifest, mostly.
const HASHED_ANYWAY: u64 = 256 << 10;
/// Bytes allocated at once for each byte of the log.
const ALLOCATED: usize = 3;
/// The buffers through which files are read and written.
const ALLOCATED_ANYWAY: usize = 2 << 20;

/// Calls the library with a log of `size` bytes.
///
/// # Panics
/// If it takes more memory or hashes more bytes than is linear in that size.
pub fn bounded<T>(what: &str, size: usize, call: impl FnOnce() -> T) -> T {
    let (before, hashed_before) = (LIVE.load(Ordering::Relaxed), mmap_wal::fuzzing::hashed_bytes());
    PEAK.store(before, Ordering::Relaxed);
    let done = call();
    let allocated = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    let hashed = mmap_wal::fuzzing::hashed_bytes() - hashed_before;
    assert!(allocated <= ALLOCATED * size + ALLOCATED_ANYWAY, "{what}: {allocated} bytes allocated for {size}");
    assert!(hashed <= HASHED * size as u64 + HASHED_ANYWAY, "{what}: {hashed} bytes hashed for {size}");
    done
}
