//! A function's config space (PCIe 6.0 §7.5.1): bytes, masks, and the rules that tie
//! registers to each other.
//!
//! A guest's write goes through the masks, then each capability settles what it means,
//! and the effects are found by comparing the function before and after: what moved,
//! what was enabled, what was masked.
//!
//! **Reset.** [`ConfigSpace::reset`] is a cold reset: every register takes the value it
//! was defined with. Nothing survives but the layout (BARs, capabilities, identities).
//! A function-level reset, or D3hot to D0 without No_Soft_Reset, does the same except
//! for the link registers and Max_Payload_Size, which belong to the link (§6.6.2).

mod bar;
mod image;
#[cfg(test)]
mod tests;

pub use bar::{BarError, BarKind};

pub(crate) use bar::Bar;
pub(crate) use image::Image;

use crate::capability::{Effect, Linked};
use crate::registers::offset;
use crate::{
    BarIndex, Capability, CapabilityError, Changes, Command, ConfigWrite, ExtendedCapability, Msi,
    MsiMessage, Msix, PowerState, Register, Status, Window,
};

/// What a function says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class Code.
    pub class: ClassCode,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// Class Code (§7.5.1.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ClassCode {
    /// Base class.
    pub base: u8,
    /// Sub-class.
    pub sub: u8,
    /// Programming interface.
    pub interface: u8,
}

/// A legacy interrupt pin (§7.5.1.1.13).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub enum InterruptPin {
    /// INTA#.
    IntA,
    /// INTB#.
    IntB,
    /// INTC#.
    IntC,
    /// INTD#.
    IntD,
}

impl InterruptPin {
    /// 0 for INTA# to 3 for INTD#.
    pub const fn index(self) -> u8 {
        self as u8
    }

