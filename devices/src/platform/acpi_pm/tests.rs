use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{FakeAlarm, FakeClock, FakePower, Probe, run_until};

struct Rig {
    pm: Arc<AcpiPm>,
    power: Arc<FakePower>,
    sci: Arc<Probe>,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(FakeClock::default());
        let alarm = Arc::new(FakeAlarm::default());
        let power = Arc::new(FakePower::default());
        let (sci, line) = Probe::line();
        let pm = Arc::new(AcpiPm::new(AcpiPmConfig {
            sci: line,
            power: power.clone(),
            clock: clock.clone(),
            alarm: alarm.clone(),
        }));
        Self {
            pm,
            power,
            sci,
            clock,
            alarm,
        }
    }

    fn read(&self, offset: u8, len: usize) -> u64 {
        let mut data = [0; 8];
        self.pm.read(offset.into(), &mut data[..len]);
        u64::from_le_bytes(data)
    }

    fn write(&self, offset: u8, len: usize, value: u64) {
        self.pm.write(offset.into(), &value.to_le_bytes()[..len]);
    }

    fn run(&self, for_: Nanos) -> usize {
        let end = self.clock.now() + for_;
        run_until(&self.clock, &self.alarm, &*self.pm, end, 0)
    }
}

#[test]
fn acpi_is_on_after_reset() {
    let rig = Rig::new();
    assert_eq!(rig.read(offset::PM1_CONTROL, 2), 1);
    assert_eq!(rig.read(offset::SMI_ENABLE, 4), 0x20);
    assert_eq!((rig.read(0, 4), rig.read(offset::GPE0_STATUS, 8)), (0, 0));
}

#[test]
fn the_timer_runs_at_3579545_hz_in_24_bits() {
    let rig = Rig::new();
    rig.clock.set(1_000_000_000);
    assert_eq!(rig.read(offset::TIMER, 4), 3_579_545);
    rig.clock.set(10_000_000_000);
    assert_eq!(rig.read(offset::TIMER, 4), 35_795_450 % (1 << 24));
    assert_eq!(rig.read(offset::TIMER + 1, 1), 35_795_450 >> 8 & 0xff);
    rig.clock.set(u64::MAX);
    assert!(rig.read(offset::TIMER, 4) < 1 << 24);
}

#[test]
fn the_timers_carry_can_be_polled_or_interrupt() {
    let rig = Rig::new();
    assert_eq!(rig.run(2_300_000_000), 0);
    assert_eq!(rig.read(offset::PM1_STATUS, 2), 0);
    assert_eq!(rig.run(100_000_000), 0, "polling takes no alarm");
    assert_eq!(rig.read(offset::PM1_STATUS, 2), 1);
    rig.write(offset::PM1_STATUS, 2, 1);
    rig.write(offset::PM1_ENABLE, 2, 1);
    assert!(!rig.sci.level());
    assert_eq!(rig.run(2_400_000_000), 1);
    assert!(rig.sci.level());
    assert_eq!(rig.run(20_000_000_000), 0, "not again until it is cleared");
    rig.write(offset::PM1_STATUS, 2, 1);
    assert!(!rig.sci.level());
    assert_eq!(rig.run(23_435_000_000), 1);
    rig.write(offset::PM1_ENABLE, 2, 0);
    assert!(!rig.sci.level());
    assert_eq!(rig.alarm.deadline(), None);
}

#[test]
fn the_power_button_raises_an_sci() {
    let rig = Rig::new();
    rig.write(offset::PM1_ENABLE, 2, 0x100);
    rig.pm.press_power_button();
    assert!(rig.sci.level());
    assert_eq!(rig.read(offset::PM1_STATUS, 2), 0x100);
    rig.write(offset::PM1_STATUS, 1, 0xff);
    assert!(rig.sci.level());
    rig.write(offset::PM1_STATUS + 1, 1, 0x01);
    assert!(!rig.sci.level());
}

