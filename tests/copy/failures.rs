//! Errors, kills and losses of power at every step of a copy, first or further.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mmap_wal::inspect::Log;
use mmap_wal::{Act, Error, Observer, Wal};

use crate::fixture::{Before, files_of, scratch, write_files};
use crate::reference::crc::salted;
use crate::reference::{Files, Parsed};
use crate::simulator::disk::Disk;
use crate::simulator::image::{Doubts, Image};
use crate::simulator::machine::Machine;
use crate::simulator::model::Model;
use crate::simulator::rng::Rng;
use crate::{Bed, assert_same, batches, difference, fill, options, state_of};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A copy that is to be made: of what, and onto what.
struct Job {
    name: &'static str,
    bed: Bed,
    /// What stands in the directory of the copy.
    there: Files,
    /// What an earlier copy shows, if one was finished.
    before: Option<Parsed>,
}

impl Job {
    fn first(name: &'static str, life: impl FnOnce(&Wal)) -> Self {
        Self { name, bed: Bed::after(life), there: Files::new(), before: None }
    }

    fn further(name: &'static str, life: impl FnOnce(&Wal), then: impl FnOnce(&Wal)) -> Self {
        let bed = Bed::after(life);
        bed.copied();
        let (there, before) = (files_of(&bed.copy_dir()), Some(state_of(&bed.copy_dir())));
        let wal = bed.wal();
        then(&wal);
        wal.close().expect("a close");
        Self { name, bed, there, before }
    }

    /// Makes the directory of the copy what it was.
    fn lay(&self) {
        lay(&self.bed.copy_dir(), &self.there);
    }

    /// What stands in `copy` is refused, or it is the earlier copy or the whole new one; and the copy can be made again.
    fn check(&self, copy: &Path, step: &str) {
        let step = format!("{}, {step}", self.name);
        self.check_shown(copy, &step);
        Log::open(self.bed.log())
            .and_then(|log| log.copy(copy, 0, |_| {}))
            .unwrap_or_else(|e| panic!("{step}: a second time: {e}"));
        assert_same(&self.bed.log(), copy);
    }

    fn check_shown(&self, copy: &Path, step: &str) {
        // On a duplicate: an open writes.
        let dir = scratch();
        write_files(dir.path(), &files_of(copy));
        match options().create(false).open(dir.path()) {
            Ok(wal) => {
                wal.close().expect("a close");
                let (found, whole) = (state_of(dir.path()), state_of(&self.bed.log()));
                let is_right = found == whole || self.before.as_ref() == Some(&found);
                assert!(is_right, "{step}: {}", difference(&whole, &found));
            }
            Err(Error::UnfinishedCopy { .. }) => assert!(self.before.is_none(), "{step}: the earlier copy is gone"),
            Err(Error::Io(failure)) if failure.source.kind() == io::ErrorKind::NotFound => {
                assert!(self.before.is_none(), "{step}: the earlier copy is gone");
            }
            Err(e) => panic!("{step}: {e}"),
        }
    }
}

fn lay(dir: &Path, files: &Files) {
    let _ = std::fs::remove_dir_all(dir);
    if !files.is_empty() {
        std::fs::create_dir(dir).expect("a directory");
        write_files(dir, files);
    }
}

fn jobs() -> Vec<Job> {
    vec![
        Job::first("a first copy", |wal| {
            fill(wal, 20);
            batches(wal, &[9, 9]);
            wal.checkpoint(5).expect("a checkpoint");
        }),
        Job::first("a copy of nothing", |_| {}),
        Job::further(
            "an update",
            |wal| batches(wal, &[9, 9]),
            |wal| {
                batches(wal, &[9, 3, 9]);
                wal.set_meta(b"new").expect("metadata");
            },
        ),
        Job::further("an update of the state", |wal| fill(wal, 5), |wal| wal.checkpoint(3).expect("a checkpoint")),
    ]
}

/// An observer that fails at the `nth` act below `dir`, or at it and all behind.
fn at_act(dir: PathBuf, nth: usize, errno: i32, all_behind: bool) -> (Arc<dyn Observer>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let observer: Arc<dyn Observer> = Before::new(true, move |act: &Act<'_>| {
        if !act.path().starts_with(&dir) {
            return Ok(());
        }
        let number = seen.fetch_add(1, Ordering::SeqCst);
        let fails = if all_behind { number >= nth } else { number == nth };
        if fails { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    });
    (observer, count)
}

