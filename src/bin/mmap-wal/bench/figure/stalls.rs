//! What an append may have to wait for once in a while, and what the log's threads cost the process that they are in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use mmap_wal::{Background, Event, SyncMode};

use crate::bench::figure::append::write_pieces;
use crate::bench::figure::{FRAMES_AT, PAYLOAD};
use crate::bench::floor::memory::{HEADER, frame_size};
use crate::bench::ground::{Ground, Measured, failed, per_operation};
use crate::bench::latency::Latencies;
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

const PAGE: usize = 4096;
/// A payload whose frame is a page.
const WHOLE_PAGE: [u8; PAGE - HEADER] = [0xa5; PAGE - HEADER];
/// What the host maps and gives back, in bytes.
const MAPPED: usize = 1 << 20;
/// Segments that are kept ready where many are made at once.
const SPARES: usize = 8;
/// What is kept of the host's calls: a share that takes no longer, and what it is called.
const SHARES: [(f64, &str, &str); 3] = [
    (0.5, "stall-host-median", "median"),
    (0.999, "stall-host-999", "99.9th percentile"),
    (1.0, "stall-host-most", "longest"),
];
/// After that long, a thread that should have done something has not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Faults, rotations, preparations, and the host's own calls.
pub(crate) fn stalls(ground: &Ground) -> Result<Measured, Failure> {
    let mut measured = host(ground)?;
    measured.rows.splice(0..0, [fault(ground)?, rotation(ground)?]);
    measured.rows.extend(preparation(ground)?);
    Ok(measured)
}

/// The first store to a page that the system has written back.
fn fault(ground: &Ground) -> Result<Row, Failure> {
    let pages = (ground.segment() - FRAMES_AT) / PAGE as u64 / 2;
    let time = |is_clean: bool| {
        ground.settle()?;
        let scratch = ground.scratch("fault")?;
        // No thread makes the pages writable again.
        let wal = ground.options(SyncMode::None).background(Background::Caller).open(scratch.path())?;
        // The first two segments are mapped anew by the open, the third is as it was prepared.
        wal.append(&whole_segment(ground))?;
        wal.append(&whole_segment(ground))?;
        wal.append(&PAYLOAD)?;
        if is_clean {
            ground.settle()?;
        }
        let start = Instant::now();
        for _ in 0..pages {
            wal.append(&WHOLE_PAGE)?;
        }
        Ok(per_operation(start.elapsed(), pages))
    };
    let rounds = ground.interleave([&mut || time(true), &mut || time(false)])?;
    let what = "append of a page, None, no thread, to pages that were written back since they were prepared";
    let row = Row::new("stall-fault", what, Unit::Nanos, Goal::Low(None)).floor("the same to pages that were not");
    Ok(row.rounds(rounds.into_iter().map(|[ours, floor]| Round::beside(ours, floor)).collect()))
}

/// A payload whose frame fills a segment.
fn whole_segment(ground: &Ground) -> Vec<u8> {
    vec![0xa5; (ground.segment() - FRAMES_AT) as usize - HEADER]
}

/// The append that goes on in the next segment, when that is ready.
fn rotation(ground: &Ground) -> Result<Row, Failure> {
    let scratch = ground.scratch("rotation")?;
    let (size, sealed) = (1 << 20, Arc::new(AtomicU64::new(0)));
    let seals = Arc::clone(&sealed);
    let count = move |event: &Event| {
        seals.fetch_add(u64::from(matches!(event, Event::Sealed { .. })), Ordering::Relaxed);
    };
    let wal = ground.options(SyncMode::None).segment_size(size).on_event(count).open(scratch.path())?;
    let fits = (size - FRAMES_AT) / frame_size(PAYLOAD.len()) as u64;
    let ready = || sealed.load(Ordering::Relaxed) >= wal.stats().rotations;
    let mut filled = 0;
    let mut turn = || {
        // All but one of a segment, so that each round ends at a full one.
        let rest = fits - filled;
        let time = timed(|| (0..rest).try_for_each(|_| wal.append(&PAYLOAD).map(drop)))?;
        wait_until(ready)?;
        let turned = timed(|| wal.append(&PAYLOAD).map(drop))?;
        filled = 1;
        Ok(Round::beside(turned.as_nanos() as f64, per_operation(time, rest)))
    };
    let rounds = (0..ground.rounds).map(|_| turn()).collect::<Result<_, Failure>>()?;
    let what = "append that begins a segment, None, when the next one is ready";
    let row = Row::new("stall-rotation", what, Unit::Nanos, Goal::Low(None));
    Ok(row.floor("the appends before it, in the mean").rounds(rounds))
}

