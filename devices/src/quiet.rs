//! A limit on log lines that a guest can cause.
//!
//! A guest that pokes a device wrongly a million times a second must not fill the host's
//! disk or slow a vCPU that logs. [`Quiet`] lets a few lines a second through and counts
//! the rest; [`guest_error!`](crate::guest_error) is the usual way to it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Lets at most so many events a second through. Lock-free; meant for a `static`.
pub struct Quiet {
    per_second: u32,
    /// The current second in the upper half, events let through in it in the lower.
    window: AtomicU64,
    suppressed: AtomicU64,
}

impl Quiet {
    /// Lets `per_second` events through in each second.
    pub const fn per_second(per_second: u32) -> Self {
        Self {
            per_second,
            window: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// `Some` if the event may be logged now, with how many were suppressed since the last
    /// that was.
    pub fn allow(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        self.allow_at(START.get_or_init(Instant::now).elapsed().as_secs())
    }

    fn allow_at(&self, second: u64) -> Option<u64> {
        let second = second & u64::from(u32::MAX);
        let admitted = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
                let used = if window >> 32 == second {
                    window as u32
                } else {
                    0
                };
                (used < self.per_second).then(|| second << 32 | u64::from(used + 1))
            });
        if admitted.is_ok() {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[doc(hidden)]
pub use tracing;

/// Logs, at most five times a second per call site, something wrong that the guest did.
/// Takes what `tracing::warn!` takes.
#[macro_export]
macro_rules! guest_error {
    ($($message:tt)+) => {{
        static QUIET: $crate::quiet::Quiet = $crate::quiet::Quiet::per_second(5);
        if let Some(suppressed) = QUIET.allow() {
            $crate::quiet::tracing::warn!(suppressed, $($message)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_so_many_through_and_counts_the_rest() {
        let quiet = Quiet::per_second(2);
        assert_eq!(quiet.allow_at(7), Some(0));
        assert_eq!(quiet.allow_at(7), Some(0));
        for _ in 0..10 {
            assert_eq!(quiet.allow_at(7), None);
        }
        assert_eq!(quiet.allow_at(8), Some(10));
        assert_eq!(quiet.allow_at(8), Some(0));
        assert_eq!(quiet.allow_at(8), None);
    }

    #[test]
    fn threads_share_one_budget() {
        let quiet = Quiet::per_second(100);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| quiet.allow_at(3).is_some()).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(admitted, 100);
    }

    #[test]
    fn the_macro_takes_fields_and_text() {
        let port = 0x1f0;
        crate::guest_error!(port, "write of {} bytes", 3);
    }
}
