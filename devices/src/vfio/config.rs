//! The config space that the guest sees of an assigned device.
//!
//! Three kinds of bits. The header with its BARs, power management, MSI and MSI-X are a
//! [`ConfigSpace`] of ours. Registers that only the device knows are read from it, and some
//! written, as a table of [`Patch`]es says. Capabilities that the guest must not have are
//! unlinked, and read as zero.
//!
//! The device itself always decodes memory and I/O and stays in D0: a BAR that is mapped into
//! the guest must never fault, not even while another vCPU turns it off. What the guest does
//! to those bits moves its windows and gates bus mastering. Its power state the device only
//! seems to change: asleep nothing of it answers, and when the guest wakes it, it is reset if
//! its No_Soft_Reset says that it would be. Interrupt Disable is the guest's, and set while it
//! believes the device asleep; what it means for the pin is the kernel's.
//!
//! The device's identity is what the kernel says it is: for a virtual function it fills in
//! what the hardware leaves at FFFFh.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use pci::{
    BarError, BarIndex, BarKind, Capability, Changes, ClassCode, Command, ConfigSpace, ConfigWrite,
    Ids, InBar, InterruptPin, Msi, Msix, PowerManagement, PowerState, Register,
};

use super::backend::{IrqKind, RegionId, VfioBackend};
use super::bars::{self, Bar};
use super::capabilities::{self, EXTENDED, FIRST, Found, Snapshot, id};
use super::patch::{self, Patch, Source};
use super::presentation::Presentation;
use super::quirks::clique;
use super::resizable::Resizable;
use super::rom::{Identity, Rom, RomError};
use super::rules::{self, Treatment};
use crate::guest_error;

const COMMAND: u16 = 0x04;
const HEADER_TYPE: u16 = 0x0e;
const POINTER: u16 = 0x34;
const INTERRUPT_LINE: u16 = 0x3c;
const INTERRUPT_PIN: u16 = 0x3d;

