//! `cargo lab test`: the outside half, which starts emulated hosts until every test has been tried.

use crate::command_line::Test;
use crate::emulated::{Console, Heard, Session, quoted};
use crate::error::{Context, Result, fail};
use crate::events::{Event, Outcome};
use crate::inside::{Vmm, suite};
use crate::prepare::{HostKernel, Prepared, prepare_for_tests};
use crate::process::build_sluice;
use clap::ValueEnum;
use std::io::Write;
use std::time::{Duration, Instant};

/// How many emulated hosts may be lost outside of tests before that is a failure of its own.
const SPARE_HOSTS: u32 = 3;
/// What the emulated host may take beyond a test's own limit, and to boot, on a machine that has other work too.
const GRACE: Duration = Duration::from_secs(180);

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: Vec<(String, String)>,
    skipped: u32,
    hosts_lost: u32,
    /// When no test may begin any more.
    deadline: Option<Instant>,
    /// Those that would have begun later.
    not_reached: Vec<String>,
}

/// Runs what was asked for and prints a line for each; the status is 0 if none failed.
pub fn run(test: &Test) -> Result<i32> {
    let mut waiting: Vec<String> = HostKernel::value_variants()
        .iter()
        .flat_map(|kernel| suite::names_on(*kernel))
        .collect();
    if !test.names.is_empty() {
        for wanted in &test.names {
            if !waiting.iter().any(|name| name.contains(wanted.as_str())) {
                return fail(format!("no test is named {wanted} (cargo lab test --list)"));
            }
        }
        waiting.retain(|name| {
            test.names
                .iter()
                .any(|wanted| name.contains(wanted.as_str()))
        });
    }
    if test.list {
        waiting.iter().for_each(|name| println!("{name}"));
        return Ok(0);
    }
    if test.vmm == Vmm::Sluice {
        build_sluice()?;
    }
    let prepared = prepare_for_tests()?;
    let mut tally = Tally::default();
    let minutes = test.within.map(|minutes| Duration::from_secs(minutes * 60));
    tally.deadline = minutes.map(|all| Instant::now() + all);
    println!("running {} tests in the lab", waiting.len());
    on_every_kernel(&prepared, test.vmm, waiting, &mut tally)?;
    tally.skipped += count_of(&tally.not_reached);
    for _ in 0..test.retry {
        if tally.failed.is_empty() {
            break;
        }
        tally.deadline = minutes.map(|all| Instant::now() + all / 4);
        try_again(&prepared, test.vmm, &mut tally)?;
    }
    for (name, why) in &tally.failed {
        println!("\n---- {name} ----\n{why}");
    }
    println!();
    let skipped = if tally.skipped > 0 {
        format!(", {} skipped", tally.skipped)
    } else {
        String::new()
    };
    println!(
        "{} passed, {} failed{skipped}",
        tally.passed,
        tally.failed.len()
    );
    Ok(i32::from(!tally.failed.is_empty()))
}

/// Gives those that failed another chance, and tells how those failed first that now pass.
fn try_again(prepared: &Prepared, vmm: Vmm, tally: &mut Tally) -> Result<()> {
    let first = std::mem::take(&mut tally.failed);
    tally.not_reached.clear();
    println!("\ntrying {} again, on a fresh emulated host", first.len());
    let again = first.iter().map(|(name, _)| name.clone()).collect();
    on_every_kernel(prepared, vmm, again, tally)?;
    for (name, why) in first {
        if tally.not_reached.contains(&name) {
            tally.failed.push((name, why));
        } else if !tally.failed.iter().any(|(failed, _)| *failed == name) {
            println!("\n---- {name}, which passed when it was tried again ----\n{why}");
        }
    }
    Ok(())
}

fn count_of(names: &[String]) -> u32 {
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}

