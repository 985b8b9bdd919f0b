//! Copies beside a writer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mmap_wal::inspect::Log;
use mmap_wal::{Act, Background, Error, Options, SyncMode, Wal};

use crate::fixture::{Before, SMALLEST};
use crate::reference::{Parsed, Rec};
use crate::simulator::rng::Rng;
use crate::{Bed, assert_finished, batches, difference, fill, state_of};

/// Everything that changes a log, at once.
fn storm(wal: &Wal) {
    fill(wal, 40);
    wal.checkpoint(30).expect("a checkpoint");
    wal.truncate_front(33).expect("a truncation");
    wal.truncate_back(60).expect("a cut");
    for _ in 0..40 {
        wal.append(b"another life").expect("an append");
    }
    batches(wal, &[9, 9, 9]);
    wal.set_meta(b"new").expect("metadata");
    wal.truncate_front(70).expect("a truncation");
    wal.maintain().expect("files used again");
}

/// Copies while `storm` breaks out at the `nth` act; returns what the copy shows, and the log before and after.
fn storm_at(nth: usize, storm: fn(&Wal)) -> Option<[Parsed; 3]> {
    let bed = Bed::new();
    let wal = bed.wal();
    batches(&wal, &[5, 9, 9]);
    fill(&wal, 30);
    let before = state_of(&bed.log());
    let (log, count) = (Arc::new(Mutex::new(Some(wal))), Arc::new(AtomicUsize::new(0)));
    let (victim, seen) = (Arc::clone(&log), Arc::clone(&count));
    let observer = Before::new(true, move |_: &Act<'_>| {
        if seen.fetch_add(1, Ordering::SeqCst) == nth {
            let wal = victim.lock().expect("a lock");
            storm(wal.as_ref().expect("the log"));
        }
        Ok(())
    });
    let copied = Log::open_observed(bed.log(), Some(observer)).expect("the log").copy(bed.copy_dir(), 0, |_| {});
    copied.unwrap_or_else(|e| panic!("act {nth}: {e}"));
    let after = state_of(&bed.log());
    assert_finished(&bed.copy_dir());
    (count.load(Ordering::SeqCst) > nth).then(|| [state_of(&bed.copy_dir()), before, after])
}

#[test]
fn whatever_happens_at_any_step_the_copy_is_of_one_moment() {
    let storms: [fn(&Wal); 2] = [storm, |wal| {
        wal.reset(1000).expect("a reset");
        fill(wal, 60);
    }];
    for storm in storms {
        let mut seen = [0, 0];
        for nth in 0.. {
            let Some([found, before, after]) = storm_at(nth, storm) else { break };
            assert!(found == before || found == after, "act {nth}: {}", difference(&after, &found));
            seen[usize::from(found == after)] += 1;
        }
        println!("{} copies of the log as it was, {} as it became", seen[0], seen[1]);
        assert!(seen[0] > 30 && seen[1] > 3, "{seen:?}");
    }
}

/// What the writer has done: where each of its lives was cut off from the one before.
type Cuts = Arc<Mutex<Vec<u64>>>;

/// Says its number and in which life of the log it was written, and whether it is in a batch of three and where.
fn body(seq: u64, life: usize, place: u64) -> Vec<u8> {
    let mut body = [seq, life as u64, place].map(u64::to_le_bytes).concat();
    body.resize(24 + (seq as usize * 7) % 300, seq as u8);
    body
}

fn words(record: &Rec) -> [u64; 3] {
    [0, 8, 16].map(|at| u64::from_le_bytes(record.payload[at..at + 8].try_into().expect("a word")))
}