#[test]
fn after_a_failure_at_any_step_the_copy_is_made_again() {
    for job in jobs() {
        let mut nth = 0;
        loop {
            let mut is_behind = false;
            for (errno, all_behind) in [(EIO, true), (EIO, false), (ENOSPC, true)] {
                job.lay();
                let (observer, count) = at_act(job.bed.dir.path().to_owned(), nth, errno, all_behind);
                let made = Log::open_observed(job.bed.log(), Some(observer)).and_then(|log| {
                    let made = log.copy(job.bed.copy_dir(), 0, |_| {});
                    drop(log);
                    made
                });
                is_behind = count.load(Ordering::SeqCst) <= nth;
                assert!(made.is_err() || !all_behind || is_behind, "{}: act {nth} failed in silence", job.name);
                if made.is_ok() {
                    assert_same(&job.bed.log(), &job.bed.copy_dir());
                }
                std::fs::create_dir_all(job.bed.copy_dir()).expect("a directory");
                job.check(&job.bed.copy_dir(), &format!("act {nth}, {errno} {all_behind}: {made:?}"));
            }
            nth += 1;
            if is_behind {
                break;
            }
        }
        assert!(nth > 40, "{}: {nth} acts", job.name);
    }
}

#[test]
fn the_names_of_new_directories_are_durable_before_the_copy_is_a_log() {
    let bed = Bed::after(|wal| fill(wal, 3));
    let (above, synced) = (bed.dir.path().to_owned(), Arc::new(Mutex::new(HashSet::new())));
    let (seen, wanted) = (Arc::clone(&synced), [above.clone(), above.join("a"), above.join("a/b")]);
    let observer = Before::new(true, move |act: &Act<'_>| {
        let mut seen = seen.lock().expect("a lock");
        match act {
            Act::SyncDir(dir) => drop(seen.insert(dir.to_path_buf())),
            Act::Rename { to, .. } if to.ends_with("MANIFEST") => {
                assert!(wanted.iter().all(|dir| seen.contains(dir)), "{seen:?}");
                seen.insert("named".into());
            }
            _ => {}
        }
        Ok(())
    });
    let log = Log::open_observed(bed.log(), Some(observer)).expect("the log");
    log.copy(above.join("a/b/c"), 0, |_| {}).expect("a copy");
    assert!(synced.lock().expect("a lock").contains(Path::new("named")));
}

#[test]
fn a_copy_that_was_killed_before_its_mark_was_gone_loses_it_when_it_is_opened() {
    let bed = Bed::after(|wal| fill(wal, 3));
    let mark = bed.copy_dir().join("UNFINISHED");
    let path = mark.clone();
    let observer = Before::new(true, move |act: &Act<'_>| match act {
        Act::Remove(removed) if *removed == path => Err(io::Error::from_raw_os_error(EIO)),
        _ => Ok(()),
    });
    let log = Log::open_observed(bed.log(), Some(observer)).expect("the log");
    assert!(log.copy(bed.copy_dir(), 0, |_| {}).is_err());
    let copy = options().open(bed.copy_dir()).expect("the copy");
    fill(&copy, 40);
    copy.close().expect("a close");
    assert!(!mark.exists());
    // With the mark, what was appended would count as part of a copy that is to be made again.
    std::fs::remove_file(bed.copy_dir().join("MANIFEST")).expect("a removal");
    assert!(matches!(Wal::open(bed.copy_dir()), Err(Error::NoManifest { .. })));
    assert!(matches!(bed.copy(), Err(Error::Destination(_))));
}

#[test]
fn after_a_kill_at_any_step_the_copy_is_made_again() {
    for job in jobs() {
        job.lay();
        let images = Arc::new(Mutex::new(Vec::new()));
        let (taken, path) = (Arc::clone(&images), job.bed.copy_dir());
        let observer = Before::new(true, move |act: &Act<'_>| {
            if act.path().starts_with(&path)
                && !matches!(act, Act::Read(_) | Act::Open(_) | Act::List(_))
                && path.exists()
            {
                taken.lock().expect("a lock").push((format!("{act:?}"), files_of(&path)));
            }
            Ok(())
        });
        let log = Log::open_observed(job.bed.log(), Some(observer)).expect("the log");
        log.copy(job.bed.copy_dir(), 0, |_| {}).expect("a copy");
        drop(log);
        let images = std::mem::take(&mut *images.lock().expect("a lock"));
        assert!(images.len() > 10, "{}", job.name);
        let place = job.bed.dir.path().join("killed");
        for (act, image) in images {
            lay(&place, &image);
            std::fs::create_dir_all(&place).expect("a directory");
            job.check(&place, &format!("before {act}"));
        }
    }
}

