/* Registers and descriptors of the 82540EM (8254x SDM, chapters 3 and 13). */
#ifndef E1000_H
#define E1000_H

#include "guest.h"

#define E1000_ID 0x100e8086

enum {
    CTRL = 0x0, STATUS = 0x8, EERD = 0x14, MDIC = 0x20, ICR = 0xc0, ITR = 0xc4, ICS = 0xc8,
    IMS = 0xd0, IMC = 0xd8, RCTL = 0x100, TCTL = 0x400, TIPG = 0x410, RDBAL = 0x2800,
    RDBAH = 0x2804, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818, RDTR = 0x2820, TDBAL = 0x3800,
    TDBAH = 0x3804, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818, TIDV = 0x3820, GPTC = 0x4080,
    RXCSUM = 0x5000, MTA = 0x5200, RAL = 0x5400, RAH = 0x5404,
};
enum {
    CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, STATUS_LU = 1 << 1,
    CAUSE_TXDW = 1 << 0, CAUSE_TXQE = 1 << 1, CAUSE_LSC = 1 << 2, CAUSE_RXDMT0 = 1 << 4,
    CAUSE_RXT0 = 1 << 7,
    RCTL_EN = 1 << 1, RCTL_UPE = 1 << 3, RCTL_BAM = 1 << 15, RCTL_SECRC = 1 << 26,
    TCTL_EN = 1 << 1, TCTL_PSP = 1 << 3,
};
enum {
    TX_EOP = 1 << 0, TX_IFCS = 1 << 1, TX_IC = 1 << 2, TX_RS = 1 << 3, TX_DEXT = 1 << 5,
    TX_DD = 1 << 0,
    RX_DD = 1 << 0, RX_EOP = 1 << 1, RX_IXSM = 1 << 2, RX_TCPCS = 1 << 5, RX_IPCS = 1 << 6,
    RX_TCPE = 1 << 5, RX_IPE = 1 << 6,
};

struct receive {
    u64 address;
    u16 length, checksum;
    u8 status, errors;
    u16 special;
};

/* The legacy one. */
struct transmit {
    u64 address;
    u16 length;
    u8 cso, command, status, css;
    u16 special;
};

/* TCP/IP context and data: command holds DTYP, length and DCMD. */
struct context {
    u8 ipcss, ipcso;
    u16 ipcse;
    u8 tucss, tucso;
    u16 tucse;
    u32 command;
    u8 status, header;
    u16 mss;
};
struct data {
    u64 address;
    u32 command;
    u8 status, options;
    u16 special;
};
#endif
