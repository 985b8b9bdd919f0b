//! What an append and a replay of 128-byte records cost, beside floors measured in the same run.
//!
//! A floor is the least that any log would have to do: for memory, the checksum and the copy of the same bytes; for a
//! durable append, one page overwritten in a file that has its space, and synced. Figures depend on the disk: logs are
//! made in `MMAP_WAL_BENCH_DIR`, or else in the temporary directory, which may be memory and then says nothing of a disk.
#![allow(missing_docs)]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mmap_wal::{Options, SyncMode, Wal};
use tempfile::TempDir;

const PAYLOAD: [u8; 128] = [0xa5; 128];
const HEADER: usize = 24;
const FRAME: usize = HEADER + PAYLOAD.len();
/// How many records are replayed, and how many are appended before the front is truncated, which is not timed.
const RECORDS: u64 = 100_000;

fn fresh_dir() -> TempDir {
    match std::env::var_os("MMAP_WAL_BENCH_DIR") {
        Some(dir) => TempDir::new_in(dir),
        None => TempDir::new(),
    }
    .expect("a directory")
}

fn open(dir: &TempDir, mode: SyncMode) -> Wal {
    Options::new().sync_mode(mode).open(dir.path()).expect("a log")
}

/// One frame's checksum and copy, into a buffer as large as the log.
fn encode(memory: &mut [u8], at: usize, seq: u64) {
    let frame = &mut memory[at..at + FRAME];
    frame[8..16].copy_from_slice(&seq.to_le_bytes());
    frame[HEADER..].copy_from_slice(&PAYLOAD);
    let crc = crc32fast::hash(&frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append 128 B");
    group.throughput(Throughput::Elements(1));
    for (name, mode) in [("None", SyncMode::None), ("Sync", SyncMode::Sync)] {
        let dir = fresh_dir();
        let wal = open(&dir, mode);
        group.bench_function(name, |b| b.iter_custom(|count| time_appends(&wal, count)));
    }
    let mut memory = vec![0_u8; FRAME * RECORDS as usize];
    let mut seq = 0;
    group.bench_function("floor of None: checksum and copy", |b| {
        b.iter(|| {
            encode(&mut memory, (seq % RECORDS) as usize * FRAME, seq);
            seq += 1;
        });
    });
    let dir = fresh_dir();
    let file = File::create(dir.path().join("page")).expect("a file");
    group.bench_function("floor of Sync: overwrite a page and sync it", |b| {
        b.iter(|| {
            file.write_all_at(&[0xa5; 4096], 0).expect("a write");
            file.sync_data().expect("a sync");
        });
    });
    group.finish();
}

fn time_appends(wal: &Wal, count: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let now = left.min(RECORDS);
        let start = Instant::now();
        for _ in 0..now {
            black_box(wal.append(&PAYLOAD).expect("an append"));
        }
        spent += start.elapsed();
        wal.truncate_front(u64::MAX).expect("a truncation");
        left -= now;
    }
    spent
}

fn replay(c: &mut Criterion) {
    let dir = fresh_dir();
    let wal = open(&dir, SyncMode::None);
    for _ in 0..RECORDS {
        wal.append(&PAYLOAD).expect("an append");
    }
    let snapshot = wal.snapshot();
    let mut group = c.benchmark_group("replay 128 B");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("replay", |b| {
        b.iter(|| {
            let records = snapshot.replay(0).expect("a replay");
            records.map(|record| black_box(record.expect("a record").payload()).len()).sum::<usize>()
        });
    });
    let frames = vec![0xa5_u8; FRAME * RECORDS as usize];
    let mut copy = vec![0_u8; frames.len()];
    group.bench_function("floor: checksum and copy", |b| {
        b.iter(|| {
            for (frame, to) in frames.chunks_exact(FRAME).zip(copy.chunks_exact_mut(FRAME)) {
                black_box(crc32fast::hash(&frame[4..]));
                to.copy_from_slice(frame);
            }
            black_box(&copy);
        });
    });
    group.finish();
}

criterion_group!(benches, append, replay);
criterion_main!(benches);
