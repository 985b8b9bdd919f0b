//! Opens directories made of the input, for reading, for examining and for writing. No panic; the verdict and the records
//! of the independent parser; nothing written by an open that fails; what was recovered once is recovered again, and the
//! log goes on; memory and work linear in the size of the files.
//!
//! An input that begins with 255 is cut in three and taken as the files themselves. Any other is a program that builds
//! a directory (`src/directory.rs`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmap_wal_fuzz::directory::{raw, structured};
use mmap_wal_fuzz::judge::judge;
use mmap_wal_fuzz::place::place;
use mmap_wal_fuzz::steps;

fuzz_target!(|input: &[u8]| {
    let directory = match input.split_first() {
        Some((255, files)) => raw(files),
        _ => structured(&steps::read(input, 64)),
    };
    if let Err(wrong) = judge(place(), &directory, &|_, _| Ok(())) {
        panic!("{wrong}");
    }
});
