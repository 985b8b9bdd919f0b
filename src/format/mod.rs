//! The on-disk format, version 1: the one statement of it.
//!
//! A log is a directory. One small file, `MANIFEST`, says what the log is; the segment files hold only frames.
//!
//! ```text
//! LOCK                        flock of the writer; its pid as text. The writer holds a flock of the directory as well
//! READERS                     shared flock of every handle that has segments mapped
//! MANIFEST                    two slots of equal size, each the whole state of the log
//! MANIFEST.tmp                a manifest that is being made; it is never read
//! 00000000000000000007.wal    a segment, named by its ordinal in 20 decimal digits
//! STATS                       counters for other processes to look at; no part of the log, it may be missing or wrong
//! UNFINISHED                  a copy of a log is being made here, or added to
//! ```
//!
//! The files of a log are regular files, not links. Segment files that the manifest does not name are left over, or say that
//! it is older than they are ("An older MANIFEST"); no record of theirs is shown. All other names are not the log's. Nothing
//! below needs a byte to be written. A program that
//! reads beside a living writer holds a shared flock on READERS meanwhile: without it files are used again under its
//! eyes.
//!
//! Integers are little-endian. CRC is CRC-32/ISO-HDLC. A CRC *started from* a number goes on from it as if it were the
//! CRC of bytes that went before, so the same bytes never verify from two numbers; *salted* is started from the
//! segment's `salt`. The CRC of a frame starts from a number of its place too: a user may store a copy of the log's own
//! bytes as a payload, and a copy must not be taken for a frame.
//!
//! Version 1 is frozen. A file that any reader of this page would read otherwise than it is meant, be it for a flag, a
//! field, a file or a row of a table, is of version 2 and says so in every slot. `tests/golden/v1` holds logs of
//! version 1 and what is in them; every later version of the code reads them so, as long as it reads version 1 at all.
//! STATS has a version of its own.
//!
//! # MANIFEST
//!
//! The file is two slots, each half of it; its length is a multiple of 8192 from 8192 to 2^29. A slot:
//!
//! ```text
//!   0  magic "MMAPWALM"        8
//!   8  version u32             1
//!  12  features u32            0; an unknown bit: refuse
//!  16  generation u64          the valid slot with the larger one is the log; of two that are equal, the first
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
//! slot, the CRC verifies, and the entries are *in order*: sealed segments (`base_seq` >= 1, 8192 <= `end_offset` <=
//! `capacity`, `end_offset` a multiple of 8, `last_seq` >= `base_seq - 1`, `last_seq` = `base_seq - 1` iff `end_offset`
//! is 8192, `last_seq - base_seq + 1` <= (`end_offset` - 8192) / 24 rounded down, and each `base_seq` above every
//! earlier `last_seq`), then exactly one active segment (`base_seq` >= 1 and above every earlier `last_seq`,
//! `end_offset` and `last_seq` 0), then spares (all three 0). No ordinal occurs twice, no salt is 0, each capacity is
//! in its range, no entry flag but `virgin` is set, `first_seq` >= the first entry's `base_seq`, and the generation,
//! all ordinals and all seqs of the slot are below 2^63; those of frames and words need not be. An active `base_seq`
//! above the last `last_seq` + 1 is a deliberate gap, and so is one between sealed segments. The padding of meta and
//! what stands behind `crc` are not judged.
//!
//! Without a valid slot the verdict is *Version* if a slot has the magic, a `meta_len` and a `count` that fit, and a
//! CRC that verifies, but another version or an unknown feature: every later version keeps these fields where they are.
//! Otherwise, and for a file of any other length, it is *NoManifest*.
//!
//! A directory without a MANIFEST is no log yet **iff** it holds no segment file but those of the ordinals 1 and 2, and
//! nothing but zeros stands behind page 0 of these, up to 2^34 bytes long: an unfinished creation. Any other segment,
//! and anything but a file under the name of one, has lost its manifest: *NoManifest*.
//!
//! Every entry's file must be there and `capacity` bytes long, those of sealed segments and spares too; if not, the
//! verdict is *Missing*, of the first in the order of the entries. Then come the identities, and then the end of the
//! log. Where the verdict of these is *Missing*, Corrupt or an end, the segments may say that the manifest is older than they
//! are; that is the verdict then.
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
//!  56  replaces u64            ordinal of the damaged segment in whose place a repair put this one, the first of them if
//!                              that one was made by a repair too; 0: none
//!  64  reserved, zero          60
//! 124  crc u32                 unsalted, over bytes 0 .. 124
//! ```
//!
//! A copy *verifies* **iff** magic and version are these and the CRC does; `created`, the reserved bytes and the rest
//! of the page are not judged. One that verifies with another `log_id` than the manifest's is *Foreign*, one with
//! another salt, ordinal or capacity than the entry's is Corrupt at 0. Of the active segment and the spares, in this
//! order and the copy at 0 first, that is the verdict on the log. Of a sealed segment it is damage in that segment, met
//! when it is read. A copy that does not verify says nothing, and neither do two.
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
//! `published` and its bits are for programs that follow a living writer. No verdict depends on them.
//!
//! A check is `c | (!c << 32)`, where `c` is the salted CRC of the eight bytes of the value. `begun` verifies **iff**
//! its check does and `base_seq` >= 1, and of two copies that verify the first holds; `durable` **iff** its check does,
//! and the offset is a multiple of 8 in 8192 ..= `capacity`.
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
//! A frame at X *verifies* **iff** X is a multiple of 8 and at least 8192, `len` is in range and the padded frame ends
//! at or before `capacity`, no flag but COMMIT is set and `reserved` is 0, and the CRC verifies. It is *valid* iff it
//! verifies and its `seq` is the expected one. Padding is not covered and not judged.
//!
//! **D**, the watermark: the offset in this segment below which everything was durable when the frame was written, all
//! earlier segments entirely. A frame *claims* **iff** it verifies, `durable_back` is not `u32::MAX`, and
//! D = X - 8 * `durable_back` is at least 8192.
//!
//! ## A worked example
//!
//! Salt `0x11223344`, the first frame of a log (D = 8192, so `durable_back` is 0), payload `hi`, at offset 8192, so
//! that its CRC starts from `0x11223344` XOR 1024:
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
//! Sealed segments end at their `end_offset`. In an unsealed segment with base B, walk valid frames from 8192,
//! expecting B, B + 1, ...; **X** is the first offset without a valid frame, **cut** the end of the last COMMIT frame
//! before X (8192 if there is none), and **e** the seq expected at cut. A frame *possible* at Y, `d` bytes behind cut,
//! is one that verifies and has e <= `seq` <= e + `d` / 24 (rounded down); it is looked for at every multiple of 8,
//! inside other frames too.
//!
//! Let N be the active segment. If `clean_offset` is not 0 and the walk of N passes through `clean_offset` at the end
//! of a COMMIT frame (or `clean_offset` is 8192), the log was closed there: it ends there, a clean end, and neither
//! what stands behind nor the spares matter to that. A spare is *begun* iff a copy of `begun` verifies, or
//! else a frame verifies at 8192 (its base is that frame's `seq`, which must be >= 1); its *claim* is the largest of
//! its verified `durable` slots and of the D of every frame at 8192 or behind that claims and is possible when `d` is
//! taken as (capacity of N - cut) + (Y - 8192). If the log was not closed, K is the spare that is begun or has a claim, and
//! R is (capacity of N - cut) / 24 (rounded down): how many records N can have lost.
//!
//! | spares that are begun or claim | | judge | place of the damage |
//! |---|---|---|---|
//! | two or more | | Corrupt | the second of them, 8192 |
//! | none | | N | |
//! | K, not begun | its claim > 8192 | Corrupt | K, 8192 |
//! | | its claim is 8192 | N: nothing of K was synced, or `begun` would be there | |
//! | K, begun with base B | e > B, or B - e > R | *Stale* | |
//! | | e < B, K has a claim | Corrupt: N was whole | N, cut |
//! | | e < B, K has none | N | |
//! | | e = B | K, walked with base B; N is complete and ends at its cut | |
//!
//! The segment that is judged has evidence **E**: the largest of its verified `durable` slots, of the D > cut of every
//! possible frame at X or behind (`d` is Y - cut), and (if it is the active one) of `clean_offset`. The words of the
//! other segments are not evidence: if K is judged, those of N say nothing.
//!
//! | first row that holds | verdict |
//! |---|---|
//! | cut < E | Corrupt |
//! | everything from cut to `capacity` is zero | clean end |
//! | cut < X, or a possible frame is at X or behind, or the segment is virgin | torn end |
//! | none of these | end, with an earlier life behind it |
//!
//! Then, for every verdict but Corrupt, with `last` = (the seq expected at cut) - 1: `first_seq` <= `last` + 1 and
//! `checkpoint_seq` <= `last`, otherwise Corrupt. The place of the damage, in both cases, is cut in the segment that is
//! judged; after a clean close it is `clean_offset` in the active one.
//!
//! # An older MANIFEST
//!
//! A MANIFEST that was restored from a backup without the segments says less than they do. To believe it would be to give
//! numbers twice and to remove records. A writer takes a clean close back, durably, before it stores anything; it announces a
//! segment, durably, before it begins it; it begins one only when the manifest seals every segment in front of the one
//! before; it goes on after a cut in a segment with an ordinal above all that it drops; and `first_seq` never falls. So each
//! of these is no crash, and the verdict is *Stale*. Nothing is written or removed then.
//!
//! Of the active segment and the spares that are there with their length and whose identity copies, as far as they verify,
//! are those of the manifest and the entry (`begun` and e are as above; e is the active `base_seq` if that one is not there):
//!
//! 1. `clean_offset` is not 0, and a `durable` slot of the active segment verifies that is larger, or a frame verifies at
//!    `clean_offset` whose `seq` is not 0;
//! 2. `clean_offset` is not 0, and a spare is begun or has a `durable` slot that verifies;
//! 3. two spares are begun;
//! 4. a spare is begun with a base below e;
//! 5. the active segment is there, and a spare is begun with a base B, and B - e > R.
//!
//! Of the segment files whose names no sealed entry has, unless UNFINISHED is there, by each identity copy that verifies
//! (salt, ordinal, capacity and words are those of the copy): its `log_id` is the manifest's, its capacity is in range and
//! the length of the file, its salt is not 0, its ordinal is below 2^63 and not below the active one's; no entry has its
//! ordinal and salt; it is begun, with base B; B, or B - 1 if no frame with the `seq` B verifies at 8192, is at least
//! `first_seq`; `replaces` is 0, or no file has that ordinal as its name and no identity copy of a named file the same
//! `replaces`; and
//!
//! 6. no end was found, or B <= e, or B - e > R, or the file claims: a `durable` slot verifies, or a frame at Y claims with
//!    B <= `seq` <= B + (Y - 8192) / 24. Here e and R are those of the segment in which the log ends.
//!
//! What is begun behind e with none of that was begun behind records that were lost and were not durable: a recovery has
//! dropped it. An unnamed segment file may be removed **iff** it is all zero up to 12288, or each identity copy that verifies
//! (one at least) meets the conditions on `log_id`, capacity, salt and names above, and by that copy: UNFINISHED is there, or
//! its ordinal is below the active one's, or what it `replaces` is there, or it is not begun and no `durable` slot above 8192
//! verifies, or its first record is below `first_seq`, or 6 does not hold. Every other file may hold records, and stays.
//!
//! What version 1 cannot tell: a manifest that differs only in `first_seq`, `checkpoint_seq`, `meta` and spares that were not
//! begun, or that calls unsealed what was sealed since. All records are shown then, and truncated ones may be back. And one
//! that names only segments that are gone, when nothing was begun since, is *Missing*.
//!
//! # What is shown
//!
//! The records from `first_seq` on: those of the sealed segments in order, then those before cut (after a clean close,
//! before `clean_offset`) of the active segment, then those before cut of K if K is judged. A sealed segment with
//! `last_seq` below `first_seq`, or with none (`end_offset` 8192), is not read.
//!
//! A sealed segment is read from 8192, expecting `base_seq`, `base_seq` + 1, ...; its frames must be valid and end at
//! or before `end_offset`. What stands behind is not looked at: a cut leaves records there. A batch is the frames up to
//! and with the next COMMIT. The segment is damaged at the first offset where a valid frame is wanted and none stands
//! (`end_offset` itself, if a batch is open there), or at the end of the first COMMIT frame whose `seq` is above
//! `last_seq`, or of which only one holds: that it ends at `end_offset`, and that its `seq` is `last_seq`. Of the batch that is damaged, and of everything
//! behind it, nothing is shown. Damage in a sealed segment is not a verdict on the log: the log opens, and goes on.
//!
//! Where a segment's `base_seq` is above the seq expected behind the one before, the seqs between, from `first_seq` on,
//! are a gap. A batch that `first_seq` is inside of is shown from there.

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
#[inline]
pub(crate) fn salted_crc(salt: u32, bytes: &[u8]) -> u32 {
    #[cfg(fuzzing)]
    HASHED.fetch_add(bytes.len() as u64, core::sync::atomic::Ordering::Relaxed);
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// How many bytes were hashed: the fuzz targets hold it against the size of what is hashed.
#[cfg(fuzzing)]
static HASHED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// How many bytes were hashed by this process.
#[cfg(fuzzing)]
pub(crate) fn hashed() -> u64 {
    HASHED.load(core::sync::atomic::Ordering::Relaxed)
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
#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

const _: () = assert!(PAGE.is_multiple_of(SECTOR) && SECTOR.is_multiple_of(ALIGN));
