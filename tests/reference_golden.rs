//! Proves that the reference parser follows the format page: every verdict, every row of its tables, on directories
//! built by hand, and the page's worked example from its printed bytes. It does not touch the library: that the library
//! agrees with the reference is for the tests that use both. Nor does it prove the page right.
#![allow(missing_docs)]

mod reference;

use reference::build::{self, COMMIT, Entry, Manifest, NO_CLAIM, Segment, directory, leftovers};
use reference::{Files, Parsed, Tail, Verdict, crc, parse, parse_dir};

/// Frames in these tests take 32 bytes: a payload of 1 to 8.
const STEP: u64 = 32;
const START: u64 = 8192;

fn n() -> Entry {
    Entry::active(1, 1)
}

fn k() -> Entry {
    Entry::spare(2)
}

/// The active segment with the records 1 to `last`.
fn filled(entry: &Entry, last: u64) -> Segment {
    (1..=last).fold(Segment::of(entry), |segment, seq| segment.append(seq, b"record"))
}

fn parse_one(entry: Entry, segment: Segment) -> Parsed {
    parse(&directory(&Manifest::of(&[entry]), &[segment]))
}

fn parse_pair(active: Segment, spare: Segment) -> Parsed {
    parse(&directory(&Manifest::of(&[n(), k()]), &[active, spare]))
}

fn ends(tail: Tail, cut_ordinal: u64, cut_offset: u64) -> Verdict {
    Verdict::Ok { tail, cut_ordinal, cut_offset }
}

fn corrupt(ordinal: u64, offset: u64) -> Verdict {
    Verdict::Corrupt { ordinal, offset }
}

fn seqs(parsed: &Parsed) -> Vec<u64> {
    parsed.records.iter().map(|record| record.seq).collect()
}

// CRC and the worked example.

#[test]
fn crc_is_iso_hdlc_and_a_salt_is_the_crc_of_what_went_before() {
    assert_eq!(crc::salted(0, b"123456789"), 0xCBF4_3926);
    assert_eq!(crc::salted(crc::salted(0, b"1234"), b"56789"), 0xCBF4_3926);
}

#[test]
fn the_worked_example_is_a_record() {
    let printed = [
        0x09, 0xb9, 0x8b, 0x0c, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x68, 0x69, 0, 0, 0, 0, 0,
        0,
    ];
    let entry = Entry { salt: 0x1122_3344, ..n() };
    let mut segment = Segment::of(&entry);
    segment.put(8192, &printed);
    let parsed = parse_one(entry, segment);
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, 8224));
    assert_eq!(parsed.records, [reference::Rec { seq: 1, tag: 0, payload: b"hi".to_vec() }]);
}

// The last table: the judged segment.

#[test]
fn an_empty_log_ends_clean_before_its_first_record() {
    let parsed = parse_one(n(), Segment::of(&n()));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START));
    assert_eq!((parsed.last_seq, parsed.records.len()), (0, 0));
}

#[test]
fn zeros_behind_the_cut_are_a_clean_end() {
    let parsed = parse_one(n(), filled(&n(), 3));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 3 * STEP));
    assert_eq!((parsed.last_seq, seqs(&parsed)), (3, vec![1, 2, 3]));
}

#[test]
fn a_full_segment_is_a_clean_end() {
    let parsed = parse_one(n(), filled(&n(), 128));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, 12288));
}

#[test]
fn a_hole_before_a_possible_frame_is_a_torn_end() {
    let parsed = parse_one(n(), filled(&n(), 2).skip(32).append(4, b"record"));
    assert_eq!(parsed.verdict, ends(Tail::Torn, 1, START + 2 * STEP));
    assert_eq!(seqs(&parsed), [1, 2]);
}

#[test]
fn an_open_batch_is_cut_whole() {
    let parsed = parse_one(n(), filled(&n(), 1).append_open(2, b"open").append_open(3, b"open"));
    assert_eq!(parsed.verdict, ends(Tail::Torn, 1, START + STEP));
    assert_eq!(seqs(&parsed), [1]);
}

#[test]
fn a_committed_batch_is_shown_whole() {
    let parsed = parse_one(n(), filled(&n(), 1).append_open(2, b"open").append(3, b"commits"));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 3 * STEP));
    assert_eq!(seqs(&parsed), [1, 2, 3]);
}

#[test]
fn a_byte_behind_the_cut_is_torn_if_virgin_and_else_an_earlier_life() {
    let mut segment = filled(&n(), 1);
    segment.put(10001, b"x");
    assert_eq!(parse_one(n(), segment.clone()).verdict, ends(Tail::EarlierLife, 1, START + STEP));
    assert_eq!(parse_one(n().virgin(), segment).verdict, ends(Tail::Torn, 1, START + STEP));
}

#[test]
fn a_durable_word_above_the_cut_is_corruption_in_either_slot() {
    for at in [4224, 4736] {
        let mut segment = filled(&n(), 1);
        segment.put_word(at, START + 2 * STEP);
        assert_eq!(parse_one(n(), segment).verdict, corrupt(1, START + STEP));
    }
}

#[test]
fn the_larger_durable_word_holds() {
    let mut segment = filled(&n(), 1).mark_durable(START + 2 * STEP);
    segment.put_word(4736, START);
    assert_eq!(parse_one(n(), segment).verdict, corrupt(1, START + STEP));
}

#[test]
fn a_durable_word_that_does_not_verify_says_nothing() {
    for offset in [START + 4, START - 8, 12288 + 8] {
        let parsed = parse_one(n(), filled(&n(), 1).mark_durable(offset));
        assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + STEP), "{offset}");
    }
    let mut segment = filled(&n(), 1).mark_durable(START + 2 * STEP);
    segment.bytes[4232] ^= 1;
    assert_eq!(parse_one(n(), segment).verdict, ends(Tail::Clean, 1, START + STEP));
}

#[test]
fn a_later_claim_above_the_cut_is_corruption() {
    let segment = filled(&n(), 1).skip(32).append_claiming(3, 8192 + 64);
    assert_eq!(parse_one(n(), segment).verdict, corrupt(1, START + STEP));
}

#[test]
fn a_later_claim_at_the_cut_is_only_torn() {
    let segment = filled(&n(), 1).skip(32).append_claiming(3, 8192 + 32);
    assert_eq!(parse_one(n(), segment).verdict, ends(Tail::Torn, 1, START + STEP));
}

