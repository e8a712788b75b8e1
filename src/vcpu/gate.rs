//! Where vCPU threads wait while the machine is stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Kicker;

/// What the machine wants of its vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Run,
    Stop,
    End,
}

struct State {
    wanted: Wanted,
    waiting: usize,
}

/// The gate between KVM_RUNs. The machine opens and closes it.
pub struct Gate {
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for Gate {
    /// A closed gate.
    fn default() -> Self {
        Self {
            closed: AtomicBool::new(true),
            state: Mutex::new(State {
                wanted: Wanted::Stop,
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Must a vCPU wait before it runs on? One load when the gate is open.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Closes the gate for the vCPUs that come to it, without waiting for them: what a vCPU
    /// does when its guest asked for a reset, so that it runs not one instruction more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until the gate opens. False when the machine is to end.
    pub fn pass(&self) -> bool {
        let mut state = self.state();
        state.waiting += 1;
        self.changed.notify_all();
        // Closed by `close` alone, `wanted` may still say run: the machine stops all soon.
        while state.wanted == Wanted::Stop || state.wanted == Wanted::Run && self.is_closed() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.wanted == Wanted::Run
    }

    /// Stops the vCPUs and waits until all of them wait here.
    pub fn stop(&self, vcpus: &[Kicker]) {
        let mut state = self.state();
        state.wanted = Wanted::Stop;
        self.close();
        while state.waiting < vcpus.len() {
            vcpus.iter().for_each(Kicker::kick);
            let wait = self.changed.wait_timeout(state, Duration::from_millis(10));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the vCPUs run.
    pub fn open(&self) {
        let mut state = self.state();
        state.wanted = Wanted::Run;
        self.closed.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Ends the vCPUs' threads.
    pub fn end(&self, vcpus: &[Kicker]) {
        let mut state = self.state();
        state.wanted = Wanted::End;
        self.close();
        self.changed.notify_all();
        drop(state);
        vcpus.iter().for_each(Kicker::kick);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_closed_gate_holds_until_opened_and_ends_for_all() {
        let gate = Arc::new(Gate::default());
        let passer = std::thread::spawn({
            let gate = gate.clone();
            move || (gate.pass(), gate.pass())
        });
        while gate.state().waiting == 0 {
            std::thread::yield_now();
        }
        assert!(gate.is_closed());
        gate.open();
        // The second pass comes at once: an open gate holds nobody; so close and end.
        gate.end(&[]);
        let (first, second) = passer.join().unwrap();
        assert!(first || !second);
        assert!(gate.is_closed());
    }
}
