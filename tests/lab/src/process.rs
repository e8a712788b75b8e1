//! Running other programs: their failure is an error that names them, and they never outlive the lab.

use crate::error::{Context, Error, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a program to its end and gives its standard output; a bad end is an error carrying its last words.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = name_of(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(format!("cannot run `{name}`"))?;
    check(&name, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks that a child be killed when the thread that started it dies, however that happens.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs in the child between fork and exec and only makes one async-signal-safe system call.
    unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) }
}

/// Whether a program of that name is on the path or in a system directory.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into))
        .any(|directory| directory.join(program).is_file())
}

/// A command line as a person would type it.
pub fn name_of(command: &Command) -> String {
    let mut name = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args().take(4) {
        name.push(' ');
        name.push_str(&argument.to_string_lossy());
    }
    name
}

fn check(name: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    });
    let last = said
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it said nothing");
    Err(Error::Program {
        program: name.to_owned(),
        detail: format!("{}: {last}", output.status),
    })
}

/// Builds the workspace's Sluice, optimized, where the lab itself was built.
pub fn build_sluice() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--release", "--package", "sluice"])
        .current_dir(workspace);
    let status = command.status().context("cannot run cargo")?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Other("Sluice does not build".into()))
    }
}
