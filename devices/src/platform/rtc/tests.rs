use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{FakeAlarm, FakeClock, Probe, run_until, torture};

/// 2024-02-29 12:34:56 UTC, a Thursday.
const START: u64 = 1_709_210_096;
const S: Nanos = 1_000_000_000;

/// Wall time that goes with the machine's clock.
struct Wall(Arc<FakeClock>, Mutex<Duration>);

impl WallClock for Wall {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + *self.1.lock().unwrap() + Duration::from_nanos(self.0.now())
    }
}

struct Rig {
    rtc: Arc<Rtc>,
    line: Arc<Probe>,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
    wall: Arc<Wall>,
}

impl Rig {
    fn new() -> Self {
        Self::with_memory(512 << 20, 0)
    }

    fn with_memory(below: u64, above: u64) -> Self {
        let clock = Arc::new(FakeClock::default());
        let alarm = Arc::new(FakeAlarm::default());
        let wall = Arc::new(Wall(clock.clone(), Duration::from_secs(START).into()));
        let (line, irq) = Probe::line();
        let rtc = Arc::new(Rtc::new(RtcConfig {
            line: irq,
            wall: wall.clone(),
            clock: clock.clone(),
            alarm: alarm.clone(),
            memory_below_4g: below,
            memory_above_4g: above,
            processors: 4,
        }));
        Self {
            rtc,
            line,
            clock,
            alarm,
            wall,
        }
    }

    fn get(&self, cell: u8) -> u8 {
        self.rtc.write_port(0x70, cell);
        self.rtc.read_port(0x71)
    }

    fn put(&self, cell: u8, value: u8) {
        self.rtc.write_port(0x70, cell);
        self.rtc.write_port(0x71, value);
    }

    fn time(&self) -> [u8; 8] {
        TIME_REGISTERS.map(|cell| self.get(cell))
    }

    fn run(&self, for_: Nanos) -> usize {
        let end = self.clock.now() + for_;
        run_until(&self.clock, &self.alarm, &*self.rtc, end, 0)
    }
}

#[test]
fn tells_the_time_in_every_format() {
    let rig = Rig::new();
    assert_eq!(rig.time(), [0x56, 0x34, 0x12, 5, 0x29, 0x02, 0x24, 0x20]);
    rig.put(index::B, 0x06);
    assert_eq!(rig.time(), [56, 34, 12, 5, 29, 2, 24, 20]);
    rig.put(index::B, 0x00);
    assert_eq!(rig.get(index::HOURS), 0x92);
    rig.clock.advance(12 * 3600 * S);
    assert_eq!(rig.get(index::HOURS), 0x12);
    assert_eq!((rig.get(index::DAY), rig.get(index::MONTH)), (0x01, 0x03));
}

#[test]
fn shows_an_update_coming() {
    let rig = Rig::new();
    assert_eq!(rig.get(index::A), 0x26);
    rig.clock.set(S - 245_000);
    assert_eq!(rig.get(index::A), 0x26);
    rig.clock.set(S - 244_000);
    assert_eq!(rig.get(index::A), 0xa6);
    rig.clock.set(S);
    assert_eq!(rig.get(index::A), 0x26);
    assert_eq!(rig.get(index::SECONDS), 0x57);
}

/// As Linux's `mc146818_set_time` does it.
#[test]
fn can_be_set_and_updates_half_a_second_later() {
    let rig = Rig::new();
    rig.clock.set(300_000_000);
    let (a, b) = (rig.get(index::A), rig.get(index::B));
    rig.put(index::B, b | 0x80);
    rig.put(index::A, a | 0x70);
    let time = [0x59, 0x59, 0x23, 7, 0x31, 0x12, 0x99, 0x19];
    for (cell, value) in TIME_REGISTERS.into_iter().zip(time) {
        rig.put(cell, value);
    }
    rig.clock.advance(5 * S);
    assert_eq!(rig.time(), time, "it stands still");
    rig.put(index::B, b);
    rig.put(index::A, a);
    rig.clock.advance(499_999_999);
    // The weekday is the date's own.
    assert_eq!(rig.time(), [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19]);
    rig.clock.advance(1);
    assert_eq!(rig.time(), [0, 0, 0, 7, 1, 1, 0, 0x20]);
}

