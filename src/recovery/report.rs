//! What opening a log found.

use std::time::Duration;

/// How the log ended when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TailState {
    /// Nothing stood behind the last record.
    Clean,
    /// Something that was being written when the writer or the power died stood there, and was cut.
    Torn,
    /// The file's earlier life stood there, and nothing of this one.
    EarlierLife,
}

impl TailState {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Torn => "torn",
            Self::EarlierLife => "earlier-life",
        }
    }
}

/// What was cut behind the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The ordinal of the segment.
    pub segment: u64,
    /// Byte offset in its file.
    pub offset: u64,
    /// Bytes from there to the last one that was not zero.
    pub bytes: u64,
    /// Whole records among them, which were never acknowledged as durable.
    pub records: u64,
}

/// What opening a log found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the log was made by this open.
    pub created: bool,
    /// The first record's sequence number.
    pub first_seq: u64,
    /// The last record's sequence number.
    pub last_seq: u64,
    /// The checkpoint.
    pub checkpoint_seq: u64,
    /// How many segments hold records, the active one included.
    pub segments: u64,
    /// How many bytes of segments were read.
    pub bytes_read: u64,
    /// How the log ended.
    pub tail: TailState,
    /// What was cut, if the end was torn.
    pub cut: Option<Cut>,
    /// Whether the name of the log's directory is durable, as far as this open has made the log. `false` only where the
    /// directory above cannot be synced, by its permissions or its file system, and the whole file system neither: a power
    /// loss may then take the directory with it. Sync the directory above by other means.
    pub name_synced: bool,
    /// Whether the directory itself is locked as well as the file LOCK. `false` where its file system locks no
    /// directories: then nothing keeps a second writer out if somebody removes LOCK.
    pub directory_locked: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl std::fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first_seq, last_seq, segments, bytes_read, .. } = self;
        let verb = if self.created { "created" } else { "recovered" };
        match first_seq <= last_seq {
            true => write!(f, "{verb} records {first_seq} to {last_seq} in {segments} segments, ")?,
            false => write!(f, "{verb} a log without records, {first_seq} is next, in {segments} segments, ")?,
        }
        write!(f, "{bytes_read} bytes read in {:?}, {} end", self.elapsed, self.tail.as_str())?;
        if let Some(Cut { segment, offset, bytes, records }) = self.cut {
            write!(f, ", cut {bytes} bytes with {records} whole records at byte {offset} of segment {segment}")?;
        }
        if !self.name_synced {
            write!(f, ", the directory above could not be synced")?;
        }
        if !self.directory_locked {
            write!(f, ", the directory itself cannot be locked")?;
        }
        Ok(())
    }
}
