//! Guest time and the alarms that devices set on it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use devices::time::{Alarm, Alarmed, Clock, Nanos};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

/// Guest time: the host's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestClock;

impl Clock for GuestClock {
    fn now(&self) -> Nanos {
        // CLOCK_MONOTONIC is always there.
        let now = clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
        Duration::from(now).as_nanos() as Nanos
    }
}

struct Entry {
    deadline: Option<Nanos>,
    device: Weak<dyn Alarmed>,
}

/// Every device's alarm, on one timer of the event loop.
pub struct Alarms {
    timer: TimerFd,
    entries: Mutex<Vec<Entry>>,
}

impl Alarms {
    /// No alarms.
    pub fn new() -> nix::Result<Arc<Self>> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Arc::new(Self {
            timer,
            entries: Mutex::default(),
        }))
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An alarm without a device; [`Alarms::attach`] says whose it is.
    pub fn create(self: &Arc<Self>) -> Arc<AlarmHandle> {
        let mut entries = self.entries();
        let nobody: Weak<dyn Alarmed> = Weak::<Nobody>::new();
        entries.push(Entry {
            deadline: None,
            device: nobody,
        });
        Arc::new(AlarmHandle {
            alarms: self.clone(),
            index: entries.len() - 1,
        })
    }

    /// Readable when an alarm may be due.
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Sets off what is due. Called by the event loop.
    pub fn expire(&self) {
        // Drains the timer's count; which alarms are due is seen below.
        let mut count = [0; 8];
        let _ = nix::unistd::read(&self.timer, &mut count);
        let now = GuestClock.now();
        let due: Vec<_> = self
            .entries()
            .iter_mut()
            .filter(|entry| entry.deadline.is_some_and(|deadline| deadline <= now))
            .filter_map(|entry| {
                entry.deadline = None;
                entry.device.upgrade()
            })
            .collect();
        for device in due {
            device.expired(now);
        }
        self.arm(&self.entries());
    }

    /// Points the timer at the earliest deadline.
    fn arm(&self, entries: &[Entry]) {
        let earliest = entries.iter().filter_map(|entry| entry.deadline).min();
        let result = match earliest {
            Some(deadline) => {
                // Zero would disarm.
                let at = TimeSpec::from(Duration::from_nanos(deadline.max(1)));
                self.timer.set(
                    Expiration::OneShot(at),
                    TimerSetTimeFlags::TFD_TIMER_ABSTIME,
                )
            }
            None => self.timer.unset(),
        };
        if let Err(error) = result {
            tracing::error!(%error, "the timer of device alarms could not be set");
        }
    }
}

struct Nobody;

impl Alarmed for Nobody {
    fn expired(&self, _: Nanos) {}
}

/// One device's alarm.
pub struct AlarmHandle {
    alarms: Arc<Alarms>,
    index: usize,
}

impl AlarmHandle {
    /// Says whose alarm this is.
    pub fn attach(&self, device: Weak<dyn Alarmed>) {
        self.alarms.entries()[self.index].device = device;
    }
}

impl Alarm for AlarmHandle {
    fn set(&self, deadline: Option<Nanos>) {
        let mut entries = self.alarms.entries();
        let earliest = |entries: &[Entry]| entries.iter().filter_map(|entry| entry.deadline).min();
        let before = earliest(&entries);
        entries[self.index].deadline = deadline;
        if earliest(&entries) != before {
            self.alarms.arm(&entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    #[derive(Default)]
    struct Rings(AtomicU64);

    impl Alarmed for Rings {
        fn expired(&self, now: Nanos) {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    fn due_within(alarms: &Alarms, ms: u16) -> bool {
        let mut fds = [PollFd::new(alarms.readable(), PollFlags::POLLIN)];
        poll(&mut fds, ms).unwrap() == 1
    }

    #[test]
    fn an_alarm_goes_off_once_at_its_time_and_not_when_cleared() {
        let alarms = Alarms::new().unwrap();
        let (early, late) = (alarms.create(), alarms.create());
        let device = Arc::new(Rings::default());
        let weak: Weak<dyn Alarmed> = Arc::downgrade(&(device.clone() as Arc<dyn Alarmed>));
        early.attach(weak);
        let deadline = GuestClock.now() + 2_000_000;
        early.set(Some(deadline));
        late.set(Some(deadline + 3_600_000_000_000));
        assert!(due_within(&alarms, 5000));
        alarms.expire();
        assert!(device.0.load(Ordering::Relaxed) >= deadline);
        early.set(Some(GuestClock.now()));
        early.set(None);
        assert!(!due_within(&alarms, 20));
    }
}