#[test]
fn set_alone_keeps_the_phase_and_a_write_without_it_counts() {
    let rig = Rig::new();
    rig.clock.set(900_000_000);
    rig.put(index::B, 0x92);
    assert_eq!(rig.get(index::B), 0x82, "SET clears UIE");
    rig.put(index::SECONDS, 0x10);
    rig.put(index::B, 0x02);
    rig.clock.advance(100_000_000);
    assert_eq!(rig.get(index::SECONDS), 0x11);
    rig.put(index::MINUTES, 0x00);
    assert_eq!(rig.time()[..3], [0x11, 0x00, 0x12]);
    assert_eq!(rig.rtc.state().ahead, -(34 * 60 + 46) * SECOND);
}

#[test]
fn nonsense_dates_carry_on() {
    let rig = Rig::new();
    for cell in TIME_REGISTERS {
        rig.put(cell, 0xff);
    }
    rig.put(index::B, 0x86);
    for cell in TIME_REGISTERS {
        rig.put(cell, 0xff);
    }
    rig.put(index::B, 0x06);
    rig.time();
}

#[test]
fn periodic_interrupts_come_at_their_rate_when_acknowledged() {
    let rig = Rig::new();
    rig.put(index::A, 0x2f); // 2 Hz
    rig.get(index::C);
    rig.put(index::B, 0x42);
    assert_eq!(rig.run(499_999_999), 0);
    assert_eq!(rig.run(1), 1);
    assert!(rig.line.level());
    assert_eq!(rig.run(10 * S), 0, "nothing more until it is acknowledged");
    assert_eq!(rig.get(index::C), 0xd0, "with the update flag beside it");
    assert!(!rig.line.level());
    rig.line.take_rises();
    for _ in 0..10 {
        rig.run(S / 2);
        rig.get(index::C);
    }
    assert_eq!(rig.line.take_rises(), 10);
}

#[test]
fn periods_are_those_of_the_manual() {
    let period = |rate: u8| RegisterA(0x20 | rate).period();
    assert_eq!(period(0), None);
    let expected = [
        128, 256, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
    ];
    for (rate, ticks) in (1..).zip(expected) {
        assert_eq!(period(rate), Some(ticks), "rate {rate}");
    }
}

#[test]
fn update_ended_interrupts_each_second() {
    let rig = Rig::new();
    rig.clock.set(250_000_000);
    rig.put(index::B, 0x12);
    rig.run(749_999_999);
    assert!(!rig.line.level());
    rig.run(1);
    assert!(rig.line.level());
    assert_eq!(rig.get(index::C) & !0x40, 0x90);
    assert_eq!(rig.run(S), 1);
}

#[test]
fn the_alarm_goes_off_at_its_time_and_with_wildcards() {
    let rig = Rig::new();
    rig.put(index::SECONDS_ALARM, 0x00);
    rig.put(index::MINUTES_ALARM, 0x36);
    rig.put(index::HOURS_ALARM, 0xc0);
    rig.put(index::B, 0x22);
    rig.get(index::C);
    rig.run(63 * S + S - 1);
    assert!(!rig.line.level());
    rig.run(1);
    assert_eq!(rig.time()[..3], [0x00, 0x36, 0x12]);
    assert!(rig.line.level());
    assert_eq!(rig.get(index::C) & 0xa0, 0xa0);
    rig.run(3600 * S);
    assert!(rig.line.level(), "and an hour later again");
}

#[test]
fn an_alarm_follows_the_hosts_clock_when_that_is_set() {
    let rig = Rig::new();
    rig.put(index::SECONDS_ALARM, 0x00);
    rig.put(index::MINUTES_ALARM, 0x00);
    rig.put(index::HOURS_ALARM, 0x14);
    rig.put(index::B, 0x22);
    *rig.wall.1.lock().unwrap() += Duration::from_secs(3600);
    rig.run(26 * 60 * S);
    assert!(rig.line.level());
    rig.get(index::C);
    *rig.wall.1.lock().unwrap() -= Duration::from_secs(86_400);
    rig.run(S);
    assert!(!rig.line.level());
}