#[test]
fn a_later_frame_counts_only_in_the_window_of_possible_seqs() {
    // 48 bytes behind a cut where 2 is expected: two frames fit between, so 2, 3 and 4 are possible.
    let at = |seq| parse_one(n(), filled(&n(), 1).skip(48).append_claiming(seq, 8192 + 64)).verdict;
    assert_eq!([2, 3, 4].map(at), [2, 3, 4].map(|_| corrupt(1, START + STEP)));
    assert_eq!([1, 5].map(at), [1, 5].map(|_| ends(Tail::EarlierLife, 1, START + STEP)));
}

// A clean close.

/// The log of `active` and the untouched or touched spare `k()`, closed at `clean_offset`.
fn parse_closed(clean_offset: u64, active: Segment, spare: Segment) -> Parsed {
    let manifest = Manifest { clean_offset, ..Manifest::of(&[n(), k()]) };
    parse(&directory(&manifest, &[active, spare]))
}

#[test]
fn a_close_at_the_cut_excuses_what_is_behind() {
    let mut segment = filled(&n(), 2).mark_durable(START + 2 * STEP).skip(32).append_claiming(4, 8192 + 64);
    segment.put(10000, b"earlier");
    let parsed = parse_closed(START + 2 * STEP, segment, Segment::of(&k()));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn a_close_at_the_start_ends_the_log_before_its_first_frame() {
    for segment in [Segment::of(&n()), Segment::of(&n()).skip(32).append_claiming(2, 8192 + 32)] {
        let parsed = parse_closed(START, segment, Segment::of(&k()));
        assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START));
        assert_eq!((parsed.last_seq, parsed.records.len()), (0, 0));
    }
}

// An older MANIFEST.

#[test]
fn frames_or_a_durable_word_behind_a_close_are_newer_than_the_manifest() {
    let frames = [filled(&n(), 3), filled(&n(), 2).append_open(3, b"open"), filled(&n(), 2).append(9, b"another")];
    let word = filled(&n(), 2).mark_durable(START + 3 * STEP);
    for active in frames.into_iter().chain([word]) {
        assert_eq!(parse_closed(START + 2 * STEP, active, Segment::of(&k())).verdict, Verdict::Stale);
    }
    // Also if the records in front are damaged.
    let mut damaged = filled(&n(), 3);
    damaged.bytes[8192 + 26] ^= 1;
    assert_eq!(parse_closed(START + 2 * STEP, damaged, Segment::of(&k())).verdict, Verdict::Stale);
}

