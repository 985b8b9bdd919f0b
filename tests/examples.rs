//! Proves that the examples do what they say: the key-value store keeps every acknowledged change over kills at any
//! moment, compaction included, and the follower sees every record of a process that writes and dies.
//! Does not prove that their command lines are pretty.
#![allow(missing_docs, dead_code)]

#[path = "../examples/kv.rs"]
mod kv;
#[path = "../examples/tail.rs"]
mod tail;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use mmap_wal::{Options, Reader};

/// Names the directory to a child, which is this test binary again.
const CHILD: &str = "MMAP_WAL_EXAMPLE_DIR";

fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", test, "--nocapture"]).env(CHILD, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn contents(store: &kv::Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    store.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[test]
fn a_store_keeps_what_was_set_and_not_what_was_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = kv::Store::open(dir.path()).expect("a store");
    for round in 0..3 {
        store.set(b"round", format!("{round}").as_bytes()).expect("a change");
        store.set(b"gone", b"x").expect("a change");
        assert!(store.delete(b"gone").expect("a change") && !store.delete(b"gone").expect("nothing to do"));
        store.set(b"", b"").expect("an empty key");
        if round == 1 {
            store.compact().expect("a snapshot");
        }
        drop(store);
        store = kv::Store::open(dir.path()).expect("the store");
        assert_eq!(store.get(b"round"), Some(format!("{round}").as_bytes()));
        assert_eq!((store.get(b"gone"), store.get(b"")), (None, Some(&b""[..])));
    }
}

/// Writes to the store and says so, until killed; an ordinary test run finds nothing to do here.
#[test]
fn child_that_writes_to_the_store() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut store = kv::Store::open(Path::new(&dir)).expect("the store");
    let first = store.get(b"count").map_or(0, |count| String::from_utf8_lossy(count).parse().expect("a number"));
    for n in first + 1_u64.. {
        store.set(b"count", n.to_string().as_bytes()).expect("a change");
        store.set(format!("key {}", n % 10).as_bytes(), &vec![b'v'; n as usize % 3000]).expect("a change");
        println!("\nacknowledged {n}");
        if n % 7 == 0 {
            store.compact().expect("a snapshot");
        }
    }
}

#[test]
fn a_store_that_was_killed_holds_every_acknowledged_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut seen = 0;
    for kill in 0..12_u64 {
        let mut writer = child("child_that_writes_to_the_store", dir.path()).spawn().expect("a child");
        let lines = BufReader::new(writer.stdout.take().expect("its output")).lines();
        let acks =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        // A few more each time, so that the kills fall into every step, compaction among them.
        let acknowledged: Vec<u64> = acks.take(5 + kill as usize).collect();
        seen = acknowledged.last().copied().expect("an acknowledgement").max(seen);
        writer.kill().expect("a kill");
        writer.wait().expect("an end");
        let store = kv::Store::open(dir.path()).expect("the store");
        let count: u64 = String::from_utf8_lossy(store.get(b"count").expect("the count")).parse().expect("a number");
        assert!(count >= seen, "{seen} were acknowledged, {count} are there");
        for n in acknowledged.into_iter().filter(|n| n + 10 > count) {
            let value = store.get(format!("key {}", n % 10).as_bytes()).expect("a key");
            assert_eq!(value.len(), n as usize % 3000);
        }
        let before = contents(&store);
        drop(store);
        assert_eq!(contents(&kv::Store::open(dir.path()).expect("the store")), before);
        seen = count;
    }
}

/// Appends to a log until killed.
#[test]
fn child_that_appends() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let wal = Options::new().segment_size(12 << 10).open(dir).expect("the log");
    println!("\nopen");
    loop {
        let seq = wal.positions().last + 1;
        wal.append(seq.to_string().as_bytes()).expect("an append");
    }
}

#[test]
fn a_follower_sees_every_record_over_the_lives_of_its_writers() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    drop(Options::new().segment_size(12 << 10).open(&log).expect("a new log"));
    let mut tail = Reader::open(&log).expect("a reader").tail(0).expect("a tail");
    for _ in 0..4 {
        let mut writer = child("child_that_appends", &log).spawn().expect("a child");
        let mut left = 400;
        let mut expected = tail.position() + 1;
        tail::follow(&mut tail, |record| {
            assert_eq!((record.seq(), record.payload()), (expected, expected.to_string().as_bytes()));
            (expected, left) = (expected + 1, left - 1);
            left > 0
        })
        .expect("a log that can be followed");
        writer.kill().expect("a kill");
        writer.wait().expect("an end");
    }
    assert_eq!(tail.position(), 1600);
}
