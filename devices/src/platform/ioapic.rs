//! The I/O APIC: 82093AA as ICH9 has it (version 0x20, 24 pins, an EOI register).
//!
//! Pins are asserted or not; the polarity bit of an entry is kept and means nothing here.
//! Messages leave through [`IoApicOutput`] and go on through the machine's interrupt
//! remapping. An edge on a masked pin is ignored, neither delivered nor held (82093AA
//! §3.2.4, bit 16); a level is delivered when its entry is unmasked while still asserted.
//!
//! Not modelled: the APIC bus, hence arbitration and a delivery status other than idle.
//!
//! Reset: all registers go back to power-on values, all entries masked; the levels of the
//! pins are their devices' and stay.

mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pci::MsiMessage;

use self::registers::{RedirectionEntry, VERSION, index, offset};
use crate::bus::Region;
use crate::guest_error;
use crate::irq::LineSink;
use crate::time::{Alarm, Alarmed, Clock, Nanos};

/// How many inputs there are.
pub const PINS: u8 = 24;

/// Where it answers (ICH9 §13.5), for as long as this is:
pub const BASE: u64 = 0xfec0_0000;

/// Size of the window at [`BASE`].
pub const SIZE: u64 = 0x1000;

/// A line still asserted after this many EOIs in a row is a storm: each EOI makes the next
/// interrupt. From then on the interrupt comes late, so that the guest gets to do something.
const STORM: u32 = 10_000;

/// How late.
const STORM_DELAY: Nanos = 10_000_000;

/// What the I/O APIC does to the rest of the machine.
pub trait IoApicOutput: Send + Sync {
    /// Sends an interrupt. Called with no lock of the I/O APIC's held.
    fn deliver(&self, pin: u8, message: MsiMessage);

    /// An unmasked entry's message changed (`None`: reset). Whoever turns EOIs of its vector
    /// into [`IoApic::end_of_interrupt`] must know it before the first [`Self::deliver`].
    /// Masking does not take a route away, as an EOI may still be due. Called with the
    /// I/O APIC locked, so that two changes cannot cross: it must not be called back.
    fn route(&self, pin: u8, message: Option<MsiMessage>);

    /// Interrupts of `pin` now leave as messages that end with an EOI (its entry is unmasked,
    /// its delivery mode fixed or lowest priority), or no longer do. Called like
    /// [`Self::route`], and after it.
    fn open(&self, pin: u8, open: bool) {
        let _ = (pin, open);
    }

    /// The guest may have served the devices of `pin`: it has ended an interrupt of its
    /// vector, has unmasked it, or has changed its unmasked entry. Called with no lock held,
    /// before a line that is still asserted is delivered again: the time to ask devices.
    fn served(&self, pin: u8) {
        let _ = pin;
    }
}

/// What an I/O APIC is made of.
pub struct IoApicConfig {
    /// Where its messages go.
    pub output: Arc<dyn IoApicOutput>,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Its alarm; set only during an interrupt storm.
    pub alarm: Arc<dyn Alarm>,
}

/// The I/O APIC.
pub struct IoApic {
    config: IoApicConfig,
    inner: Mutex<Inner>,
}

struct Inner {
    id: u8,
    select: u8,
    entries: [RedirectionEntry; PINS as usize],
    /// Bit per pin: asserted.
    levels: u32,
    /// What the output was last told of each pin.
    routed: [Option<MsiMessage>; PINS as usize],
    /// Bit per pin: the output was told that it is open.
    open: u32,
    /// EOIs in a row that found the line still asserted.
    successive: [u32; PINS as usize],
    /// Bit per pin: waits for the alarm.
    throttled: u32,
}

/// What an I/O APIC is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct IoApicState {
    /// Identification register, bits 27:24.
    pub id: u8,
    /// Selected register.
    pub select: u8,
    /// Redirection entries, raw.
    pub redirection: [u64; PINS as usize],
    /// Asserted pins, a bit each.
    pub levels: u32,
}

impl IoApic {
    /// An I/O APIC as after power-on.
    pub fn new(config: IoApicConfig) -> Self {
        Self {
            config,
            inner: Mutex::new(Inner::new()),
        }
    }

