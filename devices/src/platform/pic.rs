//! The interrupt controllers of the PC/AT: two 8259A in cascade, with the edge/level control
//! registers of ICH9 (§13.4).
//!
//! The master's output goes to [`Intr`], which is LINT0 of the first local APIC and INTR of
//! the first processor; when that takes an interrupt, its thread calls
//! [`Pic::acknowledge`], the two INTA cycles in one.
//!
//! Not modelled: the 8080 mode (ICW4 bit 0 clear is taken as set), buffered mode, and
//! ICW1's level-triggered bit, which ICH9 replaces by ELCR.
//!
//! Reset: uninitialized, everything masked ([`Chip::power_on`]); the levels of the inputs
//! stay.

mod chip;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::chip::{Chip, Expects};
use super::ports::{BytePorts, FLOATING, PortRange};
use crate::irq::LineSink;
use chip::CASCADE;

/// ELCR bits that can be set: not the timer, keyboard and cascade, nor the RTC and the
/// FPU (ICH9 §13.4.10–11).
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// The INTR line to the processor.
pub trait Intr: Send + Sync {
    /// Drives it. Called with the controllers locked: it must not call them back.
    fn set(&self, asserted: bool);

    /// The guest may have served the devices of `irq` (0 to 15): it has ended its interrupt,
    /// or unmasked it. Called with no lock held: the time to ask devices.
    fn served(&self, irq: u8) {
        let _ = irq;
    }
}

/// The pair.
pub struct Pic {
    intr: Arc<dyn Intr>,
    pair: Mutex<Pair>,
}

/// What the pair is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PicState {
    /// The master: IRQ 0 to 7.
    pub master: Chip,
    /// The slave: IRQ 8 to 15.
    pub slave: Chip,
    /// INTR is asserted.
    pub intr: bool,
}

type Pair = PicState;

impl Pic {
    /// A pair as after power-on.
    pub fn new(intr: Arc<dyn Intr>) -> Self {
        Self {
            intr,
            pair: Mutex::new(Pair {
                master: Chip::power_on(),
                slave: Chip::power_on(),
                intr: false,
            }),
        }
    }

    /// The ports it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        [(0x20, 2), (0xa0, 2), (0x4d0, 2)]
            .map(|(first, len)| PortRange::new(self.clone(), first, len))
            .into()
    }

    /// The sink that drives `irq`, for one [`SharedLine`](super::wire::SharedLine) per IRQ.
    /// IRQ 2 is the cascade and cannot be driven; nor can what is above 15.
    pub fn irq(self: &Arc<Self>, irq: u8) -> Arc<dyn LineSink> {
        Arc::new(Input {
            pic: self.clone(),
            irq,
        })
    }

    /// Drives an IRQ.
    pub fn set_level(&self, irq: u8, asserted: bool) {
        if irq > 15 || irq == CASCADE {
            return;
        }
        self.change(|pair| pair.chip(irq >> 3).set_line(irq & 7, asserted));
    }

    /// The processor acknowledges: gives the vector, or `None` if INTR has gone meanwhile.
    pub fn acknowledge(&self) -> Option<u8> {
        let (irq, vector, ended) = self.change(|pair| {
            let (irq, vector) = pair.intr.then(|| pair.inta())?;
            Some((irq, vector, pair.chip(irq >> 3).auto_eoi))
        })?;
        if ended {
            self.intr.served(irq);
        }
        Some(vector)
    }

    /// Tells of inputs that the guest may have served by `action`.
    fn serve<T>(&self, action: impl FnOnce(&mut Pair) -> T) -> T {
        let (result, served) = self.change(|pair| {
            let before = [pair.master.clone(), pair.slave.clone()];
            let result = action(pair);
            let served = pair.master.served_since(&before[0]);
            (result, [served, pair.slave.served_since(&before[1])])
        });
        let served = u16::from_le_bytes(served);
        for irq in (0..16).filter(|irq| served & 1 << irq != 0) {
            self.intr.served(irq);
        }
        result
    }

    /// INTR as it is now.
    pub fn is_asserted(&self) -> bool {
        self.lock().intr
    }

    /// Power-on state; inputs keep their levels.
    pub fn reset(&self) {
        self.change(|pair| {
            for chip in [&mut pair.master, &mut pair.slave] {
                *chip = Chip {
                    lines: chip.lines,
                    ..Chip::power_on()
                };
            }
        });
    }

    /// Its state.
    pub fn state(&self) -> PicState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Pair> {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the pair, then lets cascade and INTR follow.
    fn change<T>(&self, action: impl FnOnce(&mut Pair) -> T) -> T {
        let mut pair = self.lock();
        let result = action(&mut pair);
        let asserted = pair.settle();
        if pair.intr != asserted {
            pair.intr = asserted;
            self.intr.set(asserted);
        }
        result
    }
}

impl Pair {
    fn chip(&mut self, which: u8) -> &mut Chip {
        if which == 0 {
            &mut self.master
        } else {
            &mut self.slave
        }
    }

    fn settle(&mut self) -> bool {
        let cascade = self.slave.interrupt(false).is_some();
        self.master.set_cascade(cascade);
        self.master.interrupt(true).is_some()
    }

    /// The INTA cycles: the IRQ and its vector. With nothing to acknowledge a chip gives its
    /// input 7 and puts nothing in service: the spurious interrupts 7 and 15.
    fn inta(&mut self) -> (u8, u8) {
        let Some(input) = self.master.interrupt(true) else {
            return (7, self.master.vector(7));
        };
        self.master.acknowledge(input);
        if input != CASCADE {
            return (input, self.master.vector(input));
        }
        let Some(input) = self.slave.interrupt(false) else {
            return (15, self.slave.vector(7));
        };
        self.slave.acknowledge(input);
        (8 + input, self.slave.vector(input))
    }

    /// A read of a command port: of a register, or the poll that OCW3 asked for, which
    /// acknowledges like an INTA.
    fn read_command(&mut self, which: u8) -> u8 {
        let chip = self.chip(which);
        if !std::mem::take(&mut chip.poll) {
            return chip.read_command();
        }
        match chip.interrupt(which == 0) {
            Some(input) => {
                chip.acknowledge(input);
                0x80 | input
            }
            None => 0,
        }
    }
}

impl BytePorts for Pic {
    fn read_port(&self, port: u16) -> u8 {
        match port {
            0x20 => self.change(|pair| pair.read_command(0)),
            0xa0 => self.change(|pair| pair.read_command(1)),
            0x21 => self.lock().master.mask,
            0xa1 => self.lock().slave.mask,
            0x4d0 => self.lock().master.level_triggered,
            0x4d1 => self.lock().slave.level_triggered,
            _ => FLOATING,
        }
    }

    fn write_port(&self, port: u16, value: u8) {
        self.serve(|pair| match port {
            0x20 => pair.master.write_command(value),
            0x21 => pair.master.write_data(value),
            0xa0 => pair.slave.write_command(value),
            0xa1 => pair.slave.write_data(value),
            0x4d0 => pair.master.set_level_triggered(value & ELCR_MASK[0]),
            0x4d1 => pair.slave.set_level_triggered(value & ELCR_MASK[1]),
            _ => {}
        });
    }
}

struct Input {
    pic: Arc<Pic>,
    irq: u8,
}

impl LineSink for Input {
    fn set(&self, asserted: bool) {
        self.pic.set_level(self.irq, asserted);
    }
}
