use std::collections::BTreeSet;

use super::*;
use crate::vfio::backend::IrqKind;

#[test]
fn errors_and_requests_are_told_from_the_start_and_after_a_reset() {
    let rig = Rig::igbvf();
    let told = |rig: &Rig| {
        let error = rig.device.error_event().unwrap().read().is_ok();
        let request = rig.device.request_event().unwrap().read().is_ok();
        (error, request)
    };
    assert_eq!(told(&rig), (false, false));
    assert!(rig.hardware.announce(IrqKind::Error));
    assert_eq!(told(&rig), (true, false));
    rig.device.reset();
    assert!(rig.hardware.announce(IrqKind::Request));
    assert_eq!(told(&rig), (false, true));
}

#[test]
fn a_device_of_which_nothing_is_told_is_taken_all_the_same() {
    let mut hardware = igbvf();
    hardware.announces = false;
    let rig = Rig::new(hardware);
    assert!(rig.device.error_event().is_none());
    assert!(rig.device.request_event().is_none());
}

#[test]
fn an_event_that_cannot_be_armed_is_missing_alone() {
    let armed: BTreeSet<_> = (0..2000)
        .filter_map(|step| {
            let hardware = Arc::new(igbvf());
            hardware.fail_at(step);
            let routes = Arc::new(FakeRoutes::default());
            let seat = seat("0000:02:10.0", hardware);
            let device = AssignedDevice::new(seat, routes, &Presentation::default()).ok()?;
            Some((
                device.error_event().is_some(),
                device.request_event().is_some(),
            ))
        })
        .collect();
    assert_eq!(
        armed,
        BTreeSet::from([(false, true), (true, false), (true, true)])
    );
}
