//! Records taken away: from the front, from the back, or all of them. Each is one manifest update.

use crate::append::Writer;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::manifest::{Entry, MAX_NUMBER};
use crate::format::segment::FRAMES_AT;
use crate::manifest::Manifest;
use crate::planted::{Bug, planted};
use crate::prepare::Books;
use crate::segment::{End, Segment};
use crate::sync::{Arc, MutexGuard, lock};

/// Removes the records up to `up_to`, at most all.
pub(crate) fn front(engine: &Engine, up_to: u64) -> Result<()> {
    let epoch = engine.commit.epoch();
    let up_to = up_to.min(engine.commit.live().active().last_seq());
    // A first seq beyond what a power failure leaves would be refused by the next open.
    engine.sync_to(up_to, epoch)?;
    let mut books = engine.keeper.books();
    // A cut may have come before, and the number may be another record's by now; no other can come while the books are held.
    engine.commit.check_epoch(up_to, epoch)?;
    if up_to < books.current().header.first_seq {
        return Ok(());
    }
    engine.commit.check()?;
    let gone = books.current().sealed().iter().take_while(|entry| entry.last_seq <= up_to).count();
    // Before a deliberate gap the next record is further on.
    let first_seq = books.current().entries[gone].base_seq.max(up_to + 1);
    books.update(&engine.commit, |next| {
        next.header.first_seq = first_seq;
        next.entries.drain(..gone);
    })?;
    let mut dropped = Vec::new();
    engine.commit.change(|live| {
        live.first_seq = first_seq;
        dropped.extend(live.segments.iter().take(gone).cloned());
        live.segments = Arc::new(live.segments[gone..].to_vec());
    });
    engine.keeper.dispose(&mut books, dropped)
}

/// Cuts off the records above `after`.
pub(crate) fn back(engine: &Engine, after: u64) -> Result<()> {
    let (mut books, mut writer) = at_rest(engine)?;
    let (first_seq, last_seq) = (books.current().header.first_seq, writer.last_seq());
    if after > last_seq {
        return Err(Error::OutOfRange { seq: after, last_seq });
    } else if after + 1 < first_seq {
        return Err(Error::Truncated { first_seq });
    } else if after == last_seq {
        return Ok(());
    }
    // With nothing left to show, no segment is left to end inside a batch that was truncated in part.
    let ends = if after + 1 == first_seq { None } else { Some(end_of_batch(engine, after)?) };
    start_again(engine, &mut books, &mut writer, ends, after + 1, after)
}

/// Drops every record and goes on at `next_seq`.
pub(crate) fn reset(engine: &Engine, next_seq: u64) -> Result<()> {
    let (mut books, mut writer) = at_rest(engine)?;
    let last_seq = writer.last_seq();
    if next_seq <= last_seq || next_seq > MAX_NUMBER / 2 {
        return Err(Error::OutOfRange { seq: next_seq, last_seq });
    }
    start_again(engine, &mut books, &mut writer, None, next_seq, 0)
}

/// Holds everything still: all that was appended is durable, what was rotated is sealed, and a spare is there.
fn at_rest(engine: &Engine) -> Result<(MutexGuard<'_, Books>, MutexGuard<'_, Writer>)> {
    loop {
        let ready = engine.keeper.make_ready(&engine.writer, &engine.commit, 0);
        let books = engine.keeper.books();
        let writer = lock(&engine.writer);
        engine.commit.check()?;
        // Another append may have taken the spare.
        if writer.can_rotate(0) {
            if planted(Bug::CutBesideLeader) {
                let synced = writer.segment().sync(FRAMES_AT, writer.segment().end().offset);
                synced.map_err(|e| engine.commit.poison(e))?;
            } else {
                engine.commit.sync_to(writer.last_seq(), engine.commit.epoch())?;
            }
            return Ok((books, writer));
        }
        ready?;
    }
}

/// How many segments hold what is up to `after`, and where the last of them ends; `after` must be the last of its batch.
fn end_of_batch(engine: &Engine, after: u64) -> Result<(usize, End)> {
    let snapshot = engine.snapshot();
    let live = engine.commit.live();
    let kept = live.segments.partition_point(|segment| segment.base_seq() <= after).max(1);
    let segment = &live.segments[kept - 1];
    // In front of a gap, the segment before it ends earlier than `after`.
    let end = if after > segment.last_seq() { Some((segment.end().offset, true)) } else { snapshot.end_of(after)? };
    match end {
        Some((offset, true)) => {
            Ok((kept, End { offset, count: after.min(segment.last_seq()) + 1 - segment.base_seq() }))
        }
        _ => Err(Error::InsideBatch { seq: after }),
    }
}

/// The one manifest update: the first `kept` segments stay, the last of them up to `end`, and a spare is the log's active
/// segment from `base_seq` on. Only then is anything stored in it. Whoever waits for a record above `kept_seq` is told.
fn start_again(
    engine: &Engine,
    books: &mut Books,
    writer: &mut Writer,
    ends: Option<(usize, End)>,
    base_seq: u64,
    kept_seq: u64,
) -> Result<()> {
    let (kept, is_reset) = (ends.map_or(0, |(kept, _)| kept), ends.is_none());
    let Some(spare) = writer.next_spare() else { return Err(Error::Closed) };
    writer.prefault_restart().map_err(|e| engine.failed(e))?;
    let early = if planted(Bug::RestartBeforeCut) { writer.restart(base_seq) } else { None };
    books.update(&engine.commit, |next| rewrite(next, ends, spare, base_seq))?;
    let live = engine.commit.live();
    let mut segments: Vec<Arc<Segment>> = live.segments[..kept].to_vec();
    if let (Some(last), Some((_, end))) = (segments.last_mut(), ends) {
        *last = last.cut_at(end, books.current().header.log_id);
    }
    let Some(active) = early.or_else(|| writer.restart(base_seq)) else { return Err(Error::Closed) };
    segments.push(active);
    segments.iter().for_each(|segment| segment.index().draw_on(&engine.index_budget));
    let first_seq = if is_reset { base_seq } else { live.first_seq };
    let dropped = live.segments[kept..].to_vec();
    for segment in &live.segments[kept.saturating_sub(1)..] {
        // A hint: readers that miss it notice that the manifest has changed.
        let _ = segment.mark_cut();
    }
    drop(live);
    engine.commit.restarted(segments, first_seq, kept_seq);
    engine.keeper.dispose(books, dropped)
}

fn rewrite(next: &mut Manifest, ends: Option<(usize, End)>, spare: Entry, base_seq: u64) {
    let active_at = next.active_index();
    let mut spares = next.entries.split_off(active_at + 1);
    spares.retain(|entry| entry.ordinal != spare.ordinal);
    next.entries.truncate(ends.map_or(0, |(kept, _)| kept));
    if let (Some(last), Some((_, end))) = (next.entries.last_mut(), ends) {
        (last.end_offset, last.last_seq) = (end.offset as u64, last.base_seq + end.count - 1);
    }
    next.entries.push(Entry { base_seq, ..spare });
    next.entries.append(&mut spares);
    if ends.is_none() {
        next.header.first_seq = base_seq;
    }
    next.header.checkpoint_seq = next.header.checkpoint_seq.min(base_seq - 1);
}
