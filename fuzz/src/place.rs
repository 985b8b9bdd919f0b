//! Where the logs of a target stand: one directory for each process, in memory where there is such a thing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const NAME: &str = "mmap-wal-fuzz-";

static PLACE: OnceLock<PathBuf> = OnceLock::new();

/// The directory of this process; it goes when the process ends.
///
/// # Panics
/// If it cannot be made.
pub fn place() -> &'static Path {
    PLACE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        sweep(&root);
        let place = root.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&place).expect("a directory");
        // SAFETY: the function is there for as long as the process, and takes nothing.
        unsafe { atexit(leave) };
        place
    })
}

unsafe extern "C" {
    fn atexit(call: extern "C" fn()) -> i32;
}

/// The fuzzing library ends the process without dropping what is static.
extern "C" fn leave() {
    if let Some(place) = PLACE.get() {
        // What cannot be removed now is swept by the next process.
        let _ = fs::remove_dir_all(place);
    }
}

/// Removes what processes left that found something and so did not end well.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ended = name.strip_prefix(NAME).is_some_and(|id| !Path::new("/proc").join(id).exists());
        if ended && Path::new("/proc/self").exists() {
            // Another process may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Empties the directory.
///
/// # Panics
/// If something cannot be removed.
pub fn clear(place: &Path) {
    for entry in fs::read_dir(place).expect("the directory") {
        let entry = entry.expect("an entry");
        let is_dir = entry.file_type().expect("a type").is_dir();
        if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.expect("a removal");
    }
}
