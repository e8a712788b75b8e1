use std::sync::Mutex;

use super::*;
use crate::vfio::backend::{IrqKind, RegionId};
use crate::vfio::device::RequesterWatcher;
use crate::vfio::fake::Call;

/// What a driver does, from enumeration to traffic, with the device's answers ignored.
fn drive(rig: &Rig) {
    rig.read(0x00);
    rig.write(0x10, u32::MAX);
    rig.read(0x10);
    rig.write(0x10, 0xc000_0000);
    rig.write_u16(0x04, 0x0006);
    rig.device.fast_paths(BarIndex(0));
    rig.write(0x88, 0x2810);
    rig.write_u16(0x42, 0xc000);
    for vector in 0..3 {
        rig.bar_write(0, 0x2000 + 16 * vector, 0xfee0_0000);
        rig.bar_write(0, 0x2008 + 16 * vector, vector as u32);
        rig.bar_write(0, 0x200c + 16 * vector, 0);
    }
    rig.write_u16(0x42, 0x8000);
    rig.bar_write(0, 0x1000, 1);
    rig.bar_read(0, 0x1000);
    rig.bar_write(0, 0x200c, 1);
    rig.bar_read(0, 0x3000);
    rig.bar_write(0, 0x200c, 0);
    rig.device.set_bdf(Bdf::new(2, 0, 0));
    rig.write_u16(0x64, 3);
    rig.write_u16(0x64, 0);
    rig.write_u16(0x42, 0);
    rig.write_u16(0x42, 0x8000);
}

fn works(rig: &Rig) -> bool {
    rig.device.reset();
    drive(rig);
    rig.routes.delivered();
    rig.hardware.fire(1) && rig.routes.delivered() == [message(1)]
}

#[test]
fn whatever_call_fails_the_device_lives_and_works_after_a_reset() {
    for growable in [true, false] {
        let mut steps = 0;
        for step in 0.. {
            let mut hardware = nvme();
            hardware.msix.growable = growable;
            let rig = Rig::new(hardware);
            rig.hardware.fail_at(step);
            drive(&rig);
            if !rig.hardware.has_failed() {
                break;
            }
            assert!(works(&rig), "after call {step} failed");
            steps += 1;
        }
        assert!(steps > 20, "{steps} calls were tried");
    }
}

#[test]
fn a_device_that_answers_nothing_any_more_does_no_harm() {
    let rig = Rig::nvme();
    drive(&rig);
    rig.hardware.set_dead(true);
    drive(&rig);
    rig.device.reset();
    assert_eq!(rig.routes.live(), []);
    rig.hardware.set_dead(false);
    assert!(works(&rig));
}

#[test]
fn it_is_reset_when_taken_and_when_given_back() {
    let hardware = Arc::new(nvme());
    let routes = Arc::new(FakeRoutes::default());
    let seat = seat("0000:03:00.0", hardware.clone());
    let device = AssignedDevice::new(seat, routes.clone(), &Presentation::default()).unwrap();
    assert_eq!(hardware.calls()[0], Call::Reset);
    assert_eq!(device.state().resets, 1);
    let rig = Rig {
        hardware,
        routes: (*routes).clone(),
        device,
    };
    drive(&rig);
    rig.hardware.calls();
    let master_off = Call::Write(RegionId::Config, 4, vec![0x02, 0x04]);
    rig.device.release();
    let calls = rig.hardware.calls();
    let order = [
        Call::Disable(IrqKind::Msix),
        master_off.clone(),
        Call::Reset,
        master_off,
    ];
    assert_eq!(calls, order);
    assert_eq!(rig.routes.live(), []);
    rig.device.release();
    assert_eq!(rig.hardware.calls(), [], "once is enough");
    let hardware = rig.hardware.clone();
    drop(rig);
    assert_eq!(hardware.calls(), []);
}

#[test]
fn a_drop_gives_it_back_too() {
    let rig = Rig::nvme();
    drive(&rig);
    let hardware = rig.hardware.clone();
    drop(rig);
    assert!(hardware.calls().ends_with(&[
        Call::Reset,
        Call::Write(RegionId::Config, 4, vec![0x02, 0x04])
    ]));
    assert_eq!(hardware.enabled(), None);
}

#[derive(Default)]
struct Watcher(Mutex<Vec<Bdf>>);

impl RequesterWatcher for Watcher {
    fn requester_changed(&self, requester: Bdf) {
        self.0.lock().unwrap().push(requester);
    }
}

#[test]
fn whoever_watches_is_told_of_each_requester_id() {
    let rig = Rig::nvme();
    let watcher = Arc::new(Watcher::default());
    let watched: Arc<dyn RequesterWatcher> = watcher.clone();
    rig.device.watch_requester(Arc::downgrade(&watched));
    rig.device.set_bdf(Bdf::new(1, 0, 0));
    rig.device.set_bdf(Bdf::default());
    let told = [Bdf::new(1, 0, 0), Bdf::default()];
    assert_eq!(*watcher.0.lock().unwrap(), told);
    drop((watcher, watched));
    rig.device.set_bdf(Bdf::new(2, 0, 0));
}

#[test]
fn nothing_of_the_guests_survives_a_reset_but_the_requester_id() {
    let fresh = Rig::nvme().device.state();
    let rig = Rig::nvme();
    rig.device.set_bdf(Bdf::new(1, 0, 0));
    drive(&rig);
    rig.device.set_bdf(Bdf::new(1, 0, 0));
    rig.write(0x3c, 0x55);
    assert_ne!(rig.device.state().config, fresh.config);
    for reset in [
        (|rig| rig.device.reset()) as fn(&Rig),
        // A function-level reset.
        |rig| {
            let changes = rig.write_u16(0x88, 0x8000);
            assert!(changes.contains(Changes::FUNCTION_RESET | Changes::DECODE));
        },
    ] {
        rig.write(0x10, 0xc000_0000);
        rig.write_u16(0x04, 0x0006);
        rig.write_u16(0x42, 0x8000);
        assert_eq!(rig.device.windows().len(), 1);
        reset(&rig);
        let after = rig.device.state();
        assert_eq!(after.config, fresh.config);
        assert_eq!(after.msi, fresh.msi);
        assert_eq!(after.msix, fresh.msix);
        assert_eq!(after.requester, Bdf::new(1, 0, 0));
        assert_eq!(rig.hardware.config_u16(4), 0x0402, "no bus master");
        assert_eq!(rig.device.windows(), []);
        assert_eq!(rig.bar_read(0, 0x200c), 1, "vectors are masked");
    }
    assert_eq!(rig.device.state().resets, 3);
}

#[test]
fn a_device_that_cannot_be_reset_is_at_least_stopped() {
    let mut hardware = nvme();
    hardware.can_reset = false;
    let rig = Rig::new(hardware);
    drive(&rig);
    assert_eq!(rig.hardware.config_u16(4) & 4, 4);
    rig.device.release();
    assert_eq!(rig.hardware.config_u16(4) & 4, 0);
    assert_eq!(rig.hardware.enabled(), None);
    assert_eq!(rig.device.state().resets, 0);
}

#[test]
fn its_state_can_be_written_down() {
    fn is_data<T: serde::Serialize>(_: &T) {}
    let rig = Rig::nvme();
    drive(&rig);
    let state = rig.device.state();
    is_data(&state);
    assert_eq!(state.name, "0000:02:10.0");
    assert_eq!(state.msix.unwrap().live, [0, 1, 2]);
}
