//! Proves that lookups and replays backwards show the right records while the writer appends, rotates, cuts and truncates
//! under them: what the writer puts down of where records stand is never ahead of, nor behind, what a view shows.
//! Does not prove that every interleaving was met.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicBool, Ordering};

use mmap_wal::{Background, Error, Options, Snapshot, SyncMode, Wal};

const ROUNDS: u64 = 30;

fn mixed(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

/// The record `seq` of one life of the log: of a length of its own, or of the same as some of those around it.
fn body(seq: u64, life: u64) -> Vec<u8> {
    let mut bytes = [seq.to_le_bytes(), life.to_le_bytes()].concat();
    let run = seq / 150;
    let dice = if run.is_multiple_of(2) { seq } else { run };
    bytes.resize(16 + (mixed(dice ^ life << 32) % 200) as usize, seq as u8);
    bytes
}

/// Checks a record, and returns its life.
fn check(seq: u64, payload: &[u8]) -> u64 {
    let life = u64::from_le_bytes(payload[8..16].try_into().expect("eight bytes"));
    assert!(payload == body(seq, life), "record {seq} of life {life}");
    life
}

/// Appends, fails to, rotates, cuts and truncates.
fn write(wal: &Wal) {
    for round in 0..ROUNDS {
        let dice = mixed(round);
        let next = || wal.positions().last + 1;
        for _ in 0..dice % 300 {
            let seq = next();
            wal.append(&body(seq, round)).expect("an append");
        }
        let failed = wal.append_with(1000, |bytes| {
            bytes.fill(7);
            Err::<usize, &str>("changed its mind")
        });
        assert!(matches!(failed, Ok(Err(_))), "{failed:?}");
        let first = next();
        let batch: Vec<_> = (first..first + dice % 200).map(|seq| body(seq, round)).collect();
        wal.append_batch(&batch).expect("a batch");
        let seq = next();
        if round % 7 == 3 {
            wal.append(&body(seq, round)).expect("an append");
            let large = next();
            wal.append_batch(&(large..large + 1500).map(|seq| body(seq, round)).collect::<Vec<_>>()).expect("a batch");
        }
        if round % 3 == 1 {
            // The end of a batch, wherever one is near.
            let last = wal.positions().last;
            let mut cuts = (last.saturating_sub(dice % 400).max(wal.positions().first)..=last).rev().skip(1);
            let cut = cuts.find(|after| !matches!(wal.truncate_back(*after), Err(Error::InsideBatch { .. })));
            assert!(cut.is_none_or(|after| wal.positions().last == after));
        }
        if round % 5 == 2 {
            wal.truncate_front(wal.positions().last.saturating_sub(dice % 1000)).expect("a truncation");
        }
    }
}

/// Looks up and replays backwards, and compares both.
fn look(snapshot: &Snapshot, salt: u64) {
    let (first, last) = (snapshot.first_seq(), snapshot.last_seq());
    let mut lives: Vec<(u64, u64)> = Vec::new();
    for i in 0..40 {
        let seq = if i == 0 { last } else { first + mixed(salt ^ i << 40) % (last + 1).saturating_sub(first).max(1) };
        match snapshot.get(seq).expect("no damage") {
            Some(record) => lives.push((seq, check(seq, record.payload()))),
            None => assert!(seq < first || seq > last, "{seq} of {first} to {last}"),
        }
    }
    assert!(
        snapshot.get(last + 1).expect("no damage").is_none() && snapshot.get(first - 1).expect("no damage").is_none()
    );
    lives.sort_unstable();
    let mut expected = last;
    for record in snapshot.replay_back(u64::MAX).expect("a replay") {
        let record = record.expect("no damage");
        assert_eq!(record.seq(), expected);
        let life = check(expected, record.payload());
        while let Some((_, looked_up)) = lives.pop_if(|(seq, _)| *seq == expected) {
            assert_eq!(life, looked_up);
        }
        expected -= 1;
    }
    assert!(expected + 1 == first && lives.is_empty());
}

#[test]
fn lookups_and_replays_backwards_are_right_beside_a_writer_that_cuts_and_seals() {
    for (index_memory, background) in
        [(1 << 20, Background::Thread), (3000, Background::Caller), (0, Background::Thread)]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new().segment_size(32 << 10).sync_mode(SyncMode::None).background(background);
        let wal = options.index_memory(index_memory).open(dir.path()).expect("a new log");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let lookers = [0, 1].map(|who| {
                let (wal, stop) = (&wal, &stop);
                scope.spawn(move || {
                    let mut earlier = wal.snapshot();
                    for look_number in 0_u64.. {
                        let now = if look_number % 3 == who { wal.durable_snapshot() } else { wal.snapshot() };
                        look(&now, look_number);
                        // A view that is older than what was put down since.
                        look(&earlier, look_number);
                        earlier = now;
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                })
            });
            let written = scope.spawn(|| write(&wal)).join();
            stop.store(true, Ordering::Relaxed);
            lookers.into_iter().for_each(|looker| looker.join().expect("right records"));
            written.expect("a writer without errors");
        });
        look(&wal.snapshot(), 1);
    }
}
