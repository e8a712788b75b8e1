//! MSI (PCIe 6.0 §7.7.1): up to 32 vectors told apart by the low bits of the data.

use super::Dword;
use crate::registers::MsiControl;
use crate::space::Image;
use crate::{MsiMessage, Register};

/// The MSI capability and its state.
///
/// Before it is added to a config space it says what the function wants; read back from
/// the space ([`crate::ConfigSpace::msi`]) it says what the guest made of it. Pending bits
/// are kept only with per-vector masking, as only then is there anything to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Msi {
    control: MsiControl,
    message: MsiMessage,
    mask: u32,
    pending: u32,
}

impl Msi {
    /// A 64-bit capability for `vectors` vectors, rounded up to a power of two and at
    /// most 32, without masking.
    pub fn new(vectors: u8) -> Self {
        let mut control = MsiControl(0);
        let log2 = vectors.clamp(1, 32).next_power_of_two().trailing_zeros();
        control.set_multiple_capable(log2 as u8);
        control.set_wide(true);
        Self {
            control,
            message: MsiMessage::default(),
            mask: 0,
            pending: 0,
        }
    }

    /// With per-vector masking.
    pub fn maskable(mut self) -> Self {
        self.control.set_maskable(true);
        self
    }

    /// With 32-bit addresses only.
    pub fn narrow(mut self) -> Self {
        self.control.set_wide(false);
        self
    }

    /// MSI is enabled, so INTx is not used.
    pub fn enabled(&self) -> bool {
        self.control.enable()
    }

    /// Vectors that the function asks for.
    pub fn capable(&self) -> u8 {
        1 << self.control.multiple_capable().min(5)
    }

    /// Vectors that software gave it: never more than it asked for.
    pub fn vectors(&self) -> u8 {
        let given = self.control.multiple_enable();
        1 << given.min(self.control.multiple_capable()).min(5)
    }

    /// The vector's mask bit.
    pub fn masked(&self, vector: u8) -> bool {
        vector >= 32 || self.mask & 1 << vector != 0
    }

    /// The pending bits.
    pub fn pending(&self) -> u32 {
        self.pending
    }

    /// The message of a vector that may be sent now: enabled, given, and not masked.
    pub fn message(&self, vector: u8) -> Option<MsiMessage> {
        let live = self.enabled() && vector < self.vectors() && !self.masked(vector);
        live.then(|| self.raw_message(vector))
    }

    /// The message of a vector whatever its mask.
    fn raw_message(&self, vector: u8) -> MsiMessage {
        let low = u32::from(self.vectors() - 1);
        MsiMessage {
            address: self.message.address,
            data: self.message.data & !low | u32::from(vector) & low,
        }
    }

    pub(crate) fn signal(&mut self, vector: u8) -> Option<MsiMessage> {
        if self.enabled() && vector < self.vectors() && self.masked(vector) {
            self.pending |= 1 << vector;
        }
        self.message(vector)
    }

    pub(crate) fn next_pending(&mut self) -> Option<MsiMessage> {
        let ready = self.pending & !self.mask;
        let vector = ready.trailing_zeros() as u8;
        let message = self.message(vector)?;
        self.pending &= !(1 << vector);
        Some(message)
    }

    /// Offsets of data, mask and pending in the capability.
    fn layout(&self) -> (u16, u16, u16) {
        if self.control.wide() {
            (12, 16, 20)
        } else {
            (8, 12, 16)
        }
    }

    /// The mask bits that exist.
    fn mask_bits(&self) -> u32 {
        u32::MAX >> (32 - u32::from(self.capable()))
    }

    pub(super) fn dwords(&self) -> Vec<Dword> {
        let control = u32::from(self.control.0) << 16;
        // MSI Enable and Multiple Message Enable.
        let mut dwords = vec![
            Dword::new(control, 0x0071_0000, 0),
            Dword::new(0, 0xffff_fffc, 0),
        ];
        if self.control.wide() {
            dwords.push(Dword::new(0, 0xffff_ffff, 0));
        }
        dwords.push(Dword::new(0, 0xffff, 0));
        if self.control.maskable() {
            dwords.push(Dword::new(0, self.mask_bits(), 0));
            dwords.push(Dword::default());
        }
        dwords
    }

    /// Takes the state from the registers. What was pending when MSI is switched off is
    /// forgotten.
    pub(super) fn load(&mut self, image: &mut Image, at: u16) {
        let dword = |offset: u16| image.get(Register::containing(at + offset));
        let (data, mask, pending) = self.layout();
        self.control = MsiControl((dword(0) >> 16) as u16);
        let upper = if self.control.wide() { dword(8) } else { 0 };
        self.message = MsiMessage {
            address: u64::from(upper) << 32 | u64::from(dword(4)),
            data: dword(data) & 0xffff,
        };
        if self.control.maskable() {
            self.mask = dword(mask);
            self.pending = dword(pending);
        }
        if !self.enabled() && self.pending != 0 {
            self.pending = 0;
            self.store_pending(image, at);
        }
    }

    pub(crate) fn store_pending(&self, image: &mut Image, at: u16) {
        if self.control.maskable() {
            let (_, _, pending) = self.layout();
            image.put(Register::containing(at + pending), self.pending);
        }
    }
}
