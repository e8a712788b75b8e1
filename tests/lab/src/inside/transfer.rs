//! The host's end of TCP transfers with a guest.

use crate::error::{Context, Result, fail};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A transfer waiting for the guest to connect, or under way.
pub struct Transfer<T> {
    worker: JoinHandle<Result<T>>,
}

impl<T> Transfer<T> {
    /// Waits for its end.
    pub fn finish(self) -> Result<T> {
        self.worker
            .join()
            .unwrap_or_else(|_| fail("a transfer's thread panicked"))
    }
}

/// Gives `bytes` to the first who connects to `address`.
pub fn offer(address: &str, bytes: Vec<u8>) -> Result<Transfer<()>> {
    serve(address, move |mut stream| {
        stream.write_all(&bytes).context("sending to the guest")?;
        // The guest's end closes when it has read everything.
        stream
            .shutdown(std::net::Shutdown::Write)
            .context("closing the transfer")?;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        Ok(())
    })
}

/// Bytes from the guest for each that goes back.
const ANSWERED: usize = 256 << 10;

/// Takes `bytes` from the first who connects to `address`, or all if there are fewer, and closes. A byte goes back now
/// and then: the `passt` of March 2023 resets a connection over which only the guest has sent for 24 seconds, which is
/// not long here.
pub fn collect(address: &str, bytes: usize) -> Result<Transfer<Vec<u8>>> {
    serve(address, move |mut stream| {
        let mut taken = Vec::new();
        loop {
            let wanted = ANSWERED.min(bytes - taken.len());
            let came = (&mut stream)
                .take(wanted as u64)
                .read_to_end(&mut taken)
                .context("receiving from the guest")?;
            if came < wanted || taken.len() == bytes {
                return Ok(taken);
            }
            stream.write_all(b".").context("answering the guest")?;
        }
    })
}

fn serve<T: Send + 'static>(
    address: &str,
    work: impl FnOnce(TcpStream) -> Result<T> + Send + 'static,
) -> Result<Transfer<T>> {
    let listener = TcpListener::bind(address).context(format!("listening on {address}"))?;
    listener.set_nonblocking(true).context("listening")?;
    let worker = std::thread::spawn(move || {
        let stream = accept(&listener)?;
        stream.set_nonblocking(false).context("accepting")?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("accepting")?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .context("accepting")?;
        work(stream)
    });
    Ok(Transfer { worker })
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("accepting"),
        }
        if start.elapsed() > PATIENCE {
            return fail("the guest did not connect");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Connects to a port that is only just being opened on the other side.
pub fn connect(address: &str, patience: Duration) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream
                    .set_read_timeout(Some(PATIENCE))
                    .context("connecting")?;
                return Ok(stream);
            }
            Err(error) if start.elapsed() > patience => {
                return Err(error).context(format!("connecting to {address}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
