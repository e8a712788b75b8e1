//! The type 1 header (PCIe 6.0 §7.5.1.3): bus numbers and windows.
//!
//! Left out: aliases of the VGA ports above the first KiB, and upstream gating (a port
//! without Bus Master Enable still lets what is behind it do DMA).

use crate::registers::{BridgeControl, offset};
use crate::{Changes, Command, ConfigSpace, ConfigWrite, Forwarded, Ids, PowerState, Space};

/// A PCI-to-PCI bridge's config space, with what its registers mean. It has 16-bit I/O,
/// 32-bit memory and 64-bit prefetchable memory windows.
///
/// **Reset** clears bus numbers and windows: what is behind is unreachable until
/// software numbers it again.
#[derive(Clone)]
pub struct PciBridge {
    space: ConfigSpace,
}

/// What of a bridge routing looks at; the difference of two is a [`Changes`].
#[derive(PartialEq)]
struct View {
    numbers: (u8, u8),
    forwarded: Vec<Forwarded>,
    reset: bool,
}

impl PciBridge {
    /// A bridge with nothing but its header. Subsystem identities of a bridge are a
    /// capability ([`crate::Capability::Subsystem`]), so those of `ids` are not used.
    pub fn new(ids: Ids) -> Self {
        let mut space = ConfigSpace::bridge(ids);
        // Primary, secondary and subordinate; Secondary Latency Timer is zero on PCIe.
        space.define(offset::BUS_NUMBERS, 0, 0x00ff_ffff, 0);
        // I/O base and limit, and the error bits of Secondary Status.
        space.define(offset::IO_WINDOW, 0, 0xf0f0, 0xf900_0000);
        space.define(offset::MEMORY_WINDOW, 0, 0xfff0_fff0, 0);
        // The low nibbles say 64-bit.
        space.define(offset::PREFETCH_WINDOW, 0x0001_0001, 0xfff0_fff0, 0);
        space.define(offset::PREFETCH_BASE_UPPER, 0, 0xffff_ffff, 0);
        space.define(offset::PREFETCH_LIMIT_UPPER, 0, 0xffff_ffff, 0);
        space.define(offset::INTERRUPT_LINE, 0, 0x005f_00ff, 0);
        Self { space }
    }

    /// The config space, to read.
    pub fn space(&self) -> &ConfigSpace {
        &self.space
    }

    /// The config space, to add capabilities and to set registers as the bridge itself.
    /// The guest's writes go to [`Self::write`].
    pub fn space_mut(&mut self) -> &mut ConfigSpace {
        &mut self.space
    }

    /// Takes what the guest writes and says what it changed.
    pub fn write(&mut self, write: ConfigWrite) -> Changes {
        let before = self.view();
        let mut changes = self.space.write(write);
        let after = self.view();
        changes.set(Changes::BUS_NUMBERS, before.numbers != after.numbers);
        if before.forwarded != after.forwarded {
            changes |= Changes::DECODE;
        }
        changes.set(Changes::SECONDARY_RESET, after.reset && !before.reset);
        // Released: what is behind answers again.
        if before.reset && !after.reset {
            changes |= Changes::DECODE;
        }
        changes
    }

    fn view(&self) -> View {
        View {
            numbers: (self.secondary(), self.subordinate()),
            forwarded: self.forwarded(),
            reset: self.control().secondary_bus_reset(),
        }
    }

    /// Secondary bus number.
    pub fn secondary(&self) -> u8 {
        self.space.get_u8(offset::SECONDARY)
    }

    /// Subordinate bus number.
    pub fn subordinate(&self) -> u8 {
        self.space.get_u8(offset::SUBORDINATE)
    }

    /// The Bridge Control register.
    pub fn control(&self) -> BridgeControl {
        BridgeControl(self.space.get_u16(offset::BRIDGE_CONTROL))
    }

    /// The ranges forwarded downstream now.
    pub fn forwarded(&self) -> Vec<Forwarded> {
        let mut ranges = Vec::new();
        if self.space.power_state() != PowerState::D0 {
            return ranges;
        }
        let command: Command = self.space.command();
        if command.io_space() {
            self.push_io(&mut ranges);
        }
        if command.memory_space() {
            self.push_memory(&mut ranges);
        }
        ranges
    }

    fn push_io(&self, ranges: &mut Vec<Forwarded>) {
        let mut push = |first, last| {
            ranges.push(Forwarded {
                space: Space::Io,
                first,
                last,
            });
        };
        let window = self.space.get_u16(offset::IO_WINDOW);
        let first = u64::from(window & 0xf0) << 8;
        let last = u64::from(window & 0xf000) | 0xfff;
        if first <= last && self.control().isa() {
            // Of every KiB only what is no alias of an ISA port (PCI-to-PCI Bridge 1.2
            // §3.2.5.18).
            for kib in (first..last).step_by(0x400) {
                push(kib, kib + 0xff);
            }
        } else if first <= last {
            push(first, last);
        }
        if self.control().vga() {
            push(0x3b0, 0x3bb);
            push(0x3c0, 0x3df);
        }
    }

