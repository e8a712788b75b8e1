//! A real function of the host through VFIO, with no guest: opened, mapped, interrupted,
//! reset and given back.
//!
//! Needs a function that is bound to vfio-pci, named by `SLUICE_ASSIGN`; the parts about
//! registers know the 82576's virtual function. In the lab:
//! `cargo lab run -- 'SLUICE_ASSIGN=$VF0 TEST-BINARY --ignored --nocapture'`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::bus::{FastPath, PciDevice};
use devices::irq::{MsiRoute, MsiRoutes, RouteError};
use devices::vfio::{AssignedDevice, Candidate, KernelDevice, OpenError, Presentation, ResetSet};
use iommu::host::{HostMapper, Type1, pin_memory};
use pci::{BarIndex, Bdf, Changes, ConfigWrite, Function, MsiMessage, Register};
use sluice::host::Host;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Routes that lead to a test.
#[derive(Default)]
struct Routes(Mutex<Vec<(MsiMessage, EventFd)>>);

struct Route(EventFd);

impl MsiRoutes for Routes {
    fn allocate(&self, _: Bdf, message: MsiMessage) -> Result<Box<dyn MsiRoute>, RouteError> {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut routes = self.0.lock().unwrap();
        routes.push((message, event.try_clone().unwrap()));
        Ok(Box::new(Route(event)))
    }
}

impl MsiRoute for Route {
    fn event(&self) -> &EventFd {
        &self.0
    }

    fn update(&self, _: MsiMessage) -> Result<(), RouteError> {
        Ok(())
    }
}