#[test]
fn a_spare_that_is_begun_or_durable_after_a_close_is_newer_than_the_manifest() {
    let spares = [
        Segment::of(&k()).begin(3),
        Segment::of(&k()).append(3, b"on"),
        Segment::of(&k()).begin(1),
        Segment::of(&k()).mark_durable(START),
    ];
    for spare in spares {
        assert_eq!(parse_closed(START + 2 * STEP, filled(&n(), 2), spare).verdict, Verdict::Stale);
    }
    let touched = Segment::of(&k()).skip(32).append(3, b"on");
    let verdict = parse_closed(START + 2 * STEP, filled(&n(), 2), touched).verdict;
    assert_eq!(verdict, ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn a_spare_begun_where_no_crash_can_leave_it_is_newer_than_the_manifest() {
    // 4032 bytes are left behind the cut of N: 168 frames.
    let at = |base| parse_pair(filled(&n(), 2), Segment::of(&k()).begin(base)).verdict;
    assert_eq!([1, 2].map(at), [1, 2].map(|_| Verdict::Stale));
    assert_eq!(at(3 + 168), ends(Tail::Clean, 1, START + 2 * STEP));
    assert_eq!(at(3 + 169), Verdict::Stale);
}

/// The log of `filled(n(), 2)` and the spare `k()`, beside the file of a segment that the manifest does not name.
fn parse_beside(other: Segment) -> Verdict {
    let mut files = directory(&Manifest::of(&[n(), k()]), &[filled(&n(), 2), Segment::of(&k())]);
    files.insert(other.name, other.bytes);
    parse(&files).verdict
}

#[test]
fn an_unnamed_segment_that_holds_later_records_is_newer_than_the_manifest() {
    let other = || Segment::of(&Entry::spare(3));
    let later = [
        other().begin(3).append(3, b"on"),
        other().append(3, b"on"),
        other().begin(2).append(2, b"cut before"),
        // Begun behind records that are lost, and those were durable.
        other().begin(4).append(4, b"on").append_claiming(5, 8192),
        other().begin(4).mark_durable(START),
        other().begin(3 + 169),
        // Nothing in it, but it begins behind the first record.
        other().begin(3),
    ];
    for segment in later {
        assert_eq!(parse_beside(segment), Verdict::Stale);
    }
}

#[test]
fn an_unnamed_segment_that_was_dropped_or_never_begun_is_left_over() {
    let whole = ends(Tail::Clean, 1, START + 2 * STEP);
    let other = || Segment::of(&Entry::spare(3));
    let dropped = [
        other(),
        other().skip(32).append_claiming(4, 8192),
        other().mark_durable(START + STEP),
        // Nothing of it, or of what is lost in front of it, was durable.
        other().begin(4).append(4, b"on"),
        other().begin(3 + 168),
        // Before the first record.
        other().begin(1),
    ];
    for segment in dropped {
        assert_eq!(parse_beside(segment), whole);
    }
    let on = |entry: &Entry| Segment::of(entry).begin(3).append(3, b"on");
    let lower = Entry::spare(0);
    assert_eq!(parse_beside(on(&lower)), whole, "its ordinal is lower");
    let mut foreign = on(&Entry::spare(3));
    for at in [0, 512] {
        foreign.put(at, &build::identity(&Entry::spare(3), *b"another log's id"));
    }
    assert_eq!(parse_beside(foreign), whole);
    let mut longer = on(&Entry::spare(3));
    longer.bytes.resize(16384, 0);
    assert_eq!(parse_beside(longer), whole, "it is not as long as it says");
}

#[test]
fn the_ordinal_of_an_unnamed_segment_is_that_of_its_identity() {
    let mut segment = Segment::of(&Entry::spare(3)).begin(3).append(3, b"on");
    segment.name = format!("{:020}.wal", 0);
    assert_eq!(parse_beside(segment), Verdict::Stale);
    let mut older = Segment::of(&Entry::spare(0)).begin(3).append(3, b"on");
    older.name = format!("{:020}.wal", 9);
    assert_eq!(parse_beside(older), ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn another_preparation_of_a_segment_that_is_named_is_newer_than_the_manifest_if_it_holds_records() {
    let other = Entry { salt: 77, ..k() };
    let parsed = |segment: Segment| parse(&directory(&Manifest::of(&[n(), k()]), &[filled(&n(), 2), segment])).verdict;
    assert_eq!(parsed(Segment::of(&other)), corrupt(2, 0));
    assert_eq!(parsed(Segment::of(&other).begin(3).append(3, b"on")), Verdict::Stale);
}

#[test]
fn a_missing_segment_and_later_ones_are_an_older_manifest() {
    let later = Segment::of(&Entry::spare(3)).begin(9).append(9, b"on");
    let without = |active: Option<Segment>, others: &[Segment]| {
        let manifest = Manifest::of(&[n(), k()]);
        parse(&directory(&manifest, &active.into_iter().chain(others.iter().cloned()).collect::<Vec<_>>())).verdict
    };
    let missing = |ordinal| Verdict::Missing { ordinal };
    assert_eq!(without(None, &[Segment::of(&k())]), missing(1));
    assert_eq!(without(None, &[Segment::of(&k()), later.clone()]), Verdict::Stale);
    assert_eq!(without(Some(filled(&n(), 2)), &[]), missing(2));
    assert_eq!(without(Some(filled(&n(), 2)), &[later]), Verdict::Stale);
    assert_eq!(without(None, &[Segment::of(&k()).begin(1)]), missing(1));
}

#[test]
fn what_an_unfinished_copy_or_repair_has_made_is_no_segment_of_the_log_yet() {
    let on = || Segment::of(&Entry::spare(3)).begin(3).append(3, b"on");
    let mut files = directory(&Manifest::of(&[n(), k()]), &[filled(&n(), 2), Segment::of(&k()), on()]);
    assert_eq!(parse(&files).verdict, Verdict::Stale);
    files.insert("UNFINISHED".into(), Vec::new());
    assert_eq!(parse(&files).verdict, ends(Tail::Clean, 1, START + 2 * STEP));
    let replacing = |ordinal: u64| {
        let mut segment = on();
        for at in [0, 512] {
            let mut copy = build::identity(&Entry::spare(3), build::LOG_ID);
            copy[56..64].copy_from_slice(&ordinal.to_le_bytes());
            let crc = crc::salted(0, &copy[..124]).to_le_bytes();
            copy[124..].copy_from_slice(&crc);
            segment.put(at, &copy);
        }
        parse_beside(segment)
    };
    assert_eq!(replacing(1), ends(Tail::Clean, 1, START + 2 * STEP), "what it replaces is there");
    assert_eq!(replacing(7), Verdict::Stale);
}

#[test]
fn a_close_between_or_inside_frames_of_a_batch_is_no_close() {
    let segment = || filled(&n(), 1).append_open(2, b"open").append(3, b"commits").append_open(4, b"open");
    for clean_offset in [8, START - 8, START + 8, START + 3 * STEP - 8] {
        let parsed = parse_closed(clean_offset, segment(), Segment::of(&k()));
        assert_eq!(parsed.verdict, ends(Tail::Torn, 1, START + 3 * STEP), "{clean_offset}");
    }
    assert_eq!(parse_closed(START + 2 * STEP, segment(), Segment::of(&k())).verdict, Verdict::Stale);
}

#[test]
fn a_close_that_the_walk_does_not_reach_is_corruption() {
    let open = filled(&n(), 1).append_open(2, b"open");
    let hole = filled(&n(), 1).skip(32).append(3, b"on");
    for (clean_offset, segment) in [(2, filled(&n(), 1)), (2, open), (3, hole)] {
        let parsed = parse_closed(START + clean_offset * STEP, segment, Segment::of(&k()));
        assert_eq!(parsed.verdict, corrupt(1, START + STEP));
    }
}

#[test]
fn first_seq_and_checkpoint_seq_beyond_a_close_are_corruption() {
    let verdict = |first_seq, checkpoint_seq| {
        let manifest = Manifest { first_seq, checkpoint_seq, clean_offset: START + 2 * STEP, ..Manifest::of(&[n()]) };
        parse(&directory(&manifest, &[filled(&n(), 2)])).verdict
    };
    assert_eq!(verdict(3, 2), ends(Tail::Clean, 1, START + 2 * STEP));
    assert_eq!(verdict(4, 0), corrupt(1, START + 2 * STEP));
    assert_eq!(verdict(1, 3), corrupt(1, START + 2 * STEP));
}

// What makes a frame valid.

#[test]
fn a_frame_under_another_salt_is_an_earlier_life() {
    let mut segment = filled(&n(), 1);
    segment.salt ^= 1;
    assert_eq!(parse_one(n(), segment.append(2, b"record")).verdict, ends(Tail::EarlierLife, 1, START + STEP));
}

#[test]
fn a_frame_with_another_seq_ends_the_walk() {
    assert_eq!(parse_one(n(), filled(&n(), 1).append(1, b"again")).verdict, ends(Tail::EarlierLife, 1, START + STEP));
    assert_eq!(parse_one(n(), filled(&n(), 1).append(3, b"ahead")).verdict, ends(Tail::EarlierLife, 1, START + STEP));
}

#[test]
fn unknown_flags_and_reserved_bits_do_not_verify() {
    for [flags, reserved] in [[2, 0], [3, 0], [0x81, 0], [1, 1]] {
        let mut segment = filled(&n(), 1);
        let frame = build::frame(segment.salt, segment.next, 2, NO_CLAIM, [flags, reserved], 0, b"record");
        segment.put(segment.next, &frame);
        assert_eq!(parse_one(n(), segment).verdict, ends(Tail::EarlierLife, 1, START + STEP));
    }
}

#[test]
fn a_flipped_bit_in_any_covered_byte_cuts_the_frame() {
    for at in 8224..8224 + 24 + 6 {
        let mut segment = filled(&n(), 2);
        segment.bytes[at] ^= 4;
        assert_eq!(seqs(&parse_one(n(), segment)), [1], "{at}");
    }
}

#[test]
fn padding_is_not_judged() {
    let mut segment = filled(&n(), 2);
    segment.bytes[8192 + 30] = 7;
    assert_eq!(seqs(&parse_one(n(), segment)), [1, 2]);
}

#[test]
fn a_length_beyond_the_capacity_is_no_frame() {
    for len in [4096 - 24 + 1, u32::MAX - 8192, u32::MAX] {
        let mut segment = Segment::of(&n());
        segment.put(8192 + 4, &len.to_le_bytes());
        segment.put(8192 + 8, &1u64.to_le_bytes());
        assert_eq!(parse_one(n(), segment).verdict, ends(Tail::EarlierLife, 1, START));
    }
}

#[test]
fn tags_and_empty_payloads_are_records() {
    let mut segment = Segment::of(&n());
    segment.put(8192, &build::frame(n().salt, 8192, 1, NO_CLAIM, [COMMIT, 0], 0xBEEF, b""));
    let parsed = parse_one(n(), segment);
    assert_eq!(parsed.records, [reference::Rec { seq: 1, tag: 0xBEEF, payload: Vec::new() }]);
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 24));
}

// The table of spares: N holds 1 and 2, so e = 3.

#[test]
fn an_untouched_spare_leaves_the_active_segment_to_judge() {
    let parsed = parse_pair(filled(&n(), 2), Segment::of(&k()));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn a_spare_begun_where_the_active_segment_ends_is_judged() {
    let spare = Segment::of(&k()).begin(3).append(3, b"on").append(4, b"on");
    let parsed = parse_pair(filled(&n(), 2), spare);
    assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START + 2 * STEP));
    assert_eq!((parsed.last_seq, seqs(&parsed)), (4, vec![1, 2, 3, 4]));
}

#[test]
fn one_copy_of_begun_is_enough() {
    for damaged in [4168, 4680] {
        // No frame: it would stand for the word.
        let mut spare = Segment::of(&k()).begin(3);
        spare.bytes[damaged] ^= 1;
        assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, ends(Tail::Clean, 2, START));
    }
}

