//! A thread that waits for events which the kernel has not taken.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The token of the event that ends the thread; no descriptor has it.
const STOP: u64 = u64::MAX;

/// Acts when its event is readable, and takes what made it so.
pub trait Watched: Send + Sync {
    /// It is.
    fn readable(&self);
}

/// The thread, which is started when there is something to wait for and ends with this.
pub struct Watch {
    name: &'static str,
    shared: Arc<Shared>,
    stop: EventFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    epoll: Epoll,
    /// By descriptor.
    watched: Mutex<BTreeMap<u64, Weak<dyn Watched>>>,
}

impl Watch {
    /// Nothing to wait for. The thread will be called `name`.
    pub fn new(name: &'static str) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let epoll = Epoll::new()?;
        let event = EpollEvent::new(EventSet::IN, STOP);
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), event)?;
        Ok(Self {
            name,
            shared: Arc::new(Shared {
                epoll,
                watched: Mutex::default(),
            }),
            stop,
            thread: Mutex::default(),
        })
    }

    /// Waits for `event`, which must be removed before it is closed.
    pub fn add(&self, event: &EventFd, watched: Weak<dyn Watched>) -> io::Result<()> {
        self.start()?;
        let fd = event.as_raw_fd();
        self.shared.watched().insert(token(fd), watched);
        let interest = EpollEvent::new(EventSet::IN, token(fd));
        let added = self.shared.epoll.ctl(ControlOperation::Add, fd, interest);
        if added.is_err() {
            self.shared.watched().remove(&token(fd));
        }
        added
    }

    /// Waits for it no more.
    pub fn remove(&self, event: &EventFd) {
        let fd = event.as_raw_fd();
        // It is there, or was never added.
        let _ = self
            .shared
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
        self.shared.watched().remove(&token(fd));
    }

    fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new()
                .name(self.name.to_owned())
                .spawn(move || shared.run())?;
            *thread = Some(spawned);
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let thread = self.thread.get_mut();
        if let Some(thread) = thread.unwrap_or_else(PoisonError::into_inner).take() {
            // The counter is ours alone and far from full.
            let _ = self.stop.write(1);
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<dyn Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = [EpollEvent::default(); 16];
        loop {
            let ready = match self.epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "interrupts that KVM does not take are dead");
                    return;
                }
            };
            for event in events.iter().take(ready) {
                if event.data() == STOP {
                    return;
                }
                let watched = self.watched().get(&event.data()).and_then(Weak::upgrade);
                if let Some(watched) = watched {
                    watched.readable();
                }
            }
        }
    }
}

fn token(fd: RawFd) -> u64 {
    u64::from(fd.unsigned_abs())
}
