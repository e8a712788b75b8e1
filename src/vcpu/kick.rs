//! Getting a vCPU's thread out of KVM_RUN.

use std::os::unix::thread::RawPthread;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_run;
use nix::sys::pthread::pthread_kill;
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
struct ImmediateExit(*mut u8);

// SAFETY: the byte is only accessed atomically, and the owner of the vCPU keeps the page
// mapped for as long as any `Kicker` exists (see `Kicker::new`).
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

/// Interrupts one vCPU, from any thread. Clones kick the same one.
#[derive(Clone)]
pub struct Kicker {
    immediate_exit: Arc<ImmediateExit>,
    thread: Arc<Mutex<Option<RawPthread>>>,
}

impl Kicker {
    /// A kicker for the vCPU whose shared page is at `run`.
    ///
    /// # Safety
    /// The page stays mapped while this or a clone of it is used.
    pub unsafe fn new(run: *mut kvm_run) -> Self {
        // SAFETY: only the field's address is computed; `run` is valid by contract.
        let byte = unsafe { &raw mut (*run).immediate_exit };
        Self {
            immediate_exit: Arc::new(ImmediateExit(byte)),
            thread: Arc::default(),
        }
    }

    fn flag(&self) -> &AtomicU8 {
        // SAFETY: valid by the contract of `new`; the kernel reads it, we only use atomics.
        unsafe { AtomicU8::from_ptr(self.immediate_exit.0) }
    }

    /// Makes KVM_RUN return, now if the vCPU is in it, else as soon as it is entered.
    pub fn kick(&self) {
        self.flag().store(1, Ordering::SeqCst);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = *thread {
            // The thread is alive: it takes itself out of here before it ends.
            let _ = pthread_kill(thread, KICK);
        }
    }

    /// Takes note of a kick; called by the vCPU's thread before it looks at what is wanted
    /// of it.
    pub fn acknowledge(&self) {
        self.flag().store(0, Ordering::SeqCst);
    }

    /// Says which thread runs the vCPU from here on, until the guard is dropped.
    pub fn on_this_thread(&self) -> OnThread<'_> {
        let this = nix::sys::pthread::pthread_self();
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(this);
        OnThread(self)
    }
}

/// While this lives, kicks go to the thread that made it.
pub struct OnThread<'a>(&'a Kicker);

impl Drop for OnThread<'_> {
    fn drop(&mut self) {
        *self.0.thread.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
