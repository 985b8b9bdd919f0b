//! Does the operations that the input is to a log and to the model of the tests, and compares: what is returned, what is
//! shown to the writer, to a reader and to the independent parser, before and after closes and kills.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mmap_wal_fuzz::executor::run;
use mmap_wal_fuzz::{history, steps};

fuzz_target!(|input: &[u8]| {
    let ops: Vec<_> = steps::read(input, 48).iter().map(history::op).collect();
    if let Err(wrong) = run(&ops) {
        panic!("{wrong}");
    }
});
