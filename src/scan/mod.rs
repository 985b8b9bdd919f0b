//! The single parser of segments: where the frames are, where they end, and what the bytes behind them prove.
//!
//! Everything here is a pure function of bytes and of what the manifest says. The rules are stated in [`crate::format`],
//! under "Where the log ends"; this is their code. Nothing here panics on any bytes, and nothing takes more than linear
//! time (a CRC by combination costs a logarithm) or an eighth of the input in memory.

mod evidence;
mod frames;
mod judge;
mod outlived;
mod pieces;

pub(crate) use evidence::Verifier;
pub(crate) use evidence::{Window, search};
pub(crate) use frames::{AHEAD, Walk, walk};
pub(crate) use judge::{Close, Damage, Judged, Tail, Unsealed, closed_at, closed_by, is_used, judge, judge_from};
pub(crate) use outlived::{Active, Front, outlived};
pub(crate) use pieces::{walk_pieces, walk_present};

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // A whole chunk is folded before it is looked at, so that the loop is vectorised.
    let (chunks, rest) = bytes.as_chunks::<256>();
    let zero = |chunk: &[u8]| chunk.iter().fold(0, |sum, byte| sum | byte) == 0;
    chunks.iter().all(|chunk| zero(chunk)) && zero(rest)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        for len in [0, 1, 255, 256, 257, 700] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in (0..len).step_by(if cfg!(miri) { 101 } else { 1 }) {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
