//! What the drive makes of each packet command (SPC-3 §6, MMC-5 §6).

use super::{BLOCK, Cdrom, Sense, features, toc};

/// Operation codes.
pub mod operation {
    #![allow(missing_docs)]
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW: u8 = 0x1e;
    pub const READ_CAPACITY: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const SEEK_10: u8 = 0x2b;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_12: u8 = 0xa8;
    pub const SET_CD_SPEED: u8 = 0xbb;
    pub const MECHANISM_STATUS: u8 = 0xbd;
    pub const READ_CD: u8 = 0xbe;
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    /// Good, without data.
    Good,
    /// Good, with these bytes.
    Data(Vec<u8>),
    /// Good, with so many bytes of the medium.
    Contents {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// CHECK CONDITION.
    Check(Sense),
}

/// A command descriptor block of 12 bytes.
pub struct Packet<'a>(pub &'a [u8; 12]);

impl Packet<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn short(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    fn long(&self, at: usize) -> u32 {
        u32::from(self.short(at)) << 16 | u32::from(self.short(at + 2))
    }
}

/// `bytes`, cut to the allocation length.
fn data(mut bytes: Vec<u8>, allocation: impl Into<usize>) -> Response {
    bytes.truncate(allocation.into());
    Response::Data(bytes)
}

impl Cdrom {
    /// Executes a packet and keeps the sense data of it.
    pub fn packet(&mut self, bytes: &[u8; 12]) -> Response {
        use operation as op;
        let code = bytes[0];
        // These neither report nor clear a pending unit attention (MMC-5 §4.1.6.1).
        let exempt = matches!(
            code,
            op::INQUIRY | op::REQUEST_SENSE | op::GET_CONFIGURATION | op::GET_EVENT_STATUS
        );
        let response = match self.attention.take_if(|_| !exempt) {
            Some(sense) => Response::Check(sense),
            None => self
                .dispatch(&Packet(bytes))
                .unwrap_or_else(Response::Check),
        };
        if code != op::REQUEST_SENSE {
            self.sense = match response {
                Response::Check(sense) => sense,
                _ => Sense::NONE,
            };
        }
        response
    }

    fn dispatch(&mut self, packet: &Packet<'_>) -> Result<Response, Sense> {
        use operation as op;
        Ok(match packet.byte(0) {
            op::TEST_UNIT_READY | op::SEEK_10 => {
                self.ready()?;
                Response::Good
            }
            op::REQUEST_SENSE => self.request_sense(packet),
            op::INQUIRY => self.inquiry(packet)?,
            op::READ_CAPACITY => {
                let last = self.ready()?.saturating_sub(1);
                let bytes = [last.to_be_bytes(), (BLOCK as u32).to_be_bytes()];
                Response::Data(bytes.concat())
            }
            op::READ_10 => self.read(packet.long(2), u32::from(packet.short(7)))?,
            op::READ_12 => self.read(packet.long(2), packet.long(6))?,
            op::READ_CD => self.read_cd(packet)?,
            op::READ_TOC => self.read_toc(packet)?,
            op::GET_CONFIGURATION => {
                features::configuration(self.profile(), packet.byte(1) & 3, packet.short(2))
                    .map(|bytes| data(bytes, packet.short(7)))
                    .ok_or(Sense::INVALID_FIELD)?
            }
            op::GET_EVENT_STATUS => self.event_status(packet)?,
            op::MODE_SENSE_6 => self.mode_sense(packet, true)?,
            op::MODE_SENSE_10 => self.mode_sense(packet, false)?,
            op::PREVENT_ALLOW => {
                self.locked = packet.byte(4) & 1 != 0;
                Response::Good
            }
            op::START_STOP_UNIT => self.start_stop(packet.byte(4))?,
            op::READ_DISC_INFORMATION => self.disc_information(packet)?,
            op::MECHANISM_STATUS => {
                let tray = if self.loaded { 0 } else { 0x10 };
                data(vec![0, tray, 0, 0, 0, 1, 0, 0], packet.short(8))
            }
            op::SET_CD_SPEED => Response::Good,
            _ => return Err(Sense::INVALID_OPCODE),
        })
    }

    /// Blocks on the medium, if there is one.
    fn ready(&self) -> Result<u32, Sense> {
        if self.loaded {
            Ok(self.blocks)
        } else {
            Err(Sense::NO_MEDIUM)
        }
    }

    fn request_sense(&mut self, packet: &Packet<'_>) -> Response {
        let pending = std::mem::take(&mut self.sense);
        let sense = match self.attention.take_if(|_| pending == Sense::NONE) {
            Some(attention) => attention,
            None => pending,
        };
        data(sense.fixed_format().to_vec(), packet.byte(4))
    }

    fn inquiry(&self, packet: &Packet<'_>) -> Result<Response, Sense> {
        if packet.byte(1) & 1 != 0 || packet.byte(2) != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        // CD/DVD device, removable, SPC-3, response format 2.
        let mut bytes = vec![0x05, 0x80, 0x05, 0x32, 31, 0, 0, 0];
        let mut text = |text: &str, width: usize| {
            let printable = |b: u8| if (0x20..0x7f).contains(&b) { b } else { b' ' };
            let padded = text.bytes().map(printable).chain(std::iter::repeat(b' '));
            bytes.extend(padded.take(width));
        };
        text("SLUICE", 8);
        text(&self.identity.model, 16);
        text(&self.identity.firmware, 4);
        Ok(data(bytes, packet.short(3)))
    }

