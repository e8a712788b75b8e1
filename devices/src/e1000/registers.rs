//! Registers of the 82540EM and their fields (8254x SDM §13). Nothing here behaves.

use bitfield::bitfield;
use bitflags::bitflags;

/// Offsets in the register space (8254x SDM §13.2, Table 13-2).
pub mod offset {
    /// Device Control.
    pub const CTRL: u32 = 0x0000;
    /// Device Status.
    pub const STATUS: u32 = 0x0008;
    /// EEPROM/Flash Control and Data.
    pub const EECD: u32 = 0x0010;
    /// EEPROM Read.
    pub const EERD: u32 = 0x0014;
    /// Extended Device Control.
    pub const CTRL_EXT: u32 = 0x0018;
    /// MDI Control.
    pub const MDIC: u32 = 0x0020;
    /// Flow Control Address Low.
    pub const FCAL: u32 = 0x0028;
    /// Flow Control Address High.
    pub const FCAH: u32 = 0x002c;
    /// Flow Control Type.
    pub const FCT: u32 = 0x0030;
    /// VLAN Ether Type.
    pub const VET: u32 = 0x0038;
    /// Interrupt Cause Read.
    pub const ICR: u32 = 0x00c0;
    /// Interrupt Throttling.
    pub const ITR: u32 = 0x00c4;
    /// Interrupt Cause Set.
    pub const ICS: u32 = 0x00c8;
    /// Interrupt Mask Set/Read.
    pub const IMS: u32 = 0x00d0;
    /// Interrupt Mask Clear.
    pub const IMC: u32 = 0x00d8;
    /// Receive Control.
    pub const RCTL: u32 = 0x0100;
    /// Flow Control Transmit Timer Value.
    pub const FCTTV: u32 = 0x0170;
    /// Transmit Configuration Word.
    pub const TXCW: u32 = 0x0178;
    /// Transmit Control.
    pub const TCTL: u32 = 0x0400;
    /// Transmit Inter Packet Gap.
    pub const TIPG: u32 = 0x0410;
    /// Adaptive IFS Throttle.
    pub const AIT: u32 = 0x0458;
    /// LED Control.
    pub const LEDCTL: u32 = 0x0e00;
    /// Packet Buffer Allocation.
    pub const PBA: u32 = 0x1000;
    /// Flow Control Receive Threshold Low.
    pub const FCRTL: u32 = 0x2160;
    /// Flow Control Receive Threshold High.
    pub const FCRTH: u32 = 0x2168;
    /// Receive Data FIFO Head; the four registers after it follow every 8 bytes.
    pub const RDFH: u32 = 0x2410;
    /// Receive Descriptor Base Low.
    pub const RDBAL: u32 = 0x2800;
    /// Receive Descriptor Base High.
    pub const RDBAH: u32 = 0x2804;
    /// Receive Descriptor Length.
    pub const RDLEN: u32 = 0x2808;
    /// Receive Descriptor Head.
    pub const RDH: u32 = 0x2810;
    /// Receive Descriptor Tail.
    pub const RDT: u32 = 0x2818;
    /// Receive Delay Timer.
    pub const RDTR: u32 = 0x2820;
    /// Receive Descriptor Control.
    pub const RXDCTL: u32 = 0x2828;
    /// Receive Interrupt Absolute Delay Timer.
    pub const RADV: u32 = 0x282c;
    /// Receive Small Packet Detect Interrupt.
    pub const RSRPD: u32 = 0x2c00;
    /// TX DMA Control.
    pub const TXDMAC: u32 = 0x3000;
    /// Transmit Data FIFO Head; the four registers after it follow every 8 bytes.
    pub const TDFH: u32 = 0x3410;
    /// Transmit Descriptor Base Low.
    pub const TDBAL: u32 = 0x3800;
    /// Transmit Descriptor Base High.
    pub const TDBAH: u32 = 0x3804;
    /// Transmit Descriptor Length.
    pub const TDLEN: u32 = 0x3808;
    /// Transmit Descriptor Head.
    pub const TDH: u32 = 0x3810;
    /// Transmit Descriptor Tail.
    pub const TDT: u32 = 0x3818;
    /// Transmit Interrupt Delay Value.
    pub const TIDV: u32 = 0x3820;
    /// Transmit Descriptor Control.
    pub const TXDCTL: u32 = 0x3828;
    /// Transmit Absolute Interrupt Delay Value.
    pub const TADV: u32 = 0x382c;
    /// TCP Segmentation Pad and Minimum Threshold.
    pub const TSPMT: u32 = 0x3830;
    /// First statistics register.
    pub const STATISTICS: u32 = 0x4000;
    /// Receive Checksum Control.
    pub const RXCSUM: u32 = 0x5000;
    /// Multicast Table Array: 128 dwords.
    pub const MTA: u32 = 0x5200;
    /// Receive Address, low and high: 16 pairs.
    pub const RA: u32 = 0x5400;
    /// VLAN Filter Table Array: 128 dwords.
    pub const VFTA: u32 = 0x5600;
    /// Wakeup Control.
    pub const WUC: u32 = 0x5800;
    /// Wakeup Filter Control.
    pub const WUFC: u32 = 0x5808;
    /// Wakeup Status.
    pub const WUS: u32 = 0x5810;
    /// Management Control.
    pub const MANC: u32 = 0x5820;
    /// IP Address Valid.
    pub const IPAV: u32 = 0x5838;
    /// IPv4 Address Table.
    pub const IP4AT: u32 = 0x5840;
    /// IPv6 Address Table.
    pub const IP6AT: u32 = 0x5880;
    /// Wakeup Packet Length.
    pub const WUPL: u32 = 0x5900;
    /// Wakeup Packet Memory.
    pub const WUPM: u32 = 0x5a00;
    /// Flexible Filter Length Table.
    pub const FFLT: u32 = 0x5f00;
    /// Flexible Filter Mask Table.
    pub const FFMT: u32 = 0x9000;
    /// Flexible Filter Value Table.
    pub const FFVT: u32 = 0x9800;
    /// Size of the register space.
    pub const END: u32 = 0x2_0000;
}

