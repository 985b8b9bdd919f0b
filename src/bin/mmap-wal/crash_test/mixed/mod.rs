//! A writer of several threads that appends single records and batches, submits, checkpoints, truncates and cuts, all mixed,
//! and a parent that holds the log to every line it was told.

pub(crate) mod check;
mod gaps;
pub(crate) mod ledger;
pub(crate) mod line;
pub(crate) mod rounds;
pub(crate) mod unit;
pub(crate) mod writer;

use clap::ValueEnum;
use mmap_wal::Background;

/// What a mixed writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// How many threads append.
    pub(crate) threads: u32,
    /// Whether the front is truncated now and then.
    pub(crate) truncate: bool,
    /// Whether the back is cut off now and then.
    pub(crate) cut: bool,
    /// Who prepares and seals segments.
    pub(crate) background: Hosted,
    /// Whether what it leaves is damaged and repaired before it goes on.
    pub(crate) repair: bool,
}

/// Who prepares and seals segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hosted {
    /// A thread of the log's own.
    Thread,
    /// The threads that append.
    Caller,
}

impl Hosted {
    /// Its name on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Caller => "caller",
        }
    }
}

impl From<Hosted> for Background {
    fn from(hosted: Hosted) -> Self {
        match hosted {
            Hosted::Thread => Self::Thread,
            Hosted::Caller => Self::Caller,
        }
    }
}
