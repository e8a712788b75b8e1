//! The invalidation queue (VT-d 4.1 §6.5.2): the descriptors between head and tail, carried
//! out in order on the thread that moved the tail. At an error the queue stops with its head
//! at the descriptor, until software clears FSTS.IQE (§6.5.2.10).

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use super::Vtd;
use super::commands::Commands;
use super::descriptor::{Request, Wait, decode};
use super::memory::read_entry;
use super::registers::{QueueAddress, QueueError, QueuePointer};

/// The queue as it was when a pass over it began. The tail may move on meanwhile: who moves
/// it makes the next pass, so no pass is longer than the queue.
struct Pass {
    queue: QueueAddress,
    head: u64,
    tail: u64,
}

impl Vtd {
    /// Carries out what is in the queue, if it runs.
    pub(super) fn run_queue(&self, commands: &Commands<'_>) {
        let Some(pass) = self.pass() else {
            return;
        };
        if let Err(error) = self.run_pass(&pass, commands) {
            self.stop_queue(error);
        }
    }

    fn pass(&self) -> Option<Pass> {
        let regs = self.registers();
        let runs = regs.status.queue() && !regs.faults.status.queue_error();
        runs.then_some(Pass {
            queue: regs.queue,
            head: regs.queue_head.0,
            tail: regs.queue_tail.0,
        })
    }

    fn run_pass(&self, pass: &Pass, _: &Commands<'_>) -> Result<(), QueueError> {
        let (size, stride) = (pass.queue.size(), pass.queue.stride());
        if pass.queue.wide() && !self.config.takes_wide_descriptors() {
            return Err(QueueError::InvalidWidth);
        }
        if pass.tail >= size {
            return Err(QueueError::InvalidTail);
        }
        if !pass.tail.is_multiple_of(stride) {
            return Err(QueueError::MisalignedTail);
        }
        // A head beyond the end is from before software made the queue smaller.
        let mut head = pass.head % size / stride * stride;
        for _ in 0..size / stride {
            if head == pass.tail {
                break;
            }
            let request = self.fetch(&pass.queue, head)?;
            self.carry_out(request)?;
            head = (head + stride) % size;
            self.registers().queue_head = QueuePointer(head);
        }
        Ok(())
    }

    fn fetch(&self, queue: &QueueAddress, head: u64) -> Result<Request, QueueError> {
        let mut quads = [0; 4];
        let quads = &mut quads[..queue.stride() as usize / 8];
        for (quad, at) in quads.iter_mut().zip((head..).step_by(8)) {
            *quad = queue
                .address()
                .checked_add(at)
                .and_then(|address| read_entry(&self.memory, address))
                .ok_or(QueueError::Fetch)?;
        }
        decode(quads, &self.config)
    }

    /// Carries out one request; all that it asks for is done when this returns.
    ///
    /// For a Device-TLB (§6.5.2.5) there is nothing left to do. Emulated functions have none.
    /// That of an assigned function is filled and flushed by the host's IOMMU driver, which
    /// does so when the sink has it unmap what is gone. So it is flushed by the IOTLB, context
    /// or PASID cache invalidation, which software must ask for first, as the Device-TLB could
    /// be filled again from what the unit still has. Without one before it, the unit's
    /// translations are what they were, and what the function holds of them is good.
    ///
    /// Nor is there anybody to wait for, whatever function is named. Hardware sends a message,
    /// and sets FSTS.ITE when no answer comes; how soon, and whether it asks a function that
    /// is not there, the manual leaves to it. One that is gone, or has ATS off, holds no
    /// translation, which is all that the descriptor asks for. ITE would throw away the waits
    /// of whoever else is in the queue, for a device that was merely unplugged.
    fn carry_out(&self, request: Request) -> Result<(), QueueError> {
        match request {
            Request::Contexts(scope) => self.invalidate_contexts(scope),
            Request::Pages(scope) => self.invalidate_pages(scope),
            Request::DeviceTlb => {}
            Request::Entries(indices) => self.invalidate_entries(indices),
            Request::Wait(wait) => return self.complete(wait),
        }
        Ok(())
    }

    /// Everything before the wait is done, and whoever listens has followed. The status is
    /// written before the event, so who takes the event finds it.
    fn complete(&self, wait: Wait) -> Result<(), QueueError> {
        if let Some((address, data)) = wait.status {
            self.memory
                .store(data, GuestAddress(address), Ordering::Release)
                .map_err(|_| QueueError::Fetch)?;
        }
        if wait.interrupt {
            let message = {
                let regs = &mut *self.registers();
                // Only a wait after the last one was acknowledged is an event (ICS.IWC).
                let first = !std::mem::replace(&mut regs.wait_complete, true);
                first.then(|| regs.completion.raise()).flatten()
            };
            self.send(message);
        }
        Ok(())
    }

    fn stop_queue(&self, error: QueueError) {
        tracing::debug!(?error, "VT-d invalidation queue stopped");
        let message = {
            let regs = &mut *self.registers();
            regs.queue_error.set_info(error as u8);
            regs.faults.queue_error()
        };
        self.send(message);
    }
}