bitfield! {
    /// Device Control (§13.4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct Control(pub u32);
    impl Debug;
    /// FD: full duplex.
    pub full_duplex, set_full_duplex: 0;
    /// ASDE: speed is detected.
    pub detect_speed, set_detect_speed: 5;
    /// SLU: set link up.
    pub set_link_up, set_set_link_up: 6;
    /// SPEED: 2 is 1000 Mb/s.
    pub u32, speed, set_speed: 9, 8;
    /// RST: resets the MAC; clears itself.
    pub reset, set_reset: 26;
    /// VME: VLAN tags are inserted and stripped.
    pub vlan_mode, set_vlan_mode: 30;
    /// PHY_RST: resets the PHY.
    pub phy_reset, set_phy_reset: 31;
}

bitfield! {
    /// Device Status (§13.4.2).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct DeviceStatus(pub u32);
    impl Debug;
    /// FD: full duplex.
    pub full_duplex, set_full_duplex: 0;
    /// LU: link up.
    pub link_up, set_link_up: 1;
    /// SPEED: 2 is 1000 Mb/s.
    pub u32, speed, set_speed: 7, 6;
    /// ASDV: detected speed.
    pub u32, detected_speed, set_detected_speed: 9, 8;
}

bitfield! {
    /// EEPROM/Flash Control and Data (§13.4.3).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct EepromControl(pub u32);
    impl Debug;
    /// SK: clock.
    pub clock, set_clock: 0;
    /// CS: chip select.
    pub select, set_select: 1;
    /// DI: into the EEPROM.
    pub data_in, set_data_in: 2;
    /// DO: out of the EEPROM.
    pub data_out, set_data_out: 3;
    /// EE_REQ: software asks for direct access.
    pub request, set_request: 6;
    /// EE_GNT: and has it.
    pub grant, set_grant: 7;
    /// EE_PRES: there is an EEPROM.
    pub present, set_present: 8;
}

bitfield! {
    /// EEPROM Read (§13.4.4).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct EepromRead(pub u32);
    impl Debug;
    /// START.
    pub start, set_start: 0;
    /// DONE.
    pub done, set_done: 4;
    /// ADDR: word address.
    pub u8, address, set_address: 15, 8;
    /// DATA.
    pub u16, data, set_data: 31, 16;
}

bitfield! {
    /// MDI Control (§13.4.6).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct MdiControl(pub u32);
    impl Debug;
    /// DATA.
    pub u16, data, set_data: 15, 0;
    /// REGADD.
    pub u8, register, set_register: 20, 16;
    /// PHYADD: 1 is the internal PHY.
    pub u8, phy, set_phy: 25, 21;
    /// OP: 1 writes, 2 reads.
    pub u8, operation, set_operation: 27, 26;
    /// R: ready.
    pub ready, set_ready: 28;
    /// I: interrupt at the end of the cycle.
    pub interrupt, set_interrupt: 29;
    /// E: error.
    pub error, set_error: 30;
}

