//! The I/O thread: waits for the backend, for the guest and for timers, and takes turns.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::nic::{Interest, Nic};

/// How late the kernel may wake us from a timed wait, in nanoseconds.
const TIMER_SLACK: libc::c_ulong = 2_000;

/// A running I/O thread. Dropping it stops it.
pub struct IoThread {
    nic: Arc<Nic>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts it.
    pub fn start(nic: Arc<Nic>, name: &str) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (its_nic, its_stop) = (Arc::clone(&nic), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&its_nic, &its_stop))?;
        Ok(Self {
            nic,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.nic.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(nic: &Nic, stop: &AtomicBool) {
    // SAFETY: sets a number of this thread's; failing does no harm.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK) };
    while !stop.load(Ordering::Acquire) {
        let interest = nic.turn();
        if !interest.again {
            wait(nic, &interest);
        }
    }
}

fn wait(nic: &Nic, interest: &Interest) {
    let mut events = 0;
    if interest.read {
        events |= libc::POLLIN;
    }
    if interest.write {
        events |= libc::POLLOUT;
    }
    let watched = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // A negative descriptor is skipped: a backend that hung up would end every wait.
    let backend = interest.descriptor.filter(|_| events != 0).unwrap_or(-1);
    let mut fds = [
        watched(nic.kick.as_raw_fd(), libc::POLLIN),
        watched(backend, events),
    ];
    let timeout = interest.deadline.map(|deadline| {
        let left = deadline.saturating_sub(nic.now());
        libc::timespec {
            tv_sec: (left / 1_000_000_000) as libc::time_t,
            tv_nsec: (left % 1_000_000_000) as libc::c_long,
        }
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is an array of two, `timeout` null or a timespec that outlives the call,
    // and no signal mask is given. Only this thread, in its turns, closes the backend.
    unsafe { libc::ppoll(fds.as_mut_ptr(), 2, timeout, std::ptr::null()) };
    if fds[0].revents != 0 {
        let _ = nic.kick.read();
    }
}
