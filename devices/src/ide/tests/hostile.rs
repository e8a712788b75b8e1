//! Guests that mean harm: whatever they write, nothing panics, hangs or leaks out of the
//! image, and a reset brings the drive back.

use std::sync::Arc;
use std::time::Duration;

use iommu::{Access, Identity};
use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{GuestAddress, VolatileSlice};

use super::libata::{Port, Tf};
use super::rig::{BUS_MASTER, RAM, Rig, disk, drive, image};
use crate::block::{BlockBackend, Failure, RawImage};
use crate::bus::Deferred;
use crate::dma::{Dma, GuestRam};
use crate::ide::DriveKind;
use crate::ide::prd::PrdWalk;
use crate::irq::MsiSink;

#[derive(Clone, Debug)]
enum Op {
    Write(u16, Vec<u8>),
    Read(u16, usize),
    Memory(u32, [u8; 8]),
    Config(u16, u32, u8),
    /// A command with its registers, plausible enough to be begun.
    Command(usize, Tf),
    Packet(usize, [u8; 12]),
    Reset,
    Pause(bool),
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        0x1f0u16..0x1f8,
        0x170u16..0x178,
        Just(0x3f6),
        Just(0x376),
        BUS_MASTER..BUS_MASTER + 16,
    ]
}

/// Lengths that stay within a port's region, as the machine splits the others.
fn within(port: u16, len: usize) -> usize {
    let end = match port {
        0x1f0..0x1f8 => 0x1f8,
        0x170..0x178 => 0x178,
        0x3f6 | 0x376 => port + 1,
        _ => BUS_MASTER + 16,
    };
    len.min(usize::from(end - port)).max(1)
}

fn opcode() -> impl Strategy<Value = u8> {
    const COMMON: [u8; 24] = [
        0x06, 0x08, 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x3d, 0x42, 0x90, 0x91, 0xa0,
        0xa1, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xea, 0xec, 0xef,
    ];
    prop_oneof![4 => proptest::sample::select(&COMMON[..]), 1 => any::<u8>()]
}

fn op() -> impl Strategy<Value = Op> {
    let tf = (
        opcode(),
        any::<u8>(),
        any::<u8>(),
        0u16..70,
        0u64..300,
        any::<bool>(),
    )
        .prop_map(|(command, device, feature, count, lba, lba48)| Tf {
            device,
            command,
            feature,
            count,
            lba,
            lba48,
        });
    let packet = (
        any::<[u8; 12]>(),
        proptest::sample::select(&[0x28u8, 0xa8, 0x43, 0x5a, 0x03][..]),
        any::<bool>(),
    )
        .prop_map(|(mut bytes, code, known)| {
            if known {
                bytes = [0; 12];
                bytes[0] = code;
                bytes[8] = 40;
            }
            bytes
        });
    prop_oneof![
        6 => (port(), vec(any::<u8>(), 1..5)).prop_map(|(p, d)| {
            let len = within(p, d.len());
            Op::Write(p, d[..len.min(d.len())].to_vec())
        }),
        6 => (port(), 1usize..5).prop_map(|(p, len)| Op::Read(p, within(p, len))),
        2 => (0u32..0x2000, any::<[u8; 8]>()).prop_map(|(at, b)| Op::Memory(at & !3, b)),
        1 => (0u16..0x50, any::<u32>(), any::<u8>()).prop_map(|(o, v, e)| Op::Config(o, v, e & 15)),
        6 => (0usize..2, tf).prop_map(|(channel, tf)| Op::Command(channel, tf)),
        2 => (0usize..2, packet).prop_map(|(channel, p)| Op::Packet(channel, p)),
        1 => Just(Op::Reset),
        1 => any::<bool>().prop_map(Op::Pause),
    ]
}

