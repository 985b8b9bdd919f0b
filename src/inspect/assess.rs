//! What of a log is sound and what can be kept of the rest: the segments that the manifest calls sealed.

use std::collections::HashMap;

use crate::error::{Error, Foreign, Result};
use crate::format::manifest::{Entry, MAX_NUMBER};
use crate::format::segment::{self, FRAMES_AT};
use crate::inspect::files::Piece;
use crate::inspect::runs::{Bounds, Found, Mark, Stretch, find};
use crate::manifest::Manifest;
use crate::segment::file_name;
use crate::storage::{Listed, Storage};

/// Some records of the log, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A sealed segment that is sound.
    Kept(Entry),
    /// Frames of a segment that is not, or that is not sealed.
    Copied {
        entry: Entry,
        /// When the segment was prepared, in Unix nanoseconds; 0 if it does not say.
        created: u64,
        stretch: Stretch,
    },
}

/// How the log goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// As it is: the active segment, and spares that are as the manifest says.
    Kept(Vec<Entry>),
    /// In a segment with nothing in it.
    Fresh {
        base_seq: u64,
        capacity: u64,
        /// A spare that can be that segment.
        reused: Option<Entry>,
        /// The other spares.
        spares: Vec<Entry>,
    },
}

/// Numbers that a damaged segment holds or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) ordinal: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// Whether `last_seq` is only the largest number that there can have been.
    pub(crate) is_bound: bool,
}

/// What was found.
pub(crate) struct Assessment {
    pub(crate) manifest: Manifest,
    pub(crate) parts: Vec<Part>,
    /// The records of an end that stays as it is, for those who copy the log.
    pub(crate) end_parts: Vec<Part>,
    pub(crate) tail: Tail,
    pub(crate) extents: Vec<Extent>,
    /// Files that are damaged, and why.
    pub(crate) aside: Vec<(u64, &'static str)>,
    /// Segments whose files are not there.
    pub(crate) gone: Vec<u64>,
    /// Segments of which a copy of the header is damaged and nothing else.
    pub(crate) headers: Vec<u64>,
    /// Records that verify and have numbers that an earlier segment has.
    pub(crate) out_of_order: u64,
    /// Bytes behind the headers of files that do not say what they are and in which the log may have gone on.
    pub(crate) unknown: u64,
    own: u64,
    foreign: Option<u64>,
}

/// The files of a log, by their names.
pub(crate) type Files<'a> = HashMap<&'a str, &'a Listed>;

impl Assessment {
    /// Looks at the sealed segments of `manifest`.
    pub(crate) fn of_sealed(storage: &Storage, manifest: Manifest, files: &Files<'_>) -> Result<Self> {
        let mut found = Self {
            tail: Tail::Kept(manifest.entries[manifest.active_index()..].to_vec()),
            manifest,
            parts: Vec::new(),
            end_parts: Vec::new(),
            extents: Vec::new(),
            aside: Vec::new(),
            gone: Vec::new(),
            headers: Vec::new(),
            out_of_order: 0,
            unknown: 0,
            own: 0,
            foreign: None,
        };
        for entry in found.manifest.sealed().to_vec() {
            let piece = found.piece(storage, files, entry, entry.end_offset as usize)?;
            found.add_sealed(&piece);
        }
        Ok(found)
    }

    /// Reads the file of `entry` up to `to`.
    pub(crate) fn piece(&mut self, storage: &Storage, files: &Files<'_>, entry: Entry, to: usize) -> Result<Piece> {
        let log_id = self.manifest.header.log_id;
        let listed = files.get(file_name(entry.ordinal).as_str()).copied();
        let piece = Piece::read(storage, entry, log_id, listed, to)?;
        match piece.loaded.as_ref().and_then(|loaded| loaded.identity()) {
            Some(identity) if identity.log_id == log_id => self.own += 1,
            Some(_) => self.foreign = Some(entry.ordinal),
            None => {}
        }
        Ok(piece)
    }

    fn add_sealed(&mut self, piece: &Piece) {
        let entry = piece.entry;
        let to = entry.end_offset as usize;
        let bounds = Bounds { base_seq: entry.base_seq, ahead: 0, last_seq: entry.last_seq, to };
        let found = look(piece, &bounds, &[]);
        let reason = match piece.fault {
            None if is_sound(&entry, &found) => {
                self.keep(piece);
                self.parts.push(Part::Kept(entry));
                return;
            }
            None => "its records do not verify up to its end",
            Some(fault) => fault,
        };
        self.set_aside(piece, reason);
        self.copy(piece, &found.stretches);
        let Entry { ordinal, base_seq: first_seq, last_seq, .. } = entry;
        self.extents.push(Extent { ordinal, first_seq, last_seq, is_bound: false });
    }

    /// The segment stays, with whole headers.
    pub(crate) fn keep(&mut self, piece: &Piece) {
        if piece.has_damaged_header() {
            self.headers.push(piece.entry.ordinal);
        }
    }

    /// The segment does not stay.
    pub(crate) fn set_aside(&mut self, piece: &Piece, reason: &'static str) {
        match piece.loaded {
            Some(_) => self.aside.push((piece.entry.ordinal, reason)),
            None => self.gone.push(piece.entry.ordinal),
        }
    }

    /// Adds the records of `stretches` behind those that are there, unless their numbers are.
    pub(crate) fn copy(&mut self, piece: &Piece, stretches: &[Stretch]) {
        let created = piece.created().unwrap_or(0);
        for stretch in stretches {
            if stretch.from.seq < self.next_seq() {
                self.out_of_order += stretch.to.seq - stretch.from.seq;
                continue;
            }
            self.parts.push(Part::Copied { entry: piece.entry, created, stretch: *stretch });
        }
    }

    /// The number behind the last part.
    fn next_seq(&self) -> u64 {
        self.parts.last().map_or(0, |part| match part {
            Part::Kept(entry) => entry.last_seq + 1,
            Part::Copied { stretch, .. } => stretch.to.seq,
        })
    }

    /// Refuses if not one segment is of the manifest's log: then the manifest is what is in the wrong place.
    pub(crate) fn refuse_foreign(&self, storage: &Storage) -> Result<()> {
        match self.foreign {
            Some(ordinal) if self.own == 0 => {
                let path = storage.path(file_name(ordinal).as_str());
                let reason = "its header carries the id of another log, and no segment carries that of the manifest";
                Err(Error::Foreign(Box::new(Foreign { path, reason })))
            }
            _ => Ok(()),
        }
    }
}

/// What is found in the file of `piece`.
pub(crate) fn look(piece: &Piece, bounds: &Bounds, boundaries: &[usize]) -> Found {
    let Some(loaded) = &piece.loaded else { return Found::nothing(bounds.base_seq) };
    let Entry { salt, capacity, .. } = piece.entry;
    let durable = segment::durable(&loaded.head, salt, capacity as usize);
    let boundaries: Vec<usize> = durable.into_iter().chain(boundaries.iter().copied()).collect();
    let last_seq = bounds.last_seq.min(MAX_NUMBER - 1);
    find(&loaded.frames, salt, &Bounds { last_seq, ..*bounds }, &boundaries)
}

/// Whether the frames of a sealed segment are exactly those that the manifest says.
fn is_sound(entry: &Entry, found: &Found) -> bool {
    let start = Mark { offset: FRAMES_AT, seq: entry.base_seq };
    let end = Mark { offset: entry.end_offset as usize, seq: entry.last_seq + 1 };
    match found.stretches[..] {
        [] => start == end,
        [only] => only == Stretch { from: start, whole_from: start, whole_to: end, to: end },
        _ => false,
    }
}
