//! Proves that no single damaged byte of a log is taken for anything but what the format page says: for every byte of
//! headers, words and frames of small logs, and a sample of what is zero behind them, the verdict and the records are
//! those of the reference parser, from a writer and from a reader; what is shown is what was appended; what was
//! witnessed as durable is shown or its loss is an error; and an open that fails has written nothing.
//! Does not prove anything about damage in several places, that is `scars`, or about a file's earlier life.
#![allow(missing_docs)]

mod fixture;
mod images;
mod reference;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fixture::{SMALLEST, scratch};
use images::{Image, check, closed, killed, rotated_and_not_sealed, rotated_and_not_synced, torn_batch};
use reference::{Files, Parsed, Tail, Verdict};

/// Where bytes are flipped: everywhere that is in use, and a sample of the rest.
fn positions(name: &str, bytes: &[u8]) -> Vec<usize> {
    let used = |from: usize, to: usize| {
        let last = bytes[from..to].iter().rposition(|byte| *byte != 0).map_or(from, |last| from + last + 1);
        from..(last + 32).min(to)
    };
    let (parts, stride) = if name == "MANIFEST" {
        let half = bytes.len() / 2;
        (vec![used(0, half), used(half, 2 * half)], 997)
    } else {
        (vec![used(0, 4096), used(4096, 8192), used(8192, bytes.len())], 53)
    };
    (0..bytes.len()).filter(|at| at % stride == 0 || parts.iter().any(|part| part.contains(at))).collect()
}

/// What a byte becomes: its opposite, and for every `every`th byte one with a single bit flipped or one that hardware
/// likes to show.
fn damaged(byte: u8, at: usize, every: usize) -> Vec<u8> {
    let other = [byte ^ (1 << (at / every % 8)), 0, 0xFF][at / every % 3];
    let second = (at.is_multiple_of(every) && other != byte && other != !byte).then_some(other);
    [Some(!byte), second].into_iter().flatten().collect()
}

static TURN: Mutex<()> = Mutex::new(());

/// Flips every byte of `image`, shared out to two threads.
fn flip_every_byte(image: &Image, every: usize) {
    let _one_at_a_time = TURN.lock();
    let flips: Vec<(&String, usize)> = image
        .files
        .iter()
        .filter(|(name, _)| !["LOCK", "READERS", "STATS"].contains(&name.as_str()))
        .flat_map(|(name, bytes)| positions(name, bytes).into_iter().map(move |at| (name, at)))
        .collect();
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(std::collections::BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (dir, mut files) = (scratch(), image.files.clone());
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, at)) = flips.get(i) else { break };
                    let original = image.files[*name][*at];
                    for value in damaged(original, *at, every) {
                        files.get_mut(*name).expect("the file")[*at] = value;
                        let parsed = check(image, dir.path(), &files, i.is_multiple_of(8)).unwrap_or_else(|e| {
                            next.store(flips.len(), Ordering::Relaxed);
                            panic!("{}: byte {at} of {name} from {original:#x} to {value:#x}: {e}", image.name)
                        });
                        *verdicts.lock().expect("a lock").entry(kind(&parsed)).or_insert(0) += 1;
                    }
                    files.get_mut(*name).expect("the file")[*at] = original;
                }
            });
        }
    });
    println!("{}: {} bytes, {:?}", image.name, flips.len(), verdicts.lock().expect("a lock"));
}

fn kind(parsed: &Parsed) -> String {
    match &parsed.verdict {
        Verdict::Ok { .. } if parsed.sealed_damage.is_some() => "damage in a sealed segment".into(),
        Verdict::Ok { tail, .. } => format!("{tail:?} end"),
        Verdict::Corrupt { .. } => "Corrupt".into(),
        other => format!("{other:?}"),
    }
}

/// The image itself, whole, is what the name says.
fn check_whole(image: &Image, tail: Tail, missing: u64) {
    let parsed = check(image, scratch().path(), &image.files, true).unwrap_or_else(|e| panic!("{}: {e}", image.name));
    assert!(matches!(parsed.verdict, Verdict::Ok { tail: found, .. } if found == tail), "{:?}", parsed.verdict);
    assert_eq!(parsed.last_seq + missing, image.appended.len() as u64, "{}", image.name);
}

#[test]
fn every_flipped_byte_of_a_closed_log_is_judged_as_the_format_says() {
    let image = closed();
    check_whole(&image, Tail::Clean, 0);
    flip_every_byte(&image, 5);
}

#[test]
fn every_flipped_byte_of_a_killed_log_is_judged_as_the_format_says() {
    let image = killed();
    check_whole(&image, Tail::Clean, 0);
    flip_every_byte(&image, 1);
}

#[test]
fn every_flipped_byte_behind_a_rotation_that_is_not_synced_is_judged_as_the_format_says() {
    let image = rotated_and_not_synced();
    check_whole(&image, Tail::Clean, 0);
    flip_every_byte(&image, 5);
}

#[test]
fn every_flipped_byte_behind_a_rotation_that_is_not_sealed_is_judged_as_the_format_says() {
    let image = rotated_and_not_sealed();
    check_whole(&image, Tail::Clean, 0);
    flip_every_byte(&image, 5);
}

#[test]
fn every_flipped_byte_before_a_torn_batch_is_judged_as_the_format_says() {
    let image = torn_batch();
    check_whole(&image, Tail::Torn, 4);
    flip_every_byte(&image, 5);
}

/// With both slots damaged there is no manifest, whatever byte it is.
#[test]
fn the_same_byte_flipped_in_both_slots_is_no_manifest() {
    let (image, dir) = (killed(), scratch());
    let mut files = image.files.clone();
    let half = files["MANIFEST"].len() / 2;
    let used = files["MANIFEST"][..half].iter().rposition(|byte| *byte != 0).expect("a slot") + 1;
    for at in 0..used {
        let flip = |files: &mut Files| {
            let manifest = files.get_mut("MANIFEST").expect("the manifest");
            manifest[at] ^= 0x55;
            manifest[half + at] ^= 0x55;
        };
        flip(&mut files);
        let parsed = check(&image, dir.path(), &files, false).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        assert_eq!(parsed.verdict, Verdict::NoManifest, "byte {at}");
        flip(&mut files);
    }
}

/// A file that is shorter or longer than the manifest says, or not there.
#[test]
fn a_file_of_another_length_is_missing() {
    let (image, dir) = (killed(), scratch());
    for name in image.files.keys().filter(|name| name.ends_with(".wal")) {
        for len in [None, Some(0), Some(8192), Some(SMALLEST as usize - 1), Some(2 * SMALLEST as usize)] {
            let mut files = image.files.clone();
            match len {
                None => drop(files.remove(name)),
                Some(len) => files.get_mut(name).expect("the file").resize(len, 0),
            }
            let parsed = check(&image, dir.path(), &files, false).unwrap_or_else(|e| panic!("{name} {len:?}: {e}"));
            assert!(matches!(parsed.verdict, Verdict::Missing { .. }), "{name} {len:?}");
        }
    }
}
