//! How far a command has come, for somebody who waits at a terminal.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes; hidden where nobody looks.
pub(crate) fn progress_bar() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0);
    // A style that is not understood leaves the plain one.
    style.into_iter().for_each(|style| bar.set_style(style));
    bar
}
