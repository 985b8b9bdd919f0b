//! Proves that the habits of this code which a program can check are kept: layers without circles, `unsafe` in one file,
//! no output and no unfinished work in the library, files and functions of a readable size, the format stated once, and
//! tests that say what they prove. Does not prove that a name, a comment or a boundary is a good one.
//!
//! It reads the source as text that rustfmt has laid out, so it is only as good as that layout.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which module stands on which floor. One imports only from strictly lower floors; the files of a directory share one.
const FLOORS: &[(usize, &[&str])] = &[
    (0, &["blank", "error", "format", "map", "planted", "sync", "wakers"]),
    (1, &["callback", "doorbell", "event", "identity", "index", "limits", "presence", "scan", "storage", "watch"]),
    (2, &["board", "manifest", "options", "segment"]),
    (3, &["ahead", "append", "fuzzing", "lingering", "live", "recovery", "view"]),
    (4, &["commit", "snapshot"]),
    (5, &["prepare", "reader"]),
    (6, &["engine", "inspect"]),
    (7, &["pending", "tail", "truncate", "worker"]),
    (8, &["wal"]),
    (9, &["lib"]),
];
/// Modules that have a floor before they have a file.
const PLANNED: &[&str] = &[];
/// A file with more lines before its tests is named in the output: advice, because a hard cap has files cut to a number
/// and not to a concept.
const FILE_LINES: usize = 450;
/// The most lines of a file before its tests.
const MOST_FILE_LINES: usize = 700;
/// The most lines of a function.
const FUNCTION_LINES: usize = 70;

/// A source file, without its tests.
struct Source {
    /// From the root of the crate, as in `src/format/mod.rs`.
    path: String,
    lines: Vec<String>,
}

impl Source {
    /// The module it belongs to: its first name below `src`.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").expect("a file of the library");
        below.split(['/', '.']).next().expect("a name")
    }

    /// Its name in its directory, without the ending.
    fn stem(&self) -> &str {
        self.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).expect("a Rust file")
    }

    fn in_directory(&self) -> bool {
        self.path.matches('/').count() > 1
    }

    /// The lines that are code, with their numbers: comments are left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.lines.iter().enumerate().map(|(at, line)| (at + 1, line.as_str()));
        numbered.map(|(number, line)| (number, line.split("//").next().unwrap_or("")))
    }

    /// The lines in which `word` stands as a word.
    fn lines_with(&self, word: &str) -> Vec<String> {
        let hits = self.code().filter(|(_, line)| has_word(line, word));
        hits.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn source(path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a source file");
    let relative = path.strip_prefix(root()).expect("a file of the crate");
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    Source { path: relative.to_string_lossy().into_owned(), lines: text[..end].lines().map(String::from).collect() }
}

/// The library and the command line.
fn sources() -> Vec<Source> {
    rust_files("src").iter().map(|path| source(path)).collect()
}

fn library() -> Vec<Source> {
    sources().into_iter().filter(|file| !file.path.starts_with("src/bin/")).collect()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// What follows each `prefix` in the line, as far as it is a name.
fn names_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let rests = line.match_indices(prefix).map(|(at, _)| &line[at + prefix.len()..]);
    rests.map(|rest| &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]).collect()
}

fn floors() -> BTreeMap<&'static str, usize> {
    FLOORS.iter().flat_map(|(floor, modules)| modules.iter().map(move |module| (*module, *floor))).collect()
}

fn none(found: Vec<String>, what: &str) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let library = library();
    let there: BTreeSet<&str> = library.iter().map(Source::module).collect();
    let placed: BTreeSet<&str> = floors().into_keys().collect();
    let unplaced: Vec<_> = there.difference(&placed).collect();
    assert!(unplaced.is_empty(), "give these a floor: {unplaced:?}");
    let gone: Vec<_> = placed.difference(&there).filter(|module| !PLANNED.contains(module)).collect();
    assert!(gone.is_empty(), "these have a floor and no file: {gone:?}");
}

