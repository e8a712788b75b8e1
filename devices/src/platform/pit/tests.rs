use proptest::prelude::*;

use super::*;
use crate::platform::fakes::{FakeAlarm, FakeClock, Probe, run_until, torture};

struct Rig {
    pit: Arc<Pit>,
    line: Arc<Probe>,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(FakeClock::default());
        let alarm = Arc::new(FakeAlarm::default());
        let (line, irq) = Probe::line();
        let pit = Arc::new(Pit::new(PitConfig {
            line: irq,
            clock: clock.clone(),
            alarm: alarm.clone(),
        }));
        Self {
            pit,
            line,
            clock,
            alarm,
        }
    }

    fn out(&self, port: u16, value: u8) {
        self.pit.write_port(port, value);
    }

    fn read(&self, port: u16) -> u8 {
        self.pit.read_port(port)
    }

    /// Programs a counter with low and high byte.
    fn program(&self, counter: u8, mode: u8, count: u16) {
        self.out(CONTROL, counter << 6 | 0x30 | mode << 1);
        let [low, high] = count.to_le_bytes();
        self.out(0x40 + u16::from(counter), low);
        self.out(0x40 + u16::from(counter), high);
    }

    fn count(&self, counter: u8) -> u16 {
        self.out(CONTROL, counter << 6);
        let port = 0x40 + u16::from(counter);
        u16::from_le_bytes([self.read(port), self.read(port)])
    }

    fn status(&self, counter: u8) -> u8 {
        self.out(CONTROL, 0xe0 | 2 << counter);
        self.read(0x40 + u16::from(counter))
    }

    fn output(&self, counter: u8) -> bool {
        self.status(counter) & 0x80 != 0
    }

    /// Moves to a tick counted from the beginning, with no alarm on the way.
    fn at(&self, tick: i64) {
        self.clock.set(nanos(tick));
    }

    fn run(&self, for_: Nanos, late: Nanos) -> usize {
        let end = self.clock.now() + for_;
        run_until(&self.clock, &self.alarm, &*self.pit, end, late)
    }
}

const MS: Nanos = 1_000_000;

#[test]
fn ticks_and_nanoseconds_agree() {
    for tick in [0, 1, 2, 3, 1_193_181, 1_193_182, 123_456_789_012] {
        assert_eq!(ticks(nanos(tick)), tick);
        assert!(tick == 0 || ticks(nanos(tick) - 1) == tick - 1);
    }
    ticks(u64::MAX);
}

/// 8254, figure 15: the count 4 in mode 0.
#[test]
fn mode_0_rises_one_clock_after_the_count_ends() {
    let rig = Rig::new();
    rig.program(0, 0, 4);
    let seen: Vec<_> = (0..8)
        .map(|tick| {
            rig.at(tick);
            (rig.count(0), rig.output(0))
        })
        .collect();
    let counts = [4, 3, 2, 1, 0, 0xffff, 0xfffe];
    for (tick, count) in (1..).zip(counts) {
        assert_eq!(seen[tick], (count, tick >= 5), "tick {tick}");
    }
    assert!(!seen[0].1);
}

/// Figures 17 and 18: the output over two periods.
#[test]
fn modes_2_and_3_have_their_wave_forms() {
    let wave = |mode, count| -> Vec<(u16, bool)> {
        let rig = Rig::new();
        rig.program(0, mode, count);
        (1..=2 * i64::from(count))
            .map(|tick| {
                rig.at(tick);
                (rig.count(0), rig.output(0))
            })
            .collect()
    };
    let mode_2 = [(3, true), (2, true), (1, false)].repeat(2);
    assert_eq!(wave(2, 3), mode_2);
    let even = [(4, true), (2, true), (4, false), (2, false)].repeat(2);
    assert_eq!(wave(3, 4), even);
    let odd = [(4, true), (2, true), (0, true), (4, false), (2, false)].repeat(2);
    assert_eq!(wave(3, 5), odd);
}

