//! What a mixed writer tells its parent, a line each, by one write each: a line is there whole or not at all, and in the
//! order in which the writes were made, whichever thread made them.

use std::fmt;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The log is open, and holds this.
    Opened { first: u64, last: u64, checkpoint: u64 },
    /// A unit was acknowledged; its first record has this number.
    Acked { seq: u64, thread: u32, counter: u64 },
    /// A checkpoint is about to be set.
    Checkpoint(u64),
    /// It is set.
    CheckpointDone(u64),
    /// The records up to this one are about to be removed.
    Front(u64),
    /// They are.
    FrontDone(u64),
    /// The records above this one are about to be cut off.
    Back(u64),
    /// They are.
    BackDone(u64),
    /// They are not, because this one is inside a batch.
    BackRefused(u64),
    /// All records are about to be dropped, and this number is the next.
    Reset(u64),
    /// They are, and it is.
    ResetDone(u64),
    /// The log went on in this segment.
    Rotated(u64),
    /// This segment is sealed.
    Sealed(u64),
    /// A call failed.
    Failed,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { first, last, checkpoint } => writeln!(f, "opened {first} {last} {checkpoint}"),
            Self::Acked { seq, thread, counter } => writeln!(f, "a {seq} {thread} {counter}"),
            Self::Checkpoint(seq) => writeln!(f, "checkpoint {seq}"),
            Self::CheckpointDone(seq) => writeln!(f, "checkpoint-done {seq}"),
            Self::Front(seq) => writeln!(f, "front {seq}"),
            Self::FrontDone(seq) => writeln!(f, "front-done {seq}"),
            Self::Back(seq) => writeln!(f, "back {seq}"),
            Self::BackDone(seq) => writeln!(f, "back-done {seq}"),
            Self::BackRefused(seq) => writeln!(f, "back-refused {seq}"),
            Self::Reset(seq) => writeln!(f, "reset {seq}"),
            Self::ResetDone(seq) => writeln!(f, "reset-done {seq}"),
            Self::Rotated(segment) => writeln!(f, "rotated {segment}"),
            Self::Sealed(segment) => writeln!(f, "sealed {segment}"),
            Self::Failed => writeln!(f, "failed"),
        }
    }
}

impl Line {
    /// The line that `text` is; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let line = match word {
            "a" => Self::Acked { seq: number()?, thread: number()?.try_into().ok()?, counter: number()? },
            "opened" => Self::Opened { first: number()?, last: number()?, checkpoint: number()? },
            "checkpoint" => Self::Checkpoint(number()?),
            "checkpoint-done" => Self::CheckpointDone(number()?),
            "front" => Self::Front(number()?),
            "front-done" => Self::FrontDone(number()?),
            "back" => Self::Back(number()?),
            "back-done" => Self::BackDone(number()?),
            "back-refused" => Self::BackRefused(number()?),
            "reset" => Self::Reset(number()?),
            "reset-done" => Self::ResetDone(number()?),
            "rotated" => Self::Rotated(number()?),
            "sealed" => Self::Sealed(number()?),
            "failed" => Self::Failed,
            _ => return None,
        };
        words.next().is_none().then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_nothing_else_is() {
        let lines = [
            Line::Opened { first: 1, last: 2, checkpoint: 3 },
            Line::Acked { seq: u64::MAX, thread: 2, counter: 3 },
            Line::Checkpoint(1),
            Line::CheckpointDone(2),
            Line::Front(3),
            Line::FrontDone(4),
            Line::Back(5),
            Line::BackDone(6),
            Line::BackRefused(7),
            Line::Reset(8),
            Line::ResetDone(9),
            Line::Rotated(10),
            Line::Sealed(11),
            Line::Failed,
        ];
        for line in lines {
            let text = line.to_string();
            assert_eq!(Line::parse(text.strip_suffix('\n').unwrap()), Some(line));
        }
        for wrong in ["", "a", "a 1", "a 1 2", "a 1 2 3 4", "a 1 2 x", "front", "front 1 2", "failed 1", "b 1"] {
            assert_eq!(Line::parse(wrong), None, "{wrong}");
        }
    }
}
