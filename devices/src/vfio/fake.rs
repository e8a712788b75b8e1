//! A device and an interrupt router for tests, which behave as the kernel's do and fail on
//! demand.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use pci::{BarIndex, Bdf, MsiMessage};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backend::{
    Affected, IrqInfo, IrqKind, PAGE, RegionId, RegionInfo, ResetMethod, TriggerError, VfioBackend,
};
use crate::bus::Mapping;
use crate::irq::{LevelInput, LevelRoute, MsiRoute, MsiRoutes, Resample, RouteError};

/// What was asked of the device, other than reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Write(RegionId, u64, Vec<u8>),
    Map(RegionId, Range<u64>),
    /// Start, and for each vector whether it signals anything.
    Triggers(IrqKind, u32, Vec<bool>),
    Disable(IrqKind),
    /// Of INTx, by a call.
    Unmask,
    UnmaskEvent,
    Reset,
    HotReset,
}

#[derive(Default)]
struct Hardware {
    config: Vec<u8>,
    bars: BTreeMap<u8, Vec<u8>>,
    enabled: Option<IrqKind>,
    triggers: Vec<Option<EventFd>>,
    pin: Pin,
    /// Armed error and request events.
    armed: BTreeMap<IrqKind, EventFd>,
    calls: Vec<Call>,
    rom: Vec<u8>,
    /// Calls of any kind, reads too, so far.
    count: usize,
    fail_at: Option<usize>,
    dead: bool,
}

/// The interrupt pin, as vfio-pci has it.
#[derive(Default)]
struct Pin {
    asserted: bool,
    /// By the kernel, since it signalled the trigger.
    masked: bool,
    /// The event that unmasks it.
    unmask: Option<EventFd>,
}

