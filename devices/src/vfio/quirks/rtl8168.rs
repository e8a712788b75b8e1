//! Realtek's RTL8168. Besides BAR 4, where PCI says that it is, its MSI-X table can be reached
//! through a pair of registers in BAR 2, and its drivers for Windows do so.
//!
//! The register at 74h takes the address: bit 31 is the order, 1 to write; bits 30:16 select
//! what is addressed, 1 being the table; bits 15:12 are byte enables and bits 11:0 the offset.
//! It shows bit 31 turned round when the order is done. The register at 70h has the data.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Identity, Quirk, Surroundings};

pub(super) const VENDOR: u16 = 0x10ec;
pub(super) const DEVICE: u16 = 0x8168;

const DATA: u64 = 0x70;
const ADDRESS: u64 = 0x74;

bitfield::bitfield! {
    /// The register at 74h.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    struct Order(u32);
    impl Debug;
    offset, _: 11, 0;
    select, _: 30, 16;
    is_write, _: 31;
}

impl Order {
    const MSIX_TABLE: u32 = 1;
    const DONE: u32 = 1 << 31;
}

pub(super) fn registers(_: &Identity<'_>) -> Vec<Box<dyn Quirk>> {
    vec![Box::new(Backdoor::default())]
}

#[derive(Default)]
struct Backdoor(Mutex<State>);

#[derive(Clone, Copy, Default)]
struct State {
    /// The last order, if it was for the table.
    order: Option<Order>,
    data: u32,
}

impl Backdoor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quirk for Backdoor {
    fn name(&self) -> &'static str {
        "rtl8168 MSI-X table behind BAR 2"
    }

    fn range(&self) -> Range<u64> {
        DATA..ADDRESS + 4
    }

    fn read(&self, around: &dyn Surroundings, offset: u64, data: &mut [u8]) {
        around.read_device(offset, data);
        let order = self.state().order;
        let (Some(order), 4) = (order, data.len()) else {
            return;
        };
        if offset == ADDRESS {
            data.copy_from_slice(&(order.0 ^ Order::DONE).to_le_bytes());
        } else if offset == DATA {
            around.read_msix_table(order.offset().into(), data);
        }
    }

    fn write(&self, around: &dyn Surroundings, offset: u64, data: &[u8]) {
        if let Ok(word) = <[u8; 4]>::try_from(data) {
            let word = u32::from_le_bytes(word);
            if offset == DATA {
                self.state().data = word;
            } else if offset == ADDRESS && self.take(around, Order(word)) {
                // Not for the device: it has the host's messages in its table.
                return;
            }
        }
        around.write_device(offset, data);
    }

    fn reset(&self) {
        *self.state() = State::default();
    }
}

impl Backdoor {
    /// Takes an order; true if that was all there is to do.
    fn take(&self, around: &dyn Surroundings, order: Order) -> bool {
        let data = {
            let mut state = self.state();
            state.order = (order.select() == Order::MSIX_TABLE).then_some(order);
            state.data
        };
        order.select() == Order::MSIX_TABLE
            && order.is_write()
            && around.write_msix_table(order.offset().into(), &data.to_le_bytes())
    }
}
