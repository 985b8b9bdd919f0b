//! What people and programs do to the files of a log that is open: names that are removed, put back or replaced, a directory
//! that is removed, locks that somebody else holds. Never two writers, never a changed slice, never a log that goes on in
//! files that cannot be found.
//!
//! Not shown here: a changed path (`directory`), an older manifest, kills and power losses.

mod fixture;
mod reference;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fixture::{SMALLEST, segment};
use mmap_wal::inspect::Log;
use mmap_wal::{Act, Background, Error, LockKind, Observer, Options, Reader, Wal};

fn options() -> Options {
    Options::new().segment_size(SMALLEST).background(Background::Caller)
}

fn payload(seq: u64) -> Vec<u8> {
    format!("{seq} {}", "x".repeat(500)).into_bytes()
}

/// Appends `count` records, over several segments if they are more than seven.
fn append(wal: &Wal, count: u64) -> mmap_wal::Result<u64> {
    let first = wal.positions().last + 1;
    (first..first + count).try_fold(0, |_, seq| wal.append(&payload(seq)))
}

fn log(dir: &Path, count: u64) -> Wal {
    let wal = options().open(dir).expect("a log");
    append(&wal, count).expect("appends");
    wal
}

fn replaced(error: &Error) -> Option<&Path> {
    match error {
        Error::Replaced { path } => Some(path),
        Error::Poisoned(cause) => replaced(cause),
        _ => None,
    }
}

/// Refuses to lock directories, as some file systems do.
struct NoDirectoryLocks(std::path::PathBuf);

impl Observer for NoDirectoryLocks {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        match act {
            Act::Lock(path) if **path == *self.0 => Err(io::Error::from_raw_os_error(EBADF)),
            _ => Ok(()),
        }
    }
    fn after(&self, _: &Act<'_>) {}
}

const EBADF: i32 = 9;

#[test]
fn removed_lock_admits_no_second_writer() {
    let dir = fixture::scratch();
    let wal = log(dir.path(), 10);
    assert!(wal.recovery().directory_locked);
    for _ in 0..2 {
        fs::remove_file(dir.path().join("LOCK")).expect("no lock file");
        match options().open(dir.path()) {
            Err(e @ Error::Locked { lock: LockKind::Directory, .. }) => {
                assert!(e.to_string().contains(&dir.path().display().to_string()), "{e}");
            }
            other => panic!("{other:?}"),
        }
        assert!(
            matches!(Log::open(dir.path()).expect("a look").stat().expect("a look").writer, Some(pid) if pid == std::process::id())
        );
    }
    append(&wal, 20).expect("the first writer goes on");
    wal.checkpoint(30).expect("a checkpoint");
    wal.close().expect("closed");
    assert_eq!(options().open(dir.path()).expect("a log").positions().last, 30);
}

#[test]
fn removed_lock_keeps_repairs_and_copies_out() {
    let dir = fixture::scratch();
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let wal = log(&data, 40);
    Log::open(&data).expect("a look").copy(&copy, 0, |_| {}).expect("a copy");
    let held = options().open(&copy).expect("the copy");
    fs::remove_file(copy.join("LOCK")).expect("no lock file");
    append(&wal, 1).expect("an append");
    let again = Log::open(&data).expect("a look").copy(&copy, 0, |_| {});
    assert!(matches!(again, Err(Error::Locked { lock: LockKind::Directory, .. })), "{again:?}");
    drop(held);

    let victim = segment(1);
    let bytes = fs::read(data.join(&victim)).expect("a segment");
    let mut damaged = bytes.clone();
    damaged[8192 + 40] ^= 1;
    fs::write(data.join(&victim), &damaged).expect("damage");
    let log = Log::open(&data).expect("a look");
    let plan = log.plan_repair().expect("a plan");
    assert!(!plan.is_empty());
    fs::remove_file(data.join("LOCK")).expect("no lock file");
    let repaired = log.repair(&plan);
    assert!(matches!(repaired, Err(Error::Locked { lock: LockKind::Directory, .. })), "{repaired:?}");
}

