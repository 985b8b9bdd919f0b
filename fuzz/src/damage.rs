//! Damage to the files of a log, made of an input: any damage, not only what a loss of power may do.

use crate::reference::Files;
use crate::steps::Step;

/// So many kinds of damage there are.
pub const KINDS: u8 = 10;
/// The kinds that seeds use by name.
pub const FLIP: u8 = 0;
pub const ZERO: u8 = 1;
pub const COPY: u8 = 2;
pub const SWAP: u8 = 3;
pub const SLOTS: u8 = 5;
pub const STALE: u8 = 9;

const SECTOR: usize = 512;

/// The name of the file that a number means: those of the locks hold nothing, and that of the
/// figures is no part of the log.
fn name(files: &Files, number: u8) -> Option<String> {
    let is_log = |name: &&String| !["LOCK", "READERS", "STATS"].contains(&name.as_str());
    let names: Vec<&String> = files.keys().filter(is_log).collect();
    names.get(usize::from(number) % names.len().max(1)).map(|name| (*name).clone())
}

/// An offset in a file of `len` bytes, mostly where something stands.
fn offset(step: &Step, number: u32, len: usize) -> usize {
    let number = number as usize;
    let at = match step.a >> 6 {
        0 => number,
        1 => number % 256,
        2 => 4096 + number % 1024,
        _ => 8192 + number % 4096,
    };
    at % len.max(1)
}

/// Damages `files`; `before` is what they were at an earlier moment. Says whether something was put back from there.
pub fn damage(files: &mut Files, before: &Files, step: &Step) -> bool {
    let Some(name) = name(files, step.a & 15) else { return false };
    let len = files[&name].len();
    let at = offset(step, step.x, len);
    let other_at = offset(step, u32::from(step.b) * 8, len);
    match step.kind % KINDS {
        ZERO => sector(files, &name, at).fill(0),
        COPY => {
            let copied = sector(files, &name, at).to_vec();
            overwrite(sector(files, &name, other_at), &copied);
        }
        SWAP => {
            let (one, other) = (sector(files, &name, at).to_vec(), sector(files, &name, other_at).to_vec());
            overwrite(sector(files, &name, at), &other);
            overwrite(sector(files, &name, other_at), &one);
        }
        4 => swap_files(files, &name, step),
        SLOTS => {
            let bytes = files.get_mut(&name).map(Vec::as_mut_slice).unwrap_or_default();
            let half = bytes.len() / 2;
            bytes.rotate_left(half);
        }
        6 => drop(files.remove(&name)),
        7 => {
            let to = if step.b & 1 == 0 { at } else { len + SECTOR * usize::from(step.b >> 8) };
            files.entry(name).or_default().resize(to, 0);
        }
        8 => {
            // A sector of another file at the same place.
            let from = sector_of(files, step.b as u8, at);
            overwrite(sector(files, &name, at), &from);
        }
        STALE => return put_back(files, before, &name, at, step),
        _ => {
            if let Some(byte) = files.get_mut(&name).and_then(|bytes| bytes.get_mut(at)) {
                *byte ^= (step.b as u8).max(1);
            }
        }
    }
    false
}

fn sector<'a>(files: &'a mut Files, name: &str, at: usize) -> &'a mut [u8] {
    let bytes = files.get_mut(name).map(Vec::as_mut_slice).unwrap_or_default();
    let from = at - at % SECTOR;
    let to = (from + SECTOR).min(bytes.len());
    bytes.get_mut(from..to).unwrap_or_default()
}

fn sector_of(files: &mut Files, number: u8, at: usize) -> Vec<u8> {
    let Some(other) = name(files, number) else { return Vec::new() };
    sector(files, &other, at).to_vec()
}

fn overwrite(bytes: &mut [u8], with: &[u8]) {
    bytes.iter_mut().zip(with).for_each(|(byte, with)| *byte = *with);
}

fn swap_files(files: &mut Files, one: &str, step: &Step) {
    let Some(other) = name(files, step.b as u8) else { return };
    let (a, b) = (files[one].clone(), files[&other].clone());
    files.insert(one.to_owned(), b);
    files.insert(other, a);
}

/// A file, or a sector of it, as it was.
fn put_back(files: &mut Files, before: &Files, name: &str, at: usize, step: &Step) -> bool {
    let Some(old) = before.get(name) else { return false };
    if step.b & 1 == 0 {
        files.insert(name.to_owned(), old.clone());
    } else {
        let from = at - at % SECTOR;
        let old = old.get(from..).unwrap_or_default();
        overwrite(sector(files, name, at), &old[..old.len().min(SECTOR)]);
    }
    true
}