#[test]
fn without_a_copy_of_begun_or_a_first_frame_the_active_segment_is_judged() {
    let mut spare = Segment::of(&k()).begin(3);
    spare.bytes[4168] ^= 1;
    spare.bytes[4680] ^= 1;
    assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn a_first_frame_stands_for_begun() {
    let parsed = parse_pair(filled(&n(), 2), Segment::of(&k()).append(3, b"on"));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START + STEP));
}

#[test]
fn a_begun_spare_without_frames_is_judged_and_the_active_segment_is_cut_at_its_commit() {
    let parsed = parse_pair(filled(&n(), 2).append_open(3, b"open"), Segment::of(&k()).begin(3));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START));
    assert_eq!((parsed.last_seq, seqs(&parsed)), (2, vec![1, 2]));
}

#[test]
fn evidence_in_the_begun_spare_is_of_the_spare() {
    let spare = Segment::of(&k()).begin(3).append(3, b"on").mark_durable(START + 2 * STEP);
    assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, corrupt(2, START + STEP));
}

#[test]
fn a_spare_begun_behind_a_loss_without_claim_leaves_the_active_segment() {
    let parsed = parse_pair(filled(&n(), 2), Segment::of(&k()).begin(4).append(4, b"on"));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 2 * STEP));
    assert_eq!(seqs(&parsed), [1, 2]);
}

#[test]
fn a_spare_that_claims_makes_the_loss_before_it_corruption() {
    let begun = Segment::of(&k()).begin(4);
    let witnesses = [begun.clone().mark_durable(START), begun.append_claiming(4, 8192)];
    for spare in witnesses {
        assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, corrupt(1, START + 2 * STEP));
    }
}

#[test]
fn a_claim_in_a_spare_counts_only_if_its_seq_is_possible() {
    // 4032 bytes are left behind the cut of N: 168 frames.
    let at = |seq| parse_pair(filled(&n(), 2), Segment::of(&k()).begin(4).append_claiming(seq, 8192)).verdict;
    assert_eq!(at(3 + 168), corrupt(1, START + 2 * STEP));
    assert_eq!(at(3 + 169), ends(Tail::Clean, 1, START + 2 * STEP));
    assert_eq!(at(2), ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn a_spare_not_begun_that_claims_bytes_of_its_own_is_corruption() {
    let word = Segment::of(&k()).mark_durable(START + 8);
    let frame = Segment::of(&k()).skip(32).append_claiming(4, 8192 + 32);
    for spare in [word, frame] {
        assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, corrupt(2, START));
    }
}

#[test]
fn a_spare_not_begun_that_claims_nothing_of_its_own_leaves_the_active_segment() {
    let word = Segment::of(&k()).mark_durable(START);
    let frame = Segment::of(&k()).skip(32).append_claiming(4, 8192);
    for spare in [word, frame] {
        assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, ends(Tail::Clean, 1, START + 2 * STEP));
    }
}

#[test]
fn frames_without_claim_behind_the_start_of_a_spare_do_not_begin_it() {
    let parsed = parse_pair(filled(&n(), 2), Segment::of(&k()).skip(32).append(4, b"on"));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 1, START + 2 * STEP));
}

#[test]
fn two_touched_spares_are_corruption_of_the_second_and_two_begun_ones_an_older_manifest() {
    let third = Entry::spare(3);
    let of = |second: Segment| {
        let segments = [filled(&n(), 2), Segment::of(&k()).begin(3).append(3, b"on"), second];
        parse(&directory(&Manifest::of(&[n(), k(), third.clone()]), &segments)).verdict
    };
    assert_eq!(of(Segment::of(&third).mark_durable(START)), corrupt(3, START));
    assert_eq!(of(Segment::of(&third).begin(4)), Verdict::Stale);
}

#[test]
fn the_touched_spare_need_not_be_the_first() {
    let third = Entry::spare(3);
    let segments = [filled(&n(), 2), Segment::of(&k()), Segment::of(&third).append(3, b"on")];
    let parsed = parse(&directory(&Manifest::of(&[n(), k(), third]), &segments));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 3, START + STEP));
}

#[test]
fn of_two_copies_of_begun_that_verify_the_first_holds() {
    let bases = |first, second| {
        let mut spare = Segment::of(&k());
        spare.put_word(4160, first);
        spare.put_word(4672, second);
        parse_pair(filled(&n(), 2), spare).verdict
    };
    assert_eq!(bases(3, 2), ends(Tail::Clean, 2, START));
    assert_eq!(bases(2, 3), Verdict::Stale);
    assert_eq!(bases(0, 3), ends(Tail::Clean, 2, START));
}

#[test]
fn begun_holds_against_another_first_frame() {
    let spare = Segment::of(&k()).begin(3).append(5, b"on");
    assert_eq!(parse_pair(filled(&n(), 2), spare).verdict, ends(Tail::EarlierLife, 2, START));
}

