//! A run of `sluice run` with a guest in it, under a time limit.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::payload::{payload, scratch};

/// What no guest may take longer than, however slow the machine.
const LIMIT: Duration = Duration::from_secs(40);

static TURN: RwLock<()> = RwLock::new(());

/// For a test that does not mind company.
pub fn in_company() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that measures time.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// What a process has printed so far, and whether that is all.
#[derive(Default)]
struct Heard {
    text: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(from: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let heard = Arc::new(Self::default());
        let to = heard.clone();
        let thread = std::thread::spawn(move || to.collect(from));
        (heard, thread)
    }

    fn collect(&self, mut from: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let mut heard = self.lock();
            heard.0.extend(&buffer[..count]);
            heard.1 = count == 0;
            self.more.notify_all();
            if count == 0 {
                return;
            }
        }
    }
}

/// A guest that runs. It is killed when dropped.
pub struct Guest {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Heard>,
    errors: Arc<Heard>,
    listeners: Vec<JoinHandle<()>>,
    deadline: Instant,
    stats: PathBuf,
}

/// How a run ended.
pub struct Ended {
    /// How the process exited.
    pub status: ExitStatus,
    /// Serial output.
    pub output: String,
    /// Standard error.
    pub errors: String,
    /// What `SLUICE_STATS` holds.
    pub stats: Stats,
}

/// A report of what the run cost.
pub struct Stats(serde_json::Value);

impl Stats {
    /// Exits to Sluice, of every kind.
    pub fn exits(&self) -> u64 {
        let kinds = self.0["exits"]["by_kind"].as_object().expect("kinds");
        kinds.values().filter_map(serde_json::Value::as_u64).sum()
    }

    /// Reads and writes that a region answered.
    pub fn accesses(&self, region: &str) -> (u64, u64) {
        let region = &self.0["exits"]["by_region"][region];
        let count = |key: &str| region[key].as_u64().unwrap_or(0);
        (count("reads"), count("writes"))
    }
}

impl Guest {
    /// Starts the guest `name` with `cmdline` and more flags; `None` if it cannot be built.
    pub fn start(name: &str, cmdline: &str, flags: &[&str]) -> Option<Self> {
        static RUN: AtomicU32 = AtomicU32::new(0);
        let kernel = payload(name)?;
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let stats = scratch().join(format!("{name}-{run}.json"));
        let _ = fs::remove_file(&stats);
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .arg("run")
            .arg("--kernel")
            .arg(kernel)
            .args(["--memory", "64M", "--serial", "stdio", "--cmdline", cmdline])
            .args(flags)
            .env("SLUICE_STATS", &stats)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sluice starts");
        let (output, listener) = Heard::listen(child.stdout.take().expect("a pipe"));
        let (errors, other) = Heard::listen(child.stderr.take().expect("a pipe"));
        Some(Self {
            stdin: child.stdin.take(),
            child,
            output,
            errors,
            listeners: vec![listener, other],
            deadline: Instant::now() + LIMIT,
            stats,
        })
    }

    /// Waits until the guest has printed `text`.
    pub fn expect(&self, text: &str) {
        let mut heard = self.output.lock();
        loop {
            if String::from_utf8_lossy(&heard.0).contains(text) {
                return;
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if heard.1 || left.is_zero() {
                drop(heard);
                panic!("the guest never said {text:?}; it said:\n{}", self.said());
            }
            let waited = self.output.more.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// True if the guest has printed `text` already.
    pub fn heard(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.output.lock().0).contains(text)
    }

    /// Types at the guest's serial port.
    pub fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input");
        stdin.write_all(bytes).expect("sluice reads");
        stdin.flush().expect("sluice reads");
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Asks for a report now and gives it.
    pub fn stats_now(&self) -> Stats {
        let _ = fs::remove_file(&self.stats);
        kill(self.pid(), Signal::SIGUSR1).expect("sluice runs");
        while Instant::now() < self.deadline {
            if let Some(stats) = self.read_stats() {
                return stats;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("no report at SIGUSR1");
    }

    fn read_stats(&self) -> Option<Stats> {
        let text = fs::read_to_string(&self.stats).ok()?;
        Some(Stats(serde_json::from_str(&text).ok()?))
    }

    /// All it has said so far, for a message.
    pub fn said(&self) -> String {
        let output = self.output.lock().0.clone();
        let errors = self.errors.lock().0.clone();
        let (output, errors) = (
            String::from_utf8_lossy(&output).into_owned(),
            String::from_utf8_lossy(&errors).into_owned(),
        );
        format!("{output}-- on standard error:\n{errors}")
    }

    /// Waits for the end, whatever it is.
    pub fn wait(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if Instant::now() > self.deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("no end within {LIMIT:?}; the guest said:\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        for listener in self.listeners.drain(..) {
            listener.join().expect("a listener");
        }
        let text = |heard: &Heard| String::from_utf8_lossy(&heard.lock().0).into_owned();
        let stats = self.read_stats();
        Ended {
            status,
            output: text(&self.output),
            errors: text(&self.errors),
            stats: stats.unwrap_or(Stats(serde_json::Value::Null)),
        }
    }

    /// Waits for the guest to find everything as it should be and power off.
    pub fn passes(self) -> Ended {
        let ended = self.wait();
        let Ended {
            status,
            output,
            errors,
            ..
        } = &ended;
        let good = status.success() && output.ends_with("DONE\n") && !output.contains("FAIL");
        assert!(good, "{status}\n{output}-- on standard error:\n{errors}");
        ended
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a guest that needs no help from here.
pub fn passes(name: &str, cmdline: &str, flags: &[&str]) -> Option<Ended> {
    Some(Guest::start(name, cmdline, flags)?.passes())
}
