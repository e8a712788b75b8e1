//! The chipset: interrupt controllers, timers, clock, serial port, processors.

use crate::guest::{Guest, alone, in_company, passes};

#[test]
fn interrupt_controllers() {
    let _turn = in_company();
    passes("interrupts", "", &[]);
}

#[test]
fn interval_timer() {
    let _turn = alone();
    passes("pit", "", &[]);
}

#[test]
fn clock_and_periodic_interrupt() {
    let _turn = alone();
    let Some(ended) = passes("rtc", "", &[]) else {
        return;
    };
    let shown = ended.output.lines().find_map(|l| l.strip_prefix("CLOCK "));
    let shown = shown.expect("the guest shows its clock");
    let now = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%d %H:%M"])
        .output()
        .expect("date");
    let now = String::from_utf8_lossy(&now.stdout).into_owned();
    // The day and the hour, unless one has just ended.
    let hour = |text: &str| text.get(..13).map(str::to_owned);
    if now.get(14..16) != Some("00") {
        assert_eq!(hour(shown), hour(&now));
    }
}

#[test]
fn serial_input_comes_back() {
    let _turn = in_company();
    let text: Vec<u8> = (0..3000u32).map(|n| b'!' + (n * 7 % 90) as u8).collect();
    let Some(mut guest) = Guest::start("serial", &format!("bytes={}", text.len()), &[]) else {
        return;
    };
    guest.expect("READY\n");
    // In pieces of all sizes: less than a FIFO, a FIFO, much more.
    let mut rest = &text[..];
    for size in [1, 2, 13, 14, 15, 16, 17, 64, 500].into_iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(size));
        guest.send(now);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let ended = guest.passes();
    let echo = ended.output.split("READY\n").nth(1).expect("an echo");
    let echo = &echo.as_bytes()[..text.len()];
    assert!(echo == text, "not what was sent:\n{}", ended.output);
}

#[test]
fn four_processors() {
    let _turn = in_company();
    passes("smp", "cpus=4", &["--cpus", "4"]);
}

#[test]
fn sixty_four_processors() {
    let _turn = in_company();
    passes("smp", "cpus=64", &["--cpus", "64"]);
}

/// More than APIC ids of 8 bits tell apart.
#[test]
fn two_hundred_and_eighty_eight_processors() {
    let _turn = in_company();
    let flags = ["--cpus", "288", "--iommu", "vtd"];
    passes("smp", "cpus=288 x2apic=1", &flags);
}