#[test]
fn directory_locked_by_others_is_told() {
    let dir = fixture::scratch();
    log(dir.path(), 1).close().expect("closed");
    let held = fs::File::open(dir.path()).expect("the directory");
    held.try_lock().expect("a lock");
    let refused = options().open(dir.path());
    assert!(matches!(refused, Err(Error::Locked { lock: LockKind::Directory, .. })), "{refused:?}");
    // The refusal leaves nothing locked.
    drop(held);
    assert_eq!(log(dir.path(), 1).positions().last, 2);
}

#[test]
fn unlockable_directory_is_reported_and_lock_file_suffices() {
    let dir = fixture::scratch();
    let open = || options().open_observed(dir.path(), Some(Arc::new(NoDirectoryLocks(dir.path().to_owned()))));
    let wal = open().expect("a log");
    assert!(!wal.recovery().directory_locked);
    assert!(wal.recovery().to_string().contains("cannot be locked"));
    assert!(matches!(open(), Err(Error::Locked { lock: LockKind::File, .. })));
    append(&wal, 3).expect("appends");
    // Without the directory's lock, the file is what keeps others out.
    fs::remove_file(dir.path().join("LOCK")).expect("no lock file");
    let refused = wal.checkpoint(1).expect_err("no update");
    assert_eq!(replaced(&refused), Some(&*dir.path().join("LOCK")));
    assert!(matches!(wal.append(b"more"), Err(Error::Poisoned(_))));
    drop(wal);
    assert_eq!(open().expect("a log").positions().last, 3);
}

/// Appends and truncates until files would have been used again several times over.
fn churn(wal: &Wal) {
    for _ in 0..10 {
        append(wal, 10).expect("appends");
        wal.truncate_front(wal.positions().last - 1).expect("a truncation");
    }
}

#[test]
fn removed_readers_file_changes_no_slice() {
    let dir = fixture::scratch();
    let wal = log(dir.path(), 30);
    let snapshot = Reader::open(dir.path()).expect("a reader").snapshot().expect("a snapshot");
    let records: Vec<_> = snapshot.replay(0).expect("a replay").map(|next| next.expect("a record")).collect();
    fs::remove_file(dir.path().join("READERS")).expect("no readers' file");
    churn(&wal);
    let unchanged = || records.iter().all(|record| record.payload() == payload(record.seq()));
    assert!(records.len() == 30 && unchanged());
    // Another writer finds a new file of that name, which this reader has not locked.
    drop(wal);
    churn(&options().open(dir.path()).expect("a log"));
    assert!(unchanged());
}

#[test]
fn tail_with_a_lock_that_nobody_sees_keeps_its_records() {
    let dir = fixture::scratch();
    let wal = log(dir.path(), 1);
    let mut tail = Reader::open(dir.path()).expect("a reader").tail(0).expect("a tail");
    let mut pinned = vec![tail.try_next().expect("no damage").expect("a record").pin()];
    drop(wal);
    fs::remove_file(dir.path().join("READERS")).expect("no readers' file");
    // Segments that are made only now come to the tail, whose lock is on the removed file.
    let wal = options().open(dir.path()).expect("a log");
    for _ in 0..12 {
        append(&wal, 10).expect("appends");
        while let Some(record) = tail.try_next().expect("no damage") {
            pinned.push(record.pin());
        }
        wal.truncate_front(wal.positions().last).expect("a truncation");
    }
    assert_eq!(pinned.len(), 121);
    assert!(pinned.iter().all(|record| record.seq() == 1 || record.payload() == payload(record.seq())));
    drop((pinned, tail));
    let before = wal.stats().recycled;
    churn(&wal);
    assert!(wal.stats().recycled > before, "without readers, files are used again");
}

/// Something happens to `wal`, whose directory is given, and its next update of the manifest is refused for `name`.
fn is_noticed(name: Option<&str>, act: impl Fn(&Path)) {
    let dir = fixture::scratch();
    let data = dir.path().join("data");
    let wal = log(&data, 10);
    act(&data);
    let path = name.map_or(data.clone(), |name| data.join(name));
    let refused = wal.truncate_front(2).expect_err("no update");
    assert_eq!(replaced(&refused), Some(&*path), "{refused}");
    assert!(matches!(wal.append(b"more"), Err(Error::Poisoned(_))));
    assert_eq!(replaced(&wal.close().expect_err("a close that tells")), Some(&*path));
}

