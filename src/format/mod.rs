//! The on-disk format, version 1: the one statement of it.
//!
//! A log is a directory. One small file, `MANIFEST`, says what the log is; the segment files hold only frames.
//!
//! ```text
//! LOCK                        flock of the writer; its pid as text
//! READERS                     shared flock of every handle that has segments mapped
//! MANIFEST                    two slots of equal size, each the whole state of the log
//! 00000000000000000007.wal    a segment, named by its ordinal in 20 decimal digits
//! STATS                       counters for other processes to look at; no part of the log, it may be missing or wrong
//! ```
//!
//! Integers are little-endian. CRC is CRC-32/ISO-HDLC. A CRC *started from* a number goes on from it as if it were the CRC
//! of bytes that went before, so the same bytes never verify from two numbers; *salted* is started from the segment's
//! `salt`. The CRC of a frame starts from a number of its place too: a user may store a copy of the log's own bytes as a
//! payload, and a copy must not be taken for a frame.
//!
//! # MANIFEST
//!
//! The file is two slots, each half of it; its length is a multiple of 8192 from 8192 to 2^29. A slot:
//!
//! ```text
//!   0  magic "MMAPWALM"        8
//!   8  version u32             1
//!  12  features u32            0; an unknown bit: refuse
//!  16  generation u64          the valid slot with the larger one is the log
//!  24  log_id                  16 random bytes
//!  40  user_tag                16 bytes of the user's
//!  56  first_seq u64           the first record that is still shown
//!  64  checkpoint_seq u64
//!  72  clean_offset u64        append position in the active segment after a clean close, else 0
//!  80  meta_len u32            at most 1024
//!  84  count u32               of entries
//!  88  meta, zero padding to 8
//!      count entries of 48 bytes
//!      crc u32                 unsalted, over everything before it
//! ```
//!
//! An entry:
//!
//! ```text
//!   0  ordinal u64
//!   8  salt u32
//!  12  flags u32               bit 0 virgin: every byte behind page 1 was zero when the segment was prepared
//!  16  capacity u64            the file's length, a multiple of 4096, from 12288 to 2^34
//!  24  base_seq u64            the seq of the first record; 0 in a spare
//!  32  end_offset u64          where the frames of a sealed segment end; 0 if it is not sealed
//!  40  last_seq u64            the last seq of a sealed segment (base_seq - 1 if it is empty)
//! ```
//!
//! A slot is valid **iff** magic and version are these, no unknown feature bit is set, `meta_len` and `count` fit the
//! slot, the CRC verifies, and the entries are *in order*: sealed segments (`base_seq` >= 1,
//! 8192 <= `end_offset` <= `capacity`, `end_offset` a multiple of 8, `last_seq` >= `base_seq - 1`,
//! `last_seq` = `base_seq - 1` iff `end_offset` is 8192, no more records than headers of 24 bytes fit, and each `base_seq` above every earlier `last_seq`), then
//! exactly one active segment (`base_seq` >= 1 and above every earlier `last_seq`, `end_offset` and `last_seq` 0), then
//! spares (all three 0). No ordinal occurs twice, no salt is 0, no entry flag but `virgin` is set, and
//! `first_seq` >= the first entry's `base_seq`, and the generation, all ordinals and all seqs are below 2^63. An active `base_seq` above the last `last_seq` + 1 is a deliberate gap,
//! and so is one between sealed segments.
//!
//! A directory without a MANIFEST is no log yet **iff** it holds no segment file but those of the ordinals 1 and 2, and
//! nothing but zeros stands behind page 0 of these: an unfinished creation. Any other segment without a manifest has lost
//! it.
//!
//! # Segment
//!
//! Page 0 (bytes 0 to 4095) holds the identity twice, at 0 and at 512. It is written once, by preparation:
//!
//! ```text
//!   0  magic "MMAPWAL\0"       8
//!   8  version u32             1
//!  12  salt u32
//!  16  log_id                  16
//!  32  ordinal u64
//!  40  capacity u64
//!  48  created u64             unix time in nanoseconds
//!  56  replaces u64            ordinal of the damaged segment in whose place a repair put this one; 0: none
//!  64  reserved, zero          60
//! 124  crc u32                 unsalted, over bytes 0 .. 124
//! ```
//!
//! Page 1 (bytes 4096 to 8191) holds the words, which are rewritten all day:
//!
//! ```text
//! 4096  published u64          bits 0-61: the offset below which frames are visible; bit 63 closed: the log goes on in
//!                              the next segment; bit 62 cut: something published here was cut off again
//! 4160  begun                  base_seq u64, check u64
//! 4224  durable                offset u64, check u64
//! 4672  begun                  the second copy
//! 4736  durable                the second slot; the larger one that verifies holds
//! ```
//!
//! A check is `c | (!c << 32)`, where `c` is the salted CRC of the eight bytes of the value. `begun` verifies **iff** its
//! check does and `base_seq` >= 1; `durable` **iff** its check does, and the offset is a multiple of 8 in
//! 8192 ..= `capacity`.
//!
//! # Frame
//!
//! Frames stand back to back from 8192 on, each at a multiple of 8:
//!
//! ```text
//!   0  crc u32                 over bytes 4 .. 24 + len, started from salt XOR (offset of this frame / 8)
//!   4  len u32                 of the payload, at most u32::MAX - 8192
//!   8  seq u64
//!  16  durable_back u32        (offset of this frame - D) / 8; u32::MAX: no claim
//!  20  flags u8                bit 0 COMMIT: last frame of its batch
//!  21  reserved u8             0
//!  22  tag u16                 the user's
//!  24  payload, zero padding to 8
//! ```
//!
//! A frame at X *verifies* **iff** X is a multiple of 8 and at least 8192, `len` is in range and the padded frame ends at
//! or before `capacity`, no flag but COMMIT is set and `reserved` is 0, and the CRC verifies. It is *valid* iff it
//! verifies and its `seq` is the expected one. Padding is not covered and not judged.
//!
//! **D**, the watermark: the offset in this segment below which everything was durable when the frame was written, all
//! earlier segments entirely. A frame *claims* **iff** it verifies, `durable_back` is not `u32::MAX`, and
//! D = X - 8 * `durable_back` is at least 8192.
//!
//! ## A worked example
//!
//! Salt `0x11223344`, the first frame of a log (D = 8192, so `durable_back` is 0), payload `hi`, at offset 8192, so that its
//! CRC starts from `0x11223344` XOR 1024:
//!
//! ```text
//! 8192  09 b9 8b 0c  02 00 00 00  01 00 00 00 00 00 00 00  00 00 00 00  01 00 00 00  68 69 00 00 00 00 00 00
//!       crc          len 2        seq 1                    back 0       COMMIT       h  i  padding
//! ```
//!
//! The next frame stands at 8224.
//!
//! # Where the log ends
//!
//! Sealed segments end at their `end_offset`. In an unsealed segment with base B, walk valid frames from 8192, expecting
//! B, B + 1, ...; **X** is the first offset without a valid frame, **cut** the end of the last COMMIT frame before X (8192
//! if there is none), and **e** the seq expected at cut. A frame *possible* at Y, `d` bytes behind cut, is one that
//! verifies and has e <= `seq` <= e + `d` / 24 (rounded down).
//!
//! Let N be the active segment. If `clean_offset` is not 0 and the walk of N passes through `clean_offset` at the end of a
//! COMMIT frame (or `clean_offset` is 8192), the log was closed there: it ends there, a clean end, and neither what stands
//! behind nor the spares are looked at. Otherwise, a spare is *begun* iff a copy of `begun` verifies, or else a frame verifies at 8192 (its
//! base is that frame's `seq`, which must be >= 1); its *claim* is the largest of its verified `durable` slots and of the
//! D of every frame at 8192 or behind that claims and is possible when `d` is taken as (capacity of N - cut) + (Y - 8192).
//! K is the spare that is begun or has a claim.
//!
//! | spares that are begun or claim | | judge | place of the damage |
//! |---|---|---|---|
//! | two or more | | Corrupt | the second of them, 8192 |
//! | none | | N | |
//! | K, not begun | its claim > 8192 | Corrupt | K, 8192 |
//! | | its claim is 8192 | N: nothing of K was synced, or `begun` would be there | |
//! | K, begun with base B | e > B | Corrupt | K, 8192 |
//! | | e < B, K has a claim | Corrupt: N was whole | N, cut |
//! | | e < B, K has none | N | |
//! | | e = B | K, walked with base B; N is complete and ends at its cut | |
//!
//! The segment that is judged has evidence **E**: the largest of its verified `durable` slots, of the D > cut of every
//! possible frame at X or behind (`d` is Y - cut), and (if it is the active one) of `clean_offset`.
//!
//! | first row that holds | verdict |
//! |---|---|
//! | cut < E | Corrupt |
//! | everything from cut to `capacity` is zero | clean end |
//! | cut < X, or a possible frame is at X or behind, or the segment is virgin | torn end |
//! | none of these | end, with an earlier life behind it |
//!
//! Then, for every verdict but Corrupt, with `last` = (the seq expected at cut) - 1: `first_seq` <= `last` + 1 and
//! `checkpoint_seq` <= `last`, otherwise Corrupt.