/// Registers in order and nothing waited for.
fn give(port: &Port<'_>, tf: &Tf) {
    let lba = tf.lba.to_le_bytes();
    port.set(6, 0xa0 | tf.device);
    if tf.lba48 {
        port.set(2, (tf.count >> 8) as u8);
        port.set(3, lba[3]);
    }
    let values = [tf.feature, tf.count as u8, lba[0], lba[1], lba[2]];
    for (register, value) in (1..).zip(values) {
        port.set(register, value);
    }
    port.rig.out32(port.bus_master() + 4, 0x1000);
    port.set(7, tf.command);
    port.rig.out8(port.bus_master(), 9);
}

fn perform(rig: &Rig, op: &Op) {
    match op {
        Op::Write(port, data) => rig.write(*port, data),
        Op::Read(port, len) => rig.read(*port, &mut [0; 8][..*len]),
        Op::Memory(at, bytes) => rig.store(u64::from(*at), bytes),
        Op::Config(offset, value, enables) => {
            rig.config(*offset, *value, *enables);
        }
        Op::Command(channel, tf) => give(&Port::new(rig, *channel), tf),
        Op::Packet(channel, packet) => {
            let port = Port::new(rig, *channel);
            rig.write(port.command_block(), packet);
            rig.read(port.command_block(), &mut [0; 4096]);
        }
        Op::Reset => pci::Function::reset(&rig.controller),
        Op::Pause(true) => rig.controller.quiesce(),
        Op::Pause(false) => rig.controller.resume(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_stream_of_accesses_does_harm(
        ops in vec(op(), 1..120),
        prds in vec(any::<[u8; 8]>(), 64),
        fast in any::<bool>(),
    ) {
        let files = [image(&vec![1; 200 * 512]), image(&vec![2; 300 * 512]), image(&vec![3; 50 * 2048])];
        let cdrom = RawImage::open(files[2].path(), true).unwrap();
        let rig = Rig::stopped([
            [Some(disk(&files[0])), Some(drive(DriveKind::Cdrom, Arc::new(cdrom)))],
            [Some(disk(&files[1])), None],
        ], fast);
        rig.controller.start().unwrap();
        rig.store(0x1000, &prds.concat());
        for op in &ops {
            perform(&rig, op);
        }
        rig.ring.flush();
        rig.controller.state();
        // A guest that comes to its senses finds everything in order.
        rig.controller.resume();
        pci::Function::reset(&rig.controller);
        rig.config(0x04, 0x0005, 0b0011);
        for channel in 0..2 {
            let port = Port::new(&rig, channel);
            port.soft_reset();
            let result = port.dma(&Tf::rw(0xc8, 3, 2), true, &[(0x10000, 1024)]);
            prop_assert_eq!(result, (4, 0x50));
            let (identity, status) = port.pio_in(&Tf::rw(0xec, 0, 0), 512, 512);
            prop_assert_eq!((identity.len(), status), (512, 0x50));
        }
        for (file, len) in files.iter().zip([200 * 512, 300 * 512, 50 * 2048]) {
            prop_assert_eq!(file.as_file().metadata().unwrap().len(), len);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..1500)) {
        crate::ide::fuzz::accesses(&bytes);
    }
}

struct NoMsi;

impl MsiSink for NoMsi {
    fn send(&self, _: pci::MsiMessage) {}
}

fn memory() -> (Arc<GuestRam>, Dma) {
    let memory = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap());
    let dma = Dma::new(memory.clone(), Arc::new(Identity), Arc::new(NoMsi));
    dma.set_bus_master(true);
    (memory, dma)
}

/// What the specification says a table is, with nothing clever: every region's address and
/// length, in order.
fn regions(table: u32, read: impl Fn(u32) -> u8) -> Vec<(u32, u32)> {
    let byte = |offset: u32| {
        let at = (table & !3).wrapping_add(offset) & 0xffff;
        u32::from(read(table & 0xffff_0000 | at))
    };
    let mut regions = Vec::new();
    for entry in 0..8192 {
        let at = |i: u32| byte(entry * 8 + i);
        let address = at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24;
        let count = at(4) | at(5) << 8;
        let len = if count & !1 == 0 { 0x10000 } else { count & !1 };
        regions.push((address & !1, len));
        if at(7) & 0x80 != 0 {
            break;
        }
    }
    regions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_walk_gives_what_the_table_says(
        table in prop_oneof![0x1000u32..0x1100, 0x1ff00u32..0x20000],
        entries in vec((0u32..RAM as u32 - 0x40000, 0u16..0x300, 0u8..20), 1..40),
        wants in vec(1u64..5000, 1..20),
        most in 1usize..20,
    ) {
        use vm_memory::Bytes;
        let (memory, dma) = memory();
        let put = |offset: u32, bytes: &[u8]| {
            for (at, byte) in (offset..).zip(bytes) {
                let place = table & 0xffff_0000 | ((table & !3).wrapping_add(at) & 0xffff);
                memory.write_slice(&[*byte], GuestAddress(u64::from(place))).unwrap();
            }
        };
        for (index, (address, count, end)) in (0u32..).zip(&entries) {
            // Beside the tables, so that the walk does not depend on its own data.
            let last = *end == 0 || index + 1 == entries.len() as u32;
            put(index * 8, &(address + 0x20000).to_le_bytes());
            put(index * 8 + 4, &(u32::from(*count) | u32::from(last) << 31).to_le_bytes());
        }
        let read = |at: u32| {
            let mut byte = [0];
            memory.read_slice(&mut byte, GuestAddress(u64::from(at))).unwrap();
            byte[0]
        };
        let expected: Vec<u64> = regions(table, read)
            .into_iter()
            .flat_map(|(address, len)| u64::from(address)..u64::from(address) + u64::from(len))
            .collect();
        let mut walk = PrdWalk::new(table);
        let mut got = Vec::new();
        let mut wants = wants.into_iter().cycle();
        loop {
            let want = wants.next().unwrap();
            let mut pieces = Vec::new();
            let n = walk.collect(&dma, &dma.begin(), want, Access::Read, most, &mut pieces).unwrap();
            prop_assert!(n <= want && pieces.len() <= most);
            prop_assert_eq!(n, pieces.iter().map(|p| p.len() as u64).sum::<u64>());
            let base = memory_base(&memory);
            for piece in &pieces {
                let start = piece.ptr_guard().as_ptr() as u64 - base;
                got.extend(start..start + piece.len() as u64);
            }
            if n == 0 {
                break;
            }
        }
        prop_assert!(walk.is_spent());
        prop_assert!(got == expected);
    }
}

fn memory_base(memory: &GuestRam) -> u64 {
    use vm_memory::GuestMemoryBackend;
    memory.get_host_address(GuestAddress(0)).unwrap() as u64
}

#[test]
fn a_table_without_an_end_ends() {
    let (_memory, dma) = memory();
    // All zeros: every descriptor is 64 KiB at address 0, and none is the last.
    let mut walk = PrdWalk::new(0x40000);
    let (mut total, mut pieces) = (0u64, Vec::new());
    loop {
        pieces.clear();
        match walk.collect(&dma, &dma.begin(), 1 << 20, Access::Read, 64, &mut pieces) {
            Ok(0) => break,
            Ok(n) => total += n,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(total, 8192 << 16);
    assert!(walk.is_spent());
}

#[test]
fn memory_that_is_not_there_is_an_error_and_ends_the_command() {
    let file = image(&vec![1; 64 * 512]);
    let rig = Rig::new([[Some(disk(&file)), None], [None, None]]);
    let port = Port::new(&rig, 0);
    let tf = Tf::rw(0xc8, 0, 2);
    // Data where nothing is; across the end of memory; over the end of 4 GiB.
    for address in [0x8000_0000u32, RAM as u32 - 512, 0xffff_fe00] {
        let (host, status) = port.dma(&tf, true, &[(address, 1024)]);
        assert_eq!((host & 7, status, port.get(1)), (6, 0x51, 4));
    }
    // The table itself where nothing is.
    port.load(&tf);
    port.bus_master_setup(0xfff0_0000, true);
    port.execute(tf.command);
    port.bus_master_start();
    port.line().wait();
    assert_eq!(port.interrupt().0 & 7, 6);
    // Not a bus master.
    rig.config(0x04, 0x0001, 0b0011);
    assert_eq!(port.dma(&tf, true, &[(0x10000, 1024)]).0 & 7, 6);
    rig.config(0x04, 0x0005, 0b0011);
    assert_eq!(port.dma(&tf, true, &[(0x10000, 1024)]), (4, 0x50));
}

/// A medium that takes its time, and says when it begins.
struct Slow {
    begun: std::sync::Mutex<std::sync::mpsc::Sender<()>>,
}

impl BlockBackend for Slow {
    fn len(&self) -> u64 {
        64 << 20
    }

    fn is_readonly(&self) -> bool {
        false
    }

    fn can_discard(&self) -> bool {
        false
    }

    fn read_vectored_at(&self, pieces: &[VolatileSlice<'_>], _: u64) -> Result<(), Failure> {
        self.begun.lock().unwrap().send(()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        for piece in pieces {
            piece.copy_from(&vec![1u8; piece.len()]);
        }
        Ok(())
    }

    fn write_vectored_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn whatever_ends_a_transfer_waits_until_memory_is_left_alone() {
    type End = fn(&Rig, &Port<'_>);
    let ends: [(&str, End); 5] = [
        ("SRST", |_, port| port.soft_reset()),
        ("stop", |_, port| port.bus_master_stop()),
        ("function reset", |rig, _| {
            pci::Function::reset(&rig.controller);
        }),
        ("no bus master", |rig, _| {
            rig.config(0x04, 0x0001, 0b0011);
        }),
        ("the end of the threads", |rig, _| rig.controller.stop()),
    ];
    for (name, end) in ends {
        let (begun, begins) = std::sync::mpsc::channel();
        let slow = Slow {
            begun: begun.into(),
        };
        let rig = Rig::new([
            [Some(drive(DriveKind::Disk, Arc::new(slow))), None],
            [None, None],
        ]);
        let port = Port::new(&rig, 0);
        let table: Vec<_> = (0..64).map(|i| (0x100000 + i % 16 * 0x10000, 0)).collect();
        rig.prds(0x8000, &table);
        let tf = Tf::rw(0x25, 0, 8192).ext();
        port.load(&tf);
        port.bus_master_setup(0x8000, true);
        port.execute(tf.command);
        port.bus_master_start();
        begins.recv_timeout(Duration::from_secs(20)).unwrap();
        end(&rig, &port);
        rig.store(0x100000, &[0xa5; 0x10000]);
        std::thread::sleep(Duration::from_millis(50));
        let intact = rig.load(0x100000, 0x10000) == [0xa5; 0x10000];
        assert!(intact, "{name} does not wait");
    }
}

#[test]
fn a_paused_transfer_is_whole() {
    let (begun, begins) = std::sync::mpsc::channel();
    let slow = Slow {
        begun: begun.into(),
    };
    let rig = Rig::new([
        [Some(drive(DriveKind::Disk, Arc::new(slow))), None],
        [None, None],
    ]);
    let port = Port::new(&rig, 0);
    rig.prds(0x8000, &[(0x100000, 0)]);
    let tf = Tf::rw(0x25, 0, 128).ext();
    port.load(&tf);
    port.bus_master_setup(0x8000, true);
    port.execute(tf.command);
    port.bus_master_start();
    begins.recv_timeout(Duration::from_secs(20)).unwrap();
    rig.controller.quiesce();
    assert_eq!(rig.load(0x100000, 0x10000), [1; 0x10000]);
    assert!(port.line().level());
    assert_eq!(port.interrupt(), (4, 0x50));
}
