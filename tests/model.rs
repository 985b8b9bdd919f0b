//! Proves that any history of appends in every mode, syncs, checkpoints, truncations, cuts, resets, clean reopens and kills
//! leaves exactly what a log in three lines of memory holds, for the writer, for a reader beside it, for snapshots kept
//! meanwhile, and for the reference parser.
//! Does not prove anything about power loss, damage, or threads.
//!
//! `MMAP_WAL_CASES` sets the number of histories.
#![allow(missing_docs)]

#[path = "model/mod.rs"]
mod executor;
mod fixture;
mod reference;

use executor::{Op, Setup, run};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CASES: u32 = 3_000;

fn setup() -> impl Strategy<Value = Setup> {
    (prop_oneof![Just(0), Just(255), 1..20_u8], any::<u8>(), any::<u8>(), any::<bool>())
        .prop_map(|(mode, pages, spares, strict)| Setup { mode, pages, spares, strict })
}

/// Mostly short, sometimes about a segment, seldom more.
fn len() -> impl Strategy<Value = u32> {
    prop_oneof![20 => 0..300_u32, 5 => 300..3000_u32, 3 => 4000..4100_u32, 1 => 0..40_000_u32]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => len().prop_map(Op::Append),
        6 => prop::collection::vec(len(), 0..12).prop_map(Op::AppendBatch),
        6 => (len(), len(), prop::bool::weighted(0.3)).prop_map(|(a, b, fails)| {
            // Mostly it fits.
            if a % 8 == 0 { Op::AppendWith { max: a, len: b, fails } } else { Op::AppendWith { max: a.max(b), len: a.min(b), fails } }
        }),
        4 => prop::collection::vec(any::<u16>(), 0..4).prop_map(Op::AppendVectored),
        3 => (any::<u16>(), len()).prop_map(|(tag, len)| Op::AppendTagged { tag, len }),
        1 => Just(Op::AppendOversized),
        3 => len().prop_map(Op::TryAppend),
        3 => (prop::collection::vec(len(), 0..4), any::<bool>()).prop_map(|(lens, wait)| Op::Submit { lens, wait }),
        3 => Just(Op::Sync),
        2 => any::<u16>().prop_map(Op::SyncTo),
        2 => Just(Op::Maintain),
        2 => any::<u16>().prop_map(Op::Checkpoint),
        2 => any::<u16>().prop_map(Op::TruncateFront),
        2 => any::<u16>().prop_map(Op::TruncateBack),
        1 => any::<u16>().prop_map(Op::Reset),
        1 => any::<u16>().prop_map(Op::SetMeta),
        3 => any::<u16>().prop_map(Op::Get),
        2 => any::<u16>().prop_map(Op::Replay),
        2 => any::<bool>().prop_map(|durable| Op::Keep { durable }),
        1 => Just(Op::CheckKept),
        1 => Just(Op::Forget),
        2 => Just(Op::Read),
        2 => setup().prop_map(Op::Reopen),
        3 => setup().prop_map(Op::Kill),
    ]
}

#[test]
fn every_history_leaves_what_the_model_holds() {
    let cases = std::env::var("MMAP_WAL_CASES").ok().map_or(CASES, |text| text.parse().expect("a number of cases"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let histories = prop::collection::vec(op(), 1..80);
    let outcome = TestRunner::new(config).run(&histories, |ops| run(&ops).map_err(TestCaseError::fail));
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

/// A rotation for a record whose callback then fails leaves an empty segment behind, and the next record may not fit it.
#[test]
fn segments_that_stay_empty_are_survived() {
    let long = |len, fails| Op::AppendWith { max: len, len, fails };
    let setup = Setup { mode: 255, pages: 0, spares: 0, strict: true };
    for end in [Op::Kill(setup.clone()), Op::Reopen(setup)] {
        let ops = [
            Op::Append(3000),
            long(4000, true),
            long(20_000, true),
            end.clone(),
            long(30_000, true),
            end.clone(),
            Op::Append(10),
            end.clone(),
            long(39_000, false),
            Op::Keep { durable: false },
            Op::TruncateFront(2),
            end,
            Op::Append(0),
            Op::Read,
        ];
        run(&ops).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// A log that holds nothing any more still knows its numbers.
#[test]
fn a_log_truncated_whole_goes_on_with_the_next_number_however_it_ended() {
    let setup = Setup { mode: 0, pages: 0, spares: 0, strict: true };
    for end in [Op::Kill(setup.clone()), Op::Reopen(setup)] {
        let mut ops = vec![Op::AppendBatch(vec![1000; 9])];
        for _ in 0..3 {
            // The model takes the number modulo last + 3, so this is the last record whatever that is.
            ops.extend([Op::TruncateFront(9), end.clone(), Op::Read]);
        }
        ops.push(Op::Append(1));
        run(&ops).unwrap_or_else(|e| panic!("{e}"));
    }
}
