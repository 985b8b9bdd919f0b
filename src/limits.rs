//! What the system allows a process.

use crate::sync::OnceLock;

/// How many maps a process may have (`vm.max_map_count`), read once; `None` where the system does not say.
pub(crate) fn max_map_count() -> Option<u64> {
    static COUNT: OnceLock<Option<u64>> = OnceLock::new();
    *COUNT.get_or_init(read_max_map_count)
}

#[cfg(all(target_os = "linux", not(miri)))]
fn read_max_map_count() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn read_max_map_count() -> Option<u64> {
    None
}

/// How many bytes of address space the process may have (`ulimit -v`), as of now; `None` if any number.
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) fn address_space() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

#[cfg(not(all(target_os = "linux", not(miri))))]
pub(crate) fn address_space() -> Option<u64> {
    None
}

/// Maps that a handle holds at most, where the system does not say how many a process may have.
const FALLBACK: usize = 16_384;
/// The share of a process's maps that one handle takes at most.
const SHARE: u64 = 4;

/// How many maps a handle holds at most, unless its options say so.
pub(crate) fn default_max_maps() -> usize {
    let share = |count: u64| usize::try_from(count / SHARE).unwrap_or(usize::MAX).max(1);
    max_map_count().map_or(FALLBACK, share)
}
