//! The loop of a vCPU's thread: enter the guest, answer what it exits for.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use devices::guest_error;
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, kvm_interrupt, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno::Error as Errno;
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::{CoalescedRing, ExitCounts, ExitKind, Gate, Kicker, PowerOn};
use crate::boot::Entry;
use crate::machine::bus::Bus;

vmm_sys_util::ioctl_iow_nr!(KVM_INTERRUPT, kvm_bindings::KVMIO, 0x86, kvm_interrupt);

/// The address spaces, with the writes that wait for them.
pub struct Spaces {
    /// Ports.
    pub io: Arc<Bus>,
    /// Memory that is no RAM.
    pub mmio: Arc<Bus>,
    /// Writes that KVM has queued.
    pub ring: CoalescedRing,
}

impl devices::bus::Deferred for Spaces {
    fn flush(&self) {
        self.ring.drain(|write| {
            let bus = if write.is_port { &self.io } else { &self.mmio };
            bus.write(write.address, write.data());
        });
    }
}

/// Where a vCPU's interrupt business goes.
pub trait Interrupts: Send + Sync {
    /// The guest ended a level-triggered interrupt with this vector.
    fn end_of_interrupt(&self, vector: u8);

    /// The 8259 pair wants attention of the boot processor.
    fn pic_pending(&self) -> bool;

    /// The boot processor acknowledges the 8259 pair: the vector to take.
    fn pic_acknowledge(&self) -> Option<u8>;
}

/// What ends or restarts the machine, seen by a vCPU.
#[derive(Debug)]
pub enum Verdict {
    /// A triple fault, or KVM's word that the guest resets.
    Reset,
    /// KVM's word that the guest powers off.
    PowerOff,
    /// The vCPU cannot go on.
    Failed(String),
}

/// Told when a vCPU comes to an end of the road.
pub trait Verdicts: Send + Sync {
    /// Takes the verdict; the vCPU then waits at the gate.
    fn deliver(&self, verdict: Verdict);
}

/// All that the vCPUs of a machine share.
pub struct Shared {
    /// Address spaces.
    pub spaces: Arc<Spaces>,
    /// Interrupt controllers.
    pub interrupts: Arc<dyn Interrupts>,
    /// Ends and restarts.
    pub verdicts: Arc<dyn Verdicts>,
    /// Where to wait.
    pub gate: Arc<Gate>,
}

/// A vCPU. Its thread holds `fd` while it runs and lets go of it at the gate, where the
/// machine may change its state.
pub struct Vcpu {
    /// APIC id; 0 is the boot processor.
    pub id: u32,
    /// KVM's vCPU.
    pub fd: Mutex<VcpuFd>,
    /// Interrupts it.
    pub kicker: Kicker,
    /// What it exited for.
    pub counts: ExitCounts,
    /// The page shared with the kernel.
    run: RunPage,
}

struct RunPage(*mut kvm_run);

// SAFETY: the page belongs to the `VcpuFd` beside it and is used under that one's lock only.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

/// Fields of the page, which are read and written one by one: never is there a reference to
/// the whole of it, as `immediate_exit` is other threads' to write.
impl RunPage {
    /// The guest could take an interrupt when it was left.
    fn ready(&self) -> bool {
        // SAFETY: mapped while the `VcpuFd` beside it lives; the caller holds its lock and
        // the vCPU is not running, so nobody else touches the field.
        unsafe { (&raw const (*self.0).ready_for_interrupt_injection).read() != 0 }
    }

    fn set_not_ready(&self) {
        // SAFETY: as for `ready`.
        unsafe { (&raw mut (*self.0).ready_for_interrupt_injection).write(0) };
    }

    /// Asks for an exit as soon as the guest can take an interrupt.
    fn request_window(&self, wanted: bool) {
        // SAFETY: as for `ready`.
        unsafe { (&raw mut (*self.0).request_interrupt_window).write(wanted.into()) };
    }
}

impl Vcpu {
    /// Wraps a vCPU.
    pub fn new(id: u32, mut fd: VcpuFd) -> Self {
        let run: *mut kvm_run = fd.get_kvm_run();
        Self {
            id,
            fd: Mutex::new(fd),
            kicker: Kicker::default(),
            counts: ExitCounts::default(),
            run: RunPage(run),
        }
    }

    /// Puts the vCPU, which waits at the gate, into its state at power-on, and at `entry`
    /// if it is to start the guest.
    pub fn reset(
        &self,
        power_on: &PowerOn,
        entry: Option<&Entry>,
    ) -> Result<(), kvm_ioctls::Error> {
        let fd = self.fd.lock().unwrap_or_else(PoisonError::into_inner);
        power_on.restore(&fd)?;
        // What the page says of interrupts was said of the guest before.
        self.run.set_not_ready();
        let Some(entry) = entry else { return Ok(()) };
        fd.set_sregs(&entry.sregs(fd.get_sregs()?))?;
        fd.set_regs(&entry.regs())
    }

    /// Maps the ring of coalesced writes, which lies `page` pages into the vCPU's mapping.
    pub fn map_ring(&self, page: i64) -> nix::Result<CoalescedRing> {
        let fd = self.fd.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the descriptor is open while `fd` is.
        let vcpu = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        CoalescedRing::map(vcpu, page)
    }

