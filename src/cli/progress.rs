//! A progress bar for work on memory, shown to people who have waited long enough.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// The progress of populating or pinning so many bytes. On a terminal a bar appears after
/// half a second; dropping this takes it away again. Elsewhere nothing is ever shown.
pub struct Progress {
    bar: ProgressBar,
    patience: Patience,
}

impl Progress {
    /// Work on `total` bytes begins. `what` says what it is: `pinning guest memory`.
    pub fn start(what: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template =
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self {
            bar,
            patience: Patience::new(Instant::now(), io::stderr().is_terminal()),
        }
    }

    /// So many bytes are done in all.
    pub fn at(&mut self, done: u64) {
        if self.patience.ends(Instant::now()) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Whether and when to show the bar.
struct Patience {
    until: Option<Instant>,
}

impl Patience {
    fn new(started: Instant, terminal: bool) -> Self {
        let until = started.checked_add(PATIENCE);
        Self {
            until: until.filter(|_| terminal),
        }
    }

    /// True once: the first time that is late enough.
    fn ends(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| now >= *until).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_appears_once_after_half_a_second_on_a_terminal_only() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut patience = Patience::new(start, true);
        assert!(!patience.ends(after(0)));
        assert!(!patience.ends(after(499)));
        assert!(patience.ends(after(500)));
        assert!(!patience.ends(after(900)), "already shown");
        assert!(!Patience::new(start, false).ends(after(5000)));
    }

    #[test]
    fn work_can_be_reported_with_nobody_watching() {
        let mut progress = Progress::start("pinning guest memory", 100);
        progress.at(50);
        progress.at(100);
        assert_eq!(progress.bar.position(), 100);
    }
}
