//! What of a log is sound and what can be kept of the rest: the segments that are not sealed.

use crate::error::Result;
use crate::format::PAGE;
use crate::format::frame::{self, HEADER};
use crate::format::manifest::{Entry, MAX_NUMBER};
use crate::format::name::SegmentName;
use crate::format::segment::{self, FRAMES_AT, MIN_CAPACITY};
use crate::inspect::assess::{Assessment, Extent, Files, Part, Tail, look};
use crate::inspect::files::{Loaded, Piece};
use crate::inspect::runs::{Bounds, Found, Mark, Stretch};
use crate::scan::{self, Judged, Unsealed};
use crate::storage::Storage;

/// Looks at the segments that are not sealed, behind those that are.
pub(crate) fn assess_end(found: &mut Assessment, storage: &Storage, files: &Files<'_>) -> Result<()> {
    let entries = found.manifest.entries[found.manifest.active_index()..].to_vec();
    let mut pieces = Vec::new();
    for entry in entries {
        pieces.push(found.piece(storage, files, entry, entry.capacity as usize)?);
    }
    let judged = judged(found, &pieces);
    let looks = Looks::take(found, &pieces, &judged);
    match &judged {
        Ok(end) if found.unknown == 0 && looks.may_stay(&pieces, end) => keep(found, &pieces, end),
        Ok(_) => {
            let lost = (0, "a segment in which the log may have gone on is lost");
            replace(found, &pieces, &looks, lost, longest(files));
        }
        Err(damage) => replace(found, &pieces, &looks, *damage, longest(files)),
    }
    Ok(())
}

/// Bytes of the longest segment file. What a damaged segment says of its own length may be as long as a disk.
fn longest(files: &Files<'_>) -> u64 {
    let segments = files.values().filter(|file| file.is_file && SegmentName::decode(&file.name).is_some());
    let longest = segments.map(|file| file.len).max().unwrap_or(0);
    (longest - longest % PAGE as u64).max(MIN_CAPACITY as u64)
}

/// How the log ends, in the numbers of the pieces.
struct End {
    judged: Judged,
    /// The piece in which it ends.
    last: usize,
    closed: bool,
}