pub(crate) mod frame;
pub(crate) mod manifest;
pub(crate) mod name;
pub(crate) mod segment;
pub(crate) mod stats;

/// The version this code writes and the only one it reads.
pub(crate) const VERSION: u32 = 1;
/// The unit in which files are sized and synced.
pub(crate) const PAGE: usize = 4096;
/// What a device writes whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// Frames and the words of page 1 stand at multiples of this.
pub(crate) const ALIGN: usize = 8;

/// `n` rounded up to a multiple of [`ALIGN`]; `None` if that overflows.
pub(crate) const fn padded(n: usize) -> Option<usize> {
    match n.checked_add(ALIGN - 1) {
        Some(sum) => Some(sum & !(ALIGN - 1)),
        None => None,
    }
}

/// CRC-32/ISO-HDLC of `bytes`, continued from `salt`.
pub(crate) fn salted_crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Reads the little-endian `u16` at `at`; the caller has bounded it.
pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// Reads the little-endian `u32` at `at`; the caller has bounded it.
pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// Reads the little-endian `u64` at `at`; the caller has bounded it.
pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The `N` bytes at `at`; the caller has bounded them.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Writes `value` at `at`; the caller has bounded it.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

const _: () = assert!(PAGE.is_multiple_of(SECTOR) && SECTOR.is_multiple_of(ALIGN));
