//! Making durable what was found, each step synced before the next, so that what an open shows once it always shows.
//!
//! Everything here goes through file calls: through a map, a store could fault, or be left out because the byte has the
//! value already. Each step can be done again, so a crash in one is recovered by the next open.

use crate::error::{Error, Operation, Result};
use crate::format::PAGE;
use crate::format::manifest::Entry;
use crate::format::segment::{self, BEGUN_AT, CLOSED, DURABLE_AT, FRAMES_AT, IDENTITY_AT, Identity, PUBLISHED_AT};
use crate::manifest::ManifestFile;
use crate::planted::{Bug, planted};
use crate::recovery::examine::{Examined, Image};
use crate::scan;
use crate::segment::file_name;
use crate::storage::{Storage, StoredFile};

/// How much is written by one call.
const CHUNK: usize = 64 * PAGE;

/// Makes durable what `examined` found, and the state of the log with it. Returns `false` if there is no space to write that
/// state, which [`write_state`] has to do before anything is appended; what was found is durable all the same.
pub(crate) fn settle(storage: &Storage, manifest: &mut ManifestFile, examined: &Examined) -> Result<bool> {
    manifest.settle()?;
    if !examined.closed {
        for kept in kept_segments(examined) {
            make_durable(&opened(storage, &kept)?, &kept)?;
        }
    }
    match write_state(storage, manifest, examined) {
        // A limit of this process on the size of files does not pass.
        Err(Error::NoSpace(failure)) if !failure.is_limit() && keeps_entries(manifest, examined) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Writes the state of the log: where its records end, and that it is open.
///
/// # Errors
/// What the system says; for want of space the log is as before.
pub(crate) fn write_state(storage: &Storage, manifest: &mut ManifestFile, examined: &Examined) -> Result<()> {
    let log_id = manifest.current().header.log_id;
    for kept in kept_segments(examined) {
        let file = opened(storage, &kept)?;
        restore_identity(&file, kept.image, log_id)?;
        publish(&file, &kept)?;
        if !examined.closed && !kept.complete && !planted(Bug::NoScrub) {
            scrub(&file, &kept)?;
        }
    }
    let is_settled = manifest.current().header.clean_offset == 0 && keeps_entries(manifest, examined);
    let updated = manifest.update(|next| {
        next.header.clean_offset = 0;
        next.entries = entries_of(examined, &next.entries);
    });
    match updated {
        // Blocks that are shared with another file, and a full disk: the manifest says all that as it is.
        Err(Error::NoSpace(_)) if is_settled => Ok(()),
        other => other,
    }
}

fn keeps_entries(manifest: &ManifestFile, examined: &Examined) -> bool {
    let entries = &manifest.current().entries;
    entries_of(examined, entries) == *entries
}

fn opened(storage: &Storage, kept: &Kept<'_>) -> Result<StoredFile> {
    storage.open_write(file_name(kept.image.entry.ordinal).as_str())
}

/// An unsealed segment that holds records.
struct Kept<'a> {
    image: &'a Image,
    base_seq: u64,
    /// Where its records end.
    end: usize,
    /// Below this everything was durable.
    durable: usize,
    /// Whether the log goes on in the next segment.
    complete: bool,
}

fn kept_segments(examined: &Examined) -> Vec<Kept<'_>> {
    let judged = &examined.judged;
    let active = &examined.images[0];
    let last = Kept {
        image: examined.last(),
        base_seq: judged.base_seq,
        end: judged.walk.cut,
        durable: judged.durable.min(judged.walk.cut),
        complete: false,
    };
    match judged.completed {
        None => vec![last],
        Some((end, _)) => {
            let durable = judged.active_durable.min(end);
            vec![Kept { image: active, base_seq: active.entry.base_seq, end, durable, complete: true }, last]
        }
    }
}

/// Writes a damaged copy of the identity again.
fn restore_identity(file: &StoredFile, image: &Image, log_id: [u8; 16]) -> Result<()> {
    let Entry { ordinal, salt, capacity, .. } = image.entry;
    let copies = IDENTITY_AT.map(|at| Identity::decode(&image.head[at..]));
    if copies.iter().all(Option::is_some) {
        return Ok(());
    }
    let other = copies.iter().flatten().next();
    let (created, replaces) = other.map_or((0, 0), |copy| (copy.created, copy.replaces));
    let whole = Identity { salt, log_id, ordinal, capacity, created, replaces }.encode();
    for (at, copy) in IDENTITY_AT.into_iter().zip(copies) {
        if copy.is_none() {
            file.write_at(&whole, at as u64)?;
        }
    }
    sync(file)
}