    /// The sink that drives `pin`, for one [`SharedLine`](super::wire::SharedLine) per pin.
    /// A pin that is not there is a sink that does nothing.
    pub fn pin(self: &Arc<Self>, pin: u8) -> Arc<dyn LineSink> {
        Arc::new(Pin {
            ioapic: self.clone(),
            pin,
        })
    }

    /// Asserts or deasserts a pin.
    pub fn set_level(&self, pin: u8, asserted: bool) {
        if pin >= PINS {
            return;
        }
        let message = self.lock().set_level(pin, asserted);
        if let Some(message) = message {
            self.config.output.deliver(pin, message);
        }
    }

    /// A local APIC has ended an interrupt of `vector` (KVM_EXIT_IOAPIC_EOI, or the EOI
    /// register). Level entries of that vector may fire again.
    pub fn end_of_interrupt(&self, vector: u8) {
        let (ended, served) = {
            let mut inner = self.lock();
            (inner.end(vector), inner.with_vector(vector))
        };
        for pin in bits(served) {
            self.config.output.served(pin);
        }
        if ended == 0 {
            return;
        }
        let throttled = self.lock().throttle(ended);
        if throttled != 0 {
            let when = self.config.clock.now().saturating_add(STORM_DELAY);
            self.config.alarm.set(Some(when));
        }
        self.service(ended & !throttled);
    }

    /// Power-on values; pins keep their levels.
    pub fn reset(&self) {
        let mut inner = self.lock();
        for (pin, routed) in (0..).zip(&inner.routed) {
            if routed.is_some() {
                self.config.output.route(pin, None);
            }
        }
        for pin in bits(inner.open) {
            self.config.output.open(pin, false);
        }
        *inner = Inner {
            levels: inner.levels,
            ..Inner::new()
        };
        self.config.alarm.set(None);
    }

