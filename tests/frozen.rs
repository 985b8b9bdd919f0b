//! Proves that logs of version 1 of the format are read as they always were: a directory for each feature and each kind of
//! damage, committed as bytes with what a reader, a writer, `verify`, the command line and the reference parser say of it.
//! Does not prove that today's writer makes such bytes (`golden` does) or that every other log is read right.
//!
//! A log here is never changed, and neither is what it is expected to be read as: `FROZEN` holds a checksum of both. (Three
//! whose manifest is older than their segments were once believed or called corrupt, and are refused as that:
//! `closed-before-frames`, `spare-begun-low` and `spares-begun-both`.)
//! To add one, write what makes it, run `MMAP_WAL_GOLDEN=write cargo test --test frozen`, which leaves alone what is
//! there, read the two files that say what is expected, and put the checksum that the test names into the list.
#![allow(missing_docs)]

#[path = "frozen/expect.rs"]
mod expect;
mod fixture;
mod golden_files;
#[path = "frozen/make.rs"]
mod make;
mod reference;

use std::fmt::Write as _;
use std::path::Path;

use fixture::{log_files_of, scratch, write_files};
use golden_files::{Files, from_text, golden, load, save, texts, writing};
use make::MAKERS;
use mmap_wal::inspect::Log;
use mmap_wal::{Background, Options, SyncMode};
use reference::{crc, parse};

const FROZEN: &[(&str, u32)] = &[
    ("batch", 0x1e1ed169),
    ("begun-by-its-first-copy", 0xc44864f6),
    ("begun-by-its-frame", 0x177cc166),
    ("begun-by-its-second-copy", 0x72f6daec),
    ("begun-one-copy", 0x6889c9c6),
    ("checkpoint", 0x467aa395),
    ("claim-behind-a-hole", 0xcbc19e71),
    ("claim-of-a-number-too-high", 0x44579683),
    ("claim-of-what-is-there", 0x0eb475da),
    ("closed", 0x122a6273),
    ("closed-before-frames", 0xb85aea8f),
    ("closed-beyond-frames", 0x043cb493),
    ("copied-into-a-payload", 0xfb9c6b4b),
    ("corrupt", 0xce679a43),
    ("corrupt-header", 0x991e35c6),
    ("corrupt-sealed", 0xa33990b8),
    ("corrupt-sealed-batch", 0x062318ee),
    ("corrupt-tag", 0xdcc282bb),
    ("cut", 0x38c38cea),
    ("durable-and-lost", 0x95f2a887),
    ("durable-one-slot", 0x764c0b53),
    ("empty", 0x3c2908a8),
    ("empty-record", 0x4f06a9bb),
    ("first-seq-beyond", 0x040ad428),
    ("foreign", 0x7289d6c4),
    ("foreign-sealed", 0xbaa75a9f),
    ("full", 0x4b00398c),
    ("gap", 0x7de5e6be),
    ("identity-one-copy", 0xe6ee11cf),
    ("identity-swapped", 0x2d5356b6),
    ("left-over", 0xb625e551),
    ("manifest-lost", 0x4b5969e2),
    ("manifest-of-another-length", 0x5380a799),
    ("meta", 0x2728f86b),
    ("mixed", 0xdcbf77d7),
    ("oversized", 0x3bc0c16a),
    ("padding", 0x171ce944),
    ("published-wrong", 0x184314cf),
    ("recycled", 0xad0e3f93),
    ("reset", 0xc8af6c5d),
    ("rotated", 0x38ce2550),
    ("rotated-and-lost", 0x525f080b),
    ("rotated-witnessed-and-lost", 0xbb8d6960),
    ("salt", 0xe596dd3a),
    ("sealed", 0x9a416723),
    ("segment-missing", 0xc651beae),
    ("segment-short", 0x318cd4aa),
    ("slot-damaged", 0xe7135269),
    ("slot-of-version-2", 0x89384704),
    ("slots-apart", 0x871fe7fd),
    ("slots-damaged", 0x40a014c1),
    ("slots-of-one-generation", 0xb1c9cb7b),
    ("spare-begun-high", 0x700a3924),
    ("spare-begun-low", 0x964e8884),
    ("spare-claims-its-start", 0x09fc0de7),
    ("spare-claims-its-start-and-is-begun-high", 0xe9dad240),
    ("spares-begun-both", 0x540db74c),
    ("start-of-spare-lost", 0x60a3c6e5),
    ("tag", 0xd42b8fa0),
    ("torn", 0x4e83f2fa),
    ("truncated", 0xfa663ed6),
    ("truncated-segments", 0xa76cc3a6),
    ("uncommitted", 0x9b5664c1),
    ("unfinished-creation", 0x21a9bcd7),
    ("unknown-feature", 0x1b80361b),
    ("unknown-flag", 0x309ea800),
    ("version-2", 0x43660e94),
];