#[test]
fn a_copy_that_was_killed_goes_on_where_it_was() {
    let bed = Bed::after(|wal| fill(wal, 160));
    let (path, at) = (bed.copy_dir(), crate::segment(8));
    let observer = Before::new(true, move |act: &Act<'_>| match act {
        Act::Rename { to, .. } if **to == path.join(&at) => Err(io::Error::from_raw_os_error(EIO)),
        _ => Ok(()),
    });
    let log = Log::open_observed(bed.log(), Some(observer)).expect("the log");
    assert!(log.copy(bed.copy_dir(), 0, |_| {}).is_err());
    drop(log);
    // The front of the log goes meanwhile, and what is at its end.
    let wal = bed.wal();
    wal.truncate_front(20).expect("a truncation");
    wal.truncate_back(130).expect("a cut");
    batches(&wal, &[9]);
    let copied = bed.copied();
    assert_eq!((copied.records, copied.first_seq, copied.last_seq), (139 - 112, 21, 139));
}

/// What becomes of the segment with a name.
type Change = fn(&mut Files, &str);

/// A log, and a copy of it that was given up after its first segment.
fn given_up() -> Bed {
    let bed = Bed::after(|wal| fill(wal, 100));
    let second = bed.copy_dir().join(crate::segment(2));
    let observer = Before::new(true, move |act: &Act<'_>| match act {
        Act::Rename { to, .. } if **to == second => Err(io::Error::from_raw_os_error(EIO)),
        _ => Ok(()),
    });
    let log = Log::open_observed(bed.log(), Some(observer)).expect("the log");
    assert!(log.copy(bed.copy_dir(), 0, |_| {}).is_err());
    bed
}

#[test]
fn leftovers_that_are_not_what_their_names_say_are_made_anew() {
    let first = crate::segment(1);
    let changes: [(&str, Change); 4] = [
        ("another name", |files, first| {
            let bytes = files.remove(first).expect("the segment");
            files.insert(crate::segment(9), bytes);
        }),
        ("a shorter file", |files, first| files.get_mut(first).expect("the segment").truncate(8192)),
        ("a longer file", |files, first| files.get_mut(first).expect("the segment").resize(20 << 10, 0)),
        ("the last number that there is", |files, first| {
            let (mut bytes, last) = (files.remove(first).expect("the segment"), u64::MAX >> 1);
            for at in [0, 512] {
                bytes[at + 32..at + 40].copy_from_slice(&last.to_le_bytes());
                let crc = salted(0, &bytes[at..at + 124]);
                bytes[at + 124..at + 128].copy_from_slice(&crc.to_le_bytes());
            }
            files.insert(crate::segment(last), bytes);
        }),
    ];
    for (name, change) in changes {
        let bed = given_up();
        let mut files = files_of(&bed.copy_dir());
        change(&mut files, &first);
        lay(&bed.copy_dir(), &files);
        println!("{name}");
        assert_eq!(bed.copied().records, 100, "{name}");
    }
}

#[test]
fn leftovers_that_the_log_does_not_hold_any_more_are_made_anew() {
    let bed = Bed::after(|wal| fill(wal, 100));
    let (path, at) = (bed.copy_dir(), crate::segment(2));
    let observer = Before::new(true, move |act: &Act<'_>| match act {
        Act::Rename { to, .. } if **to == path.join(&at) => Err(io::Error::from_raw_os_error(EIO)),
        _ => Ok(()),
    });
    let unfinished = || {
        let _ = std::fs::remove_dir_all(bed.copy_dir());
        let log = Log::open_observed(bed.log(), Some(Arc::clone(&observer) as _)).expect("the log");
        assert!(log.copy(bed.copy_dir(), 0, |_| {}).is_err());
    };
    unfinished();
    let wal = bed.wal();
    wal.truncate_back(40).expect("a cut");
    for _ in 0..60 {
        wal.append(b"another life").expect("an append");
    }
    bed.copied();
    unfinished();
    wal.truncate_front(90).expect("a truncation");
    fill(&wal, 30);
    bed.copied();
    unfinished();
    wal.reset(500).expect("a reset");
    bed.copied();
    fill(&wal, 60);
    unfinished();
    wal.truncate_front(559).expect("a truncation");
    wal.reset(900).expect("a reset");
    fill(&wal, 30);
    bed.copied();
}