    /// Its state.
    pub fn state(&self) -> IoApicState {
        let inner = self.lock();
        IoApicState {
            id: inner.id,
            select: inner.select,
            redirection: inner.entries.map(|e| e.0),
            levels: inner.levels,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers those of `pins` that are level, asserted and not in service.
    fn service(&self, pins: u32) {
        for pin in bits(pins) {
            let message = self.lock().service(pin);
            if let Some(message) = message {
                self.config.output.deliver(pin, message);
            }
        }
    }

    fn write_window(&self, value: u32) {
        let mut inner = self.lock();
        match inner.select {
            index::ID => inner.id = (value >> 24) as u8 & 0xf,
            select if select >= index::REDIRECTION => {
                let pin = (select - index::REDIRECTION) / 2;
                if pin < PINS {
                    let output = &*self.config.output;
                    let anew = inner.write_entry(pin, select & 1 != 0, value, output);
                    drop(inner);
                    if anew {
                        output.served(pin);
                    }
                    self.service(1 << pin);
                }
            }
            _ => {}
        }
    }
}

impl Inner {
    fn new() -> Self {
        Self {
            id: 0,
            select: 0,
            entries: [RedirectionEntry::RESET; PINS as usize],
            levels: 0,
            routed: [None; PINS as usize],
            open: 0,
            successive: [0; PINS as usize],
            throttled: 0,
        }
    }

    fn set_level(&mut self, pin: u8, asserted: bool) -> Option<MsiMessage> {
        let bit = 1 << pin;
        let was = self.levels & bit != 0;
        if asserted == was {
            return None;
        }
        self.levels ^= bit;
        let entry = self.entries[usize::from(pin)];
        if entry.is_level() {
            return self.service(pin);
        }
        (asserted && !entry.masked()).then(|| entry.message())
    }

    fn service(&mut self, pin: u8) -> Option<MsiMessage> {
        let bit = 1 << pin;
        let entry = &mut self.entries[usize::from(pin)];
        let due = entry.is_level()
            && self.levels & bit != 0
            && self.throttled & bit == 0
            && !entry.masked()
            && !entry.remote_irr();
        due.then(|| {
            entry.set_remote_irr(true);
            entry.message()
        })
    }

    /// Clears remote IRR of level entries of `vector` and says which they are.
    fn end(&mut self, vector: u8) -> u32 {
        let mut ended = 0;
        for (pin, entry) in self.entries.iter_mut().enumerate() {
            if entry.vector() == vector && entry.is_level() && entry.remote_irr() {
                entry.set_remote_irr(false);
                ended |= 1 << pin;
            }
        }
        ended
    }

    /// The pins whose interrupts have this vector and end with an EOI.
    fn with_vector(&self, vector: u8) -> u32 {
        let entries = (0..).zip(&self.entries);
        entries
            .filter(|(_, entry)| entry.vector() == vector && entry.has_end())
            .fold(0, |pins, (pin, _)| pins | 1 << pin)
    }

    /// Counts storms among the pins just ended; says which must wait.
    fn throttle(&mut self, ended: u32) -> u32 {
        let mut waiting = 0;
        for pin in bits(ended) {
            let count = &mut self.successive[usize::from(pin)];
            if self.levels & 1 << pin == 0 {
                *count = 0;
                continue;
            }
            *count += 1;
            if *count >= STORM {
                *count = 0;
                waiting |= 1 << pin;
            }
        }
        self.throttled |= waiting;
        waiting
    }

    /// Writes half an entry; true if it is unmasked and not what it was.
    fn write_entry(&mut self, pin: u8, high: bool, value: u32, output: &dyn IoApicOutput) -> bool {
        let entry = &mut self.entries[usize::from(pin)];
        let before = *entry;
        entry.write_half(high, value);
        let after = *entry;
        let message = Some(after.message());
        let routed = &mut self.routed[usize::from(pin)];
        if !after.masked() && *routed != message {
            *routed = message;
            output.route(pin, message);
        }
        let (bit, open) = (1 << pin, !after.masked() && after.has_end());
        if open != (self.open & bit != 0) {
            self.open ^= bit;
            output.open(pin, open);
        }
        !after.masked() && after != before
    }

    fn read_window(&self) -> u32 {
        match self.select {
            index::ID | index::ARBITRATION => u32::from(self.id) << 24,
            index::VERSION => VERSION,
            select if select >= index::REDIRECTION => {
                let half = usize::from(select - index::REDIRECTION);
                let shift = if half & 1 != 0 { 32 } else { 0 };
                self.entries
                    .get(half / 2)
                    .map_or(0, |entry| (entry.0 >> shift) as u32)
            }
            _ => 0,
        }
    }
}

impl Region for IoApic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let inner = self.lock();
        // Registers repeat every 256 bytes and are dwords; a narrow read takes its bytes.
        let register = match offset & 0xfc {
            offset::IOREGSEL => u32::from(inner.select),
            offset::IOWIN => inner.read_window(),
            _ => 0,
        };
        let bytes = register.to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = bytes
                .get((offset & 3) as usize + i)
                .copied()
                .unwrap_or_default();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (Some(&low), dword) = (data.first(), data.first_chunk().copied()) else {
            return;
        };
        match (offset & 0xff, dword) {
            (offset::IOREGSEL, _) => self.lock().select = low,
            (offset::IOWIN, Some(dword)) => self.write_window(u32::from_le_bytes(dword)),
            (offset::EOI, _) => self.end_of_interrupt(low),
            // ICH9 §13.5.2: the window takes dwords only.
            _ => guest_error!(offset, "I/O APIC write of {} bytes ignored", data.len()),
        }
    }
}

impl Alarmed for IoApic {
    fn expired(&self, _: Nanos) {
        let pins = std::mem::take(&mut self.lock().throttled);
        self.service(pins);
    }
}

struct Pin {
    ioapic: Arc<IoApic>,
    pin: u8,
}

impl LineSink for Pin {
    fn set(&self, asserted: bool) {
        self.ioapic.set_level(self.pin, asserted);
    }
}

fn bits(mask: u32) -> impl Iterator<Item = u8> {
    (0..PINS).filter(move |pin| mask & 1 << pin != 0)
}
