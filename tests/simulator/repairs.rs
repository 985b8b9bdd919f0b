//! A log that crashed, is damaged, and is repaired by the real library, with the power failing in the repair, and in the
//! repair after that; the oracle is [`mended`](super::mended).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use mmap_wal::Error;
use mmap_wal::inspect::{Log, RepairPlan};

use super::campaign::{Explorer, Failure};
use super::disk::Disk;
use super::history::{USER_TAG, mending};
use super::image::{Doubts, Image};
use super::life::{LOG, Start, Watch};
use super::machine::{FRAMES, Famine, Machine, Moment, Phase};
use super::mended::{Patient, nothing_is_gone};
use super::model::{Crash, Model};
use super::rng::{Rng, mix};
use crate::fixture::{Replayed, files_of, log_files_of, replayed, segment};
use crate::reference::bytes::u64_at;
use crate::reference::manifest::{self, Entry, Kind};
use crate::reference::{Files, Rec};

/// How often a log is damaged that lived once.
const DAMAGES: usize = 6;
/// How many crashes a repair goes through.
const MOST_TRIES: usize = 3;
/// Where a segment says how far its frames are visible, and the bits beside.
const PUBLISHED: usize = 4096;
const BITS: u64 = 3 << 62;

/// A damaged log, and what a repair makes of it.
struct Case {
    image: Image,
    files: Files,
    planned: RepairPlan,
    /// What a repair that nothing disturbs leaves.
    records: Vec<Rec>,
    /// The number of the next record.
    next: u64,
    key: u64,
}