/// A segment that is made, as a new file and from one that is used again, and the threads' time for it.
fn preparation(ground: &Ground) -> Result<[Row; 2], Failure> {
    let scratch = ground.scratch("preparation")?;
    let elapsed = Arc::new(AtomicU64::new(0));
    let last = Arc::clone(&elapsed);
    let note = move |event: &Event| {
        if let Event::Prepared { elapsed, .. } = event {
            last.store(elapsed.as_nanos() as u64, Ordering::Relaxed);
        }
    };
    let options = ground.options(SyncMode::Sync).spare_segments(1).background(Background::Caller).on_event(note);
    let wal = options.open(scratch.path())?;
    let record = whole_segment(ground);
    wal.append(&record)?;
    let prepared = |used_again: bool| {
        if used_again {
            wal.truncate_front(u64::MAX)?;
        }
        let before = wal.stats().recycled;
        wal.append(&record)?;
        let as_meant = (wal.stats().recycled > before) == used_again;
        if as_meant { Ok(elapsed.load(Ordering::Relaxed) as f64) } else { Err(unexpected()) }
    };
    let mut file = || {
        let scratch = ground.scratch("file")?;
        let path = scratch.path().join("file");
        let time = write_pieces(&path, ground.segment(), ground.segment()).map_err(failed)?;
        Ok(time.as_nanos() as f64)
    };
    let rounds = ground.interleave([&mut || prepared(false), &mut || prepared(true), &mut file])?;
    let row = |name: &str, what: &str, kind: usize| {
        let beside = rounds.iter().map(|values| Round::beside(values[kind], values[2])).collect();
        let what = format!("a segment of {} MiB {what}", ground.segment() >> 20);
        let row = Row::new(name, what, Unit::Nanos, Goal::Low(None));
        row.floor("a file of that size written in pieces of 1 MiB, and synced").rounds(beside)
    };
    Ok([
        row("stall-prepare", "made as a new file, and announced", 0),
        row("stall-prepare-again", "made of a file that is used again, and announced", 1),
    ])
}

fn unexpected() -> Failure {
    Failure::new(FAILED, "the log did not use the file again that it should have, or used one that it should not have")
}

/// How long the host takes to map memory, touch it and give it back, while the log prepares segments.
fn host(ground: &Ground) -> Result<Measured, Failure> {
    let (mut with, mut without) = (Latencies::new(), Latencies::new());
    let mut quantiles: [Vec<Round>; SHARES.len()] = Default::default();
    for _ in 0..ground.rounds {
        let (mut ours, mut alone) = (Latencies::new(), Latencies::new());
        let scratch = ground.scratch("host")?;
        let wal = ground.options(SyncMode::Sync).spare_segments(SPARES).open(scratch.path())?;
        wal.append(&PAYLOAD)?;
        let took = map_while(&mut ours, |_| wal.stats().prepared < SPARES as u64 - 1)?;
        drop((wal, scratch));
        ground.settle()?;
        map_while(&mut alone, |elapsed| elapsed < took)?;
        for ((share, ..), rounds) in SHARES.iter().zip(&mut quantiles) {
            rounds.push(Round::beside(ours.quantile(*share) as f64, alone.quantile(*share) as f64));
        }
        with.add(&ours);
        without.add(&alone);
    }
    let rows = SHARES.iter().zip(quantiles).map(|((_, name, what), rounds)| {
        let what =
            format!("host: map 1 MiB, touch it, give it back, while {} segments are prepared, {what}", SPARES - 1);
        let row = Row::new(*name, what, Unit::Nanos, Goal::Low(None));
        row.floor("the same while nothing is").rounds(rounds)
    });
    let latencies = vec![
        with.summary("stall-host", "host: map 1 MiB, touch, unmap, while segments are prepared"),
        without.summary("stall-host-floor", "host: the same, while nothing is"),
    ];
    Ok(Measured { rows: rows.collect(), latencies, notes: Vec::new() })
}

/// Maps memory, touches one page of it and gives it back, again and again while `goes_on`; returns how long that was.
fn map_while(latencies: &mut Latencies, goes_on: impl Fn(Duration) -> bool) -> Result<Duration, Failure> {
    let start = Instant::now();
    while goes_on(start.elapsed()) {
        let map = || MmapMut::map_anon(MAPPED).map(|mut memory| memory[0] = 1).map_err(failed);
        latencies.record(timed(map)?.as_nanos() as u64);
        if start.elapsed() > PATIENCE {
            return Err(late());
        }
    }
    Ok(start.elapsed())
}

/// How long `work` takes.
fn timed<E: Into<Failure>>(work: impl FnOnce() -> Result<(), E>) -> Result<Duration, Failure> {
    let start = Instant::now();
    work().map_err(Into::into)?;
    Ok(start.elapsed())
}

/// Waits for a thread of the log.
fn wait_until(holds: impl Fn() -> bool) -> Result<(), Failure> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > PATIENCE {
            return Err(late());
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn late() -> Failure {
    Failure::new(FAILED, "no segment was made ready for a minute; is there space, and does the disk answer?")
}
