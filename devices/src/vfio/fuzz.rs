//! An assigned device at the hands of a hostile guest, and of a broken device: its config
//! space is anything, and so is what the guest writes. For property tests and for fuzz targets.

use std::ops::Range;
use std::sync::Arc;

use pci::fuzz::Input;
use pci::{BarIndex, Bdf, ConfigWrite, Function, Register};

use super::backend::RegionId;
use super::capabilities::{Found, Snapshot, capabilities, extended_capabilities};
use super::config::length;
use super::device::AssignedDevice;
use super::fake::{Call, FakeBackend, FakeRoutes};
use super::presentation::Presentation;
use super::reset::ResetSet;
use super::rules::{self, Rule, Treatment};
use crate::bus::PciDevice;

const SIZE: u16 = 0x1000;
const COMMAND: u16 = 0x04;
/// An extended capability.
const TRANSLATION_SERVICES: u16 = 0x0f;

/// Whose quirks a device has.
const IDENTITIES: [(u32, u8); 4] = [
    (0x10ca_8086, 2),
    (0x1b80_10de, 3),
    (0x6798_1002, 3),
    (0x8168_10ec, 2),
];

/// The capabilities that the guest sees, as (ID, offset), in the order of the list.
pub(super) fn list(device: &AssignedDevice) -> Vec<(u8, u16)> {
    let read = |at| device.read_config(Register::containing(at));
    let mut found = Vec::new();
    let mut at = read(0x34) as u16 & 0xff;
    while at != 0 {
        let header = read(at);
        found.push((header as u8, at));
        at = (header >> 8) as u16 & 0xff;
        assert!(found.len() < 48);
    }
    found
}

/// The same of the extended ones.
pub(super) fn extended_list(device: &AssignedDevice) -> Vec<(u16, u16)> {
    let (mut found, mut at) = (Vec::new(), 0x100);
    while at != 0 {
        let header = device.read_config(Register::containing(at));
        if header == 0 {
            break;
        }
        found.push((header as u16, at));
        at = (header >> 20) as u16;
        assert!(found.len() < 1024);
    }
    found
}

fn treatment(rules: &'static [Rule], id: u16) -> Treatment {
    rules::rule(rules, id).treatment
}

/// Both lists lie where they must, hold nothing twice and nothing that is to be hidden.
pub(super) fn check_lists(device: &AssignedDevice) {
    let check = |mut offsets: Vec<u16>, range: Range<u16>| {
        let count = offsets.len();
        assert!(offsets.iter().all(|at| range.contains(at) && at % 4 == 0));
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), count);
    };
    let hidden = |rules, id| matches!(treatment(rules, id), Treatment::Hidden(_));
    let standard = list(device);
    for &(id, _) in &standard {
        assert!(!hidden(rules::STANDARD, id.into()), "{id:#x}");
    }
    check(standard.iter().map(|c| c.1).collect(), 0x40..0x100);
    let extended = extended_list(device);
    for &(id, at) in &extended {
        // A null capability leads on from 100h.
        let null = id == 0 && at == 0x100;
        assert!(null || !hidden(rules::EXTENDED, id), "{id:#x}");
    }
    check(extended.iter().map(|c| c.1).collect(), 0x100..SIZE);
    // Without a capability there is nothing.
    let first = extended.iter().map(|c| c.1).min().unwrap_or(SIZE);
    for at in (0x100..first).step_by(4) {
        assert_eq!(device.read_config(Register::containing(at)), 0, "{at:#x}");
    }
}

/// A config space with two lists; what they do not say is of the pattern.
fn registers(input: &mut Input<'_>) -> Vec<u8> {
    let pattern: [u8; 8] = input.take();
    let mut config: Vec<u8> = pattern.into_iter().cycle().take(SIZE.into()).collect();
    let (identity, class) = IDENTITIES[usize::from(input.u8() & 3)];
    config[..4].copy_from_slice(&identity.to_le_bytes());
    config[0x0b] = class;
    config[0x0e] = 0;
    config[0x06] |= 0x10;
    let mut link = 0x34;
    for _ in 0..input.u8() & 15 {
        let at = usize::from(input.u8() & 0xfc | 0x40);
        config[link] = at as u8;
        let body: [u8; 12] = input.take();
        let end = (at + 14).min(0x100);
        config[at + 2..end].copy_from_slice(&body[..end - at - 2]);
        config[at] = input.u8() % 0x18;
        link = at + 1;
    }
    config[link] = input.u8();
    let mut at = 0x100;
    for _ in 0..input.u8() & 31 {
        let next = usize::from(input.u16() & 0xffc);
        let id = u32::from(input.u8()) % 0x38;
        let header = id | 1 << 16 | (next as u32) << 20;
        let body: [u8; 12] = input.take();
        config[at..at + 4].copy_from_slice(&header.to_le_bytes());
        let end = (at + 16).min(SIZE.into());
        config[at + 4..end].copy_from_slice(&body[..end - at - 4]);
        if next < 0x100 {
            break;
        }
        at = next;
    }
    config
}

/// Where the device has what is none of the guest's.
struct Secrets {
    /// Reads as zero.
    hidden: Vec<Range<u16>>,
    /// Is never written.
    kept: Vec<Range<u16>>,
}