#[test]
fn the_words_of_the_active_segment_say_nothing_when_the_spare_is_judged() {
    let active = filled(&n(), 2).mark_durable(START + 3 * STEP);
    assert_eq!(parse_pair(active.clone(), Segment::of(&k())).verdict, corrupt(1, START + 2 * STEP));
    let parsed = parse_pair(active, Segment::of(&k()).begin(3).append(3, b"on"));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START + STEP));
}

#[test]
fn published_decides_nothing() {
    for published in [0, 1, START, START + STEP, START + 5 * STEP, 1 << 62, 1 << 63, u64::MAX] {
        let (mut active, mut spare) = (filled(&n(), 2), Segment::of(&k()));
        active.put(4096, &published.to_le_bytes());
        spare.put(4096, &published.to_le_bytes());
        assert_eq!(parse_pair(active, spare).verdict, ends(Tail::Clean, 1, START + 2 * STEP), "{published}");
    }
}

#[test]
fn a_possible_frame_inside_another_one_counts() {
    // Inside the payload of a frame that is the next one but for its seq.
    let segment = filled(&n(), 1);
    let inner = build::frame(segment.salt, 8272, 3, (8272 - 8256) / 8, [COMMIT, 0], 0, b"claims");
    let outer = [&[0; 24][..], &inner, &[0; 44]].concat();
    assert_eq!(parse_one(n(), segment.append(9, &outer)).verdict, corrupt(1, START + STEP));
}

// Sealed segments, gaps, first_seq, checkpoint_seq.

/// Ordinal 1 sealed with 1 and 2, ordinal 2 active from `base` on with one record.
fn sealed_then_active(base: u64) -> (Manifest, [Segment; 2]) {
    let entries = [Entry::sealed(1, 1, START + 2 * STEP, 2), Entry::active(2, base)];
    let segments = [filled(&entries[0], 2), Segment::of(&entries[1]).append(base, b"on")];
    (Manifest::of(&entries), segments)
}

#[test]
fn sealed_segments_are_replayed_before_the_active_one() {
    let (manifest, segments) = sealed_then_active(3);
    let parsed = parse(&directory(&manifest, &segments));
    assert_eq!((seqs(&parsed), parsed.gaps, parsed.sealed_damage), (vec![1, 2, 3], vec![], None));
}

#[test]
fn a_gap_is_named_and_replayed_over() {
    let (manifest, segments) = sealed_then_active(7);
    let parsed = parse(&directory(&manifest, &segments));
    assert_eq!((seqs(&parsed), parsed.gaps, parsed.last_seq), (vec![1, 2, 7], vec![(3, 6)], 7));
}

#[test]
fn records_before_first_seq_are_not_shown() {
    let (mut manifest, segments) = sealed_then_active(3);
    manifest.first_seq = 2;
    assert_eq!(seqs(&parse(&directory(&manifest, &segments))), [2, 3]);
}

#[test]
fn damage_in_a_sealed_segment_ends_the_records_and_not_the_log() {
    let (manifest, mut segments) = sealed_then_active(3);
    segments[0].bytes[8224] ^= 1;
    let parsed = parse(&directory(&manifest, &segments));
    assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START + STEP));
    assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![1], Some(corrupt(1, START + STEP))));
}

#[test]
fn damage_inside_a_batch_of_a_sealed_segment_hides_the_whole_batch() {
    let entries = [Entry::sealed(1, 1, START + 4 * STEP, 4), Entry::active(2, 5)];
    let sealed = filled(&entries[0], 1).append_open(2, b"open").append_open(3, b"open").append(4, b"commits");
    let parsed_with_damage = |at: Option<usize>| {
        let mut sealed = sealed.clone();
        at.into_iter().for_each(|at| sealed.bytes[at] ^= 1);
        parse(&directory(&Manifest::of(&entries), &[sealed, Segment::of(&entries[1]).append(5, b"on")]))
    };
    assert_eq!(seqs(&parsed_with_damage(None)), [1, 2, 3, 4, 5]);
    for frames in 1..4 {
        let parsed = parsed_with_damage(Some(8192 + 32 * frames));
        assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START + STEP));
        assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![1], Some(corrupt(1, START + STEP * frames as u64))));
    }
}

#[test]
fn a_batch_that_the_end_of_a_sealed_segment_leaves_open_is_not_shown() {
    let entries = [Entry::sealed(1, 1, START + 2 * STEP, 2), Entry::active(2, 3)];
    let segments = [filled(&entries[0], 1).append_open(2, b"open"), Segment::of(&entries[1]).append(3, b"on")];
    let parsed = parse(&directory(&Manifest::of(&entries), &segments));
    assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![1], Some(corrupt(1, START + 2 * STEP))));
}

#[test]
fn a_sealed_segment_ends_with_its_last_seq_and_a_commit() {
    let damage = |end_offset, last_seq, segment: fn(Segment) -> Segment| {
        let entries = [Entry::sealed(1, 1, end_offset, last_seq), Entry::active(2, 9)];
        let segments = [segment(filled(&entries[0], 1)), Segment::of(&entries[1])];
        parse(&directory(&Manifest::of(&entries), &segments)).sealed_damage
    };
    assert_eq!(damage(START + 2 * STEP, 2, |one| one.append(2, b"on")), None);
    assert_eq!(damage(START + 2 * STEP, 2, |one| one.append_open(2, b"on")), Some(corrupt(1, START + 2 * STEP)));
    assert_eq!(damage(START + STEP + 64, 3, |one| one.append(2, &[1; 40])), Some(corrupt(1, START + STEP + 64)));
    assert_eq!(damage(START + 2 * STEP, 1, |one| one.append(2, b"on")), Some(corrupt(1, START + STEP)));
    assert_eq!(damage(START + 2 * STEP - 8, 2, |one| one.append(2, b"on")), Some(corrupt(1, START + STEP)));
}

#[test]
fn of_a_batch_that_does_not_end_a_sealed_segment_as_the_manifest_says_nothing_is_shown() {
    let shown = |end_offset, last_seq, segment: fn(Segment) -> Segment| {
        let entries = [Entry::sealed(1, 1, end_offset, last_seq), Entry::active(2, 9)];
        let segments = [segment(filled(&entries[0], 1)), Segment::of(&entries[1])];
        let parsed = parse(&directory(&Manifest::of(&entries), &segments));
        (seqs(&parsed), parsed.batch_ends, parsed.sealed_damage)
    };
    // The last record is there, and another one behind it.
    let early = |one: Segment| one.append(2, b"on").append(3, b"on");
    assert_eq!(shown(START + 3 * STEP, 2, early), (vec![1], vec![1], Some(corrupt(1, START + 2 * STEP))));
    // The same, and the batch goes on over it.
    let over = |one: Segment| one.append_open(2, b"on").append(3, b"on");
    assert_eq!(shown(START + 3 * STEP, 2, over), (vec![1], vec![1], Some(corrupt(1, START + 3 * STEP))));
    // It ends before its last record.
    let late = |one: Segment| one.append(2, &[1; 40]);
    assert_eq!(shown(START + STEP + 64, 3, late), (vec![1], vec![1], Some(corrupt(1, START + STEP + 64))));
}

