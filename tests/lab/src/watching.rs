//! `cargo lab demo` and `cargo lab bench`, the outside half: an emulated host that tells what it does as it does it.

use crate::command_line::{Bench, Measured};
use crate::emulated::{Console, Heard, Memory, Session};
use crate::error::{Result, fail};
use crate::events::Event;
use crate::inside::Vmm;
use crate::prepare::{HostKernel, prepare};
use crate::process::build_sluice;
use crate::table::markdown;
use crate::topology;
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
    let task = format!("demo --vmm {}", name_of(vmm));
    let status = watch(&task, STEP, USUAL)?;
    println!("\nAll of it took {:.0} s.", start.elapsed().as_secs_f64());
    Ok(status)
}

/// `cargo lab bench`.
pub fn bench(bench: &Bench) -> Result<i32> {
    if bench.vmms.contains(&Vmm::Sluice) {
        build_sluice()?;
    }
    let mut task = "bench".to_owned();
    for vmm in &bench.vmms {
        task += &format!(" --vmm {}", name_of(*vmm));
    }
    let (memory, patience) = match bench.what {
        Measured::Running => (USUAL, 600),
        Measured::Vtd => {
            task += " vtd";
            (USUAL, 900)
        }
        Measured::Start => {
            let gib: Vec<String> = bench.sizes.iter().map(u32::to_string).collect();
            let pages: Vec<String> = bench.pages.iter().map(|pages| name_of(*pages)).collect();
            task += &format!(
                " start --gib {} --pages {} --times {}",
                gib.join(","),
                pages.join(","),
                bench.times
            );
            let largest = bench.sizes.iter().max().copied().unwrap_or(0);
            let memory = Memory {
                mib: (largest << 10) + HOSTS_OWN_MIB,
                populated: true,
            };
            (memory, 3600)
        }
    };
    watch(&task, Duration::from_secs(patience), memory)
}

/// What an emulated host wants beside its guest's memory: the kernel's books of all of it, and files.
const HOSTS_OWN_MIB: u32 = 2560;

/// The memory that emulated hosts have if nothing is said.
const USUAL: Memory = Memory {
    mib: topology::HOST_MEMORY_MIB,
    populated: false,
};

fn name_of(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// The longest step of the demo, on a machine with other work.
const STEP: Duration = Duration::from_secs(90);

/// Shows what a host of this memory tells that does `task`, until it ends; gives its status. One that says nothing for
/// as long as `patience` is killed.
fn watch(task: &str, patience: Duration, memory: Memory) -> Result<i32> {
    let prepared = prepare()?;
    let mut session = Session::new(&prepared, HostKernel::Stock)?.with_memory(memory);
    session.start(
        &prepared,
        Console::Captured,
        &format!("\"$LAB\" inside {task} 2>&1"),
    )?;
    loop {
        match session.next_line(patience) {
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
                    "the emulated host was killed after {} s of silence; its console ended:\n{tail}",
                    patience.as_secs()
                ));
            }
        }
    }
}
