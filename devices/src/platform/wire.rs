//! One interrupt input, many devices: a wire that is asserted while any of its ends is.
//!
//! Every ISA IRQ that two chips drive and every PIRQ that slots share is one of these. Ends
//! may be driven from any thread at once; there is no lock, and the sink is called only
//! when the wire as a whole changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::irq::{IrqLine, LineSink};

/// A wire-OR in front of a sink. Clones are the same wire.
#[derive(Clone)]
pub struct SharedLine(Arc<Wire>);

struct Wire {
    sink: Arc<dyn LineSink>,
    /// How many ends assert. Dips below zero while two threads that drive one end cross.
    asserting: AtomicI32,
}

impl SharedLine {
    /// A wire into `sink`, with no ends yet.
    pub fn new(sink: Arc<dyn LineSink>) -> Self {
        Self(Arc::new(Wire {
            sink,
            asserting: AtomicI32::new(0),
        }))
    }

    /// A new end. When its last clone is dropped it lets go of the wire.
    pub fn end(&self) -> IrqLine {
        IrqLine::new(Arc::new(End {
            wire: self.0.clone(),
            asserted: AtomicBool::new(false),
        }))
    }

    /// The wire's level.
    pub fn is_asserted(&self) -> bool {
        self.0.is_asserted()
    }
}

impl Wire {
    fn is_asserted(&self) -> bool {
        self.asserting.load(Ordering::SeqCst) > 0
    }

    fn change(&self, by: i32) {
        let before = self.asserting.fetch_add(by, Ordering::SeqCst);
        if (before > 0) == (before + by > 0) {
            return;
        }
        // Another thread may change the level between our look at it and the sink's taking
        // it. Whoever told the sink something stale finds out here and tells it again.
        loop {
            let level = self.is_asserted();
            self.sink.set(level);
            if self.is_asserted() == level {
                return;
            }
        }
    }
}

struct End {
    wire: Arc<Wire>,
    asserted: AtomicBool,
}

impl LineSink for End {
    fn set(&self, asserted: bool) {
        if self.asserted.swap(asserted, Ordering::SeqCst) != asserted {
            self.wire.change(if asserted { 1 } else { -1 });
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::fakes::Probe;

    #[test]
    fn is_asserted_while_any_end_is() {
        let probe = Arc::new(Probe::default());
        let wire = SharedLine::new(probe.clone());
        let (a, b) = (wire.end(), wire.end());
        a.set(true);
        b.set(true);
        b.set(true);
        a.set(false);
        assert!(wire.is_asserted());
        assert_eq!(probe.history(), [true]);
        b.set(false);
        assert_eq!(probe.history(), [true, false]);
    }

    #[test]
    fn a_dropped_end_lets_go() {
        let probe = Arc::new(Probe::default());
        let wire = SharedLine::new(probe.clone());
        let end = wire.end();
        end.set(true);
        drop(end);
        assert!(!probe.level());
    }

    #[test]
    fn racing_ends_leave_the_sink_with_the_truth() {
        let probe = Arc::new(Probe::default());
        let wire = SharedLine::new(probe.clone());
        for round in 0..200 {
            let ends = [wire.end(), wire.end()];
            std::thread::scope(|scope| {
                for (i, end) in ends.iter().enumerate() {
                    scope.spawn(move || {
                        for _ in 0..20 {
                            end.set(true);
                            end.set(false);
                        }
                        end.set((round + i) % 3 == 0);
                    });
                }
            });
            assert_eq!(probe.level(), wire.is_asserted());
        }
    }
}