impl Explorer<'_> {
    /// Lives, crashes, is damaged, and is repaired as often as it takes.
    pub fn repaired(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let life;
        (self.setup, life) = mending(rng);
        self.trail.push(format!("{:?}", self.setup));
        self.trail.push(format!("a process does {:?}", life.ops));
        let moments = self.live(&Start::nothing(), &life, rng.draw(), Watch::Opened)?;
        for _ in 0..DAMAGES {
            self.trail.truncate(2);
            let moment = if rng.one_in(2) { moments.last() } else { Some(rng.pick(&moments)) };
            let Some(moment) = moment.filter(|moment| moment.model.created) else { continue };
            if let Some(case) = self.case(moment, rng)? {
                self.repair(&case, &case.image, 0, rng)?;
            }
        }
        Ok(())
    }

    /// A damage of what a crash at `moment` leaves, if there is one that a repair sees.
    fn case(&mut self, moment: &Moment, rng: &mut Rng) -> Result<Option<Case>, Failure> {
        let crash = if rng.one_in(2) { Crash::Power } else { Crash::Process };
        let doubts = Doubts::of(&moment.disk);
        let image = match crash {
            Crash::Process => moment.disk.live_image(),
            Crash::Power => {
                let choices = doubts.choices(1, 8, rng);
                doubts.image(rng.pick(&choices))
            }
        };
        self.trail.push(format!("a crash ({crash:?}) before {}", moment.before));
        let lost = self.in_scratch(|explorer, root| explorer.lose(root, &image, rng))?;
        let Some((image, before)) = lost else { return Ok(None) };
        self.in_scratch(|explorer, root| explorer.assess(root, image, &before, &moment.model))
    }

    /// Damages `image`, or what an open makes of it; what it showed before.
    fn lose(&mut self, root: &Path, image: &Image, rng: &mut Rng) -> Result<Option<(Image, Vec<Rec>)>, String> {
        let dir = root.join(LOG);
        image.materialise(root).map_err(|e| e.to_string())?;
        let wal = self.setup.options().open(&dir).map_err(|e| format!("the log cannot be opened: {e}"))?;
        let Replayed { records, error, .. } = replayed(&wal.snapshot());
        error.map_or(Ok(()), |e| Err(e.to_string()))?;
        let (is_recovered, is_closed) = (!rng.one_in(3), rng.one_in(3));
        if is_closed {
            wal.close().map_err(|e| e.to_string())?;
        }
        let mut damaged = if is_recovered { image_of(image, &files_of(&dir)) } else { image.clone() };
        let Some(what) = damage(&mut damaged, is_recovered, rng) else { return Ok(None) };
        self.trail.push(format!("opened: {is_recovered}, closed: {is_closed}; {what}"));
        Ok(Some((damaged, records)))
    }

    /// What a repair makes of `image`, which showed the records `before` until it was damaged.
    fn assess(&mut self, root: &Path, image: Image, before: &[Rec], model: &Model) -> Result<Option<Case>, String> {
        let (dir, options) = (root.join(LOG), self.setup.options());
        image.materialise(root).map_err(|e| e.to_string())?;
        let files = files_of(&dir);
        let planned = Log::open(&dir).and_then(|log| log.plan_repair()).map_err(|e| format!("no plan: {e}"))?;
        if planned.is_empty() {
            return Ok(None);
        }
        self.trail.push(planned.to_string());
        let patient = Patient { files: &files, planned: &planned, options: &options, tag: USER_TAG };
        let wal = patient.recovers(&dir)?;
        let Replayed { records, error, .. } = replayed(&wal.snapshot());
        error.map_or(Ok(()), |e| Err(format!("after a repair: {e}")))?;
        // Without a manifest nobody knows what was in front of the first segment, and the plan says where that begins.
        let front = planned.rebuilt.as_ref().map_or(0, |rebuilt| rebuilt.first_seq);
        let is_lost =
            |seq: u64| seq < front || planned.lost.iter().any(|lost| (lost.first_seq..=lost.last_seq).contains(&seq));
        if let Some(gone) = before.iter().find(|rec| !is_lost(rec.seq) && !records.contains(rec)) {
            return Err(format!("record {} is gone, which the plan had promised to keep", gone.seq));
        }
        let is_known = |rec: &Rec| model.records.get(&rec.seq).is_some_and(|known| known.payload == rec.payload);
        if let Some(strange) = records.iter().find(|rec| !is_known(rec)) {
            return Err(format!("record {} was never appended, or cut off", strange.seq));
        }
        let next = wal.append(b"the next one").map_err(|e| e.to_string())?;
        let last = before.last().map_or(0, |rec| rec.seq);
        if next <= last {
            return Err(format!("the next record is {next}, and there was a record {last}"));
        }
        let key = image.digest();
        Ok(Some(Case { image, files, planned, records, next, key }))
    }

    /// Repairs `image`, a state of `case`, with the power failing, or the process dying, at each act.
    fn repair(&mut self, case: &Case, image: &Image, tries: usize, rng: &mut Rng) -> Result<(), Failure> {
        let famine = rng.one_in(4).then(|| Famine { at: 1 + rng.below(8), lasts: 1 + rng.below(3) });
        let seed = rng.draw();
        let moments = self.in_scratch(|_, root| repair_watched(root, image, case, famine, seed))?;
        for (index, moment) in moments.iter().enumerate() {
            if self.is_stopped() {
                break;
            }
            let doubts = Doubts::of(&moment.disk);
            let choices = if tries == 0 { doubts.choices(64, 32, rng) } else { doubts.choices(8, 8, rng) };
            let mut images: Vec<(Crash, Image)> = choices.iter().map(|c| (Crash::Power, doubts.image(c))).collect();
            images.push((Crash::Process, moment.disk.live_image()));
            for (crash, image) in images {
                let mut rng = Rng::new(rng.draw());
                let key = mix(image.digest() ^ case.key.rotate_left(3));
                if !self.is_new(key, Phase::Repair, tries, crash) {
                    continue;
                }
                self.trail.push(format!("{crash:?} at moment {index} of a repair, before: {}", moment.before));
                if tries + 1 < MOST_TRIES && rng.one_in(80 >> tries) {
                    self.repair(case, &image, tries + 1, &mut rng)?;
                }
                let opens_first = rng.one_in(4);
                let options = self.setup.options();
                self.in_scratch(|_, root| {
                    image.materialise(root).map_err(|e| e.to_string())?;
                    case.check(&root.join(LOG), &options, opens_first)
                })?;
                self.trail.pop();
            }
        }
        Ok(())
    }
}

