//! `cargo lab demo` and `cargo lab bench`, the outside half: an emulated host that tells what it does as it does it.

use crate::command_line::Bench;
use crate::emulated::{Console, Heard, Session};
use crate::error::{Result, fail};
use crate::events::Event;
use crate::inside::Vmm;
use crate::prepare::prepare;
use crate::process::build_sluice;
use crate::table::markdown;
use clap::ValueEnum;
use std::time::{Duration, Instant};

/// `cargo lab demo`.
pub fn demo(vmm: Vmm) -> Result<i32> {
    let start = Instant::now();
    println!("Building Sluice");
    build_sluice()?;
    println!("Looking for what the lab needs");
    let prepared = prepare()?;
    println!(
        "Starting the emulated host (Linux {} on QEMU)",
        prepared.kernel.release()
    );
    let status = watch(
        &format!("demo --vmm {}", name_of(vmm)),
        Duration::from_secs(240),
    )?;
    println!("\nAll of it took {:.0} s.", start.elapsed().as_secs_f64());
    Ok(status)
}

/// `cargo lab bench`.
pub fn bench(bench: &Bench) -> Result<i32> {
    if bench.vmms.contains(&Vmm::Sluice) {
        build_sluice()?;
    }
    let vmms: Vec<String> = bench.vmms.iter().map(|vmm| name_of(*vmm)).collect();
    watch(
        &format!("bench {}", vmms.join(" ")),
        Duration::from_secs(900),
    )
}

fn name_of(vmm: Vmm) -> String {
    vmm.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn watch(task: &str, limit: Duration) -> Result<i32> {
    let prepared = prepare()?;
    let mut session = Session::new(&prepared)?;
    session.start(
        &prepared,
        Console::Captured,
        &format!("\"$LAB\" inside {task} 2>&1"),
    )?;
    loop {
        match session.next_line(limit.saturating_sub(session.age())) {
            Heard::Line(line) => match Event::read(&line) {
                Some(Event::Say { text }) => {
                    println!("{:>5.1} s  {text}", session.age().as_secs_f64())
                }
                Some(Event::Table { rows }) => println!("\n{}", markdown(&rows)),
                Some(_) => {}
                None => println!("         {line}"),
            },
            Heard::Ended => return session.status(),
            Heard::Silence => {
                let tail = session.console_tail();
                session.kill();
                return fail(format!(
                    "killed after {} s; the host's console ended:\n{tail}",
                    limit.as_secs()
                ));
            }
        }
    }
}
