//! Where the log begins and ends, and what its user holds: records taken away from the front, from the back, or all of them,
//! and the checkpoint. Each is one manifest update.

use crate::append::Writer;
use crate::engine::Engine;
use crate::error::{Error, MAX_RESET, Result};
use crate::format::manifest::{Entry, MAX_NUMBER};
use crate::format::segment::FRAMES_AT;
use crate::manifest::Manifest;
use crate::planted::{Bug, planted};
use crate::prepare::{Books, Need};
use crate::segment::{End, Segment};
use crate::sync::{Arc, MutexGuard, lock};

/// Records that the user's state holds everything up to `up_to`, a number of `epoch` that is durable.
pub(crate) fn checkpoint(engine: &Engine, up_to: u64, epoch: usize) -> Result<()> {
    let mut books = engine.keeper.books();
    // A cut may have come before, and the number may be another record's by now.
    engine.commit.check_epoch(up_to, epoch)?;
    if up_to <= books.current().header.checkpoint_seq {
        return Ok(());
    }
    engine.commit.check()?;
    books.update(&engine.commit, |next| next.header.checkpoint_seq = up_to)?;
    engine.commit.change(|live| live.checkpoint_seq = up_to);
    Ok(())
}

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
    let (mut books, mut writer) = at_rest(engine, false)?;
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
    let above = last_ordinal(engine);
    start_again(engine, &mut books, &mut writer, ends, above, (after + 1, after))
}

const _: () = assert!(MAX_RESET == MAX_NUMBER / 2);

/// Drops every record and goes on at `next_seq`.
pub(crate) fn reset(engine: &Engine, next_seq: u64) -> Result<()> {
    let (mut books, mut writer) = at_rest(engine, true)?;
    let last_seq = writer.last_seq();
    if next_seq <= last_seq || next_seq > MAX_RESET {
        return Err(Error::OutOfRange { seq: next_seq, last_seq });
    }
    let above = Some(last_ordinal(engine)).filter(|above| writer.can_restart(*above)).unwrap_or(0);
    start_again(engine, &mut books, &mut writer, None, above, (next_seq, 0))
}

/// Holds everything still: all that was appended is durable, what was rotated is sealed, and a spare is there with an ordinal
/// above those of all segments that hold records. If there is no space for one, a reset does with another: what it drops is
/// known to be dropped by its numbers too.
fn at_rest(engine: &Engine, is_reset: bool) -> Result<(MutexGuard<'_, Books>, MutexGuard<'_, Writer>)> {
    loop {
        let need = Need { len: 0, above: last_ordinal(engine) };
        let ready = engine.keeper.make_ready(&engine.writer, &engine.commit, need);
        let books = engine.keeper.books();
        let writer = lock(&engine.writer);
        engine.commit.check()?;
        // Another append may have taken the spare.
        if writer.can_restart(last_ordinal(engine)) || (is_reset && ready.is_err() && writer.can_restart(0)) {
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

/// The largest ordinal of a segment that holds records.
fn last_ordinal(engine: &Engine) -> u64 {
    engine.commit.live().segments.iter().map(|segment| segment.ordinal()).fold(0, u64::max)
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

/// The one manifest update: the log goes on in a spare with an ordinal larger than `above`. A cut gives the largest one of
/// the segments, so that the files of those that it drops are known to be dropped, should they outlive a crash. The first `kept` segments stay, the last of them up to `end`, and a spare is the log's active
/// segment from `base_seq` on. Only then is anything stored in it. Whoever waits for a record above `kept_seq` is told.
fn start_again(
    engine: &Engine,
    books: &mut Books,
    writer: &mut Writer,
    ends: Option<(usize, End)>,
    above: u64,
    (base_seq, kept_seq): (u64, u64),
) -> Result<()> {
    let (kept, is_reset) = (ends.map_or(0, |(kept, _)| kept), ends.is_none());
    let Some(spare) = writer.spare_above(above) else { return Err(Error::Closed) };
    writer.prefault_restart(above).map_err(|e| engine.failed(e))?;
    let early = if planted(Bug::RestartBeforeCut) { writer.restart(above, base_seq) } else { None };
    books.update(&engine.commit, |next| rewrite(next, ends, spare, base_seq))?;
    let live = engine.commit.live();
    let mut segments: Vec<Arc<Segment>> = live.segments[..kept].to_vec();
    if let (Some(last), Some((_, end))) = (segments.last_mut(), ends) {
        *last = last.cut_at(end);
    }
    let Some((active, skipped)) = early.or_else(|| writer.restart(above, base_seq)) else { return Err(Error::Closed) };
    // Nothing is appended behind the cut any more, so its map may be given up.
    segments.last().filter(|_| ends.is_some()).inspect(|last| last.settle());
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
    // The next open removes what is left.
    let removed = skipped.into_iter().try_for_each(|ordinal| engine.keeper.remove(ordinal));
    engine.keeper.dispose(books, dropped).and(removed)
}

fn rewrite(next: &mut Manifest, ends: Option<(usize, End)>, spare: Entry, base_seq: u64) {
    let active_at = next.active_index();
    let mut spares = next.entries.split_off(active_at + 1);
    spares.retain(|entry| entry.ordinal > spare.ordinal);
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