/// The bytes of a dump as `lspci -xxxx` prints it; lines that are missing are zero, and what
/// is no line of a dump is passed over.
pub fn parse_dump(dump: &str) -> Vec<u8> {
    let mut config = vec![0; 4096];
    for line in dump.lines() {
        let Some((offset, bytes)) = line.split_once(": ") else {
            continue;
        };
        let Ok(offset) = usize::from_str_radix(offset, 16) else {
            continue;
        };
        for (at, byte) in bytes.split_whitespace().enumerate() {
            config[offset + at] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    config
}

/// A device made from a dump of its config space.
pub struct FakeBackend {
    hardware: Mutex<Hardware>,
    pub regions: BTreeMap<u8, RegionInfo>,
    pub intx: IrqInfo,
    /// The kernel listens to unmask events.
    pub hears_unmask: bool,
    pub msi: IrqInfo,
    pub msix: IrqInfo,
    /// It signals errors and requests.
    pub announces: bool,
    /// Vectors that the host has to give.
    pub host_vectors: usize,
    pub can_reset: bool,
    pub reset_method: Option<ResetMethod>,
    /// What shares its bus, itself included; `None` if the bus cannot be reset.
    pub bus: Option<Vec<Affected>>,
    pub mapped: Arc<Mutex<usize>>,
}

impl FakeBackend {
    /// `dump` is for [`parse_dump`]. Each of `bars` has its index, its size, and whether it can be mapped.
    pub fn new(dump: &str, bars: &[(u8, u64, bool)]) -> Self {
        let config = parse_dump(dump);
        let info = |size: u64, mappable: bool| RegionInfo {
            size,
            readable: true,
            writable: true,
            mappable: mappable
                .then_some(0..size.next_multiple_of(PAGE))
                .into_iter()
                .collect(),
        };
        Self {
            hardware: Mutex::new(Hardware {
                config,
                bars: bars.iter().map(|b| (b.0, vec![0; b.1 as usize])).collect(),
                ..Default::default()
            }),
            regions: bars.iter().map(|b| (b.0, info(b.1, b.2))).collect(),
            intx: IrqInfo::default(),
            hears_unmask: true,
            msi: IrqInfo::default(),
            msix: IrqInfo::default(),
            announces: true,
            host_vectors: 4096,
            can_reset: true,
            reset_method: Some(ResetMethod::Flr),
            bus: None,
            mapped: Arc::default(),
        }
    }

    /// Gives the device a BAR that can be mapped and has nothing behind it, however large.
    pub fn add_hollow_bar(&mut self, bar: u8, size: u64) {
        let info = RegionInfo {
            size,
            readable: true,
            writable: true,
            mappable: std::iter::once(0..size).collect(),
        };
        self.regions.insert(bar, info);
    }

    fn hardware(&self) -> MutexGuard<'_, Hardware> {
        self.hardware.lock().unwrap()
    }

    /// The device interrupts. False if it keeps that in its own pending bit.
    pub fn fire(&self, vector: usize) -> bool {
        let hardware = self.hardware();
        let trigger = hardware.triggers.get(vector).and_then(Option::as_ref);
        trigger.is_some_and(|event| event.write(1).is_ok())
    }

    /// The device asserts its interrupt pin, or lets go.
    pub fn set_pin(&self, asserted: bool) {
        let mut hardware = self.hardware();
        hardware.pin.asserted = asserted;
        hardware.raise_pin();
    }

    /// What the kernel does by itself: it takes notice of the unmask event. True if there was
    /// one.
    pub fn hear_unmask(&self) -> bool {
        let mut hardware = self.hardware();
        let unmask = hardware.pin.unmask.as_ref();
        let heard = unmask.is_some_and(|event| event.read().is_ok());
        if heard {
            hardware.unmask_pin();
        }
        heard
    }

    /// The host reports an error, or wants the device back. False if nobody is told.
    pub fn announce(&self, kind: IrqKind) -> bool {
        let hardware = self.hardware();
        let armed = hardware.armed.get(&kind);
        armed.is_some_and(|event| event.write(1).is_ok())
    }

    /// The kind that is enabled, and how many vectors.
    pub fn enabled(&self) -> Option<(IrqKind, usize)> {
        let hardware = self.hardware();
        hardware.enabled.map(|kind| (kind, hardware.triggers.len()))
    }

    /// What was asked since the last time.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.hardware().calls)
    }

    /// From now on the call with this number fails, counted from 0, and no other.
    pub fn fail_at(&self, number: usize) {
        let mut hardware = self.hardware();
        hardware.count = 0;
        hardware.fail_at = Some(number);
    }

    /// True if a call has failed because of [`Self::fail_at`].
    pub fn has_failed(&self) -> bool {
        let hardware = self.hardware();
        hardware.fail_at.is_some_and(|at| hardware.count > at)
    }

    /// From now on every call fails, or none.
    pub fn set_dead(&self, dead: bool) {
        self.hardware().dead = dead;
    }

    pub fn config_u16(&self, offset: usize) -> u16 {
        let hardware = self.hardware();
        u16::from_le_bytes([hardware.config[offset], hardware.config[offset + 1]])
    }

    pub fn poke_config(&self, offset: usize, bytes: &[u8]) {
        self.hardware().config[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Gives the device an option ROM.
    pub fn set_rom(&self, image: &[u8]) {
        self.hardware().rom = image.to_vec();
    }

    pub fn poke_bar(&self, bar: u8, offset: usize, bytes: &[u8]) {
        let mut hardware = self.hardware();
        let memory = hardware.bars.get_mut(&bar).unwrap();
        memory[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub fn peek_bar(&self, bar: u8, offset: usize, len: usize) -> Vec<u8> {
        self.hardware().bars[&bar][offset..offset + len].to_vec()
    }
}

impl Hardware {
    fn call(&mut self, call: Option<Call>) -> io::Result<()> {
        self.calls.extend(call);
        let number = self.count;
        self.count += 1;
        if self.dead || self.fail_at == Some(number) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        Ok(())
    }

    /// Interrupt Disable, which the kernel virtualises.
    fn pin_disabled(&self) -> bool {
        self.config[5] & 0x04 != 0
    }

    fn raise_pin(&mut self) {
        let ready = self.enabled == Some(IrqKind::Intx) && !self.pin.masked;
        if ready && self.pin.asserted && !self.pin_disabled() {
            self.pin.masked = true;
            if let Some(Some(trigger)) = self.triggers.first() {
                trigger.write(1).unwrap();
            }
        }
    }

    fn unmask_pin(&mut self) {
        if !self.pin_disabled() {
            self.pin.masked = false;
            self.raise_pin();
        }
    }

    fn bytes(&mut self, region: RegionId, offset: u64, len: usize) -> io::Result<&mut [u8]> {
        let memory = match region {
            RegionId::Config => Some(&mut self.config),
            RegionId::Rom => Some(&mut self.rom),
            RegionId::Bar(BarIndex(n)) => self.bars.get_mut(&n),
        };
        let range = offset as usize..offset as usize + len;
        memory
            .and_then(|memory| memory.get_mut(range))
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl VfioBackend for FakeBackend {
    fn region(&self, region: RegionId) -> RegionInfo {
        match region {
            RegionId::Config => RegionInfo {
                size: self.hardware().config.len() as u64,
                ..Default::default()
            },
            RegionId::Rom => RegionInfo {
                size: self.hardware().rom.len() as u64,
                readable: true,
                ..Default::default()
            },
            RegionId::Bar(BarIndex(n)) => self.regions.get(&n).cloned().unwrap_or_default(),
        }
    }

    fn irq(&self, kind: IrqKind) -> IrqInfo {
        match kind {
            IrqKind::Intx => self.intx,
            IrqKind::Msi => self.msi,
            IrqKind::Msix => self.msix,
            IrqKind::Error | IrqKind::Request => IrqInfo {
                count: self.announces.into(),
                growable: true,
            },
        }
    }

    fn read(&self, region: RegionId, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let mut hardware = self.hardware();
        hardware.call(None)?;
        data.copy_from_slice(hardware.bytes(region, offset, data.len())?);
        Ok(())
    }

    fn write(&self, region: RegionId, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut hardware = self.hardware();
        hardware.call(Some(Call::Write(region, offset, data.to_vec())))?;
        let disabled = hardware.pin_disabled();
        hardware
            .bytes(region, offset, data.len())?
            .copy_from_slice(data);
        if disabled && !hardware.pin_disabled() {
            hardware.unmask_pin();
        }
        Ok(())
    }

    fn map(&self, region: RegionId, range: Range<u64>) -> io::Result<Arc<dyn Mapping>> {
        self.hardware()
            .call(Some(Call::Map(region, range.clone())))?;
        *self.mapped.lock().unwrap() += 1;
        Ok(Arc::new(FakeMapping {
            len: (range.end - range.start) as usize,
            mapped: Arc::clone(&self.mapped),
        }))
    }

    fn set_triggers(
        &self,
        kind: IrqKind,
        start: u32,
        triggers: &[Option<&EventFd>],
    ) -> Result<(), TriggerError> {
        let refused = |error: io::Error| TriggerError::Refused(error);
        let invalid = || refused(io::Error::from_raw_os_error(nix::libc::EINVAL));
        let mut hardware = self.hardware();
        let signals = triggers.iter().map(Option::is_some).collect();
        hardware
            .call(Some(Call::Triggers(kind, start, signals)))
            .map_err(refused)?;
        if matches!(kind, IrqKind::Error | IrqKind::Request) {
            return match triggers {
                [Some(event)] if start == 0 && self.announces => {
                    let event = event.try_clone().map_err(refused)?;
                    hardware.armed.insert(kind, event);
                    Ok(())
                }
                _ => Err(invalid()),
            };
        }
        let (start, end) = (start as usize, start as usize + triggers.len());
        if end > self.irq(kind).count as usize || hardware.enabled.is_some_and(|k| k != kind) {
            return Err(invalid());
        }
        if hardware.enabled.is_none() {
            if end > self.host_vectors {
                return Err(TriggerError::Only(self.host_vectors as u32));
            }
            hardware.triggers.resize_with(end, || None);
        } else if end > hardware.triggers.len() {
            if !self.irq(kind).growable || end > self.host_vectors {
                return Err(invalid());
            }
            hardware.triggers.resize_with(end, || None);
        }
        hardware.enabled = Some(kind);
        for (slot, trigger) in hardware.triggers[start..].iter_mut().zip(triggers) {
            *slot = trigger.map(|event| event.try_clone().unwrap());
        }
        hardware.raise_pin();
        Ok(())
    }

    fn unmask_intx(&self) -> io::Result<()> {
        let mut hardware = self.hardware();
        hardware.call(Some(Call::Unmask))?;
        if hardware.enabled != Some(IrqKind::Intx) {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        hardware.unmask_pin();
        Ok(())
    }

    fn set_unmask_event(&self, event: &EventFd) -> io::Result<()> {
        let mut hardware = self.hardware();
        hardware.call(Some(Call::UnmaskEvent))?;
        if !self.hears_unmask || hardware.enabled != Some(IrqKind::Intx) {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOTTY));
        }
        hardware.pin.unmask = Some(event.try_clone()?);
        Ok(())
    }

    fn disable_irqs(&self, kind: IrqKind) -> io::Result<()> {
        let mut hardware = self.hardware();
        hardware.call(Some(Call::Disable(kind)))?;
        if hardware.enabled != Some(kind) {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        hardware.enabled = None;
        hardware.triggers.clear();
        hardware.pin.masked = false;
        hardware.pin.unmask = None;
        Ok(())
    }

    fn can_reset(&self) -> bool {
        self.can_reset
    }

    fn reset(&self) -> io::Result<()> {
        self.hardware().call(Some(Call::Reset))
    }

    fn reset_method(&self) -> Option<ResetMethod> {
        self.reset_method
    }

    fn hot_reset_info(&self) -> io::Result<Vec<Affected>> {
        self.hardware().call(None)?;
        let none = || io::Error::from_raw_os_error(nix::libc::ENODEV);
        self.bus.clone().ok_or_else(none)
    }

    fn hot_reset(&self) -> io::Result<()> {
        self.hardware().call(Some(Call::HotReset))
    }
}

struct FakeMapping {
    len: usize,
    mapped: Arc<Mutex<usize>>,
}

impl Mapping for FakeMapping {
    fn host_address(&self) -> usize {
        0x1000
    }

    fn len(&self) -> usize {
        self.len
    }

    fn writable(&self) -> bool {
        true
    }
}

impl Drop for FakeMapping {
    fn drop(&mut self) {
        *self.mapped.lock().unwrap() -= 1;
    }
}

#[derive(Default)]
struct Router {
    live: BTreeMap<usize, (Bdf, MsiMessage, EventFd)>,
    delivered: Vec<MsiMessage>,
    next: usize,
    most: usize,
    failing: bool,
}

impl Router {
    /// What KVM does at once: turn signalled events into messages.
    fn run(&mut self) {
        for (_, message, event) in self.live.values() {
            if let Ok(count) = event.read() {
                self.delivered
                    .extend(std::iter::repeat_n(*message, count.min(9) as usize));
            }
        }
    }
}

/// Routes whose messages a test can look at.
#[derive(Clone, Default)]
pub struct FakeRoutes(Arc<Mutex<Router>>);

impl FakeRoutes {
    /// The messages delivered since the last time.
    pub fn delivered(&self) -> Vec<MsiMessage> {
        let mut router = self.0.lock().unwrap();
        router.run();
        std::mem::take(&mut router.delivered)
    }

    /// The routes there are.
    pub fn live(&self) -> Vec<(Bdf, MsiMessage)> {
        let router = self.0.lock().unwrap();
        router.live.values().map(|(bdf, m, _)| (*bdf, *m)).collect()
    }

    /// The most routes there were at a time.
    pub fn most(&self) -> usize {
        self.0.lock().unwrap().most
    }

    /// From now on no route is made or changed, or all are.
    pub fn set_failing(&self, failing: bool) {
        self.0.lock().unwrap().failing = failing;
    }
}

struct FakeRoute {
    router: Arc<Mutex<Router>>,
    number: usize,
    event: EventFd,
}

impl MsiRoutes for FakeRoutes {
    fn allocate(
        &self,
        requester: Bdf,
        message: MsiMessage,
    ) -> Result<Box<dyn MsiRoute>, RouteError> {
        let mut router = self.0.lock().unwrap();
        if router.failing {
            return Err(RouteError::Exhausted(0));
        }
        let event = EventFd::new(EFD_NONBLOCK).map_err(RouteError::Kernel)?;
        let number = router.next;
        router.next += 1;
        let clone = event.try_clone().map_err(RouteError::Kernel)?;
        router.live.insert(number, (requester, message, clone));
        router.most = router.most.max(router.live.len());
        Ok(Box::new(FakeRoute {
            router: Arc::clone(&self.0),
            number,
            event,
        }))
    }
}

impl MsiRoute for FakeRoute {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn update(&self, message: MsiMessage) -> Result<(), RouteError> {
        let mut router = self.router.lock().unwrap();
        router.run();
        if router.failing {
            return Err(RouteError::Exhausted(0));
        }
        if let Some(route) = router.live.get_mut(&self.number) {
            route.1 = message;
        }
        Ok(())
    }
}

impl Drop for FakeRoute {
    fn drop(&mut self) {
        let mut router = self.router.lock().unwrap();
        router.run();
        router.live.remove(&self.number);
    }
}

#[derive(Default)]
struct Wire {
    /// The device that is connected, and its trigger.
    device: Option<(Arc<dyn Resample>, EventFd)>,
    asserted: bool,
    failing: bool,
}

/// An input whose level a test can look at, and end interrupts of.
#[derive(Clone, Default)]
pub struct FakeInput(Arc<Mutex<Wire>>);

impl FakeInput {
    /// The line's level, after what was signalled.
    pub fn is_asserted(&self) -> bool {
        let mut wire = self.0.lock().unwrap();
        let signalled = wire.device.as_ref().is_some_and(|(_, t)| t.read().is_ok());
        wire.asserted |= signalled;
        wire.asserted
    }

    /// The guest ends an interrupt, or unmasks the input.
    pub fn serve(&self) {
        let mut wire = self.0.lock().unwrap();
        wire.asserted = false;
        if let Some((device, _)) = &wire.device {
            device.resample();
        }
    }

    pub fn is_connected(&self) -> bool {
        self.0.lock().unwrap().device.is_some()
    }

    /// From now on no device can be connected, or any can.
    pub fn set_failing(&self, failing: bool) {
        self.0.lock().unwrap().failing = failing;
    }
}

impl LevelInput for FakeInput {
    fn connect(&self, device: Arc<dyn Resample>) -> Result<Box<dyn LevelRoute>, RouteError> {
        let mut wire = self.0.lock().unwrap();
        assert!(wire.device.is_none(), "a device was connected twice");
        if wire.failing {
            return Err(RouteError::Exhausted(0));
        }
        let trigger = EventFd::new(EFD_NONBLOCK).map_err(RouteError::Kernel)?;
        let clone = trigger.try_clone().map_err(RouteError::Kernel)?;
        wire.device = Some((device, clone));
        Ok(Box::new(FakeLevelRoute {
            input: self.clone(),
            trigger,
        }))
    }
}

struct FakeLevelRoute {
    input: FakeInput,
    trigger: EventFd,
}

impl LevelRoute for FakeLevelRoute {
    fn trigger(&self) -> &EventFd {
        &self.trigger
    }

    fn ask(&self) {
        self.input.serve();
    }
}

impl Drop for FakeLevelRoute {
    fn drop(&mut self) {
        let mut wire = self.input.0.lock().unwrap();
        wire.device = None;
        wire.asserted = false;
    }
}
