//! What a log is read as, in words: the same words whoever reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use mmap_wal::inspect::{Log, SegmentRole, Stat, Verification};
use mmap_wal::{Cut, Error, Options, Reader, Snapshot, TailState, Wal};

use crate::fixture::{rec, verdict};
use crate::reference::{Parsed, Rec, Tail, Verdict};

/// What somebody found in a log.
struct Found {
    first_seq: u64,
    last_seq: u64,
    checkpoint_seq: u64,
    meta: Vec<u8>,
    records: Vec<Rec>,
    batch_ends: Vec<u64>,
    gaps: Vec<(u64, u64)>,
    damage: Option<Verdict>,
}

/// By the reference parser.
pub fn of_reference(parsed: Parsed) -> String {
    let Parsed { verdict, first_seq, last_seq, checkpoint_seq, meta, records, batch_ends, gaps, sealed_damage } =
        parsed;
    let found = Found { first_seq, last_seq, checkpoint_seq, meta, records, batch_ends, gaps, damage: sealed_damage };
    match verdict {
        Verdict::Ok { tail, cut_ordinal, cut_offset } => opened(tail, (cut_ordinal, cut_offset), &found),
        other => refused(&other),
    }
}

/// By a reader beside the log.
pub fn of_reader(dir: &Path) -> String {
    let snapshot = match Reader::open(dir).and_then(|reader| reader.snapshot()) {
        Ok(snapshot) => snapshot,
        Err(e) => return refused(&verdict_of(&e)),
    };
    let stat = Log::open(dir).and_then(|log| log.stat()).expect("a log that can be read");
    let (tail, place) = (tail(stat.tail), place(&stat));
    opened(tail, place, &found(&batch_ends(dir), &snapshot, stat.meta))
}

/// By a writer. Where the log ends it says only of an end that it cuts.
pub fn of_writer(dir: &Path, options: &Options) -> (String, Option<Wal>) {
    // What is there has to be looked at first: the open scrubs what it cuts, and puts a new manifest in place.
    let (ends, before) = (batch_ends(dir), Log::open(dir).and_then(|log| log.stat()));
    let wal = match options.open(dir) {
        Ok(wal) => wal,
        Err(e) => return (refused(&verdict_of(&e)), None),
    };
    let end = match wal.recovery().cut {
        Some(cut) => (cut.segment, cut.offset),
        None => place(&before.expect("a log that can be opened")),
    };
    let found = found(&ends, &wal.snapshot(), wal.meta().to_vec());
    (opened(tail(wal.recovery().tail), end, &found), Some(wal))
}

/// Where the log ends.
fn place(stat: &Stat) -> (u64, u64) {
    let active = stat.segments.iter().find(|segment| segment.role == SegmentRole::Active).expect("an active segment");
    (active.ordinal, active.end_offset)
}

fn tail(state: TailState) -> Tail {
    match state {
        TailState::Clean => Tail::Clean,
        TailState::Torn => Tail::Torn,
        TailState::EarlierLife => Tail::EarlierLife,
        other => panic!("{other:?}"),
    }
}

fn verdict_of(e: &Error) -> Verdict {
    match e {
        Error::Io(failure) if failure.source.kind() == std::io::ErrorKind::NotFound => Verdict::NoLog,
        other => verdict(other).unwrap_or_else(|| panic!("{other}")),
    }
}

fn found(ends: &BTreeMap<u64, bool>, snapshot: &Snapshot, meta: Vec<u8>) -> Found {
    let (mut records, mut gaps, mut damage) = (Vec::new(), Vec::new(), None);
    match snapshot.replay(0) {
        Err(e) => damage = Some(verdict_of(&e)),
        Ok(replay) => replay.for_each(|next| match next {
            Ok(record) => records.push(rec(record)),
            Err(Error::Gap { from, to }) => gaps.push((from, to)),
            Err(e) => damage = Some(verdict_of(&e)),
        }),
    }
    let batch_ends = records.iter().map(|record| record.seq).filter(|seq| ends.get(seq) == Some(&true)).collect();
    Found {
        first_seq: snapshot.first_seq(),
        last_seq: snapshot.last_seq(),
        checkpoint_seq: snapshot.checkpoint_seq(),
        meta,
        records,
        batch_ends,
        gaps,
        damage,
    }
}

