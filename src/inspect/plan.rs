//! What a repair would do, as data and for a person.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a repair would do: see [`Log::plan_repair`](crate::inspect::Log::plan_repair).
///
/// [`Display`](fmt::Display) says it in several lines.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RepairPlan {
    /// The manifest, if it is lost, or older than the segments, and is made of what they say.
    pub rebuilt: Option<RebuiltManifest>,
    /// Files that get another name.
    pub set_aside: Vec<SetAside>,
    /// Ordinals of segments that the manifest names and that are not there: it will not name them any more.
    pub missing: Vec<u64>,
    /// Segments that are made.
    pub made: Vec<NewSegment>,
    /// Ordinals of segments that stay and of whose header a damaged copy is written again.
    pub headers: Vec<u64>,
    /// Numbers whose records are lost, in order.
    pub lost: Vec<Lost>,
    /// Records that verify and are left out, because their batch is not whole or their numbers are another segment's.
    pub left_out: u64,
    /// The number of the next record, if the log does not go on where it ends now.
    pub next_seq: Option<u64>,
    pub(crate) user_tag: [u8; 16],
}

/// A manifest that is made of what the segments say.
///
/// What only the manifest knew is lost, or as an older one says: where the log had been truncated, the checkpoint, the metadata and the user tag.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuiltManifest {
    /// How many segments say that they belong to the log.
    pub segments: u64,
    /// The first record's sequence number; records may be back that had been truncated.
    pub first_seq: u64,
    /// Whether an older manifest is there. Checkpoint, metadata and user tag are then what it says; they may have been
    /// changed since.
    pub is_older: bool,
}

/// A file that gets another name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// Its name.
    pub name: String,
    /// The name that it gets.
    pub as_name: String,
    /// Why.
    pub reason: &'static str,
    /// Whether an earlier repair, which was not finished, has given it that name already.
    pub(crate) is_linked: bool,
}

/// A segment that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSegment {
    /// Its ordinal.
    pub segment: u64,
    /// Its first number.
    pub first_seq: u64,
    /// Its last number; `first_seq - 1` if it has no records.
    pub last_seq: u64,
    /// The ordinal of the segment that its records are from, if it has any.
    pub from: Option<u64>,
}

/// Records that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The first number.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
    /// Whether `last_seq` is only the largest number that there can have been: the records may have been fewer.
    pub is_bound: bool,
    /// When the segment that held them was prepared: they were written later.
    pub prepared: Option<SystemTime>,
    /// When the segment behind it was prepared, which is done ahead: some time before the log came to it.
    pub next_prepared: Option<SystemTime>,
}

impl RepairPlan {
    /// Whether there is nothing to repair. A torn end is no damage: opening the log cuts it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rebuilt.is_none()
            && self.set_aside.is_empty()
            && self.missing.is_empty()
            && self.made.is_empty()
            && self.headers.is_empty()
    }

    /// Gives a rebuilt manifest this [user tag](crate::Options::user_tag), which no segment knows. A manifest that is
    /// there keeps its own.
    #[must_use]
    pub fn with_user_tag(mut self, tag: [u8; 16]) -> Self {
        self.user_tag = tag;
        self
    }
}

/// A time of the format: Unix nanoseconds, and 0 or the largest number if it is not known.
pub(crate) fn time(nanos: u64) -> Option<SystemTime> {
    (nanos != 0 && nanos != u64::MAX).then(|| UNIX_EPOCH + Duration::from_nanos(nanos))
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to repair");
        }
        if let Some(RebuiltManifest { segments, first_seq, is_older }) = &self.rebuilt {
            writeln!(f, "rebuilt    the MANIFEST, from what {segments} segments say; the log begins at {first_seq}")?;
            let lost = if *is_older {
                "front truncations, checkpoint and metadata are those of the older MANIFEST that is there"
            } else {
                "lost with it: front truncations, the checkpoint, the metadata, the user tag"
            };
            writeln!(f, "           {lost}")?;
        }
        self.lost.iter().try_for_each(|lost| writeln!(f, "lost       {lost}"))?;
        if self.left_out > 0 {
            let count = self.left_out;
            writeln!(f, "left out   {count} records that verify, but not with their whole batch or in their order")?;
        }
        for SetAside { name, as_name, reason, .. } in &self.set_aside {
            writeln!(f, "set aside  {name} as {as_name}: {reason}")?;
        }
        self.missing.iter().try_for_each(|segment| writeln!(f, "missing    segment {segment}"))?;
        self.made.iter().try_for_each(|made| writeln!(f, "new        {made}"))?;
        self.headers.iter().try_for_each(|segment| writeln!(f, "restored   the header of segment {segment}"))?;
        self.next_seq.map_or(Ok(()), |seq| writeln!(f, "next       record {seq}"))
    }
}

impl fmt::Display for NewSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, first_seq, last_seq, from } = self;
        match from {
            Some(from) => write!(f, "segment {segment} with records {first_seq} to {last_seq} of segment {from}"),
            None => write!(f, "segment {segment}, empty, before record {first_seq}"),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first_seq, last_seq, is_bound, prepared, next_prepared } = self;
        let at_most = if *is_bound { "at most " } else { "" };
        write!(f, "records {first_seq} to {at_most}{last_seq}")?;
        if let Some(time) = prepared {
            write!(f, ", of a segment prepared {}", Utc(*time))?;
        }
        next_prepared.map_or(Ok(()), |time| write!(f, ", the next one {}", Utc(time)))
    }
}

/// A time for a person, to the second.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last one; 146,097 days are 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dates = [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_513, (2026, 3, 1))];
        dates.into_iter().for_each(|(days, expected)| assert_eq!(date(days), expected));
        assert_eq!(Utc(UNIX_EPOCH + Duration::from_secs(951_868_799)).to_string(), "2000-02-29T23:59:59Z");
    }

    #[test]
    fn a_bound_says_that_it_is_one() {
        let lost = Lost { first_seq: 3, last_seq: 9, is_bound: true, prepared: None, next_prepared: None };
        assert_eq!(lost.to_string(), "records 3 to at most 9");
        assert_eq!(Lost { is_bound: false, ..lost }.to_string(), "records 3 to 9");
    }
}
