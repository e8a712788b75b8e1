//! Time as a value: a device is told what time it is and asks to be woken.

/// Nanoseconds of a clock that never goes back and stands still while the VM is paused.
pub type Nanos = u64;

/// The machine's clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Nanos;
}

/// A device's alarm on the machine's event loop. When it goes off the machine calls
/// [`Alarmed::expired`], on the event loop's thread, and the alarm is unset.
pub trait Alarm: Send + Sync {
    /// Sets, moves or (with `None`) clears the alarm.
    fn set(&self, deadline: Option<Nanos>);
}

/// A device with an alarm.
pub trait Alarmed: Send + Sync {
    /// The alarm's time has come. May be called a little late, and once spuriously after a
    /// change; the device looks at `now`.
    fn expired(&self, now: Nanos);
}