#[test]
fn removed_directory_is_noticed() {
    is_noticed(None, |data| fs::remove_dir_all(data).expect("a removal"));
    is_noticed(None, |data| {
        fs::remove_dir_all(data).expect("a removal");
        log(data, 3).close().expect("another log");
    });
}

#[test]
fn replaced_manifest_is_noticed_and_left_alone() {
    is_noticed(Some("MANIFEST"), |data| fs::remove_file(data.join("MANIFEST")).expect("a removal"));
    let dir = fixture::scratch();
    let older = log(dir.path(), 3);
    let manifest = fs::read(dir.path().join("MANIFEST")).expect("the manifest");
    append(&older, 30).expect("appends");
    fs::write(dir.path().join("put"), &manifest).expect("a file");
    fs::rename(dir.path().join("put"), dir.path().join("MANIFEST")).expect("an older manifest put back");
    let refused = older.set_meta(b"meta").expect_err("no update");
    assert_eq!(replaced(&refused), Some(&*dir.path().join("MANIFEST")));
    drop(older);
    assert_eq!(fs::read(dir.path().join("MANIFEST")).expect("the manifest"), manifest, "it was written");
}

#[test]
fn missing_or_replaced_active_segment_is_noticed() {
    // Ten records of 500 bytes: the second segment is the active one.
    let active = segment(2);
    is_noticed(Some(&active), |data| fs::rename(data.join(&active), data.join("elsewhere")).expect("a new name"));
    is_noticed(Some(&active), |data| {
        fs::copy(data.join(&active), data.join("put")).expect("a copy");
        fs::rename(data.join("put"), data.join(&active)).expect("a file put back");
    });
}

/// In a process of its own, because descriptors are the process's.
#[test]
fn closed_standard_streams_write_to_no_file() {
    const DIR: &str = "MMAP_WAL_TEST_CLOSED_STREAMS";
    if let Some(dir) = std::env::var_os(DIR) {
        return without_standard_streams(Path::new(&dir));
    }
    let dir = fixture::scratch();
    log(&dir.path().join("data"), 10).close().expect("closed");
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "closed_standard_streams_write_to_no_file", "--nocapture"]).env(DIR, dir.path());
    let status = child.stdin(std::process::Stdio::null()).status().expect("a child");
    let told = fs::read_to_string(dir.path().join("told")).unwrap_or_default();
    assert!(status.success() && told == "whole", "{status}: {told}");
    let wal = options().open(dir.path().join("data")).expect("the log is whole");
    assert_eq!((wal.positions().last, wal.positions().checkpoint), (60, 55));
    assert!(Log::open(dir.path().join("copy")).expect("a copy").verify(|_| {}).expect("a look").damages.is_empty());
}

/// What is told goes to a file: there is no standard error to tell it on.
fn without_standard_streams(dir: &Path) {
    use std::os::fd::{FromRawFd, OwnedFd};
    for stream in 0..3 {
        // SAFETY: nothing in this process owns the descriptor of a standard stream, and what writes to it expects errors.
        drop(unsafe { OwnedFd::from_raw_fd(stream) });
    }
    let (data, copy) = (dir.join("data"), dir.join("copy"));
    let wal = options().background(Background::Thread).open(&data).expect("a log");
    eprintln!("{}", "a message that nobody reads ".repeat(1000));
    append(&wal, 50).expect("appends");
    wal.checkpoint(55).expect("a checkpoint");
    let reader = Reader::open(&data).expect("a reader");
    let mut tail = reader.tail(0).expect("a tail").announced().expect("a slot");
    assert_eq!(tail.try_next().expect("no damage").expect("a record").seq(), 1);
    let look = Log::open(&data).expect("a look");
    look.copy(&copy, 0, |_| {}).expect("a copy");
    eprintln!("{}", "another message ".repeat(1000));
    let mut open = fs::read_dir("/proc/self/fd").expect("the descriptors");
    // The listing itself has the lowest free one.
    let low = open.by_ref().filter_map(|fd| fd.ok()?.file_name().to_str()?.parse::<u32>().ok()).filter(|fd| *fd < 3);
    let told = if low.count() <= 1 { "whole" } else { "a file has the number of a standard stream" };
    drop(open);
    wal.close().expect("closed");
    fs::write(dir.join("told"), told).expect("a file");
}

