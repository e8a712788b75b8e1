//! Getting a vCPU's thread out of KVM_RUN.

use std::os::unix::thread::RawPthread;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_run;
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signal that interrupts KVM_RUN.
const KICK: Signal = Signal::SIGUSR2;

extern "C" fn ignore(_: libc::c_int) {}

/// Installs the handler that lets the signal interrupt a system call and do nothing else.
pub fn install_handler() -> nix::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(ignore),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { sigaction(KICK, &action) }.map(drop)
}

/// A vCPU's `immediate_exit` byte in the page it shares with the kernel.
#[derive(Clone, Copy)]
struct ImmediateExit(*mut u8);

// SAFETY: the byte is only accessed atomically, and only while an `OnThread` lives, whose
// maker keeps the page mapped.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn set(self, exit: bool) {
        // SAFETY: mapped while an `OnThread` lives; the kernel reads it, we only use atomics.
        unsafe { AtomicU8::from_ptr(self.0) }.store(exit.into(), Ordering::SeqCst);
    }
}

/// Interrupts one vCPU, from any thread, at any time: where no thread runs the vCPU there
/// is nothing to interrupt. Clones kick the same one.
#[derive(Clone, Default)]
pub struct Kicker(Arc<Mutex<Option<Running>>>);

/// The thread that runs the vCPU.
struct Running {
    thread: RawPthread,
    immediate_exit: ImmediateExit,
}

impl Kicker {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes KVM_RUN return, now if the vCPU is in it, else as soon as it is entered.
    ///
    /// Whoever kicks has first said what is wanted, where the vCPU's thread looks for it.
    pub fn kick(&self) {
        let running = self.running();
        // The vCPU's own thread is not in KVM_RUN, and looks before it enters.
        if let Some(running) = &*running
            && running.thread != pthread_self()
        {
            running.immediate_exit.set(true);
            // The thread is alive: it takes itself out of here before it ends.
            let _ = pthread_kill(running.thread, KICK);
        }
    }

    /// Says that this thread runs the vCPU from here on, until the guard is dropped.
    ///
    /// # Safety
    /// `run` is the vCPU's page shared with the kernel, mapped while the guard lives.
    pub unsafe fn on_this_thread(&self, run: *mut kvm_run) -> OnThread<'_> {
        // SAFETY: only the field's address is computed; `run` is valid by contract.
        let immediate_exit = ImmediateExit(unsafe { &raw mut (*run).immediate_exit });
        *self.running() = Some(Running {
            thread: pthread_self(),
            immediate_exit,
        });
        OnThread {
            kicker: self,
            immediate_exit,
        }
    }
}

/// While this lives, kicks go to the thread that made it.
pub struct OnThread<'a> {
    kicker: &'a Kicker,
    immediate_exit: ImmediateExit,
}

impl OnThread<'_> {
    /// Takes note of kicks. The thread then looks at what is wanted of it, and only then
    /// enters the guest: a kick that it has not seen the reason of is still there.
    pub fn acknowledge(&self) {
        self.immediate_exit.set(false);
    }
}

impl Drop for OnThread<'_> {
    fn drop(&mut self) {
        *self.kicker.running() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_stays_until_acknowledged_and_ends_with_the_thread() {
        install_handler().unwrap();
        let mut page = kvm_run::default();
        let run: *mut kvm_run = &mut page;
        let kicker = Kicker::default();
        kicker.kick();
        // SAFETY: `page` outlives the guard.
        let on_thread = unsafe { kicker.on_this_thread(run) };
        let flag = || {
            // SAFETY: `page` is alive, and accessed atomically.
            unsafe { AtomicU8::from_ptr(&raw mut (*run).immediate_exit) }.load(Ordering::SeqCst)
        };
        kicker.kick();
        assert_eq!(flag(), 0, "its own thread needs no kick");
        let other = kicker.clone();
        std::thread::spawn(move || other.kick()).join().unwrap();
        assert_eq!(flag(), 1);
        on_thread.acknowledge();
        assert_eq!(flag(), 0);
        drop(on_thread);
        let other = kicker.clone();
        std::thread::spawn(move || other.kick()).join().unwrap();
        assert_eq!(flag(), 0);
    }
}
