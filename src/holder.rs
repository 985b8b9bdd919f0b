//! Who holds the writer's locks, found without touching them.

use crate::error::Result;
use crate::format::name::LOCK;
use crate::storage::{FileId, Storage};

/// The process that has the log in `storage` open for writing, if there is one and the system tells: it holds the file
/// LOCK, or the directory where somebody has removed that file.
///
/// # Errors
/// What the system says.
pub(crate) fn writer(storage: &Storage) -> Result<Option<u32>> {
    match storage.id_of(LOCK)?.and_then(holder) {
        None => Ok(holder(storage.own_id()?)),
        found => Ok(found),
    }
}

/// The process that holds an exclusive `flock` of `locked`, a file or a directory, if there is one and the system tells.
#[cfg(target_os = "linux")]
pub(crate) fn holder(locked: FileId) -> Option<u32> {
    let (device, inode) = locked.numbers();
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_in(line, &file))
}

/// Elsewhere nothing tells without taking the lock.
#[cfg(not(target_os = "linux"))]
pub(crate) fn holder(_locked: FileId) -> Option<u32> {
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