    /// The pin with this index, modulo four.
    pub const fn from_index(index: u8) -> Self {
        match index & 3 {
            0 => Self::IntA,
            1 => Self::IntB,
            2 => Self::IntC,
            _ => Self::IntD,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    Endpoint,
    Bridge,
}

/// One function's config space.
#[derive(Clone)]
pub struct ConfigSpace {
    image: Image,
    header: Header,
    bars: [Option<Bar>; 7],
    capabilities: Vec<Linked>,
    last_extended: Option<u16>,
}

/// What of a function others act upon; the difference of two is a [`Changes`].
#[derive(PartialEq)]
struct View {
    windows: [Option<Window>; 7],
    bus_master: bool,
    intx_allowed: bool,
    msi: Option<Msi>,
    msix: Option<Msix>,
    power: PowerState,
}

impl ConfigSpace {
    /// A type 0 header. The I/O, memory and bus master enables, parity and SERR responses
    /// and interrupt disable can be written; [`Self::set_command`] says otherwise.
    pub fn endpoint(ids: Ids) -> Self {
        let mut space = Self::header(ids, Header::Endpoint);
        let subsystem = u32::from(ids.subsystem) << 16 | u32::from(ids.subsystem_vendor);
        space.define(offset::SUBSYSTEM, subsystem, 0, 0);
        space
    }

    /// A type 1 header, without bridge registers: those are [`crate::PciBridge`]'s.
    pub(crate) fn bridge(ids: Ids) -> Self {
        let mut space = Self::header(ids, Header::Bridge);
        space.define_bits(offset::CACHE_LINE, 0x007f_0000, 0x0001_0000);
        space
    }

    fn header(ids: Ids, header: Header) -> Self {
        let mut space = Self {
            image: Image::new(),
            header,
            bars: [None; 7],
            capabilities: Vec::new(),
            last_extended: None,
        };
        for dword in (0..offset::DEVICE_SPECIFIC).step_by(4) {
            space.define(dword, 0, 0, 0);
        }
        let id = u32::from(ids.device) << 16 | u32::from(ids.vendor);
        space.define(offset::VENDOR_ID, id, 0, 0);
        let writable = u32::from(Command::WRITABLE.0);
        let clearable = u32::from(Status::CLEARABLE.0) << 16;
        space.define(offset::COMMAND, 0, writable, clearable);
        let ClassCode {
            base,
            sub,
            interface,
        } = ids.class;
        let class = u32::from_le_bytes([ids.revision, interface, sub, base]);
        space.define(offset::REVISION, class, 0, 0);
        // Cache Line Size is kept for old software and does nothing.
        space.define(offset::CACHE_LINE, 0, 0xff, 0);
        space.define(offset::INTERRUPT_LINE, 0, 0xff, 0);
        space
    }

    /// Gives the function a base address register or, as [`BarIndex::ROM`], an expansion
    /// ROM. `size` is a power of two. For construction.
    pub fn set_bar(&mut self, index: BarIndex, kind: BarKind, size: u64) -> Result<(), BarError> {
        let (count, rom) = match self.header {
            Header::Endpoint => (6, offset::ROM_ENDPOINT),
            Header::Bridge => (2, offset::ROM_BRIDGE),
        };
        let wide = matches!(kind, BarKind::Memory64 { .. });
        let at = match index {
            BarIndex::ROM => rom,
            BarIndex(n) if n.saturating_add(u8::from(wide)) < count => {
                offset::BAR0 + 4 * u16::from(n)
            }
            BarIndex(n) => return Err(BarError::NoSuchBar(n)),
        };
        let bar = Bar::new(index, kind, size, Register::containing(at))?;
        let taken = |n: u8| {
            self.bars.iter().flatten().any(|b| {
                b.index.0 == n || (b.is_wide() && b.index.0 + 1 == n && n != BarIndex::ROM.0)
            })
        };
        let upper = if wide { index.0 + 1 } else { index.0 };
        if let Some(n) = (index.0..=upper).find(|&n| taken(n)) {
            return Err(BarError::InUse(n));
        }
        bar.define(&mut self.image);
        self.bars[usize::from(index.0)] = Some(bar);
        Ok(())
    }

    /// Changes the size of a base address register that is no ROM's, as Resizable BAR does
    /// (§7.8.6.3).
    pub fn resize_bar(&mut self, index: BarIndex, size: u64) -> Result<(), BarError> {
        let slot = self.bars.get_mut(usize::from(index.0));
        let bar = slot
            .and_then(Option::as_mut)
            .filter(|bar| bar.index != BarIndex::ROM)
            .ok_or(BarError::NoSuchBar(index.0))?;
        *bar = Bar::new(index, bar.kind, size, bar.register)?;
        bar.resize(&mut self.image);
        Ok(())
    }

    /// The kind and size of a base address register.
    pub fn bar(&self, index: BarIndex) -> Option<(BarKind, u64)> {
        let bar = self.bars.get(usize::from(index.0))?.as_ref()?;
        Some((bar.kind, bar.size))
    }

    /// The legacy interrupt that the function uses. For construction.
    pub fn set_interrupt_pin(&mut self, pin: InterruptPin) {
        let value = u32::from(pin.index() + 1) << 8;
        self.define_bits(offset::INTERRUPT_LINE, 0xff00, value);
    }

    /// The legacy interrupt that the function uses, if any.
    pub fn interrupt_pin(&self) -> Option<InterruptPin> {
        match self.get_u8(offset::INTERRUPT_PIN) {
            n @ 1..=4 => Some(InterruptPin::from_index(n - 1)),
            _ => None,
        }
    }

    /// The Multi-Function Device bit. A [`crate::Topology`] tells it by itself from what
    /// sits in the slot.
    pub fn set_multi_function(&mut self, on: bool) {
        self.define_bits(offset::CACHE_LINE, 1 << 23, u32::from(on) << 23);
    }

    /// The Command register at reset, and which of its bits software writes, for functions
    /// that hardwire some.
    pub fn set_command(&mut self, at_reset: Command, writable: Command) {
        let register = Register::containing(offset::COMMAND);
        let writable = u32::from(writable.0);
        self.image.set_writable(register, 0xffff, writable);
        self.define_bits(offset::COMMAND, 0xffff, u32::from(at_reset.0));
    }

    /// A device-specific register: the dword at `offset`, its value now and at reset, the
    /// bits that software writes and those it clears by writing ones.
    pub fn define(&mut self, offset: u16, value: u32, write_mask: u32, w1c_mask: u32) {
        let register = Register::containing(offset);
        self.image.define(register, value, write_mask, w1c_mask);
        self.refresh();
    }

    /// Changes `mask` of the dword at `offset` to `value`, now and at reset, and leaves
    /// what software can write.
    pub fn define_bits(&mut self, offset: u16, mask: u32, value: u32) {
        self.image
            .define_bits(Register::containing(offset), mask, value);
        self.refresh();
    }

    /// Puts a capability at the first place from 40h that is free, and links it as
    /// the last. Returns its offset. For construction.
    pub fn add_capability(&mut self, capability: Capability) -> Result<u8, CapabilityError> {
        let dwords = capability.dwords().len();
        let at = self
            .image
            .find_free(dwords, offset::DEVICE_SPECIFIC, offset::EXTENDED)
            .ok_or(CapabilityError::NoRoom)?;
        self.add_capability_at(at as u8, capability)
    }

    /// As [`Self::add_capability`], at a place of the caller's: a multiple of four from 40h.
    pub fn add_capability_at(
        &mut self,
        at: u8,
        capability: Capability,
    ) -> Result<u8, CapabilityError> {
        let dwords = capability.dwords();
        let place = u16::from(at);
        let apt = place % 4 == 0 && place >= offset::DEVICE_SPECIFIC;
        if !apt || !self.image.is_free(place, dwords.len(), offset::EXTENDED) {
            return Err(CapabilityError::Overlap(place));
        }
        for (i, dword) in dwords.iter().enumerate() {
            let register = Register::containing(place + 4 * i as u16);
            let id = if i == 0 {
                u32::from(capability.id())
            } else {
                0
            };
            self.image
                .define(register, dword.value | id, dword.writable, dword.clearable);
        }
        match self.capabilities.last() {
            Some(last) => self.image.define_bits(
                Register::containing(last.offset),
                0xff00,
                u32::from(place) << 8,
            ),
            None => {
                self.define_bits(offset::CAPABILITIES, 0xff, u32::from(place));
                self.define_bits(offset::COMMAND, 1 << 20, 1 << 20);
            }
        }
        self.capabilities.push(Linked {
            offset: place,
            dwords: dwords.len() as u16,
            capability,
        });
        self.refresh();
        Ok(at)
    }

    /// Puts an extended capability at the first free place from 100h and links it as the
    /// last. Returns its offset. For construction.
    pub fn add_extended_capability(
        &mut self,
        capability: &ExtendedCapability,
    ) -> Result<u16, CapabilityError> {
        let dwords = capability.dwords();
        // The list starts at 100h, always (§7.6.2).
        let place = match self.last_extended {
            None if self
                .image
                .is_free(offset::EXTENDED, dwords.len(), offset::END) =>
            {
                Some(offset::EXTENDED)
            }
            None => return Err(CapabilityError::Overlap(offset::EXTENDED)),
            Some(_) => self
                .image
                .find_free(dwords.len(), offset::EXTENDED, offset::END),
        }
        .ok_or(CapabilityError::NoRoom)?;
        for (i, dword) in dwords.iter().enumerate() {
            let register = Register::containing(place + 4 * i as u16);
            self.image
                .define(register, dword.value, dword.writable, dword.clearable);
        }
        if let Some(last) = self.last_extended.replace(place) {
            let next = u32::from(place) << 20;
            self.image
                .define_bits(Register::containing(last), 0xfff0_0000, next);
        }
        Ok(place)
    }

    /// What the guest reads.
    pub fn read(&self, register: Register) -> u32 {
        self.image.get(register)
    }

    /// Takes what the guest writes and says what it changed.
    pub fn write(&mut self, write: ConfigWrite) -> Changes {
        let before = self.view();
        let old = self.image.get(write.register());
        self.image.write(write);
        let effect = self.settle(write, old);
        self.refresh();
        let mut changes = before.changes_to(&self.view());
        if effect == Effect::FunctionReset {
            changes |= Changes::FUNCTION_RESET;
        }
        changes
    }

    fn settle(&mut self, write: ConfigWrite, old: u32) -> Effect {
        let image = &mut self.image;
        let effect = self
            .capabilities
            .iter()
            .find(|linked| linked.holds(write.register()))
            .map_or(Effect::Plain, |linked| linked.settle(image, write, old));
        if effect == Effect::FunctionReset {
            self.function_reset();
        }
        effect
    }

    /// The function's own reset: everything but what belongs to its link.
    fn function_reset(&mut self) {
        let kept = self
            .capabilities
            .iter()
            .find_map(Linked::link_registers)
            .map(|registers| registers.map(|(r, mask)| (r, mask, self.image.get(r))));
        self.image.reset();
        for (register, mask, value) in kept.into_iter().flatten() {
            let reset = self.image.get(register);
            self.image.put(register, reset & !mask | value & mask);
        }
    }

    fn refresh(&mut self) {
        for linked in &mut self.capabilities {
            linked.refresh(&mut self.image);
        }
    }

    fn view(&self) -> View {
        View {
            windows: self.window_slots(),
            bus_master: self.is_bus_master(),
            intx_allowed: self.intx_allowed(),
            msi: self.msi().copied(),
            msix: self.msix().copied(),
            power: self.power_state(),
        }
    }

    fn window_slots(&self) -> [Option<Window>; 7] {
        if self.power_state() != PowerState::D0 {
            return [None; 7];
        }
        let command = self.command();
        self.bars
            .map(|bar| bar.and_then(|bar| bar.window(&self.image, command)))
    }

    /// The ranges decoded now: enabled, in D0, programmed, and not in the midst of being
    /// sized.
    pub fn windows(&self) -> Vec<Window> {
        self.window_slots().into_iter().flatten().collect()
    }

    /// The Command register.
    pub fn command(&self) -> Command {
        Command(self.get_u16(offset::COMMAND))
    }

    /// The Status register.
    pub fn status(&self) -> Status {
        Status(self.get_u16(offset::STATUS))
    }

    /// Bus Master Enable, in D0: the function may read and write memory and send messages.
    pub fn is_bus_master(&self) -> bool {
        self.command().bus_master() && self.power_state() == PowerState::D0
    }

    /// The power state; D0 for a function without power management.
    pub fn power_state(&self) -> PowerState {
        self.capabilities
            .iter()
            .find_map(|linked| linked.power_state(&self.image))
            .unwrap_or(PowerState::D0)
    }

    /// Sets Interrupt Status: the function has an INTx interrupt pending, whether or not it
    /// may drive the wire. See [`Self::intx`].
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let mut status = self.status();
        status.set_interrupt(asserted);
        self.image.put_u16(offset::STATUS, status.0);
    }

    /// What the INTx wire should be: an interrupt is pending, the function is in D0, INTx
    /// is not disabled, and neither MSI nor MSI-X has taken its place (§5.3.1.4.1,
    /// §7.7.1.2, §7.7.2.2).
    pub fn intx(&self) -> bool {
        self.status().interrupt() && self.intx_allowed()
    }

    fn intx_allowed(&self) -> bool {
        !self.command().interrupt_disable()
            && self.power_state() == PowerState::D0
            && !self.msi().is_some_and(Msi::enabled)
            && !self.msix().is_some_and(Msix::enabled)
    }

    /// The state of the MSI capability, if there is one.
    pub fn msi(&self) -> Option<&Msi> {
        self.capabilities.iter().find_map(|l| match &l.capability {
            Capability::Msi(msi) => Some(msi),
            _ => None,
        })
    }

    /// The state of the MSI-X capability, if there is one.
    pub fn msix(&self) -> Option<&Msix> {
        self.capabilities.iter().find_map(|l| match &l.capability {
            Capability::Msix(msix) => Some(msix),
            _ => None,
        })
    }

    /// An interrupt on an MSI vector: the message to send now, if any. A masked one is
    /// noted as pending.
    pub fn signal_msi(&mut self, vector: u8) -> Option<MsiMessage> {
        self.with_msi(|msi| msi.signal(vector))
    }

    /// Takes one pending MSI vector that is no longer masked. To be called until it gives
    /// nothing, whenever [`Changes::INTERRUPTS`] comes back.
    pub fn next_pending_msi(&mut self) -> Option<MsiMessage> {
        self.with_msi(Msi::next_pending)
    }

    fn with_msi(&mut self, act: impl Fn(&mut Msi) -> Option<MsiMessage>) -> Option<MsiMessage> {
        let image = &mut self.image;
        self.capabilities.iter_mut().find_map(|linked| {
            let Capability::Msi(msi) = &mut linked.capability else {
                return None;
            };
            let message = act(msi);
            msi.store_pending(image, linked.offset);
            message
        })
    }

    /// A byte, as the device sees it.
    pub fn get_u8(&self, offset: u16) -> u8 {
        self.image.get_u8(offset)
    }

    /// Two bytes, as the device sees them.
    pub fn get_u16(&self, offset: u16) -> u16 {
        self.image.get_u16(offset)
    }

    /// The dword that holds `offset`, as the device sees it.
    pub fn get_u32(&self, offset: u16) -> u32 {
        self.image.get(Register::containing(offset))
    }

    /// The device's own write of a byte; masks do not apply. Lost at reset.
    pub fn put_u8(&mut self, offset: u16, value: u8) {
        self.image.put_u8(offset, value);
        self.refresh();
    }

    /// The device's own write of two bytes; masks do not apply. Lost at reset.
    pub fn put_u16(&mut self, offset: u16, value: u16) {
        self.image.put_u16(offset, value);
        self.refresh();
    }

    /// The device's own write of the dword that holds `offset`; masks do not apply. Lost at
    /// reset.
    pub fn put_u32(&mut self, offset: u16, value: u32) {
        self.image.put(Register::containing(offset), value);
        self.refresh();
    }

    /// Cold reset: every register as it was defined.
    pub fn reset(&mut self) {
        self.image.reset();
        self.refresh();
    }

    /// The space as data.
    pub fn state(&self) -> ConfigSpaceState {
        ConfigSpaceState {
            command: self.command(),
            status: self.status(),
            power: self.power_state(),
            windows: self.windows(),
            msi: self.msi().copied(),
            msix: self.msix().copied(),
            registers: self.image.dump(),
        }
    }
}

impl View {
    fn changes_to(&self, after: &Self) -> Changes {
        let mut changes = Changes::empty();
        changes.set(Changes::DECODE, self.windows != after.windows);
        changes.set(Changes::BUS_MASTER, self.bus_master != after.bus_master);
        changes.set(Changes::POWER, self.power != after.power);
        let interrupts = self.intx_allowed != after.intx_allowed
            || self.msi != after.msi
            || self.msix != after.msix;
        changes.set(Changes::INTERRUPTS, interrupts);
        changes
    }
}

/// A [`ConfigSpace`] as data.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ConfigSpaceState {
    /// Command register.
    pub command: Command,
    /// Status register.
    pub status: Status,
    /// Power state.
    pub power: PowerState,
    /// What it decodes.
    pub windows: Vec<Window>,
    /// MSI, if it has it.
    pub msi: Option<Msi>,
    /// MSI-X, if it has it.
    pub msix: Option<Msix>,
    /// The registers, as dwords from offset 0.
    pub registers: Vec<u32>,
}
