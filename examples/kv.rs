//! A key-value store on the log: the textbook use.
//!
//! ```sh
//! cargo run --example kv -- data set colour green
//! cargo run --example kv -- data get colour
//! cargo run --example kv -- data compact
//! ```
//!
//! Every change is a record, appended before it is applied: `PUT` or `DELETE`, told apart by the record's tag. The state
//! is a map in memory. `compact` writes the state to a snapshot file, checkpoints the log at the record that the
//! snapshot holds last, and only then truncates what the snapshot has made superfluous. Opening loads the snapshot and
//! replays what comes after it, whenever the process was killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mmap_wal::{Options, SyncMode, Wal};

type Failure = Box<dyn std::error::Error>;
/// Values by their keys.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// Tags of records.
const PUT: u16 = 1;
const DELETE: u16 = 2;

/// The store: what is in the log, applied.
pub struct Store {
    wal: Wal,
    dir: PathBuf,
    state: State,
}

impl Store {
    /// Opens the store in `dir`, creating it if there is none.
    ///
    /// # Errors
    /// What the file system or the log says.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let options = Options::new().sync_mode(SyncMode::Sync).segment_size(1 << 20);
        let wal = options.open(dir.join("log"))?;
        let (mut state, applied) = read_snapshot(&dir.join("snapshot"))?;
        // The snapshot is renamed into place before the checkpoint is set, so it is never older.
        if applied < wal.positions().checkpoint {
            return Err("the snapshot is older than the checkpoint: it was replaced by another one".into());
        }
        for record in wal.snapshot().replay(applied)? {
            let record = record?;
            apply(&mut state, record.tag(), record.payload())?;
        }
        Ok(Self { wal, dir: dir.to_owned(), state })
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.state.get(key).map(Vec::as_slice)
    }

    /// Everything, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.state.iter().map(|(key, value)| (&key[..], &value[..]))
    }

    /// Sets `key` to `value`, durably; returns the record's number.
    ///
    /// # Errors
    /// What the log says; nothing has changed then, or the log must be opened again to find out.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<u64, Failure> {
        let len = u32::try_from(key.len())?.to_le_bytes();
        let seq = self.wal.append_tagged(PUT, &[IoSlice::new(&len), IoSlice::new(key), IoSlice::new(value)])?;
        self.state.insert(key.to_vec(), value.to_vec());
        Ok(seq)
    }

    /// Removes `key`, durably; returns whether it was there.
    ///
    /// # Errors
    /// As [`Store::set`].
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Failure> {
        if !self.state.contains_key(key) {
            return Ok(false);
        }
        self.wal.append_tagged(DELETE, &[IoSlice::new(key)])?;
        self.state.remove(key);
        Ok(true)
    }

    /// Writes the state to a snapshot, and gives the log's space back. Killed at any point, it loses nothing.
    ///
    /// # Errors
    /// What the file system or the log says.
    pub fn compact(&self) -> Result<(), Failure> {
        let applied = self.wal.positions().last;
        self.wal.sync_to(applied)?;
        write_snapshot(&self.dir, &self.state, applied)?;
        self.wal.checkpoint(applied)?;
        self.wal.truncate_front(applied)?;
        Ok(())
    }
}

fn apply(state: &mut State, tag: u16, payload: &[u8]) -> Result<(), Failure> {
    match tag {
        PUT => {
            let (key, value) = split(payload).ok_or("a record of the log is no PUT, though its tag says so")?;
            state.insert(key.to_vec(), value.to_vec());
        }
        DELETE => drop(state.remove(payload)),
        other => return Err(format!("a record has the tag {other}, which this store does not write").into()),
    }
    Ok(())
}

/// What stands behind a length, and the rest.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// A snapshot is the number of the last record it holds, then each key and value behind its length. It comes into being
/// whole, by a rename.
fn write_snapshot(dir: &Path, state: &State, applied: u64) -> Result<(), Failure> {
    let mut bytes = applied.to_le_bytes().to_vec();
    for part in state.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend(u32::try_from(part.len())?.to_le_bytes());
        bytes.extend(part);
    }
    let (new, name) = (dir.join("snapshot.tmp"), dir.join("snapshot"));
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, &name)?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// The state in a snapshot and the last record that it holds; nothing if there is none.
fn read_snapshot(path: &Path) -> Result<(State, u64), Failure> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((BTreeMap::new(), 0)),
        file => file?.read_to_end(&mut bytes)?,
    };
    let (applied, mut rest) = bytes.split_first_chunk().ok_or("the snapshot is too short")?;
    let mut state = BTreeMap::new();
    while !rest.is_empty() {
        let (key, behind) = split(rest).ok_or("the snapshot ends inside a key")?;
        let (value, behind) = split(behind).ok_or("the snapshot ends inside a value")?;
        state.insert(key.to_vec(), value.to_vec());
        rest = behind;
    }
    Ok((state, u64::from_le_bytes(*applied)))
}

fn run(args: &[String]) -> Result<(), Failure> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [dir, command @ ..] = &args[..] else { return Err(USAGE.into()) };
    let mut store = Store::open(Path::new(dir))?;
    match command {
        ["set", key, value] => drop(store.set(key.as_bytes(), value.as_bytes())?),
        ["get", key] => match store.get(key.as_bytes()) {
            Some(value) => println!("{}", String::from_utf8_lossy(value)),
            None => return Err(format!("there is no {key:?}").into()),
        },
        ["delete", key] => {
            if !store.delete(key.as_bytes())? {
                return Err(format!("there is no {key:?}").into());
            }
        }
        ["list"] => {
            for (key, value) in store.iter() {
                println!("{}\t{}", String::from_utf8_lossy(key), String::from_utf8_lossy(value));
            }
        }
        ["compact"] => store.compact()?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

const USAGE: &str = "usage: kv DIR set KEY VALUE | get KEY | delete KEY | list | compact";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kv: {e}");
            ExitCode::FAILURE
        }
    }
}
