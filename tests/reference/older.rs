//! Whether the segment files say that the MANIFEST is older than they are.

use super::manifest::{Entry, Manifest};
use super::segment::{FRAMES, Identity, Segment, identities};
use super::{Files, file_name, ordinal};

/// Where the log ends, if that was found.
#[derive(Clone, Copy)]
pub struct Place {
    pub e: u64,
    /// Bytes of the judged segment behind its cut.
    pub room: usize,
}

pub fn is_older(manifest: &Manifest, files: &Files, end: Option<Place>) -> bool {
    says_the_named(manifest, files) || says_another(manifest, files, end)
}

/// The file of `entry`, if it is there and none of its copies says that it is another segment.
fn there<'a>(manifest: &Manifest, files: &'a Files, entry: &'a Entry) -> Option<Segment<'a>> {
    let bytes = files.get(&file_name(entry.ordinal)).filter(|bytes| bytes.len() as u64 == entry.capacity)?;
    let is_it = |copy: &Identity| {
        (copy.log_id, copy.salt, copy.ordinal, copy.capacity)
            == (manifest.log_id, entry.salt, entry.ordinal, entry.capacity)
    };
    identities(bytes).iter().all(is_it).then_some(Segment { entry, bytes })
}

fn says_the_named(manifest: &Manifest, files: &Files) -> bool {
    let mut unsealed = manifest.entries.iter().filter(|entry| !entry.is_sealed());
    let Some(active_entry) = unsealed.next() else { return false };
    let active = there(manifest, files, active_entry);
    let spares: Vec<Segment<'_>> = unsealed.filter_map(|entry| there(manifest, files, entry)).collect();
    let begun: Vec<u64> = spares.iter().filter_map(Segment::begun).collect();
    let is_closed = manifest.clean_offset != 0;
    let goes_on = active.as_ref().is_some_and(|active| {
        let at = usize::try_from(manifest.clean_offset).unwrap_or(usize::MAX);
        active.durable() > Some(manifest.clean_offset) || active.frame(at).is_some()
    });
    let walk = active.as_ref().map(|active| active.walk(active_entry.base_seq));
    let e = walk.as_ref().map_or(active_entry.base_seq, |walk| walk.e);
    // How many records the active segment can have lost.
    let most = walk.map_or(u64::MAX, |walk| (active_entry.capacity - walk.cut as u64) / 24);
    let is_begun_after_close = spares.iter().any(|spare| spare.begun().is_some() || spare.durable().is_some());
    let is_taken_back = is_closed && (goes_on || is_begun_after_close);
    let is_elsewhere = |base: &u64| *base < e || base - e > most;
    is_taken_back || begun.len() >= 2 || begun.iter().any(is_elsewhere)
}

fn says_another(manifest: &Manifest, files: &Files, end: Option<Place>) -> bool {
    if files.contains_key("UNFINISHED") {
        return false;
    }
    let Some(active) = manifest.entries.iter().find(|entry| entry.end_offset == 0) else { return false };
    let is_sealed =
        |name: &String| manifest.entries.iter().any(|entry| entry.is_sealed() && file_name(entry.ordinal) == **name);
    let of_segments = files.iter().filter(|(name, _)| ordinal(name).is_some() && !is_sealed(name));
    of_segments
        .into_iter()
        .any(|(_, bytes)| identities(bytes).iter().any(|copy| copy_says(manifest, files, active, bytes, copy, end)))
}

fn copy_says(
    manifest: &Manifest,
    files: &Files,
    active: &Entry,
    bytes: &[u8],
    copy: &Identity,
    end: Option<Place>,
) -> bool {
    let is_own = copy.log_id == manifest.log_id && copy.capacity == bytes.len() as u64;
    let makes_sense = copy.salt != 0 && copy.ordinal < 1 << 63 && (12288..=1 << 34).contains(&copy.capacity);
    let makes_sense = makes_sense && copy.capacity.is_multiple_of(4096);
    let is_named = manifest.entries.iter().any(|entry| (entry.ordinal, entry.salt) == (copy.ordinal, copy.salt));
    if !is_own || !makes_sense || is_named || copy.ordinal < active.ordinal || is_unfinished(manifest, files, copy) {
        return false;
    }
    let Identity { salt, ordinal, capacity, .. } = *copy;
    let entry = Entry { ordinal, salt, flags: 0, capacity, base_seq: 0, end_offset: 0, last_seq: 0 };
    let segment = Segment { entry: &entry, bytes };
    let Some(base) = segment.begun() else { return false };
    let has_first = segment.frame(FRAMES).is_some_and(|frame| frame.seq == base);
    let last = if has_first { base } else { base - 1 };
    if last < manifest.first_seq {
        return false;
    }
    let Some(Place { e, room }) = end else { return true };
    let claims = || segment.possible(FRAMES, 0, base).iter().any(|frame| frame.claim.is_some());
    base <= e || base - e > room as u64 / 24 || segment.durable().is_some() || claims()
}

fn is_unfinished(manifest: &Manifest, files: &Files, copy: &Identity) -> bool {
    let replaces_it = |entry: &Entry| {
        let bytes = files.get(&file_name(entry.ordinal));
        bytes.is_some_and(|bytes| identities(bytes).iter().any(|other| other.replaces == copy.replaces))
    };
    copy.replaces != 0 && (files.contains_key(&file_name(copy.replaces)) || manifest.entries.iter().any(replaces_it))
}
