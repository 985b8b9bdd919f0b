//! Whether a process holds the writer's lock, found without taking or delaying it.
//!
//! Only the lock tells: a process id that somebody has written down may be that of a process that was killed, of another
//! one that got the number since, or of one in another pid namespace. `/proc/locks` lists every lock that is held by a
//! process which this one can see.

use crate::format::stats::Writer;
use crate::storage::Storage;

/// Who holds the writer's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterLock {
    /// This process, by its number as it is seen from here.
    Held(u32),
    /// No process: the log is not open for writing.
    Free,
    /// It cannot be told from here: the system lists no locks (it is not Linux, or the file system keeps none), or the
    /// last writer was in another pid namespace, whose processes are not listed.
    Unknown,
}

impl WriterLock {
    /// The process that holds it, if there is one that can be seen.
    #[must_use]
    pub const fn pid(self) -> Option<u32> {
        match self {
            Self::Held(pid) => Some(pid),
            Self::Free | Self::Unknown => None,
        }
    }
}

/// Who holds the writer's lock of the log in `storage`, of which the caller holds the readers' lock; `page` is what the
/// last writer has shown.
#[cfg(target_os = "linux")]
pub(crate) fn writer_lock(storage: &Storage, page: Option<&Writer>) -> WriterLock {
    use crate::format::name::{LOCK, READERS};

    // The file LOCK, and the directory, which a writer holds also when somebody has removed that file.
    let (Ok(lock), Ok(dir)) = (storage.id_of(LOCK), storage.own_id()) else { return WriterLock::Unknown };
    let held: Vec<Named> = lock.into_iter().chain([dir]).map(Named::of).collect();
    let readers = storage.id_of(READERS).ok().flatten().map(|readers| readers.numbers().1).unwrap_or_default();
    match find_holder(&held, readers, locks) {
        WriterLock::Free if may_be_hidden(page) => WriterLock::Unknown,
        found => found,
    }
}

/// How often a long list is read before a lock that is not in it is believed not to be held.
#[cfg(target_os = "linux")]
const LOOKS: u32 = 16;

/// The kernel gives out at most that many bytes of the list at a time, and no more than are asked for. Between two pieces it
/// releases the list, and goes on by counting: a lock that is released meanwhile lets it pass over another one.
#[cfg(target_os = "linux")]
const PIECE: usize = crate::format::PAGE;

/// The list of all locks, in pieces that are as large as can be: `read_to_string` asks for a line at first.
#[cfg(target_os = "linux")]
fn locks() -> std::io::Result<String> {
    use std::io::Read;

    let mut file = std::fs::File::open("/proc/locks")?;
    let (mut list, mut piece) = (Vec::new(), [0; 2 * PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&list).into_owned()),
            read => list.extend_from_slice(&piece[..read]),
        }
    }
}

/// Looks for an exclusive lock of one of `held` in what `list` returns, in which there is a lock of the file with the inode
/// `readers` on the same file system.
#[cfg(target_os = "linux")]
fn find_holder(held: &[Named], readers: u64, mut list: impl FnMut() -> std::io::Result<String>) -> WriterLock {
    let mut found = WriterLock::Unknown;
    for _ in 0..LOOKS {
        let Ok(locks) = list() else { return WriterLock::Unknown };
        found = holder_in(&locks, held, readers);
        // A lock that is listed is held; one that is not is free if the list is of one moment.
        if matches!(found, WriterLock::Held(_)) || locks.len() < PIECE - LINE {
            break;
        }
    }
    found
}

/// The longest line, by far.
#[cfg(target_os = "linux")]
const LINE: usize = 256;

#[cfg(target_os = "linux")]
fn holder_in(locks: &str, held: &[Named], readers: u64) -> WriterLock {
    let devices: Vec<&str> =
        locks.lines().filter_map(flock).filter(|found| found.inode == readers).map(|found| found.device).collect();
    let is = |lock: &Named, found: &Flock<'_>| {
        found.inode == lock.inode && (found.device == lock.device || devices.contains(&found.device))
    };
    let is_writer = |found: &Flock<'_>| found.exclusive && held.iter().any(|lock| is(lock, found));
    match locks.lines().filter_map(flock).find(is_writer) {
        Some(found) => u32::try_from(found.pid).map_or(WriterLock::Unknown, WriterLock::Held),
        // The lock of the caller is not listed either.
        None if devices.is_empty() => WriterLock::Unknown,
        None => WriterLock::Free,
    }
}

/// Elsewhere nothing tells without taking the lock.
#[cfg(not(target_os = "linux"))]
pub(crate) fn writer_lock(_storage: &Storage, _page: Option<&Writer>) -> WriterLock {
    WriterLock::Unknown
}

/// Whether the last writer did not close the log, and its processes are not listed here: from the first pid namespace all
/// are, from another one only its own and those below.
#[cfg(target_os = "linux")]
fn may_be_hidden(page: Option<&Writer>) -> bool {
    /// `PROC_PID_INIT_INO`: the same on every machine.
    const FIRST: u32 = 0xEFFF_FFFC;
    let here = crate::board::pid_namespace();
    here != FIRST && page.is_some_and(|writer| writer.pid != 0 && writer.namespace != 0 && writer.namespace != here)
}

