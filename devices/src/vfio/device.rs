//! An assigned device: the function that the guest sees, over a [`VfioBackend`].
//!
//! **Reset.** The device, its config space, its vectors and routes are as after power-on.
//! Nothing survives but where the function sits on its bus and what is counted in
//! [`AssignedDeviceState`].
//!
//! **Order at the end.** [`AssignedDevice::release`] (or the drop) disables interrupts, ends
//! bus mastering, resets the device and lets go of the BAR mappings. Only then may guest
//! memory be unmapped from the device, or a DMA still under way faults in the host's IOMMU:
//! release every device, then drop the [`iommu::host::PinnedMemory`], then the devices. The
//! kernel keeps the same order when this process dies.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use pci::{
    BarIndex, Bdf, Changes, ConfigSpaceState, ConfigWrite, Function, InterruptPin, Register, Window,
};
use vmm_sys_util::eventfd::EventFd;

use super::backend::VfioBackend;
use super::bars::{Bar, BarRegion, GuestConfig};
use super::capabilities;
use super::config::{Config, ConfigError};
use super::events::Events;
use super::interrupts::Interrupts;
use super::intx::IntxState;
use super::msi;
use super::presentation::Presentation;
use super::quirks;
use super::reset::{Company, Occasion, Outcome, Reset, Scope, Seat, Standing, reset, tell};
use super::rom::{self, Rom};
use super::vectors::VectorsState;
use crate::bus::{FastPath, PciDevice, Region};
use crate::guest_error;
use crate::irq::{LevelInput, MsiRoutes};

/// A device could not be assigned.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be assigned")]
pub struct AssignError {
    /// Its host address.
    pub name: String,
    /// Why.
    #[source]
    pub source: ConfigError,
}

/// Told under which requester id a device does DMA from now on; 00:00.0 while its bus has no
/// number.
pub trait RequesterWatcher: Send + Sync {
    /// It is this one.
    fn requester_changed(&self, requester: Bdf);
}

/// A function of the host, in the guest's hands.
pub struct AssignedDevice {
    name: Arc<str>,
    backend: Arc<dyn VfioBackend>,
    seat: Arc<Seat>,
    // The MSI-X table has a lock of its own, taken after this one, and alone by accesses to
    // the table.
    state: Mutex<State>,
    regions: Vec<(BarIndex, Arc<BarRegion>)>,
    events: Events,
    rom: Option<Arc<Rom>>,
    watcher: OnceLock<Weak<dyn RequesterWatcher>>,
}

struct State {
    config: Config,
    interrupts: Interrupts,
    requester: Bdf,
    resets: Resets,
    released: bool,
}

/// What there is to tell of resets.
#[derive(Default)]
struct Resets {
    count: u64,
    last: Option<Reset>,
    complaint: Option<String>,
    standing: Standing,
}

impl Resets {
    fn note(&mut self, outcome: Outcome) {
        self.standing = if outcome.is_thorough() {
            Standing::Reset
        } else {
            Standing::Asked
        };
        self.complaint = outcome.complaint();
        self.count += u64::from(outcome.reset.is_some());
        self.last = outcome.reset;
    }
}

/// A device that is held still, for another one's reset that resets it too.
pub(super) struct Held<'a> {
    device: &'a AssignedDevice,
    state: MutexGuard<'a, State>,
}

impl Held<'_> {
    pub fn name(&self) -> &str {
        &self.device.name
    }

    pub fn standing(&self) -> Standing {
        self.state.resets.standing
    }

    /// It has been reset.
    pub fn was_reset(&mut self, reset: Reset) {
        self.state.resets.note(Outcome {
            reset: Some(reset),
            refusals: Vec::new(),
        });
        self.state.config.reset(&*self.device.backend);
        for (_, region) in &self.device.regions {
            region.reset();
        }
    }
}

/// [`AssignedDevice`] as data.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct AssignedDeviceState {
    /// The host address.
    pub name: String,
    /// Where the function sits in the guest.
    pub requester: Bdf,
    /// Config space, as far as it is ours.
    pub config: ConfigSpaceState,
    /// The interrupt pin.
    pub intx: IntxState,
    /// MSI.
    pub msi: VectorsState,
    /// MSI-X, if the guest has it.
    pub msix: Option<VectorsState>,
    /// The kernel can reset the device.
    pub can_reset: bool,
    /// Resets since it was taken, with that one.
    pub resets: u64,
    /// The last of them.
    pub last_reset: Option<Reset>,
    /// Why that was no better one, or none.
    pub not_reset: Option<String>,
    /// Where it stands since.
    pub standing: Standing,
    /// What is peculiar about it that is seen to.
    pub quirks: Vec<&'static str>,
}

