//! The progress bar of `gibbous replay`, on a terminal only.

use std::io::{self, IsTerminal};

use gibbous::replay::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr that shows how far playing a file has come.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Shows a bar for a file, if stderr is a terminal.
    pub(super) fn new(file: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(file.to_owned());
        Self(bar)
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, progress: Progress) {
        let Self(bar) = self;
        match progress {
            Progress::Read { line } => {
                bar.set_length(line);
                bar.set_position(line);
                bar.set_message("lines read");
            }
            Progress::Step { done, of } => {
                bar.set_length(of);
                bar.set_position(done);
                bar.set_message("steps played");
            }
            Progress::Round { round } => bar.set_message(format!("steps played, round {round} of a resync")),
            Progress::Compared { done, of } => {
                bar.set_length(of);
                bar.set_position(done);
                bar.set_message("expectations compared");
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(self) {
        self.0.finish_and_clear();
    }
}
