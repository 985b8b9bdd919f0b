//! Who holds the writer's lock, found without touching it.

use std::path::Path;

/// The process that holds `lock` for itself alone, if there is one and the system tells.
#[cfg(target_os = "linux")]
pub(crate) fn holder(lock: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(lock).ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_in(line, &file))
}

/// Elsewhere nothing tells without taking the lock.
#[cfg(not(target_os = "linux"))]
pub(crate) fn holder(_lock: &Path) -> Option<u32> {
    None
}

/// The process in a line of `/proc/locks`, if it is an exclusive `flock` of `file` that is held and not waited for.
#[cfg(target_os = "linux")]
fn holder_in(line: &str, file: &str) -> Option<u32> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    // A waiter has an arrow before the kind.
    let [_, "FLOCK", _, "WRITE", pid, of, ..] = fields[..] else { return None };
    // A process outside of this one's view has no number here.
    pid.parse().ok().filter(|pid| of == file && *pid > 0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_held_exclusive_lock_of_the_file_names_a_holder() {
        let of = |line| holder_in(line, "fe:00:42");
        assert_eq!(of("1: FLOCK  ADVISORY  WRITE 7 fe:00:42 0 EOF"), Some(7));
        assert_eq!(of("1: FLOCK  ADVISORY  READ 7 fe:00:42 0 EOF"), None);
        assert_eq!(of("1: -> FLOCK  ADVISORY  WRITE 7 fe:00:42 0 EOF"), None);
        assert_eq!(of("1: FLOCK  ADVISORY  WRITE 7 fe:00:43 0 EOF"), None);
        assert_eq!(of("1: POSIX  ADVISORY  WRITE 7 fe:00:42 0 EOF"), None);
        assert_eq!(of("1: FLOCK  ADVISORY  WRITE 0 fe:00:42 0 EOF"), None);
    }
}
