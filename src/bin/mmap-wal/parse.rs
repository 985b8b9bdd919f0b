//! Values on the command line, and the options of a log that commands share.

use std::time::Duration;

use clap::ValueEnum;
use mmap_wal::{Options, SyncMode};

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// When it is durable.
    Sync,
    /// When it is published; synced every so many records.
    Batch,
    /// When it is published; not synced before a rotation or the end.
    None,
}

impl Mode {
    /// Its name on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Batch => "batch",
            Self::None => "none",
        }
    }
}

/// How a log is written.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// When an append is acknowledged.
    #[arg(long, value_enum, default_value = "sync")]
    pub(crate) sync_mode: Mode,
    /// In batch mode: sync after so many records.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sync_records: u32,
    /// In batch mode: sync after so long, e.g. 10ms or 2s.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration)]
    pub(crate) sync_delay: Duration,
    /// Size of new segment files, e.g. 64MiB or 65536.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub(crate) segment_size: u64,
}

impl LogArgs {
    /// The options of the library.
    pub(crate) fn options(&self) -> Options {
        let mode = match self.sync_mode {
            Mode::Sync => SyncMode::Sync,
            Mode::Batch => SyncMode::Batch { records: self.sync_records, delay: self.sync_delay },
            Mode::None => SyncMode::None,
        };
        Options::new().sync_mode(mode).segment_size(self.segment_size)
    }
}

/// A size in bytes: a number, alone or with a unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("{unit:?} is no unit, use KiB, MiB, GiB or none for bytes")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// A time: a number with a unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "" => Err("a time needs a unit, use us, ms or s".to_owned()),
        _ => Err(format!("{unit:?} is no unit, use us, ms or s")),
    }
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| "it must begin with a number of reasonable size".to_owned())?;
    Ok((number, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_alone_or_with_a_unit() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("64 kib"), Ok(65536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        for wrong in ["", "KiB", "-1", "1.5MiB", "1TiBB", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "10", "ms", "1h", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