impl Case {
    fn patient<'a>(&'a self, options: &'a mmap_wal::Options) -> Patient<'a> {
        Patient { files: &self.files, planned: &self.planned, options, tag: USER_TAG }
    }

    /// A log that a repair has left is repaired and shows what it must, also if somebody opens it before and appends.
    fn check(&self, dir: &Path, options: &mmap_wal::Options, opens_first: bool) -> Result<(), String> {
        let mut records = self.records.clone();
        let mut next = self.next;
        // Damage to sealed segments is not seen by an open, and damage to others is refused.
        let opened = if opens_first { options.open(dir).ok() } else { None };
        let patient = self.patient(options);
        let wal = match opened {
            None => patient.recovers(dir)?,
            Some(wal) => {
                let seq = wal.append(b"meanwhile").map_err(|e| e.to_string())?;
                records.push(Rec { seq, tag: 0, payload: b"meanwhile".to_vec() });
                next = seq + 1;
                drop(wal);
                patient.repair(dir)?;
                patient.keeps_what_is_set_aside(dir)?;
                options.open(dir).map_err(|e| format!("a repaired log cannot be opened: {e}"))?
            }
        };
        let Replayed { records: found, error, .. } = replayed(&wal.snapshot());
        if error.is_some() || found != records {
            let seqs = |records: &[Rec]| records.iter().map(|rec| rec.seq).collect::<Vec<u64>>();
            return Err(format!("it shows {:?} and {error:?}, not {:?}", seqs(&found), seqs(&records)));
        }
        let seq = wal.append(b"the next one").map_err(|e| e.to_string())?;
        if seq < next {
            return Err(format!("the next record is {seq}, and would have been {next}"));
        }
        Ok(())
    }
}

/// Repairs, and notes what a crash would find.
fn repair_watched(
    root: &Path,
    image: &Image,
    case: &Case,
    famine: Option<Famine>,
    seed: u64,
) -> Result<Vec<Moment>, String> {
    let dir = root.join(LOG);
    image.materialise(root).map_err(|e| e.to_string())?;
    let model = Arc::new(Model::new());
    let machine = Machine::new(root, Disk::of(image), &model, seed);
    machine.record();
    machine.enter(Phase::Repair, &model);
    let log = Log::open_observed(&dir, Some(Arc::clone(&machine) as _)).map_err(|e| e.to_string())?;
    // What an earlier try had not finished is nobody's.
    let files = || log_files_of(&dir).into_iter().filter(|(name, _)| !name.ends_with(".new")).collect::<Files>();
    let mut before = files();
    let plan = || log.plan_repair().map(|plan| plan.with_user_tag(USER_TAG)).map_err(|e| format!("no plan: {e}"));
    let planned = plan()?;
    machine.set_famine(famine);
    match log.repair(&planned) {
        Err(Error::NoSpace(_)) if machine.has_refused() => {
            let after = files();
            // So is a manifest that an earlier try had not put in its place: it may go, and none may stay that was not there.
            if !after.contains_key("MANIFEST.tmp") {
                before.remove("MANIFEST.tmp");
            }
            if after != before {
                let is_other = |name: &&String| before.get(*name) != after.get(*name);
                let changed: BTreeSet<&String> = before.keys().chain(after.keys()).filter(is_other).collect();
                return Err(format!("it was refused for want of space, and {changed:?} are changed"));
            }
            machine.leave(&model);
            machine.set_famine(None);
            log.repair(&planned).map_err(|e| format!("no repair, now that there is space: {e}"))?;
        }
        repaired => repaired.map_err(|e| format!("no repair: {e}"))?,
    }
    machine.leave(&model);
    nothing_is_gone(&case.files, &files_of(&dir), &case.planned)?;
    Ok(machine.kill().0)
}

