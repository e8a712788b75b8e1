/* The IDE controller: task file, PIO and bus master DMA as libata does them. */
#ifndef IDE_H
#define IDE_H

#include "guest.h"

enum {
    IDE_BSY = 0x80, IDE_DRDY = 0x40, IDE_DF = 0x20, IDE_DRQ = 0x08, IDE_ERR = 0x01,
    IDE_ABRT = 0x04,
    READ_SECTORS = 0x20, READ_SECTORS_EXT = 0x24, READ_DMA_EXT = 0x25, WRITE_SECTORS = 0x30,
    WRITE_SECTORS_EXT = 0x34, WRITE_DMA_EXT = 0x35, READ_MULTIPLE = 0xc4, WRITE_MULTIPLE = 0xc5,
    SET_MULTIPLE = 0xc6, READ_DMA = 0xc8, WRITE_DMA = 0xca, FLUSH = 0xe7, FLUSH_EXT = 0xea,
    IDENTIFY = 0xec, IDENTIFY_PACKET = 0xa1, PACKET = 0xa0, SET_FEATURES = 0xef,
    BM_START = 1, BM_READ = 8, BM_ACTIVE = 1, BM_ERROR = 2, BM_INTERRUPT = 4,
};

struct prd {
    u32 address;
    u16 bytes; /* 0 is 64 KiB */
    u16 flags; /* bit 15: the last */
};

/* A command of the 48-bit set when `ext`, else of the 28-bit one. */
struct command {
    u8 opcode;
    bool ext;
    u64 lba;
    u32 sectors;
    u8 features;
};

/* One channel. */
struct channel {
    u16 command, control, bus_master;
    u8 vector;
    u8 drive; /* selected: 0 or 1 */
};

/* Channel 0 or 1: its bus master enabled, its interrupt at an I/O APIC pin. */
void ide_init(struct channel *channel, u8 number);
u8 ide_status(const struct channel *channel);
u8 ide_wait_idle(const struct channel *channel);
void ide_task_file(struct channel *channel, const struct command *command);
/* Waits for the interrupt after `seen` earlier ones, reads Status (which clears it). */
u8 ide_interrupt(struct channel *channel, u32 seen);
u32 ide_interrupts(const struct channel *channel);
/* Sectors by PIO, `block` sectors a DRQ block. Gives the final status. */
u8 ide_pio_in(struct channel *channel, const struct command *command, void *to, u32 block);
u8 ide_pio_out(struct channel *channel, const struct command *command, const void *from,
               u32 block);
u8 ide_no_data(struct channel *channel, const struct command *command);
/* A DMA command from beginning to end, with libata's register accesses in libata's order. */
u8 ide_dma(struct channel *channel, const struct command *command, const struct prd *table,
           bool to_memory);
u8 ide_packet_in(struct channel *channel, const u8 packet[12], void *to, u32 limit, u32 *got);
#endif
