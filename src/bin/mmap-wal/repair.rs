//! `repair`: what a repair would do, and doing it.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use mmap_wal::inspect::{Log, Lost, NewSegment, RepairPlan, SetAside};
use serde_json::{Value, json};

use crate::failure::{CORRUPT, Code, Failure, OK, Outcome};

/// Say what a repair would do about a damaged log, or do it.
///
/// Every record that verifies with its whole batch is kept. Damaged files get another name, and nothing is deleted.
/// Exits with 2 if there is something to repair and it was only said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Carry it out.
    #[arg(long)]
    write: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The user tag that a rebuilt MANIFEST gets, as 32 hexadecimal digits: no segment knows it.
    #[arg(long, value_name = "HEX", value_parser = user_tag)]
    user_tag: Option<[u8; 16]>,
}

fn user_tag(text: &str) -> Result<[u8; 16], String> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let tag = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    tag.map(u128::to_be_bytes).ok_or_else(|| "give 32 hexadecimal digits".to_owned())
}

/// Prints the plan, when it was carried out if it is to be.
pub(crate) fn run(args: &Args) -> Outcome {
    let log = Log::open(&args.dir)?;
    let plan = log.plan_repair()?;
    let plan = args.user_tag.map_or(plan.clone(), |tag| plan.with_user_tag(tag));
    if args.write {
        log.repair(&plan)?;
    }
    let text = if args.json { format!("{}\n", as_json(&plan, args.write)) } else { as_text(&plan, args.write) };
    stdout().lock().write_all(text.as_bytes()).map_err(|e| Failure::output(&e))?;
    Ok(if args.write || plan.is_empty() { OK } else { Code(CORRUPT) })
}

fn as_text(plan: &RepairPlan, written: bool) -> String {
    let verdict = match (plan.is_empty(), written) {
        (true, _) => "",
        (false, true) => "repaired\n",
        (false, false) => "nothing was written; to carry this out, add --write\n",
    };
    format!("{plan}{verdict}")
}

fn as_json(plan: &RepairPlan, written: bool) -> Value {
    json!({
        "schema": 1,
        "needed": !plan.is_empty(),
        "written": written && !plan.is_empty(),
        "rebuilt_first_seq": plan.rebuilt.as_ref().map(|rebuilt| rebuilt.first_seq),
        "lost": plan.lost.iter().map(lost_json).collect::<Vec<Value>>(),
        "left_out": plan.left_out,
        "set_aside": plan.set_aside.iter().map(aside_json).collect::<Vec<Value>>(),
        "missing": plan.missing,
        "made": plan.made.iter().map(made_json).collect::<Vec<Value>>(),
        "headers": plan.headers,
        "next_seq": plan.next_seq,
    })
}

fn lost_json(lost: &Lost) -> Value {
    let seconds =
        |time: Option<SystemTime>| time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_secs());
    json!({
        "first_seq": lost.first_seq,
        "last_seq": lost.last_seq,
        "is_bound": lost.is_bound,
        "prepared_unix": seconds(lost.prepared),
        "next_prepared_unix": seconds(lost.next_prepared),
    })
}

fn aside_json(aside: &SetAside) -> Value {
    json!({ "name": aside.name, "as_name": aside.as_name, "reason": aside.reason })
}

fn made_json(made: &NewSegment) -> Value {
    json!({ "segment": made.segment, "first_seq": made.first_seq, "last_seq": made.last_seq, "from": made.from })
}
