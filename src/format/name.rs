//! The names of the files of a log.

/// The writer's lock file.
pub(crate) const LOCK: &str = "LOCK";
/// The readers' lock file.
pub(crate) const READERS: &str = "READERS";
/// What the log shows of itself to other processes; no part of it.
pub(crate) const STATS: &str = "STATS";
/// The manifest.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// The manifest that is being brought into being; a leftover after a crash.
pub(crate) const MANIFEST_TMP: &str = "MANIFEST.tmp";

/// Stands where a copy of a log is being made, until its manifest is there; no part of a log.
pub(crate) const UNFINISHED: &str = "UNFINISHED";

/// Whether `name` is one that a log gives to its files, a finished one or one that is being made.
pub(crate) fn is_of_a_log(name: &str) -> bool {
    let fixed = [LOCK, READERS, STATS, MANIFEST, MANIFEST_TMP, UNFINISHED];
    fixed.contains(&name) || SegmentName::decode(name).is_some()
}

const DIGITS: usize = 20;
const SUFFIX: &[u8; 4] = b".wal";
const LEN: usize = DIGITS + SUFFIX.len();

/// The name of a segment file: its ordinal in 20 digits and `.wal`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentName([u8; LEN]);

impl SegmentName {
    /// The name of the segment `ordinal`.
    pub(crate) fn encode(ordinal: u64) -> Self {
        let mut name = [0; LEN];
        let mut rest = ordinal;
        for digit in name[..DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        name[DIGITS..].copy_from_slice(SUFFIX);
        Self(name)
    }

    /// The ordinal that `name` stands for, iff it is exactly what [`SegmentName::encode`] makes of one.
    pub(crate) fn decode(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".wal")?;
        let all_digits = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
        if all_digits { digits.parse().ok() } else { None }
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_decodes_to_the_ordinal_it_encodes() {
        for ordinal in [0, 1, 7, 1_234_567_890, u64::MAX] {
            assert_eq!(SegmentName::decode(SegmentName::encode(ordinal).as_str()), Some(ordinal));
        }
        assert_eq!(SegmentName::encode(7).as_str(), "00000000000000000007.wal");
    }

    #[test]
    fn a_log_gives_its_files_these_names() {
        for name in ["LOCK", "READERS", "STATS", "MANIFEST", "MANIFEST.tmp", "UNFINISHED", "00000000000000000007.wal"] {
            assert!(is_of_a_log(name), "{name}");
        }
        for name in ["lock", "MANIFEST.damaged", "7.wal", "notes.txt", ""] {
            assert!(!is_of_a_log(name), "{name}");
        }
    }

    #[test]
    fn another_name_is_no_segment() {
        for name in [
            "7.wal",
            "00000000000000000007.log",
            "+0000000000000000007.wal",
            "99999999999999999999.wal",
            "lost+found",
            "",
        ] {
            assert_eq!(SegmentName::decode(name), None, "{name}");
        }
    }
}
