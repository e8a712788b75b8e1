//! Waiting for transfers that were translated before the IOMMU took a translation away: what
//! VT-d 4.1 calls draining (§6.5.4).
//!
//! A requester counts its transfers under way in one of two phases. Who waits turns the phase
//! and waits until nobody is in the old one; whoever begins meanwhile counts in the new one,
//! and is translated as things are now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pci::Bdf;

use super::Requester;

/// All requesters behind an IOMMU.
#[derive(Default)]
pub struct Drain(Mutex<Vec<Weak<Requester>>>);

/// How long a transfer may take before it is no longer waited for. A processor of the guest's
/// stands still meanwhile; what takes longer is a disk of the host's that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks, after the first few.
const PAUSE: Duration = Duration::from_micros(20);

impl Drain {
    /// Returns when the transfers of concerned requesters that were under way have ended. To be
    /// called when no new ones are translated as before.
    pub fn wait(&self, concerns: impl Fn(Bdf) -> bool) {
        let mut requesters = self.requesters();
        requesters.retain(|requester| requester.strong_count() > 0);
        for requester in requesters.iter().filter_map(Weak::upgrade) {
            let Some(transfers) = &requester.transfers else {
                continue;
            };
            if transfers.none() || !concerns(requester.bdf()) || transfers.wait(PATIENCE) {
                continue;
            }
            crate::guest_error!(
                requester = %requester.bdf(),
                "a transfer does not end, and may use memory that the guest has taken from it"
            );
        }
    }

    pub(super) fn add(&self, requester: Weak<Requester>) {
        self.requesters().push(requester);
    }

    /// One waits at a time, as phases need it.
    fn requesters(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Requester>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A requester's transfers under way.
#[derive(Default)]
pub(super) struct Transfers {
    phase: AtomicUsize,
    under_way: [AtomicUsize; 2],
}

impl Transfers {
    /// Counts one; its phase.
    fn begin(&self) -> usize {
        loop {
            let phase = self.phase.load(Ordering::SeqCst);
            self.under_way[phase].fetch_add(1, Ordering::SeqCst);
            // Else it may be looked for in the other one.
            if self.phase.load(Ordering::SeqCst) == phase {
                return phase;
            }
            self.under_way[phase].fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn none(&self) -> bool {
        let none = |count: &AtomicUsize| count.load(Ordering::SeqCst) == 0;
        self.under_way.iter().all(none)
    }

    /// Waits for those that have begun; false if some have not ended in time.
    fn wait(&self, patience: Duration) -> bool {
        let start = Instant::now();
        let old = self.phase.fetch_xor(1, Ordering::SeqCst);
        let mut looks = 0_u32;
        while self.under_way[old].load(Ordering::SeqCst) != 0 {
            if start.elapsed() > patience {
                return false;
            }
            looks += 1;
            match looks {
                ..100 => std::hint::spin_loop(),
                _ => std::thread::sleep(PAUSE),
            }
        }
        true
    }
}

/// Transfers under way, as long as it lives: memory that they were given stays theirs.
#[must_use]
pub struct UnderWay<'a>(Option<(&'a Transfers, usize)>);

impl<'a> UnderWay<'a> {
    pub(super) fn new(transfers: Option<&'a Transfers>) -> Self {
        Self(transfers.map(|transfers| (transfers, transfers.begin())))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some((transfers, phase)) = self.0 {
            transfers.under_way[phase].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn who_waits_waits_for_those_before_and_not_for_those_after() {
        let transfers = Transfers::default();
        let before = UnderWay::new(Some(&transfers));
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                assert!(transfers.wait(Duration::from_secs(60)));
                assert!(ended.load(Ordering::SeqCst));
            });
            while transfers.phase.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let after = UnderWay::new(Some(&transfers));
            ended.store(true, Ordering::SeqCst);
            drop(before);
            waiting.join().unwrap();
            drop(after);
        });
        assert!(transfers.none());
        assert!(transfers.wait(Duration::ZERO));
    }

    #[test]
    fn a_transfer_that_does_not_end_is_given_up() {
        let transfers = Transfers::default();
        let stuck = UnderWay::new(Some(&transfers));
        assert!(!transfers.wait(Duration::from_millis(1)));
        // Nor is it forgotten.
        assert!(!transfers.none());
        drop(stuck);
        assert!(transfers.none());
    }

    /// Memory is poisoned when the waiting is over: nobody who began before may see that.
    #[test]
    fn nobody_is_overlooked() {
        const ROUNDS: usize = 2000;
        let transfers = Transfers::default();
        let (valid, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        let pages: Vec<AtomicBool> = (0..=ROUNDS).map(|_| AtomicBool::new(true)).collect();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        let _under_way = UnderWay::new(Some(&transfers));
                        let page = &pages[valid.load(Ordering::SeqCst)];
                        for _ in 0..10 {
                            assert!(page.load(Ordering::SeqCst));
                        }
                    }
                });
            }
            for (next, page) in (1..).zip(&pages[..ROUNDS]) {
                valid.store(next, Ordering::SeqCst);
                if !transfers.none() {
                    assert!(transfers.wait(Duration::from_secs(60)));
                }
                page.store(false, Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
    }
}