/// The directories of `image`, with `files` in that of the log.
fn image_of(image: &Image, files: &Files) -> Image {
    let mut made = Image { dirs: image.dirs.clone(), ..Image::default() };
    for (node, (name, bytes)) in files.iter().enumerate() {
        made.files.insert(format!("{LOG}/{name}"), node);
        made.contents.insert(node, Arc::new(bytes.clone()));
    }
    made
}

fn path(name: &str) -> String {
    format!("{LOG}/{name}")
}

fn bytes<'a>(image: &'a mut Image, name: &str) -> Option<&'a mut Vec<u8>> {
    let node = image.files.get(&path(name))?;
    image.contents.get_mut(node).map(Arc::make_mut)
}

/// Damages one or two places; in words, if there was something to damage. Only of a log that was opened it is known that
/// everything in it is durable, and that its segments say so.
fn damage(image: &mut Image, is_recovered: bool, rng: &mut Rng) -> Option<String> {
    let manifest = bytes(image, "MANIFEST")?.clone();
    let said = manifest::decode(&manifest).ok()?;
    let of =
        |kind: Kind| said.entries.iter().filter(move |entry| entry.kind() == kind).cloned().collect::<Vec<Entry>>();
    let (sealed, active) = (of(Kind::Sealed), of(Kind::Active));
    let mut whats = Vec::new();
    for _ in 0..1 + rng.below(2) {
        let what = match rng.below(if is_recovered { 7 } else { 4 }) {
            0 if !sealed.is_empty() => lose_segment(image, rng.pick(&sealed).ordinal),
            1 | 2 if !sealed.is_empty() => {
                let entry = rng.pick(&sealed);
                flip(image, entry.ordinal, FRAMES..entry.end_offset as usize, rng)
            }
            3 => {
                let entry = rng.pick(&said.entries);
                flip(image, entry.ordinal, *rng.pick(&[0, 512])..FRAMES / 2, rng)
            }
            4 => lose_manifest(image, rng.one_in(2)),
            5 | 6 => {
                let active = active.first()?;
                let bytes = bytes(image, &segment(active.ordinal))?;
                let end = (u64_at(bytes, PUBLISHED)? & !BITS) as usize;
                flip(image, active.ordinal, FRAMES..end, rng)
            }
            _ => None,
        };
        whats.extend(what);
    }
    (!whats.is_empty()).then(|| whats.join(", "))
}

fn lose_segment(image: &mut Image, ordinal: u64) -> Option<String> {
    image.files.remove(&path(&segment(ordinal)))?;
    Some(format!("segment {ordinal} is lost"))
}

fn lose_manifest(image: &mut Image, is_there: bool) -> Option<String> {
    if !is_there {
        image.files.remove(&path("MANIFEST"))?;
        return Some("the manifest is lost".to_owned());
    }
    let bytes = bytes(image, "MANIFEST")?;
    let half = bytes.len() / 2;
    bytes[70] ^= 1;
    bytes[half + 70] ^= 1;
    Some("both slots of the manifest are damaged".to_owned())
}

/// Damages a byte, or a sector or so, of a range.
fn flip(image: &mut Image, ordinal: u64, range: std::ops::Range<usize>, rng: &mut Rng) -> Option<String> {
    let bytes = bytes(image, &segment(ordinal))?;
    let range = range.start..range.end.min(bytes.len());
    if range.is_empty() {
        return None;
    }
    let at = range.start + rng.below(range.len());
    let len = if rng.one_in(3) { 1 + rng.below(700) } else { 1 };
    let end = (at + len).min(range.end);
    bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x40);
    Some(format!("bytes {at} to {end} of segment {ordinal} are damaged"))
}