/// Why a device's config space cannot be shown to a guest.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read its config space")]
    Read(#[source] io::Error),
    /// All ones: the device has fallen off its bus.
    #[error("its config space reads as all ones: the device does not answer")]
    Absent,
    /// A bridge, or something stranger.
    #[error("it is no endpoint: its header is of type {0}")]
    NotEndpoint(u8),
    /// The file with its option ROM is no good.
    #[error(transparent)]
    Rom(#[from] RomError),
    /// A clique for something else than the one driver that looks for it.
    #[error("clique= is for NVIDIA's display adapters only")]
    NoCliques,
    /// The clique's capability has no place.
    #[error("clique= has no place in its config space: all that its driver looks at is taken")]
    NoPlaceForClique,
}

/// The config space of an assigned device.
pub(super) struct Config {
    pub space: ConfigSpace,
    patches: BTreeMap<u16, Patch>,
    resizable: Resizable,
    /// Where the pending bits of MSI are.
    msi_pending: Option<Register>,
    /// What the device's Command register holds.
    command: Option<Command>,
    has_io: bool,
}

impl Config {
    /// Reads the device's config space and lays out the guest's.
    pub fn new(
        backend: &dyn VfioBackend,
        presentation: &Presentation,
    ) -> Result<(Self, Vec<Bar>), ConfigError> {
        let device = read_all(backend).map_err(ConfigError::Read)?;
        if device.u16(0) == 0xffff {
            return Err(ConfigError::Absent);
        }
        let header = device.u8(HEADER_TYPE) & 0x7f;
        if header != 0 {
            return Err(ConfigError::NotEndpoint(header));
        }
        let bars = bars::find(backend, &device, presentation.no_mmap);
        let mut config = Self {
            space: ConfigSpace::endpoint(ids(&device)),
            patches: BTreeMap::from([(COMMAND, patch::STATUS)]),
            resizable: Resizable::default(),
            msi_pending: None,
            command: None,
            has_io: bars.iter().any(Bar::is_io),
        };
        if let Some(pin) = interrupt_pin(backend, &device) {
            config.space.set_interrupt_pin(pin);
        }
        let bars: Vec<_> = bars
            .into_iter()
            .filter(|bar| {
                let set = config.space.set_bar(bar.index, bar.kind, bar.size);
                if let Err(error) = &set {
                    tracing::warn!(bar = bar.index.0, %error, "a BAR is hidden from the guest");
                }
                set.is_ok()
            })
            .collect();
        let real = Device {
            backend,
            registers: &device,
            bars: &bars,
            presentation,
        };
        config.lay_capabilities(&real)?;
        config.lay_extended(&real);
        Ok((config, bars))
    }

    fn lay_capabilities(&mut self, real: &Device<'_>) -> Result<(), ConfigError> {
        let device = real.registers;
        let found = capabilities::capabilities(device);
        let mut kept = Vec::new();
        for &cap in &found {
            if self.lay(real, cap) {
                kept.push(cap.offset);
            }
        }
        let clique = self.lay_clique(real, &found)?;
        kept.extend(clique);
        let links = kept.iter().skip(1).copied().chain([0]);
        for (&at, next) in kept.iter().zip(links) {
            self.space.define_bits(at, 0xff00, u32::from(next) << 8);
        }
        let first = kept.first().copied().unwrap_or(0);
        self.space.define_bits(POINTER, 0xff, u32::from(first));
        let has_list = u32::from(first != 0) << 20;
        self.space.define_bits(COMMAND, 1 << 20, has_list);
        for at in (FIRST..EXTENDED).step_by(4) {
            let in_capability = |cap: &Found| {
                let len = length(device, cap).min(cap.room);
                (cap.offset..cap.offset + len).contains(&at)
            };
            let in_clique = clique.is_some_and(|c| (c..c + clique::LEN).contains(&at));
            if !in_clique && !found.iter().any(in_capability) {
                self.patches.insert(at, patch::device_specific(at));
            }
        }
        Ok(())
    }

    /// Lays the capability of the clique that the device is in, unlinked, and says where.
    fn lay_clique(
        &mut self,
        real: &Device<'_>,
        found: &[Found],
    ) -> Result<Option<u16>, ConfigError> {
        let Some(clique) = real.presentation.clique else {
            return Ok(None);
        };
        let device = real.registers;
        if !clique::applies_to(device.u16(0x00), device.u8(0x0b)) {
            return Err(ConfigError::NoCliques);
        }
        let is_free = |range: Range<u16>| {
            let mut taken = found
                .iter()
                .map(|cap| cap.offset..cap.offset + extent(device, cap));
            taken.all(|taken| taken.end <= range.start || range.end <= taken.start)
        };
        let at = clique::place(is_free).ok_or(ConfigError::NoPlaceForClique)?;
        for (offset, dword) in (at..).step_by(4).zip(clique.dwords()) {
            self.space.define(offset, dword, 0, 0);
        }
        Ok(Some(at))
    }

    /// Lays a capability in its place, unlinked; false if the guest is not to have it.
    fn lay(&mut self, real: &Device<'_>, cap: Found) -> bool {
        match real.treatment(rules::STANDARD, cap) {
            Treatment::Modelled => self.lay_model(real, cap),
            Treatment::Registers(table) => self.lay_table(cap, table(&real.source(cap))),
            Treatment::Hidden(_) => false,
        }
    }

    fn lay_model(&mut self, real: &Device<'_>, cap: Found) -> bool {
        let (backend, device) = (real.backend, real.registers);
        if length(device, &cap) > cap.room {
            return false;
        }
        let model = match cap.id {
            id::POWER_MANAGEMENT => Some(Capability::PowerManagement(power(real, cap.offset))),
            id::MSI => msi(backend, device, cap.offset).map(Capability::Msi),
            id::MSIX => msix(backend, device, real.bars, cap.offset).map(Capability::Msix),
            _ => None,
        };
        let Some(model) = model else { return false };
        // From 40h to fch: it fits in a byte.
        let laid = self.space.add_capability_at(cap.offset as u8, model);
        if laid.is_ok() && cap.id == id::MSI {
            self.msi_pending = pending_bits(device, cap.offset);
        }
        laid.is_ok()
    }

    /// Lays a table of patches from the capability's offset on, under its ID; false if there
    /// is nothing in it.
    fn lay_table(&mut self, cap: Found, table: Vec<Patch>) -> bool {
        let fits = |patch: &Patch| patch.offset < cap.room;
        let mut laid = false;
        for patch in table.into_iter().filter(fits) {
            let offset = cap.offset + patch.offset;
            let id = if patch.offset == 0 {
                u32::from(cap.id)
            } else {
                0
            };
            self.space.define(offset, patch.value | id, patch.own, 0);
            self.patches.insert(offset, Patch { offset, ..patch });
            laid = true;
        }
        laid
    }

    fn lay_extended_one(&mut self, real: &Device<'_>, cap: Found) -> bool {
        let laid = match real.treatment(rules::EXTENDED, cap) {
            Treatment::Modelled => {
                let laid = Resizable::lay(&mut self.space, real.registers, cap, real.bars);
                let some = laid.is_some();
                self.resizable = laid.unwrap_or_default();
                some
            }
            Treatment::Registers(table) => self.lay_table(cap, table(&real.source(cap))),
            Treatment::Hidden(_) => false,
        };
        if laid {
            let version = real.registers.u32(cap.offset) & 0x000f_0000;
            self.space.define_bits(cap.offset, 0x000f_0000, version);
        }
        laid
    }

    /// The extended list starts at 100h, whatever is there: where the device's first one is
    /// hidden, a null capability (PCIe 6.0 §7.9.28) leads on.
    fn lay_extended(&mut self, real: &Device<'_>) {
        let mut kept = Vec::new();
        for cap in capabilities::extended_capabilities(real.registers) {
            if self.lay_extended_one(real, cap) {
                kept.push(cap.offset);
            }
        }
        if kept.first().is_some_and(|&first| first != EXTENDED) {
            // It may come later in the list: then it is not at 100h by definition.
            kept.retain(|&at| at != EXTENDED);
            self.space.define(EXTENDED, 0, 0, 0);
            self.patches.remove(&EXTENDED);
            kept.insert(0, EXTENDED);
        }
        let links = kept.iter().skip(1).copied().chain([0]);
        for (&at, next) in kept.iter().zip(links) {
            let link = u32::from(next) << 20;
            self.space.define_bits(at, 0xfff0_0000, link);
        }
    }

    /// What the guest reads.
    pub fn read(&self, backend: &dyn VfioBackend, register: Register) -> u32 {
        let ours = self.space.read(register);
        match self.patches.get(&register.offset()) {
            Some(patch) if patch.device != 0 => {
                let device = read_register(backend, register.offset());
                ours & !patch.device | device & patch.device
            }
            _ => ours,
        }
    }

    /// Takes the guest's write. [`Changes::FUNCTION_RESET`] is an order still to be carried
    /// out.
    pub fn write(&mut self, backend: &dyn VfioBackend, write: ConfigWrite) -> Changes {
        let mut changes = self.space.write(write);
        if self.resizable.follow(&mut self.space, write.register()) {
            changes |= Changes::DECODE;
        }
        if let Some(patch) = self.patches.get(&write.register().offset()) {
            forward(backend, patch, write);
            if write.value() & patch.order != 0 {
                changes |= Changes::FUNCTION_RESET;
            }
        }
        self.follow_command(backend);
        changes
    }

    /// The write would change what the function decodes, or reset it.
    pub fn moves(&self, write: ConfigWrite) -> bool {
        let moving = Changes::DECODE | Changes::POWER | Changes::FUNCTION_RESET;
        let order = self.patches.get(&write.register().offset());
        self.space.clone().write(write).intersects(moving)
            || order.is_some_and(|patch| write.value() & patch.order != 0)
            || self.resizable.controls(write.register())
    }

    /// Where the guest sees the capability with this ID.
    pub fn find_capability(&self, id: u16) -> Option<u16> {
        let mut at = u16::from(self.space.get_u8(POINTER));
        // As many as there is room for.
        for _ in 0..(EXTENDED - FIRST) / 4 {
            if at < FIRST {
                return None;
            }
            if u16::from(self.space.get_u8(at)) == id {
                return Some(at);
            }
            at = u16::from(self.space.get_u8(at + 1));
        }
        None
    }

    /// Brings the device's Command register to what the guest's says. See the top of the
    /// file for what is not the guest's.
    pub fn follow_command(&mut self, backend: &dyn VfioBackend) {
        let guest = self.space.command();
        let mut command = Command(0);
        command.set_memory_space(true);
        command.set_io_space(self.has_io);
        command.set_interrupt_disable(self.mutes_intx());
        command.set_bus_master(self.space.is_bus_master());
        command.set_parity_error_response(guest.parity_error_response());
        command.set_serr(guest.serr());
        if self.command == Some(command) {
            return;
        }
        match backend.write(RegionId::Config, COMMAND.into(), &command.0.to_le_bytes()) {
            Ok(()) => self.command = Some(command),
            Err(error) => {
                // Tried again at the next write.
                self.command = None;
                guest_error!(%error, "the device's command register was not written");
            }
        }
    }

    /// Who the guest takes the device for.
    pub fn identity(&self) -> Identity {
        Identity {
            vendor: self.space.get_u16(0x00),
            device: self.space.get_u16(0x02),
        }
    }

    /// Gives the function a base address register for its option ROM.
    pub fn set_rom(&mut self, rom: &Rom) -> Result<(), BarError> {
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        self.space.set_bar(BarIndex::ROM, kind, rom.size())
    }

    /// The pin is to do nothing: there is none, or the guest has disabled it or believes the
    /// device asleep.
    pub fn mutes_intx(&self) -> bool {
        let awake = self.space.power_state() == PowerState::D0;
        self.space.interrupt_pin().is_none() || self.space.command().interrupt_disable() || !awake
    }

    /// Shows no interrupt pin to the guest, as what it raised would lead nowhere.
    pub fn hide_intx(&mut self, backend: &dyn VfioBackend) {
        self.space.define_bits(INTERRUPT_LINE, 0xff00, 0);
        self.follow_command(backend);
    }

    /// Lets the pending bits of MSI be read.
    pub fn show_msi_pending(&mut self, pending: u32) {
        if let Some(register) = self.msi_pending {
            self.space.put_u32(register.offset(), pending);
        }
    }

    /// The register is MSI's pending bits.
    pub fn is_msi_pending(&self, register: Register) -> bool {
        self.msi_pending == Some(register)
    }

    /// As after power-on; the device has just been reset. The kernel gave it back the Command
    /// register it had.
    pub fn reset(&mut self, backend: &dyn VfioBackend) {
        self.space.reset();
        self.resizable.reset(&mut self.space);
        self.command = None;
        self.follow_command(backend);
    }
}

/// The real device, while its config space is laid out.
struct Device<'a> {
    backend: &'a dyn VfioBackend,
    registers: &'a Snapshot,
    bars: &'a [Bar],
    presentation: &'a Presentation,
}

