//! What is done to a log, and which records can be lost by it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::crash_test::mixed::ledger::Ledger;
use crate::crash_test::random::Random;
use crate::crash_test::repair::layout::{Layout, Place, Segment};

/// The file that says what the log is.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// Where the copies of what a segment is begin, and how long they are.
const IDENTITIES: [u64; 2] = [0, 512];
const IDENTITY: usize = 128;
/// The most segments of which a byte is changed, and that are removed.
const MOST_FLIPPED: u64 = 8;
const MOST_REMOVED: u64 = 2;

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sealed segments are gone.
    Removed,
    /// A byte is another one in sealed segments.
    Flipped,
    /// There is no manifest.
    NoManifest,
    /// There is one, of which no slot verifies.
    BadManifest,
    /// A byte is another one in the active segment, in a record that is known to have been durable.
    Tail,
    /// A copy of what a sealed segment is does not verify.
    Header,
}

/// What was done to a log.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// What, for people.
    pub(crate) what: Vec<String>,
    /// The records that were hit, whole batches of them, and those that may be lost with them.
    pub(crate) hit: BTreeSet<u64>,
    /// Names of segments of which records were hit and that are there: each must be kept under another name.
    pub(crate) flipped: BTreeSet<String>,
    /// Ordinals of segments that are gone.
    pub(crate) removed: Vec<u64>,
    /// Whether it is not known what the log is.
    pub(crate) manifest: bool,
}

impl Kind {
    /// One that can be done to the log.
    pub(crate) fn draw(layout: &Layout, random: &mut Random) -> Self {
        let is_tail_known = layout.active.as_ref().is_some_and(|active| !known(active).is_empty());
        let sealed = !layout.sealed.is_empty();
        let all = [
            (Self::Removed, sealed),
            (Self::Flipped, sealed),
            (Self::Flipped, sealed),
            (Self::Header, sealed),
            (Self::Tail, is_tail_known),
            (Self::Tail, is_tail_known),
            (Self::NoManifest, true),
            (Self::BadManifest, true),
        ];
        let possible: Vec<Self> = all.iter().filter(|(_, can)| *can).map(|(kind, _)| *kind).collect();
        possible[random.below(possible.len() as u64) as usize]
    }
}

impl Damage {
    /// Does `kind` to the log, and changes bytes of sealed segments besides.
    pub(crate) fn inflict(kind: Kind, layout: &Layout, ledger: &Ledger, random: &mut Random) -> io::Result<Self> {
        let mut damage = Self::default();
        let mut sealed = in_any_order(&layout.sealed, random).into_iter();
        match kind {
            Kind::Removed => {
                for segment in sealed.by_ref().take(1 + random.below(MOST_REMOVED) as usize) {
                    damage.remove(layout, segment)?;
                }
            }
            Kind::Header => sealed.next().map_or(Ok(()), |segment| damage.spoil_header(layout, segment, random))?,
            Kind::Tail => {
                let active = layout.active.as_ref();
                active.map_or(Ok(()), |active| damage.flip(layout, active, known(active), ledger, random))?;
            }
            Kind::NoManifest | Kind::BadManifest => damage.lose_manifest(layout, kind == Kind::NoManifest)?,
            Kind::Flipped => {}
        }
        // A repair of one segment is over before a kill comes.
        let besides = if kind == Kind::Flipped { 1 + random.below(MOST_FLIPPED) } else { random.below(MOST_FLIPPED) };
        for segment in sealed.take(besides as usize) {
            damage.flip(layout, segment, &segment.places, ledger, random)?;
        }
        Ok(damage)
    }

    /// Takes a segment away.
    fn remove(&mut self, layout: &Layout, segment: &Segment) -> io::Result<()> {
        fs::remove_file(layout.dir.join(&segment.name))?;
        self.what.push(format!("segment {} removed", segment.ordinal));
        self.hit.extend(segment.places.iter().map(|place| place.seq));
        self.removed.push(segment.ordinal);
        Ok(())
    }

    /// Changes a byte of one of `places`.
    fn flip(
        &mut self,
        layout: &Layout,
        segment: &Segment,
        places: &[Place],
        ledger: &Ledger,
        random: &mut Random,
    ) -> io::Result<()> {
        let place = places[random.below(places.len() as u64) as usize];
        let offset = place.offset + random.below(place.len);
        change(&layout.dir.join(&segment.name), offset, &mut [0], 1 << random.below(8))?;
        self.what.push(format!("a bit of byte {offset} of segment {}, in record {}", segment.ordinal, place.seq));
        self.hit.extend(may_lose(segment, ledger, place.seq));
        self.flipped.insert(segment.name.clone());
        Ok(())
    }

    fn spoil_header(&mut self, layout: &Layout, segment: &Segment, random: &mut Random) -> io::Result<()> {
        let offset = IDENTITIES[random.below(2) as usize];
        change(&layout.dir.join(&segment.name), offset, &mut [0; IDENTITY], 0xff)?;
        self.what.push(format!("the header at byte {offset} of segment {}", segment.ordinal));
        Ok(())
    }

    fn lose_manifest(&mut self, layout: &Layout, whole: bool) -> io::Result<()> {
        let path = layout.dir.join(MANIFEST);
        if whole {
            fs::remove_file(&path)?;
        } else {
            let len = fs::metadata(&path)?.len();
            for slot in [0, len / 2] {
                change(&path, slot, &mut [0; IDENTITY], 0xff)?;
            }
        }
        self.what.push(format!("the MANIFEST {}", if whole { "removed" } else { "unreadable" }));
        self.manifest = true;
        Ok(())
    }
}

fn in_any_order<'a>(segments: &'a [Segment], random: &mut Random) -> Vec<&'a Segment> {
    let mut order: Vec<&Segment> = segments.iter().collect();
    (1..order.len()).for_each(|last| order.swap(last, random.below(last as u64 + 1) as usize));
    order
}

/// The records that are known to have been durable.
fn known(segment: &Segment) -> &[Place] {
    let count = segment.places.partition_point(|place| place.offset + place.len <= segment.witnessed);
    &segment.places[..count]
}

/// The batch of the record `seq`, and the next one of its segment: it may be that nothing says that it begins there.
fn may_lose(segment: &Segment, ledger: &Ledger, seq: u64) -> impl Iterator<Item = u64> {
    let batch = |seq: u64| {
        ledger
            .records()
            .get(&seq)
            .map_or((seq, seq), |part| (seq.saturating_sub(part.at as u64), seq + (part.count - 1 - part.at) as u64))
    };
    let (first, last) = batch(seq);
    let is_next = |place: &Place| place.seq == last + 1;
    let last = if segment.places.iter().any(is_next) { batch(last + 1).1 } else { last };
    first..=last
}

/// Turns the bits `with` of the bytes at `offset`, as many as fit `room`, around.
fn change(path: &Path, offset: u64, room: &mut [u8], with: u8) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    file.read_exact_at(room, offset)?;
    room.iter_mut().for_each(|byte| *byte ^= with);
    file.write_all_at(room, offset)
}
