//! A copy of a log, which is a log of its own.
//!
//! The records of one moment go into new segments that are cut to what they hold; each gets its name when it is durable,
//! is then read back and compared with the log, and is named by the manifest when all of them are there. What an earlier
//! copy has left behind, finished or not, is compared like what was just written, and stays if it is the same. So a copy
//! that was killed goes on, and one that is finished is brought up to date.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Operation, Result};
use crate::format::manifest::{Entry, Header, Role};
use crate::format::segment::{self, FRAMES_AT, Identity, MIN_CAPACITY};
use crate::inspect::compare::{Compared, Comparison};
use crate::inspect::files::Loaded;
use crate::inspect::held::held;
use crate::inspect::make::{Filling, Frames, begin, capacity_for, unfinished, write_sealed};
use crate::inspect::target::{Target, sign};
use crate::inspect::verify::Progress;
use crate::inspect::wanted::{Records, bytes_behind, first_wanted, following, refuse_apart, refuse_lack};
use crate::manifest::{Manifest, ManifestFile, remove_if_there};
use crate::reader::state;
use crate::recovery::{draw_salt, next_ordinal};
use crate::segment::{Maps, Preparation, Segment, Spare, file_name};
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::view::{Located, View};

/// How many bytes are read between two reports of progress.
const REPORT: u64 = 4 << 20;

/// What a copy holds, and how much of it was copied now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The first record of the copy; one more than `last_seq` if it has none.
    pub first_seq: u64,
    /// The last record of the copy; after a repair of the log it may be a number that was lost.
    pub last_seq: u64,
    /// How many records the copy holds in all: not those of missing ranges.
    pub held: u64,
    /// Its checkpoint.
    pub checkpoint_seq: u64,
    /// Records that were copied now; the others were there.
    pub records: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Segments that were made for them.
    pub segments: u64,
    /// Whether the name of the directory is durable, as [`RecoveryReport::name_synced`](crate::RecoveryReport) says.
    pub name_synced: bool,
}

impl Copied {
    /// Counts a segment that was made.
    fn add(&mut self, entry: &Entry) {
        self.segments += 1;
        self.records += entry.last_seq + 1 - entry.base_seq;
        self.bytes += entry.end_offset - FRAMES_AT as u64;
    }
}

/// How often a copy begins again because the log has given up what was wanted.
const ATTEMPTS: u32 = 16;

/// Copies the log in `from` to the directory `to`.
pub(crate) fn copy(
    from: &Storage,
    maps: &Arc<Maps>,
    to: &Path,
    after: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Copied> {
    let place = Target::place(from, to)?;
    let mut opened = None;
    let (mut left, mut made) = (ATTEMPTS, HashSet::new());
    loop {
        let is_first = left == ATTEMPTS;
        left -= 1;
        // Truncated or cut since the state was taken: the state of now is copied, from what is there already on.
        let goes_on = left > 0;
        let may_go_on = |e: &Error| goes_on && matches!(e, Error::Truncated { .. } | Error::TruncatedBack { .. });
        let (log, snapshot) = match if is_first { state(from, maps) } else { mapped_state(from, maps) } {
            Err(e) if may_go_on(&e) => continue,
            taken => taken?,
        };
        let first_seq = first_wanted(&snapshot, after)?;
        let out = match &opened {
            Some(out) => Storage::clone(out),
            None => opened.insert(place.made()?).clone(),
        };
        let mut target = Target::open(out, log.header.log_id)?;
        let copied =
            Copy::prepare(&log, &snapshot, first_seq, &mut target, progress).and_then(|copy| copy.run(&mut made));
        let closed = target.close();
        match copied {
            Err(e) if may_go_on(&e) => closed?,
            copied => return copied.and_then(|copied| closed.map(|()| copied)),
        }
    }
}

/// The log as it is now, with all of its segments mapped, if there may be as many maps: no truncation overtakes a copy of
/// that.
fn mapped_state(from: &Storage, maps: &Arc<Maps>) -> Result<(Manifest, Snapshot)> {
    let (log, snapshot) = state(from, maps)?;
    match snapshot.map_all() {
        Ok(()) => Ok((log, snapshot)),
        Err(Error::MapLimit(_)) => {
            drop(snapshot);
            state(from, maps)
        }
        Err(e) => Err(e),
    }
}

struct Copy<'a> {
    log: &'a Manifest,
    view: &'a View,
    target: &'a mut Target,
    comparison: Comparison<'a>,
    /// The sealed segments of the copy.
    entries: Vec<Entry>,
    /// How many of them its manifest names.
    named: usize,
    /// How many behind those were there, from a copy that was not finished.
    reused: usize,
    next_ordinal: u64,
    first_seq: u64,
    /// What is copied next.
    next_seq: u64,
    done: Copied,
    meter: Meter<'a>,
}

