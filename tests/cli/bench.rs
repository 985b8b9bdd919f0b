//! Proves that `bench` takes one figure of every kind, says on what and against which floor, and keeps to its formats:
//! the table, the JSON, the picture and the comparison. Does not prove anything about time: no figure is judged here.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::fixture::{Fixture, run};

/// One figure of each kind: memory, open loop, disk, threads, reading, space, and other processes.
const KINDS: &str = "append-none,append-none-open,append-sync,group,get,bytes,heap,handoff";

/// The file of a quick run, and what the run printed.
fn quick(fixture: &Fixture, only: &str) -> (String, String) {
    let dir = fixture.path("disk");
    fs::create_dir(&dir).expect("a directory");
    let json = fixture.path("figures.json").to_string_lossy().into_owned();
    let dir = dir.to_string_lossy().into_owned();
    let printed = run(&["bench", &dir, "--quick", "--rounds", "2", "--only", only, "--json", &json]).ok();
    assert_eq!(fs::read_dir(&dir).expect("the directory").count(), 0, "nothing is left");
    (json, printed)
}

fn parsed(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("the file")).expect("JSON")
}

fn figures(report: &Value) -> &Vec<Value> {
    report["figures"].as_array().expect("figures")
}

#[test]
fn a_figure_of_every_kind_is_taken_beside_its_floor_and_kept() {
    let fixture = Fixture::new();
    let (json, printed) = quick(&fixture, KINDS);
    for fact in ["version", "file system", "device", "kernel", "processor", "memory", "preparation"] {
        assert!(printed.lines().any(|line| line.starts_with(fact)), "{fact}: {printed}");
    }
    let report = parsed(&json);
    assert_eq!((&report["schema"], &report["scale"], &report["rounds"]), (&1.into(), &"quick".into(), &2.into()));
    for figure in KINDS.split(',') {
        let of = |row: &&Value| row["name"].as_str().is_some_and(|name| name.starts_with(figure));
        assert!(figures(&report).iter().any(|row| of(&row)), "{figure}");
    }
    for row in figures(&report) {
        let name = row["name"].as_str().expect("a name");
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(name)).expect("a line");
        assert!(["yes", "NO", "-"].iter().any(|met| line.ends_with(met)), "{line}");
        assert!(printed.contains(&format!("\n{name}: ")), "{name} is explained");
        let rounds = row["rounds"].as_array().expect("rounds");
        assert!(!rounds.is_empty() && rounds.iter().all(|round| round["ours"].is_number()), "{row}");
        assert_eq!(row["ratio"].is_null(), row["floor"].is_null(), "{row}");
        assert_eq!(row["met"].is_null(), row["target"].is_null(), "{row}");
    }
    for latency in report["latencies"].as_array().expect("latencies") {
        let nanos = |pair: &Value| pair[1].as_u64().expect("a time");
        let percentiles = latency["percentiles"].as_array().expect("percentiles");
        assert!(percentiles.windows(2).all(|pair| nanos(&pair[0]) <= nanos(&pair[1])), "{latency}");
    }
    a_picture_is_drawn_of_it(&fixture, &json);
    what_was_kept_is_shown_again(&json, &printed);
}

fn a_picture_is_drawn_of_it(fixture: &Fixture, json: &str) {
    let path = fixture.path("latency.svg").to_string_lossy().into_owned();
    assert_eq!(run(&["bench", "--from", json, "--plot", &path]).ok(), "");
    let svg = fs::read_to_string(path).expect("a picture");
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg.matches("<polyline").count(), svg.matches("class=\"legend\"").count());
    assert!(svg.contains("append, Sync, 128 B") && svg.contains("append, None, 100 k/s"), "{svg}");
}

fn what_was_kept_is_shown_again(json: &str, printed: &str) {
    let again = run(&["bench", "--from", json]).ok();
    let rows = |text: &str| -> Vec<String> {
        let table = text.lines().skip_while(|line| !line.starts_with("figure"));
        table.take_while(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(rows(&again), rows(printed));
}

#[test]
fn a_ratio_that_has_become_worse_is_told_by_the_exit_code() {
    let fixture = Fixture::new();
    let (json, _) = quick(&fixture, "append-none,batch");
    let same = run(&["bench", "--from", &json, "--against", &json]).ok();
    assert!(same.lines().skip(1).all(|line| line.ends_with("same")) && same.lines().count() > 2, "{same}");
    let recorded = fixture.path("recorded.json").to_string_lossy().into_owned();
    let mut report = parsed(&json);
    for row in report["figures"].as_array_mut().expect("figures") {
        for round in row["rounds"].as_array_mut().expect("rounds") {
            // The rounds agree with each other, and the floor was ten times as far away.
            round["floor"] = 10.into();
            round["ours"] = 1.into();
        }
    }
    fs::write(&recorded, report.to_string()).expect("a file");
    let worse = run(&["bench", "--from", &json, "--against", &recorded]).failed(1, "worse by more than 15 percent");
    assert!(worse.contains("WORSE"), "{worse}");
    assert!(run(&["bench", "--from", &recorded, "--against", &json]).ok().contains("better"));
}

#[test]
fn every_figure_that_is_listed_can_be_chosen_and_no_other() {
    let listed = run(&["bench", "--list"]).ok();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 14 && KINDS.split(',').all(|kind| names.contains(&kind)), "{listed}");
    run(&["bench", "--only", "append-none,speed"]).failed(64, "\"speed\"");
}

#[test]
fn files_that_hold_no_figures_are_refused_before_anything_is_measured() {
    let fixture = Fixture::new();
    let path = fixture.path("figures.json").to_string_lossy().into_owned();
    run(&["bench", "--from", &path]).failed(3, "cannot read");
    fs::write(&path, "{\"schema\": 9}").expect("a file");
    run(&["bench", "--against", &path]).failed(3, "schema 1");
    fs::write(&path, "nonsense").expect("a file");
    run(&["bench", "--from", &path]).failed(3, "not JSON");
    let absent = fixture.path("absent").to_string_lossy().into_owned();
    run(&["bench", &absent, "--quick"]).failed(1, "give a directory that is there");
    assert!(!Path::new(&absent).exists());
}