impl AssignedDevice {
    /// Takes the device in `seat`: resets it and lays out what the guest will see.
    pub fn new(
        seat: Arc<Seat>,
        routes: Arc<dyn MsiRoutes>,
        presentation: &Presentation,
    ) -> Result<Arc<Self>, AssignError> {
        let (shared, backend) = (Arc::clone(&seat.name), Arc::clone(&seat.backend));
        let name = &*shared;
        let mut company = Company::default();
        let scope = seat.scope(&mut company);
        let resets = Self::reset_taken(&seat, &scope);
        let failed = |source| AssignError {
            name: name.to_owned(),
            source,
        };
        let (mut config, bars) = Config::new(&*backend, presentation).map_err(failed)?;
        // From here on it decodes memory, without which its ROM cannot be read.
        config.reset(&*backend);
        let rom = rom::load(&presentation.rom, &*backend, name, config.identity());
        let rom = rom.map_err(|error| failed(error.into()))?;
        let rom = rom.filter(|rom| match config.set_rom(rom) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(device = name, %error, "the option ROM is hidden from the guest");
                false
            }
        });
        let interrupts = Interrupts::new(&shared, &backend, &routes, &config.space);
        let all = bars.clone();
        let regions = bars.into_iter().map(|bar| {
            let index = bar.index;
            let doors = quirks::in_bar(&identity(&config, &all), index);
            let (name, backend) = (Arc::clone(&shared), Arc::clone(&backend));
            let region = BarRegion::new(name, backend, bar, interrupts.msix(), doors);
            (index, Arc::new(region))
        });
        let regions: Vec<_> = regions.collect();
        let device = Arc::new(Self {
            regions,
            rom: rom.map(Arc::new),
            watcher: OnceLock::new(),
            state: Mutex::new(State {
                config,
                interrupts,
                requester: Bdf::default(),
                resets,
                released: false,
            }),
            events: Events::arm(&*backend, name),
            name: Arc::clone(&shared),
            backend,
            seat: Arc::clone(&seat),
        });
        seat.seat(&device);
        for (_, region) in &device.regions {
            let weak: Weak<Self> = Arc::downgrade(&device);
            region.belongs_to(weak);
        }
        Ok(device)
    }

    fn reset_taken(seat: &Seat, scope: &Scope<'_>) -> Resets {
        let outcome = match seat.take_early_reset() {
            Some(reset) => Outcome {
                reset: Some(reset),
                refusals: Vec::new(),
            },
            None => reset(&*seat.backend, || scope.reset_bus()),
        };
        tell(&seat.name, Occasion::Taken, &outcome);
        let mut resets = Resets::default();
        resets.note(outcome);
        resets
    }

    /// Holds the device still, as it is.
    pub(super) fn hold(&self) -> Held<'_> {
        Held {
            device: self,
            state: self.lock(),
        }
    }

    /// Gives the device back: it interrupts no more, does no DMA, and is reset. The guest must
    /// not run any more. Done by the drop if not before.
    pub fn release(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.released, true) {
            return;
        }
        drop(state);
        self.reset_as(Occasion::GivenBack);
        for (_, region) in &self.regions {
            region.unmap();
        }
    }

    /// Signalled when the device reports an uncorrectable error. `None` if the host tells
    /// nobody of errors of this device.
    pub fn error_event(&self) -> Option<&EventFd> {
        self.events.error.as_ref()
    }

    /// Signalled when the host wants the device back (its driver is being unbound, or the
    /// device removed), and again every few seconds until it is closed.
    pub fn request_event(&self) -> Option<&EventFd> {
        self.events.request.as_ref()
    }

    /// The device as data.
    pub fn state(&self) -> AssignedDeviceState {
        let state = self.lock();
        AssignedDeviceState {
            name: self.name.to_string(),
            requester: state.requester,
            config: state.config.space.state(),
            intx: state.interrupts.intx.state(),
            msi: state.interrupts.msi.state(),
            msix: state.interrupts.with_msix(|msix| msix.state()),
            can_reset: self.backend.can_reset(),
            resets: state.resets.count,
            last_reset: state.resets.last.clone(),
            not_reset: state.resets.complaint.clone(),
            standing: state.resets.standing,
            quirks: self.regions.iter().flat_map(|(_, r)| r.quirks()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The legacy interrupt that the function uses, if any.
    pub fn interrupt_pin(&self) -> Option<InterruptPin> {
        self.lock().config.space.interrupt_pin()
    }

    /// Says who is to be told of its requester id. To be called once.
    pub fn watch_requester(&self, watcher: Weak<dyn RequesterWatcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// Solders the interrupt pin to an input, and arms it. If that fails the guest is shown
    /// no pin.
    pub fn wire_intx(&self, input: Arc<dyn LevelInput>) {
        let state = &mut *self.lock();
        state.interrupts.intx.wire(input);
        if !state.interrupts.intx.arm(state.config.mutes_intx()) {
            tracing::warn!(
                device = &*self.name,
                "the host cannot pass on this device's INTx: the guest sees no interrupt pin"
            );
            state.config.hide_intx(&*self.backend);
        }
    }

    fn follow_interrupts(&self, state: &mut State) {
        let muted = state.config.mutes_intx();
        let (space, requester) = (&state.config.space, state.requester);
        state.interrupts.follow(space, muted, requester);
    }

    /// Interrupts first: see [`reset`]. Then bus mastering ends, whether or not the device
    /// can be reset. The caller holds no lock of this device's.
    fn reset_as(&self, occasion: Occasion) {
        let mut company = Company::default();
        let scope = self.seat.scope(&mut company);
        let state = &mut *self.lock();
        state.interrupts.reset();
        state.config.reset(&*self.backend);
        if state.resets.standing != Standing::Reset {
            state.resets.standing = Standing::Asked;
            let outcome = reset(&*self.backend, || scope.reset_bus());
            tell(&self.name, occasion, &outcome);
            if outcome.reset.is_some() {
                state.config.reset(&*self.backend);
                self.regions.iter().for_each(|(_, region)| region.reset());
            }
            state.resets.note(outcome);
        }
        if occasion == Occasion::Guest {
            self.follow_interrupts(state);
        }
    }

    fn bar(&self, bar: BarIndex) -> Option<&Arc<BarRegion>> {
        let found = self.regions.iter().find(|(index, _)| *index == bar);
        found.map(|(_, region)| region)
    }
}

impl GuestConfig for AssignedDevice {
    fn read(&self, register: Register) -> u32 {
        self.read_config(register)
    }

    fn write(&self, write: ConfigWrite) {
        // The machine hears of what config cycles change, and of nothing else.
        if self.lock().config.moves(write) {
            let register = write.register().offset();
            guest_error!(
                device = &*self.name,
                register,
                "a write through a BAR was dropped"
            );
            return;
        }
        self.write_config(write);
    }

    fn msi(&self) -> Option<u16> {
        self.lock().config.find_capability(capabilities::id::MSI)
    }
}

/// What quirks are chosen by.
fn identity<'a>(config: &Config, bars: &'a [Bar]) -> quirks::Identity<'a> {
    quirks::Identity {
        vendor: config.space.get_u16(0x00),
        device: config.space.get_u16(0x02),
        class: config.space.get_u16(0x0a),
        bars,
    }
}

/// After this write the guest may have done something to the device: all of it that a guest
/// reaches while it decodes nothing and does no DMA is in its capabilities.
fn reaches_device(write: ConfigWrite, config: &Config) -> bool {
    let command = config.space.command();
    write.register().offset() >= capabilities::FIRST
        || command.io_space()
        || command.memory_space()
        || command.bus_master()
}

impl Drop for AssignedDevice {
    fn drop(&mut self) {
        self.release();
    }
}

impl Function for AssignedDevice {
    fn read_config(&self, register: Register) -> u32 {
        let state = &mut *self.lock();
        if state.config.is_msi_pending(register) {
            let pending = msi::pending(&mut state.interrupts.msi);
            state.config.show_msi_pending(pending);
        }
        state.config.read(&*self.backend, register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        let mut state = self.lock();
        let mut changes = state.config.write(&*self.backend, write);
        if reaches_device(write, &state.config) {
            state.resets.standing = Standing::InUse;
        }
        if changes.contains(Changes::FUNCTION_RESET) {
            drop(state);
            self.reset_as(Occasion::Guest);
            changes |= Changes::DECODE | Changes::INTERRUPTS | Changes::BUS_MASTER | Changes::POWER;
        } else if changes.contains(Changes::INTERRUPTS) {
            self.follow_interrupts(&mut state);
        }
        changes
    }

    fn windows(&self) -> Vec<Window> {
        self.lock().config.space.windows()
    }

    fn reset(&self) {
        self.reset_as(Occasion::Guest);
    }
}

impl PciDevice for AssignedDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn region(&self, bar: BarIndex) -> Option<Arc<dyn Region>> {
        if bar == BarIndex::ROM {
            return self.rom.clone().map(|rom| rom as Arc<dyn Region>);
        }
        Some(Arc::clone(self.bar(bar)?) as Arc<dyn Region>)
    }

    fn fast_paths(&self, bar: BarIndex) -> Vec<FastPath> {
        if bar == BarIndex::ROM {
            return self.rom.as_ref().map(Rom::fast_paths).unwrap_or_default();
        }
        self.bar(bar)
            .map(|region| region.fast_paths())
            .unwrap_or_default()
    }

    fn set_bdf(&self, bdf: Bdf) {
        let mut state = self.lock();
        state.requester = bdf;
        state.interrupts.set_requester(bdf);
        drop(state);
        if let Some(watcher) = self.watcher.get().and_then(Weak::upgrade) {
            watcher.requester_changed(bdf);
        }
    }
}