impl Routes {
    /// Waits for an interrupt on the route with this message.
    fn arrives(&self, data: u32) -> bool {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let routes = self.0.lock().unwrap();
            let of = routes.iter().filter(|(message, _)| message.data == data);
            if of.fold(false, |any, (_, event)| event.read().is_ok() || any) {
                return true;
            }
            drop(routes);
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

struct Rig {
    // In this order: the device goes before the memory it may do DMA to.
    device: Arc<AssignedDevice>,
    routes: Arc<Routes>,
    _memory: iommu::host::PinnedMemory,
    container: Arc<Type1>,
}

fn open() -> Option<Rig> {
    let address = std::env::var("SLUICE_ASSIGN").ok()?.parse().unwrap();
    let ready = Host::this_machine()
        .check_assignable(address)
        .unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{} in group {}", ready.function, ready.group.number);
    let container = Arc::new(Type1::open(None).unwrap_or_else(|e| panic!("{e}")));
    let candidate = Candidate {
        name: ready.function.address.to_string(),
        address: Some(ready.function.address),
        sysfs: ready.sysfs,
    };
    let backend = KernelDevice::open(&container, &candidate).unwrap_or_else(|e| panic!("{e}"));
    // A second container cannot have the group: it is in use.
    let other = Type1::open(None).unwrap();
    let busy = KernelDevice::open(&other, &candidate);
    assert!(matches!(busy, Err(OpenError::Busy { .. })));
    let ranges = [
        (GuestAddress(0), 64 << 20),
        (GuestAddress(1 << 32), 16 << 20),
    ];
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
    let mut steps = 0;
    let pinned = pin_memory(container.clone(), memory, &mut |_, _| steps += 1)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((steps, pinned.len()), (3, 80 << 20));
    let routes = Arc::new(Routes::default());
    let seat = ResetSet::new().enter(&address.to_string(), Some(address), Arc::new(backend));
    let device = AssignedDevice::new(seat, routes.clone(), &Presentation::default()).unwrap();
    device.set_bdf(Bdf::new(1, 0, 0));
    Some(Rig {
        device,
        routes,
        _memory: pinned,
        container,
    })
}

impl Rig {
    fn read(&self, offset: u16) -> u32 {
        self.device.read_config(Register::containing(offset))
    }

    fn write(&self, offset: u16, value: u32) -> Changes {
        let write = ConfigWrite::new(Register::containing(offset), value, 0xf);
        self.device.write_config(write)
    }

    fn bar_read(&self, bar: u8, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let region = self.device.region(BarIndex(bar)).unwrap();
        region.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn bar_write(&self, bar: u8, offset: u64, value: u32) {
        let region = self.device.region(BarIndex(bar)).unwrap();
        region.write(offset, &value.to_le_bytes());
    }

    fn find_capability(&self, id: u8) -> u16 {
        let mut at = self.read(0x34) as u16 & 0xff;
        while at != 0 {
            let header = self.read(at);
            if header as u8 == id {
                return at;
            }
            at = (header >> 8) as u16 & 0xff;
        }
        panic!("no capability {id:#x}")
    }

    fn set_vector(&self, table: (u8, u64), vector: u64, data: u32, mask: u32) {
        let at = table.1 + 16 * vector;
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, data), (12, mask)] {
            self.bar_write(table.0, at + offset, value);
        }
    }
}

impl Rig {
    /// Has the virtual function interrupt, as its driver's self test does. A cause that is
    /// set already interrupts no more.
    fn cause(&self, vector: u32) {
        self.bar_write(0, VTEICR, 7);
        self.bar_write(0, VTEIMS, 7);
        self.bar_write(0, VTEICS, 1 << vector);
    }
}

fn print_config(rig: &Rig) {
    for at in (0..0x200).step_by(16) {
        let row = [0, 4, 8, 12].map(|i| rig.read(at + i));
        if row != [0; 4] {
            eprintln!("{at:03x}: {row:08x?}");
        }
    }
}

/// The mapped page and the trapped register are the same register.
fn registers_answer(rig: &Rig) {
    let paths = rig.device.fast_paths(BarIndex(0));
    assert!(!paths.is_empty(), "BAR 0 is mapped");
    let Some(FastPath::Mapped { offset: 0, memory }) = paths.first() else {
        panic!("the first page of BAR 0 is mapped");
    };
    // SAFETY: the mapping lives as long as `paths`, is as long as it says, and the offset of
    // the status register lies in its first page.
    let mapped = unsafe { std::ptr::read_volatile((memory.host_address() + 8) as *const u32) };
    let trapped = rig.bar_read(0, 8);
    eprintln!("status: mapped {mapped:#010x}, trapped {trapped:#010x}");
    assert_eq!(mapped, trapped);
    assert_ne!(trapped, u32::MAX);
}

/// Interrupt causes of the 82576's virtual function (82576 datasheet §9): set them, enable
/// them, and clear them by writing ones.
const VTEICS: u64 = 0x1520;
const VTEIMS: u64 = 0x1524;
const VTEICR: u64 = 0x1580;

fn interrupts_arrive(rig: &Rig) {
    let at = rig.find_capability(0x11);
    let vectors = (rig.read(at) >> 16 & 0x7ff) + 1;
    let place = rig.read(at + 4);
    let table = ((place & 7) as u8, u64::from(place & !7));
    let place = rig.read(at + 8);
    let pending = ((place & 7) as u8, u64::from(place & !7));
    eprintln!("{vectors} vectors, table {table:x?}, pending {pending:x?}");
    rig.write(at, 0x8000_0000);
    rig.set_vector(table, 0, 0x40, 0);
    rig.set_vector(table, 2, 0x42, 0);
    let state = rig.device.state().msix.unwrap();
    eprintln!("{state:?}");
    assert_eq!((state.live, state.failures), (vec![0, 2], 0));
    for (vector, data) in [(0, 0x40), (2, 0x42)] {
        rig.cause(vector);
        assert!(rig.routes.arrives(data), "vector {vector}");
    }
    // Masked, it waits.
    rig.set_vector(table, 2, 0x42, 1);
    rig.cause(2);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.bar_read(pending.0, pending.1) & 4, 4);
    rig.set_vector(table, 2, 0x42, 0);
    assert!(rig.routes.arrives(0x42), "the one that waited");
    rig.write(at, 0);
}

#[test]
#[ignore = "needs a function bound to vfio-pci, named by SLUICE_ASSIGN"]
fn a_function_is_taken_used_and_given_back() {
    // The group is free for the next round although the containers are still there.
    let mut containers = Vec::new();
    for round in 0..2 {
        let Some(rig) = open() else {
            panic!("SLUICE_ASSIGN names no function");
        };
        if round == 0 {
            print_config(&rig);
        }
        assert_eq!(rig.read(0x3c) >> 8 & 0xff, 0, "no interrupt pin");
        let is_vf = rig.read(0) == 0x10ca_8086;
        rig.write(0x10, 0xc000_0000);
        assert!(
            rig.write(4, 6)
                .contains(Changes::DECODE | Changes::BUS_MASTER)
        );
        if is_vf {
            registers_answer(&rig);
            interrupts_arrive(&rig);
        }
        let resets = rig.device.state().resets;
        rig.device.reset();
        assert_eq!(rig.device.state().resets, resets + 1);
        assert!(rig.device.windows().is_empty());
        if is_vf {
            registers_answer(&rig);
        }
        containers.push(rig.container.clone());
        drop(rig);
        let mapper = containers.last().unwrap();
        mapper.unmap(0, 4096).expect("nothing is mapped any more");
    }
}