/// Starts emulated hosts, of one kernel after the other, until none of these tests waits. Those whose kernel is not
/// there are skipped.
fn on_every_kernel(
    prepared: &Prepared,
    vmm: Vmm,
    waiting: Vec<String>,
    tally: &mut Tally,
) -> Result<()> {
    for kernel in HostKernel::value_variants() {
        let there = suite::names_on(*kernel);
        let mut waiting: Vec<String> = waiting
            .iter()
            .filter(|name| there.contains(name))
            .cloned()
            .collect();
        if let Err(why) = prepared.host_kernel(*kernel)
            && !waiting.is_empty()
        {
            println!("{} tests skipped: {why}", waiting.len());
            tally.skipped += count_of(&waiting);
            continue;
        }
        while !waiting.is_empty() {
            one_host(prepared, *kernel, vmm, &mut waiting, tally)?;
        }
    }
    Ok(())
}

/// Boots an emulated host for the tests that wait; those it got to are waiting no more.
fn one_host(
    prepared: &Prepared,
    kernel: HostKernel,
    vmm: Vmm,
    waiting: &mut Vec<String>,
    tally: &mut Tally,
) -> Result<()> {
    let mut session = Session::new(prepared, kernel)?;
    let vmm = vmm
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    let names: String = waiting
        .iter()
        .map(|name| format!(" {}", quoted(name)))
        .collect();
    session.start(
        prepared,
        Console::Captured,
        &format!("\"$LAB\" inside test --vmm {vmm}{names}"),
    )?;
    let mut current: Option<String> = None;
    let mut patience = GRACE;
    let mut said = Vec::new();
    loop {
        match session.next_line(patience) {
            Heard::Line(line) => match Event::read(&line) {
                Some(Event::Begin { .. }) if tally.is_over() => {
                    session.kill();
                    println!("no time is left for {}", waiting.join(" "));
                    tally.not_reached.append(waiting);
                    return Ok(());
                }
                Some(Event::Begin { test, limit }) => {
                    print!("test {test} ... ");
                    let _ = std::io::stdout().flush();
                    current = Some(test);
                    patience = Duration::from_secs(limit) + GRACE;
                }
                Some(Event::End {
                    test,
                    outcome,
                    detail,
                    seconds,
                }) => {
                    tally.count(test, outcome, detail, seconds, waiting);
                    current = None;
                    patience = GRACE;
                }
                Some(_) => {}
                None => said.push(line),
            },
            heard @ (Heard::Ended | Heard::Silence) => {
                let how = if matches!(heard, Heard::Ended) {
                    "ended"
                } else {
                    "was killed, as it took too long"
                };
                session.kill();
                let Some(test) = current else {
                    return match heard {
                        Heard::Ended if waiting.is_empty() => Ok(()),
                        _ => tally.host_lost(format!(
                            "the emulated host {how} between tests; it said:\n{}\n{}",
                            said.join("\n"),
                            session.console_tail()
                        )),
                    };
                };
                let why = format!(
                    "the emulated host {how} during this test; its console ended:\n{}",
                    session.console_tail()
                );
                tally.count(test, Outcome::Failed, why, 0.0, waiting);
                return Ok(());
            }
        }
    }
}

/// Told at once, for the whole run may yet be cut short.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

impl Tally {
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() > deadline)
    }

    /// A host that ends outside of any test has failed none, and the next one may go on; but not for ever.
    fn host_lost(&mut self, how: String) -> Result<()> {
        self.hosts_lost += 1;
        if self.hosts_lost > SPARE_HOSTS {
            return fail(how);
        }
        println!("starting another emulated host, for {how}");
        Ok(())
    }

    fn count(
        &mut self,
        test: String,
        outcome: Outcome,
        detail: String,
        seconds: f64,
        waiting: &mut Vec<String>,
    ) {
        waiting.retain(|name| *name != test);
        match outcome {
            Outcome::Passed => {
                println!("ok ({seconds:.1} s)");
                self.passed += 1;
            }
            Outcome::Failed => {
                println!("FAILED ({seconds:.1} s)\n{}", indented(&detail));
                self.failed.push((test, detail));
            }
            Outcome::Skipped => {
                println!("skipped ({detail})");
                self.skipped += 1;
            }
        }
        let _ = std::io::stdout().flush().context("standard output");
    }
}
