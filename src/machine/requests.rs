//! What is asked of the machine as a whole, by the guest, by a vCPU's fate or by the
//! operator, on its way to the main thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::vcpu::{Gate, Verdict, Verdicts};

/// A wish for the machine, the more important the later it stands here: a guest that resets
/// all the time cannot keep the operator from ending it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// The guest resets.
    Reset,
    /// The guest powers off.
    PowerOff,
    /// It cannot go on; why.
    Failed(String),
    /// The operator wants it to end; how they said so.
    Quit(String),
}

/// The most important wish that is not yet granted.
pub struct Requests {
    pending: Mutex<Option<Request>>,
    event: EventFd,
    gate: Arc<Gate>,
}

impl Requests {
    /// No wishes.
    pub fn new(gate: Arc<Gate>) -> std::io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self {
            pending: Mutex::new(None),
            event,
            gate,
        })
    }

    fn pending(&self) -> MutexGuard<'_, Option<Request>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks. The vCPUs stop at the gate until the main thread has acted; whoever asks from a
    /// vCPU runs no further instruction.
    pub fn ask(&self, request: Request) {
        self.gate.close();
        let mut pending = self.pending();
        if pending.as_ref().is_none_or(|other| *other < request) {
            *pending = Some(request);
        }
        drop(pending);
        // The counter cannot overflow: the main thread reads it, and it holds 2^64 - 2.
        let _ = self.event.write(1);
    }

    /// Takes the wish, if there is one.
    pub fn take(&self) -> Option<Request> {
        let _ = self.event.read();
        self.pending().take()
    }

    /// Readable when there may be a wish.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

impl Verdicts for Requests {
    fn deliver(&self, verdict: Verdict) {
        self.ask(match verdict {
            Verdict::Reset => Request::Reset,
            Verdict::PowerOff => Request::PowerOff,
            Verdict::Failed(why) => Request::Failed(why),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_wish_goes_before_the_guests_and_the_gate_closes() {
        let gate = Arc::new(Gate::default());
        gate.open();
        let requests = Requests::new(gate.clone()).unwrap();
        assert_eq!(requests.take(), None);
        requests.ask(Request::Reset);
        requests.ask(Request::Quit("stopped".into()));
        requests.ask(Request::Reset);
        assert!(gate.is_closed());
        assert_eq!(requests.take(), Some(Request::Quit("stopped".into())));
        assert_eq!(requests.take(), None);
    }
}
