//! The part of the lab that runs in the guest: what busybox has no tool for.

use crate::error::{Context, Result};
use clap::Subcommand;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// A task in the guest. Each prints a number of bytes or packets and the seconds they took.
#[derive(Subcommand)]
pub enum Agent {
    /// Send datagrams as fast as the system takes them
    UdpSend {
        /// To whom
        to: SocketAddr,
        /// How many
        count: u32,
        /// Bytes in each
        size: usize,
    },
    /// Receive datagrams until none has come for a second
    UdpReceive {
        /// Where to listen
        at: SocketAddr,
    },
    /// Connect and send
    TcpSend {
        /// To whom
        to: SocketAddr,
        /// How many bytes
        bytes: u64,
    },
    /// Connect and receive all there is
    TcpReceive {
        /// From whom
        from: SocketAddr,
    },
}

/// Does one task.
pub fn main(task: &Agent) -> Result<()> {
    let start = Instant::now();
    let (amount, seconds) = match task {
        Agent::UdpSend { to, count, size } => (udp_send(*to, *count, *size)?, start.elapsed()),
        Agent::UdpReceive { at } => udp_receive(*at)?,
        Agent::TcpSend { to, bytes } => (tcp_send(*to, *bytes)?, start.elapsed()),
        Agent::TcpReceive { from } => (tcp_receive(*from)?, start.elapsed()),
    };
    println!("{amount} {}", seconds.as_secs_f64());
    Ok(())
}

fn udp_send(to: SocketAddr, count: u32, size: usize) -> Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("a UDP socket")?;
    let datagram = vec![0x5a; size];
    let mut sent = 0;
    for _ in 0..count {
        sent += u64::from(socket.send_to(&datagram, to).is_ok());
    }
    Ok(sent)
}

fn udp_receive(at: SocketAddr) -> Result<(u64, Duration)> {
    let socket = UdpSocket::bind(at).context(at)?;
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .context(at)?;
    let mut buffer = [0; 2048];
    let (mut received, mut first, mut last) = (0, None, Instant::now());
    while socket.recv(&mut buffer).is_ok() {
        last = Instant::now();
        if first.is_none() {
            first = Some(last);
            socket
                .set_read_timeout(Some(Duration::from_secs(1)))
                .context(at)?;
        }
        received += 1;
    }
    Ok((received, first.map_or(Duration::ZERO, |first| last - first)))
}

fn tcp_send(to: SocketAddr, bytes: u64) -> Result<u64> {
    let mut stream = TcpStream::connect(to).context(to)?;
    let block = [0x5a; 65536];
    let mut left = bytes;
    while left > 0 {
        let now = block
            .len()
            .min(usize::try_from(left).unwrap_or(block.len()));
        stream.write_all(&block[..now]).context(to)?;
        left -= now as u64;
    }
    // Not done before the other side has it all and closes.
    stream.shutdown(std::net::Shutdown::Write).context(to)?;
    let _ = stream.read(&mut [0; 1]);
    Ok(bytes)
}

fn tcp_receive(from: SocketAddr) -> Result<u64> {
    let mut stream = TcpStream::connect(from).context(from)?;
    let mut block = [0; 65536];
    let mut received = 0;
    loop {
        match stream.read(&mut block).context(from)? {
            0 => return Ok(received),
            count => received += count as u64,
        }
    }
}
