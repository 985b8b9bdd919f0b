//! Places that a log is not copied to, copies that it does not continue, and damage.

use std::io::IoSlice;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use mmap_wal::inspect::Log;
use mmap_wal::{Act, Error, Observer, Reader, Wal};

use crate::fixture::{FRAMES_AT, files_of, log_files_of, segment, write_files};
use crate::{Bed, FRAME, assert_same, batches, body, copy, fill, options, repair, state_of};

/// What becomes of a log.
type Change = fn(&Wal);

/// Refuses to copy, says so with `part`, and leaves what is there as it is.
fn refuses(log: &Path, to: &Path, part: &str) {
    let before = to.is_dir().then(|| log_files_of(to));
    match copy(log, to, 0) {
        Err(Error::Destination(refused)) => {
            let sentence = Error::Destination(refused).to_string();
            assert!(sentence.contains(part), "{sentence}");
            assert!(sentence.contains("; ") && sentence.starts_with("cannot copy to "), "{sentence}");
        }
        other => panic!("{part}: {other:?}"),
    }
    assert!(before == to.is_dir().then(|| log_files_of(to)), "{part}: something has changed");
}

#[test]
fn places_that_are_none_are_refused() {
    let bed = Bed::after(|wal| fill(wal, 3));
    let (log, root) = (bed.log(), bed.dir.path());
    refuses(&log, &log, "the directory of the log");
    refuses(&log, &root.join("log/../log/."), "the directory of the log");
    refuses(&log, &log.join("copy"), "lies in the directory of the log");
    refuses(&log, &log.join("a/b/c"), "lies in the directory of the log");
    refuses(&log, Path::new(""), "no name");
    symlink(&log, root.join("to-log")).expect("a link");
    refuses(&log, &root.join("to-log"), "symbolic link");
    refuses(&log, &root.join("to-log/"), "symbolic link");
    refuses(&log, &root.join("to-log/copy"), "lies in the directory of the log");
    symlink("nowhere", root.join("dangling")).expect("a link");
    refuses(&log, &root.join("dangling"), "symbolic link");
    std::fs::write(root.join("file"), "mine").expect("a file");
    refuses(&log, &root.join("file"), "not a directory");
    std::fs::create_dir(root.join("full")).expect("a directory");
    std::fs::write(root.join("full/mine"), "mine").expect("a file");
    refuses(&log, &root.join("full"), "not empty");
    assert_eq!(std::fs::read_dir(root.join("full")).expect("it").count(), 1);
    assert!(!log.join("a").exists() && !log.join("copy").exists());
    let other = Bed::after(|wal| fill(wal, 3));
    refuses(&log, &other.log(), "not a copy of this one");
    other.copied();
    refuses(&log, &other.copy_dir(), "not a copy of this one");
    std::fs::create_dir(root.join("twin")).expect("a directory");
    write_files(&root.join("twin"), &files_of(&log));
    refuses(&log, &root.join("twin"), "duplicate");
    bed.copied();
}

#[test]
fn a_fresh_file_system_and_a_missing_path_are_places() {
    let bed = Bed::after(|wal| fill(wal, 3));
    let root = bed.dir.path().join("root");
    std::fs::create_dir_all(root.join("lost+found")).expect("directories");
    copy(&bed.log(), &root, 0).expect("a copy");
    let deep = bed.dir.path().join("a/b/../c");
    std::fs::create_dir_all(bed.dir.path().join("a/b")).expect("directories");
    copy(&bed.log(), &deep, 0).expect("a copy");
    assert_same(&bed.log(), &bed.dir.path().join("a/c"));
}

#[test]
fn a_copy_that_somebody_writes_to_is_locked() {
    let bed = Bed::after(|wal| fill(wal, 3));
    bed.copied();
    let opened = options().open(bed.copy_dir()).expect("the copy");
    assert!(matches!(bed.copy(), Err(Error::Locked { .. })));
    drop(opened);
    let log = Log::open(bed.log()).expect("the log");
    let mut met = false;
    log.copy(bed.copy_dir(), 0, |_| {
        let second = bed.copy();
        met = matches!(second, Err(Error::Locked { .. }));
        assert!(met, "{second:?}");
    })
    .expect("the first");
    assert!(met);
}

