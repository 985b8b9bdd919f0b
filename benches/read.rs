//! What opening, replaying, verifying and looking up cost, beside the checksums of the same frames in memory.
//!
//! Everything is in the page cache. `mmap-wal bench` takes the same figures in interleaved rounds and judges their ratios.
#![allow(missing_docs)]

#[allow(dead_code, unused_imports)]
#[path = "../src/bin/mmap-wal/bench/floor/memory.rs"]
mod memory;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use memory::{frame_size, frames, look_up, verify_all};
use mmap_wal::inspect::Log;
use mmap_wal::{Options, Reader, Snapshot, SyncMode, Wal};
use tempfile::TempDir;

const RECORDS: u64 = 100_000;

fn fresh_dir() -> TempDir {
    match std::env::var_os("MMAP_WAL_BENCH_DIR") {
        Some(dir) => TempDir::new_in(dir),
        None => TempDir::new(),
    }
    .expect("a directory")
}

fn open(dir: &TempDir) -> Wal {
    Options::new().sync_mode(SyncMode::None).open(dir.path()).expect("a log")
}

/// A log of records of `len` bytes.
fn filled(dir: &TempDir, len: usize) -> Wal {
    let (wal, payload) = (open(dir), vec![0xa5; len]);
    for _ in 0..RECORDS {
        wal.append(&payload).expect("an append");
    }
    wal
}

fn snapshot(dir: &TempDir) -> Snapshot {
    Reader::open(dir.path()).and_then(|reader| reader.snapshot()).expect("a snapshot")
}

fn replayed(snapshot: &Snapshot) -> usize {
    let records = snapshot.replay(0).expect("a replay");
    records.map(|record| black_box(record.expect("a record").payload()).len()).sum()
}

fn whole(c: &mut Criterion) {
    for (name, len) in [("128 B", 128), ("1 KiB", 1024)] {
        let dir = fresh_dir();
        let wal = filled(&dir, len);
        wal.sync().expect("a sync");
        let memory = frames(RECORDS as usize, len);
        let mut group = c.benchmark_group(format!("read {RECORDS} records of {name}"));
        group.throughput(Throughput::Bytes(RECORDS * frame_size(len) as u64));
        group.bench_function("floor: checksums in memory", |b| b.iter(|| verify_all(&memory)));
        group.bench_function("a reader's first look", |b| b.iter(|| snapshot(&dir)));
        group.bench_function("replay by a new reader", |b| {
            b.iter_batched(|| snapshot(&dir), |snapshot| replayed(&snapshot), BatchSize::PerIteration);
        });
        let again = snapshot(&dir);
        group.bench_function("replay by the same reader", |b| b.iter(|| replayed(&again)));
        let log = Log::open(dir.path()).expect("a log");
        group.bench_function("verify", |b| b.iter(|| log.verify(|_| {}).expect("a verification").records));
        group.finish();
    }
}

fn reopen(c: &mut Criterion) {
    let dir = fresh_dir();
    filled(&dir, 128).close().expect("a close");
    let mut group = c.benchmark_group("open after a clean close");
    group.throughput(Throughput::Bytes(RECORDS * frame_size(128) as u64));
    group.bench_function("15 MiB of tail", |b| {
        // What is opened is closed when it is dropped, which is not timed.
        b.iter_batched(|| (), |()| open(&dir), BatchSize::PerIteration);
    });
    group.finish();
}

fn get(c: &mut Criterion) {
    let dir = fresh_dir();
    let wal = filled(&dir, 128);
    let (snapshot, memory) = (wal.snapshot(), frames(RECORDS as usize, 128));
    // Any step that has no factor in common with the count comes to every record, in an order that no cache foresees.
    let next = |seq: &mut u64| {
        *seq = (*seq + 61_803) % RECORDS;
        *seq
    };
    let mut group = c.benchmark_group("get 128 B, warm");
    group.throughput(Throughput::Elements(1));
    let mut seq = 0;
    group.bench_function("by its number", |b| {
        b.iter(|| snapshot.get(next(&mut seq) + 1).expect("the log").map(|record| record.payload()[0]));
    });
    let mut seq = 0;
    group.bench_function("floor: checksum and touch at a known offset", |b| {
        b.iter(|| look_up(&memory, next(&mut seq) as usize * frame_size(128)));
    });
    group.finish();
}

criterion_group!(benches, whole, reopen, get);
criterion_main!(benches);
