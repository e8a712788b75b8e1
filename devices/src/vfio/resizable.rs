//! Resizable BARs (PCIe 6.0 §7.8.6), as the guest has them.
//!
//! How large a BAR is in the device was decided on the host, before the device was assigned
//! (`resourceN_resize` in sysfs): only there is it known what fits under its bridges. The
//! guest is offered that size and every smaller one that the device has. A smaller one needs
//! nothing of the device: the guest reaches the first part of the BAR and no more. So a guest
//! without room for a large BAR can still place it; QEMU offers the present size alone. Larger
//! ones are not offered: a driver that sees one asks for it, and would be told that it got it.

use pci::{BarIndex, ConfigSpace, Register};

use super::bars::Bar;
use super::capabilities::{Found, Snapshot};

/// The smallest size that can be told: 1 MiB, in BAR Size 0.
const LEAST: u32 = 20;
/// BAR Size in the control register.
const SIZE: u32 = 0x3f << 8;
/// Bytes of the capability and control registers of one BAR.
const ENTRY: u16 = 8;
const MOST: u16 = 6;

/// The resizable BARs of a device.
#[derive(Default)]
pub(super) struct Resizable {
    bars: Vec<ResizableBar>,
}

struct ResizableBar {
    index: BarIndex,
    /// Where its control register is.
    control: Register,
    /// Bit n for 1 MiB << n.
    sizes: u32,
    /// The sizes now, and after a reset.
    now: u32,
    at_reset: u32,
}

/// BAR Size for so many bytes.
fn encode(bytes: u64) -> Option<u32> {
    let size = bytes.checked_ilog2()?.checked_sub(LEAST)?;
    // Sizes up to 128 TiB have their bits in the first register.
    (bytes.is_power_of_two() && size < 28).then_some(size)
}

impl Resizable {
    /// Lays the capability into the space, for those BARs that the guest has. None: there is
    /// nothing to show.
    pub fn lay(
        space: &mut ConfigSpace,
        device: &Snapshot,
        found: Found,
        bars: &[Bar],
    ) -> Option<Self> {
        let at = found.offset;
        // Number of Resizable BARs is in the first control register alone.
        let count = (device.u32(at + 8) >> 5 & 7) as u16;
        let fitting = (found.room.saturating_sub(4) / ENTRY).min(MOST);
        let entries = (0..count.min(fitting)).filter_map(|n| {
            let entry = at + 4 + ENTRY * n;
            let index = BarIndex((device.u32(entry + 4) & 7) as u8);
            let bar = bars.iter().find(|bar| bar.index == index && !bar.is_io())?;
            let now = encode(bar.size)?;
            let supported = device.u32(entry) >> 4;
            let sizes = supported & ((1 << now) - 1) | 1 << now;
            Some((index, sizes, now))
        });
        let entries: Vec<_> = entries.collect();
        if entries.is_empty() {
            return None;
        }
        space.define(at, u32::from(found.id), 0, 0);
        let mut resizable = Self::default();
        let number = entries.len() as u32;
        for (entry, (index, sizes, now)) in (at + 4..).step_by(ENTRY.into()).zip(entries) {
            space.define(entry, sizes << 4, 0, 0);
            let number = if entry == at + 4 { number << 5 } else { 0 };
            let control = now << 8 | number | u32::from(index.0);
            space.define(entry + 4, control, SIZE, 0);
            resizable.bars.push(ResizableBar {
                index,
                control: Register::containing(entry + 4),
                sizes,
                now,
                at_reset: now,
            });
        }
        Some(resizable)
    }

    /// The register is a control register.
    pub fn controls(&self, register: Register) -> bool {
        self.bars.iter().any(|bar| bar.control == register)
    }

    /// Follows a write to a control register; true if a BAR's size changed. A size that is
    /// not supported is not taken.
    pub fn follow(&mut self, space: &mut ConfigSpace, written: Register) -> bool {
        let Some(bar) = self.bars.iter_mut().find(|bar| bar.control == written) else {
            return false;
        };
        let control = space.read(written);
        let wanted = (control & SIZE) >> 8;
        let supported = 1u32.checked_shl(wanted).unwrap_or(0) & bar.sizes != 0;
        if !supported || wanted == bar.now {
            space.put_u32(written.offset(), control & !SIZE | bar.now << 8);
            return false;
        }
        bar.now = wanted;
        bar.apply(space);
        true
    }

    /// The space has just been reset: so are the sizes.
    pub fn reset(&mut self, space: &mut ConfigSpace) {
        for bar in &mut self.bars {
            bar.now = bar.at_reset;
            bar.apply(space);
        }
    }
}

impl ResizableBar {
    fn apply(&self, space: &mut ConfigSpace) {
        // One of its sizes, none of which is too large for its kind.
        let resized = space.resize_bar(self.index, 1 << (LEAST + self.now));
        if let Err(error) = resized {
            tracing::error!(%error, "a BAR was not resized");
        }
    }
}
