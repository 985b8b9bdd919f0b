//! A limit on the size of files: a sentence and an exit code, and no signal.

use std::process::{Command, Stdio};

use crate::fixture::{Fixture, Ran, ran};

/// Runs `script` in a shell whose files may have `blocks` of 512 bytes; `$0` is the command line of the log.
fn limited(blocks: u64, script: &str, arguments: &[&str]) -> Ran {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {blocks}; {script}"), env!("CARGO_BIN_EXE_mmap-wal")]).args(arguments);
    ran(shell.stdin(Stdio::null()).output().expect("a run"))
}

#[test]
fn a_limit_on_the_size_of_files_is_told_by_every_command_that_writes() {
    let fixture = Fixture::with_lines(2000);
    let (log, copy, out) = (fixture.log(), fixture.path("copy"), fixture.path("out"));
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let cases: [(&str, &[&str], &str); 6] = [
        (r#"echo one | "$0" append "$1""#, &[&log], "ulimit -f"),
        (r#"echo one | "$0" append "$1""#, &[&text(&fixture.path("new"))], "ulimit -f"),
        (r#"exec "$0" copy "$1" "$2""#, &[&log, &text(&copy)], "ulimit -f"),
        (r#"exec "$0" salvage "$1" "$2""#, &[&log, &text(&out)], "ulimit -f"),
        (r#"exec "$0" truncate "$1" --up-to 5"#, &[&log], "ulimit -f"),
        (r#"exec "$0" replay "$1" > "$2""#, &[&log, &text(&fixture.path("replayed"))], "ulimit -f"),
    ];
    for (script, arguments, part) in cases {
        limited(4, script, arguments).failed(5, part);
    }
    let replayed = std::fs::read_to_string(fixture.path("replayed")).expect("what was replayed");
    assert_eq!(replayed.len(), 4 * 512, "as much as there may be");
    assert_eq!(crate::fixture::run(&["replay", &log]).ok().lines().count(), 2000);
}
