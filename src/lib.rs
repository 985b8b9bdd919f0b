//! A memory-mapped segment write-ahead log: an append-only sequence of numbered records that survives crashes.
//!
//! A program appends what it is about to do, does it, and after a crash replays what it may have lost. Records are bytes.
//! They get sequence numbers from 1 on, without gaps. They stand in preallocated segment files that are mapped into
//! memory: an append encodes straight into the map, and a replay lends out slices of it.
//!
//! ```
//! # fn main() -> Result<(), mmap_wal::Error> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let dir = dir.path();
//! use mmap_wal::Wal;
//!
//! let wal = Wal::open(dir)?;
//! let seq = wal.append(b"one record, durable on return")?;
//! wal.append_batch(&["all of these", "or none"])?;
//!
//! // The program has saved its own state up to here, and needs no earlier record again.
//! wal.checkpoint(seq)?;
//! wal.truncate_front(seq)?;
//! wal.close()?;
//!
//! // The next start: what is there is durable, and only what came after the checkpoint is replayed.
//! let wal = Wal::open(dir)?;
//! for record in wal.snapshot().replay(wal.positions().checkpoint)? {
//!     let record = record?;
//!     println!("{}: {} bytes", record.seq(), record.payload().len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Durability
//!
//! | what returned `Ok` | after a crash of the process | after a loss of power |
//! |---|---|---|
//! | a single append, [`SyncMode::Sync`] | kept | kept |
//! | a single append, [`SyncMode::Batch`] | kept | the last ones may be lost: at most twice `records` and one for each appending thread |
//! | a single append, [`SyncMode::None`] | kept | what came after the last sync may be lost |
//! | [`append_batch`](Wal::append_batch), [`sync`](Wal::sync), [`checkpoint`](Wal::checkpoint), [`truncate_front`](Wal::truncate_front), [`set_meta`](Wal::set_meta), in every mode | kept | kept |
//!
//! What is lost is always the end of the log, never something in the middle, and a batch is kept whole or not at all.
//! Media are assumed to write a sector of 512 bytes whole or not at all, and to keep what they report as flushed.
//!
//! Opening a log cuts a *torn end*, which a crash may leave, and refuses *damage* to what is known to have been durable
//! with [`Error::Corrupt`]. Damage to a sealed segment, which opening does not read, is reported by the replay that comes
//! to it. One thing cannot be known: if the very last synced records are damaged and nothing written later testifies
//! that they were there, they look like a torn end. [`RecoveryReport`] tells what was cut, and
//! [`Options::strict`] refuses to cut.
//!
//! A failed sync poisons the log ([`Error::Poisoned`]): nothing more is written until it is opened again.
//!
//! # Threads and processes
//!
//! [`Wal`] is shared by reference between threads; concurrent appends share syncs. One handle writes a log at a time,
//! guarded by the operating system's file lock. Any number of [`Reader`]s, in this or other processes, read beside it.
//! After `fork`, a child that uses a handle of its parent gets [`Error::Forked`]; it opens the log itself.
//!
//! # Features
//!
//! - `cli` (off by default): the command `mmap-wal` and what it depends on. It changes nothing in the library.
//!
//! # Requirements
//!
//! A Unix with a local file system; Linux first. Rust 1.89 or later.
#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!("mmap-wal needs a Unix: it relies on flock, on mmap and on directory syncs");

// The examples of the README are compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod ahead;
mod append;
mod blank;
mod board;
mod callback;
mod commit;
mod doorbell;
mod engine;
mod error;
mod event;
mod format;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod index;
pub mod inspect;
mod limits;
mod lingering;
mod live;
mod manifest;
mod map;
mod options;
mod pending;
#[doc(hidden)]
pub mod planted;
mod prepare;
mod presence;
mod reader;
mod recovery;
mod scan;
mod segment;
mod snapshot;
mod storage;
mod sync;
mod tail;
mod truncate;
mod view;
mod wakers;
mod wal;
mod watch;
mod worker;

pub use crate::append::Seqs;
pub use crate::error::{
    Corruption, Destination, Error, Foreign, InvalidOptions, IoFailure, LockKind, MapLimit, MissingSegment, Operation,
    Result, StaleManifest,
};
pub use crate::event::{Event, Histogram, Stats};
pub use crate::live::Positions;
pub use crate::options::{Background, Options, SyncMode};
pub use crate::pending::Pending;
pub use crate::reader::{Reader, ReaderOptions};
pub use crate::recovery::report::{Cut, RecoveryReport, TailState};
pub use crate::snapshot::{Cursor, IntoReplay, PinnedRecord, Record, Replay, ReplayBack, Snapshot};
#[doc(hidden)]
pub use crate::storage::{Act, Observer};
pub use crate::tail::{Available, Idle, Tail};
pub use crate::wal::Wal;
