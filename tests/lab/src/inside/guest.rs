//! A running guest: the monitor's process, and the shell on the guest's serial console.

use super::vmm::{GuestSpec, Vmm};
use crate::error::{Context, Error, Result, fail};
use crate::process::die_with_parent;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a guest may take to reach its shell.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long a command in the guest may take when nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest and the monitor that runs it; dropping it kills both.
pub struct Guest {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// All the guest has written so far.
    transcript: String,
    /// How much of the transcript has been made use of.
    consumed: usize,
    complaints: Arc<Mutex<String>>,
    next_id: u32,
    /// From the start of the monitor to the guest's shell.
    pub boot_time: Duration,
}

/// What a command in the guest wrote, and its exit status.
pub struct Answer {
    /// Everything between the command and its end marker.
    pub output: String,
    /// The shell's `$?`.
    pub status: i32,
}

impl Guest {
    /// Starts the monitor and waits for the guest's shell.
    pub fn boot(vmm: Vmm, spec: &GuestSpec) -> Result<Self> {
        let mut guest = Self::start(vmm, spec)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Starts the monitor and waits for nothing.
    pub fn start(vmm: Vmm, spec: &GuestSpec) -> Result<Self> {
        let mut command = vmm.command(spec);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = die_with_parent(&mut command)
            .spawn()
            .context(format!("cannot start {program}"))?;
        let (Some(keyboard), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return fail(format!("{program}: no pipes"));
        };
        let (sender, screen) = channel();
        std::thread::spawn(move || pump(stdout, |bytes| sender.send(bytes.to_vec()).is_ok()));
        let complaints = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&complaints);
        std::thread::spawn(move || {
            pump(stderr, |bytes| {
                collected
                    .lock()
                    .map(|mut all| all.push_str(&String::from_utf8_lossy(bytes)))
                    .is_ok()
            });
        });
        Ok(Self {
            child,
            keyboard,
            screen,
            transcript: String::new(),
            consumed: 0,
            complaints,
            next_id: 1,
            boot_time: Duration::ZERO,
        })
    }

    /// Waits for the guest's shell, as after a start or a reboot.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_within(BOOT_PATIENCE)
    }

    /// Waits for the shell of a guest that has reason to be slow.
    pub fn wait_ready_within(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        self.wait_for_line("the guest's shell", patience, |line| {
            line.starts_with("@@ready").then_some(())
        })?;
        self.boot_time = start.elapsed();
        Ok(())
    }

    /// Runs a command in the guest's shell; a status other than zero is an error.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        self.sh_within(command, PATIENCE)
    }

    /// Runs a command that may take its time.
    pub fn sh_within(&mut self, command: &str, patience: Duration) -> Result<String> {
        let answer = self.ask(command, patience)?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        fail(format!(
            "in the guest `{command}` ended with {}: {}",
            answer.status,
            answer.output.trim()
        ))
    }

    /// Runs a command whose status is of interest.
    pub fn ask(&mut self, command: &str, patience: Duration) -> Result<Answer> {
        let id = self.type_command(command)?;
        self.answer(id, command, patience)
    }

    /// Types a command and does not wait for its end.
    pub fn type_command(&mut self, command: &str) -> Result<u32> {
        let id = self.next_id;
        self.next_id += 1;
        let typed = self
            .keyboard
            .write_all(format!("{id} {command}\n").as_bytes());
        if typed.and_then(|()| self.keyboard.flush()).is_err() {
            return fail(format!("cannot type `{command}`: {}", self.diagnosis()));
        }
        Ok(id)
    }

    /// Waits for the end of a command typed before.
    pub fn answer(&mut self, id: u32, command: &str, patience: Duration) -> Result<Answer> {
        let begun = self.consumed;
        let marker = format!("@@{id} ");
        let status = self.wait_for_line(&format!("`{command}`"), patience, |line| {
            line.strip_prefix(&marker)
                .and_then(|status| status.trim().parse().ok())
        })?;
        let output = &self.transcript[begun..self.consumed];
        let end = output.rfind("@@").unwrap_or(output.len());
        Ok(Answer {
            output: output[..end].replace('\r', "").trim_end().to_owned(),
            status,
        })
    }

    /// Asks the guest to power off and gives the monitor's exit status.
    pub fn power_off(mut self) -> Result<ExitStatus> {
        self.type_command("sync; poweroff -f")?;
        self.wait_end(Duration::from_secs(30))
    }

    /// Waits for the monitor to end by itself.
    pub fn wait_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            self.take_output(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().context("waiting for the monitor")? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                return fail(format!(
                    "the monitor still runs {} s after the guest was to end: {}",
                    patience.as_secs(),
                    self.diagnosis()
                ));
            }
        }
    }

    /// `kill -9`, as an impatient operator would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill -9")?;
        self.child
            .wait()
            .context("waiting for the killed monitor")
            .map(drop)
    }

    /// The monitor's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the monitor has written to standard error.
    pub fn complaints(&self) -> String {
        self.complaints
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default()
    }

    fn wait_for_line<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            let mut position = self.consumed;
            while let Some(length) = self.transcript[position..].find('\n') {
                let line = self.transcript[position..position + length].trim_matches('\r');
                position += length + 1;
                if let Some(found) = wanted(line) {
                    self.consumed = position;
                    return Ok(found);
                }
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return fail(format!(
                    "{what}: nothing within {} s; {}\n  the monitor's threads:\n{}",
                    patience.as_secs(),
                    self.diagnosis(),
                    super::autopsy::of(self.pid())
                ));
            }
            if !self.take_output(left) {
                let status = self.child.wait().context("waiting for the monitor")?;
                return fail(format!(
                    "{what}: the monitor ended ({status}); {}",
                    self.diagnosis()
                ));
            }
        }
    }

    /// Moves what the guest has written into the transcript; false when there will be no more.
    fn take_output(&mut self, patience: Duration) -> bool {
        match self.screen.recv_timeout(patience) {
            Ok(bytes) => {
                self.transcript.push_str(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(Duration::from_millis(5));
                false
            }
        }
    }

    /// The ends of what the monitor and the guest have said.
    fn diagnosis(&self) -> String {
        let end_of = |text: &str, count: usize| {
            let lines: Vec<&str> = text
                .lines()
                .map(str::trim_end)
                .filter(|line| !line.is_empty())
                .collect();
            lines[lines.len().saturating_sub(count)..].join("\n    ")
        };
        format!(
            "the monitor's last words:\n    {}\n  the guest's console:\n    {}",
            end_of(&self.complaints(), 12),
            end_of(&self.transcript, 25)
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pump(mut from: impl Read, mut to: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || !to(&buffer[..length]) {
            break;
        }
    }
}

/// Fails unless the monitor ended with status zero.
pub fn expect_success(status: ExitStatus) -> Result<()> {
    if status.success() {
        Ok(())
    } else {
        Err(Error::Other(format!(
            "the monitor ended with {status}, not 0"
        )))
    }
}
