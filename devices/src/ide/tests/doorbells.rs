//! The order between queued writes, doorbells and everything else.

use super::libata::{BSY, Port, Tf};
use super::rig::{Rig, disk, image};
use crate::bus::Deferred;

fn contents() -> Vec<u8> {
    (0..256 * 512).map(|i| (i / 512) as u8).collect()
}

fn rig(fast: bool) -> (Rig, tempfile::NamedTempFile) {
    let file = image(&contents());
    let rig = Rig::stopped([[Some(disk(&file)), None], [None, None]], fast);
    (rig, file)
}

/// Everything for a DMA read of one sector, without reading a register: two writes to the
/// table pointer's port, the task file, direction, status, command, start.
fn blind_read(port: &Port<'_>, lba: u8, table: u32) {
    port.rig.out32(port.bus_master() + 4, table);
    port.rig.out8(port.bus_master(), 8);
    port.rig.out8(port.bus_master() + 2, 6);
    for (register, value) in [(1, 0), (2, 1), (3, lba), (4, 0), (5, 0), (6, 0xe0)] {
        port.set(register, value);
    }
    port.set(7, 0xc8);
    port.rig.out8(port.bus_master(), 9);
}

#[test]
fn a_command_given_blindly_is_done_by_the_io_thread_alone() {
    let (rig, _file) = rig(true);
    rig.controller.start().unwrap();
    let port = Port::new(&rig, 0);
    rig.prds(0x8000, &[(0x10000, 512)]);
    for lba in 1..200 {
        let exits = rig.exits();
        blind_read(&port, lba, 0x8000);
        port.line().wait();
        assert_eq!(rig.exits(), exits, "nothing exits");
        assert_eq!(rig.load(0x10000, 512), [lba; 512]);
        assert_eq!(port.interrupt(), (4, 0x50));
    }
}

#[test]
fn a_read_sees_the_command_that_went_before() {
    let (rig, _file) = rig(true);
    let port = Port::new(&rig, 0);
    // No I/O thread runs: only the vCPU's own reads can take anything.
    blind_read(&port, 7, 0x8000);
    assert_eq!(port.alternate_status(), 0xd0, "busy");
    assert_eq!(rig.in8(port.bus_master()), 9);
    assert_eq!(port.bus_master_status() & 7, 1, "active");
    assert_eq!(port.get(3), 7);
    rig.prds(0x8000, &[(0x10000, 512)]);
    rig.controller.start().unwrap();
    port.line().wait();
    assert_eq!(rig.load(0x10000, 512), [7; 512]);
}

#[test]
fn a_start_before_its_command_works_too() {
    let (rig, _file) = rig(true);
    rig.controller.start().unwrap();
    let port = Port::new(&rig, 0);
    rig.prds(0x8000, &[(0x10000, 512)]);
    rig.out32(port.bus_master() + 4, 0x8000);
    rig.out8(port.bus_master(), 9);
    // The I/O thread has gone back to sleep with the bus master started.
    rig.until("active", || port.bus_master_status() & 1 == 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    for (register, value) in [(2, 1), (3, 9), (4, 0), (5, 0), (6, 0xe0)] {
        port.set(register, value);
    }
    port.set(7, 0xc8);
    port.line().wait();
    assert_eq!(rig.load(0x10000, 512), [9; 512]);
}

#[test]
fn clearing_the_last_interrupt_does_not_clear_the_next() {
    let (rig, _file) = rig(true);
    rig.controller.start().unwrap();
    let port = Port::new(&rig, 0);
    rig.prds(0x8000, &[(0x10000, 512)]);
    for lba in 0..100 {
        blind_read(&port, lba, 0x8000);
        port.line().wait();
        assert_eq!(port.bus_master_status() & 4, 4);
        rig.out8(port.bus_master(), 8);
        port.status();
        // Queued, and handed out together with the next command.
        rig.out8(port.bus_master() + 2, 4);
    }
}

#[test]
fn reset_right_after_a_command_wins() {
    let (rig, _file) = rig(true);
    let port = Port::new(&rig, 0);
    blind_read(&port, 3, 0x8000);
    rig.out8(port.control_block(), 0x0c);
    rig.out8(port.control_block(), 0x08);
    assert_eq!(port.alternate_status(), 0x50, "the command is gone");
    rig.controller.start().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(rig.load(0x10000, 512), [0; 512]);
    assert!(!port.line().level());
}

#[test]
fn stopping_a_transfer_leaves_memory_alone_and_starting_again_goes_on() {
    let (rig, _file) = rig(true);
    let port = Port::new(&rig, 0);
    rig.prds(0x8000, &[(0x10000, 512)]);
    blind_read(&port, 5, 0x8000);
    assert_eq!(port.bus_master_status() & 1, 1);
    port.bus_master_stop();
    assert_eq!(port.bus_master_status() & 1, 0);
    rig.controller.start().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(rig.load(0x10000, 512), [0; 512]);
    assert_eq!(port.alternate_status() & BSY, BSY);
    port.bus_master_start();
    port.line().wait();
    assert_eq!(rig.load(0x10000, 512), [5; 512]);
}

#[test]
fn registers_are_the_drives_while_it_is_busy() {
    let (rig, _file) = rig(true);
    let port = Port::new(&rig, 0);
    blind_read(&port, 6, 0x8000);
    port.alternate_status();
    port.set(3, 99);
    port.set(6, 0xf0);
    port.set(7, 0xec);
    rig.ring.flush();
    assert_eq!((port.get(3), port.get(6)), (6, 0xe0));
    assert_eq!(port.alternate_status() & BSY, BSY);
}

#[test]
fn without_fast_paths_all_is_the_same() {
    let (rig, _file) = rig(false);
    rig.controller.start().unwrap();
    let port = Port::new(&rig, 0);
    for lba in [4u8, 5] {
        let before = rig.exits();
        let tf = Tf::rw(0xc8, u64::from(lba), 1);
        assert_eq!(port.dma(&tf, true, &[(0x10000, 512)]), (4, 0x50));
        assert_eq!(rig.load(0x10000, 512), [lba; 512]);
        assert_eq!(rig.exits() - before, 26);
    }
}

#[test]
fn vcpus_that_race_on_one_channel_do_not_stop_it() {
    let (rig, _file) = rig(true);
    rig.controller.start().unwrap();
    let port = Port::new(&rig, 0);
    rig.prds(0x8000, &[(0x10000, 512)]);
    std::thread::scope(|scope| {
        for seed in 0..3u8 {
            let rig = &rig;
            scope.spawn(move || {
                let port = Port::new(rig, 0);
                for i in 0..300u16 {
                    blind_read(&port, seed.wrapping_mul(50).wrapping_add(i as u8), 0x8000);
                    port.status();
                    rig.out8(port.bus_master(), 8);
                    port.alternate_status();
                }
            });
        }
    });
    rig.out8(port.bus_master(), 8);
    port.soft_reset();
    rig.out8(port.bus_master() + 2, 6);
    port.status();
    assert_eq!(
        port.dma(&Tf::rw(0xc8, 77, 1), true, &[(0x10000, 512)]),
        (4, 0x50)
    );
    assert_eq!(rig.load(0x10000, 512), [77; 512]);
}
