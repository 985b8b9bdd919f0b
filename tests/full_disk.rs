//! Proves on file systems that are really full (a tmpfs of 1 MiB, and ext4 in an image of 16 MiB) that an append that does
//! not fit loses nothing and takes no number, that truncation, checkpoints, metadata, close and open need no space, and
//! that appending goes on when there is some again, in the modes that differ there.
//! Does not prove anything where it may not mount: it says `SKIPPED` then. Nor does it meet a disk that fills up while a
//! segment is written to: a segment has its space before that.
#![allow(missing_docs)]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use mmap_wal::{Background, Error, Options, SyncMode, TailState, Wal};

/// How large a record is: several fit a segment, and several segments the disk.
const RECORD: usize = 3000;

/// A small file system of its own, gone when this is dropped.
struct Disk {
    mounted: PathBuf,
    segment: u64,
    _dir: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let ran = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    if ran.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

impl Disk {
    fn tmpfs() -> Result<Self, String> {
        let (dir, mounted) = place();
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]
                .map(Path::new)
                .into_iter()
                .chain([&*mounted])
                .collect::<Vec<_>>(),
        )?;
        Ok(Self { mounted, segment: 64 << 10, _dir: dir })
    }

    fn ext4() -> Result<Self, String> {
        let (dir, mounted) = place();
        let image = dir.path().join("image");
        File::create(&image).and_then(|file| file.set_len(16 << 20)).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &image])?;
        run("mount", &[Path::new("-o"), Path::new("loop"), &image, &mounted])?;
        Ok(Self { mounted, segment: 1 << 20, _dir: dir })
    }

    fn log(&self) -> PathBuf {
        self.mounted.join("log")
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }

    /// Sees to it that removing the filler frees a few segments.
    fn reserve(&self) {
        fs::write(self.filler(), vec![0xEE; 3 * self.segment as usize]).expect("a filler");
    }

    /// Takes all space that is left.
    fn choke(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.filler()).expect("a filler");
        for size in [64 << 10, 4 << 10, 512] {
            loop {
                match file.write_all(&vec![0xEE; size]) {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    Err(e) => panic!("{e}"),
                }
            }
            file.sync_all().expect("a sync");
        }
    }

    fn breathe(&self) {
        fs::remove_file(self.filler()).expect("a removal");
    }

    fn clear(&self) {
        fs::remove_dir_all(self.log()).expect("a removal");
        let _ = fs::remove_file(self.filler());
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let mounted = dir.path().join("mounted");
    fs::create_dir(&mounted).expect("a directory");
    (dir, mounted)
}

impl Drop for Disk {
    fn drop(&mut self) {
        if run("umount", &[&self.mounted]).is_err() {
            // A test that failed may hold a file there.
            let _ = run("umount", &[Path::new("-l"), &self.mounted]);
        }
    }
}

/// Runs `test` on every file system that can be mounted, in every mode that matters, each time on an empty disk.
fn on_full_disks(test: impl Fn(&Disk, &Options)) {
    for disk in [Disk::tmpfs(), Disk::ext4()] {
        match disk {
            Err(reason) => println!("SKIPPED: {reason}"),
            Ok(disk) => {
                for mode in [SyncMode::Sync, SyncMode::None] {
                    for background in [Background::Thread, Background::Caller] {
                        let options = Options::new().segment_size(disk.segment).sync_mode(mode).background(background);
                        test(&disk, &options);
                        disk.clear();
                    }
                }
            }
        }
    }
}

fn body(seq: u64) -> Vec<u8> {
    (0..RECORD as u64).map(|at| (seq.wrapping_mul(31) + at * 7 + (seq >> 8)) as u8).collect()
}

/// Appends until there is no space; returns the last number.
fn fill(wal: &Wal) -> u64 {
    loop {
        let next = wal.positions().last + 1;
        match wal.append(&body(next)) {
            Ok(seq) => assert_eq!(seq, next),
            Err(Error::NoSpace(_)) => return next - 1,
            Err(e) => panic!("{e}"),
        }
    }
}

/// Every way of appending is refused for want of space, and changes nothing.
fn refuses(wal: &Wal) {
    let before = wal.positions();
    let full = |outcome: Result<(), Error>| assert!(matches!(outcome, Err(Error::NoSpace(_))), "{outcome:?}");
    let record = body(0);
    full(wal.append(&record).map(drop));
    full(wal.append(&vec![1; 5 << 20]).map(drop));
    full(wal.append_batch(&[&record, &record, &record]).map(drop));
    full(wal.submit(&record).map(drop));
    full(wal.submit_batch(&[&record, &record]).map(drop));
    full(wal.append_with(RECORD, |_| -> Result<usize, ()> { panic!("there is nothing to fill") }).map(drop));
    assert!(!matches!(wal.try_append(&record), Ok(Some(_))));
    let after = wal.positions();
    assert_eq!((before.first, before.last), (after.first, after.last));
}

/// The log shows exactly the records `first` to `last`.
fn shows(wal: &Wal, first: u64, last: u64) {
    let view = wal.snapshot();
    assert_eq!((view.first_seq(), view.last_seq()), (first, last));
    let mut expected = first;
    for record in view.replay(0).expect("a replay") {
        let record = record.expect("a record");
        assert!(record.seq() == expected && record.payload() == body(expected), "record {expected}");
        expected += 1;
    }
    assert_eq!(expected, last + 1);
}

