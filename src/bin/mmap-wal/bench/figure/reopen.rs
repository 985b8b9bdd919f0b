//! Opening a log that was closed cleanly: it costs the manifest and a scan of the tail.

use std::time::Instant;

use mmap_wal::{Error, SyncMode, TailState};

use crate::bench::counters::written_bytes;
use crate::bench::figure::PAYLOAD;
use crate::bench::floor::memory::{frame_size, frames, verify_all};
use crate::bench::ground::{Ground, Measured, failed};
use crate::bench::row::{Goal, Round, Row, Unit};
use crate::failure::{FAILED, Failure};

/// Nanoseconds that an open may take whatever the tail is, and the share of the floor's speed at which the tail is read.
const ALWAYS: f64 = 1e6;
const SHARE: f64 = 0.8;
/// Bytes that an open may write.
const WRITES: f64 = 16.0 * 1024.0;
/// The tails of a normal run, in MiB.
const TAILS: [u64; 3] = [1, 32, 63];

/// The time of an open and the bytes that it writes, for tails of several sizes.
pub(crate) fn reopen(ground: &Ground) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    for tail in ground.pick(&TAILS[..1], &TAILS, &TAILS) {
        tail_of(ground, *tail, &mut measured)?;
    }
    Ok(measured)
}

fn tail_of(ground: &Ground, mib: u64, measured: &mut Measured) -> Result<(), Failure> {
    let (scratch, wal) = ground.log("reopen", SyncMode::Sync)?;
    let count = (mib << 20) / frame_size(PAYLOAD.len()) as u64;
    let records = vec![PAYLOAD; 1000];
    let mut left = count;
    while left > 0 {
        let now = left.min(records.len() as u64);
        wal.append_batch(&records[..now as usize])?;
        left -= now;
    }
    wal.close()?;
    drop(wal);
    ground.settle()?;
    let tail = frames(count as usize, PAYLOAD.len());
    let mut written = Vec::new();
    let mut open = || {
        let (before, start) = (written_bytes(), Instant::now());
        let wal = ground.options(SyncMode::Sync).open(scratch.path())?;
        let time = start.elapsed().as_nanos() as f64;
        written.extend(written_bytes().zip(before).map(|(after, before)| (after - before) as f64));
        let found = wal.recovery();
        if (found.last_seq, found.tail) != (count, TailState::Clean) {
            return Err(Failure::new(FAILED, format!("not what was closed: {found}; this is a defect, report it")));
        }
        wal.close().map_err(|e: Error| e.into()).map(|()| time)
    };
    let mut allowed = || {
        let start = Instant::now();
        let verified = verify_all(&tail);
        let time = start.elapsed().as_nanos() as f64;
        if verified == count { Ok(ALWAYS + time / SHARE) } else { Err(failed(std::io::ErrorKind::InvalidData.into())) }
    };
    let rounds = ground.interleave([&mut open, &mut allowed])?;
    let rounds = rounds.into_iter().map(|[ours, allowed]| Round::beside(ours, allowed)).collect();
    let what = format!("open after a clean close, {mib} MiB of tail");
    let row = Row::new(format!("reopen-{mib}m"), what.clone(), Unit::Nanos, Goal::Low(Some(1.0)));
    let allowed = format!("1 ms, and checksums over the tail in memory at {SHARE} of their speed");
    measured.rows.push(row.floor(allowed).rounds(rounds));
    if written.is_empty() {
        measured.notes.push(format!("reopen-{mib}m-written: this system does not count bytes written"));
    } else {
        let row = Row::new(format!("reopen-{mib}m-written"), what, Unit::Bytes, Goal::Low(Some(WRITES)));
        measured.rows.push(row.rounds(written.into_iter().map(Round::alone).collect()));
    }
    Ok(())
}
