//! What the figures were taken on: they say little without it.

use std::fs::{canonicalize, read_to_string};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::counters::field;
use crate::bench::floor::disk::PAGE;
use crate::bench::floor::memory::touched;

/// What the log does to a segment before it is appended to.
const PREPARATION: &str = "fallocate, zeros through the map; msync except in None";
/// What is left for others while memory is touched.
const SPARE: u64 = 1 << 30;

/// Names of facts and what they are.
pub(crate) type Facts = Vec<(String, String)>;

/// Finds out about the machine, and about the file system that holds `dir`.
pub(crate) fn facts(dir: &Path) -> Facts {
    let (file_system, device) = storage(dir);
    let facts = [
        ("version", version()),
        ("file system", file_system),
        ("device", device),
        ("kernel", kernel()),
        ("processor", processor()),
        ("memory", memory()),
        ("load", first_line("/proc/loadavg").unwrap_or_else(unknown)),
        ("preparation", PREPARATION.to_owned()),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
}

/// Touches and gives back `len` bytes, so that a machine which is given its memory by a balloon has it: the first touch
/// would be slow, and would count against whoever comes first. Returns what it took for a page, now and once more.
pub(crate) fn warm(len: usize) -> Option<[Duration; 2]> {
    let available = field(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")? << 10;
    let touch = || {
        let start = Instant::now();
        drop(touched(len));
        start.elapsed() / (len / PAGE) as u32
    };
    (available >= len as u64 + SPARE).then(|| [touch(), touch()])
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn first_line(path: &str) -> Option<String> {
    read_to_string(path).ok()?.lines().next().map(|line| line.trim().to_owned())
}

fn version() -> String {
    let build = if cfg!(debug_assertions) { "debug build, its figures say nothing" } else { "release build" };
    format!("mmap-wal {}, {build}", env!("CARGO_PKG_VERSION"))
}

fn kernel() -> String {
    let release = first_line("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {release} {}", std::env::consts::OS, std::env::consts::ARCH)
}

fn processor() -> String {
    let text = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{} x {}", count, model.unwrap_or("unknown").trim())
}

fn memory() -> String {
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    let huge = first_line("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_else(unknown);
    match field(&text, "MemTotal:") {
        Some(kib) => format!("{} MiB, transparent huge pages {huge}", kib >> 10),
        None => unknown(),
    }
}

/// The file system of `dir` and the device below it.
fn storage(dir: &Path) -> (String, String) {
    let mounts = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let Some(mount) = mount_of(&mounts, &path) else { return (unknown(), unknown()) };
    (format!("{} ({}) on {}", mount.kind, mount.options, mount.source), device(mount.number))
}

/// A line of /proc/self/mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    /// Major and minor number of the device.
    number: &'a str,
    kind: &'a str,
    source: &'a str,
    options: &'a str,
}

/// The mount that holds `path`: the one with the longest mount point, and of several the last.
fn mount_of<'a>(mounts: &'a str, path: &Path) -> Option<Mount<'a>> {
    let parsed = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let point = left.get(4)?.replace("\\040", " ");
        let [kind, source, options] = right[..] else { return None };
        let mount = Mount { number: left.get(2)?, kind, source, options };
        path.starts_with(&point).then_some((point.len(), mount))
    });
    parsed.max_by_key(|(len, _)| *len).map(|(_, mount)| mount)
}

fn device(number: &str) -> String {
    let dir = format!("/sys/dev/block/{number}");
    // A partition has no queue of its own.
    let queue = |name: &str| {
        first_line(&format!("{dir}/queue/{name}")).or_else(|| first_line(&format!("{dir}/../queue/{name}")))
    };
    let Some(cache) = queue("write_cache") else { return "no block device".to_owned() };
    let name = canonicalize(&dir).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let rotates = if queue("rotational").as_deref() == Some("1") { "rotating" } else { "not rotating" };
    let block = queue("logical_block_size").unwrap_or_else(unknown);
    let scheduler = queue("scheduler").unwrap_or_else(unknown);
    format!(
        "{}, {cache} cache, {rotates}, blocks of {block} bytes, scheduler {scheduler}",
        name.unwrap_or_else(unknown)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
22 21 0:20 / /tmp rw - tmpfs tmpfs rw,size=1g
23 21 0:21 / /tmp rw,nosuid shared:2 master:1 - tmpfs second rw
24 21 8:1 / /mnt/with\\040space rw - xfs /dev/sda1 rw
nonsense
";

    #[test]
    fn the_mount_with_the_longest_point_holds_a_path_and_of_several_the_last() {
        let source = |path: &str| mount_of(MOUNTS, Path::new(path)).map(|mount| mount.source);
        assert_eq!(source("/home/x"), Some("/dev/vda"));
        assert_eq!(source("/tmp/x"), Some("second"));
        assert_eq!(source("/tmpx"), Some("/dev/vda"));
        assert_eq!(source("/mnt/with space/x"), Some("/dev/sda1"));
        assert_eq!(mount_of("", Path::new("/")), None);
        let mount = mount_of(MOUNTS, Path::new("/")).unwrap();
        assert_eq!((mount.number, mount.kind, mount.options), ("254:0", "ext4", "rw,discard"));
    }

    #[test]
    fn every_fact_says_something() {
        let facts = facts(Path::new("."));
        assert!(facts.iter().all(|(name, fact)| !name.is_empty() && !fact.trim().is_empty()), "{facts:?}");
        assert!(facts.iter().any(|(name, _)| name == "file system"));
    }
}
