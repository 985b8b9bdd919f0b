//! A memory-mapped segment write-ahead log.
#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!("mmap-wal needs a Unix: it relies on flock, on mmap and on directory syncs");

mod append;
mod commit;
mod engine;
mod error;
mod format;
mod index;
mod manifest;
mod map;
mod options;
#[doc(hidden)]
pub mod planted;
mod prepare;
mod reader;
mod recovery;
mod scan;
mod segment;
mod snapshot;
mod storage;
mod wal;

pub use crate::append::Seqs;
pub use crate::error::{Corruption, Error, Foreign, InvalidOptions, IoFailure, MissingSegment, Result};
pub use crate::options::{Options, SyncMode};
pub use crate::reader::Reader;
pub use crate::recovery::report::{Cut, RecoveryReport, TailState};
pub use crate::snapshot::{IntoReplay, PinnedRecord, Record, Replay, Snapshot};
#[doc(hidden)]
pub use crate::storage::{Act, Observer};
pub use crate::wal::{Positions, Wal};