/// What is read in a log.
const EXPECTED: &str = "expected";
/// What `verify` says of it.
const VERIFY: &str = "verify.json";

fn options() -> Options {
    let options = Options::new().create(false).segment_size(12 << 10).sync_mode(SyncMode::Sync);
    options.background(Background::Caller)
}

fn path_of(log: &str) -> String {
    format!("v1/{log}")
}

fn read(log: &str, name: &str) -> String {
    std::fs::read_to_string(golden(&path_of(log)).join(name)).unwrap_or_else(|e| panic!("{log}: {name}: {e}"))
}

/// The committed text of a log and of what is expected of it, under one checksum.
fn checksum(log: &str) -> u32 {
    let named = texts(&path_of(log));
    let expected = [EXPECTED, VERIFY].map(|name| (name.to_owned(), read(log, name)));
    let all = named.into_iter().chain(expected);
    all.fold(0, |crc, (name, text)| crc::salted(crc::salted(crc, name.as_bytes()), text.as_bytes()))
}

/// Checks every log, and says which ones are not as they should be.
fn check_all(what: &str, check: impl Fn(&str, &Path, &Files) -> Result<(), String>) {
    let mut wrong = String::new();
    for (log, _) in FROZEN {
        let (dir, files) = (scratch(), load(&path_of(log)));
        write_files(dir.path(), &files);
        if let Err(e) = check(log, dir.path(), &files) {
            writeln!(wrong, "{log}: {e}").expect("a string");
        }
    }
    assert!(wrong.is_empty(), "{what} reads these otherwise than before:\n{wrong}");
}

fn same(found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found\n{found}expected\n{expected}")) }
}

fn verification(dir: &Path) -> String {
    match Log::open(dir).and_then(|log| log.verify(|_| {})) {
        Ok(found) => expect::of_verification(&found),
        Err(_) => "{}\n".to_owned(),
    }
}

/// Writes the logs that are not there yet.
fn write_missing() {
    for (log, make) in MAKERS.iter().filter(|(log, _)| !golden(&path_of(log)).exists()) {
        let (dir, files) = (scratch(), make());
        save(&path_of(log), &files);
        write_files(dir.path(), &files);
        let expected = [(EXPECTED, expect::of_reference(parse(&files))), (VERIFY, verification(dir.path()))];
        for (name, text) in expected {
            std::fs::write(golden(&path_of(log)).join(name), text).expect("a file");
        }
    }
}

#[test]
fn no_golden_log_and_nothing_expected_of_one_was_changed() {
    if writing() {
        write_missing();
    }
    let entries = std::fs::read_dir(golden("v1")).expect("the directory").map(|entry| entry.expect("an entry"));
    let mut there: Vec<String> = entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    there.sort_unstable();
    let found: Vec<String> = there.iter().map(|log| format!("    (\"{log}\", {:#010x}),", checksum(log))).collect();
    let frozen: Vec<String> = FROZEN.iter().map(|(log, crc)| format!("    (\"{log}\", {crc:#010x}),")).collect();
    let new: Vec<&String> = found.iter().filter(|line| !frozen.contains(line)).collect();
    let gone: Vec<&String> = frozen.iter().filter(|line| !found.contains(line)).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "version 1 is frozen; restore these:\n{gone:#?}\nand only if they are new, list these:\n{}",
        new.iter().map(|line| format!("{line}\n")).collect::<String>()
    );
}

