//! The keyboard controller of the PC/AT, an Intel 8042 with IBM's firmware (PC/AT Technical
//! Reference, 1984, "Keyboard Controller"), at ports 0x60 and 0x64, with nothing plugged in.
//!
//! Every command answers at once, so no driver waits for a timeout: the controller passes
//! its tests, its keyboard port is good, a keyboard does not answer (0xFE with the time-out
//! bit), and there is no auxiliary port. What remains of use is reset (0xFE, or the output
//! port). The A20 gate is kept as a bit; address line 20 is never gated, as no firmware
//! that boots here needs it gated.
//!
//! Reset: all as at power-on, nothing survives.

mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::registers::{A20, CommandByte, NOT_RESET, OUTPUT_PORT, Status, command};
use super::ports::{BytePorts, FLOATING, PortRange};
use super::power::PowerControl;
use crate::irq::IrqLine;

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;

/// Nothing answered.
const NO_ANSWER: u8 = 0xfe;

/// The controller.
pub struct I8042 {
    keyboard_irq: IrqLine,
    power: Arc<dyn PowerControl>,
    inner: Mutex<I8042State>,
}

/// What a controller is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct I8042State {
    /// Status register.
    pub status: u8,
    /// Output buffer.
    pub output: u8,
    /// Its RAM; cell 0 is the command byte.
    pub ram: [u8; 32],
    /// Output port.
    pub output_port: u8,
    /// The command that waits for its byte.
    pub pending: Option<u8>,
    /// IRQ 1.
    pub interrupting: bool,
}

impl I8042State {
    fn new() -> Self {
        let mut ram = [0; 32];
        // Both ports disabled, as before firmware's self test.
        ram[0] = 0x30;
        Self {
            status: 0x10,
            output: 0,
            ram,
            output_port: OUTPUT_PORT,
            pending: None,
            interrupting: false,
        }
    }

    fn command_byte(&self) -> CommandByte {
        CommandByte(self.ram[0])
    }

    fn set_command_byte(&mut self, byte: CommandByte) {
        self.ram[0] = byte.0;
        let mut status = Status(self.status);
        status.set_system(byte.system());
        self.status = status.0;
    }

    fn answer(&mut self, byte: u8) {
        self.output = byte;
        let mut status = Status(self.status);
        status.set_output_full(true);
        status.set_timeout(false);
        self.status = status.0;
    }

    fn no_answer(&mut self) {
        self.answer(NO_ANSWER);
        let mut status = Status(self.status);
        status.set_timeout(true);
        self.status = status.0;
    }

    fn read_data(&mut self) -> u8 {
        let mut status = Status(self.status);
        status.set_output_full(false);
        status.set_timeout(false);
        self.status = status.0;
        self.output
    }

    fn note_write(&mut self, command: bool) {
        let mut status = Status(self.status);
        status.set_last_was_command(command);
        self.status = status.0;
    }

    /// A command; true if it asks for a reset.
    fn write_command(&mut self, value: u8) -> bool {
        self.note_write(true);
        self.pending = None;
        let mut byte = self.command_byte();
        match value {
            command::READ_RAM..=command::READ_RAM_LAST => {
                self.answer(self.ram[usize::from(value & 0x1f)]);
            }
            command::WRITE_RAM..=command::WRITE_RAM_LAST
            | command::WRITE_OUTPUT_PORT
            | command::LOOP_KEYBOARD
            | command::LOOP_AUXILIARY
            | command::WRITE_AUXILIARY => self.pending = Some(value),
            command::DISABLE_AUXILIARY => byte.set_auxiliary_disabled(true),
            command::ENABLE_AUXILIARY => byte.set_auxiliary_disabled(false),
            command::DISABLE_KEYBOARD => byte.set_keyboard_disabled(true),
            command::ENABLE_KEYBOARD => byte.set_keyboard_disabled(false),
            // Its clock line is stuck low: there is no such port.
            command::TEST_AUXILIARY => self.answer(0x01),
            command::TEST_KEYBOARD => self.answer(0x00),
            command::SELF_TEST => {
                byte.set_system(true);
                self.answer(0x55);
            }
            // Not locked, manufacturing jumper open.
            command::READ_INPUT_PORT => self.answer(0xa0),
            command::READ_OUTPUT_PORT => self.answer(self.output_port),
            command::DISABLE_A20 => self.output_port &= !A20,
            command::ENABLE_A20 => self.output_port |= A20,
            // Pulses low the lines whose bits are clear; line 0 is reset.
            command::PULSE.. => return value & NOT_RESET == 0,
            _ => {}
        }
        self.set_command_byte(byte);
        false
    }

    /// A byte to port 0x60; true if it asks for a reset.
    fn write_data(&mut self, value: u8) -> bool {
        self.note_write(false);
        match self.pending.take() {
            Some(ram @ command::WRITE_RAM..=command::WRITE_RAM_LAST) => {
                self.ram[usize::from(ram & 0x1f)] = value;
                self.set_command_byte(self.command_byte());
            }
            Some(command::WRITE_OUTPUT_PORT) => {
                self.output_port = value;
                return value & NOT_RESET == 0;
            }
            // With one port only, what loops comes back as the keyboard's.
            Some(command::LOOP_KEYBOARD | command::LOOP_AUXILIARY) => self.answer(value),
            Some(_) => self.no_answer(),
            // To the keyboard, which enables its port.
            None => {
                let mut byte = self.command_byte();
                byte.set_keyboard_disabled(false);
                self.set_command_byte(byte);
                self.no_answer();
            }
        }
        false
    }
}

impl I8042 {
    /// A controller as after power-on; `keyboard_irq` is IRQ 1.
    pub fn new(keyboard_irq: IrqLine, power: Arc<dyn PowerControl>) -> Self {
        Self {
            keyboard_irq,
            power,
            inner: Mutex::new(I8042State::new()),
        }
    }

    /// The ports it takes.
    pub fn ports(self: &Arc<Self>) -> Vec<PortRange> {
        [DATA, COMMAND]
            .map(|port| PortRange::new(self.clone(), port, 1))
            .into()
    }

    /// Power-on state.
    pub fn reset(&self) {
        self.change(|state| {
            *state = I8042State {
                interrupting: state.interrupting,
                ..I8042State::new()
            };
        });
    }

    /// Its state.
    pub fn state(&self) -> I8042State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, I8042State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, action: impl FnOnce(&mut I8042State) -> T) -> T {
        let mut state = self.lock();
        let result = action(&mut state);
        let full = Status(state.status).output_full();
        let interrupting = full && state.command_byte().keyboard_interrupt();
        if state.interrupting != interrupting {
            state.interrupting = interrupting;
            self.keyboard_irq.set(interrupting);
        }
        result
    }
}

impl BytePorts for I8042 {
    fn read_port(&self, port: u16) -> u8 {
        match port {
            DATA => self.change(I8042State::read_data),
            COMMAND => self.lock().status,
            _ => FLOATING,
        }
    }

    fn write_port(&self, port: u16, value: u8) {
        let reset = self.change(|state| match port {
            DATA => state.write_data(value),
            COMMAND => state.write_command(value),
            _ => false,
        });
        if reset {
            self.power.reset();
        }
    }
}