/// Tells how far it is.
struct Meter<'a> {
    progress: &'a mut dyn FnMut(Progress),
    now: Progress,
    told: u64,
}

impl Meter<'_> {
    fn add(&mut self, segment: u64, bytes: usize) {
        self.now.segment = segment;
        self.now.bytes_done += bytes as u64;
        if self.now.bytes_done - self.told >= REPORT {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.told = self.now.bytes_done;
        // What was read and found not to fit was not reckoned with.
        let bytes_done = self.now.bytes_done.min(self.now.bytes_total);
        (self.progress)(Progress { bytes_done, ..self.now });
    }
}

impl<'a> Copy<'a> {
    /// Finds out where the copy goes on.
    fn prepare(
        log: &'a Manifest,
        snapshot: &'a Snapshot,
        first_seq: u64,
        target: &'a mut Target,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let view = snapshot.view();
        let (mut start, mut next_seq, mut entries) = (first_seq, first_seq, Vec::new());
        if let Some(manifest) = &target.manifest {
            let copy = manifest.current();
            refuse_apart(target.storage.dir(), copy, view, first_seq)?;
            target.refuse_changed(copy, log)?;
            (start, next_seq) = (copy.header.first_seq, copy.active().base_seq);
            entries = copy.sealed().to_vec();
        }
        let checkpoint_seq = log.header.checkpoint_seq.min(view.last_seq());
        let last_seq = view.last_seq();
        let (held, records, bytes, segments, name_synced) = (0, 0, 0, 0, true);
        let done = Copied { first_seq: start, last_seq, held, checkpoint_seq, records, bytes, segments, name_synced };
        let there: u64 = entries.iter().map(|entry| entry.end_offset - FRAMES_AT as u64).sum();
        let bytes_total = there + 2 * bytes_behind(view, next_seq)?;
        let now = Progress { segment: 0, bytes_done: 0, bytes_total };
        let comparison = Comparison::with(view);
        let (named, next_ordinal) = (entries.len(), 0);
        let meter = Meter { progress, now, told: 0 };
        Ok(Self {
            log,
            view,
            target,
            comparison,
            entries,
            named,
            reused: 0,
            next_ordinal,
            first_seq: start,
            next_seq,
            done,
            meter,
        })
    }

    /// Copies; what was made is added to `made`, the ordinals of what was made before for this copy.
    fn run(mut self, made: &mut HashSet<u64>) -> Result<Copied> {
        self.meter.tell();
        self.compare_named()?;
        self.reuse()?;
        let reused =
            self.entries.iter().filter(|entry| entry.last_seq >= entry.base_seq && made.contains(&entry.ordinal));
        reused.for_each(|entry| self.done.add(entry));
        let written = self.write();
        made.extend(self.entries.iter().skip(self.named + self.reused).map(|entry| entry.ordinal));
        written?;
        self.finish()?;
        self.meter.tell();
        Ok(self.done)
    }

    /// Compares what the copy holds already.
    fn compare_named(&mut self) -> Result<()> {
        let mut behind = self.first_seq;
        for entry in self.entries.clone() {
            refuse_lack(self.target.storage.dir(), self.view, behind..entry.base_seq)?;
            behind = entry.last_seq + 1;
            let seq = match self.compare(&entry)? {
                Compared::Same { next_seq } if next_seq == behind => continue,
                Compared::Same { next_seq } => next_seq,
                Compared::Damaged(e) => return Err(e),
                Compared::Differs { seq } => seq,
            };
            let reason = format!(
                "the log has no record {seq} like that of the copy that is there: it was cut back, or has lost it; \
                 keep the copy, and give another directory"
            );
            return Err(Error::destination(self.target.storage.dir(), reason));
        }
        refuse_lack(self.target.storage.dir(), self.view, behind..self.next_seq)
    }

    fn compare(&mut self, entry: &Entry) -> Result<Compared> {
        let Target { storage, log_id, maps, .. } = &*self.target;
        let segment = Segment::sealed(storage, *entry, *log_id, maps);
        let meter = &mut self.meter;
        self.comparison.compare(&segment, entry.end_offset as usize, |bytes| meter.add(entry.ordinal, bytes))
    }

