//! A file system whose device fails: it serves the files of a directory and refuses to read the pages that it was told to.
//!
//! It speaks the protocol of FUSE, as much of it as a log that exists asks for, in a process of its own: a process that
//! served its own page faults could wait for itself. That process ends, and unmounts it, when the test that mounted it has
//! ended, in whatever way. Only root may mount it.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const PAGE: u64 = 4096;
/// What the process that serves finds the place in.
const SERVE: &str = "MMAP_WAL_SERVE";

/// The file system, mounted; gone when this is dropped.
pub struct Device {
    server: Child,
    /// Closed when this process ends.
    alive: Option<PipeWriter>,
    dir: tempfile::TempDir,
}

impl Device {
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn mount() -> Result<Self, String> {
        let dir = crate::fixture::scratch();
        let (backing, mounted) = (dir.path().join("backing"), dir.path().join("mounted"));
        fs::create_dir(&backing).and_then(|()| fs::create_dir(&mounted)).map_err(|e| e.to_string())?;
        let fuse =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|e| format!("/dev/fuse: {e}"))?;
        // The descriptor 0 of `mount` is the device, and that of the process that serves is the same.
        let options = "fd=0,rootmode=40700,user_id=0,group_id=0,max_read=131072";
        let mount = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", options, "mmap-wal"])
            .arg(&mounted)
            .stdin(fuse.try_clone().map_err(|e| e.to_string())?)
            .output()
            .map_err(|e| format!("mount: {e}"))?;
        if !mount.status.success() {
            return Err(format!("mount: {}", String::from_utf8_lossy(&mount.stderr).trim()));
        }
        // The process that serves reads from its standard error, of all things: the other two are taken.
        let (ended, alive) = io::pipe().map_err(|e| e.to_string())?;
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let server = Command::new(this)
            .args(["--exact", "device::this_process_serves", "--ignored", "--nocapture"])
            .env(SERVE, dir.path())
            .stdin(fuse)
            .stdout(Stdio::null())
            .stderr(ended)
            .spawn()
            .map_err(|e| e.to_string())?;
        Ok(Self { server, alive: Some(alive), dir })
    }

    /// Where the files really are.
    pub fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }

    /// Where they are seen through the device.
    pub fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// From now on, these pages of the file cannot be read.
    pub fn fail(&self, name: &str, pages: Range<u64>) {
        let line = format!("{name} {} {}", pages.start, pages.end);
        fs::write(self.dir.path().join("failing"), line).expect("a word to the device");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.alive = None;
        let _ = self.server.wait();
    }
}

#[test]
#[ignore = "it is the other process of the tests with a device of their own"]
fn this_process_serves() {
    let Some(dir) = std::env::var_os(SERVE) else { return };
    let dir = PathBuf::from(dir);
    let mounted = dir.join("mounted");
    let mut ended = File::from(io::stderr().as_fd().try_clone_to_owned().expect("a pipe"));
    std::thread::spawn(move || {
        let _ = ended.read(&mut [0]);
        // Lazily: a test that failed may hold a file there.
        let _ = Command::new("umount").arg("-l").arg(mounted).stderr(Stdio::null()).status();
        std::process::exit(0);
    });
    let device = File::from(io::stdin().as_fd().try_clone_to_owned().expect("the device"));
    Server { device, dir, names: Vec::new() }.run();
}

// ---- the protocol: little-endian words on the machines that these tests run on, as the kernel lays them out ----

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const FSYNCDIR: u32 = 30;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

const HEADER: usize = 40;
const ROOT: u64 = 1;
const MAX_WRITE: u32 = 128 << 10;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The numbers of a reply, one after the other.
#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn attributes(self, node: u64, found: &fs::Metadata) -> Self {
        let blocks = found.len().div_ceil(512);
        let with_times = self.u64(node).u64(found.len()).u64(blocks).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
        with_times.u32(found.mode()).u32(1).u32(0).u32(0).u32(0).u32(PAGE as u32).u32(0)
    }
}

type Outcome = Result<Vec<u8>, i32>;

struct Server {
    device: File,
    dir: PathBuf,
    /// The node of a name is its place here, and 2.
    names: Vec<String>,
}