#[test]
fn the_text_of_every_golden_log_is_that_of_its_bytes() {
    for (log, _) in FROZEN {
        for (name, text) in texts(&path_of(log)) {
            assert_eq!(golden_files::as_text(&from_text(&text)), text, "{log}: {name}");
        }
    }
}

#[test]
fn the_reference_parser_reads_every_golden_log_as_ever() {
    check_all("the reference parser", |log, _, files| same(&expect::of_reference(parse(files)), &read(log, EXPECTED)));
}

#[test]
fn a_reader_reads_every_golden_log_as_ever_and_writes_nothing() {
    check_all("a reader", |log, dir, files| {
        same(&expect::of_reader(dir), &read(log, EXPECTED))?;
        if log_files_of(dir) == *files { Ok(()) } else { Err("a reader wrote".to_owned()) }
    });
}

/// It opens or refuses, shows what is expected, shows the same after a close, and goes on behind it.
#[test]
fn a_writer_opens_every_golden_log_as_ever_and_goes_on() {
    check_all("a writer", |log, dir, files| {
        let (found, wal) = expect::of_writer(dir, &options());
        same(&found, &read(log, EXPECTED))?;
        let Some(wal) = wal else {
            return if log_files_of(dir) == *files { Ok(()) } else { Err("an open that fails wrote".to_owned()) };
        };
        let last = wal.positions().last;
        let seq = wal.append(b"goes on").map_err(|e| e.to_string())?;
        wal.close().map_err(|e| e.to_string())?;
        let again = parse(&log_files_of(dir));
        let kept = found.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count();
        let more = usize::from(again.sealed_damage.is_none());
        if (seq, again.last_seq, again.records.len()) == (last + 1, last + 1, kept + more) {
            Ok(())
        } else {
            Err(format!("goes on with {seq} to {}, {} records", again.last_seq, again.records.len()))
        }
    });
}

#[test]
fn verify_says_of_every_golden_log_what_it_always_said() {
    check_all("verify", |log, dir, _| same(&verification(dir), &read(log, VERIFY)));
}

#[cfg(feature = "cli")]
mod command_line {
    use super::*;
    use serde_json::Value;

    /// Whatever was said once is still said; a later version may say more.
    fn holds(found: &Value, expected: &Value) -> bool {
        match (found, expected) {
            (Value::Object(found), Value::Object(expected)) => {
                expected.iter().all(|(key, value)| found.get(key).is_some_and(|there| holds(there, value)))
            }
            (Value::Array(found), Value::Array(expected)) => {
                found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| holds(a, b))
            }
            _ => found == expected,
        }
    }

    /// 2 if anything is refused or damaged, 1 if the end is torn, and 3 if there is nothing to read.
    fn exit_code(expected: &str, verify: &Value) -> i32 {
        match (expected.lines().next().unwrap_or_default(), &verify["damages"], &verify["ok"]) {
            ("no log", _, _) => 3,
            (first, _, _) if first.starts_with("refused") => 2,
            (_, Value::Array(damages), _) if !damages.is_empty() => 2,
            (_, _, Value::Bool(true)) => 0,
            _ => 1,
        }
    }

    #[test]
    fn the_command_line_says_of_every_golden_log_what_it_always_said() {
        check_all("the command line", |log, dir, _| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mmap-wal"));
            let ran = command.args(["verify", "--json"]).arg(dir).output().map_err(|e| e.to_string())?;
            let printed = String::from_utf8_lossy(&ran.stdout).replace(&format!("{}/", dir.display()), "");
            let text = if printed.is_empty() { "{}" } else { printed.as_str() };
            let mut found: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
            // Those that a truncation hides were counted with the others.
            if let (Some(records), Some(truncated)) = (found["records"].as_u64(), found["truncated"].as_u64()) {
                found["records"] = (records + truncated).into();
            }
            let expected: Value = serde_json::from_str(&read(log, VERIFY)).map_err(|e| e.to_string())?;
            let code = exit_code(&read(log, EXPECTED), &expected);
            if ran.status.code() != Some(code) {
                return Err(format!("exit {}, should be {code}", ran.status));
            }
            if holds(&found, &expected) { Ok(()) } else { Err(format!("said {found}, should be {expected}")) }
        });
    }
}