impl Secrets {
    fn new(config: Vec<u8>, device: &AssignedDevice) -> Self {
        let config = Snapshot(config);
        let range = |cap: &Found| {
            let len = length(&config, cap).min(cap.room);
            cap.offset..cap.offset + len
        };
        // Identity, BARs, ROM and the pin.
        let mut kept = vec![0..COMMAND, 0x08..0x40];
        let mut hidden = Vec::new();
        let shown: Vec<_> = list(device).iter().map(|cap| cap.1).collect();
        for cap in capabilities(&config) {
            if !shown.contains(&cap.offset) {
                hidden.push(range(&cap));
            } else if matches!(treatment(rules::STANDARD, cap.id), Treatment::Modelled) {
                kept.push(range(&cap));
            }
        }
        let shown: Vec<_> = extended_list(device).iter().map(|cap| cap.1).collect();
        let mut first = SIZE;
        for cap in extended_capabilities(&config) {
            first = first.min(cap.offset);
            let all = cap.offset..cap.offset + cap.room;
            match treatment(rules::EXTENDED, cap.id) {
                _ if !shown.contains(&cap.offset) => hidden.push(all),
                Treatment::Modelled => kept.push(all),
                // The null capability that leads on.
                Treatment::Hidden(_) => hidden.push(0x104..cap.offset + cap.room),
                // What is enabled in the device is the host's.
                Treatment::Registers(_) if cap.id == TRANSLATION_SERVICES => kept.push(all),
                Treatment::Registers(_) => {}
            }
        }
        // In front of the list there is nothing.
        hidden.push(0x100..first);
        kept.extend(hidden.iter().cloned());
        Self { hidden, kept }
    }

    fn check(&self, device: &AssignedDevice, hardware: &FakeBackend) {
        for range in &self.hidden {
            for at in range.clone().step_by(4) {
                assert_eq!(device.read_config(Register::containing(at)), 0, "{at:#x}");
            }
        }
        for call in hardware.calls() {
            let Call::Write(RegionId::Config, offset, data) = call else {
                continue;
            };
            let end = offset + data.len() as u64;
            for range in &self.kept {
                let apart = end <= range.start.into() || u64::from(range.end) <= offset;
                assert!(apart, "{data:x?} written to {offset:#x}");
            }
            if offset == u64::from(COMMAND) {
                assert_ne!(data[0] & 2, 0, "the device must decode");
            }
        }
    }
}

/// A device of arbitrary registers and a guest that writes arbitrary ones. Lists stay well
/// formed and as they were, what is hidden reads as zero, and no write reaches what the guest
/// has not.
pub fn device(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let bars: Vec<_> = (0..flags & 3)
        .map(|n| {
            let shape = input.u16();
            (n * 2, u64::from(shape & 0x3fff) + 1, shape >> 15 == 0)
        })
        .collect();
    let config = registers(&mut input);
    let mut hardware = FakeBackend::new("", &bars);
    hardware.can_reset = flags & 4 != 0;
    hardware.msi.count = 32 * u32::from(flags >> 3 & 1);
    hardware.msix.count = 64 * u32::from(flags >> 4 & 1);
    hardware.msix.growable = flags & 0x20 != 0;
    hardware.intx.count = u32::from(flags >> 6 & 1);
    hardware.poke_config(0, &config);
    let hardware = Arc::new(hardware);
    let seat = ResetSet::new().enter("0000:02:10.0", None, hardware.clone());
    let routes = FakeRoutes::default();
    let presentation = Presentation {
        device_tlb: flags & 0x80 != 0,
        ..Presentation::default()
    };
    let made = AssignedDevice::new(seat, Arc::new(routes.clone()), &presentation);
    let Ok(device) = made else {
        return;
    };
    device.set_bdf(Bdf::new(1, 0, 0));
    check_lists(&device);
    let secrets = Secrets::new(config, &device);
    let identity = |at| device.read_config(Register::containing(at));
    let before = (identity(0), list(&device), extended_list(&device));
    while !input.is_empty() {
        let what = input.u8();
        match what & 15 {
            0..=7 => {
                // Mostly where capabilities are.
                let offset = match what & 0x30 {
                    0 => input.u16() & 0xfff,
                    _ => u16::from(input.u8()) + (u16::from(what & 0x20) << 3),
                };
                let register = Register::containing(offset);
                let enables = what >> 4 | 1 << (what & 3);
                device.write_config(ConfigWrite::new(register, input.u32(), enables));
                device.read_config(register);
            }
            kind @ 8..=11 => {
                let Some(&(bar, size, _)) = bars.get(usize::from(kind & 3)) else {
                    continue;
                };
                let Some(region) = device.region(BarIndex(bar)) else {
                    continue;
                };
                let len = 1 << (what >> 4 & 3);
                let at = u64::from(input.u16()) % size;
                let len = len.min((size - at) as usize);
                let mut data: [u8; 8] = input.take();
                match what >> 6 & 1 {
                    0 => region.write(at, &data[..len]),
                    _ => region.read(at, &mut data[..len]),
                }
            }
            12 => {
                hardware.fire(usize::from(what >> 4));
                routes.delivered();
            }
            13 => {
                hardware.set_pin(what & 0x10 != 0);
                hardware.hear_unmask();
            }
            14 if what & 0x10 == 0 => hardware.fail_at(usize::from(what >> 5)),
            14 => device.reset(),
            _ => routes.set_failing(what & 0x10 != 0),
        }
        for window in device.windows() {
            assert!(window.base != 0 && window.base % window.size == 0);
            device.fast_paths(window.bar);
        }
    }
    let after = (identity(0), list(&device), extended_list(&device));
    assert_eq!(after, before);
    check_lists(&device);
    secrets.check(&device, &hardware);
    device.state();
}
