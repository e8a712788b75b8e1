//! Packets in bulk, to and from the guest.

use crate::error::{Context, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Gives how many the system took.
pub fn udp_send(to: SocketAddr, count: u32, size: usize) -> Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("a UDP socket")?;
    let datagram = vec![0x5a; size];
    let mut sent = 0;
    for _ in 0..count {
        sent += u64::from(socket.send_to(&datagram, to).is_ok());
    }
    Ok(sent)
}

/// Gives how many came, and the time from the first to the last.
pub fn udp_receive(at: SocketAddr) -> Result<(u64, Duration)> {
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

/// Gives how many bytes the other side has.
pub fn tcp_send(to: SocketAddr, bytes: u64) -> Result<u64> {
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
    finish_sending(stream);
    Ok(bytes)
}

/// Gives how many bytes the other side has.
pub fn tcp_send_all(to: SocketAddr, bytes: &[u8]) -> Result<u64> {
    let mut stream = TcpStream::connect(to).context(to)?;
    stream.write_all(bytes).context(to)?;
    finish_sending(stream);
    Ok(bytes.len() as u64)
}

/// Returns when the other side, which knows how much is to come, has it all and closes.
fn finish_sending(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Gives how many bytes came.
pub fn tcp_receive(from: SocketAddr) -> Result<u64> {
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
