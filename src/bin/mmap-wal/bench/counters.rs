//! What the kernel counts for this process, where it tells.

use std::fs::read_to_string;

/// Bytes that this process has had written to disks, or has made dirty to be written.
pub(crate) fn written_bytes() -> Option<u64> {
    field(&read_to_string("/proc/self/io").ok()?, "write_bytes:")
}

/// Bytes of memory that is this process's own: heap and stacks, and nothing of a file.
pub(crate) fn anonymous_bytes() -> Option<u64> {
    field(&read_to_string("/proc/self/smaps_rollup").ok()?, "Anonymous:").map(|kib| kib << 10)
}

/// Faults of this thread that took no reading.
pub(crate) fn minor_faults() -> Option<u64> {
    faults(&read_to_string("/proc/thread-self/stat").ok()?)
}

/// The number behind `key` in a text of lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The tenth field of proc_pid_stat(5). The second, a name in parentheses, may hold anything.
fn faults(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(io, "write_bytes:"), Some(4096));
        assert_eq!(field(io, "bytes:"), None);
        assert_eq!(field("Anonymous:          128 kB\n", "Anonymous:"), Some(128));
    }

    #[test]
    fn faults_are_found_behind_any_name() {
        assert_eq!(faults("7 (a) b (c) R 1 7 7 0 -1 4194304 123 0 4 0"), Some(123));
        assert_eq!(faults("7 (a) R 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn touching_memory_for_the_first_time_is_counted() {
        // More than an allocator keeps for later, so that it comes from the system.
        const LEN: usize = 40 << 20;
        let faults = minor_faults().unwrap();
        let memory = crate::bench::floor::memory::touched(LEN);
        assert!(minor_faults().unwrap() > faults);
        assert!(anonymous_bytes().unwrap() >= LEN as u64);
        drop(memory);
    }
}