#[test]
fn a_copy_that_the_log_does_not_continue_is_kept() {
    let life = |wal: &Wal| fill(wal, 40);
    let cases: [(&str, Change); 6] = [
        ("ends with record 40, and the log with 30", |wal| wal.truncate_back(30).expect("a cut")),
        ("no record 31 like that of the copy", |wal| {
            wal.truncate_back(30).expect("a cut");
            for _ in 0..20 {
                wal.append(b"another life").expect("an append");
            }
        }),
        ("begins with 46", |wal| {
            fill(wal, 10);
            wal.truncate_front(45).expect("a truncation");
        }),
        ("begins with 1000", |wal| wal.reset(1000).expect("a reset")),
        // The same bytes, but with another tag.
        ("no record 31 like that of the copy", |wal| {
            wal.truncate_back(30).expect("a cut");
            for seq in 31..=40 {
                wal.append_tagged(1, &[IoSlice::new(&body(seq))]).expect("an append");
            }
        }),
        // The same bytes, but in other batches.
        ("no record 31 like that of the copy", |wal| {
            wal.truncate_back(30).expect("a cut");
            batches(wal, &[10]);
        }),
    ];
    for (part, change) in cases {
        let bed = Bed::after(life);
        bed.copied();
        change(&bed.wal());
        refuses(&bed.log(), &bed.copy_dir(), part);
        assert_eq!(state_of(&bed.copy_dir()).records.len(), 40, "{part}");
        copy(&bed.log(), &bed.dir.path().join("new"), 0).expect("a copy elsewhere");
        assert_same(&bed.log(), &bed.dir.path().join("new"));
    }
}

#[test]
fn a_cut_that_is_filled_with_the_same_records_is_no_difference() {
    let bed = Bed::after(|wal| fill(wal, 40));
    bed.copied();
    let wal = bed.wal();
    wal.truncate_back(30).expect("a cut");
    fill(&wal, 20);
    bed.copied();
}

#[test]
fn a_copy_that_was_written_to_is_kept() {
    let cases: [(&str, Change); 4] = [
        ("records were appended", |wal| fill(wal, 1)),
        ("the copy that is there ends with record", |wal| fill(wal, 20)),
        ("its metadata or checkpoint", |wal| wal.set_meta(b"its own").expect("metadata")),
        ("its metadata or checkpoint", |wal| wal.checkpoint(11).expect("a checkpoint")),
    ];
    for (i, (part, change)) in cases.into_iter().enumerate() {
        let bed = Bed::after(|wal| {
            fill(wal, 20);
            wal.checkpoint(10).expect("a checkpoint");
        });
        bed.copied();
        let copy = options().open(bed.copy_dir()).expect("the copy");
        change(&copy);
        copy.close().expect("a close");
        refuses(&bed.log(), &bed.copy_dir(), part);
        // Not even when the log has come as far.
        if i < 2 {
            for _ in 0..60 {
                bed.wal().append(b"another life").expect("an append");
            }
            refuses(&bed.log(), &bed.copy_dir(), "appended");
        }
    }
}

#[test]
fn what_was_stored_with_a_copy_is_kept_also_after_a_cut_of_it() {
    let cases: [Change; 2] = [
        |copy| {
            fill(copy, 1);
            copy.truncate_back(20).expect("a cut");
        },
        |copy| {
            fill(copy, 40);
            copy.truncate_back(20).expect("a cut");
        },
    ];
    for change in cases {
        let bed = Bed::after(|wal| fill(wal, 20));
        bed.copied();
        let copy = options().open(bed.copy_dir()).expect("the copy");
        change(&copy);
        copy.set_meta(b"its own").expect("metadata");
        copy.close().expect("a close");
        refuses(&bed.log(), &bed.copy_dir(), "its metadata or checkpoint");
        fill(&bed.wal(), 20);
        refuses(&bed.log(), &bed.copy_dir(), "its metadata or checkpoint");
    }
}