    fn read(&self, lba: u32, count: u32) -> Result<Response, Sense> {
        let blocks = self.ready()?;
        if u64::from(lba) + u64::from(count) > u64::from(blocks) {
            return Err(Sense::OUT_OF_RANGE);
        }
        if count == 0 {
            return Ok(Response::Good);
        }
        Ok(Response::Contents {
            offset: u64::from(lba) * BLOCK,
            len: u64::from(count) * BLOCK,
        })
    }

    /// READ CD (MMC-5 §6.20), for the user data of a data track and nothing else.
    fn read_cd(&self, packet: &Packet<'_>) -> Result<Response, Sense> {
        let count = packet.long(5) & 0x00ff_ffff;
        let sector_type = packet.byte(1) >> 2 & 7;
        let user_data_only = packet.byte(9) & 0xf8 == 0x10 && packet.byte(10) & 7 == 0;
        let nothing = packet.byte(9) & 0xf8 == 0;
        match sector_type {
            0 | 2 | 4 if user_data_only => self.read(packet.long(2), count),
            0 | 2 | 4 if nothing => self.ready().map(|_| Response::Good),
            _ => Err(Sense::INVALID_FIELD),
        }
    }

    fn read_toc(&self, packet: &Packet<'_>) -> Result<Response, Sense> {
        let blocks = self.ready()?;
        let msf = packet.byte(1) & 2 != 0;
        // The format was once in the upper bits of the control byte (SFF-8020).
        let format = match packet.byte(2) & 0xf {
            0 => packet.byte(9) >> 6,
            n => n,
        };
        let toc = match format {
            0 => toc::tracks(blocks, packet.byte(6), msf).ok_or(Sense::INVALID_FIELD)?,
            1 => toc::sessions(msf),
            2 => toc::raw(blocks),
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok(data(toc, packet.short(7)))
    }

    /// GET EVENT STATUS NOTIFICATION (MMC-5 §6.7), polled, media class only.
    fn event_status(&mut self, packet: &Packet<'_>) -> Result<Response, Sense> {
        const MEDIA: u8 = 4;
        if packet.byte(1) & 1 == 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let allocation = packet.short(7);
        if packet.byte(4) & 1 << MEDIA == 0 {
            return Ok(data(vec![0, 2, 0x80, 1 << MEDIA], allocation));
        }
        let event = if allocation > 4 {
            std::mem::take(&mut self.media_event)
        } else {
            0
        };
        let status = if self.loaded { 2 } else { 1 };
        Ok(data(
            vec![0, 6, MEDIA, 1 << MEDIA, event, status, 0, 0],
            allocation,
        ))
    }

    fn mode_sense(&self, packet: &Packet<'_>, short: bool) -> Result<Response, Sense> {
        let (control, page) = (packet.byte(2) >> 6, packet.byte(2) & 0x3f);
        if control == 3 {
            return Err(Sense::NO_SAVED_PAGES);
        }
        let pages =
            features::mode_pages(page, control == 1, self.locked).ok_or(Sense::INVALID_FIELD)?;
        let (mut bytes, allocation) = if short {
            (vec![0; 4], usize::from(packet.byte(4)))
        } else {
            (vec![0; 8], usize::from(packet.short(7)))
        };
        bytes.extend(pages);
        let len = bytes.len();
        if short {
            bytes[0] = (len - 1) as u8;
        } else {
            bytes[..2].copy_from_slice(&((len - 2) as u16).to_be_bytes());
        }
        Ok(data(bytes, allocation))
    }

    /// START STOP UNIT (MMC-5 §6.42): bit 1 loads or ejects, bit 0 says which.
    fn start_stop(&mut self, control: u8) -> Result<Response, Sense> {
        match (control & 2 != 0, control & 1 != 0) {
            (true, false) if self.locked => return Err(Sense::REMOVAL_PREVENTED),
            (true, load) if load != self.loaded => {
                self.loaded = load;
                // Media events: 2 for new media, 3 for removal.
                self.media_event = if load { 2 } else { 3 };
                self.attention = load.then_some(Sense::MEDIUM_CHANGED);
            }
            _ => {}
        }
        Ok(Response::Good)
    }

    /// READ DISC INFORMATION (MMC-5 §6.22): complete, one session, one track.
    fn disc_information(&self, packet: &Packet<'_>) -> Result<Response, Sense> {
        self.ready()?;
        if packet.byte(1) & 7 != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let mut bytes = vec![0; 34];
        bytes[1] = 32;
        bytes[2] = 0x0e;
        bytes[3..7].copy_from_slice(&[1, 1, 1, 1]);
        bytes[7] = 0x20;
        bytes[16..24].fill(0xff);
        Ok(data(bytes, packet.short(7)))
    }
}