/// Figure 19: a strobe of one clock.
#[test]
fn mode_4_strobes_once() {
    let rig = Rig::new();
    rig.program(0, 4, 3);
    let outputs: Vec<_> = (0..8)
        .map(|tick| {
            rig.at(tick);
            rig.output(0)
        })
        .collect();
    let expected = [true, true, true, true, false, true, true, true];
    assert_eq!(outputs, expected);
}

/// Figures 16 and 20: counter 2's gate triggers, again and again.
#[test]
fn modes_1_and_5_wait_for_their_gate() {
    for (mode, low) in [(1, 1..=3), (5, 4..=4)] {
        let rig = Rig::new();
        rig.program(2, mode, 3);
        rig.at(10);
        assert!(rig.output(2));
        for start in [20, 40] {
            rig.at(start);
            rig.out(SYSTEM_CONTROL_B, 0);
            rig.out(SYSTEM_CONTROL_B, 1);
            for tick in 0..8 {
                rig.at(start + tick);
                let output = rig.read(SYSTEM_CONTROL_B) & 0x20 != 0;
                assert_eq!(output, !low.contains(&tick), "mode {mode} tick {tick}");
            }
        }
    }
}

#[test]
fn gates_pause_or_restart() {
    let rig = Rig::new();
    rig.out(SYSTEM_CONTROL_B, 1);
    rig.program(2, 0, 100);
    rig.at(11);
    rig.out(SYSTEM_CONTROL_B, 0);
    rig.at(1000);
    assert_eq!(rig.count(2), 90);
    rig.out(SYSTEM_CONTROL_B, 1);
    rig.at(1010);
    assert_eq!(rig.count(2), 80);

    rig.program(2, 2, 100);
    rig.at(1100);
    rig.out(SYSTEM_CONTROL_B, 0);
    assert_eq!(rig.count(2), 11);
    rig.at(1200);
    assert_eq!((rig.count(2), rig.output(2)), (11, true));
    rig.out(SYSTEM_CONTROL_B, 1);
    rig.at(1201);
    assert_eq!(rig.count(2), 100);
}

#[test]
fn a_new_count_of_a_running_wave_takes_over_at_its_end() {
    let rig = Rig::new();
    rig.out(CONTROL, 0x14); // mode 2, low byte only
    rig.out(0x40, 10);
    rig.at(4);
    rig.out(0x40, 4);
    assert_eq!(rig.status(0) & 0x40, 0x40, "null count until then");
    rig.at(10);
    assert!(!rig.output(0));
    rig.at(11);
    assert_eq!(rig.status(0) & 0x40, 0);
    let outputs: Vec<_> = (11..19)
        .map(|tick| {
            rig.at(tick);
            rig.output(0)
        })
        .collect();
    assert_eq!(outputs, [true, true, true, false].repeat(2));

    let rig = Rig::new();
    rig.out(CONTROL, 0x16); // mode 3
    rig.out(0x40, 10);
    rig.at(2);
    rig.out(0x40, 4);
    let outputs: Vec<_> = (1..=12)
        .map(|tick| {
            rig.at(tick);
            rig.output(0)
        })
        .collect();
    let expected = [true; 5]
        .into_iter()
        .chain([false, false, true, true, false, false, true]);
    assert_eq!(outputs, expected.collect::<Vec<_>>());
}

#[test]
fn counts_in_bcd() {
    let rig = Rig::new();
    rig.out(CONTROL, 0x31);
    rig.out(0x40, 0x00);
    rig.out(0x40, 0x10); // 1000
    rig.at(1 + 1);
    assert_eq!(rig.count(0), 0x0999);
    rig.at(1 + 1001);
    assert_eq!(rig.count(0), 0x9999);
    rig.out(CONTROL, 0x35);
    rig.out(0x40, 0);
    rig.out(0x40, 0); // 10000
    assert_eq!(rig.pit.state().counters[0].reload, 10_000);
}

#[test]
fn latches_hold_until_read_and_status_comes_first() {
    let rig = Rig::new();
    rig.program(0, 2, 1000);
    rig.at(101);
    rig.out(CONTROL, 0xc2); // read back status and count
    rig.at(501);
    rig.out(CONTROL, 0x00); // ignored: a count is latched
    assert_eq!(rig.read(0x40), 0xb4);
    assert_eq!(u16::from_le_bytes([rig.read(0x40), rig.read(0x40)]), 900);
    assert_eq!(u16::from_le_bytes([rig.read(0x40), rig.read(0x40)]), 500);
    assert_eq!(rig.read(CONTROL), FLOATING);
}