#[test]
fn a_copy_that_has_lost_what_the_log_has_is_no_copy_of_it() {
    for (ordinal, lost) in [(1, 1), (2, 17), (3, 33)] {
        let bed = Bed::after(|wal| fill(wal, 40));
        bed.copied();
        let mut files = files_of(&bed.copy_dir());
        files.get_mut(&segment(ordinal)).expect("it")[(FRAMES_AT + 30) as usize] ^= 1;
        write_files(&bed.copy_dir(), &files);
        let copy = Log::open(bed.copy_dir()).expect("the copy");
        copy.repair(&copy.plan_repair().expect("a plan")).expect("a repair");
        refuses(&bed.log(), &bed.copy_dir(), &format!("lacks record {lost}"));
        fill(&bed.wal(), 20);
        refuses(&bed.log(), &bed.copy_dir(), &format!("lacks record {lost}"));
        // What neither has any more is not missed.
        bed.wal().truncate_front(40).expect("a truncation");
        assert_eq!(bed.copy().expect("an update").records, 20);
    }
}

#[test]
fn a_file_that_only_has_the_name_of_a_lock_is_somebodys() {
    let bed = Bed::after(|wal| fill(wal, 3));
    std::fs::create_dir(bed.copy_dir()).expect("a directory");
    std::fs::write(bed.copy_dir().join("LOCK"), "not to be written over").expect("a file");
    assert!(matches!(bed.copy(), Err(Error::Destination(_))));
    let kept = std::fs::read(bed.copy_dir().join("LOCK")).expect("the file");
    assert_eq!(kept, b"not to be written over");
}

#[test]
fn what_is_wanted_must_be_in_the_copy() {
    let bed = Bed::after(|wal| fill(wal, 40));
    let part = |after| copy(&bed.log(), &bed.copy_dir(), after);
    assert_eq!(part(20).expect("a part").records, 20);
    refuses(
        &bed.log(),
        &bed.copy_dir(),
        "begins with record 21, and records from 1 on are wanted; say so (`--after 20`)",
    );
    assert!(matches!(part(19), Err(Error::Destination(_))));
    fill(&bed.wal(), 20);
    assert_eq!(part(20).expect("an update").records, 20);
    // More than is wanted does no harm, and nothing is left out in between.
    fill(&bed.wal(), 20);
    assert_eq!(part(75).expect("an update").records, 20);
    let found = state_of(&bed.copy_dir());
    assert_eq!((found.first_seq, found.last_seq, found.records.len()), (21, 80, 60));
}

#[test]
fn a_finished_copy_without_its_manifest_is_not_taken_for_an_unfinished_one() {
    let bed = Bed::after(|wal| fill(wal, 40));
    bed.copied();
    std::fs::remove_file(bed.copy_dir().join("MANIFEST")).expect("a removal");
    refuses(&bed.log(), &bed.copy_dir(), "not empty");
    let log = Log::open(bed.copy_dir()).expect("the copy");
    log.repair(&log.plan_repair().expect("a plan").with_user_tag(crate::TAG)).expect("a repair");
    assert!(state_of(&bed.log()) == state_of(&bed.copy_dir()));
}

#[test]
fn damage_in_the_log_is_named_and_no_copy_is_finished() {
    for (ordinal, index) in [(1, 0), (2, 3), (3, 5)] {
        let bed = Bed::after(|wal| fill(wal, 40));
        let mut files = files_of(&bed.log());
        files.get_mut(&segment(ordinal)).expect("it")[(FRAMES_AT + index * FRAME + 30) as usize] ^= 1;
        write_files(&bed.log(), &files);
        for _ in 0..2 {
            let damage = match bed.copy() {
                Err(Error::Corrupt(damage)) => damage,
                other => panic!("{other:?}"),
            };
            assert_eq!(damage.path, bed.log().join(segment(ordinal)));
            assert_eq!((damage.segment, damage.offset), (ordinal, FRAMES_AT + index * FRAME));
            // What is damaged at its end cannot be opened at all, and nothing was begun.
            if ordinal == 3 {
                assert!(!bed.copy_dir().exists());
                continue;
            }
            assert!(matches!(Wal::open(bed.copy_dir()), Err(Error::UnfinishedCopy { .. })));
            assert!(matches!(Reader::open(bed.copy_dir()), Err(Error::UnfinishedCopy { .. })));
            assert!(matches!(Log::open(bed.copy_dir()), Err(Error::UnfinishedCopy { .. })));
        }
        repair(&bed);
        bed.copied();
    }
}

