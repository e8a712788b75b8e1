//! QEMU's own monitor, asked what the emulated processors are at when nothing else answers.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PROMPT: &str = "(qemu) ";
/// QEMU answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(3);
/// What tells a halted processor from a lost interrupt. The APIC is shown once for each.
const QUESTIONS: [&str; 4] = [
    "info registers -a",
    "info lapic 0",
    "info lapic 1",
    "info pic",
];

/// The option that makes QEMU listen at `socket`.
pub fn option(socket: &Path) -> [String; 2] {
    let listen = format!("unix:{},server=on,wait=off", socket.display());
    ["-monitor".to_owned(), listen]
}

/// The state of the processors and interrupt controllers of the QEMU that listens at `socket`.
pub fn processors(socket: &Path) -> String {
    ask(socket).unwrap_or_else(|error| format!("QEMU's monitor: {error}"))
}

fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = String::new();
    until_prompt(&mut stream)?;
    for question in QUESTIONS {
        stream.write_all(format!("{question}\n").as_bytes())?;
        answers.push_str(&until_prompt(&mut stream)?);
    }
    Ok(answers.replace('\r', ""))
}

fn until_prompt(stream: &mut UnixStream) -> io::Result<String> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !said.ends_with(PROMPT.as_bytes()) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => said.extend_from_slice(&buffer[..length]),
        }
    }
    said.truncate(said.len() - PROMPT.len());
    Ok(String::from_utf8_lossy(&said).into_owned())
}