/// Its parent may be searched and not read, as of many a home directory or service directory.
#[test]
fn log_is_created_under_an_unreadable_parent() {
    let dir = fixture::scratch();
    let parent = dir.path().join("parent");
    fs::create_dir(&parent).expect("a directory");
    let refuse = Refuses { path: parent.clone(), error: EACCES, also_file_system: false };
    let wal = options().open_observed(parent.join("data"), Some(Arc::new(refuse))).expect("a log");
    assert!(wal.recovery().name_synced, "the whole file system was synced instead");
    let refuse = Refuses { path: parent.clone(), error: EINVAL, also_file_system: true };
    let wal = options().open_observed(parent.join("more"), Some(Arc::new(refuse))).expect("a log");
    assert!(!wal.recovery().name_synced);
    assert!(wal.recovery().to_string().contains("could not be synced"));
    // What fails is no refusal.
    let refuse = Refuses { path: parent.clone(), error: EIO, also_file_system: false };
    assert!(matches!(options().open_observed(parent.join("third"), Some(Arc::new(refuse))), Err(Error::Io(_))));
}

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;

/// Refuses to sync one directory, and perhaps the whole file system.
struct Refuses {
    path: std::path::PathBuf,
    error: i32,
    also_file_system: bool,
}

impl Observer for Refuses {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        match act {
            Act::SyncDir(path) if **path == *self.path => Err(io::Error::from_raw_os_error(self.error)),
            Act::SyncFileSystem(_) if self.also_file_system => Err(io::Error::from_raw_os_error(self.error)),
            _ => Ok(()),
        }
    }
    fn after(&self, _: &Act<'_>) {}
}

/// As another user, to whom permissions apply; root drops to it, anybody else is one already.
#[test]
fn unprivileged_user_creates_below_a_searchable_parent() {
    const DIR: &str = "MMAP_WAL_TEST_UNPRIVILEGED";
    if let Some(dir) = std::env::var_os(DIR) {
        let wal = options().open(dir).expect("a log");
        assert!(wal.recovery().name_synced);
        append(&wal, 10).expect("appends");
        return wal.close().expect("closed");
    }
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: only root can run a program as somebody else");
    }
    let dir = fixture::scratch();
    let (parent, data) = (dir.path().join("parent"), dir.path().join("parent/data"));
    fs::create_dir_all(&data).expect("directories");
    chown(&data, Some(65534), Some(65534)).expect("an owner");
    for (path, mode) in [(dir.path(), 0o711), (&parent, 0o711), (&data, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }
    // The user need not be able to reach the place where this program was built.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut child = std::process::Command::new(&program);
    child.args(["--exact", "unprivileged_user_creates_below_a_searchable_parent", "--nocapture"]).env(DIR, &data);
    let output = child.uid(65534).gid(65534).current_dir("/").output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(options().open(&data).expect("a log").positions().last, 10);
}

