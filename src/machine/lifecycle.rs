//! A machine's life: started, run, reset as often as its guest likes, ended.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use devices::bus::Deferred;

use super::chipset::Chipset;
use super::event_loop::EventLoop;
use super::requests::Request;
use super::signals::{Signals, Wish};
use super::{Error, Machine};
use crate::vcpu::{Kicker, Shared, Vcpu};

/// How a machine ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset, and `--no-reboot` says that this ends it.
    Reset,
}

impl Machine {
    /// Runs the guest to its end.
    pub fn run(&mut self, signals: &Signals) -> Result<Outcome, Error> {
        self.start()?;
        let crew = Crew::assemble(self.vcpus(), &self.shared).map_err(Error::Thread)?;
        self.gate.open();
        let outcome = self.supervise(signals);
        drop(crew);
        self.shared.spaces.flush();
        self.console.finish();
        self.reporter.write(&self.vcpus());
        outcome
    }

    fn vcpus(&self) -> Vec<Arc<Vcpu>> {
        self.vcpus.iter().map(|(vcpu, _)| vcpu.clone()).collect()
    }

    fn kickers(&self) -> Vec<Kicker> {
        self.vcpus
            .iter()
            .map(|(vcpu, _)| vcpu.kicker.clone())
            .collect()
    }

    /// Power-on or reset: devices to their initial state, BARs in their places, the kernel
    /// and its tables in memory, the vCPUs at their start. The vCPUs wait at the gate.
    fn start(&mut self) -> Result<(), Error> {
        self.chipset.reset();
        self.root.start(Chipset::firmware_writes())?;
        // After the devices, which do no DMA any more.
        if let Some(unit) = &self.vtd {
            unit.reset();
        }
        let entry = self.load()?;
        for (vcpu, power_on) in &self.vcpus {
            let entry = (vcpu.id == 0).then_some(&entry);
            vcpu.reset(power_on, entry)
                .map_err(|source| Error::VcpuReset {
                    id: vcpu.id,
                    source: source.into(),
                })?;
        }
        Ok(())
    }

    /// The main thread, while the guest runs.
    fn supervise(&mut self, signals: &Signals) -> Result<Outcome, Error> {
        loop {
            let request = self.wait(signals)?;
            match request {
                Request::PowerOff => return Ok(Outcome::PoweredOff),
                Request::Reset if self.no_reboot => return Ok(Outcome::Reset),
                Request::Reset => self.reset()?,
                Request::Quit(how) => return Err(Error::Quit(how)),
                Request::Failed(why) => return Err(Error::Failed(why)),
            }
        }
    }

    fn reset(&mut self) -> Result<(), Error> {
        let kickers = self.kickers();
        self.gate.stop(&kickers);
        // What this guest wrote last may still be queued, and is not for the next to find.
        self.shared.spaces.flush();
        // What was asked for while the vCPUs came to a stop belongs to the guest that ended.
        match self.requests.take() {
            Some(Request::Quit(how)) => return Err(Error::Quit(how)),
            Some(Request::Failed(why)) => return Err(Error::Failed(why)),
            _ => {}
        }
        self.start()?;
        self.gate.open();
        Ok(())
    }

    /// Serves alarms, signals and the guest's threads until something is asked of the
    /// machine as a whole.
    fn wait(&self, signals: &Signals) -> Result<Request, Error> {
        let vcpus = self.vcpus();
        let mut events = EventLoop::new().map_err(Error::EventLoop)?;
        // SAFETY: the event's descriptor is open as long as `self.requests`.
        let asked = unsafe { BorrowedFd::borrow_raw(self.requests.event().as_raw_fd()) };
        events.add(asked, || {}).map_err(Error::EventLoop)?;
        // SAFETY: as above, with `self.fast_paths`.
        let fast_paths = unsafe { BorrowedFd::borrow_raw(self.fast_paths.event().as_raw_fd()) };
        events
            .add(fast_paths, || {
                self.fast_paths.take();
                self.root.refresh_mappings();
            })
            .map_err(Error::EventLoop)?;
        events
            .add(self.alarms.readable(), || self.alarms.expire())
            .map_err(Error::EventLoop)?;
        events
            .add(signals.readable(), || match signals.take() {
                Some(Wish::Report) => self.reporter.write(&vcpus),
                Some(Wish::Quit(name)) => {
                    self.requests
                        .ask(Request::Quit(format!("stopped by {name}")));
                }
                None => {}
            })
            .map_err(Error::EventLoop)?;
        loop {
            events.turn().map_err(Error::EventLoop)?;
            if let Some(request) = self.requests.take() {
                return Ok(request);
            }
        }
    }
}

/// The vCPUs' threads. However a run ends, none of them outlives it.
struct Crew {
    shared: Arc<Shared>,
    kickers: Vec<Kicker>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts a thread for each vCPU. They wait at the gate.
    fn assemble(vcpus: Vec<Arc<Vcpu>>, shared: &Arc<Shared>) -> io::Result<Self> {
        let mut crew = Self {
            shared: shared.clone(),
            kickers: vcpus.iter().map(|vcpu| vcpu.kicker.clone()).collect(),
            threads: Vec::with_capacity(vcpus.len()),
        };
        for vcpu in vcpus {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{}", vcpu.id))
                .spawn(move || run_vcpu(&vcpu, &shared))?;
            crew.threads.push(thread);
        }
        Ok(crew)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.gate.end(&self.kickers);
        for thread in self.threads.drain(..) {
            // A panic was caught and reported on the thread itself.
            let _ = thread.join();
        }
    }
}

/// A vCPU's thread. A panic of ours ends the machine with a message, not with a hang.
fn run_vcpu(vcpu: &Vcpu, shared: &Shared) {
    let ran = catch_unwind(AssertUnwindSafe(|| vcpu.run(shared)));
    if ran.is_err() {
        shared.gate.close();
        let why = format!(
            "vCPU {}: Sluice has a bug here; please report the lines above",
            vcpu.id
        );
        shared.verdicts.deliver(crate::vcpu::Verdict::Failed(why));
        // The gate counts every vCPU; wait there until the machine ends.
        while shared.gate.pass() {}
    }
}
