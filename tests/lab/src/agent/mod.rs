//! The part of the lab that runs in the guest: what busybox has no tool for.

mod kexec;
mod network;
mod serial;

use crate::error::{Context, Result};
use crate::mapped::Mapped;
use clap::Subcommand;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

/// A task in the guest. Those that move something print a number of bytes or packets and the seconds it took.
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
    /// Connect and send a file
    TcpSendFile {
        /// To whom
        to: SocketAddr,
        /// What
        file: PathBuf,
    },
    /// Connect and receive all there is
    TcpReceive {
        /// From whom
        from: SocketAddr,
    },
    /// Send bytes over a serial line that leads back, each after the last has come back
    SerialEcho {
        /// The line
        device: PathBuf,
        /// How many
        count: u32,
    },
    /// Write a file to the start of another, which is mapped: a BAR in sysfs
    MapWrite {
        /// What is mapped
        to: PathBuf,
        /// What is written to it
        from: PathBuf,
    },
    /// Copy the start of a file that is mapped: a BAR in sysfs
    MapRead {
        /// What is mapped
        from: PathBuf,
        /// Where the copy goes
        to: PathBuf,
        /// How many bytes
        count: usize,
    },
    /// Go over to another kernel without a reset
    Kexec {
        /// Its image
        kernel: PathBuf,
        /// Its initrd
        initrd: PathBuf,
        /// Its command line
        cmdline: String,
    },
}

/// Does one task.
pub fn main(task: &Agent) -> Result<()> {
    let start = Instant::now();
    let (amount, seconds) = match task {
        Agent::UdpSend { to, count, size } => {
            (network::udp_send(*to, *count, *size)?, start.elapsed())
        }
        Agent::UdpReceive { at } => network::udp_receive(*at)?,
        Agent::TcpSend { to, bytes } => (network::tcp_send(*to, *bytes)?, start.elapsed()),
        Agent::TcpSendFile { to, file } => {
            let content = fs::read(file).path(file)?;
            (network::tcp_send_all(*to, &content)?, start.elapsed())
        }
        Agent::TcpReceive { from } => (network::tcp_receive(*from)?, start.elapsed()),
        Agent::SerialEcho { device, count } => (serial::echo(device, *count)?, start.elapsed()),
        Agent::MapWrite { to, from } => {
            let content = fs::read(from).path(from)?;
            Mapped::open(to)?.write(&content);
            (content.len() as u64, start.elapsed())
        }
        Agent::MapRead { from, to, count } => {
            let content = Mapped::open(from)?.read(*count);
            fs::write(to, &content).path(to)?;
            (content.len() as u64, start.elapsed())
        }
        Agent::Kexec {
            kernel,
            initrd,
            cmdline,
        } => return kexec::start(kernel, initrd, cmdline),
    };
    println!("{amount} {}", seconds.as_secs_f64());
    Ok(())
}
