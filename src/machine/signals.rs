//! Signals from the operator, taken on the event loop instead of in a handler.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// End the machine; the signal's name.
    Quit(&'static str),
    /// Write the statistics.
    Report,
}

/// The signals that Sluice takes. They are blocked in this thread and in every thread that
/// it starts from here on.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals and opens the way to read them. To be called before any thread is
    /// started.
    pub fn block() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGUSR1,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&set, flags).map(Self)
    }

    /// Readable when there is a signal.
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes one signal.
    pub fn take(&self) -> Option<Wish> {
        let info = self.0.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        Some(match signal {
            Signal::SIGUSR1 => Wish::Report,
            other => Wish::Quit(other.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn signals_are_read_not_handled() {
        let signals = Signals::block().unwrap();
        assert_eq!(signals.take(), None);
        raise(Signal::SIGUSR1).unwrap();
        assert_eq!(signals.take(), Some(Wish::Report));
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.take(), Some(Wish::Quit("SIGTERM")));
    }
}