#[test]
fn what_a_cut_left_behind_the_end_of_a_sealed_segment_is_not_looked_at() {
    let (manifest, mut segments) = sealed_then_active(3);
    let [sealed, active] = segments;
    segments = [sealed.append(3, b"was cut").append_claiming(4, 8192 + 96).mark_durable(START + 4 * STEP), active];
    let parsed = parse(&directory(&manifest, &segments));
    assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![1, 2, 3], None));
}

#[test]
fn sealed_segments_before_first_seq_and_empty_ones_are_not_read() {
    let entries = [Entry::sealed(1, 1, START + STEP, 1), Entry::sealed(2, 5, START, 4), Entry::active(3, 5)];
    let mut segments = [Segment::of(&entries[0]), Segment::of(&entries[1]), Segment::of(&entries[2]).append(5, b"on")];
    for segment in &mut segments[..2] {
        segment.put(0, &build::identity(&n(), [7; 16]));
    }
    let parse_from = |first_seq| {
        let parsed = parse(&directory(&Manifest { first_seq, ..Manifest::of(&entries) }, &segments));
        (seqs(&parsed), parsed.gaps, parsed.sealed_damage)
    };
    assert_eq!(parse_from(2), (vec![5], vec![(2, 4)], None));
    assert_eq!(parse_from(1), (vec![], vec![(2, 4)], Some(Verdict::Foreign)));
}

#[test]
fn a_gap_and_a_batch_are_shown_from_first_seq_on() {
    let entries = [Entry::sealed(1, 1, START + 2 * STEP, 2), Entry::active(2, 7)];
    let sealed = Segment::of(&entries[0]).append_open(1, b"open").append(2, b"commits");
    let segments = [sealed, Segment::of(&entries[1]).append_open(7, b"open").append(8, b"commits")];
    let parse_from = |first_seq| {
        let parsed = parse(&directory(&Manifest { first_seq, ..Manifest::of(&entries) }, &segments));
        (seqs(&parsed), parsed.batch_ends, parsed.gaps)
    };
    assert_eq!(parse_from(1), (vec![1, 2, 7, 8], vec![2, 8], vec![(3, 6)]));
    assert_eq!(parse_from(2), (vec![2, 7, 8], vec![2, 8], vec![(3, 6)]));
    assert_eq!(parse_from(5), (vec![7, 8], vec![8], vec![(5, 6)]));
    assert_eq!(parse_from(7), (vec![7, 8], vec![8], vec![]));
    assert_eq!(parse_from(8), (vec![8], vec![8], vec![]));
}

#[test]
fn first_seq_and_checkpoint_seq_beyond_the_end_are_corruption() {
    let verdict = |first_seq, checkpoint_seq| {
        let manifest = Manifest { first_seq, checkpoint_seq, ..Manifest::of(&[n()]) };
        parse(&directory(&manifest, &[filled(&n(), 2)])).verdict
    };
    assert_eq!(verdict(3, 2), ends(Tail::Clean, 1, START + 2 * STEP));
    assert_eq!(verdict(4, 0), corrupt(1, START + 2 * STEP));
    assert_eq!(verdict(1, 3), corrupt(1, START + 2 * STEP));
}

// The manifest and the files.

#[test]
fn the_slot_of_the_higher_generation_is_the_log() {
    let old = Manifest { meta: b"old".to_vec(), ..Manifest::of(&[n()]) };
    let new = Manifest { generation: 2, meta: b"newer meta".to_vec(), ..old.clone() };
    for slots in [[old.slot(), new.slot()], [new.slot(), old.slot()]] {
        let mut files = directory(&old, &[filled(&n(), 1)]);
        files.insert("MANIFEST".into(), slots.concat());
        assert_eq!(parse(&files).meta, b"newer meta");
    }
}

#[test]
fn of_two_slots_of_one_generation_the_first_is_the_log() {
    let one = Manifest { meta: b"one".to_vec(), ..Manifest::of(&[n()]) };
    let two = Manifest { meta: b"two".to_vec(), ..one.clone() };
    for (first, second) in [(&one, &two), (&two, &one)] {
        let mut files = directory(&one, &[filled(&n(), 1)]);
        files.insert("MANIFEST".into(), [first.slot(), second.slot()].concat());
        assert_eq!(parse(&files).meta, first.meta);
    }
}

#[test]
fn a_valid_slot_holds_against_a_later_one_of_another_version() {
    let later = Manifest { version: 2, generation: 9, ..Manifest::of(&[n()]) };
    for slots in [[Manifest::of(&[n()]).slot(), later.slot()], [later.slot(), Manifest::of(&[n()]).slot()]] {
        let mut files = directory(&later, &[filled(&n(), 1)]);
        files.insert("MANIFEST".into(), slots.concat());
        assert_eq!(parse(&files).verdict, ends(Tail::Clean, 1, START + STEP));
    }
}

#[test]
fn another_version_is_refused_by_name_whatever_its_entries_say_but_not_if_its_crc_is_wrong() {
    let manifest = Manifest { version: 2, ..Manifest::of(&[Entry { salt: 0, flags: 9, ..n() }, n()]) };
    let mut files = directory(&manifest, &[]);
    assert_eq!(parse(&files).verdict, Verdict::Version);
    for at in [17, 4096 + 17] {
        files.get_mut("MANIFEST").expect("it was built")[at] ^= 1;
    }
    assert_eq!(parse(&files).verdict, Verdict::NoManifest);
}

#[test]
fn what_stands_behind_a_slot_is_not_judged() {
    let manifest = Manifest { meta: b"meta".to_vec(), ..Manifest::of(&[n()]) };
    let mut files = directory(&manifest, &[filled(&n(), 1)]);
    let file = files.get_mut("MANIFEST").expect("it was built");
    let used = 88 + 8 + 48 + 4;
    for half in [0, 4096] {
        file[half + used..half + 4096].fill(0xEE);
    }
    assert_eq!(parse(&files).meta, b"meta");
}