#[test]
fn general_purpose_events_raise_an_sci() {
    let rig = Rig::new();
    rig.pm.raise_gpe(33);
    rig.pm.raise_gpe(64);
    rig.write(offset::GPE0_ENABLE + 4, 4, 2);
    assert!(rig.sci.level());
    assert_eq!(rig.read(offset::GPE0_STATUS, 8), 1 << 33);
    rig.write(offset::GPE0_STATUS, 8, 1 << 33);
    assert!(!rig.sci.level());
}

#[test]
fn sleeping_in_s5_or_s4_powers_off() {
    let rig = Rig::new();
    rig.write(offset::PM1_CONTROL, 2, 7 << 10 | 1);
    assert_eq!(rig.power.offs(), 0);
    rig.write(offset::PM1_CONTROL, 2, 7 << 10 | 1 << 13 | 1);
    assert_eq!(rig.power.offs(), 1);
    assert_eq!(rig.read(offset::PM1_CONTROL, 4), 7 << 10 | 1);
    rig.write(offset::PM1_CONTROL, 4, 6 << 10 | 1 << 13);
    rig.write(offset::PM1_CONTROL + 1, 1, (7 << 10 | 1 << 13) >> 8);
    assert_eq!(rig.power.offs(), 3);
    rig.write(offset::PM1_CONTROL, 2, 5 << 10 | 1 << 13);
    assert_eq!(rig.power.offs(), 3);
}

#[test]
fn firmware_can_turn_scis_off_and_on() {
    let rig = Rig::new();
    rig.write(offset::PM1_ENABLE, 2, 0x100);
    rig.pm.press_power_button();
    rig.pm.write_port(APM_CONTROL, ACPI_DISABLE);
    assert!(!rig.sci.level());
    assert_eq!(rig.read(offset::PM1_CONTROL, 2), 0);
    rig.pm.write_port(APM_CONTROL, ACPI_ENABLE);
    assert!(rig.sci.level());
    rig.pm.write_port(APM_STATUS, 0x5a);
    let apm = [APM_CONTROL, APM_STATUS].map(|port| rig.pm.read_port(port));
    assert_eq!(apm, [ACPI_ENABLE, 0x5a]);
}

#[test]
fn only_bits_that_exist_can_be_set() {
    let rig = Rig::new();
    rig.pm.write(2, &[0xff; 2]);
    assert_eq!(rig.read(offset::PM1_ENABLE, 2), 0x4521);
    rig.pm.write(4, &[0xff, 0x1f, 0xff, 0xff]);
    assert_eq!(rig.read(offset::PM1_CONTROL, 4), 0x1c03);
    rig.write(offset::SMI_ENABLE, 4, 0);
    assert_eq!(rig.read(offset::SMI_ENABLE, 4), 0x20);
    rig.write(offset::TIMER, 4, 0xffff);
    assert_eq!(rig.read(offset::TIMER, 4), 0);
}

#[test]
fn nothing_survives_reset() {
    let rig = Rig::new();
    rig.write(offset::PM1_ENABLE, 2, 0x101);
    rig.write(offset::GPE0_ENABLE, 8, u64::MAX);
    rig.pm.raise_gpe(3);
    rig.pm.write_port(APM_CONTROL, ACPI_DISABLE);
    rig.pm.write_port(APM_CONTROL, ACPI_ENABLE);
    assert!(rig.sci.level());
    rig.pm.reset();
    assert!(!rig.sci.level());
    assert_eq!(rig.pm.state(), AcpiPmState::new(0));
    assert_eq!(rig.alarm.deadline(), None);
}

proptest! {
    #[test]
    fn survives_anything(
        steps in prop::collection::vec(
            (any::<u8>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..200)
    ) {
        let rig = Rig::new();
        for (offset, write, mut data) in steps {
            if write {
                rig.pm.write(offset.into(), &data);
            } else {
                rig.pm.read(offset.into(), &mut data);
            }
            rig.run(u64::from(offset) * 10_000_000);
            prop_assert_eq!(rig.pm.state().sci, rig.sci.level());
        }
    }
}
