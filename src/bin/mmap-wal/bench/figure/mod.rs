//! The figures, each by its name.

mod append;
mod durable;
mod get;
mod group;
mod handoff;
mod open;
mod readers;
mod reopen;
mod scan;
mod space;
mod stalls;

pub(crate) use crate::bench::figure::handoff::receive;
pub(crate) use crate::bench::figure::space::weigh;

use crate::bench::ground::{Ground, Measured};
use crate::failure::Failure;

/// The payload of a record, unless a figure says otherwise.
const PAYLOAD: [u8; 128] = [0xa5; 128];
/// Where the frames of a segment begin.
const FRAMES_AT: u64 = 8192;
/// What the memory floor is.
const MEMORY_FLOOR: &str = "checksum, copy of header and payload, one release store, in memory that is there";

/// What can be measured.
pub(crate) struct Figure {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) what: &'static str,
    /// Measures it.
    pub(crate) measure: fn(&Ground) -> Result<Measured, Failure>,
}

/// All of them, in the order in which they are taken.
pub(crate) const FIGURES: &[Figure] = &[
    Figure { name: "append-none", what: "append, None, one after the other, with rotations", measure: append::none },
    Figure { name: "faults", what: "page faults of the appending thread, None", measure: append::faults },
    Figure { name: "append-sync", what: "append, Sync, 128 B and 4 KiB", measure: durable::single },
    Figure { name: "batch", what: "append_batch of 100 records", measure: durable::batch },
    Figure { name: "group", what: "append, Sync, from 8 and 32 threads", measure: group::commit },
    Figure { name: "reopen", what: "open after a clean close", measure: reopen::reopen },
    Figure { name: "scan", what: "look, verify and replay, 128 B and 1 KiB", measure: scan::scan },
    Figure { name: "get", what: "look a record up by its number", measure: get::get },
    Figure { name: "bytes", what: "bytes written for a byte of frames, None, files used again", measure: space::bytes },
    Figure { name: "heap", what: "heap of a writer and a reader for a record", measure: space::heap },
    Figure { name: "handoff", what: "from append in one process to try_next in another", measure: handoff::handoff },
    Figure { name: "readers", what: "replay by 1, 2 and 4 readers beside a writer", measure: readers::readers },
    Figure {
        name: "stall",
        what: "faults, rotations, preparation, and the host's own mmap calls",
        measure: stalls::stalls,
    },
    Figure { name: "append-batch-open", what: "append, Batch, 100 k/s in an open loop", measure: open::batch },
    Figure { name: "append-none-open", what: "append, None, 1 M/s and 100 k/s in an open loop", measure: open::none },
];