#[test]
fn a_torn_slot_leaves_the_other() {
    let mut files = directory(&Manifest::of(&[n()]), &[filled(&n(), 1)]);
    files.get_mut("MANIFEST").expect("it was built")[20] ^= 1;
    assert_eq!(parse(&files).verdict, ends(Tail::Clean, 1, START + STEP));
    files.get_mut("MANIFEST").expect("it was built")[4096 + 20] ^= 1;
    assert_eq!(parse(&files).verdict, Verdict::NoManifest);
}

#[test]
fn entries_out_of_order_are_no_manifest() {
    let sealed = Entry::sealed(1, 1, START + STEP, 1);
    let active = Entry::active(2, 2);
    let spare = Entry::spare(3);
    let mut beyond = sealed.clone();
    beyond.end_offset = sealed.capacity as u64 + 8;
    let bad: [&[Entry]; 18] = [
        &[],
        std::slice::from_ref(&sealed),
        &[active.clone(), sealed.clone()],
        &[sealed.clone(), spare.clone(), active.clone()],
        &[active.clone(), Entry { ordinal: 9, ..active.clone() }],
        &[sealed.clone(), Entry { ordinal: 1, ..active.clone() }],
        &[sealed.clone(), Entry { base_seq: 1, ..active.clone() }],
        &[Entry { salt: 0, ..active.clone() }],
        &[Entry { flags: 2, ..active.clone() }],
        &[Entry { end_offset: START, ..sealed.clone() }, active.clone()],
        &[Entry { end_offset: START + 4, ..sealed.clone() }, active.clone()],
        &[Entry { last_seq: 0, ..sealed.clone() }, active.clone()],
        &[Entry { last_seq: 2, ..sealed.clone() }, Entry { base_seq: 3, ..active.clone() }],
        &[beyond, active.clone()],
        &[Entry { end_offset: START, last_seq: 1, ..sealed.clone() }, active.clone()],
        &[Entry { last_seq: 1, ..active.clone() }],
        &[active.clone(), Entry { end_offset: START, ..spare.clone() }],
        &[active.clone(), Entry { last_seq: 1, ..spare.clone() }],
    ];
    for (index, entries) in bad.into_iter().enumerate() {
        assert_eq!(parse(&directory(&Manifest::of(entries), &[])).verdict, Verdict::NoManifest, "{index}");
    }
    let late = Manifest { first_seq: 0, ..Manifest::of(&[active]) };
    assert_eq!(parse(&directory(&late, &[])).verdict, Verdict::NoManifest);
}

#[test]
fn a_capacity_is_from_three_pages_to_16_gib() {
    // No file is as long as that: what is asked is only whether the slot is valid.
    let verdict = |capacity| parse(&directory(&Manifest::of(&[Entry { capacity, ..n() }]), &[])).verdict;
    for capacity in [12288, 1 << 34] {
        assert_eq!(verdict(capacity), Verdict::Missing { ordinal: 1 }, "{capacity}");
    }
    for capacity in [0, 8192, 12288 + 512, (1 << 34) + 4096, 1 << 63] {
        assert_eq!(verdict(capacity), Verdict::NoManifest, "{capacity}");
    }
}

#[test]
fn numbers_from_2_to_the_63_on_are_no_manifest() {
    const LARGEST: u64 = (1 << 63) - 1;
    let verdict = |manifest: Manifest| parse(&directory(&manifest, &[])).verdict;
    let with = |number| {
        let plain = || Manifest::of(&[n()]);
        [
            Manifest { generation: number, ..plain() },
            Manifest { first_seq: number, ..plain() },
            Manifest { checkpoint_seq: number, ..plain() },
            Manifest::of(&[Entry { ordinal: number, ..n() }]),
            Manifest::of(&[n(), Entry { ordinal: number, ..k() }]),
            Manifest::of(&[Entry::sealed(1, 1, START + STEP, 1), Entry::active(2, number)]),
            // The base of the active segment has to be above it: its own bound decides nothing.
            Manifest::of(&[Entry::sealed(1, number - 1, START + STEP, number - 1), Entry::active(2, number)]),
        ]
    };
    for (index, manifest) in with(LARGEST).into_iter().enumerate() {
        assert!(matches!(verdict(manifest), Verdict::Missing { .. }), "{index}");
    }
    for (index, manifest) in with(LARGEST + 1).into_iter().enumerate() {
        assert_eq!(verdict(manifest), Verdict::NoManifest, "{index}");
    }
}

#[test]
fn a_manifest_is_a_positive_multiple_of_8192_long() {
    let with_length = |len: usize| {
        let mut files = directory(&Manifest::of(&[n()]), &[filled(&n(), 1)]);
        let mut slot = Manifest::of(&[n()]).slot();
        slot.resize(len / 2, 0);
        let mut file = [slot.as_slice(), &slot].concat();
        file.resize(len, 0);
        files.insert("MANIFEST".into(), file);
        parse(&files).verdict
    };
    for len in [8192, 16384, 24576] {
        assert_eq!(with_length(len), ends(Tail::Clean, 1, START + STEP), "{len}");
    }
    for len in [0, 4096, 8191, 8193, 8704, 12288] {
        assert_eq!(with_length(len), Verdict::NoManifest, "{len}");
    }
}

#[test]
fn another_version_or_an_unknown_feature_is_refused_by_name() {
    let version = Manifest { version: 2, ..Manifest::of(&[n()]) };
    let feature = Manifest { features: 4, ..Manifest::of(&[n()]) };
    for manifest in [version, feature] {
        assert_eq!(parse(&directory(&manifest, &[filled(&n(), 1)])).verdict, Verdict::Version);
    }
}

#[test]
fn a_segment_absent_or_of_another_length_is_missing() {
    let mut files = directory(&Manifest::of(&[n(), k()]), &[filled(&n(), 1), Segment::of(&k())]);
    let name = Segment::of(&k()).name;
    files.get_mut(&name).expect("it was built").push(0);
    assert_eq!(parse(&files).verdict, Verdict::Missing { ordinal: 2 });
    files.remove(&name);
    assert_eq!(parse(&files).verdict, Verdict::Missing { ordinal: 2 });
}

#[test]
fn the_first_segment_that_is_missing_is_named_before_anything_else_is_judged() {
    let (manifest, segments) = sealed_then_active(3);
    let mut files = directory(&manifest, &segments);
    files.get_mut(&segments[1].name).expect("it was built").truncate(8192);
    assert_eq!(parse(&files).verdict, Verdict::Missing { ordinal: 2 });
    files.remove(&segments[0].name);
    assert_eq!(parse(&files).verdict, Verdict::Missing { ordinal: 1 });
}

