//! The Q35 memory controller hub's host bridge (Intel 3 Series Express Chipset Family
//! datasheet, order 316966, §5.1).
//!
//! PCIEXBAR is real. PAM is storage: what is behind the legacy segments is for the machine
//! to decide. SMRAM can be read and not opened, as there is no system management mode.
//! Left out: MCHBAR, DMIBAR, EPBAR and the memory size registers, which read as zero.

use std::sync::Mutex;

use crate::lock::locked;
use crate::{
    Changes, ClassCode, Command, ConfigSpace, ConfigSpaceState, ConfigWrite, Function, Ids,
    Register, Window,
};

/// "82G33/G31/P35/P31 Express DRAM Controller", the Q35's.
const IDS: Ids = Ids {
    vendor: 0x8086,
    device: 0x29c0,
    revision: 0,
    class: ClassCode {
        base: 0x06,
        sub: 0x00,
        interface: 0,
    },
    subsystem_vendor: 0,
    subsystem: 0,
};

/// PCI Express Register Range Base Address, 64 bits (§5.1.16).
const PCIEXBAR: u16 = 0x60;
/// Programmable Attribute Map 0 to 6, then Legacy Access Control (§5.1.18 on).
const PAM: u16 = 0x90;
/// System Management RAM Control; byte 9Dh (§5.1.26).
const SMRAM: u16 = 0x9c;

/// The range where config space is mapped into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Ecam {
    /// First address.
    pub base: u64,
    /// 256, 128 or 64 MiB: a MiB a bus.
    pub size: u64,
}

/// The host bridge, function 00:00.0.
///
/// **Reset** moves ECAM back to where the machine had it at power-on.
pub struct HostBridge {
    space: Mutex<ConfigSpace>,
}

/// A [`HostBridge`] as data.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct HostBridgeState {
    /// Where ECAM is, if it is on.
    pub ecam: Option<Ecam>,
    /// Its config space.
    pub config: ConfigSpaceState,
}

impl HostBridge {
    /// A host bridge with 256 MiB of ECAM at `ecam`, as firmware would leave it, or with
    /// none. `ecam` is a multiple of 256 MiB below 64 GiB; other bits are dropped.
    pub fn new(ecam: Option<u64>) -> Self {
        let mut space = ConfigSpace::endpoint(IDS);
        // Memory and master are always on; SERR can be set (§5.1.3).
        space.set_command(Command(0x0006), Command(0x0100));
        let bar = ecam.map_or(0, |base| base & 0xf_f000_0000 | 1);
        // Base 35:26, length 2:1, enable.
        space.define(PCIEXBAR, bar as u32, 0xfc00_0007, 0);
        space.define(PCIEXBAR + 4, (bar >> 32) as u32, 0x0000_000f, 0);
        space.define(PAM, 0, 0x3333_3330, 0);
        space.define(PAM + 4, 0, 0x8f33_3333, 0);
        space.define(SMRAM, 0x0000_0200, 0, 0);
        Self {
            space: Mutex::new(space),
        }
    }

    /// Where ECAM is now, if it is on.
    pub fn ecam(&self) -> Option<Ecam> {
        ecam(&locked(&self.space))
    }

    /// The bridge as data.
    pub fn state(&self) -> HostBridgeState {
        let space = locked(&self.space);
        HostBridgeState {
            ecam: ecam(&space),
            config: space.state(),
        }
    }
}

fn ecam(space: &ConfigSpace) -> Option<Ecam> {
    let low = space.get_u32(PCIEXBAR);
    let bar = u64::from(space.get_u32(PCIEXBAR + 4)) << 32 | u64::from(low);
    let size = match bar >> 1 & 3 {
        0 => 256 << 20,
        1 => 128 << 20,
        2 => 64 << 20,
        _ => return None,
    };
    let base = bar & 0xf_fc00_0000 & !(size - 1);
    (bar & 1 != 0).then_some(Ecam { base, size })
}

impl Function for HostBridge {
    fn read_config(&self, register: Register) -> u32 {
        locked(&self.space).read(register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        let mut space = locked(&self.space);
        let before = ecam(&space);
        let mut changes = space.write(write);
        changes.set(Changes::ECAM, before != ecam(&space));
        changes
    }

    fn windows(&self) -> Vec<Window> {
        Vec::new()
    }

    fn reset(&self) {
        locked(&self.space).reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bridge: &HostBridge, offset: u16, value: u32) -> Changes {
        bridge.write_config(ConfigWrite::new(Register::containing(offset), value, 0xf))
    }

    #[test]
    fn ecam_moves_and_shrinks_and_comes_back_at_reset() {
        let bridge = HostBridge::new(Some(0xb000_0000));
        let ecam = |base, mib: u64| {
            Some(Ecam {
                base,
                size: mib << 20,
            })
        };
        assert_eq!(bridge.ecam(), ecam(0xb000_0000, 256));
        assert_eq!(write(&bridge, PCIEXBAR, 0xec00_0005), Changes::ECAM);
        assert_eq!(bridge.ecam(), ecam(0xec00_0000, 64));
        write(&bridge, PCIEXBAR, 0xec00_0003);
        assert_eq!(bridge.ecam(), ecam(0xe800_0000, 128));
        assert_eq!(write(&bridge, PCIEXBAR + 4, 0xffff_ffff), Changes::ECAM);
        assert_eq!(bridge.ecam(), ecam(0xf_e800_0000, 128));
        write(&bridge, PCIEXBAR, 0xec00_0007);
        assert_eq!(bridge.ecam(), None, "a reserved length");
        bridge.reset();
        assert_eq!(bridge.ecam(), ecam(0xb000_0000, 256));
        assert_eq!(write(&bridge, PCIEXBAR, 0xb000_0000), Changes::ECAM);
        assert_eq!(bridge.ecam(), None);
    }

    #[test]
    fn is_the_q35s() {
        let bridge = HostBridge::new(None);
        let read = |offset| bridge.read_config(Register::containing(offset));
        assert_eq!(read(0), 0x29c0_8086);
        write(&bridge, 4, 0);
        assert_eq!(read(4) & 0xffff, 6, "memory and master are hardwired");
        write(&bridge, PAM, 0xffff_ffff);
        assert_eq!(read(PAM), 0x3333_3330);
        write(&bridge, SMRAM, 0xffff_ffff);
        assert_eq!(read(SMRAM), 0x0200);
        assert_eq!(bridge.ecam(), None);
    }
}
