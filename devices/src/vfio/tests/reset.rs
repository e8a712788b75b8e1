use super::*;
use crate::vfio::backend::{Affected, ResetMethod};
use crate::vfio::fake::Call;
use crate::vfio::reset::{Reset, Standing};

const FIRST: &str = "0000:06:00.0";
const SECOND: &str = "0000:06:00.1";

fn affected(address: &str, driver: Option<&str>) -> Affected {
    Affected {
        address: address.parse().unwrap(),
        ours: driver.is_none(),
        driver: driver.map(str::to_owned),
    }
}

/// A function that only power management resets, on a bus with these.
fn weak(bus: Option<Vec<Affected>>) -> FakeBackend {
    let mut hardware = e1000e();
    hardware.reset_method = Some(ResetMethod::Pm);
    hardware.bus = bus;
    hardware
}

fn twin() -> Arc<FakeBackend> {
    let bus = vec![affected(FIRST, None), affected(SECOND, None)];
    Arc::new(weak(Some(bus)))
}

fn take(seat: Arc<Seat>) -> Arc<AssignedDevice> {
    AssignedDevice::new(
        seat,
        Arc::new(FakeRoutes::default()),
        &Presentation::default(),
    )
    .unwrap()
}

/// The resets among the calls since the last time.
fn resets(hardware: &FakeBackend) -> Vec<Call> {
    let is_reset = |call: &Call| matches!(call, Call::Reset | Call::HotReset);
    hardware.calls().into_iter().filter(is_reset).collect()
}

/// The guest turns on decoding: from here on it may do anything to the device.
fn touch(device: &AssignedDevice) {
    device.write_config(ConfigWrite::new(Register::containing(4), 6, 0b0011));
}

/// Two functions that share a bus, taken together.
struct Twins {
    hardware: [Arc<FakeBackend>; 2],
    devices: [Arc<AssignedDevice>; 2],
}

impl Twins {
    fn new() -> Self {
        let set = ResetSet::new();
        let hardware = [twin(), twin()];
        let enter = |name: &str, hardware: &Arc<FakeBackend>| {
            set.enter(name, name.parse().ok(), hardware.clone())
        };
        let seats = [enter(FIRST, &hardware[0]), enter(SECOND, &hardware[1])];
        Self {
            devices: seats.map(take),
            hardware,
        }
    }

    fn resets(&self) -> [Vec<Call>; 2] {
        [resets(&self.hardware[0]), resets(&self.hardware[1])]
    }

    fn standings(&self) -> [Standing; 2] {
        [0, 1].map(|n| self.devices[n].state().standing)
    }
}

#[test]
fn a_function_level_reset_is_enough() {
    let mut hardware = nvme();
    hardware.bus = Some(vec![affected(FIRST, None)]);
    let hardware = Arc::new(hardware);
    let device = take(seat(FIRST, hardware.clone()));
    assert_eq!(resets(&hardware), [Call::Reset]);
    let state = device.state();
    assert_eq!(
        state.last_reset,
        Some(Reset::Function(Some(ResetMethod::Flr)))
    );
    assert_eq!((state.not_reset, state.standing), (None, Standing::Reset));
}

#[test]
fn a_reset_of_the_bus_is_better_than_one_by_power_management() {
    let hardware = Arc::new(weak(Some(vec![affected(FIRST, None)])));
    let device = take(seat(FIRST, hardware.clone()));
    assert_eq!(resets(&hardware), [Call::HotReset]);
    assert_eq!(device.state().last_reset, Some(Reset::Bus(vec![])));
    touch(&device);
    device.reset();
    assert_eq!(resets(&hardware), [Call::HotReset]);
    touch(&device);
    device.release();
    assert_eq!(resets(&hardware), [Call::HotReset]);
}

#[test]
fn what_the_guest_has_not_touched_is_not_reset_again() {
    let hardware = Arc::new(nvme());
    let device = take(seat(FIRST, hardware.clone()));
    device.write_config(ConfigWrite::new(Register::containing(0x10), u32::MAX, 0xf));
    device.write_config(ConfigWrite::new(Register::containing(0x04), 0, 0b0011));
    device.reset();
    device.release();
    assert_eq!(resets(&hardware), [Call::Reset], "when taken");
    // A capability is enough of a touch.
    let device = take(seat(FIRST, hardware.clone()));
    device.write_config(ConfigWrite::new(Register::containing(0x88), 0, 0b0011));
    device.reset();
    assert_eq!(resets(&hardware), [Call::Reset, Call::Reset]);
}