impl Device<'_> {
    fn treatment(&self, table: &'static [rules::Rule], cap: Found) -> Treatment {
        let rule = rules::rule(table, cap.id);
        let treatment = if self.presentation.hides(&rule) {
            Treatment::Hidden("the operator said so")
        } else {
            rule.treatment
        };
        if let Treatment::Hidden(why) = treatment {
            let name = rule.name;
            tracing::debug!(name, cap.id, cap.offset, why, "a capability is hidden");
        }
        treatment
    }

    fn source(&self, found: Found) -> Source<'_> {
        Source {
            found,
            device: self.registers,
            can_reset: self.backend.can_reset(),
            device_tlb: self.presentation.device_tlb,
        }
    }
}

/// Power management (PCIe 6.0 §7.5.2). A function that comes back from D3hot reset says so to
/// its guest, which is then given a reset; one that cannot be reset comes back as it was.
fn power(real: &Device<'_>, at: u16) -> PowerManagement {
    let control = pci::PowerControl(real.registers.u16(at + 4));
    PowerManagement {
        no_soft_reset: control.no_soft_reset() || !real.backend.can_reset(),
    }
}

/// Bytes of a capability; up to the next one where its ID does not tell.
pub(super) fn length(device: &Snapshot, cap: &Found) -> u16 {
    match cap.id {
        id::POWER_MANAGEMENT | id::VPD | id::SATA | id::ADVANCED_FEATURES => 8,
        id::MSIX => 12,
        // Control and the lower address, then what Message Control says (PCIe 6.0 §7.7.1).
        id::MSI => {
            let control = pci::MsiControl(device.u16(cap.offset + 2));
            12 + 4 * u16::from(control.wide()) + 8 * u16::from(control.maskable())
        }
        _ => cap.room,
    }
}

