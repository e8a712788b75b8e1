//! The tasks that start an emulated host from the developer's machine.

use crate::command_line::Run;
use crate::emulated::{Console, Heard, Session, quoted};
use crate::error::{Result, fail};
use crate::prepare::{HostKernel, prepare};
use std::time::Duration;

const SET_UP: &str = "\"$LAB\" inside set-up || exit\n";

/// `cargo lab run`: one command, its output, its status.
pub fn run(run: &Run) -> Result<i32> {
    let prepared = prepare()?;
    let mut session = Session::new(&prepared, run.host_kernel)?;
    let set_up = if run.bare { "" } else { SET_UP };
    // One word is a line for the shell; several are words that stay apart.
    let line = match &run.command[..] {
        [line] => line.clone(),
        words => words
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" "),
    };
    session.start(
        &prepared,
        Console::Captured,
        &format!("(\n{set_up}{line}\n)"),
    )?;
    let limit = Duration::from_secs(run.limit);
    loop {
        match session.next_line(limit.saturating_sub(session.age())) {
            Heard::Line(line) => println!("{line}"),
            Heard::Ended => return session.status(),
            Heard::Silence => {
                let tail = session.console_tail();
                session.kill();
                return fail(format!(
                    "killed after {} s; the host's console ended:\n{tail}",
                    run.limit
                ));
            }
        }
    }
}

/// `cargo lab shell`: the emulated host on this terminal.
pub fn shell(host_kernel: HostKernel) -> Result<i32> {
    let prepared = prepare()?;
    let mut session = Session::new(&prepared, host_kernel)?;
    let script = format!("({SET_UP}PS1='emulated host # ' setsid -c -w sh -i)");
    session.start(&prepared, Console::Terminal, &script)?;
    session.status()
}