#[test]
fn a_bus_with_others_devices_on_it_is_left_alone_and_they_are_named() {
    let bus = vec![affected(FIRST, None), affected(SECOND, Some("e1000e"))];
    let hardware = Arc::new(weak(Some(bus)));
    let device = take(seat(FIRST, hardware.clone()));
    assert_eq!(resets(&hardware), [Call::Reset]);
    let state = device.state();
    assert_eq!(
        state.last_reset,
        Some(Reset::Function(Some(ResetMethod::Pm)))
    );
    assert_eq!(
        state.not_reset.unwrap(),
        "a reset of its bus would also reset 0000:06:00.1 (e1000e); assign that too"
    );
    assert_eq!(state.standing, Standing::Asked);
}

#[test]
fn a_device_that_cannot_be_reset_says_why() {
    let mut hardware = weak(None);
    hardware.can_reset = false;
    let device = take(seat(FIRST, Arc::new(hardware)));
    let state = device.state();
    assert_eq!((state.resets, state.last_reset), (0, None));
    let why = state.not_reset.unwrap();
    assert!(why.contains("cannot reset its bus"), "{why}");
    assert!(why.contains("no reset for this function"), "{why}");
}

#[test]
fn devices_taken_together_are_reset_once_and_together() {
    let twins = Twins::new();
    assert_eq!(twins.resets(), [vec![Call::HotReset], vec![]]);
    for (device, other) in twins.devices.iter().zip([SECOND, FIRST]) {
        let state = device.state();
        assert_eq!(state.last_reset, Some(Reset::Bus(vec![other.into()])));
        assert_eq!((state.resets, state.standing), (1, Standing::Reset));
    }
}

#[test]
fn the_machines_reset_resets_them_once_and_together() {
    let twins = Twins::new();
    twins.devices.iter().for_each(|device| touch(device));
    twins.resets();
    twins.devices.iter().for_each(|device| device.reset());
    // The first has no better one while the second is in use; then both are reset.
    assert_eq!(twins.resets(), [vec![Call::Reset], vec![Call::HotReset]]);
    assert_eq!(twins.standings(), [Standing::Reset; 2]);
    for hardware in &twins.hardware {
        assert_eq!(hardware.config_u16(4) & 4, 0, "no bus master");
    }
    twins.devices.iter().for_each(|device| device.reset());
    assert_eq!(
        twins.resets(),
        [vec![], vec![]],
        "nobody touched them since"
    );
}

#[test]
fn one_that_is_reset_alone_leaves_the_other_alone() {
    let twins = Twins::new();
    twins.devices.iter().for_each(|device| touch(device));
    twins.resets();
    twins.devices[0].reset();
    assert_eq!(twins.resets(), [vec![Call::Reset], vec![]]);
    assert_eq!(twins.standings(), [Standing::Asked, Standing::InUse]);
    let state = twins.devices[0].state();
    assert_eq!(
        state.not_reset.unwrap(),
        "a reset of its bus would also reset 0000:06:00.1, which the guest uses"
    );
    assert_eq!(twins.hardware[1].config_u16(4) & 4, 4, "still a bus master");
}

#[test]
fn given_back_one_by_one_they_are_reset_at_the_end() {
    let Twins { hardware, devices } = Twins::new();
    devices.iter().for_each(|device| touch(device));
    hardware.iter().for_each(|hardware| drop(hardware.calls()));
    let [first, second] = devices;
    drop(first);
    assert_eq!(resets(&hardware[0]), [Call::Reset]);
    drop(second);
    // The first one's IOMMU group is still ours, as the kernel says.
    assert_eq!(resets(&hardware[1]), [Call::HotReset]);
}

#[test]
fn whatever_call_fails_both_live_on_and_are_reset_the_next_time() {
    for step in 0.. {
        let twins = Twins::new();
        twins.devices.iter().for_each(|device| touch(device));
        twins
            .hardware
            .iter()
            .for_each(|hardware| hardware.fail_at(step));
        twins.devices.iter().for_each(|device| device.reset());
        if !twins.hardware.iter().any(|hardware| hardware.has_failed()) {
            assert!(step > 4, "{step} calls were tried");
            break;
        }
        twins.devices.iter().for_each(|device| touch(device));
        twins.devices.iter().for_each(|device| device.reset());
        assert_eq!(twins.standings(), [Standing::Reset; 2], "step {step}");
    }
}

#[test]
fn resets_from_several_threads_end() {
    let twins = Twins::new();
    std::thread::scope(|scope| {
        for device in &twins.devices {
            scope.spawn(|| {
                for _ in 0..200 {
                    touch(device);
                    device.reset();
                }
            });
        }
    });
    twins.devices.iter().for_each(|device| device.release());
    assert_eq!(twins.standings(), [Standing::Reset; 2]);
}
