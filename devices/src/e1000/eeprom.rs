//! The serial EEPROM: 64 words of 16 bits (8254x SDM §5), read through EERD or clocked bit
//! by bit through EECD as the 93C46 Microwire part that it is.
//!
//! **Reset.** Words survive every reset, as on the board. The bit-banging state is lost
//! with power and with CTRL.RST.

use pci::Ids;

use super::registers::{EepromControl, EepromRead};
use crate::net::Mac;

/// Words in the part.
pub const WORDS: usize = 64;
/// All words add up to this (§5.6.35).
const CHECKSUM: u16 = 0xbaba;

/// Words of the map (§5.6, Table 5-2).
mod word {
    pub const COMPATIBILITY: usize = 0x03;
    pub const BOARD: usize = 0x08;
    pub const INIT_CONTROL_1: usize = 0x0a;
    pub const SUBSYSTEM: usize = 0x0b;
    pub const SUBSYSTEM_VENDOR: usize = 0x0c;
    pub const DEVICE: usize = 0x0d;
    pub const VENDOR: usize = 0x0e;
    pub const INIT_CONTROL_2: usize = 0x0f;
    pub const CHECKSUM: usize = 0x3f;
}

/// Init Control 1 (§5.6.11): the signature of a part that is programmed, and the bits that
/// load the vendor, device and subsystem ids from it.
const INIT_CONTROL_1: u16 = 0x4000 | 1 << 1 | 1 << 0;
/// Init Control 2 (§5.6.17): pause frames in both directions are advertised.
const INIT_CONTROL_2: u16 = 0b01 << 12;

/// The part and the state of its wires.
#[derive(Clone, serde::Serialize)]
pub struct Eeprom {
    #[serde(serialize_with = "super::state::words")]
    words: [u16; WORDS],
    wires: EepromControl,
    read: EepromRead,
    microwire: Microwire,
    /// EWEN was given and EWDS was not.
    writable: bool,
}

/// Where a Microwire instruction stands. Bits are taken on the rising edge of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
enum Microwire {
    /// Waiting for the start bit.
    Idle,
    /// Two bits of opcode and six of address come in.
    Command { bits: u8, value: u8 },
    /// A word goes out, the highest bit first; the next word follows by itself.
    Read { address: u8, bit: u8 },
    /// A word comes in.
    Write {
        opcode: WriteOpcode,
        bits: u8,
        value: u16,
    },
    /// Done until chip select falls.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
enum WriteOpcode {
    One(u8),
    All,
}

impl Eeprom {
    /// A part programmed for a NIC of this identity and address.
    pub fn new(mac: Mac, ids: &Ids) -> Self {
        let mut words = [0; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.0.chunks_exact(2)) {
            *word = u16::from(pair[1]) << 8 | u16::from(pair[0]);
        }
        words[word::COMPATIBILITY] = 0;
        words[word::BOARD] = 0xffff;
        words[word::BOARD + 1] = 0xffff;
        words[word::INIT_CONTROL_1] = INIT_CONTROL_1;
        words[word::SUBSYSTEM] = ids.subsystem;
        words[word::SUBSYSTEM_VENDOR] = ids.subsystem_vendor;
        words[word::DEVICE] = ids.device;
        words[word::VENDOR] = ids.vendor;
        words[word::INIT_CONTROL_2] = INIT_CONTROL_2;
        let sum = words.iter().fold(0u16, |sum, &w| sum.wrapping_add(w));
        words[word::CHECKSUM] = CHECKSUM.wrapping_sub(sum);
        Self {
            words,
            wires: EepromControl(0),
            read: EepromRead(0),
            microwire: Microwire::Idle,
            writable: false,
        }
    }

    /// The address in its first three words.
    pub fn mac(&self) -> Mac {
        let mut bytes = [0; 6];
        for (pair, word) in bytes.chunks_exact_mut(2).zip(self.words) {
            pair.copy_from_slice(&word.to_le_bytes());
        }
        Mac(bytes)
    }

    /// Forgets what was going on over its wires.
    pub fn reset(&mut self) {
        self.wires = EepromControl(0);
        self.read = EepromRead(0);
        self.microwire = Microwire::Idle;
        self.writable = false;
    }

    /// Reads EERD.
    pub fn read_register(&self) -> EepromRead {
        self.read
    }

    /// Writes EERD. The word is there at once.
    pub fn write_register(&mut self, value: EepromRead) {
        self.read = value;
        if value.start() {
            self.read.set_start(false);
            self.read.set_data(self.word(value.address()));
            self.read.set_done(true);
        }
    }

    /// Reads EECD.
    pub fn control(&self) -> EepromControl {
        let mut value = self.wires;
        value.set_present(true);
        value.set_grant(self.wires.request());
        // An undriven output is pulled up; a part that is done with a write says "ready".
        value.set_data_out(match self.microwire {
            // What follows the address is a dummy zero.
            Microwire::Read { bit: 0, .. } => false,
            Microwire::Read { address, bit } => {
                self.word(address) >> (16 - u32::from(bit.min(16))) & 1 != 0
            }
            _ => true,
        });
        value
    }

    /// Writes EECD: sets the wires.
    pub fn set_control(&mut self, value: EepromControl) {
        let old = self.wires;
        self.wires = EepromControl(0);
        self.wires.set_clock(value.clock());
        self.wires.set_select(value.select());
        self.wires.set_data_in(value.data_in());
        self.wires.set_request(value.request());
        if !value.select() {
            self.microwire = Microwire::Idle;
        } else if value.clock() && !old.clock() {
            self.clock(value.data_in());
        }
    }