/// A file as `/proc/locks` names it.
#[cfg(target_os = "linux")]
struct Named {
    /// As `stat` tells it. On btrfs and some overlays the kernel lists another one: that of the file system, which is
    /// found by the lock on `READERS` in the same directory.
    device: String,
    inode: u64,
}

#[cfg(target_os = "linux")]
impl Named {
    fn of(id: crate::storage::FileId) -> Self {
        let (device, inode) = id.numbers();
        Self { device: format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device)), inode }
    }
}

/// An `flock` that is held.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Flock<'a> {
    exclusive: bool,
    pid: i64,
    device: &'a str,
    inode: u64,
}

/// The lock in a line of `/proc/locks`, if it is an `flock` that is held and not waited for.
#[cfg(target_os = "linux")]
fn flock(line: &str) -> Option<Flock<'_>> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    // A waiter has an arrow before the kind.
    let [_, "FLOCK", _, mode, pid, of, ..] = fields[..] else { return None };
    let (device, inode) = of.rsplit_once(':')?;
    Some(Flock { exclusive: mode == "WRITE", pid: pid.parse().ok()?, device, inode: inode.parse().ok()? })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_held_flock_is_one() {
        let held = |exclusive| Some(Flock { exclusive, pid: 7, device: "fe:00", inode: 42 });
        assert_eq!(flock("1: FLOCK  ADVISORY  WRITE 7 fe:00:42 0 EOF"), held(true));
        assert_eq!(flock("1: FLOCK  ADVISORY  READ 7 fe:00:42 0 EOF"), held(false));
        assert_eq!(flock("1: -> FLOCK  ADVISORY  WRITE 7 fe:00:42 0 EOF"), None);
        assert_eq!(flock("1: POSIX  ADVISORY  WRITE 7 fe:00:42 0 EOF"), None);
        assert_eq!(flock("1: FLOCK  ADVISORY  WRITE x fe:00:42 0 EOF"), None);
        assert_eq!(flock("1: FLOCK"), None);
    }

    /// A list of `count` locks of other files, a reader's, and those of `more`.
    fn list(count: u64, more: &[&str]) -> String {
        let others = (0..count).map(|inode| format!("1: FLOCK  ADVISORY  WRITE 9 fe:00:{} 0 EOF\n", 1000 + inode));
        let readers = "1: FLOCK  ADVISORY  READ 5 fe:00:43 0 EOF\n".to_owned();
        others.chain([readers]).chain(more.iter().map(|line| format!("{line}\n"))).collect()
    }

    fn found(mut lists: Vec<String>) -> WriterLock {
        let last = lists.pop().unwrap_or_default();
        let mut lists = lists.into_iter();
        let held = [Named { device: "00:2a".into(), inode: 42 }];
        find_holder(&held, 43, || Ok(lists.next().unwrap_or_else(|| last.clone())))
    }

    const WRITER: &str = "1: FLOCK  ADVISORY  WRITE 7 fe:00:42 0 EOF";

    #[test]
    fn a_writer_that_a_long_list_has_passed_over_is_found_by_another_look() {
        assert_eq!(found(vec![list(200, &[]), list(200, &[]), list(200, &[WRITER])]), WriterLock::Held(7));
        assert_eq!(found(vec![list(200, &[])]), WriterLock::Free);
        // A short one is of one moment.
        assert_eq!(found(vec![list(5, &[]), list(5, &[WRITER])]), WriterLock::Free);
    }

    #[test]
    fn the_device_is_that_of_the_readers_lock_beside_it() {
        assert_eq!(found(vec![list(0, &[WRITER])]), WriterLock::Held(7));
        assert_eq!(found(vec![list(0, &["1: FLOCK  ADVISORY  WRITE 7 fe:01:42 0 EOF"])]), WriterLock::Free);
        assert_eq!(found(vec![list(0, &["1: FLOCK  ADVISORY  WRITE 7 00:2a:42 0 EOF"])]), WriterLock::Held(7));
        assert_eq!(found(vec![list(0, &["1: FLOCK  ADVISORY  READ 7 fe:00:42 0 EOF"])]), WriterLock::Free);
        assert_eq!(found(vec![list(0, &["1: -> FLOCK  ADVISORY  WRITE 7 fe:00:42 0 EOF"])]), WriterLock::Free);
        let none = "1: FLOCK  ADVISORY  WRITE 7 fe:00:44 0 EOF\n".to_owned();
        assert_eq!(found(vec![none]), WriterLock::Unknown, "the caller's own lock is not listed");
    }

    #[test]
    fn a_writer_of_another_namespace_that_did_not_close_the_log_may_be_hidden() {
        let here = crate::board::pid_namespace();
        let of = |pid, namespace| Writer { pid, namespace, ..Writer::default() };
        for (writer, hidden) in [(of(7, here), false), (of(0, here ^ 1), false), (of(7, 0), false)] {
            assert_eq!(may_be_hidden(Some(&writer)), hidden, "{writer:?}");
        }
        assert_eq!(may_be_hidden(Some(&of(7, here ^ 1))), here != 0xEFFF_FFFC);
        assert!(!may_be_hidden(None));
    }
}
