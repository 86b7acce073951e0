//! How far bulk work has come: a bar on a terminal, a few plain lines elsewhere, always on standard error,
//! so that what a command prints stays what it is.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Plain lines that one piece of work is worth.
const LINES: u64 = 10;

/// A piece of bulk work under way.
pub(super) struct Progress {
    what: String,
    total: Option<u64>,
    done: u64,
    told: u64,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Box<dyn Write>),
}

impl Progress {
    /// Begins one: what is done, in the plural, and how often, where that is known.
    pub(super) fn begin(what: &str, total: Option<u64>) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let form = match total {
                Some(_) => "{bar:40} {pos}/{len} {msg}, {per_sec}, {eta} to go",
                None => "{spinner} {pos} {msg}, {per_sec}",
            };
            // A form that does not parse is replaced by indicatif's own.
            let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.set_message(what.to_owned());
            return Self { what: what.into(), total, done: 0, told: 0, shown: Shown::Bar(bar) };
        }
        Self::lines(what, total, Box::new(io::stderr()))
    }

    fn lines(what: &str, total: Option<u64>, out: Box<dyn Write>) -> Self {
        Self { what: what.into(), total, done: 0, told: 0, shown: Shown::Lines(out) }
    }

    /// So many more are done.
    pub(super) fn advance(&mut self, by: u64) {
        self.done = self.done.saturating_add(by);
        match &mut self.shown {
            Shown::Bar(bar) => bar.inc(by),
            Shown::Lines(out) => {
                // Little work is not worth a word before it is done.
                let Some(total) = self.total.filter(|total| *total >= LINES * LINES) else { return };
                let tenth = self.done.saturating_mul(LINES) / total;
                if tenth > self.told && self.done < total {
                    self.told = tenth;
                    // Nobody is left to tell where standard error is closed.
                    let _ = writeln!(out, "{} of {total} {}", self.done, self.what);
                }
            }
        }
    }

    /// Ends it with a line that stays.
    pub(super) fn end(self) {
        match self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines(mut out) => {
                let _ = writeln!(out, "{} {}", self.done, self.what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_a_few_lines_tell() {
        let paper = Paper::default();
        let mut progress = Progress::lines("services", Some(1000), Box::new(paper.clone()));
        for _ in 0..1000 {
            progress.advance(1);
        }
        progress.end();
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 10, "{text}");
        assert_eq!((lines[0], lines[9]), ("100 of 1000 services", "1000 services"));
    }
}