    fn push_memory(&self, ranges: &mut Vec<Forwarded>) {
        let mut push = |first, last| {
            if first <= last {
                let space = Space::Memory;
                ranges.push(Forwarded { space, first, last });
            }
        };
        let (first, last) = megabytes(self.space.get_u32(offset::MEMORY_WINDOW));
        push(first, last);
        let (first, last) = megabytes(self.space.get_u32(offset::PREFETCH_WINDOW));
        let upper = |at| u64::from(self.space.get_u32(at)) << 32;
        push(
            first | upper(offset::PREFETCH_BASE_UPPER),
            last | upper(offset::PREFETCH_LIMIT_UPPER),
        );
        if self.control().vga() {
            push(0xa_0000, 0xb_ffff);
        }
    }

    /// As at power-on.
    pub fn reset(&mut self) {
        self.space.reset();
    }
}

/// A base and limit register pair: bits 31:20 of each address, limits to the last byte.
fn megabytes(window: u32) -> (u64, u64) {
    let first = u64::from(window & 0xfff0) << 16;
    let last = u64::from(window & 0xfff0_0000) | 0xf_ffff;
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capability, ClassCode, PowerManagement, Register};

    fn bridge() -> PciBridge {
        PciBridge::new(Ids {
            vendor: 0x8086,
            device: 0x3420,
            revision: 2,
            class: ClassCode {
                base: 6,
                sub: 4,
                interface: 0,
            },
            subsystem_vendor: 0,
            subsystem: 0,
        })
    }

    fn write(bridge: &mut PciBridge, offset: u16, value: u32) -> Changes {
        bridge.write(ConfigWrite::new(Register::containing(offset), value, 0xf))
    }

    fn range(space: Space, first: u64, last: u64) -> Forwarded {
        Forwarded { space, first, last }
    }

    #[test]
    fn windows_open_with_their_enables() {
        let mut bridge = bridge();
        write(&mut bridge, 0x1c, 0x0000_c1c0);
        write(&mut bridge, 0x20, 0xc1f0_c000);
        write(&mut bridge, 0x24, 0x0001_0001);
        write(&mut bridge, 0x28, 8);
        assert!(write(&mut bridge, 0x2c, 9).is_empty(), "all off yet");
        assert_eq!(write(&mut bridge, 4, 1), Changes::DECODE);
        assert_eq!(bridge.forwarded(), [range(Space::Io, 0xc000, 0xcfff)]);
        write(&mut bridge, 4, 2);
        assert_eq!(
            bridge.forwarded(),
            [
                range(Space::Memory, 0xc000_0000, 0xc1ff_ffff),
                range(Space::Memory, 0x8_0000_0000, 0x9_000f_ffff)
            ]
        );
        // A limit below its base closes a window.
        assert_eq!(write(&mut bridge, 0x20, 0xbff0_c000), Changes::DECODE);
        assert_eq!(bridge.forwarded().len(), 1);
    }

    #[test]
    fn a_bridge_asleep_forwards_nothing() {
        let mut bridge = bridge();
        let power = Capability::PowerManagement(PowerManagement {
            no_soft_reset: true,
        });
        let at = bridge.space_mut().add_capability(power).unwrap();
        write(&mut bridge, 4, 3);
        assert_ne!(bridge.forwarded(), []);
        let asleep = write(&mut bridge, u16::from(at) + 4, 3);
        assert!(asleep.contains(Changes::DECODE | Changes::POWER));
        assert_eq!(bridge.forwarded(), []);
    }

    #[test]
    fn isa_and_vga_ranges_follow_bridge_control() {
        let mut bridge = bridge();
        write(&mut bridge, 0x1c, 0x0000_1010);
        write(&mut bridge, 0x20, 0x0000_fff0);
        write(&mut bridge, 0x24, 0x0000_fff0);
        write(&mut bridge, 4, 3);
        write(&mut bridge, 0x3c, 0x0004_0000);
        let isa = [0x1000, 0x1400, 0x1800, 0x1c00];
        let isa = isa.map(|kib| range(Space::Io, kib, kib + 0xff));
        assert_eq!(bridge.forwarded(), isa);
        write(&mut bridge, 0x3c, 0x0008_0000);
        let vga = range(Space::Memory, 0xa_0000, 0xb_ffff);
        assert!(bridge.forwarded().contains(&vga));
    }

    #[test]
    fn a_reset_of_what_is_behind_is_told_once() {
        let mut bridge = bridge();
        let set = write(&mut bridge, 0x3c, 0x0040_0000);
        assert_eq!(set, Changes::SECONDARY_RESET);
        assert!(write(&mut bridge, 0x3c, 0x0040_0000).is_empty());
        let released = write(&mut bridge, 0x3c, 0);
        assert_eq!(released, Changes::DECODE);
        assert_eq!(write(&mut bridge, 0x18, 0x0005_0201), Changes::BUS_NUMBERS);
        assert_eq!((bridge.secondary(), bridge.subordinate()), (2, 5));
    }
}
