//! Keeps the emulated host's processors from sleeping for ever.
//!
//! Under QEMU's TCG a timer interrupt that arrives while a nested guest is entered or left is
//! now and then lost, with any monitor and with QEMU 11 as with 10 (seen as `rcu: ... timer wakeup didn't happen`). An
//! idle processor then waits for an interrupt that never comes. Any other interrupt brings it
//! back, so two threads go from processor to processor, each visit an interrupt to the one
//! visited; two, because a visitor's own timer may be the one that is lost.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::thread;
use std::time::Duration;

/// How long a visit lasts.
const VISIT: Duration = Duration::from_millis(150);

/// Starts the visitors, which go on until this process ends.
pub fn start() {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    for first in 0..2 {
        thread::spawn(move || {
            for processor in (0..processors).cycle().skip(first) {
                let mut only = CpuSet::new();
                // Refused only for a processor that is not there.
                let _ = only.set(processor);
                let _ = sched_setaffinity(Pid::from_raw(0), &only);
                thread::sleep(VISIT);
            }
        });
    }
}