bitflags! {
    /// Interrupt causes: ICR, ICS, IMS and IMC (§13.4.17).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cause: u32 {
        /// Transmit descriptor written back.
        const TXDW = 1 << 0;
        /// Transmit queue empty.
        const TXQE = 1 << 1;
        /// Link status change.
        const LSC = 1 << 2;
        /// Receive sequence error.
        const RXSEQ = 1 << 3;
        /// Receive descriptor minimum threshold reached.
        const RXDMT0 = 1 << 4;
        /// Receiver overrun.
        const RXO = 1 << 6;
        /// Receiver timer.
        const RXT0 = 1 << 7;
        /// MDIO access complete.
        const MDAC = 1 << 9;
        /// Receiving configured sequences.
        const RXCFG = 1 << 10;
        /// PHY interrupt.
        const PHYINT = 1 << 12;
        /// General purpose interrupts.
        const GPI = 3 << 13;
        /// Transmit descriptor low threshold hit.
        const TXD_LOW = 1 << 15;
        /// Small packet received.
        const SRPD = 1 << 16;
    }
}

bitfield! {
    /// Receive Control (§13.4.22).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct ReceiveControl(pub u32);
    impl Debug;
    /// EN: receiver enable.
    pub enable, set_enable: 1;
    /// SBP: store bad packets.
    pub store_bad, set_store_bad: 2;
    /// UPE: unicast promiscuous.
    pub unicast_promiscuous, set_unicast_promiscuous: 3;
    /// MPE: multicast promiscuous.
    pub multicast_promiscuous, set_multicast_promiscuous: 4;
    /// LPE: long packets.
    pub long_packets, set_long_packets: 5;
    /// LBM: loopback; 0 is none.
    pub u32, loopback, set_loopback: 7, 6;
    /// RDMTS: minimum threshold, 0 to 2 for 1/2 to 1/8 of the ring.
    pub u32, minimum_threshold, set_minimum_threshold: 9, 8;
    /// MO: which 12 bits of an address pick its bit of the multicast table.
    pub u32, multicast_offset, set_multicast_offset: 13, 12;
    /// BAM: broadcasts are accepted.
    pub broadcast, set_broadcast: 15;
    /// BSIZE: buffer size.
    pub u32, buffer_size, set_buffer_size: 17, 16;
    /// VFE: VLAN filter.
    pub vlan_filter, set_vlan_filter: 18;
    /// CFIEN: canonical form filter.
    pub cfi_filter, set_cfi_filter: 19;
    /// CFI: what it accepts.
    pub cfi, set_cfi: 20;
    /// DPF: discard pause frames.
    pub discard_pause, set_discard_pause: 22;
    /// PMCF: pass MAC control frames.
    pub pass_control, set_pass_control: 23;
    /// BSEX: buffer sizes are 16 times as large.
    pub size_extension, set_size_extension: 25;
    /// SECRC: the frame check sequence is stripped.
    pub strip_crc, set_strip_crc: 26;
}

impl ReceiveControl {
    /// Bytes in each receive buffer. The reserved coding, 256 bytes times 16 with BSIZE 0,
    /// counts as 2048 bytes.
    pub fn buffer_bytes(self) -> usize {
        match (self.size_extension(), self.buffer_size()) {
            (true, 1) => 16384,
            (true, 2) => 8192,
            (true, 3) => 4096,
            (false, 1) => 1024,
            (false, 2) => 512,
            (false, 3) => 256,
            _ => 2048,
        }
    }
}

bitfield! {
    /// Transmit Control (§13.4.33).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct TransmitControl(pub u32);
    impl Debug;
    /// EN: transmit enable.
    pub enable, set_enable: 1;
    /// PSP: pad short packets.
    pub pad, set_pad: 3;
}

bitfield! {
    /// Receive Checksum Control (§13.5.15).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct ReceiveChecksum(pub u32);
    impl Debug;
    /// PCSS: where the packet checksum starts.
    pub u8, start, set_start: 7, 0;
    /// IPOFLD: IPv4 header checksums are checked.
    pub ip, set_ip: 8;
    /// TUOFLD: TCP and UDP checksums are checked.
    pub tcp_udp, set_tcp_udp: 9;
    /// IPV6OFL: in IPv6 too.
    pub ipv6, set_ipv6: 10;
}

bitfield! {
    /// Receive Address High (§13.5.3).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct AddressHigh(pub u32);
    impl Debug;
    /// RAH: the last two bytes.
    pub u16, bytes, set_bytes: 15, 0;
    /// AS: source addresses are compared.
    pub u32, select, set_select: 17, 16;
    /// AV: valid.
    pub valid, set_valid: 31;
}
