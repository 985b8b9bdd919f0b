//! Small file systems in images, mounted through loop devices, where root may do that.
#![allow(dead_code, missing_docs)]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a kind of file system is made: its name, the arguments of its `mkfs`, the smallest image in MiB.
pub struct Kind {
    pub name: &'static str,
    options: &'static [&'static str],
    mib: u64,
}

pub const EXT4: Kind = Kind { name: "ext4", options: &["-q", "-F"], mib: 32 };
/// Newer tools make no smaller one, and the image is sparse.
pub const XFS: Kind = Kind { name: "xfs", options: &["-q", "-f"], mib: 300 };

/// A file system of its own, gone when this is dropped.
pub struct Disk {
    image: PathBuf,
    pub mounted: PathBuf,
    _dir: tempfile::TempDir,
}

/// Runs `program`; its complaint, if it fails.
pub fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a Path>) -> Result<(), String> {
    let ran = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    if ran.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

impl Disk {
    /// Makes a file system and mounts it.
    pub fn new(kind: &Kind) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (image, mounted) = (dir.path().join("image"), dir.path().join("mounted"));
        fs::create_dir(&mounted).map_err(|e| e.to_string())?;
        let disk = Self { image, mounted, _dir: dir };
        File::create(&disk.image).and_then(|file| file.set_len(kind.mib << 20)).map_err(|e| e.to_string())?;
        let options = kind.options.iter().map(Path::new);
        run(&format!("mkfs.{}", kind.name), options.chain([&*disk.image]))?;
        disk.mount()?;
        Ok(disk)
    }

    pub fn mount(&self) -> Result<(), String> {
        run("mount", [Path::new("-o"), Path::new("loop"), &self.image, &self.mounted])
    }

    pub fn unmount(&self) -> Result<(), String> {
        run("umount", [&*self.mounted])
    }

    /// Lets the file system fail as it does when its device is gone: nothing is written any more, not even its log.
    pub fn shut_down(&self) -> Result<(), String> {
        // FS_IOC_SHUTDOWN with flags 2, as ext4, XFS and others have it.
        let script = r#"open(my $dir, "<", $ARGV[0]) or die $!; my $flags = pack("L", 2); ioctl($dir, 0x8004587d, $flags) or die $!;"#;
        run("perl", [Path::new("-e"), Path::new(script), &self.mounted])
    }

    /// Has the system write back what is dirty, as it does by itself sooner or later.
    pub fn write_back(&self) {
        let dir = File::open(&self.mounted).expect("the file system");
        rustix::fs::syncfs(&dir).expect("what is dirty is written");
    }

    pub fn log(&self) -> PathBuf {
        self.mounted.join("log")
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }

    /// Takes all space that is left, or all but `left` bytes.
    pub fn choke(&self, left: u64) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.filler()).expect("a filler");
        for size in [8 << 20, 64 << 10, 4 << 10] {
            while allocate(&file, size) {}
        }
        loop {
            match file.write_all(&[0xEE; 512]) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => break,
                Err(e) => panic!("{e}"),
            }
        }
        let len = file.metadata().expect("its length").len();
        file.set_len(len.saturating_sub(left)).expect("a shorter filler");
        file.sync_all().expect("a sync");
    }

    pub fn breathe(&self) {
        fs::remove_file(self.filler()).expect("a removal");
        self.write_back();
    }

    /// Takes the log and the filler away.
    pub fn clear(&self) {
        for gone in [fs::remove_dir_all(self.log()), fs::remove_file(self.filler())] {
            match gone {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => other.expect("a removal"),
            }
        }
    }
}

/// Makes `file` longer by `more` bytes, with the space for it; `false` if there is none.
fn allocate(file: &File, more: u64) -> bool {
    let len = file.metadata().expect("its length").len();
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), len, more) {
        Ok(()) => true,
        Err(rustix::io::Errno::NOSPC) => false,
        Err(e) => panic!("{e}"),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            // A test that failed may hold a file there.
            let _ = run("umount", [Path::new("-l"), &self.mounted]);
        }
    }
}

/// Runs `test` on each kind of file system that can be mounted.
pub fn on_disks(kinds: &[Kind], test: impl Fn(&Disk, &'static str)) {
    for kind in kinds {
        match Disk::new(kind) {
            Err(reason) => println!("SKIPPED: {}: {reason}", kind.name),
            Ok(disk) => test(&disk, kind.name),
        }
    }
}
