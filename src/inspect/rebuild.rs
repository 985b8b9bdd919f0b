//! What a lost manifest would say, as far as the segment files know it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Foreign, Operation, Result};
use crate::format::frame;
use crate::format::manifest::{Entry, Header, MAX_NUMBER, Role};
use crate::format::name::{MANIFEST, SegmentName};
use crate::format::segment::{self, CLOSED, CUT, FRAMES_AT, IDENTITY_AT, Identity, MAX_CAPACITY, PUBLISHED_AT};
use crate::format::{PAGE, get_u64};
use crate::inspect::files::Loaded;
use crate::inspect::runs::{Bounds, Found, Mark, find};
use crate::manifest::Manifest;
use crate::scan;
use crate::segment::file_name;
use crate::storage::{Listed, Storage};

/// A manifest made of what the segment files say.
pub(crate) struct Rebuilt {
    pub(crate) manifest: Manifest,
    /// Files that say nothing or something else, and why they go.
    pub(crate) aside: Vec<(String, &'static str)>,
    /// How many bytes of frames there may be in files behind the active segment that do not say what they are: the log
    /// may have gone on in them.
    pub(crate) unknown: u64,
}

/// A segment file that says what it is.
struct File {
    identity: Identity,
    virgin: bool,
    /// Its first number, if it was begun.
    base_seq: Option<u64>,
    /// Behind its last frame that verifies.
    end_offset: usize,
    /// The number behind its last record.
    end_seq: u64,
    /// The least number that the segment behind it can begin with, if its words say that there is one.
    closed: Option<u64>,
    /// Whether its words say that something in it was cut off.
    is_cut: bool,
    /// Whether all that was ever visible in it verifies.
    is_whole: bool,
    /// Whether its words say nothing of its end.
    is_mute: bool,
}

impl File {
    /// One in which there is nothing.
    fn new(identity: Identity) -> Self {
        Self {
            identity,
            virgin: true,
            base_seq: None,
            end_offset: 0,
            end_seq: 0,
            closed: None,
            is_cut: false,
            is_whole: false,
            is_mute: false,
        }
    }

    /// Where it stands among the others.
    fn place(&self) -> (u64, u64) {
        let Identity { ordinal, replaces, .. } = self.identity;
        match self.base_seq {
            _ if replaces == 0 => (ordinal, 0),
            // A repair has put it before all others, so that a gap at the front is seen.
            Some(base) if base == self.end_seq && self.virgin => (0, ordinal),
            base => (replaces, base.unwrap_or(u64::MAX)),
        }
    }

    /// Takes note of where it ends and of what its words say about that.
    fn look_at_end(&mut self, loaded: &Loaded, base_seq: u64) {
        let found = found(self, loaded, base_seq, u64::MAX);
        let end = found.end;
        let word = get_u64(&loaded.head, PUBLISHED_AT);
        let published = (word & !(CLOSED | CUT)).min(self.identity.capacity) as usize;
        let position = usize::try_from(word & !(CLOSED | CUT)).unwrap_or(usize::MAX);
        self.is_mute = !segment::is_position(position, self.identity.capacity as usize);
        // A word that is damaged would give away whole segments.
        (self.end_offset, self.end_seq, self.is_cut) = (end.offset, end.seq, word & CUT != 0 && !self.is_mute);
        self.is_whole = end.offset == published;
        // Records that do not verify may stand between.
        self.closed = (word & CLOSED != 0).then(|| found.reach(published) + 1);
    }

    /// Whether the log may have gone on in the segment that begins with the number behind its last record.
    fn may_end_here(&self) -> bool {
        self.closed == Some(self.end_seq) || self.is_mute
    }

