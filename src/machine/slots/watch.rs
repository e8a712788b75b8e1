//! What the host says of devices while the guest has them: that one failed, and that it wants
//! one back.
//!
//! - **Failed** (an uncorrectable error that the device reported through AER): the guest sees a
//!   fatal error of the link on the device's root port, as if it had happened there, and its
//!   driver recovers or gives up; or the device is taken away, if the operator wants that.
//! - **Wanted back**: the guest is asked to let go by the attention button. One that does not
//!   loses the device all the same after [`GRACE`], for whoever unbinds the driver on the host
//!   waits for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::guest_error;
use devices::vfio::AssignedDevice;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use pci::UncorrectableErrors;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::contents::{Content, Device, Kind, State};
use super::{Refusal, Slots};
use crate::config::OnError;
use crate::control::Removal;

/// How long the guest has to let go of a device that the host wants back.
const GRACE: Duration = Duration::from_secs(30);

/// Which event it is, in an epoll token: port, function, and one of these.
const FAILED: u64 = 0;
const WANTED: u64 = 1;
const END: u64 = u64::MAX;

/// The thread that listens, and those that take devices away.
pub struct Watch {
    epoll: Arc<Epoll>,
    end: EventFd,
    threads: Threads,
}

type Threads = Arc<Mutex<Vec<JoinHandle<()>>>>;

impl Watch {
    /// Starts to listen. Nothing is followed yet.
    pub fn start(slots: Weak<Slots>) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let end = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        epoll.add(borrowed(&end), EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        let threads = Threads::default();
        let (listening, workers) = (epoll.clone(), threads.clone());
        let thread = std::thread::Builder::new()
            .name("device-events".into())
            .spawn(move || listen(&listening, &slots, &workers))?;
        lock(&threads).push(thread);
        Ok(Self {
            epoll,
            end,
            threads,
        })
    }

    /// Listens to what is in a slot, until it is closed.
    pub fn follow(&self, port: u8, content: &Content) {
        for item in &content.items {
            let Some(Device::Assigned(taken)) = &item.device else {
                continue;
            };
            let device = &taken.device;
            for (kind, event) in [
                (FAILED, device.error_event()),
                (WANTED, device.request_event()),
            ] {
                let Some(event) = event else { continue };
                let token = u64::from(port) << 16 | u64::from(item.function) << 8 | kind;
                // By edge: nobody takes note of one whose device is being closed.
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
                let event_of = EpollEvent::new(flags, token);
                if let Err(error) = self.epoll.add(borrowed(event), event_of) {
                    tracing::warn!(device = item.id, %error, "the host is not listened to");
                }
            }
        }
    }

    /// Ends the threads and waits for them.
    pub fn end(&self) {
        // Cannot be full: it is written once or twice.
        let _ = self.end.write(1);
        let own = std::thread::current().id();
        loop {
            let Some(thread) = lock(&self.threads).pop() else {
                return;
            };
            if thread.thread().id() != own {
                // A panic was reported on the thread itself.
                let _ = thread.join();
            }
        }
    }
}

fn lock(threads: &Threads) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
    threads.lock().unwrap_or_else(PoisonError::into_inner)
}

fn borrowed(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the event's own and open as long as the borrow of it.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

fn listen(epoll: &Epoll, slots: &Weak<Slots>, workers: &Threads) {
    loop {
        let mut events = [EpollEvent::empty(); 8];
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(error) => return tracing::error!(%error, "the host is listened to no more"),
        };
        for event in &events[..ready] {
            if event.data() == END {
                return;
            }
            let Some(slots) = slots.upgrade() else {
                return;
            };
            let (port, function) = ((event.data() >> 16) as u8, (event.data() >> 8) as u8);
            match event.data() & 0xff {
                WANTED => wanted(&slots, port, function, workers),
                _ => failed(&slots, port, function, workers),
            }
        }
    }
}

/// The host wants a device back. It says so every few seconds until it has it.
fn wanted(slots: &Arc<Slots>, port: u8, function: u8, workers: &Threads) {
    let Some((id, _)) = slots.take_event(port, function, AssignedDevice::request_event) else {
        return;
    };
    tracing::info!(
        device = id,
        "the host wants this device back: asking the guest"
    );
    let removal = Removal {
        force: false,
        patience: GRACE,
    };
    in_background(slots, workers, move |slots| {
        match slots.take_out(&id, &removal) {
            Err(Refusal::Timeout { .. }) => {
                tracing::warn!(
                    device = id,
                    "the guest did not let go of a device that the host wants back: taking it away"
                );
                take_away(slots, &id);
            }
            Err(error) => tracing::warn!(device = id, %error, "the device is not given back"),
            Ok(()) => tracing::info!(device = id, "the host has the device back"),
        }
    });
}

fn failed(slots: &Arc<Slots>, port: u8, function: u8, workers: &Threads) {
    let Some((id, on_error)) = slots.take_event(port, function, AssignedDevice::error_event) else {
        return;
    };
    if on_error == OnError::Quarantine {
        guest_error!(
            device = id,
            "the device failed: it is taken away from the guest"
        );
        in_background(slots, workers, move |slots| take_away(slots, &id));
    } else if let Some(port) = slots.ports.get(&port) {
        guest_error!(device = id, "the device failed: the guest is told");
        let mut errors = UncorrectableErrors(0);
        errors.set_data_link_protocol(true);
        port.port.report(errors, port.bdf);
    }
}

fn take_away(slots: &Arc<Slots>, id: &str) {
    let removal = Removal {
        force: true,
        patience: Duration::ZERO,
    };
    if let Err(error) = slots.take_out(id, &removal) {
        tracing::warn!(device = id, %error, "the device is not taken away");
    }
}

/// A removal takes as long as the guest does; others are heard meanwhile.
fn in_background(
    slots: &Arc<Slots>,
    workers: &Threads,
    work: impl FnOnce(&Arc<Slots>) + Send + 'static,
) {
    let slots = Arc::downgrade(slots);
    let spawned = std::thread::Builder::new()
        .name("device-removal".into())
        .spawn(move || {
            if let Some(slots) = slots.upgrade() {
                work(&slots);
            }
        });
    match spawned {
        Ok(thread) => {
            let mut workers = lock(workers);
            workers.retain(|worker| !worker.is_finished());
            workers.push(thread);
        }
        Err(error) => tracing::error!(%error, "no thread to give a device back with"),
    }
}

impl Slots {
    /// Takes note of an event of a device; gives what the operator calls it and what is done if
    /// it fails, if it is there and not on its way out.
    fn take_event(
        &self,
        port: u8,
        function: u8,
        event: impl Fn(&AssignedDevice) -> Option<&EventFd>,
    ) -> Option<(String, OnError)> {
        let contents = self.contents();
        let content = contents.get(port)?;
        let mut items = content.items.iter();
        let item = items.find(|item| item.function == function)?;
        let (Kind::Assigned { on_error, .. }, Some(Device::Assigned(taken))) =
            (item.kind, &item.device)
        else {
            return None;
        };
        // Fails when it was not signalled after all.
        event(&taken.device)?.read().ok()?;
        let is_there = content.state == State::Plugged;
        is_there.then(|| (item.id.clone(), on_error))
    }
}
