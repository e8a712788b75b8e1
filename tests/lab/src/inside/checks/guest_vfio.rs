//! Devices that the guest's user space drives, through the guest's own vfio-pci and a VT-d: DPDK, which maps its memory
//! for the device in one go and then neither waits for an interrupt nor calls the kernel for a packet.

use super::Check;
use super::assignment::ping_over_vf;
use super::guest_iommu::{boot, expect_no_faults};
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::testpmd::{BURST, HUGE_PAGES, SMALL_PAGES, Testpmd, initrd_with_dpdk};
use crate::inside::vmm::{EMULATED_NIC_MAC, GuestSpec, Network};
use crate::inside::wire::{Mac, Wire, frame, parse_mac};
use crate::topology::{
    PHYSICAL_FUNCTION, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VIRTUAL_FUNCTION_MACS,
    VIRTUAL_FUNCTIONS,
};
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "vf-driven-by-dpdk-in-the-guest-behind-a-vtd",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: vf,
    },
    Check {
        name: "e1000-driven-by-dpdk-in-the-guest-behind-a-vtd",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: e1000,
    },
];

/// How often the guest sends by itself, and how many packets each time: fewer than any ring on the way holds.
const ROUNDS: usize = 8;
const BURSTS: usize = 4;
/// How many frames are sent to the guest, and how many may be under way.
const FRAMES: u32 = 1024;
const WINDOW: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(20);
/// When nothing more is to come.
const QUIET: Duration = Duration::from_millis(300);

/// The device id of a virtual function.
pub(super) const VF_ID: &str = "0x10ca";

const IPV4: u16 = 0x0800;
/// The bytes of what testpmd makes up: Ethernet, IPv4, UDP, and zeros.
const MADE_UP: usize = 64;
/// The type of our frames, which is nobody's.
const OURS: u16 = 0x88b5;

/// A card that DPDK drives.
struct Card {
    /// Its device id, by which it is found in the guest.
    id: &'static str,
    mac: Mac,
    /// How the guest's vfio-pci has it interrupt.
    interrupts: &'static str,
}

fn vf(rig: &mut Rig, cpus: u32) -> Result<()> {
    let card = Card {
        id: VF_ID,
        mac: parse_mac(VIRTUAL_FUNCTION_MACS[0])?,
        interrupts: "msix",
    };
    let wire = Wire::of(&sysfs::interface(PHYSICAL_FUNCTION)?)?;
    let spec = GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus);
    let mut guest = boot_with_dpdk(rig, spec)?;
    drive(&mut guest, &card, &wire)?;
    ping_over_vf(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn e1000(rig: &mut Rig, cpus: u32) -> Result<()> {
    let card = Card {
        id: "0x100e",
        mac: parse_mac(EMULATED_NIC_MAC)?,
        interrupts: "legacy",
    };
    let wire = Wire::of(TAP)?;
    let spec = GuestSpec {
        network: Some(Network::Tap(TAP)),
        ..GuestSpec::new(cpus)
    };
    let mut guest = boot_with_dpdk(rig, spec)?;
    drive(&mut guest, &card, &wire)?;
    network_up(&mut guest, "e1000", TAP_GUEST_ADDRESS)?;
    ping_all(&mut guest, 10, 0.05, TAP_ADDRESS)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn boot_with_dpdk(rig: &mut Rig, spec: GuestSpec) -> Result<Guest> {
    let initrd = rig.file("dpdk.img");
    initrd_with_dpdk(&initrd)?;
    let spec = GuestSpec {
        initrd: Some(initrd),
        extra_cmdline: "intel_iommu=on iommu.strict=1 hugepages=24",
        ..spec
    };
    boot(rig, "vtd", spec)
}

/// Drives a card from user space, with large pages and then with small ones, and gives it back.
fn drive(guest: &mut Guest, card: &Card, wire: &Wire) -> Result<()> {
    let function = give_to_vfio(guest, card.id)?;
    for memory in [HUGE_PAGES, SMALL_PAGES] {
        let options = format!("{memory} --vfio-intr={}", card.interrupts);
        let mut testpmd = Testpmd::start(guest, &function, &options, wire.mac)?;
        send(&mut testpmd, card, wire)?;
        echo(&mut testpmd, card, wire)?;
        testpmd.quit()?;
    }
    give_back(guest, &function)
}

/// Takes it from vfio-pci, for whichever driver of the guest's.
pub(super) fn give_back(guest: &mut Guest, function: &str) -> Result<()> {
    guest.sh(&format!(
        "cd /sys/bus/pci/devices/{function} && echo {function} >driver/unbind && echo >driver_override && cd /"
    )).map(drop)
}

/// A function by its device id, which no driver of the guest's has yet.
pub(super) fn give_to_vfio(guest: &mut Guest, id: &str) -> Result<String> {
    let function = guest.sh(&format!(
        "cd /sys/bus/pci/devices; for device in *; do grep -q {id} $device/device && echo $device; done; cd /"
    ))?;
    let function = function.trim();
    guest.sh("modprobe -a vfio-pci vfio_iommu_type1")?;
    guest.sh(&format!(
        "cd /sys/bus/pci/devices/{function} && echo vfio-pci >driver_override && \
         echo {function} >/sys/bus/pci/drivers_probe && [ -e /sys/bus/pci/drivers/vfio-pci/{function} ] && cd /"
    ))?;
    Ok(function.to_owned())
}

/// What the program makes up arrives, and no more.
fn send(testpmd: &mut Testpmd, card: &Card, wire: &Wire) -> Result<()> {
    testpmd.order("set fwd rxonly")?;
    for round in 0..ROUNDS {
        testpmd.order(&format!("start tx_first {BURSTS}"))?;
        for number in 0..BURSTS * BURST {
            let Some(frame) = wire.next_from(card.mac, IPV4, PATIENCE)? else {
                return fail(format!(
                    "of round {round}, only {number} packets have come of {}",
                    BURSTS * BURST
                ));
            };
            if frame.len() != MADE_UP || frame[..6] != wire.mac {
                return fail(format!("this is not what testpmd sends: {frame:02x?}"));
            }
        }
        testpmd.order("stop")?;
    }
    match wire.next_from(card.mac, IPV4, QUIET)? {
        None => Ok(()),
        Some(frame) => fail(format!("more has come than was sent: {frame:02x?}")),
    }
}

/// What is sent to the guest comes back, with addresses swapped and all else as it was.
fn echo(testpmd: &mut Testpmd, card: &Card, wire: &Wire) -> Result<()> {
    testpmd.order("set fwd macswap")?;
    testpmd.order("start")?;
    for first in (0..FRAMES).step_by(WINDOW as usize) {
        let numbers = first..first + WINDOW;
        for number in numbers.clone() {
            wire.send(&frame(card.mac, wire.mac, OURS, &payload(number)))?;
        }
        for number in numbers {
            let back = wire.next_from(card.mac, OURS, PATIENCE)?;
            if back != Some(frame(wire.mac, card.mac, OURS, &payload(number))) {
                return fail(format!(
                    "frame {number} of {FRAMES} came back as {back:02x?}"
                ));
            }
        }
    }
    testpmd.order("stop")
}

/// Of all lengths, and no two alike.
fn payload(number: u32) -> Vec<u8> {
    const SHORTEST: u32 = 46;
    const LONGEST: u32 = 1500;
    let length = SHORTEST + number * 41 % (LONGEST - SHORTEST + 1);
    let rest = (4..length).map(|at| (at ^ number) as u8);
    number.to_be_bytes().into_iter().chain(rest).collect()
}