#[test]
fn imports_go_to_lower_floors() {
    let floors = floors();
    let mut wrong = Vec::new();
    for file in library() {
        for (number, line) in file.code() {
            for name in names_after(line, "crate::").into_iter().filter(|name| *name != file.module()) {
                if floors.get(name).is_none_or(|floor| *floor >= floors[file.module()]) {
                    wrong.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    none(wrong, "these do not import a module of a lower floor by its full path");
}

#[test]
fn super_stays_in_the_directory() {
    let mut wrong = Vec::new();
    for file in library() {
        let leaves = |line: &str| {
            let outermost = !line.starts_with(' ') && line.contains("super::");
            line.contains("super::super") || outermost && (!file.in_directory() || file.stem() == "mod")
        };
        let lines = file.code().filter(|(_, line)| leaves(line));
        wrong.extend(lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    none(wrong, "these reach out of their module without naming it");
}

#[test]
fn files_of_a_directory_do_not_import_in_a_circle() {
    let library = library();
    let inner: Vec<&Source> = library.iter().filter(|file| file.in_directory() && file.stem() != "mod").collect();
    let mut imports: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for file in &inner {
        let own = format!("crate::{}::", file.module());
        let named: BTreeSet<&str> = file
            .code()
            .flat_map(|(_, line)| [names_after(line, "super::"), names_after(line, &own)].concat())
            .collect();
        let siblings = inner.iter().filter(|other| other.module() == file.module()).map(|other| other.stem());
        imports.insert((file.module(), file.stem()), siblings.filter(|stem| named.contains(stem)).collect());
    }
    // Takes away whatever imports nothing that is left; a circle stays.
    loop {
        let left: BTreeSet<(&str, &str)> = imports.keys().copied().collect();
        imports.retain(|(module, _), stems| stems.iter().any(|stem| left.contains(&(*module, *stem))));
        if imports.len() == left.len() {
            break;
        }
    }
    assert!(imports.is_empty(), "a circle: {imports:?}");
}

#[test]
fn unsafe_is_in_the_map_alone() {
    let others = sources().into_iter().filter(|file| file.path != "src/map.rs");
    none(others.flat_map(|file| file.lines_with("unsafe")).collect(), "unsafe code outside the map");
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("the crate's root");
    assert!(lib.contains("#![deny(unsafe_code)]"), "the crate's root denies unsafe code");
}

#[test]
fn threads_meet_through_the_sync_module_alone() {
    // The map's words are shared with other processes, and a planted bug is for the whole process.
    let meets = |file: &&Source| !["sync", "map", "planted"].contains(&file.module());
    let mut past = Vec::new();
    for file in library().iter().filter(meets) {
        let is_past =
            |line: &str| line.replace("std::sync::Arc;", "").contains("std::sync") || has_word(line, "std::thread");
        let lines = file.code().filter(|(_, line)| is_past(line));
        past.extend(lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    none(past, "these go past the model checker");
}

#[test]
fn the_library_prints_nothing_and_is_finished() {
    let mut found = Vec::new();
    for file in library() {
        for word in ["print!", "println!", "eprint!", "eprintln!", "dbg!", "todo!", "unimplemented!"] {
            found.extend(file.lines_with(word));
        }
    }
    none(found, "the library does not print, and nothing in it is left to do");
}

#[test]
fn nothing_is_decided_by_the_text_of_a_message() {
    let text = library().into_iter().flat_map(|file| file.lines_with("to_string"));
    let words = sources().into_iter().filter(|file| file.path != "src/error.rs");
    let words = words.flat_map(|file| file.lines_with("context")).filter(|line| line.contains(".context"));
    none(text.chain(words).collect(), "these turn an error into text, or look at its words; compare its variant");
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut long = Vec::new();
    for file in sources() {
        let lines = file.lines.len();
        if lines > FILE_LINES {
            println!("{}: {lines} lines; does it hold one concept?", file.path);
        }
        if lines > MOST_FILE_LINES {
            long.push(format!("{}: {lines} lines, {MOST_FILE_LINES} allowed", file.path));
        }
    }
    none(long, "split these");
}

#[test]
fn no_function_is_too_long_to_read() {
    let mut long = Vec::new();
    for file in sources() {
        for (start, len) in functions(&file.lines) {
            if len > FUNCTION_LINES {
                long.push(format!("{}:{}: {len} lines", file.path, start + 1));
            }
        }
    }
    none(long, "split these functions");
}

/// Where each function with a body of lines starts, and how many lines it has.
fn functions(lines: &[String]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        if text.starts_with("//") || !has_word(text.split(['(', '<', '"']).next().unwrap_or(""), "fn") {
            continue;
        }
        let indent = &line[..line.len() - text.len()];
        let signature = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}'])).unwrap_or(0);
        if lines[start + signature].ends_with('{') {
            let close = format!("{indent}}}");
            let end = lines[start..].iter().position(|line| *line == close).expect("rustfmt has laid this out");
            found.push((start, end + 1));
        }
    }
    found
}

#[test]
fn the_format_is_stated_in_the_format_module_alone() {
    let (format, others): (Vec<Source>, Vec<Source>) = library().into_iter().partition(|f| f.module() == "format");
    let constant = |line: &str| names_after(line, "const ").first().map(|name| (*name).to_owned());
    let stated: BTreeSet<String> = format
        .iter()
        .flat_map(|file| file.code().filter(|(_, line)| line.contains(": ")).filter_map(|(_, line)| constant(line)))
        .filter(|name| name.len() > 1 && name.chars().all(|c| c.is_uppercase() || c == '_'))
        .collect();
    assert!(stated.contains("FRAMES_AT") && stated.contains("PAGE"), "the constants were found: {stated:?}");
    let values = ["512", "4096", "4160", "4224", "4672", "4736", "8192", "12288", "0x1000", "0x2000"];
    let names = ["\"LOCK\"", "\"READERS\"", "\"MANIFEST", ".wal\"", "MMAPWAL"];
    let mut again = Vec::new();
    for file in others {
        for (number, line) in file.code() {
            let code = line.replace("4_096", "4096").replace("8_192", "8192");
            let retyped = values.iter().any(|value| has_word(&code, value)) || names.iter().any(|n| code.contains(n));
            let renamed = code.contains(": ") && constant(&code).is_some_and(|name| stated.contains(&name));
            if retyped || renamed {
                again.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    none(again, "these state the format again");
}

#[test]
fn every_test_file_says_what_it_proves() {
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let mut silent = Vec::new();
    for path in rust_files("tests") {
        let text = fs::read_to_string(&path).expect("a test file");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if !text.starts_with("//! ") {
            silent.push(format!("{}: opens with no //! comment", path.strip_prefix(root()).expect("a path").display()));
        }
        let is_suite = path.parent() == Some(&root().join("tests"));
        if is_suite && !readme.contains(&format!("| `{name}` |")) {
            silent.push(format!("{name}: is not in the README's table of suites"));
        }
    }
    none(silent, "say what these prove");
}