    /// Runs until the machine ends. To be called on the vCPU's own thread.
    pub fn run(&self, shared: &Shared) {
        // SAFETY: the page is mapped as long as `self.fd` lives, and `self` outlives the call.
        let on_thread = unsafe { self.kicker.on_this_thread(self.run.0) };
        while shared.gate.pass() {
            let mut fd = self.fd.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                // Kicks first, then their reasons: the gate, and in `prepare` the 8259s.
                on_thread.acknowledge();
                if shared.gate.is_closed() {
                    break;
                }
                self.prepare(&fd, shared);
                self.enter(&mut fd, shared);
            }
        }
    }

    /// Hands the boot processor an 8259 interrupt, or asks KVM to say when it can take one.
    fn prepare(&self, fd: &VcpuFd, shared: &Shared) {
        if self.id != 0 {
            return;
        }
        let mut pending = shared.interrupts.pic_pending();
        if pending && self.run.ready() {
            if let Some(vector) = shared.interrupts.pic_acknowledge() {
                let interrupt = kvm_interrupt {
                    irq: u32::from(vector),
                };
                // SAFETY: the ioctl reads a `kvm_interrupt`, which lives across the call. It
                // fails only if one is queued already, which `ready` rules out.
                let _ = unsafe { ioctl_with_ref(fd, KVM_INTERRUPT(), &interrupt) };
                self.run.set_not_ready();
            }
            pending = shared.interrupts.pic_pending();
        }
        self.run.request_window(pending);
    }

    fn enter(&self, fd: &mut VcpuFd, shared: &Shared) {
        use devices::bus::Deferred as _;
        let spaces = &*shared.spaces;
        let kind = match fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                spaces.flush();
                let width = self.port_access_size();
                spaces.io.read_string(u64::from(port), width, data);
                ExitKind::IoIn
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                spaces.flush();
                let width = self.port_access_size();
                spaces.io.write_string(u64::from(port), width, data);
                ExitKind::IoOut
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                spaces.flush();
                spaces.mmio.read(address, data);
                ExitKind::MmioRead
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                spaces.flush();
                spaces.mmio.write(address, data);
                ExitKind::MmioWrite
            }
            Ok(VcpuExit::IoapicEoi(vector)) => {
                shared.interrupts.end_of_interrupt(vector);
                ExitKind::IoapicEoi
            }
            Ok(VcpuExit::IrqWindowOpen) => ExitKind::IrqWindow,
            Ok(VcpuExit::Intr) => ExitKind::Signal,
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                ExitKind::Signal
            }
            Ok(VcpuExit::Shutdown) => {
                self.tell_triple_fault(fd);
                self.verdict(shared, Verdict::Reset)
            }
            Ok(VcpuExit::SystemEvent(event, _)) => self.verdict(shared, system_event(event)),
            Ok(VcpuExit::InternalError) => {
                let what = self.internal_error(fd);
                self.verdict(shared, Verdict::Failed(what))
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                let what =
                    format!("the host's CPU {cpu} refused to enter the guest (reason {reason:#x})");
                self.verdict(shared, Verdict::Failed(what))
            }
            Ok(exit) => {
                let what = format!("unexpected exit from KVM: {exit:?}");
                self.verdict(shared, Verdict::Failed(what))
            }
            Err(error) => self.verdict(shared, Verdict::Failed(run_failed(error))),
        };
        self.counts.count(kind);
    }

    fn verdict(&self, shared: &Shared, verdict: Verdict) -> ExitKind {
        let verdict = match verdict {
            Verdict::Failed(what) => Verdict::Failed(format!("vCPU {}: {what}", self.id)),
            other => other,
        };
        shared.gate.close();
        shared.verdicts.deliver(verdict);
        ExitKind::Other
    }

    /// Bytes of one item of a port exit; string instructions exit once for many.
    fn port_access_size(&self) -> usize {
        // SAFETY: the page is mapped while `fd` lives and the vCPU is not running; the exit
        // reason is KVM_EXIT_IO, so `io` is the live member of the union.
        let size = unsafe { (*self.run.0).__bindgen_anon_1.io.size };
        usize::from(size.max(1))
    }

    /// A triple fault resets a PC. Some systems reboot by it, most never mean it: whoever
    /// wonders why a guest started over finds it here.
    fn tell_triple_fault(&self, fd: &VcpuFd) {
        let rip = fd.get_regs().map_or(0, |regs| regs.rip);
        let (cr2, cr3) = fd
            .get_sregs()
            .map_or((0, 0), |sregs| (sregs.cr2, sregs.cr3));
        guest_error!(
            vcpu = self.id,
            "triple fault at rip {rip:#x} (cr2 {cr2:#x}, cr3 {cr3:#x}): the guest resets"
        );
    }

    /// KVM gave up: says on what.
    fn internal_error(&self, fd: &VcpuFd) -> String {
        // SAFETY: the page is mapped while `fd` lives and the vCPU is not running; the exit
        // reason is KVM_EXIT_INTERNAL_ERROR, so `internal` is the live member.
        let internal = unsafe { (*self.run.0).__bindgen_anon_1.internal };
        let rip = fd.get_regs().map_or(0, |regs| regs.rip);
        let given = internal.data.len().min(internal.ndata as usize);
        format!(
            "KVM gave up with an internal error, suberror {} at rip {rip:#x} (data {:x?})",
            internal.suberror,
            &internal.data[..given]
        )
    }
}

fn system_event(event: u32) -> Verdict {
    match event {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Verdict::PowerOff,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_CRASH => Verdict::Reset,
        other => Verdict::Failed(format!("unknown system event {other} from KVM")),
    }
}

fn run_failed(error: Errno) -> String {
    format!("KVM_RUN failed: {error}")
}
