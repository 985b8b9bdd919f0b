//! What an append costs in each sync mode, beside floors measured in the same run.
//!
//! A floor is the least that any log would have to do: for memory, the checksum and the copy of the same bytes; for a
//! durable append, the same pages overwritten durably in a file that has them. Figures depend on the disk: logs are made
//! in `MMAP_WAL_BENCH_DIR`, or else in the temporary directory, which may be memory and then says nothing of a disk.
//! `mmap-wal bench` takes the same figures in interleaved rounds and judges their ratios.
#![allow(missing_docs)]

#[allow(dead_code, unused_imports)]
#[path = "../src/bin/mmap-wal/bench/floor/disk.rs"]
mod disk;
#[allow(dead_code, unused_imports)]
#[path = "../src/bin/mmap-wal/bench/floor/memory.rs"]
mod memory;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use disk::Disk;
use memory::{Ring, frame_size};
use mmap_wal::{Options, SyncMode, Wal};
use tempfile::TempDir;

const PAYLOAD: [u8; 128] = [0xa5; 128];
/// Where the frames of a segment begin, and bytes of the floor's files.
const FRAMES_AT: u64 = 8192;
const FLOOR_LEN: u64 = 16 << 20;
/// How many records are appended before the front is truncated, which is not timed.
const RECORDS: u64 = 100_000;
/// Records of a batch.
const BATCH: usize = 100;

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

/// The offsets of frames of `size` bytes in a segment, over and over.
fn offsets(size: usize) -> impl Iterator<Item = u64> {
    (FRAMES_AT..FLOOR_LEN - size as u64).step_by(size).cycle()
}

fn published(c: &mut Criterion) {
    let mut group = c.benchmark_group("append 128 B, published");
    group.throughput(Throughput::Elements(1));
    for (name, mode) in [("None", SyncMode::None), ("Batch of 100", SyncMode::batch(100))] {
        let dir = fresh_dir();
        let wal = open(&dir, mode);
        group.bench_function(name, |b| b.iter_custom(|count| time_appends(&wal, count)));
    }
    let mut ring = Ring::new();
    group.bench_function("floor: checksum, copy, publish", |b| b.iter(|| black_box(ring.append(black_box(&PAYLOAD)))));
    group.finish();
}

fn time_appends(wal: &Wal, count: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let now = left.min(RECORDS);
        let start = Instant::now();
        for _ in 0..now {
            black_box(wal.append(black_box(&PAYLOAD)).expect("an append"));
        }
        spent += start.elapsed();
        wal.truncate_front(u64::MAX).expect("a truncation");
        left -= now;
    }
    spent
}

fn durable(c: &mut Criterion) {
    let large = [0xa5; 4096];
    for (name, payload) in [("128 B", &PAYLOAD[..]), ("4 KiB", &large)] {
        let dir = fresh_dir();
        let wal = open(&dir, SyncMode::Sync);
        let size = frame_size(payload.len());
        durable_group(c, &format!("append {name}, durable"), size, || wal.append(payload).map(drop));
    }
    let (dir, records) = (fresh_dir(), [PAYLOAD; BATCH]);
    let wal = open(&dir, SyncMode::Sync);
    let size = BATCH * frame_size(PAYLOAD.len());
    durable_group(c, "append_batch of 100 x 128 B", size, || wal.append_batch(&records).map(drop));
}

/// An append of `size` bytes of frames, and durable overwrites of as many.
fn durable_group(c: &mut Criterion, name: &str, size: usize, append: impl Fn() -> mmap_wal::Result<()>) {
    let dir = fresh_dir();
    let disk = Disk::create(dir.path(), FLOOR_LEN as usize).expect("files");
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function("the log", |b| b.iter(|| append().expect("an append")));
    let mut next = offsets(size);
    let floor = format!("floor: {}", disk.way());
    group.bench_function(floor, |b| {
        b.iter(|| next.next().map_or(Ok(()), |at| disk.overwrite(at, size)).expect("a write"));
    });
    let mut next = offsets(size);
    group.bench_function("floor: pwrite + fdatasync", |b| {
        b.iter(|| next.next().map_or(Ok(()), |at| disk.overwrite_synced(at, size)).expect("a write"));
    });
    group.finish();
}

criterion_group!(benches, published, durable);
criterion_main!(benches);