#[test]
fn single_byte_accesses() {
    let rig = Rig::new();
    rig.out(CONTROL, 0x24); // mode 2, high byte only
    rig.out(0x40, 0x12);
    assert_eq!(rig.pit.state().counters[0].reload, 0x1200);
    rig.at(1);
    assert_eq!((rig.read(0x40), rig.read(0x40)), (0x12, 0x12));
    rig.out(CONTROL, 0x14);
    rig.out(0x40, 0x34);
    rig.at(2 + 4);
    assert_eq!((rig.read(0x40), rig.read(0x40)), (0x30, 0x30));
}

#[test]
fn the_first_byte_stops_mode_0() {
    let rig = Rig::new();
    rig.program(0, 0, 100);
    rig.at(200);
    assert!(rig.output(0));
    rig.out(0x40, 10);
    assert!(!rig.output(0));
    rig.at(5000);
    assert!(!rig.output(0));
    rig.out(0x40, 0);
    rig.at(5011);
    assert!(rig.output(0));
}

/// Linux's `pit_calibrate_tsc`: 50 ms on counter 2, seen through port 0x61.
#[test]
fn calibration_through_port_0x61_measures_true_time() {
    let rig = Rig::new();
    rig.clock.set(123_456_789);
    let old = rig.read(SYSTEM_CONTROL_B);
    rig.out(SYSTEM_CONTROL_B, old & !0x02 | 0x01);
    rig.program(2, 0, (FREQUENCY / 20) as u16);
    let start = rig.clock.now();
    while rig.read(SYSTEM_CONTROL_B) & 0x20 == 0 {
        rig.clock.advance(1000);
    }
    let took = rig.clock.now() - start;
    assert!(took.abs_diff(50 * MS) < 4000, "{took} ns");
    assert_eq!(rig.alarm.deadline(), None);
}

/// And its `quick_pit_calibrate`: the high byte of a free-running count.
#[test]
fn quick_calibration_sees_every_high_byte() {
    let rig = Rig::new();
    rig.out(SYSTEM_CONTROL_B, 0x01);
    rig.program(2, 0, 0xffff);
    let mut seen = 0xff;
    for _ in 0..50_000 {
        rig.clock.advance(1000);
        let (_, high) = (rig.read(0x42), rig.read(0x42));
        assert!(high == seen || high == seen - 1);
        seen = high;
    }
    let expected = (0xffff - ticks(50 * MS) + 1) >> 8;
    assert_eq!(i64::from(seen), expected);
}

#[test]
fn the_refresh_bit_toggles_every_15_microseconds() {
    let rig = Rig::new();
    let toggles = (0..1000)
        .map(|i| {
            rig.clock.set(i * 1000);
            rig.read(SYSTEM_CONTROL_B) & 0x10
        })
        .collect::<Vec<_>>()
        .windows(2)
        .filter(|w| w[0] != w[1])
        .count();
    assert_eq!(toggles, 66);
    rig.out(SYSTEM_CONTROL_B, 0xff);
    assert_eq!(rig.read(SYSTEM_CONTROL_B) & 0xcf, 0x0f);
}

#[test]
fn periodic_interrupts_do_not_drift() {
    for mode in [2, 3] {
        let rig = Rig::new();
        rig.program(0, mode, 11_932); // 100 Hz
        rig.line.take_rises();
        // Ten seconds, every alarm up to 3 ms late.
        for i in 0..10 {
            rig.run(1000 * MS, i * 300_000);
        }
        let expected = (ticks(10_000 * MS) - 1) / 11_932;
        assert!(rig.line.take_rises().abs_diff(expected as usize) <= 1);
    }
}