    /// Goes on with the segments that an unfinished copy has left, as far as they fit; removes the others.
    fn reuse(&mut self) -> Result<()> {
        let storage = self.target.storage.clone();
        let listed = storage.list()?;
        self.target.remove_unfinished(&listed)?;
        for (ordinal, identity) in self.target.leftovers(&listed)? {
            match identity.map_or(Ok(None), |identity| self.usable(&identity))? {
                Some(entry) => {
                    self.entries.push(entry);
                    self.reused += 1;
                }
                None => remove_if_there(&storage, file_name(ordinal).as_str())?,
            }
        }
        let named = self.target.manifest.iter().flat_map(|manifest| &manifest.current().entries);
        let entries = named.chain(&self.entries).copied().collect();
        let all = Manifest { header: self.log.header, meta: Vec::new(), entries };
        self.next_ordinal = next_ordinal(&all, &storage.list()?);
        Ok(())
    }

    /// The entry of a segment that an unfinished copy has made, if it holds what comes next.
    fn usable(&mut self, identity: &Identity) -> Result<Option<Entry>> {
        let Identity { ordinal, salt, capacity, .. } = *identity;
        let head = Loaded::read(&self.target.storage, file_name(ordinal).as_str(), FRAMES_AT)?.head;
        let durable = usize::try_from(capacity).ok().and_then(|capacity| segment::durable(&head, salt, capacity));
        let (Some(base_seq), Some(end)) = (segment::begun(&head, salt), durable) else { return Ok(None) };
        let next = following(self.view, self.next_seq);
        let is_empty = end == FRAMES_AT;
        let fits = match self.entries.last() {
            None if is_empty => base_seq == self.next_seq && next != Some(base_seq),
            None => next == Some(self.next_seq) && base_seq <= self.next_seq,
            Some(_) => next == Some(base_seq) && !is_empty,
        };
        let last_seq = if is_empty { base_seq - 1 } else { base_seq };
        let entry = Entry { ordinal, salt, virgin: true, capacity, base_seq, end_offset: end as u64, last_seq };
        if !fits || entry.role() != Some(Role::Sealed) {
            return Ok(None);
        }
        let done = self.meter.now.bytes_done;
        match self.compare(&entry)? {
            Compared::Same { next_seq } if is_empty || next_seq > self.next_seq => {
                self.next_seq = self.next_seq.max(next_seq);
                // It need not be written.
                self.meter.now.bytes_done += self.meter.now.bytes_done - done;
                Ok(Some(Entry { last_seq: next_seq - 1, ..entry }))
            }
            _ => {
                self.meter.now.bytes_done = done;
                self.meter.told = self.meter.told.min(done);
                Ok(None)
            }
        }
    }

    /// Copies what is not there yet.
    fn write(&mut self) -> Result<()> {
        let next = following(self.view, self.next_seq).unwrap_or(self.view.last_seq() + 1);
        if self.entries.is_empty() && next > self.first_seq {
            // Numbers that the log has lost at its front are lost in the copy.
            let identity = self.identity(capacity_for(0))?;
            let empty = write_sealed(&self.target.storage, &identity, &Frames::none(self.first_seq), &mut Vec::new())?;
            self.entries.push(empty);
        }
        if self.next_seq > self.view.last_seq() {
            return Ok(());
        }
        self.target.mark()?;
        let mut records = Records::behind(self.view, self.next_seq - 1)?;
        let mut next = records.next()?;
        while let Some(first) = next {
            next = self.write_segment(first, &mut records)?;
        }
        Ok(())
    }

    fn identity(&mut self, capacity: u64) -> Result<Identity> {
        let salts: Vec<u32> = self.entries.iter().map(|entry| entry.salt).collect();
        let salt = draw_salt(&self.target.storage, &salts)?;
        let (ordinal, log_id, created) = (self.next_ordinal, self.target.log_id, self.target.storage.now());
        self.next_ordinal += 1;
        Ok(Identity { salt, log_id, ordinal, capacity, created, replaces: 0 })
    }

    /// Copies the records from `first` to the end of its segment, and reads them back; returns the one behind.
    fn write_segment(&mut self, first: Located, records: &mut Records<'_>) -> Result<Option<Located>> {
        let storage = self.target.storage.clone();
        let identity = self.identity(capacity_for(self.view.end_of(first.index).offset - first.at))?;
        let filled = self.fill(&storage, &identity, first, records).inspect_err(|_| {
            // What made it fail is what the caller must hear; what is left is removed by the next attempt.
            let _ = remove_if_there(&storage, &unfinished(identity.ordinal));
        });
        let (entry, next) = filled?;
        storage.open_read(file_name(entry.ordinal).as_str())?.forget_cached()?;
        match self.compare(&entry)? {
            Compared::Same { next_seq } if next_seq == entry.last_seq + 1 => {}
            Compared::Damaged(e @ Error::Io(_)) => return Err(e),
            _ => return Err(self.reads_otherwise(&storage.path(file_name(entry.ordinal).as_str()))),
        }
        self.done.add(&entry);
        self.entries.push(entry);
        Ok(next)
    }