    fn entry(&self) -> Entry {
        let Identity { salt, ordinal, capacity, .. } = self.identity;
        Entry { ordinal, salt, virgin: self.virgin, capacity, base_seq: 0, end_offset: 0, last_seq: 0 }
    }
}

/// Makes a manifest of the segment files among `listed`, and of `older`, one that some of them are newer than.
///
/// # Errors
/// `Foreign` if they are of two logs, `Version` if one is of a later format, `Io` if they do not say enough.
pub(crate) fn rebuild(storage: &Storage, listed: &[Listed], older: Option<&Manifest>) -> Result<Rebuilt> {
    let (mut files, mut aside, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let log_id = one_log(storage, listed)?;
    let mut next_seq = 1;
    for (name, ordinal) in by_ordinal(listed) {
        let head = Loaded::read(storage, name, FRAMES_AT)?.identity();
        let capacity = head.map_or(MAX_CAPACITY as u64, |identity| identity.capacity.min(MAX_CAPACITY as u64));
        let loaded = Loaded::read(storage, name, capacity as usize)?;
        let identity = loaded.identity().or_else(|| identity_by_words(&loaded, log_id, ordinal));
        match identity {
            None => {
                aside.push((name.to_owned(), "it does not say what it is"));
                // The first sync of a segment would have covered its words.
                let is_empty = scan::is_zero(&loaded.head[PAGE..]) && scan::is_zero(&loaded.frames);
                unknown.push((ordinal, if is_empty { 0 } else { loaded.frames.len() as u64 }));
            }
            Some(identity) if identity.ordinal != ordinal => {
                aside.push((name.to_owned(), "its header is that of another segment"));
                unknown.push((ordinal, loaded.frames.len() as u64));
            }
            Some(identity) if Entry { base_seq: 0, ..entry_of(&identity) }.role() != Some(Role::Spare) => {
                aside.push((name.to_owned(), "its header makes no sense"));
            }
            Some(identity) => {
                let mut file = file(identity, &loaded, next_seq);
                if let Some(base) = file.base_seq {
                    file.look_at_end(&loaded, base);
                    next_seq = file.end_seq;
                }
                files.push(file);
            }
        }
    }
    drop_unfinished(&mut files);
    put_in_order(&mut files);
    let mut entries = entries(storage, &files, &mut aside)?;
    let last = entries.iter().find(|entry| entry.role() == Some(Role::Active)).map_or(0, |entry| entry.ordinal);
    let unknown = unknown.iter().filter(|(ordinal, _)| *ordinal > last).map(|(_, len)| len).sum();
    if unknown == 0 {
        add_lost_end(&mut entries, &files, listed);
    }
    let first_seq = entries[0].base_seq;
    let header = Header { generation: 1, log_id, user_tag: [0; 16], first_seq, checkpoint_seq: 0, clean_offset: 0 };
    let mut manifest = Manifest { header, meta: Vec::new(), entries };
    if let Some(older) = older {
        keep_state(&mut manifest, older);
    }
    Ok(Rebuilt { manifest, aside, unknown })
}

/// Keeps what `older` says beside the segments, as far as it still holds.
fn keep_state(manifest: &mut Manifest, older: &Manifest) {
    let known = &older.entries[..=older.active_index()];
    let is_later = |entry: &&Entry| entry.base_seq != 0 && !known.iter().any(|known| known.salt == entry.salt);
    // A cut takes the checkpoint back, and the log goes on in another segment.
    let cut = manifest.entries.iter().filter(is_later).map(|entry| entry.base_seq - 1).min().unwrap_or(u64::MAX);
    let first_seq = manifest.header.first_seq.max(older.header.first_seq);
    let generation = older.header.generation.saturating_add(1).min(MAX_NUMBER);
    manifest.header = Header {
        generation,
        user_tag: older.header.user_tag,
        first_seq,
        checkpoint_seq: older.header.checkpoint_seq.min(cut),
        ..manifest.header
    };
    manifest.meta.clone_from(&older.meta);
}

fn by_ordinal(listed: &[Listed]) -> Vec<(&str, u64)> {
    let named = |file: &'_ Listed| SegmentName::decode(&file.name).filter(|_| file.is_file);
    let mut files: Vec<(&str, u64)> =
        listed.iter().filter_map(|file| named(file).map(|ordinal| (file.name.as_str(), ordinal))).collect();
    files.sort_unstable_by_key(|(_, ordinal)| *ordinal);
    files
}

fn entry_of(identity: &Identity) -> Entry {
    File::new(*identity).entry()
}

/// What a file is whose header is lost, if its words tell the salt and frames verify with it.
fn identity_by_words(loaded: &Loaded, log_id: [u8; 16], ordinal: u64) -> Option<Identity> {
    let salt = segment::salt_of_words(&loaded.head).filter(|salt| *salt != 0)?;
    let capacity = (FRAMES_AT + loaded.frames.len()) as u64;
    let most = (loaded.frames.len() / frame::HEADER) as u64;
    let first_seq = segment::begun(&loaded.head, salt).unwrap_or(1).min(MAX_NUMBER - 1);
    let ahead = MAX_NUMBER - first_seq - most.min(MAX_NUMBER - first_seq);
    let bounds = Bounds { base_seq: first_seq, ahead, last_seq: MAX_NUMBER - 1, to: usize::MAX };
    let verifies = !find(&loaded.frames, salt, &bounds, &[]).stretches.is_empty();
    verifies.then_some(Identity { salt, log_id, ordinal, capacity, created: 0, replaces: 0 })
}

/// The id that all segments carry which carry one, of this version of the format.
fn one_log(storage: &Storage, listed: &[Listed]) -> Result<[u8; 16]> {
    let mut id = None;
    for (name, _) in by_ordinal(listed) {
        let loaded = Loaded::read(storage, name, FRAMES_AT)?;
        let versions = IDENTITY_AT.into_iter().filter_map(|at| segment::version(&loaded.head[at..]));
        if let Some(version) = versions.max().filter(|version| *version > crate::format::VERSION) {
            return Err(Error::Version { version, features: 0, path: Box::new(storage.path(name)) });
        }
        let Some(identity) = loaded.identity() else { continue };
        if *id.get_or_insert(identity.log_id) != identity.log_id {
            let reason = "its header carries another id than that of the segment with the least number";
            return Err(Error::Foreign(Box::new(Foreign { path: storage.path(name), reason })));
        }
    }
    id.ok_or_else(|| unknowable(storage, "no segment file says what log it is of"))
}

fn unknowable(storage: &Storage, reason: &'static str) -> Error {
    Error::io(Operation::Rebuild, &storage.path(MANIFEST), std::io::Error::other(reason))
}

/// Leaves out what a repair that was not finished has made: what it would have replaced is still there.
fn drop_unfinished(files: &mut Vec<File>) {
    let there: Vec<u64> = files.iter().map(|file| file.identity.ordinal).collect();
    let mut kept: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    files.retain(|file| {
        let (replaces, base) = (file.identity.replaces, file.base_seq.unwrap_or(0));
        if replaces == 0 {
            return true;
        }
        // Segments that one repair made of another have none of each other's records; what has is a copy of a copy.
        let is_copy = kept.range((replaces, 0)..=(replaces, base)).next_back().is_some_and(|(_, end)| *end > base);
        let stays = there.binary_search(&replaces).is_err() && !is_copy;
        if stays {
            kept.insert((replaces, base), file.end_seq);
        }
        stays
    });
}

/// Sorts by the time at which segments were begun, or at which those were that they replace.
fn put_in_order(files: &mut Vec<File>) {
    files.sort_by_key(File::place);
    // A record too large for the next spare gets a segment of its own, prepared later and begun earlier.
    let (mut ends, mut first_ends): (HashMap<u64, usize>, HashMap<u64, usize>) = Default::default();
    let mut bases: HashMap<u64, usize> = HashMap::new();
    for (i, file) in files.iter().enumerate() {
        if let (Some(base), true) = (file.base_seq, file.may_end_here()) {
            ends.extend((base < file.end_seq).then_some((file.end_seq, i)));
            first_ends.entry(file.end_seq).or_insert(i);
        }
        bases.extend(file.base_seq.map(|base| (base, i)));
    }
    let mut by_base: Vec<(u64, usize)> = files.iter().enumerate().filter_map(|(i, f)| Some((f.base_seq?, i))).collect();
    by_base.sort_unstable();
    let mut places: Vec<(usize, usize)> = (0..files.len()).map(|i| (i, 0)).collect();
    for (base, i) in &by_base {
        // What was dropped by a cut may begin with the number behind what came after the cut: it stays behind what it was
        // begun behind.
        let begun_behind = first_ends.get(base).filter(|before| files[*i].is_cut && *before < i);
        let is_before = |at: (usize, usize)| at > (*i, 0) && at >= (bases[base], 0);
        // If it is damaged at its end, or one behind it is lost, it does not end where this one begins.
        let nearest = || {
            let (_, nearest) = by_base[..by_base.partition_point(|(other, _)| other < base)].last()?;
            // Spares are left out only for a larger segment, which a repair may have made smaller since.
            let (before, file) = (&files[*nearest], &files[*i]);
            let is_larger = before.identity.capacity > file.identity.capacity || before.identity.replaces != 0;
            let is_late = is_larger || places[*nearest].1 > 0;
            let goes_on = before.closed.is_some() || before.is_mute;
            (is_late && goes_on && before.end_seq <= *base).then_some(*nearest)
        };
        let place = |before: usize| Some(places[before]).filter(|at| is_before(*at));
        let before = match begun_behind {
            Some(before) => place(*before),
            None => ends.get(base).and_then(|before| place(*before)).or_else(|| nearest().and_then(place)),
        };
        if let Some((at, rank)) = before {
            places[*i] = (at, rank + 1);
        }
    }
    let mut placed: Vec<((usize, usize), File)> = places.into_iter().zip(files.drain(..)).collect();
    placed.sort_by_key(|(place, _)| *place);
    files.extend(placed.into_iter().map(|(_, file)| file));
}

/// If the last segment says that the log went on in another one, that one is lost: as a manifest would name it.
fn add_lost_end(entries: &mut Vec<Entry>, files: &[File], listed: &[Listed]) {
    let Some(at) = entries.iter().position(|entry| entry.role() == Some(Role::Active)) else { return };
    let active = entries[at];
    let Some(file) = files.iter().find(|file| file.identity.ordinal == active.ordinal) else { return };
    let Some(base_seq) = file.closed.filter(|base| *base < MAX_NUMBER) else { return };
    let taken: HashSet<u64> = by_ordinal(listed).into_iter().map(|(_, ordinal)| ordinal).collect();
    let Some(ordinal) = (active.ordinal + 1..MAX_NUMBER).find(|ordinal| !taken.contains(ordinal)) else { return };
    let end_offset = file.end_offset as u64;
    entries[at] = Entry { end_offset, last_seq: file.end_seq - 1, virgin: true, ..active };
    entries.insert(at + 1, Entry { ordinal, base_seq, end_offset: 0, last_seq: 0, ..active });
}

/// Whether the segment was begun, and where; `next_seq` is the number behind the records of the ordinals before.
fn file(identity: Identity, loaded: &Loaded, next_seq: u64) -> File {
    let Identity { salt, capacity, ordinal, .. } = identity;
    let virgin = scan::is_zero(&loaded.frames);
    let first = || frame::decode(&loaded.frames, FRAMES_AT, salt).map(|header| header.seq).filter(|seq| *seq >= 1);
    let word = segment::begun(&loaded.head, salt).or_else(first).filter(|base| *base < MAX_NUMBER);
    let base_seq = word.or_else(|| {
        // Its start is damaged. The first segment of a log begins with 1, the others where the one before ends.
        let base_seq = if ordinal == 1 { 1 } else { next_seq };
        let capacity = capacity as usize;
        let bounds = Bounds { base_seq, ahead: 0, last_seq: MAX_NUMBER - 1, to: capacity };
        let found = find(&loaded.frames, salt, &bounds, &[]);
        let is_used = !found.stretches.is_empty() || (ordinal == 1 && !scan::is_zero(&loaded.head[PAGE..]));
        is_used.then_some(base_seq)
    });
    File { virgin, base_seq, ..File::new(identity) }
}

fn found(file: &File, loaded: &Loaded, base_seq: u64, below: u64) -> Found {
    let Identity { salt, capacity, .. } = file.identity;
    let last_seq = below.min(MAX_NUMBER) - 1;
    let durable = segment::durable(&loaded.head, salt, capacity as usize);
    let bounds = Bounds { base_seq, ahead: 0, last_seq, to: capacity as usize };
    find(&loaded.frames, salt, &bounds, durable.as_slice())
}

/// The entries, in order; segments of which nothing is left in the log are put `aside`.
fn entries(storage: &Storage, files: &[File], aside: &mut Vec<(String, &'static str)>) -> Result<Vec<Entry>> {
    let mut begun: Vec<(&File, u64)> = files.iter().filter_map(|file| file.base_seq.map(|base| (file, base))).collect();
    if begun.is_empty() {
        // A log to which nothing was ever appended begins in its first segment.
        begun.extend(files.iter().find(|file| file.identity.ordinal == 1).map(|file| (file, 1)));
    }
    let Some(((active, base_seq), earlier)) = begun.split_last() else {
        return Err(unknowable(storage, "no segment says where its records begin"));
    };
    let mut below = *base_seq;
    let mut sealed = Vec::new();
    for (file, base_seq) in earlier.iter().rev() {
        // What a later segment begins with was cut off in the earlier ones.
        if *base_seq >= below {
            aside.push((
                file_name(file.identity.ordinal).as_str().to_owned(),
                "all its records were cut off, or are in a later segment",
            ));
            continue;
        }
        // Cut, and the log went on behind its end and not in it: that was a reset, which dropped it whole.
        if file.is_cut && file.is_whole && file.end_seq < below {
            aside.push((file_name(file.identity.ordinal).as_str().to_owned(), "a reset dropped it"));
            continue;
        }
        let name = file_name(file.identity.ordinal);
        // A batch that does not end there makes the segment a damaged one.
        let Mark { offset, seq } =
            found(file, &Loaded::read(storage, name.as_str(), file.identity.capacity as usize)?, *base_seq, below).end;
        let entry = Entry { base_seq: *base_seq, end_offset: offset as u64, last_seq: seq - 1, ..file.entry() };
        sealed.push(Entry { virgin: true, ..entry });
        below = *base_seq;
    }
    sealed.reverse();
    // Bytes in it that are not frames may be those of an earlier life.
    sealed.push(Entry { base_seq: *base_seq, virgin: false, ..active.entry() });
    let used: Vec<u64> = begun.iter().map(|(file, _)| file.identity.ordinal).collect();
    sealed.extend(files.iter().filter(|file| !used.contains(&file.identity.ordinal)).map(File::entry));
    Ok(sealed)
}