/// Lets a machine see what happens below a directory.
struct Within(PathBuf, Arc<Machine>);

impl Observer for Within {
    fn before(&self, act: &Act<'_>) -> io::Result<()> {
        if act.path().starts_with(&self.0) { self.1.before(act) } else { Ok(()) }
    }

    fn after(&self, act: &Act<'_>) {
        if act.path().starts_with(&self.0) {
            self.1.after(act);
        }
    }

    fn random(&self) -> Option<u64> {
        self.1.random()
    }
}

/// A disk that holds `files`, all of it durable.
fn disk_of(files: &Files) -> Disk {
    let mut image = Image::default();
    for (node, (name, bytes)) in files.iter().enumerate() {
        image.files.insert(name.clone(), node);
        image.contents.insert(node, Arc::new(bytes.clone()));
    }
    Disk::of(&image)
}

#[test]
fn after_a_power_failure_at_any_step_the_copy_is_made_again() {
    let mut states = HashSet::new();
    for (case, job) in jobs().into_iter().enumerate() {
        job.lay();
        let place = job.bed.copy_dir();
        std::fs::create_dir_all(&place).expect("a directory");
        let machine = Machine::new(&place, disk_of(&files_of(&place)), &Arc::new(Model::new()), 7);
        machine.record();
        let observer = Arc::new(Within(place.clone(), Arc::clone(&machine)));
        let log = Log::open_observed(job.bed.log(), Some(observer)).expect("the log");
        log.copy(&place, 0, |_| {}).expect("a copy");
        drop(log);
        let mut rng = Rng::new(case as u64 + 1);
        // What was reported is durable: a failure of power right behind the end loses nothing.
        let last = machine.disk();
        let (moments, _) = machine.kill();
        assert!(moments.len() >= 10, "{}: {}", job.name, moments.len());
        for (disk, before) in
            moments.into_iter().map(|moment| (moment.disk, moment.before)).chain([(last, "the end".into())])
        {
            let doubts = Doubts::of(&disk);
            for choice in doubts.choices(8, 12, &mut rng) {
                let image = doubts.image(&choice);
                if states.insert((case, image.digest())) || before == "the end" {
                    let dir = scratch();
                    image.materialise(dir.path()).expect("the state");
                    if before == "the end" {
                        assert_same(&job.bed.log(), dir.path());
                    }
                    job.check(dir.path(), &format!("power fails before {before}"));
                }
            }
        }
    }
    println!("{} distinct states", states.len());
    assert!(states.len() > 100, "{}", states.len());
}

#[test]
fn on_a_full_disk_the_copy_waits_for_space() {
    let bed = Bed::after(|wal| fill(wal, 16 * 40));
    let small = bed.dir.path().join("small");
    std::fs::create_dir(&small).expect("a directory");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=300k", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|ran| ran.status.success()) {
        println!("SKIPPED: no file system can be mounted");
        return;
    }
    let copy = small.join("copy");
    let make = || Log::open(bed.log()).and_then(|log| log.copy(&copy, 0, |_| {}));
    let first = make();
    let refused = Wal::open(&copy).err();
    let second = make();
    let grown = Command::new("mount").args(["-o", "remount,size=10m"]).arg(&small).output();
    let third = make();
    let files = if copy.exists() { files_of(&copy) } else { Files::new() };
    let unmounted = Command::new("umount").arg(&small).output();
    assert!(unmounted.is_ok_and(|ran| ran.status.success()) && grown.is_ok_and(|ran| ran.status.success()));
    for full in [first, second] {
        assert!(matches!(full, Err(Error::NoSpace(_))), "{full:?}");
    }
    assert!(matches!(refused, Some(Error::UnfinishedCopy { .. })), "{refused:?}");
    let third = third.expect("a copy");
    assert!((1..600).contains(&third.records), "what fitted was not copied again: {third:?}");
    std::fs::create_dir(bed.copy_dir()).expect("a directory");
    write_files(&bed.copy_dir(), &files);
    assert_same(&bed.log(), &bed.copy_dir());
}