fn opened(disk: &Disk, options: &Options) -> Wal {
    let wal = options.open(disk.log()).expect("the log");
    assert_ne!(wal.recovery().tail, TailState::Torn);
    wal
}

#[test]
fn nothing_is_lost_and_everything_but_an_append_goes_on() {
    on_full_disks(|disk, options| {
        disk.reserve();
        let wal = opened(disk, options);
        let last = fill(&wal);
        assert!(last > 100, "the disk holds some: {last}");
        refuses(&wal);
        disk.choke();
        refuses(&wal);
        shows(&wal, 1, last);
        wal.checkpoint(last / 2).expect("a checkpoint");
        wal.set_meta(&[7; 1024]).expect("metadata");
        assert_eq!(wal.sync().expect("a sync"), last);
        wal.close().expect("a close");
        drop(wal);

        let wal = opened(disk, options);
        assert_eq!((wal.positions().checkpoint, wal.positions().durable), (last / 2, last));
        assert_eq!(wal.meta()[..], [7; 1024]);
        shows(&wal, 1, last);
        refuses(&wal);
        disk.breathe();
        assert_eq!(wal.append_batch(&[body(last + 1), body(last + 2)]).expect("a batch").last(), Some(last + 2));
        disk.choke();
        let more = fill(&wal);
        shows(&wal, 1, more);
        disk.breathe();
        let next = |to: &mut [u8]| {
            to[..RECORD].copy_from_slice(&body(more + 1));
            Ok::<_, ()>(RECORD)
        };
        assert_eq!(wal.append_with(RECORD, next).expect("an append"), Ok(more + 1));
        wal.close().expect("a close");
        drop(wal);
        shows(&opened(disk, options), 1, more + 1);
    });
}

#[test]
fn a_truncation_makes_room_in_the_files_that_are_there() {
    on_full_disks(|disk, options| {
        let wal = opened(disk, options);
        let (mut first, mut last) = (1, fill(&wal));
        disk.choke();
        for round in 0..3 {
            // No more than one file is dropped: it is used again, for there is no other space.
            let recycled = wal.stats().recycled;
            while matches!(wal.append(&body(last + 1)), Err(Error::NoSpace(_))) {
                assert_eq!(wal.positions().last, last);
                first += disk.segment / RECORD as u64 / 4;
                assert!(first <= last, "nothing is left to truncate");
                wal.truncate_front(first - 1).expect("a truncation");
            }
            assert_eq!((wal.stats().recycled, wal.positions().last), (recycled + 1, last + 1), "round {round}");
            last = fill(&wal);
            refuses(&wal);
            shows(&wal, first, last);
        }
        // With nothing left to show, the segment that is full stays, and the others make room.
        wal.truncate_front(last).expect("a truncation");
        shows(&wal, last + 1, last);
        let seqs = wal.append_batch(&[body(last + 1), body(last + 2), body(last + 3)]).expect("a batch");
        assert_eq!((seqs.first(), seqs.last()), (Some(last + 1), Some(last + 3)));
        disk.choke();
        let first = last + 1;
        let last = fill(&wal);
        wal.close().expect("a close");
        drop(wal);
        let wal = opened(disk, options);
        shows(&wal, first, last);
        // What was truncated before an open makes room as well.
        wal.truncate_front(last).expect("a truncation");
        wal.close().expect("a close");
        drop(wal);
        let wal = opened(disk, options);
        assert_eq!(wal.append(&body(last + 1)).expect("an append"), last + 1);
        shows(&wal, last + 1, last + 1);
    });
}

#[test]
fn a_kept_view_keeps_its_space_and_gives_it_back() {
    on_full_disks(|disk, options| {
        let wal = opened(disk, options);
        let last = fill(&wal);
        disk.choke();
        let view = wal.snapshot();
        wal.truncate_front(last).expect("a truncation");
        refuses(&wal);
        assert_eq!(view.replay(0).expect("a replay").filter(Result::is_ok).count() as u64, last);
        assert_eq!(view.get(1).expect("a read").map(|record| record.payload().to_vec()), Some(body(1)));
        drop(view);
        assert_eq!(wal.append(&body(last + 1)).expect("an append"), last + 1);
        shows(&wal, last + 1, last + 1);
    });
}

#[test]
fn a_log_that_does_not_fit_is_created_when_it_does() {
    on_full_disks(|disk, options| {
        disk.choke();
        let filler = OpenOptions::new().write(true).open(disk.filler()).expect("the filler");
        let (step, mut refused) = (disk.segment / 16, 0);
        let wal = loop {
            match options.open(disk.log()) {
                Ok(wal) => break wal,
                Err(Error::NoSpace(_)) => refused += 1,
                Err(e) => panic!("{e}"),
            }
            let len = filler.metadata().expect("its length").len();
            filler.set_len(len.checked_sub(step).expect("a log fits an empty disk")).expect("a shorter filler");
            filler.sync_all().expect("a sync");
        };
        assert!(refused > 0, "it fitted at once");
        assert!(wal.recovery().created);
        assert_eq!((wal.positions().first, wal.positions().last), (1, 0));
        let last = fill(&wal);
        shows(&wal, 1, last);
        refuses(&wal);
        wal.close().expect("a close");
    });
}
