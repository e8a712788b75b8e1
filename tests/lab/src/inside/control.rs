//! The control socket of a running guest's monitor, used as its operator would: by `sluice ctl`.

use super::vmm::sluice_program;
use crate::error::{Context, Result, fail};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;

/// A control socket.
pub struct Control(pub PathBuf);

/// What is plugged in, as far as tests want to know.
#[derive(Deserialize, Debug)]
pub struct Listing {
    /// What is in slots, or on the board.
    pub devices: Vec<Listed>,
    /// Ports whose slots are empty.
    pub free_ports: Vec<u8>,
}

/// A device.
#[derive(Deserialize, Debug)]
pub struct Listed {
    /// What the operator calls it.
    pub id: String,
}

impl Control {
    /// Plugs a device in: `--assign` or `--net`, and its value.
    pub fn add(&self, flag: &str, value: &str) -> Result<()> {
        self.run(&["add", flag, value]).map(drop)
    }

    /// Plugs functions of one of the host's devices in together.
    pub fn add_functions(&self, addresses: &[&str]) -> Result<()> {
        let flags = addresses.iter().flat_map(|address| ["--assign", address]);
        let arguments: Vec<_> = ["add"].into_iter().chain(flags).collect();
        self.run(&arguments).map(drop)
    }

    /// Plugs a device in under a name of its own.
    pub fn add_as(&self, id: &str, flag: &str, value: &str) -> Result<()> {
        self.run(&["add", flag, value, "--id", id]).map(drop)
    }

    /// Asks the guest to let go of a device.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.run(&["remove", id]).map(drop)
    }

    /// Takes a device away without asking.
    pub fn tear_out(&self, id: &str) -> Result<()> {
        self.run(&["remove", id, "--force"]).map(drop)
    }

    /// What is plugged in.
    pub fn list(&self) -> Result<Listing> {
        let said = self.run(&["list", "--json"])?;
        serde_json::from_str(&said).context(format!("not a listing: {said}"))
    }

    /// Whether a device is plugged in.
    pub fn has(&self, id: &str) -> Result<bool> {
        Ok(self.list()?.devices.iter().any(|device| device.id == id))
    }

    /// Something that is to fail; gives what was said of it.
    pub fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("sluice ctl")?;
        if output.status.success() {
            return fail(format!("`sluice ctl {}` did not fail", arguments.join(" ")));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("sluice ctl")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        fail(format!(
            "`sluice ctl {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(sluice_program());
        command.arg("ctl").arg(&self.0).args(arguments);
        command
    }
}