/// As [`length`], and also of the two that a GPU has before the place for its clique.
fn extent(device: &Snapshot, cap: &Found) -> u16 {
    const VENDOR: u16 = 0x09;
    const EXPRESS: u16 = 0x10;
    let third = device.u8(cap.offset + 2);
    match cap.id {
        // PCIe 6.0 §7.9.4: the third byte is the length of it all.
        VENDOR => u16::from(third).clamp(4, cap.room),
        // §7.5.3: the second version has all registers, whatever the function is.
        EXPRESS if third & 0xf >= 2 => 0x3c.min(cap.room),
        _ => length(device, cap).min(cap.room),
    }
}

fn ids(device: &Snapshot) -> Ids {
    Ids {
        vendor: device.u16(0x00),
        device: device.u16(0x02),
        revision: device.u8(0x08),
        class: ClassCode {
            base: device.u8(0x0b),
            sub: device.u8(0x0a),
            interface: device.u8(0x09),
        },
        subsystem_vendor: device.u16(0x2c),
        subsystem: device.u16(0x2e),
    }
}

/// The pin, if the kernel signals it.
fn interrupt_pin(backend: &dyn VfioBackend, device: &Snapshot) -> Option<InterruptPin> {
    let pin = device.u8(INTERRUPT_PIN);
    let exists = (1..=4).contains(&pin) && backend.irq(IrqKind::Intx).count > 0;
    exists.then(|| InterruptPin::from_index(pin - 1))
}

