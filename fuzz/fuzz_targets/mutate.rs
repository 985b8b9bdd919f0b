//! Makes a log by operations, damages its files in any way, and looks at it: the verdict and the records are those of the
//! independent parser, and what is shown is the beginning of what was there, never another payload. Where a file was put
//! back as it once was, or the log was repaired, something else may be shown, but no record that never was.
//!
//! The first bit of the first step closes the log. Kinds from 128 on are damage; 127 remembers the files as they are.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mmap_wal_fuzz::directory::Directory;
use mmap_wal_fuzz::executor::Run;
use mmap_wal_fuzz::judge::{Repaired, judge};
use mmap_wal_fuzz::place::place;
use mmap_wal_fuzz::reference::{Files, Rec};
use mmap_wal_fuzz::steps::Step;
use mmap_wal_fuzz::{damage, history, steps};

const REMEMBER: u8 = 127;
const DAMAGE: u8 = 128;

fuzz_target!(|input: &[u8]| {
    let steps = steps::read(input, 48);
    let Some((setup, steps)) = steps.split_first() else { return };
    if let Err(wrong) = damaged(setup, steps) {
        panic!("{wrong}");
    }
});

fn damaged(setup: &Step, steps: &[Step]) -> Result<(), String> {
    let mut run = Run::new()?;
    let mut before = Files::new();
    for step in steps {
        match step.kind {
            REMEMBER => before = run.files(),
            DAMAGE.. => {}
            _ => run.step(&history::op(step))?,
        }
    }
    let (truth, ever) = (run.truth(), run.ever());
    let mut files = if setup.a & 1 != 0 { run.close()? } else { run.files() };
    let stale = steps.iter().filter(|step| step.kind >= DAMAGE).fold(false, |stale, step| {
        let step = Step { kind: step.kind - DAMAGE, ..*step };
        damage::damage(&mut files, &before, &step) || stale
    });
    let directory = Directory {
        files,
        odd: Vec::new(),
        strict: setup.a & 2 != 0,
        create: false,
        pages: setup.b as u8 % 4,
        crafted: false,
    };
    let ever: HashSet<(u64, u16, &[u8])> = ever.iter().map(|rec| (rec.seq, rec.tag, &rec.payload[..])).collect();
    judge(place(), &directory, &|shown, repaired| {
        if let Some(wrong) = shown.iter().find(|rec| !ever.contains(&(rec.seq, rec.tag, &rec.payload[..]))) {
            return Err(format!("record {} was never appended so", wrong.seq));
        }
        if stale || repaired == Repaired::Yes || is_prefix(shown, &truth) {
            Ok(())
        } else {
            Err("not the beginning of what was there".into())
        }
    })
}

fn is_prefix(shown: &[Rec], truth: &[Rec]) -> bool {
    truth.starts_with(shown)
}