/// A piece, and what is wrong with it.
type Damage = (usize, &'static str);

/// Judges the pieces that are as the manifest says, as an open would.
fn judged(found: &Assessment, pieces: &[Piece]) -> std::result::Result<End, Damage> {
    if let Some(fault) = pieces[0].fault {
        return Err((0, fault));
    }
    let header = &found.manifest.header;
    let good: Vec<(usize, Unsealed<'_>)> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.fault.is_none())
        .filter_map(|(i, piece)| piece.loaded.as_ref().map(|loaded| (i, loaded.unsealed(piece.entry))))
        .collect();
    let unsealed: Vec<Unsealed<'_>> = good.iter().map(|(_, unsealed)| *unsealed).collect();
    let judged = scan::judge(&unsealed[0], header.clean_offset, &unsealed[1..])
        .map_err(|damage| (good[damage.segment].0, damage.reason))?;
    let closed = scan::closed_at(unsealed[0].frames, &unsealed[0].entry, header.clean_offset).is_some();
    if header.first_seq > judged.walk.next_seq {
        return Err((0, "the manifest says that the log begins behind its end"));
    } else if header.checkpoint_seq >= judged.walk.next_seq {
        return Err((0, "the manifest has a checkpoint behind the end"));
    }
    Ok(End { last: good[judged.judged].0, judged, closed })
}

/// What is seen of one unsealed segment.
struct Look {
    found: Found,
    /// Its base, if it is begun.
    base: Option<u64>,
    /// Whether records were written to it.
    shows: bool,
    /// Whether that cannot be known.
    unknown: bool,
    /// Whether nothing was written to it since it was prepared.
    untouched: bool,
    /// Whether everything behind its header is zero.
    zero: bool,
    /// Below this offset there may have been durable records.
    upto: usize,
}

/// The active segment and the spares.
struct Looks {
    active: Look,
    spares: Vec<Look>,
    /// Whether the active segment ends where it should.
    active_is_sound: bool,
}

impl Looks {
    fn take(found: &Assessment, pieces: &[Piece], judged: &std::result::Result<End, Damage>) -> Self {
        let clean = usize::try_from(found.manifest.header.clean_offset).unwrap_or(usize::MAX);
        // What a healthy torn end would cut is no record.
        let cut = judged.as_ref().ok().filter(|end| end.last == 0).map(|end| end.judged.walk.cut);
        let active = look_at_active(&pieces[0], clean, cut);
        let ahead = (pieces[0].entry.capacity as usize).saturating_sub(active.found.end.offset) / HEADER;
        let next_seq = active.found.end.seq;
        let spares = pieces[1..].iter().map(|piece| look_at_spare(piece, next_seq, ahead as u64)).collect();
        Self { active, spares, active_is_sound: cut.is_some() }
    }

    /// Whether the end can stay as it is: nothing that is wrong with a spare can have held records.
    fn may_stay(&self, pieces: &[Piece], end: &End) -> bool {
        let wrong = || self.spares.iter().zip(&pieces[1..]).filter(|(_, piece)| piece.fault.is_some());
        if end.closed || wrong().next().is_none() {
            return true;
        }
        let is_elsewhere = end.last != 0;
        wrong().all(|(look, _)| !look.shows && (is_elsewhere || !look.unknown))
    }

    /// The base of the segment in which the log went on, if that is known.
    fn next_base(&self) -> Option<u64> {
        self.spares.iter().filter_map(|look| look.base).filter(|base| *base >= self.active.found.end.seq).max()
    }

    /// The largest number that is known to have been given, and the largest that may have been.
    fn last_seqs(&self, found: &Assessment, pieces: &[Piece]) -> (u64, u64) {
        let header = &found.manifest.header;
        let next_base = self.next_base();
        let bases = self.spares.iter().filter_map(|look| look.base).map(|base| base - 1);
        let ends = self.spares.iter().filter(|look| look.shows && look.found.end.offset > FRAMES_AT);
        let known = [header.first_seq - 1, header.checkpoint_seq, self.active.found.end.seq - 1]
            .into_iter()
            .chain(bases)
            .chain(ends.map(|look| look.found.end.seq - 1))
            .fold(0, u64::max);
        let in_active = next_base.map_or(self.active.found.reach(self.active.upto), |base| base - 1);
        // If the log went on, the active segment may have been full.
        let capacity = pieces[0].entry.capacity as usize;
        let full = if self.active_is_sound { self.active.found.end.seq - 1 } else { self.active.found.reach(capacity) };
        let in_spare = |(look, piece): (&Look, &Piece)| match look {
            _ if look.base.is_some() || !look.found.stretches.is_empty() => look.found.reach(look.upto),
            Look { shows: true, upto, .. } => full.saturating_add(headers_below(*upto)),
            Look { unknown: true, .. } if next_base.is_none() => {
                full.saturating_add(headers_below(piece.entry.capacity as usize))
            }
            _ => 0,
        };
        let possible = self.spares.iter().zip(&pieces[1..]).map(in_spare).fold(in_active, u64::max);
        let behind = found.unknown / HEADER as u64;
        (known, possible.saturating_add(behind).min(MAX_NUMBER / 2).max(known))
    }
}

fn headers_below(offset: usize) -> u64 {
    (offset.saturating_sub(FRAMES_AT) / HEADER) as u64
}

fn look_at_active(piece: &Piece, clean: usize, cut: Option<usize>) -> Look {
    let Entry { base_seq, capacity, .. } = piece.entry;
    let to = cut.unwrap_or(capacity as usize);
    let found = look(piece, &Bounds { base_seq, ahead: 0, last_seq: u64::MAX, to }, &[clean]);
    let upto = match (piece.is_complete(), cut) {
        (true, None) => witnessed(piece, &found).max(clean),
        (true, Some(cut)) => cut,
        (false, _) if clean >= FRAMES_AT => clean,
        (false, _) => capacity as usize,
    };
    let upto = upto.min(capacity as usize);
    Look { found, base: Some(base_seq), shows: true, unknown: false, untouched: false, zero: false, upto }
}

/// `ahead`: how many records the active segment may have behind `next_seq`.
fn look_at_spare(piece: &Piece, next_seq: u64, ahead: u64) -> Look {
    let Entry { salt, capacity, virgin, .. } = piece.entry;
    let capacity = capacity as usize;
    let Some(Loaded { head, frames, readable }) = &piece.loaded else {
        let found = Found::nothing(next_seq);
        return Look { found, base: None, shows: false, unknown: true, untouched: false, zero: false, upto: FRAMES_AT };
    };
    let first = || frame::decode(frames, FRAMES_AT, salt).map(|header| header.seq).filter(|seq| *seq >= 1);
    let base = segment::begun(head, salt).or_else(first).filter(|base| *base < MAX_NUMBER);
    let bounds = match base {
        Some(base_seq) => Bounds { base_seq, ahead: 0, last_seq: u64::MAX, to: capacity },
        None => Bounds { base_seq: next_seq, ahead, last_seq: u64::MAX, to: capacity },
    };
    let found = look(piece, &bounds, &[]);
    let witness = segment::durable(head, salt, capacity);
    let shows = base.is_some() || !found.stretches.is_empty() || witness.is_some();
    let (no_words, no_bytes) = (scan::is_zero(&head[PAGE..]), scan::is_zero(frames));
    let untouched = piece.fault.is_none() && no_words && !shows && (no_bytes || !virgin);
    Look {
        upto: if piece.is_complete() { witnessed(piece, &found) } else { capacity },
        found,
        base,
        shows,
        // Its first sync would have covered `begun`.
        unknown: !shows && (!readable || frames.is_empty()),
        untouched,
        zero: untouched && no_bytes,
    }
}

/// Below this offset there may have been durable records in `piece`, which is complete.
fn witnessed(piece: &Piece, found: &Found) -> usize {
    let Some(loaded) = &piece.loaded else { return FRAMES_AT };
    let Entry { salt, capacity, virgin, .. } = piece.entry;
    let word = segment::durable(&loaded.head, salt, capacity as usize).unwrap_or(FRAMES_AT);
    // The last sync has left no witness but the bytes themselves.
    let bytes = loaded.frames.iter().rposition(|byte| *byte != 0).filter(|_| virgin);
    word.max(found.claim).max(bytes.map_or(FRAMES_AT, |last| FRAMES_AT + last + 1))
}

/// The end stays; spares that are not as the manifest says go.
fn keep(found: &mut Assessment, pieces: &[Piece], end: &End) {
    let mut entries = Vec::new();
    for piece in pieces {
        match piece.fault {
            None => {
                found.keep(piece);
                entries.push(piece.entry);
            }
            Some(fault) => found.set_aside(piece, fault),
        }
    }
    found.tail = Tail::Kept(entries);
    let Judged { completed, base_seq, walk, .. } = &end.judged;
    let mut copied = |piece: &Piece, base_seq: u64, to: Mark| {
        let from = Mark { offset: FRAMES_AT, seq: base_seq };
        let stretch = Stretch { from, whole_from: from, whole_to: to, to };
        let entry = Entry { base_seq, ..piece.entry };
        found.end_parts.push(Part::Copied { entry, created: piece.created().unwrap_or(0), stretch });
    };
    if let Some((offset, last_seq)) = completed {
        copied(&pieces[0], pieces[0].entry.base_seq, Mark { offset: *offset, seq: last_seq + 1 });
    }
    copied(&pieces[end.last], *base_seq, Mark { offset: walk.cut, seq: walk.next_seq });
}

/// The records of the unsealed segments are kept, and the log goes on in a fresh one, of `longest` bytes at most.
fn replace(found: &mut Assessment, pieces: &[Piece], looks: &Looks, damage: Damage, longest: u64) {
    let (known, possible) = looks.last_seqs(found, pieces);
    let is_bound = possible > known;
    let next_base = looks.next_base();
    let because = |i: usize, piece: &Piece| match piece.fault {
        Some(fault) => fault,
        None if i == damage.0 => damage.1,
        None => "it is not sealed, and the end of the log is damaged",
    };
    found.set_aside(&pieces[0], because(0, &pieces[0]));
    found.copy(&pieces[0], &looks.active.found.stretches);
    let last_seq = next_base.map_or(possible, |base| base - 1);
    let Entry { ordinal, base_seq: first_seq, .. } = pieces[0].entry;
    found.extents.push(Extent { ordinal, first_seq, last_seq, is_bound: is_bound && next_base.is_none() });
    let (mut spares, mut reused) = (Vec::new(), None);
    // Old names that are still there after a crash must be those of segments with lower ordinals than the active one.
    let used = pieces[1..].iter().zip(&looks.spares).filter(|(_, look)| !look.untouched).map(|(piece, _)| piece);
    let last_used = used.map(|piece| piece.entry.ordinal).fold(ordinal, u64::max);
    for (i, (piece, look)) in pieces[1..].iter().zip(&looks.spares).enumerate() {
        if look.untouched {
            found.keep(piece);
            match reused {
                None if look.zero && piece.entry.ordinal > last_used => reused = Some(piece.entry),
                _ => spares.push(piece.entry),
            }
            continue;
        }
        found.set_aside(piece, because(i + 1, piece));
        found.copy(piece, &look.found.stretches);
        if let Some(first_seq) = look.base.filter(|base| next_base == Some(*base)) {
            found.extents.push(Extent { ordinal: piece.entry.ordinal, first_seq, last_seq: possible, is_bound });
        }
    }
    let capacity = pieces.get(1).unwrap_or(&pieces[0]).entry.capacity.min(longest);
    found.tail = Tail::Fresh { base_seq: possible + 1, capacity, reused, spares };
}