fn msi(backend: &dyn VfioBackend, device: &Snapshot, at: u16) -> Option<Msi> {
    let irqs = backend.irq(IrqKind::Msi).count.min(32) as u8;
    if irqs == 0 {
        return None;
    }
    let control = pci::MsiControl(device.u16(at + 2));
    let vectors = 1 << control.multiple_capable().min(5);
    // A power of two; of what the kernel has, the largest.
    let mut msi = Msi::new(vectors.min(1 << irqs.ilog2()));
    if !control.wide() {
        msi = msi.narrow();
    }
    if control.maskable() {
        msi = msi.maskable();
    }
    Some(msi)
}

/// The pending bits follow the mask bits, which follow the data (PCIe 6.0 §7.7.1). Without
/// masking there are none, and the next capability may be there.
fn pending_bits(device: &Snapshot, at: u16) -> Option<Register> {
    let control = pci::MsiControl(device.u16(at + 2));
    let offset = if control.wide() { 0x14 } else { 0x10 };
    control
        .maskable()
        .then(|| Register::containing(at + offset))
}

fn msix(backend: &dyn VfioBackend, device: &Snapshot, bars: &[Bar], at: u16) -> Option<Msix> {
    let irqs = backend.irq(IrqKind::Msix).count.min(2048) as u16;
    let size = pci::MsixControl(device.u16(at + 2)).table_size() + 1;
    let vectors = size.min(irqs);
    let place = |at| {
        let value = device.u32(at);
        InBar {
            bar: BarIndex((value & 7) as u8),
            offset: value & !7,
        }
    };
    let (table, pending) = (place(at + 4), place(at + 8));
    let fits = |place: InBar, len: u64| {
        bars.iter()
            .any(|bar| bar.index == place.bar && u64::from(place.offset) + len <= bar.size)
    };
    let apt = vectors > 0
        && fits(table, u64::from(vectors) * 16)
        && fits(pending, u64::from(vectors).div_ceil(64) * 8);
    if !apt {
        tracing::warn!(vectors, ?table, ?pending, "MSI-X is hidden from the guest");
    }
    apt.then(|| Msix::new(vectors, table, pending))
}

fn read_all(backend: &dyn VfioBackend) -> io::Result<Snapshot> {
    let size = backend.region(RegionId::Config).size.min(4096) as usize;
    let mut bytes = vec![0; size];
    for (at, dword) in (0..).step_by(4).zip(bytes.chunks_mut(4)) {
        backend.read(RegionId::Config, at, dword)?;
    }
    Ok(Snapshot(bytes))
}

/// A register of the device; all ones if it does not answer.
fn read_register(backend: &dyn VfioBackend, offset: u16) -> u32 {
    let mut bytes = [0; 4];
    match backend.read(RegionId::Config, offset.into(), &mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(error) => {
            guest_error!(%error, offset, "the device's config space does not answer");
            u32::MAX
        }
    }
}

/// Writes the bytes of `write` that have bits for the device, and no others: an unneeded
/// write may clear or start something.
fn forward(backend: &dyn VfioBackend, patch: &Patch, write: ConfigWrite) {
    let reached = (write.mask() & patch.write).to_le_bytes();
    if reached == [0; 4] {
        return;
    }
    let kept = !(patch.write | patch.zero);
    let current = if kept & write.mask() != 0 {
        read_register(backend, patch.offset)
    } else {
        0
    };
    let value = (write.value() & patch.write | current & kept).to_le_bytes();
    let mut at = 0;
    while let Some(skip) = reached.iter().skip(at).position(|&byte| byte != 0) {
        let start = at + skip;
        let run = reached.iter().skip(start).take_while(|&&byte| byte != 0);
        let end = start + run.count();
        let offset = u64::from(patch.offset) + start as u64;
        let bytes = value.get(start..end).unwrap_or_default();
        if let Err(error) = backend.write(RegionId::Config, offset, bytes) {
            guest_error!(%error, offset, "a write to the device's config space was lost");
        }
        at = end;
    }
}