#[test]
fn flags_can_be_polled_and_idle_costs_nothing() {
    let rig = Rig::new();
    rig.get(index::C);
    assert_eq!(rig.run(2 * S), 0);
    assert_eq!(rig.get(index::C), 0x50);
    assert_eq!(rig.get(index::C), 0);
    assert_eq!(rig.alarm.deadline(), None);
}

#[test]
fn memory_and_processors_are_in_their_cells() {
    let word = |rig: &Rig, cell| u16::from_le_bytes([rig.get(cell), rig.get(cell + 1)]);
    let rig = Rig::new();
    assert_eq!(word(&rig, 0x15), 640);
    assert_eq!(word(&rig, 0x17), 65535);
    assert_eq!(word(&rig, 0x30), 65535);
    assert_eq!(word(&rig, 0x34), 496 << 4);
    assert_eq!(word(&rig, 0x5b), 0);
    assert_eq!(rig.get(0x5f), 3);
    let rig = Rig::with_memory(32 << 20, 6 << 30);
    assert_eq!(word(&rig, 0x17), 31 << 10);
    assert_eq!(word(&rig, 0x34), 16 << 4);
    assert_eq!((word(&rig, 0x5b), rig.get(0x5d)), (0x8000, 1));
    let rig = Rig::with_memory(1 << 19, u64::MAX);
    assert_eq!((word(&rig, 0x17), word(&rig, 0x34)), (0, 0));
    assert_eq!(rig.get(0x5d), 0xff);
}

#[test]
fn banks_are_apart_and_repeat() {
    let rig = Rig::new();
    rig.put(0x40, 0x11);
    rig.rtc.write_port(0x72, 0xc0);
    rig.rtc.write_port(0x73, 0x22);
    assert_eq!(rig.get(0x40), 0x11);
    assert_eq!(rig.rtc.read_port(0x77), 0x22);
    assert_eq!(rig.rtc.read_port(0x75), 0x11);
    assert_eq!(rig.rtc.read_port(0x70), FLOATING);
    rig.rtc.put(0x3d, 0x21);
    rig.rtc.put(index::B, 0xff);
    assert_eq!((rig.get(0x3d), rig.get(index::B)), (0x21, 0x02));
}

#[test]
fn port_0x70_masks_nmis() {
    let rig = Rig::new();
    assert!(rig.rtc.nmi_masked());
    rig.rtc.write_port(0x70, 0x0f);
    assert!(!rig.rtc.nmi_masked());
    rig.rtc.write_port(0x70, 0x8f);
    assert!(rig.rtc.nmi_masked());
}

#[test]
fn reset_keeps_what_is_on_the_battery() {
    let rig = Rig::new();
    rig.put(index::HOURS, 0x07);
    rig.put(index::HOURS_ALARM, 0x08);
    rig.put(0x40, 0x55);
    rig.put(index::B, 0x7e);
    rig.run(2 * S);
    assert!(rig.line.level());
    rig.rtc.reset();
    assert!(!rig.line.level());
    assert_eq!(rig.alarm.deadline(), None);
    assert_eq!(rig.get(index::B), 0x06);
    assert_eq!(rig.get(index::C), 0);
    assert_eq!(
        (rig.get(index::HOURS), rig.get(index::HOURS_ALARM)),
        (7, 0x08)
    );
    assert_eq!((rig.get(0x40), rig.get(index::D)), (0x55, 0x80));
}

proptest! {
    #[test]
    fn survives_anything(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u8>()), 0..200)
    ) {
        let rig = Rig::new();
        for step in steps {
            torture(&*rig.rtc, &[0x70, 0x71, 0x72, 0x73], &[step]);
            rig.run(u64::from(step.2) * 1_000_000);
            if step.0 == 7 {
                rig.rtc.reset();
            }
            prop_assert_eq!(rig.rtc.state().interrupting, rig.line.level());
        }
    }
}