/// Which frames end a batch; where a seq was given again, the later segment holds.
fn batch_ends(dir: &Path) -> BTreeMap<u64, bool> {
    let Ok(log) = Log::open(dir) else { return BTreeMap::new() };
    let ordinals = log.ordinals().unwrap_or_default();
    let frames = ordinals.into_iter().filter_map(|ordinal| log.frames(ordinal).ok()).flatten();
    frames.filter(|frame| frame.verifies).map(|frame| (frame.seq, frame.commit)).collect()
}

fn refused(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Corrupt { ordinal, offset } => format!("refused: corrupt at {offset} of segment {ordinal}\n"),
        Verdict::Missing { ordinal } => format!("refused: segment {ordinal} is missing\n"),
        Verdict::NoManifest => "refused: no manifest\n".to_owned(),
        Verdict::Foreign => "refused: foreign\n".to_owned(),
        Verdict::Stale => "refused: the manifest is older than the segments\n".to_owned(),
        Verdict::Version => "refused: version\n".to_owned(),
        Verdict::NoLog => "no log\n".to_owned(),
        Verdict::Ok { .. } => panic!("it was not refused"),
    }
}

fn opened(tail: Tail, (ordinal, offset): (u64, u64), found: &Found) -> String {
    let tail = match tail {
        Tail::Clean => "clean",
        Tail::Torn => "torn",
        Tail::EarlierLife => "earlier-life",
    };
    let Found { first_seq, last_seq, checkpoint_seq, meta, .. } = found;
    let mut text = format!("opens: {tail} end at {offset} of segment {ordinal}\n");
    writeln!(text, "records {first_seq} to {last_seq}, checkpoint {checkpoint_seq}").expect("a string");
    writeln!(text, "meta {}", bytes(meta)).expect("a string");
    for Rec { seq, tag, payload } in &found.records {
        let end = if found.batch_ends.contains(seq) { "end" } else { "and" };
        writeln!(text, "{seq} {tag:#06x} {end} {}", bytes(payload)).expect("a string");
    }
    for (from, to) in &found.gaps {
        writeln!(text, "gap {from} to {to}").expect("a string");
    }
    match &found.damage {
        None => {}
        Some(Verdict::Corrupt { ordinal, offset }) => {
            writeln!(text, "replay ends: corrupt at {offset} of segment {ordinal}").expect("a string");
        }
        Some(other) => writeln!(text, "replay ends: {other:?}").expect("a string"),
    }
    text
}

/// Text as text, one byte many times as that, and anything else in hex.
fn bytes(bytes: &[u8]) -> String {
    match bytes {
        [first, ..] if bytes.len() > 64 && bytes.iter().all(|byte| byte == first) => {
            format!("{} x {first:#04x}", bytes.len())
        }
        _ if bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) => format!("{:?}", String::from_utf8_lossy(bytes)),
        _ => bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// What `verify --json` says, without the sentences, which may be put better one day, and with names for paths.
pub fn of_verification(found: &Verification) -> String {
    let torn = found.tail == Some(TailState::Torn);
    let tail = found.tail.map_or("unknown", TailState::as_str);
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |number| number.to_string());
    let damages: Vec<String> = found.damages.iter().map(damage).collect();
    let list = if damages.is_empty() { String::new() } else { format!("\n    {}\n  ", damages.join(",\n    ")) };
    let fields = [
        ("schema", "1".to_owned()),
        ("ok", (found.damages.is_empty() && !torn).to_string()),
        ("first_seq", found.first_seq.to_string()),
        ("last_seq", number(found.last_seq)),
        ("tail", format!("\"{tail}\"")),
        ("cut", found.cut.map_or("null".to_owned(), cut)),
        ("writer", number(found.writer.map(u64::from))),
        ("segments", found.segments.to_string()),
        // Those that a truncation hides were counted with the others.
        ("records", (found.records + found.truncated).to_string()),
        ("bytes", found.bytes.to_string()),
        ("damages", format!("[{list}]")),
    ];
    let lines = fields.map(|(key, value)| format!("  \"{key}\": {value}"));
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn cut(Cut { segment, offset, bytes, records }: Cut) -> String {
    format!("{{\"segment\": {segment}, \"offset\": {offset}, \"bytes\": {bytes}, \"records\": {records}}}")
}

fn damage(damage: &Error) -> String {
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    match damage {
        Error::Corrupt(found) => format!(
            "{{\"file\": \"{}\", \"segment\": {}, \"offset\": {}, \"expected_seq\": {}}}",
            name(&found.path),
            found.segment,
            found.offset,
            found.expected_seq
        ),
        Error::MissingSegment(missing) => format!("{{\"file\": \"{}\"}}", name(&missing.path)),
        _ => "{}".to_owned(),
    }
}