/// Appends, rotates, truncates and cuts as fast as it can until told to stop.
fn write(log: &Path, stop: &AtomicBool, cuts: &Cuts, lives: usize) {
    let options = Options::new().segment_size(SMALLEST).sync_mode(SyncMode::None).background(Background::Thread);
    let wal = options.open(log).expect("the log");
    let (mut rng, mut ends) = (Rng::new(7), vec![0]);
    while !stop.load(Ordering::Relaxed) {
        let (next, life) = (wal.positions().last + 1, cuts.lock().expect("a lock").len());
        match rng.below(40) {
            0 => {
                let up_to = next.saturating_sub(200);
                wal.truncate_front(up_to).expect("a truncation");
                ends.retain(|end| *end >= up_to);
            }
            1 if life < lives && ends.len() > 20 => {
                ends.truncate(ends.len() - 1 - rng.below(15));
                let after = ends[ends.len() - 1];
                // Known before it is done: whoever sees the new life looks here.
                cuts.lock().expect("a lock").push(after);
                wal.truncate_back(after).expect("a cut");
            }
            2..=9 => {
                let records: Vec<Vec<u8>> = (0..3).map(|i| body(next + i, life, i + 1)).collect();
                ends.push(wal.append_batch(&records).expect("a batch").last().expect("a number"));
            }
            10 => ends.push(wal.append(&[body(next, life, 0), vec![0; 9000]].concat()).expect("an append")),
            _ => ends.push(wal.append(&body(next, life, 0)).expect("an append")),
        }
    }
}

/// The copy is what the log was at one moment.
fn check(found: &Parsed, cuts: &[u64]) {
    let dense: Vec<u64> = (found.first_seq..=found.last_seq).collect();
    assert_eq!(found.records.iter().map(|record| record.seq).collect::<Vec<u64>>(), dense);
    let last_life = found.records.iter().map(|record| words(record)[1]).max().unwrap_or(0);
    for record in &found.records {
        let [seq, life, place] = words(record);
        assert_eq!(seq, record.seq);
        // Of the life that was cut off last before it, at the moment that the copy shows.
        let expected = (1..=last_life).rev().find(|life| cuts[*life as usize - 1] < seq).unwrap_or(0);
        assert_eq!(life, expected, "record {seq} in life {last_life}");
        let ends = place == 0 || place == 3;
        assert_eq!(found.batch_ends.contains(&seq), ends, "record {seq}");
    }
}

/// Copies beside the writer, each to a place of its own and all to one that goes on.
fn copy_beside(lives: usize, copies: usize) {
    let bed = Bed::new();
    let (stop, cuts) = (Arc::new(AtomicBool::new(false)), Cuts::default());
    let writer = {
        let (log, stop, cuts) = (bed.log(), Arc::clone(&stop), Arc::clone(&cuts));
        std::thread::spawn(move || write(&log, &stop, &cuts, lives))
    };
    while !Log::open(bed.log()).and_then(|log| log.stat()).is_ok_and(|stat| stat.last_seq > 0) {
        std::thread::yield_now();
    }
    let (mut updates, mut parted) = (0, 0);
    for number in 0..copies {
        let alone = bed.dir.path().join(format!("alone-{number}"));
        let running = bed.dir.path().join(format!("running-{parted}"));
        let log = Log::open(bed.log()).expect("the log");
        log.copy(&alone, 0, |_| {}).expect("a copy");
        check(&state_of(&alone), &cuts.lock().expect("a lock"));
        assert_finished(&alone);
        std::fs::remove_dir_all(&alone).expect("a removal");
        // Records that the copy has may be gone by now at either end.
        match log.copy(&running, 0, |_| {}) {
            Ok(_) => {
                updates += 1;
                check(&state_of(&running), &cuts.lock().expect("a lock"));
                assert_finished(&running);
            }
            Err(Error::Destination(_)) => parted += 1,
            Err(e) => panic!("{e}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    println!("{updates} updates, parted {parted} times, {} cuts", cuts.lock().expect("a lock").len());
}

#[test]
fn beside_a_writer_that_rotates_and_truncates_every_copy_is_of_one_moment() {
    copy_beside(0, 40);
}

#[test]
fn beside_a_writer_that_cuts_too_every_copy_is_of_one_moment() {
    copy_beside(usize::MAX, 40);
}
