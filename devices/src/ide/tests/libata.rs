//! A driver that accesses registers in the order that Linux's libata-sff does.

use super::rig::{BUS_MASTER, Rig};

pub const BSY: u8 = 0x80;
pub const DRQ: u8 = 0x08;
pub const ERR: u8 = 0x01;

/// Where descriptor tables go.
pub const TABLE: u32 = 0x8000;

/// A command's registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tf {
    pub device: u8,
    pub command: u8,
    pub feature: u8,
    pub count: u16,
    pub lba: u64,
    pub lba48: bool,
}

impl Tf {
    /// A command with an address.
    pub fn rw(command: u8, lba: u64, count: u16) -> Self {
        Self {
            device: 0x40,
            command,
            count,
            lba,
            ..Self::default()
        }
    }

    /// The same, of the 48-bit set.
    pub fn ext(self) -> Self {
        Self {
            lba48: true,
            ..self
        }
    }

    pub fn second(self) -> Self {
        Self {
            device: self.device | 0x10,
            ..self
        }
    }
}

pub struct Port<'a> {
    pub rig: &'a Rig,
    pub index: usize,
}

impl<'a> Port<'a> {
    pub fn new(rig: &'a Rig, index: usize) -> Self {
        Self { rig, index }
    }

    pub fn command_block(&self) -> u16 {
        [0x1f0, 0x170][self.index]
    }

    pub fn control_block(&self) -> u16 {
        [0x3f6, 0x376][self.index]
    }

    pub fn bus_master(&self) -> u16 {
        BUS_MASTER + 8 * self.index as u16
    }

    pub fn line(&self) -> &super::rig::Line {
        &self.rig.lines[self.index]
    }

    pub fn set(&self, register: u16, value: u8) {
        self.rig.out8(self.command_block() + register, value);
    }

    pub fn get(&self, register: u16) -> u8 {
        self.rig.in8(self.command_block() + register)
    }

    pub fn status(&self) -> u8 {
        self.get(7)
    }

    pub fn alternate_status(&self) -> u8 {
        self.rig.in8(self.control_block())
    }

    /// `ata_wait_idle`: one read in the good case.
    pub fn wait_idle(&self) -> u8 {
        let mut status = self.status();
        self.rig.until("idle", || {
            let idle = status & (BSY | DRQ) == 0;
            if !idle {
                status = self.status();
            }
            idle
        });
        status
    }

    /// `ata_dev_select` and `ata_sff_tf_load`.
    pub fn load(&self, tf: &Tf) {
        self.wait_idle();
        self.set(6, 0xa0 | tf.device & 0x10);
        self.alternate_status();
        self.wait_idle();
        let lba = tf.lba.to_le_bytes();
        if tf.lba48 {
            self.set(1, 0);
            self.set(2, (tf.count >> 8) as u8);
            self.set(3, lba[3]);
            self.set(4, lba[4]);
            self.set(5, lba[5]);
        }
        self.set(1, tf.feature);
        self.set(2, tf.count as u8);
        self.set(3, lba[0]);
        self.set(4, lba[1]);
        self.set(5, lba[2]);
        let top = if tf.lba48 { 0 } else { lba[3] & 0xf };
        self.set(6, 0xa0 | tf.device | top);
        self.wait_idle();
    }

    /// `ata_sff_exec_command`.
    pub fn execute(&self, command: u8) {
        self.set(7, command);
        self.alternate_status();
    }

    /// `ata_bmdma_setup`, up to the command.
    pub fn bus_master_setup(&self, table: u32, read: bool) {
        self.rig.out32(self.bus_master() + 4, table);
        let control = self.rig.in8(self.bus_master()) & !9;
        self.rig
            .out8(self.bus_master(), control | if read { 8 } else { 0 });
    }

    /// `ata_bmdma_start`.
    pub fn bus_master_start(&self) {
        let control = self.rig.in8(self.bus_master());
        self.rig.out8(self.bus_master(), control | 1);
    }

    /// `ata_bmdma_stop`.
    pub fn bus_master_stop(&self) {
        let control = self.rig.in8(self.bus_master());
        self.rig.out8(self.bus_master(), control & !1);
        self.alternate_status();
    }

    pub fn bus_master_status(&self) -> u8 {
        self.rig.in8(self.bus_master() + 2)
    }

    /// `ata_bmdma_port_intr`: bus master and drive status.
    pub fn interrupt(&self) -> (u8, u8) {
        let host = self.bus_master_status();
        assert_ne!(host & 4, 0, "interrupt without the interrupt bit");
        self.bus_master_stop();
        self.alternate_status();
        let status = self.status();
        let clear = self.bus_master_status();
        self.rig.out8(self.bus_master() + 2, clear);
        (host, status)
    }

    /// A DMA command from start to end.
    pub fn dma(&self, tf: &Tf, read: bool, regions: &[(u32, u32)]) -> (u8, u8) {
        self.rig.prds(u64::from(TABLE), regions);
        self.load(tf);
        self.bus_master_setup(TABLE, read);
        self.execute(tf.command);
        self.bus_master_start();
        self.line().wait();
        self.interrupt()
    }

    /// A command without data; the final status.
    pub fn no_data(&self, tf: &Tf) -> u8 {
        self.load(tf);
        self.execute(tf.command);
        self.line().wait();
        self.status()
    }

    /// A PIO data-in command, by interrupts; the data and the status after it.
    pub fn pio_in(&self, tf: &Tf, block: usize, len: usize) -> (Vec<u8>, u8) {
        self.load(tf);
        self.execute(tf.command);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            self.line().wait();
            let status = self.status();
            if status & ERR != 0 {
                return (bytes, status);
            }
            assert_eq!(status & (BSY | DRQ), DRQ);
            assert!(!self.line().level());
            for _ in 0..block.min(len - bytes.len()) / 2 {
                let mut word = [0; 2];
                self.rig.read(self.command_block(), &mut word);
                bytes.extend(word);
            }
        }
        (bytes, self.wait_idle())
    }

    /// A PIO data-out command, by interrupts; the final status.
    pub fn pio_out(&self, tf: &Tf, block: usize, bytes: &[u8]) -> u8 {
        self.load(tf);
        self.execute(tf.command);
        for (i, chunk) in bytes.chunks(block).enumerate() {
            if i > 0 {
                self.line().wait();
            }
            let status = self.status();
            if status & ERR != 0 {
                return status;
            }
            assert_eq!(status & (BSY | DRQ), DRQ);
            for word in chunk.chunks(2) {
                self.rig.write(self.command_block(), word);
            }
        }
        self.line().wait();
        self.status()
    }

    /// `ata_bus_softreset`.
    pub fn soft_reset(&self) {
        for control in [0x08, 0x0c, 0x08] {
            self.rig.out8(self.control_block(), control);
        }
    }

    /// Count and LBA registers of a drive, as `ata_sff_dev_classify` looks at them.
    pub fn signature(&self, drive: u8) -> [u8; 4] {
        self.set(6, 0xa0 | drive << 4);
        self.alternate_status();
        [2, 3, 4, 5].map(|r| self.get(r))
    }
}