    fn clock(&mut self, input: bool) {
        self.microwire = match self.microwire {
            Microwire::Idle if input => Microwire::Command { bits: 0, value: 0 },
            Microwire::Command { bits, value } => {
                let value = value << 1 | u8::from(input);
                match bits {
                    7 => self.start(value),
                    _ => Microwire::Command {
                        bits: bits + 1,
                        value,
                    },
                }
            }
            Microwire::Read { address, bit: 16 } => Microwire::Read {
                address: address.wrapping_add(1),
                bit: 1,
            },
            Microwire::Read { address, bit } => Microwire::Read {
                address,
                bit: bit + 1,
            },
            Microwire::Write {
                opcode,
                bits,
                value,
            } => {
                let value = value << 1 | u16::from(input);
                match bits {
                    15 => self.store(opcode, value),
                    _ => Microwire::Write {
                        opcode,
                        bits: bits + 1,
                        value,
                    },
                }
            }
            state => state,
        };
    }

    /// Acts on a whole opcode and address (93C46 instruction set).
    fn start(&mut self, command: u8) -> Microwire {
        let address = command & 0x3f;
        let write = |opcode| Microwire::Write {
            opcode,
            bits: 0,
            value: 0,
        };
        match (command >> 6, address >> 4) {
            (0b10, _) => Microwire::Read { address, bit: 0 },
            (0b01, _) => write(WriteOpcode::One(address)),
            (0b11, _) => self.store(WriteOpcode::One(address), 0xffff),
            (_, 0b00) => {
                self.writable = false;
                Microwire::Done
            }
            (_, 0b01) => write(WriteOpcode::All),
            (_, 0b10) => self.store(WriteOpcode::All, 0xffff),
            _ => {
                self.writable = true;
                Microwire::Done
            }
        }
    }

    fn store(&mut self, opcode: WriteOpcode, value: u16) -> Microwire {
        if self.writable {
            match opcode {
                WriteOpcode::All => self.words = [value; WORDS],
                WriteOpcode::One(address) => {
                    self.words[usize::from(address) % WORDS] = value;
                }
            }
        }
        Microwire::Done
    }

    fn word(&self, address: u8) -> u16 {
        self.words[usize::from(address) % WORDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e1000::IDS;

    const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

    struct Pins(Eeprom);

    impl Pins {
        fn clock(&mut self, bit: bool) -> bool {
            let mut wires = EepromControl(0);
            wires.set_select(true);
            wires.set_data_in(bit);
            self.0.set_control(wires);
            wires.set_clock(true);
            self.0.set_control(wires);
            let out = self.0.control().data_out();
            wires.set_clock(false);
            self.0.set_control(wires);
            out
        }

        fn send(&mut self, value: u32, bits: u32) {
            for bit in (0..bits).rev() {
                self.clock(value >> bit & 1 != 0);
            }
        }

        fn receive(&mut self) -> u16 {
            (0..16).fold(0, |word, _| word << 1 | u16::from(self.clock(false)))
        }

        fn deselect(&mut self) {
            self.0.set_control(EepromControl(0));
        }

        fn read(&mut self, address: u32) -> u16 {
            self.send(0b110 << 6 | address, 9);
            assert!(!self.0.control().data_out(), "the dummy zero");
            let word = self.receive();
            self.deselect();
            word
        }
    }

    #[test]
    fn both_ways_read_the_same_and_the_sum_is_right() {
        let mut eeprom = Eeprom::new(MAC, &IDS);
        let mut sum = 0u16;
        let mut words = Vec::new();
        for address in 0..WORDS as u32 {
            eeprom.write_register(EepromRead(address << 8 | 1));
            let read = eeprom.read_register();
            assert!(read.done() && !read.start());
            sum = sum.wrapping_add(read.data());
            words.push(read.data());
        }
        assert_eq!(sum, 0xbaba);
        assert_eq!(words[..3], [0x5452, 0x1200, 0x5634]);
        assert_eq!((words[0x0d], words[0x0e]), (0x100e, 0x8086));
        let mut pins = Pins(eeprom);
        for (address, &word) in words.iter().enumerate() {
            assert_eq!(pins.read(address as u32), word);
        }
        // Sequential read.
        pins.send(0b110 << 6, 9);
        assert_eq!([pins.receive(), pins.receive()], [0x5452, 0x1200]);
    }

    #[test]
    fn writes_need_to_be_enabled() {
        let mut pins = Pins(Eeprom::new(MAC, &IDS));
        let write = |pins: &mut Pins, address: u32, value| {
            pins.send(0b101 << 6 | address, 9);
            pins.send(value, 16);
            pins.deselect();
        };
        write(&mut pins, 0, 0xabcd);
        assert_eq!(pins.read(0), 0x5452);
        pins.send(0b100_110000, 9);
        pins.deselect();
        write(&mut pins, 0, 0xabcd);
        assert_eq!(pins.read(0), 0xabcd);
        assert_eq!(pins.0.mac().0[..2], [0xcd, 0xab]);
    }

    #[test]
    fn access_is_granted_when_asked_for() {
        let mut eeprom = Eeprom::new(MAC, &IDS);
        assert!(!eeprom.control().grant());
        eeprom.set_control(EepromControl(1 << 6));
        assert!(eeprom.control().grant() && eeprom.control().present());
    }
}
