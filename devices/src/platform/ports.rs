//! Byte-wide devices on I/O ports.
//!
//! The chips of the ISA bus have eight data lines. A wider access to them becomes byte
//! cycles at consecutive ports, lowest first (the bus converter of every chipset since the
//! 82288), so a device needs only say what a byte does.

use std::sync::Arc;

use crate::bus::Region;

/// Registers at well-known I/O ports.
pub trait BytePorts: Send + Sync {
    /// What the guest reads at `port`.
    fn read_port(&self, port: u16) -> u8;

    /// Takes a byte written to `port`.
    fn write_port(&self, port: u16, value: u8);
}

/// What an access that nobody answers reads: the bus floats high.
pub const FLOATING: u8 = 0xff;

/// Ports that a device takes, for whoever owns the bus.
#[derive(Clone)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// How many.
    pub len: u16,
    /// What answers there.
    pub region: Arc<dyn Region>,
}

impl PortRange {
    /// `len` ports from `first` on, answered by `device`.
    pub fn new(device: Arc<dyn BytePorts>, first: u16, len: u16) -> Self {
        let region = Arc::new(ByteRegion { device, first });
        Self { first, len, region }
    }
}

struct ByteRegion {
    device: Arc<dyn BytePorts>,
    first: u16,
}

impl ByteRegion {
    fn port(&self, offset: u64, byte: usize) -> u16 {
        self.first
            .wrapping_add(offset as u16)
            .wrapping_add(byte as u16)
    }
}

impl Region for ByteRegion {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.device.read_port(self.port(offset, i));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            self.device.write_port(self.port(offset, i), *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u16, u8)>>);

    impl BytePorts for Log {
        fn read_port(&self, port: u16) -> u8 {
            port as u8
        }

        fn write_port(&self, port: u16, value: u8) {
            self.0.lock().unwrap().push((port, value));
        }
    }

    #[test]
    fn wide_accesses_become_byte_cycles() {
        let device = Arc::new(Log::default());
        let range = PortRange::new(device.clone(), 0x20, 2);
        range.region.write(0, &[1, 2]);
        assert_eq!(*device.0.lock().unwrap(), [(0x20, 1), (0x21, 2)]);
        let mut data = [0; 4];
        range.region.read(1, &mut data);
        assert_eq!(data, [0x21, 0x22, 0x23, 0x24]);
    }
}