#[test]
fn files_with_other_names_are_not_looked_at() {
    let mut files = directory(&Manifest::of(&[n()]), &[filled(&n(), 1), Segment::of(&Entry::spare(7))]);
    for name in ["MANIFEST.tmp", "0.wal", "00000000000000000001.WAL", "lost"] {
        files.insert(name.into(), Manifest { generation: 9, ..Manifest::of(&[k()]) }.file());
    }
    assert_eq!(parse(&files).verdict, ends(Tail::Clean, 1, START + STEP));
}

#[test]
fn an_identity_of_another_log_is_foreign() {
    for at in [0, 512] {
        let mut spare = Segment::of(&k());
        spare.put(at, &build::identity(&k(), [7; 16]));
        assert_eq!(parse_pair(filled(&n(), 1), spare).verdict, Verdict::Foreign);
    }
}

#[test]
fn an_identity_that_disagrees_is_corruption_at_0() {
    let others = [Entry { salt: 5, ..n() }, Entry { ordinal: 5, ..n() }, Entry { capacity: 16384, ..n() }];
    for other in others {
        let mut segment = Segment::of(&n());
        segment.put(512, &build::identity(&other, build::LOG_ID));
        assert_eq!(parse_one(n(), segment).verdict, corrupt(1, 0));
    }
}

#[test]
fn damaged_identities_and_what_stands_beside_them_are_not_judged() {
    let (manifest, mut segments) = sealed_then_active(3);
    for segment in &mut segments {
        segment.put(0, &[0; 1024]);
        segment.put(2000, b"beside");
    }
    let parsed = parse(&directory(&manifest, &segments));
    assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![1, 2, 3], None));
}

#[test]
fn the_identity_of_a_sealed_segment_is_damage_of_that_segment() {
    let other = Entry { salt: 5, ..Entry::sealed(1, 1, START + 2 * STEP, 2) };
    let identities =
        [(build::identity(&n(), [7; 16]), Verdict::Foreign), (build::identity(&other, build::LOG_ID), corrupt(1, 0))];
    for (identity, damage) in identities {
        for at in [0, 512] {
            let (manifest, mut segments) = sealed_then_active(3);
            segments[0].put(at, &identity);
            let parsed = parse(&directory(&manifest, &segments));
            assert_eq!(parsed.verdict, ends(Tail::Clean, 2, START + STEP));
            assert_eq!((seqs(&parsed), parsed.sealed_damage), (vec![], Some(damage.clone())));
        }
    }
}

#[test]
fn the_first_identity_that_is_another_one_is_the_verdict() {
    let (foreign, other) = (build::identity(&k(), [7; 16]), Entry { ordinal: 5, ..k() });
    let mut spare = Segment::of(&k());
    spare.put(0, &build::identity(&other, build::LOG_ID));
    spare.put(512, &foreign);
    assert_eq!(parse_pair(filled(&n(), 1), spare.clone()).verdict, corrupt(2, 0));
    let mut active = filled(&n(), 1);
    active.put(512, &foreign);
    assert_eq!(parse_pair(active, spare).verdict, Verdict::Foreign);
}

#[test]
fn no_files_and_an_unfinished_creation_are_no_log() {
    assert_eq!(parse(&Files::new()).verdict, Verdict::NoLog);
    assert_eq!(parse(&leftovers(&[Segment::of(&n()), Segment::of(&k())])).verdict, Verdict::NoLog);
    assert_eq!(parse(&Files::from([("7.wal".into(), vec![1])])).verdict, Verdict::NoLog);
    let short = ["00000000000000000001.wal", "00000000000000000002.wal"].map(|name| (name.into(), vec![1; 100]));
    assert_eq!(parse(&Files::from(short)).verdict, Verdict::NoLog);
}

#[test]
fn segments_without_a_manifest_are_not_taken_for_a_fresh_log() {
    assert_eq!(parse(&leftovers(&[Segment::of(&Entry::spare(3))])).verdict, Verdict::NoManifest);
    assert_eq!(parse(&leftovers(&[filled(&n(), 1)])).verdict, Verdict::NoManifest);
    let mut touched = Segment::of(&n());
    touched.put(4096, &[1]);
    assert_eq!(parse(&leftovers(&[touched])).verdict, Verdict::NoManifest);
    assert_eq!(parse(&leftovers(&[Segment::of(&n()).skip(800).append(9, b"x")])).verdict, Verdict::NoManifest);
}

#[test]
fn a_directory_is_read_like_its_files() {
    let (manifest, segments) = sealed_then_active(3);
    let files = directory(&manifest, &segments);
    let dir = tempfile::tempdir().expect("a directory");
    for (name, bytes) in &files {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
    }
    std::fs::create_dir(dir.path().join("lost+found")).expect("a directory");
    assert_eq!(parse_dir(dir.path()), parse(&files));
}

// Hostile bytes.

#[test]
fn frames_and_words_may_hold_seqs_that_no_manifest_can() {
    let largest_base = (1 << 63) - 1;
    let entry = Entry::active(1, largest_base);
    let segment = Segment::of(&entry).append(largest_base, b"on").append(1 << 63, b"on").append(u64::MAX, b"ahead");
    let spare = Segment::of(&k()).begin(u64::MAX).append(u64::MAX, b"ahead");
    let beside = parse(&directory(&Manifest::of(&[entry.clone(), k()]), &[segment.clone(), spare]));
    assert_eq!(beside.verdict, Verdict::Stale);
    let parsed = parse_one(entry, segment);
    assert_eq!(parsed.verdict, ends(Tail::EarlierLife, 1, START + 2 * STEP));
    assert_eq!((seqs(&parsed), parsed.last_seq), (vec![largest_base, 1 << 63], 1 << 63));
}

#[test]
fn no_flip_and_no_shortening_panics() {
    let (manifest, segments) = sealed_then_active(3);
    let files = directory(&manifest, &segments);
    for (name, bytes) in &files {
        for at in (0..bytes.len()).filter(|at| bytes[*at] != 0) {
            let mut damaged = files.clone();
            damaged.get_mut(name).expect("it is there")[at] ^= 0xFF;
            parse(&damaged);
        }
        for len in (0..bytes.len()).step_by(61) {
            let mut damaged = files.clone();
            damaged.get_mut(name).expect("it is there").truncate(len);
            parse(&damaged);
        }
    }
}