/// Deeper than any path can say, and reached step by step.
#[test]
fn path_longer_than_the_limit_of_the_system_is_no_obstacle() {
    const DIR: &str = "MMAP_WAL_TEST_DEEP";
    if let Some(dir) = std::env::var_os(DIR) {
        std::env::set_current_dir(dir).expect("a directory");
        let name = "d".repeat(250);
        for _ in 0..20 {
            fs::create_dir(&name).expect("a directory");
            std::env::set_current_dir(&name).expect("a directory");
        }
        let wal = log(Path::new("data"), 20);
        assert_eq!(Reader::open("data").expect("a reader").snapshot().expect("a snapshot").last_seq(), 20);
        wal.truncate_front(15).expect("a truncation");
        wal.close().expect("closed");
        return assert_eq!(options().open("data").expect("a log").positions().first, 16);
    }
    let dir = fixture::scratch();
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "path_longer_than_the_limit_of_the_system_is_no_obstacle", "--nocapture"]);
    let output = child.env(DIR, dir.path()).output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Something is mounted while this lives.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// Mounts with `arguments`, the last of which is where; `None` where that is not possible.
    fn with(arguments: &[&str], at: &Path) -> Option<Self> {
        let done = std::process::Command::new("mount").args(arguments).arg(at).output();
        done.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Reads the log in `dir`, which holds `last` records, in all ways.
fn is_readable(dir: &Path, last: u64, copy: &Path) {
    let reader = Reader::open(dir).expect("a reader");
    assert_eq!(reader.snapshot().expect("a snapshot").replay(0).expect("a replay").count() as u64, last);
    let mut tail = reader.tail(last - 1).expect("a tail");
    assert_eq!(tail.try_next().expect("no damage").expect("a record").seq(), last);
    let look = Log::open(dir).expect("a look");
    assert_eq!(look.stat().expect("a look").last_seq, last);
    assert!(look.verify(|_| {}).expect("a look").damages.is_empty());
    assert!(look.plan_repair().expect("a plan").is_empty());
    assert_eq!(look.copy(copy, 0, |_| {}).expect("a copy").last_seq, last);
}

#[test]
fn read_only_media_are_read_without_the_readers_file() {
    let dir = fixture::scratch();
    let (media, view) = (dir.path().join("media"), dir.path().join("view"));
    fs::create_dir(&media).expect("a directory");
    fs::create_dir(&view).expect("a directory");
    let Some(_media) = Mounted::with(&["-t", "tmpfs", "tmpfs"], &media) else {
        return println!("SKIPPED: nothing can be mounted here");
    };
    let data = media.join("data");
    log(&data, 20).close().expect("closed");
    fs::remove_file(data.join("READERS")).expect("no readers' file");

    // A mount that cannot be written, of a file system that others write: a writer could come.
    let source = media.to_str().expect("a path");
    let Some(shown) = Mounted::with(&["--bind", source], &view) else {
        return println!("SKIPPED: nothing can be mounted here");
    };
    let Some(_) = Mounted::with(&["-o", "remount,bind,ro"], &view).map(std::mem::forget) else {
        return println!("SKIPPED: nothing can be mounted again here");
    };
    let refused = Reader::open(view.join("data")).err().expect("a refusal").to_string();
    assert!(refused.contains("READERS") && refused.contains("create it"), "{refused}");
    fs::write(data.join("READERS"), "").expect("the readers' file");
    is_readable(&view.join("data"), 20, &dir.path().join("copy of a view"));
    drop(shown);

    fs::remove_file(data.join("READERS")).expect("no readers' file");
    let Some(_) = Mounted::with(&["-o", "remount,ro"], &media).map(std::mem::forget) else {
        return println!("SKIPPED: nothing can be mounted again here");
    };
    is_readable(&data, 20, &dir.path().join("copy of media"));
    assert!(options().open(&data).is_err(), "it cannot be written");
}

#[test]
fn hard_linked_or_opened_file_is_not_recycled() {
    let dir = fixture::scratch();
    let wal = log(dir.path(), 30);
    // A program that keeps files open, as an indexer does, and takes no lock.
    let names: Vec<_> = (1..=4).map(segment).collect();
    let open: Vec<_> = names.iter().map(|name| fs::File::open(dir.path().join(name)).expect("a segment")).collect();
    let before: Vec<_> = names.iter().map(|name| fs::read(dir.path().join(name)).expect("a segment")).collect();
    churn(&wal);
    for (mut file, before) in open.into_iter().zip(before).take(3) {
        let mut now = Vec::new();
        io::Read::read_to_end(&mut file, &mut now).expect("its bytes");
        assert!(now == before, "a file that somebody has open was used again");
    }
}
