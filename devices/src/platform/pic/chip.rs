//! One 8259A, without its neighbour.

use super::registers::{Icw1, Icw4, Ocw2, Ocw3, command};

/// What the chip waits for after ICW1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Expects {
    /// Nothing: initialized, or never told to.
    #[default]
    Nothing,
    /// The vector base.
    Icw2,
    /// The cascade.
    Icw3,
    /// Modes.
    Icw4,
}

/// An 8259A.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Chip {
    /// Edges that wait, latched.
    pub edges: u8,
    /// Levels of the inputs.
    pub lines: u8,
    /// Edge/level control: inputs that are level triggered.
    pub level_triggered: u8,
    /// Masked inputs.
    pub mask: u8,
    /// Interrupts in service.
    pub in_service: u8,
    /// Vector of input 0.
    pub base: u8,
    /// The input with the highest priority.
    pub highest: u8,
    /// Where initialization is.
    pub expects: Expects,
    /// ICW1 promised an ICW4.
    pub icw4_follows: bool,
    /// ICW1 said there is no ICW3.
    pub single: bool,
    /// Interrupts end when acknowledged.
    pub auto_eoi: bool,
    /// Priorities rotate as they do.
    pub rotate_on_auto_eoi: bool,
    /// A master lets a slave interrupt itself.
    pub special_fully_nested: bool,
    /// Masked inputs do not hold back lower ones.
    pub special_mask: bool,
    /// Reads of the command port give ISR.
    pub read_in_service: bool,
    /// The next such read polls.
    pub poll: bool,
}

/// The input of the master that the slave drives.
pub const CASCADE: u8 = 2;

impl Chip {
    /// A chip that nobody has initialized. Hardware leaves open what it does; this one has
    /// everything masked, as firmware would leave it, so that a guest that has no use for
    /// the 8259 need not know of it.
    pub fn power_on() -> Self {
        Self {
            mask: 0xff,
            ..Self::default()
        }
    }

    /// Interrupt request register.
    pub fn requests(&self) -> u8 {
        self.edges & !self.level_triggered | self.lines & self.level_triggered
    }

    /// Drives an input. An edge that was latched stays when the input falls, so that a
    /// pulse counts; the chip proper would call it spurious.
    pub fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << (input & 7);
        if level {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// The master's cascade input: it follows the slave's output with no latch between, so
    /// the slave can take its request back.
    pub fn set_cascade(&mut self, level: bool) {
        let bit = 1 << CASCADE;
        if level {
            self.lines |= bit;
            self.edges |= bit;
        } else {
            self.lines &= !bit;
            self.edges &= !bit;
        }
    }

    /// Chooses which inputs are level triggered.
    pub fn set_level_triggered(&mut self, which: u8) {
        self.edges &= !(self.level_triggered ^ which);
        self.level_triggered = which;
    }

    /// Distance of the highest-priority bit of `set` from the top; 8 if there is none.
    fn priority(&self, set: u8) -> u32 {
        set.rotate_right(u32::from(self.highest)).trailing_zeros()
    }

    fn at(&self, priority: u32) -> u8 {
        (priority as u8).wrapping_add(self.highest) & 7
    }

    /// The input whose interrupt the chip asks for now, if any.
    pub fn interrupt(&self, is_master: bool) -> Option<u8> {
        let request = self.priority(self.requests() & !self.mask);
        let mut serving = self.in_service;
        if self.special_mask {
            serving &= !self.mask;
        }
        if self.special_fully_nested && is_master {
            serving &= !(1 << CASCADE);
        }
        (request < self.priority(serving)).then(|| self.at(request))
    }

    /// The processor takes `input`.
    pub fn acknowledge(&mut self, input: u8) {
        let bit = 1 << (input & 7);
        self.edges &= !bit;
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.highest = input.wrapping_add(1) & 7;
        }
    }

    /// Inputs that software has ended or unmasked since the chip was `before`.
    pub fn served_since(&self, before: &Self) -> u8 {
        before.in_service & !self.in_service | before.mask & !self.mask
    }

    /// The vector of an input.
    pub fn vector(&self, input: u8) -> u8 {
        self.base & 0xf8 | input & 7
    }

    /// A write with A0 = 0.
    pub fn write_command(&mut self, value: u8) {
        if Icw1(value).is_icw1() {
            self.initialize(Icw1(value));
        } else if Ocw3(value).is_ocw3() {
            self.operate(Ocw3(value));
        } else {
            self.end(Ocw2(value));
        }
    }

    /// ICW1: the edge sense circuit, masks, priorities and modes are reset. An input that is
    /// high must fall and rise again.
    fn initialize(&mut self, icw1: Icw1) {
        *self = Self {
            lines: self.lines,
            level_triggered: self.level_triggered,
            base: self.base,
            expects: Expects::Icw2,
            icw4_follows: icw1.icw4_follows(),
            single: icw1.single(),
            ..Self::default()
        };
    }

    fn operate(&mut self, ocw3: Ocw3) {
        if ocw3.poll() {
            self.poll = true;
        }
        if ocw3.select() {
            self.read_in_service = ocw3.read_in_service();
        }
        if ocw3.enable_special_mask() {
            self.special_mask = ocw3.special_mask();
        }
    }

    fn end(&mut self, ocw2: Ocw2) {
        let level = ocw2.level();
        match ocw2.command() {
            command::CLEAR_ROTATE_ON_AUTO_EOI => self.rotate_on_auto_eoi = false,
            command::SET_ROTATE_ON_AUTO_EOI => self.rotate_on_auto_eoi = true,
            command::SET_PRIORITY => self.highest = level.wrapping_add(1) & 7,
            command::SPECIFIC_EOI => self.in_service &= !(1 << level),
            command::ROTATE_ON_SPECIFIC_EOI => {
                self.in_service &= !(1 << level);
                self.highest = level.wrapping_add(1) & 7;
            }
            which @ (command::EOI | command::ROTATE_ON_EOI) => {
                // In special mask mode a non-specific EOI passes over masked inputs.
                let candidates = if self.special_mask {
                    self.in_service & !self.mask
                } else {
                    self.in_service
                };
                let priority = self.priority(candidates);
                if priority < 8 {
                    let input = self.at(priority);
                    self.in_service &= !(1 << input);
                    if which == command::ROTATE_ON_EOI {
                        self.highest = input.wrapping_add(1) & 7;
                    }
                }
            }
            _ => {}
        }
    }

    /// A write with A0 = 1.
    pub fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.icw4_follows {
            Expects::Icw4
        } else {
            Expects::Nothing
        };
        match self.expects {
            Expects::Nothing => self.mask = value,
            Expects::Icw2 => {
                self.base = value & 0xf8;
                self.expects = if self.single {
                    after_icw3
                } else {
                    Expects::Icw3
                };
            }
            // Who is whose slave is soldered.
            Expects::Icw3 => self.expects = after_icw3,
            Expects::Icw4 => {
                let icw4 = Icw4(value);
                self.auto_eoi = icw4.auto_eoi();
                self.special_fully_nested = icw4.special_fully_nested();
                self.expects = Expects::Nothing;
            }
        }
    }

    /// A read with A0 = 0 that is no poll.
    pub fn read_command(&self) -> u8 {
        if self.read_in_service {
            self.in_service
        } else {
            self.requests()
        }
    }
}
