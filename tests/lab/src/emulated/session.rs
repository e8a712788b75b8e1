//! One run of the emulated host: its files, its process, and the certainty that both are gone afterwards.

use super::machine::{self, Memory, Options};
use super::monitor;
use crate::error::{Context, Error, Result, fail};
use crate::prepare::{HostKernel, Prepared};
use crate::process::die_with_parent;
use crate::{initrd, topology};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What the commands in the emulated host have for a console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// No input; output is read by the lab.
    Captured,
    /// The terminal the lab was started on.
    Terminal,
}

/// What came of waiting for the emulated host's next line.
pub enum Heard {
    /// A line it wrote.
    Line(String),
    /// It has powered off.
    Ended,
    /// Time was up.
    Silence,
}

/// An emulated host and the temporary directory it lives in.
pub struct Session {
    directory: tempfile::TempDir,
    host_kernel: HostKernel,
    memory: Memory,
    child: Option<Child>,
    lines: Option<Receiver<String>>,
    started: Instant,
}

impl Session {
    /// Lays out a session's files: initrds, disk image, the share with the script the host will run.
    pub fn new(prepared: &Prepared, host_kernel: HostKernel) -> Result<Self> {
        let kernel = prepared.host_kernel(host_kernel)?;
        sweep_abandoned();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir()
            .context("cannot make a temporary directory")?;
        let session = Self {
            directory,
            host_kernel,
            memory: Memory {
                mib: topology::HOST_MEMORY_MIB,
                populated: false,
            },
            child: None,
            lines: None,
            started: Instant::now(),
        };
        fs::create_dir(session.share()).path(&session.share())?;
        initrd::host(kernel, &session.file("host.img"))?;
        initrd::guest(&prepared.kernel, &session.file("guest.img"))?;
        for (image, bytes) in [
            (session.nvme_image(), topology::NVME_BYTES),
            (session.usb_image(), topology::USB_DISK_BYTES),
        ] {
            File::create(&image)
                .and_then(|file| file.set_len(bytes))
                .path(&image)?;
        }
        Ok(session)
    }

    /// With this memory instead of what other hosts have.
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Starts the host, which runs `script` with `sh` as its only task and powers off when it returns.
    pub fn start(&mut self, prepared: &Prepared, console: Console, script: &str) -> Result<()> {
        let start = self.share().join("start");
        fs::write(
            &start,
            self.preamble(prepared, console)? + script + POSTSCRIPT,
        )
        .path(&start)?;
        let mut command = machine::command(&Options {
            qemu: &prepared.qemu,
            memory: self.memory,
            kernel: &prepared.host_kernel(self.host_kernel)?.image(),
            initrd: &self.file("host.img"),
            share: &self.share(),
            nvme_image: &self.nvme_image(),
            usb_image: &self.usb_image(),
            kernel_log: &self.kernel_log(),
            monitor: &self.monitor(),
            console,
        });
        if console == Console::Captured {
            let said = File::create(self.qemu_log()).path(&self.qemu_log())?;
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(said);
        }
        self.started = Instant::now();
        let mut child = die_with_parent(&mut command)
            .spawn()
            .context("cannot start QEMU")?;
        self.lines = child.stdout.take().map(read_lines);
        self.child = Some(child);
        Ok(())
    }

    /// Waits for the host's next line of output.
    pub fn next_line(&self, patience: Duration) -> Heard {
        match self
            .lines
            .as_ref()
            .map(|lines| lines.recv_timeout(patience))
        {
            Some(Ok(line)) => Heard::Line(line),
            Some(Err(RecvTimeoutError::Timeout)) => {
                let state = monitor::processors(&self.monitor());
                // For `console_tail`.
                let _ = fs::write(self.processors(), state);
                Heard::Silence
            }
            Some(Err(RecvTimeoutError::Disconnected)) | None => Heard::Ended,
        }
    }

    /// Waits for the host to power off and gives the status its script left.
    pub fn status(&mut self) -> Result<i32> {
        if let Some(mut child) = self.child.take() {
            child.wait().context("waiting for QEMU")?;
        }
        match fs::read_to_string(self.share().join("status"))
            .ok()
            .and_then(|status| status.trim().parse().ok())
        {
            Some(status) => Ok(status),
            None => fail(format!(
                "the emulated host ended early; its console's last lines:\n{}",
                self.console_tail()
            )),
        }
    }

    /// How long the host has been running.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The directory both sides can write.
    pub fn share(&self) -> PathBuf {
        self.file("share")
    }

