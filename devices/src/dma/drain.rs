//! Waiting for transfers that were translated before the IOMMU took a translation away: what
//! VT-d 4.1 calls draining (§6.5.4).
//!
//! A requester counts its transfers under way by phases. Who waits begins a new phase and waits
//! until nobody is in the one before; whoever begins meanwhile counts in the new one, and is
//! translated as things are now. A phase whose end was not waited for any longer is left alone
//! until it ends: other phases are begun, and waited for, without it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pci::Bdf;

use super::Requester;

/// All requesters behind an IOMMU.
#[derive(Default)]
pub struct Drain(Mutex<Vec<Weak<Requester>>>);

/// How long a transfer may take before it is no longer waited for, then and later. A processor of
/// the guest's stands still meanwhile; what takes longer is a disk of the host's that does not
/// answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks, after the first few.
const PAUSE: Duration = Duration::from_micros(20);
/// More than a requester has threads that may hang in a transfer, by two.
const PHASES: usize = 8;

impl Drain {
    /// Returns when the transfers of concerned requesters that were under way have ended. To be
    /// called when no new ones are translated as before.
    pub fn wait(&self, concerns: impl Fn(Bdf) -> bool) {
        self.wait_for(PATIENCE, concerns);
    }

    fn wait_for(&self, patience: Duration, concerns: impl Fn(Bdf) -> bool) {
        let mut requesters = self.requesters();
        requesters.retain(|requester| requester.strong_count() > 0);
        for requester in requesters.iter().filter_map(Weak::upgrade) {
            let Some(transfers) = &requester.transfers else {
                continue;
            };
            if transfers.none() || !concerns(requester.bdf()) || transfers.wait(patience) {
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
    /// By phase. Those of other phases than the present one are being waited for, or were given
    /// up.
    under_way: [AtomicUsize; PHASES],
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

    /// None but those given up. Phases do not change meanwhile, as one waits at a time.
    fn none(&self) -> bool {
        self.is_over(self.phase.load(Ordering::SeqCst))
    }

    fn is_over(&self, phase: usize) -> bool {
        self.under_way[phase].load(Ordering::SeqCst) == 0
    }

    /// Waits for those that have begun, but for those given up before; false if some have not
    /// ended in time, which are given up then.
    fn wait(&self, patience: Duration) -> bool {
        let start = Instant::now();
        let old = self.phase.load(Ordering::SeqCst);
        let mut others = (1..PHASES).map(|by| (old + by) % PHASES);
        // With something that hangs in each, newer transfers count with some of that.
        let next = others.find(|phase| self.is_over(*phase));
        self.phase
            .store(next.unwrap_or((old + 1) % PHASES), Ordering::SeqCst);
        let mut looks = 0_u32;
        while !self.is_over(old) {
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
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use iommu::Identity;

    use super::*;
    use crate::dma::{Dma, GuestRam};
    use crate::irq::MsiSink;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_waits_waits_for_those_before_and_not_for_those_after() {
        let transfers = Transfers::default();
        let before = UnderWay::new(Some(&transfers));
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                assert!(transfers.wait(LONG));
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
        assert!(!transfers.none());
        assert!(!transfers.wait(SHORT));
        // It is not waited for again, however often.
        for _ in 0..3 * PHASES {
            assert!(transfers.none());
            assert!(transfers.wait(Duration::ZERO));
        }
        // Newer ones are, whichever the phase.
        for _ in 0..3 * PHASES {
            let newer = UnderWay::new(Some(&transfers));
            assert!(!transfers.none());
            let ended = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let before = transfers.phase.load(Ordering::SeqCst);
                scope.spawn(|| {
                    assert!(transfers.wait(LONG));
                    assert!(ended.load(Ordering::SeqCst));
                });
                while transfers.phase.load(Ordering::SeqCst) == before {
                    std::thread::yield_now();
                }
                ended.store(true, Ordering::SeqCst);
                drop(newer);
            });
        }
        // So are those after its end.
        drop(stuck);
        for _ in 0..3 * PHASES {
            let newer = UnderWay::new(Some(&transfers));
            assert!(!transfers.none());
            drop(newer);
            assert!(transfers.none() && transfers.wait(LONG));
        }
        let ended = |count: &AtomicUsize| count.load(Ordering::SeqCst) == 0;
        assert!(transfers.under_way.iter().all(ended));
    }

    #[test]
    fn many_transfers_that_do_not_end_leave_the_others_to_be_waited_for() {
        let transfers = Transfers::default();
        let mut stuck = Vec::new();
        // The last ones find no phase of their own.
        for _ in 0..2 * PHASES {
            stuck.push(UnderWay::new(Some(&transfers)));
            assert!(!transfers.none());
            assert!(!transfers.wait(SHORT));
        }
        drop(stuck);
        let newer = UnderWay::new(Some(&transfers));
        assert!(!transfers.none());
        assert!(!transfers.wait(SHORT));
        drop(newer);
        assert!(transfers.wait(LONG));
    }

    struct Nobody;

    impl MsiSink for Nobody {
        fn send(&self, _: pci::MsiMessage) {}
    }

    #[test]
    fn a_requesters_transfer_is_given_up_once() {
        let drain = Drain::default();
        let memory = Arc::new(GuestRam::new());
        let dma = Dma::drained(memory, Arc::new(Identity), Arc::new(Nobody), &drain);
        let waited = |patience| {
            let start = Instant::now();
            drain.wait_for(patience, |_| true);
            start.elapsed() >= patience
        };
        let stuck = dma.begin();
        assert!(waited(SHORT), "in vain");
        for _ in 0..10 {
            assert!(!waited(LONG));
        }
        let newer = dma.begin();
        drain.wait_for(LONG, |_| false);
        assert!(waited(SHORT), "for the newer one");
        drop((stuck, newer));
        assert!(!waited(LONG));
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
                    assert!(transfers.wait(LONG));
                }
                page.store(false, Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
    }
}