/// Writes everything that is not known to be durable again, with the same bytes, and syncs it.
///
/// After a failed sync the kernel may hold such pages as clean: only a page that is dirty again reaches the disk.
fn make_durable(file: &StoredFile, kept: &Kept<'_>) -> Result<()> {
    if !planted(Bug::NoRedirty) {
        let from = kept.durable - kept.durable % PAGE;
        match write_again(file, PAGE, FRAMES_AT).and_then(|()| write_again(file, from, kept.end)) {
            // Holes, or blocks that are shared with another file, and a full disk. What cannot be made dirty counts as it
            // comes from the device.
            Err(Error::NoSpace(_)) => sync(file).and_then(|()| file.forget_cached())?,
            other => other?,
        }
        check_again(file, kept)?;
    }
    sync(file)
}

fn write_again(file: &StoredFile, from: usize, to: usize) -> Result<()> {
    let mut bytes = vec![0; CHUNK];
    for at in (from..to).step_by(CHUNK) {
        let chunk = &mut bytes[..CHUNK.min((to - at).next_multiple_of(PAGE))];
        file.read_at(chunk, at as u64)?;
        file.write_at(chunk, at as u64)?;
    }
    Ok(())
}

/// Between the scan and the writing a page may have been dropped and come back from the disk as it was before: what is
/// kept must still be there now that it is dirty and cannot be dropped.
fn check_again(file: &StoredFile, kept: &Kept<'_>) -> Result<()> {
    let map = file.map_read_only(kept.end, kept.end)?;
    file.populate_read(&map, FRAMES_AT..kept.end)?;
    let walk = scan::walk(map.prefix(), kept.image.entry.salt, kept.base_seq);
    if walk.cut == kept.end {
        return Ok(());
    }
    let source =
        std::io::Error::other("its bytes changed while they were read, the device does not keep what it holds");
    Err(Error::io(Operation::Recover, file.path(), source))
}

/// Shows other processes where the segment's records end, and bears witness that all of them are durable: the manifest
/// will not say so once the log is open. Where the segment begins, it says in case the manifest is lost: what a cut or a
/// reset had stored of that may not have been synced. Of the first segment of a log everybody knows it.
fn publish(file: &StoredFile, kept: &Kept<'_>) -> Result<()> {
    let Entry { ordinal, salt, capacity, .. } = kept.image.entry;
    let (head, end, closed) = (&kept.image.head, kept.end as u64, if kept.complete { CLOSED } else { 0 });
    let published = (end | closed).to_le_bytes();
    let is_begun = ordinal == 1 || segment::begun(head, salt) == Some(kept.base_seq);
    let is_published = head[PUBLISHED_AT..].starts_with(&published);
    if is_begun && is_published && segment::durable(head, salt, capacity as usize) == Some(kept.end) {
        return Ok(());
    }
    if !is_begun {
        let begun = segment::checked(salt, kept.base_seq);
        BEGUN_AT.into_iter().try_for_each(|at| file.write_at(&begun, at as u64))?;
    }
    file.write_at(&published, PUBLISHED_AT as u64)?;
    let durable = segment::checked(salt, end);
    for at in DURABLE_AT {
        file.write_at(&durable, at as u64)?;
    }
    sync(file)
}

/// Makes everything behind the append position zero, so that nothing that was cut comes back.
fn scrub(file: &StoredFile, kept: &Kept<'_>) -> Result<()> {
    let (mut at, mut dirty, mut written) = (kept.end, false, Ok(()));
    let capacity = kept.image.entry.capacity as usize;
    let mut bytes = vec![0; CHUNK];
    while at < capacity && written.is_ok() {
        let chunk = &mut bytes[..(CHUNK - at % CHUNK).min(capacity - at)];
        file.read_at(chunk, at as u64)?;
        if !scan::is_zero(chunk) {
            chunk.fill(0);
            dirty = true;
            written = file.write_at(chunk, at as u64);
        }
        at += chunk.len();
    }
    // Also what was zeroed in front of a failure: it will not be found again.
    let synced = if dirty && !planted(Bug::ScrubNotSynced) { sync(file) } else { Ok(()) };
    synced.and(written)
}

/// After a failed sync, whatever the reason, pages may be clean that the device does not have.
fn sync(file: &StoredFile) -> Result<()> {
    file.sync().map_err(Error::once_begun)
}

/// The segments as recovery leaves them: what is complete is sealed, what was used and cut is dropped.
fn entries_of(examined: &Examined, before: &[Entry]) -> Vec<Entry> {
    let judged = &examined.judged;
    let active_at = before.len() - 1 - spares_in(before);
    let mut entries = before[..active_at].to_vec();
    let active = before[active_at];
    match judged.completed {
        None => entries.push(active),
        Some((end, last_seq)) => {
            entries.push(Entry { end_offset: end as u64, last_seq, ..active });
            entries.push(Entry { base_seq: judged.base_seq, ..before[active_at + judged.judged] });
        }
    }
    let spares = before[active_at + 1..].iter().enumerate();
    let unused = spares.filter(|(i, _)| i + 1 != judged.judged && !examined.used_spares.contains(&(i + 1)));
    entries.extend(unused.map(|(_, spare)| *spare));
    entries
}

fn spares_in(entries: &[Entry]) -> usize {
    entries.iter().rev().take_while(|entry| entry.base_seq == 0).count()
}