    fn fill(
        &mut self,
        storage: &Storage,
        identity: &Identity,
        first: Located,
        records: &mut Records<'_>,
    ) -> Result<(Entry, Option<Located>)> {
        let mut filling = Filling::begin(storage, identity, first.header.seq)?;
        let ordinal = self.view.segments[first.index].ordinal();
        let mut next = Some(first);
        while let Some(found) = next.filter(|found| found.index == first.index) {
            filling.add(records.payload(found)?, &found.header)?;
            self.meter.add(ordinal, found.header.frame_size());
            next = records.next()?;
        }
        Ok((filling.finish()?, next))
    }

    fn reads_otherwise(&self, path: &Path) -> Error {
        Error::io(Operation::Verify, path, std::io::Error::other("it reads otherwise than it was written"))
    }

    /// Makes what is there a log, in one step.
    fn finish(&mut self) -> Result<()> {
        let base_seq = self.view.last_seq() + 1;
        match self.target.manifest.take() {
            None => {
                let active = self.fresh_active(base_seq)?;
                let next = self.manifest(1, active);
                self.done.name_synced = self.target.storage.sync_own_name()?;
                ManifestFile::create(&self.target.storage, next)?;
            }
            Some(mut manifest) => self.update(&mut manifest, base_seq)?,
        }
        self.done.held = self.check()?;
        self.target.unmark()?;
        self.target.storage.sync_dir()
    }

    /// The empty segment in which the copy would go on if it were opened for writing; preparing it also makes the names of
    /// the segments before it durable.
    fn fresh_active(&mut self, base_seq: u64) -> Result<Entry> {
        let capacity = MIN_CAPACITY as u64;
        let Identity { salt, log_id, ordinal, .. } = self.identity(capacity)?;
        let how = Preparation { log_id, ordinal, salt, capacity, sync_zeros: true };
        let active = Entry { base_seq, ..Spare::prepare(&self.target.storage, &how)?.entry };
        sign(&self.target.storage, &active)?;
        begin(&self.target.storage, &active)?;
        Ok(active)
    }

    /// The copy as closed, with the state of the log.
    fn manifest(&self, generation: u64, active: Entry) -> Manifest {
        let header = Header {
            generation,
            log_id: self.target.log_id,
            user_tag: self.log.header.user_tag,
            first_seq: self.first_seq,
            checkpoint_seq: self.done.checkpoint_seq,
            clean_offset: FRAMES_AT as u64,
        };
        let mut entries = self.entries.clone();
        entries.push(active);
        Manifest { header, meta: self.log.meta.clone(), entries }
    }

    fn update(&mut self, manifest: &mut ManifestFile, base_seq: u64) -> Result<()> {
        manifest.settle()?;
        let before = manifest.current().clone();
        let stays = self.entries.len() == self.named && before.active().base_seq == base_seq;
        let active = if stays { *before.active() } else { self.fresh_active(base_seq)? };
        let mut next = self.manifest(before.header.generation, active);
        if stays {
            // Whoever has opened it meanwhile may have prepared more.
            next.entries.extend(before.spares());
            next.header.clean_offset = before.header.clean_offset;
        }
        if next == before {
            return Ok(());
        }
        manifest.make_room(next.entries.len().saturating_sub(before.entries.len()))?;
        let kept: Vec<u64> = next.entries.iter().map(|entry| entry.ordinal).collect();
        manifest.update(|now| {
            now.header = Header { generation: now.header.generation, ..next.header };
            now.meta = next.meta;
            now.entries = next.entries;
        })?;
        for entry in before.entries.iter().filter(|entry| !kept.contains(&entry.ordinal)) {
            remove_if_there(&self.target.storage, file_name(entry.ordinal).as_str())?;
        }
        Ok(())
    }

    /// Opens the copy as any reader would, and refuses if it does not show what was copied; returns how many records it
    /// holds.
    fn check(&self) -> Result<u64> {
        let storage = &self.target.storage;
        let (copy, snapshot) = state(storage, &self.target.maps)?;
        let shown = (snapshot.first_seq(), snapshot.last_seq(), snapshot.checkpoint_seq());
        let is_right = shown == (self.done.first_seq, self.done.last_seq, self.done.checkpoint_seq)
            && copy.sealed() == self.entries
            && copy.meta == self.log.meta;
        if !is_right {
            return Err(self.reads_otherwise(storage.dir()));
        }
        let view = snapshot.view();
        let segments = view.segments[..view.shown].iter().enumerate();
        let extents = segments.map(|(i, of)| (of.base_seq(), of.base_seq() + view.end_of(i).count - 1));
        Ok(held(view.first_seq, extents).records)
    }
}