#[test]
fn missed_ticks_are_made_up_at_twice_the_rate() {
    let rig = Rig::new();
    rig.program(0, 2, 1193); // 1000 Hz
    rig.run(10 * MS, 0);
    assert_eq!(rig.line.take_rises(), 10);
    rig.clock.advance(20 * MS);
    assert_eq!(rig.run(0, 0), 1);
    assert_eq!(rig.line.take_rises(), 1);
    rig.run(10 * MS, 0);
    assert_eq!(rig.line.take_rises(), 20);
    rig.run(60 * MS, 0);
    assert_eq!(rig.line.take_rises(), 20 - 1 + 60 - 10);
}

#[test]
fn what_is_owed_is_bounded() {
    let rig = Rig::new();
    rig.program(0, 2, 1193);
    rig.clock.advance(3_600_000 * MS);
    rig.run(0, 0);
    assert_eq!(rig.pit.state().owed, MOST_OWED - 1);
    rig.program(0, 2, 11_932);
    assert_eq!(rig.pit.state().owed, 0);
    rig.line.take_rises();
    rig.run(105 * MS, 0);
    assert_eq!(rig.line.take_rises(), 10);
}

#[test]
fn the_smallest_counts_do_not_storm() {
    for (mode, count) in [(2, 1), (2, 2), (3, 1), (3, 2), (0, 1), (4, 1)] {
        let rig = Rig::new();
        rig.program(0, mode, count);
        assert!(rig.run(100 * MS, 0) <= 1001, "mode {mode} count {count}");
    }
}

#[test]
fn one_shots_interrupt_once_each() {
    for mode in [0, 4] {
        let rig = Rig::new();
        rig.program(0, mode, 1193);
        for _ in 0..5 {
            assert_eq!(rig.run(10 * MS, 0), 1, "mode {mode}");
            // Only the count again, as Linux sets the next event.
            rig.out(0x40, 0xa9);
            rig.out(0x40, 0x04);
        }
        rig.run(10 * MS, 0);
        assert_eq!(rig.line.take_rises(), 6);
        assert_eq!(rig.alarm.deadline(), None);
    }
}

#[test]
fn a_one_shot_comes_on_time_after_a_slow_period() {
    let rig = Rig::new();
    rig.program(0, 3, 0); // 18.2 Hz
    rig.run(60 * MS, 0);
    assert_eq!(rig.line.take_rises(), 1);
    rig.program(0, 4, 1193);
    rig.run(MS + 10_000, 0);
    assert_eq!(rig.line.take_rises(), 1);
}

#[test]
fn reset_stops_everything() {
    let rig = Rig::new();
    rig.program(0, 2, 1193);
    rig.program(2, 3, 100);
    rig.out(SYSTEM_CONTROL_B, 3);
    rig.run(5 * MS, 0);
    rig.pit.reset();
    assert_eq!(rig.pit.state(), PitState::new(ticks(5 * MS)));
    assert_eq!((rig.alarm.deadline(), rig.line.level()), (None, false));
    assert_eq!(rig.run(1000 * MS, 0), 0);
}

proptest! {
    #[test]
    fn survives_anything(
        steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u8>()), 0..200)
    ) {
        let rig = Rig::new();
        for step in steps {
            torture(&*rig.pit, &[0x40, 0x41, 0x42, 0x43, 0x61], &[step]);
            rig.run(u64::from(step.2) * 20_000, 0);
            let state = rig.pit.state();
            prop_assert!(state.owed <= MOST_OWED);
        }
    }

    /// The time of the next rise is what stepping through the output finds.
    #[test]
    fn next_rise_is_where_the_output_rises(
        mode in 0_u8..6, first in 2_u16..40, second in 2_u16..40,
        rewrite_at in 2_i64..60, steps in 100_i64..200,
    ) {
        let mut counter = Counter::new(true);
        counter.write_control(ControlWord(0x10 | mode << 1), 0);
        counter.write_count(first as u8, 0);
        let mut expected = counter.next_rise(0);
        let mut was = counter.output(0);
        for now in 1..steps {
            counter.settle(now);
            let is = counter.output(now);
            prop_assert_eq!(is && !was, expected == Some(now));
            was = is;
            if now == rewrite_at {
                counter.write_count(second as u8, now);
                was = counter.output(now);
            }
            expected = counter.next_rise(now);
            prop_assert!(expected.is_none_or(|at| at > now));
        }
    }
}
