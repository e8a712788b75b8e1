//! A [`Peer`] that writes to anything, from a thread of its own.
//!
//! A vCPU pays for a byte with a push to a buffer; the thread wakes on the first, lets more
//! gather for a moment and writes them with one system call. When what it writes to blocks,
//! the buffer fills, and then the guest sees a busy transmitter.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::{Peer, Serial};

/// Bytes that wait at most.
const CAPACITY: usize = 64 << 10;

/// How long output gathers: too short to be seen, long enough for a line.
const GATHER: Duration = Duration::from_millis(1);

/// How long to leave a full non-blocking descriptor alone.
const RETRY: Duration = Duration::from_millis(10);

/// A writer's thread and its buffer.
pub struct Writer {
    shared: Arc<Shared>,
    receive_ready: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    port: Weak<Serial>,
    /// The port was refused bytes.
    starved: bool,
    finishing: bool,
    /// The thread has ended, everything written or the sink broken.
    done: bool,
}

impl Writer {
    /// Starts a thread that writes to `sink`. `receive_ready` is what the port's
    /// [`Peer::receive_ready`] is passed on to: typically it wakes who reads the terminal.
    pub fn spawn(
        sink: impl Write + Send + 'static,
        receive_ready: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        thread::Builder::new()
            .name("serial".into())
            .spawn(move || thread.run(sink))?;
        Ok(Arc::new(Self {
            shared,
            receive_ready: Box::new(receive_ready),
        }))
    }

    /// Says whose output it writes: the port to tell when there is room again.
    pub fn attach(&self, port: &Arc<Serial>) {
        self.shared.lock().port = Arc::downgrade(port);
    }

    /// Writes out what is there and ends the thread. Gives up after `patience`, when the
    /// sink takes nothing; false then.
    pub fn finish(&self, patience: Duration) -> bool {
        let mut buffer = self.shared.lock();
        buffer.finishing = true;
        self.shared.changed.notify_all();
        let (buffer, _) = self
            .shared
            .changed
            .wait_timeout_while(buffer, patience, |buffer| !buffer.done)
            .unwrap_or_else(PoisonError::into_inner);
        buffer.done
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().finishing = true;
        self.shared.changed.notify_all();
    }
}

impl Peer for Writer {
    fn transmit(&self, bytes: &[u8]) -> usize {
        let mut buffer = self.shared.lock();
        if buffer.done {
            return bytes.len();
        }
        let taken = bytes.len().min(CAPACITY.saturating_sub(buffer.bytes.len()));
        let was_empty = buffer.bytes.is_empty();
        buffer.bytes.extend_from_slice(&bytes[..taken]);
        buffer.starved |= taken < bytes.len();
        if was_empty && taken > 0 {
            self.shared.changed.notify_all();
        }
        taken
    }

    fn receive_ready(&self) {
        (self.receive_ready)();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sink: impl Write) {
        let mut bytes = Vec::new();
        while self.gather(&mut bytes) {
            if let Err(error) = write_out(&mut sink, &bytes) {
                tracing::warn!(%error, "serial output is lost from here on");
                break;
            }
            bytes.clear();
        }
        let port = {
            let mut buffer = self.lock();
            buffer.done = true;
            buffer.bytes = Vec::new();
            buffer.port.upgrade()
        };
        self.changed.notify_all();
        // A guest must not wait for ever for a sink that broke.
        if let Some(port) = port {
            port.drained();
        }
    }

    /// Waits for bytes and takes them all; false when there are none and will be none.
    fn gather(&self, bytes: &mut Vec<u8>) -> bool {
        let idle = |buffer: &mut Buffer| buffer.bytes.is_empty() && !buffer.finishing;
        let buffer = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let gathering = |buffer: &mut Buffer| !buffer.finishing;
        let (mut buffer, _) = self
            .changed
            .wait_timeout_while(buffer, GATHER, gathering)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut buffer.bytes, bytes);
        let starved = std::mem::take(&mut buffer.starved);
        let port = buffer.port.upgrade();
        drop(buffer);
        if let (true, Some(port)) = (starved, port) {
            port.drained();
        }
        !bytes.is_empty()
    }
}

fn write_out(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    sink.flush()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;

    use super::*;
    use crate::platform::fakes::Probe;
    use crate::platform::ports::BytePorts;
    use crate::platform::serial::COM1;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn writes_everything_in_order_before_it_ends() {
        let (mut reader, sink) = io::pipe().unwrap();
        let writer = Writer::spawn(sink, || {}).unwrap();
        let port = Arc::new(Serial::new(COM1, Probe::line().1, writer.clone()));
        writer.attach(&port);
        for byte in b"reboot: Power down\n" {
            port.write_port(COM1, *byte);
        }
        assert!(writer.finish(PATIENCE));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "reboot: Power down\n");
    }

    #[test]
    fn a_blocked_sink_stops_the_guest_and_loses_nothing() {
        struct Gate(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);
        impl Write for Gate {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.recv().map_err(|_| ErrorKind::BrokenPipe)?;
                self.1.send(bytes.to_vec()).unwrap();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ((open, gate), (out, written)) = (mpsc::channel(), mpsc::channel());
        let writer = Writer::spawn(Gate(gate, out), || {}).unwrap();
        let port = Arc::new(Serial::new(COM1, Probe::line().1, writer.clone()));
        writer.attach(&port);
        let ready = || port.read_port(COM1 + 5) & 0x20 != 0;
        let mut sent = Vec::new();
        while ready() {
            assert!(sent.len() < 4 * CAPACITY);
            sent.push(sent.len() as u8);
            port.write_port(COM1, *sent.last().unwrap());
        }
        for _ in 0..10 {
            open.send(()).unwrap();
        }
        let mut got = Vec::new();
        while got.len() < sent.len() {
            got.extend(written.recv_timeout(PATIENCE).unwrap());
        }
        assert_eq!(got, sent);
        assert!(ready());
        assert!(writer.finish(PATIENCE));
    }

    #[test]
    fn a_broken_sink_does_not_hold_the_guest() {
        let (reader, sink) = io::pipe().unwrap();
        drop(reader);
        let writer = Writer::spawn(sink, || {}).unwrap();
        let port = Arc::new(Serial::new(COM1, Probe::line().1, writer.clone()));
        writer.attach(&port);
        port.write_port(COM1, b'x');
        assert!(writer.finish(PATIENCE));
        for _ in 0..2 * CAPACITY {
            port.write_port(COM1, b'y');
        }
        assert_eq!(port.read_port(COM1 + 5) & 0x20, 0x20);
    }
}