#[test]
fn a_missing_segment_of_the_log_is_named() {
    let bed = Bed::after(|wal| fill(wal, 40));
    std::fs::remove_file(bed.log().join(segment(2))).expect("a removal");
    assert!(matches!(bed.copy(), Err(Error::MissingSegment(missing)) if missing.path == bed.log().join(segment(2))));
}

#[test]
fn damage_in_a_finished_copy_is_found_by_the_next_one() {
    let bed = Bed::after(|wal| fill(wal, 40));
    bed.copied();
    let whole = files_of(&bed.copy_dir());
    fill(&bed.wal(), 5);
    for index in 0..40 {
        let (ordinal, at) = (index / 16 + 1, FRAMES_AT + index % 16 * FRAME + 30);
        let mut files = whole.clone();
        files.get_mut(&segment(ordinal)).expect("it")[at as usize] ^= 1;
        write_files(&bed.copy_dir(), &files);
        match bed.copy() {
            Err(Error::Corrupt(damage)) => assert_eq!(damage.path, bed.copy_dir().join(segment(ordinal))),
            other => panic!("{index}: {other:?}"),
        }
        assert!(log_files_of(&bed.copy_dir()).iter().all(|(name, bytes)| files[name] == *bytes), "{index}");
    }
    write_files(&bed.copy_dir(), &whole);
    std::fs::remove_file(bed.copy_dir().join(segment(2))).expect("a removal");
    assert!(matches!(bed.copy(), Err(Error::MissingSegment(_))));
    write_files(&bed.copy_dir(), &whole);
    bed.copied();
}

/// A device that loses what a copy says that it is.
struct Forgetful;

impl Observer for Forgetful {
    fn before(&self, _act: &Act<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn after(&self, act: &Act<'_>) {
        use std::os::unix::fs::FileExt;
        if let Act::Rename { to, .. } = act
            && to.ends_with("copy/MANIFEST")
        {
            let file = std::fs::OpenOptions::new().write(true).open(to).expect("the file");
            let slot = file.metadata().expect("its length").len() / 2;
            [0, slot].into_iter().for_each(|at| file.write_all_at(&[0; 64], at).expect("a write"));
        }
    }
}

#[test]
fn a_copy_that_does_not_open_is_no_copy() {
    let bed = Bed::after(|wal| fill(wal, 40));
    let log = Log::open_observed(bed.log(), Some(Arc::new(Forgetful))).expect("the log");
    assert!(log.copy(bed.copy_dir(), 0, |_| {}).is_err());
}

/// A device that says that it has kept what it was given, and has not.
struct Liar;

impl Observer for Liar {
    fn before(&self, _act: &Act<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn after(&self, act: &Act<'_>) {
        use std::os::unix::fs::FileExt;
        if let Act::SyncFile(path) = act
            && path.extension().is_some_and(|ending| ending == "new")
        {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the file");
            let (mut byte, at) = ([0], FRAMES_AT + 3 * FRAME + 30);
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 1], at).expect("a write");
        }
    }
}

#[test]
fn what_the_device_does_not_keep_is_no_copy() {
    let bed = Bed::after(|wal| fill(wal, 40));
    let log = Log::open_observed(bed.log(), Some(Arc::new(Liar))).expect("the log");
    let refused = log.copy(bed.copy_dir(), 0, |_| {}).expect_err("a lie");
    assert!(refused.to_string().starts_with("cannot verify"), "{refused}");
    assert!(matches!(Wal::open(bed.copy_dir()), Err(Error::UnfinishedCopy { .. })));
    bed.copied();
    assert_eq!(state_of(&bed.copy_dir()).records[3].payload, body(4));
}
