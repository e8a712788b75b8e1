//! What the guest may ask of the machine's power.

/// The machine, to devices through which a guest resets it or turns it off.
///
/// Called on a vCPU's thread in the middle of its exit: an implementation notes the request
/// and returns; the machine acts when the exit is done. Asking twice is asking once.
pub trait PowerControl: Send + Sync {
    /// Resets the machine. Every way in (the keyboard controller, ports 0x92 and 0xCF9)
    /// means the same: a platform reset, as PLTRST# does it.
    fn reset(&self);

    /// Turns the machine off (ACPI S5, or S4 with the image on disk).
    fn power_off(&self);
}
