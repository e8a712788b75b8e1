//! DPDK's `dpdk-testpmd` in the guest: a driver in user space, which reaches its device through the guest's vfio-pci.

use super::guest::{Answer, Guest};
use super::vmm::{dpdk, own_initrd};
use super::wire::{Mac, show_mac};
use crate::error::{Result, fail};
use crate::initrd;
use std::path::Path;
use std::time::Duration;

/// Every step of it is told to wait no longer than this.
const PATIENCE: Duration = Duration::from_secs(120);
/// What it says when it takes a command.
const PROMPT: &str = "testpmd> ";
/// How many packets it takes at a time.
pub const BURST: usize = 32;

/// Options for memory of pages of 2 MiB, of which the guest must have a pool of 16.
pub const HUGE_PAGES: &str = "--in-memory";
/// Options for memory of pages of 4 KiB.
pub const SMALL_PAGES: &str = "--no-huge --no-shconf";

/// The program, running.
pub struct Testpmd<'a> {
    guest: &'a mut Guest,
    /// Prompts seen so far.
    prompts: u32,
}

/// Writes an initrd with DPDK in it beside what guests have.
pub fn initrd_with_dpdk(to: &Path) -> Result<()> {
    initrd::with_directory(&own_initrd(), &dpdk(), "dpdk", to)
}

impl<'a> Testpmd<'a> {
    /// Starts it on a function that is bound to vfio-pci. What it makes up itself it sends to `peer`.
    pub fn start(guest: &'a mut Guest, function: &str, options: &str, peer: Mac) -> Result<Self> {
        let environment = format!("-l 0,1 -m 32 --no-telemetry --iova-mode=va {options}");
        let ports = format!("--port-topology=chained --eth-peer=0,{}", show_mac(peer));
        let pool = format!("--total-num-mbufs=2048 --burst={BURST} --rxd=256 --txd=256");
        // DPDK takes no plugins from below a directory that anybody may write.
        guest.sh(&format!(
            "chmod go-w /; mkdir -p /var/run; rm -f /tmp/orders; mkfifo /tmp/orders; : >/tmp/testpmd; \
             /dpdk/testpmd {environment} -a {function} -- -i {ports} {pool} </tmp/orders >/tmp/testpmd 2>&1 & \
             testpmd=$!; exec 3>/tmp/orders"
        ))?;
        let mut started = Self { guest, prompts: 0 };
        started.wait_for_prompt()?;
        Ok(started)
    }

    /// Gives it a command and waits until it takes the next.
    pub fn order(&mut self, command: &str) -> Result<()> {
        self.guest.sh(&format!("echo '{command}' >&3"))?;
        self.wait_for_prompt()
    }

    /// Ends it.
    pub fn quit(self) -> Result<()> {
        let Answer { status, .. } = self
            .guest
            .ask("echo quit >&3; exec 3>&-; wait $testpmd", PATIENCE)?;
        let said = self.guest.sh("cat /tmp/testpmd")?;
        if status != 0 || !said.contains("Bye...") {
            return fail(format!("testpmd ended with {status}: {said}"));
        }
        Ok(())
    }

    fn wait_for_prompt(&mut self) -> Result<()> {
        self.prompts += 1;
        let there = format!(
            "[ $(grep -o '{PROMPT}' /tmp/testpmd | wc -l) -ge {} ]",
            self.prompts
        );
        let wait = format!(
            "n=0; until {there}; do n=$((n+1)); [ $n -lt 150 ] && kill -0 $testpmd || break; sleep 0.5; done; {there}"
        );
        match self.guest.ask(&wait, PATIENCE)?.status {
            0 => Ok(()),
            _ => fail(format!(
                "testpmd takes no command; it said: {}",
                self.guest.sh("cat /tmp/testpmd; dmesg | tail -n 5")?
            )),
        }
    }
}