    /// The last lines of the host's kernel console, what QEMU had to say, and if the host fell silent the state of its
    /// processors then.
    pub fn console_tail(&self) -> String {
        format!(
            "{}\n{}\n{}",
            tail_of(&self.kernel_log(), 20),
            tail_of(&self.qemu_log(), 5),
            tail_of(&self.processors(), 200),
        )
        .trim()
        .to_owned()
    }

    /// Ends the host at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn nvme_image(&self) -> PathBuf {
        self.file("nvme.img")
    }

    fn usb_image(&self) -> PathBuf {
        self.file("usb.img")
    }

    fn kernel_log(&self) -> PathBuf {
        self.file("kernel.log")
    }

    fn qemu_log(&self) -> PathBuf {
        self.file("qemu.log")
    }

    fn monitor(&self) -> PathBuf {
        self.file("monitor")
    }

    fn processors(&self) -> PathBuf {
        self.file("processors")
    }

    fn preamble(&self, prepared: &Prepared, console: Console) -> Result<String> {
        let here = std::env::current_dir().context("the current directory")?;
        let lab = std::env::current_exe().context("the lab's own program")?;
        let programs = lab.parent().unwrap_or(Path::new("/"));
        let terminal = match console {
            Console::Captured => "stty -echo -opost\n".to_owned(),
            Console::Terminal => {
                let (rows, columns) = terminal_size();
                format!(
                    "stty sane rows {rows} cols {columns}\nexport TERM={}\n",
                    quoted(&std::env::var("TERM").unwrap_or("linux".into()))
                )
            }
        };
        let host_kernel = prepared.host_kernel(self.host_kernel)?;
        let modules = host_kernel.modules();
        let release = host_kernel.release();
        let mut variables: Vec<(&str, String)> = vec![
            (
                "PATH",
                format!(
                    "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    programs.display()
                ),
            ),
            ("HOME", std::env::var("HOME").unwrap_or("/root".into())),
            ("LAB", lab.display().to_string()),
            ("QEMU", prepared.qemu.display().to_string()),
            ("SLUICE", programs.join("sluice").display().to_string()),
            (
                "GUEST_KERNEL",
                prepared.kernel.image().display().to_string(),
            ),
            ("GUEST_INITRD", self.file("guest.img").display().to_string()),
            ("VF0", topology::VIRTUAL_FUNCTIONS[0].into()),
            ("VF1", topology::VIRTUAL_FUNCTIONS[1].into()),
            ("PF", topology::PHYSICAL_FUNCTION.into()),
            ("NVME", topology::NVME.into()),
            ("E1000E", topology::E1000E.into()),
            ("XHCI", topology::XHCI.into()),
            ("BOCHS_DISPLAY", topology::BOCHS_DISPLAY.into()),
        ];
        let dpdk = prepared.dpdk.iter();
        variables.extend(dpdk.map(|place| ("DPDK", place.display().to_string())));
        let exports: String = variables
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect();
        let mount = format!(
            "mkdir -p /lib/modules/{release}\nmount --bind {} /lib/modules/{release}\n",
            quoted(&modules.display().to_string())
        );
        Ok(format!(
            "{terminal}{exports}{mount}cd {}\n",
            quoted(&here.display().to_string())
        ))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How every session's directory is called, before the process's number.
const PREFIX: &str = "sluice-lab-";

/// Removes the directories of labs that were killed before they could do it themselves.
fn sweep_abandoned() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .map(|(pid, _)| pid);
        if owner
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        {
            // Another lab may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// After the script: its status, then power off without ceremony (the root is a tmpfs).
const POSTSCRIPT: &str =
    "\necho $? >/run/lab/status\nsync\necho o >/proc/sysrq-trigger\nsleep 60\n";

/// A word no shell will take apart.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The last lines of a file that may not be there.
pub fn tail_of(file: &Path, count: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader
            .by_ref()
            .take(1 << 20)
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\n', '\r'])
                .to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    receiver
}

fn terminal_size() -> (u16, u16) {
    let answer = std::process::Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .output();
    let said = answer
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let mut numbers = said
        .split_whitespace()
        .filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(rows), Some(columns)) if rows > 0 && columns > 0 => (rows, columns),
        _ => (24, 80),
    }
}

impl From<Heard> for Error {
    fn from(heard: Heard) -> Self {
        Error::Other(match heard {
            Heard::Line(line) => format!("the emulated host said: {line}"),
            Heard::Ended => "the emulated host ended".into(),
            Heard::Silence => "the emulated host fell silent".into(),
        })
    }
}