impl Server {
    fn run(mut self) {
        let mut request = vec![0; MAX_WRITE as usize + PAGE as usize];
        // Unmounted, the device ends.
        while let Ok(len) = self.device.read(&mut request) {
            let (opcode, unique, node) = (u32_at(&request, 4), u64_at(&request, 8), u64_at(&request, 16));
            if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
                continue;
            }
            let outcome = self.answer(opcode, node, &request[HEADER..len]);
            let (error, body) = outcome.map_or_else(|error| (-error, Vec::new()), |body| (0, body));
            let header = Reply::default().u32(16 + body.len() as u32).u32(error as u32).u64(unique);
            // A request that was given up takes no answer.
            let _ = self.device.write(&[header.0, body].concat());
        }
    }

    fn answer(&mut self, opcode: u32, node: u64, body: &[u8]) -> Outcome {
        match opcode {
            INIT => Ok(init(body)),
            LOOKUP => self.look_up(body),
            GETATTR | SETATTR => {
                let found = fs::metadata(self.path(node)).map_err(|_| ENOENT)?;
                Ok(Reply::default().u64(0).u64(0).attributes(node, &found).0)
            }
            // Whatever is opened is read anew: nothing is kept from one look to the next.
            OPEN | OPENDIR => Ok(Reply::default().u64(0).u64(0).0),
            READ => self.read(node, u64_at(body, 8), u32_at(body, 16)),
            READDIR => Ok(self.list(u64_at(body, 8), u32_at(body, 16) as usize)),
            WRITE => self.write(node, u64_at(body, 8), &body[40..]),
            RELEASE | RELEASEDIR | FSYNC | FSYNCDIR | FLUSH => Ok(Vec::new()),
            _ => Err(ENOSYS),
        }
    }

    fn backing(&self) -> PathBuf {
        self.dir.join("backing")
    }

    fn name(&self, node: u64) -> &str {
        &self.names[node as usize - 2]
    }

    fn path(&self, node: u64) -> PathBuf {
        if node == ROOT { self.backing() } else { self.backing().join(self.name(node)) }
    }

    fn node(&mut self, name: &str) -> u64 {
        let known = self.names.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        index as u64 + 2
    }

    fn look_up(&mut self, name: &[u8]) -> Outcome {
        let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
        let found = fs::metadata(self.backing().join(&name)).map_err(|_| ENOENT)?;
        let node = self.node(&name);
        Ok(Reply::default().u64(node).u64(0).u64(0).u64(0).u64(0).attributes(node, &found).0)
    }

    fn read(&self, node: u64, offset: u64, size: u32) -> Outcome {
        let wanted = offset..offset + u64::from(size);
        let failing = fs::read_to_string(self.dir.join("failing")).unwrap_or_default();
        if let [name, from, to] = failing.split(' ').collect::<Vec<_>>()[..] {
            let page = |text: &str| text.parse::<u64>().expect("a page") * PAGE;
            if name == self.name(node) && page(from) < wanted.end && wanted.start < page(to) {
                return Err(EIO);
            }
        }
        let file = File::open(self.path(node)).map_err(|_| EIO)?;
        let len = file.metadata().map_err(|_| EIO)?.len();
        let mut bytes = vec![0; (wanted.end.min(len).saturating_sub(offset)) as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|_| EIO)?;
        Ok(bytes)
    }

    fn write(&self, node: u64, offset: u64, bytes: &[u8]) -> Outcome {
        let file = OpenOptions::new().write(true).open(self.path(node)).map_err(|_| EIO)?;
        file.write_all_at(bytes, offset).map_err(|_| EIO)?;
        Ok(Reply::default().u32(bytes.len() as u32).u32(0).0)
    }

    /// The names from the place `from` on, as many as fit.
    fn list(&mut self, from: u64, size: usize) -> Vec<u8> {
        let names: BTreeSet<String> = fs::read_dir(self.backing())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let mut listed = Vec::new();
        for (place, name) in names.iter().enumerate().skip(from as usize) {
            let node = self.node(name);
            let entry = Reply::default().u64(node).u64(place as u64 + 1).u32(name.len() as u32).u32(8);
            let mut entry = [entry.0.as_slice(), name.as_bytes()].concat();
            entry.resize(entry.len().next_multiple_of(8), 0);
            if listed.len() + entry.len() > size {
                break;
            }
            listed.extend(entry);
        }
        listed
    }
}

fn init(body: &[u8]) -> Vec<u8> {
    // Nothing is read ahead, so that a page that fails takes no other with it.
    let (readahead, flags, background) = (0, 0, 16);
    let minor = u32_at(body, 4).min(31);
    let head = Reply::default().u32(7).u32(minor).u32(readahead).u32(flags).u16(background).u16(background);
    let mut reply = head.u32(MAX_WRITE).u32(1).u16(32).u16(0).0;
    reply.resize(64, 0);
    reply
}
