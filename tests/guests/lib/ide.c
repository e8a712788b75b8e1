/* ATA/ATAPI-7 vol. 2 and the bus master programming interface (SFF-8038i). */
#include "ide.h"

enum { DATA, FEATURES, SECTORS, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, COMMAND };
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_TABLE = 4 };
#define FIRST_VECTOR 0x60

void ide_init(struct channel *channel, u8 number)
{
    u16 bdf = find_class(0x0101);
    config_command(bdf, COMMAND_IO | COMMAND_MASTER, 0);
    u32 bar = config_read32(bdf, 0x20);
    CHECK_EQ(bar & 3, 1);
    channel->command = number ? 0x170 : 0x1f0;
    channel->control = number ? 0x376 : 0x3f6;
    channel->bus_master = (u16)(bar & 0xfff0) + 8 * number;
    channel->vector = FIRST_VECTOR + number;
    channel->drive = 0;
    on_interrupt(channel->vector, end_at_lapic);
    out8(channel->control, 0);
    in8(channel->command + COMMAND);
    out8(channel->bus_master + BM_STATUS, BM_INTERRUPT | BM_ERROR);
    ioapic_route(14 + number, channel->vector, lapic_id());
}

u8 ide_status(const struct channel *channel)
{
    return in8(channel->command + COMMAND);
}

static u8 alternate(const struct channel *channel)
{
    return in8(channel->control);
}

u8 ide_wait_idle(const struct channel *channel)
{
    u64 end = tsc() + tsc_per_ms() * 3000;
    u8 status;
    while ((status = ide_status(channel)) & (IDE_BSY | IDE_DRQ))
        if (tsc() > end)
            fail(__FILE__, __LINE__, "the drive is idle", status, 0);
    return status;
}

u32 ide_interrupts(const struct channel *channel)
{
    return interrupt_count[channel->vector];
}

u8 ide_interrupt(struct channel *channel, u32 seen)
{
    if (!wait_for(&interrupt_count[channel->vector], seen + 1, 3000))
        fail(__FILE__, __LINE__, "an interrupt of the drive", alternate(channel), seen);
    return ide_status(channel);
}

static u8 device(const struct channel *channel, const struct command *command)
{
    u8 high = command->ext ? 0 : (u8)(command->lba >> 24 & 0xf);
    return 0xe0 | (u8)(channel->drive << 4) | high;
}

void ide_task_file(struct channel *channel, const struct command *command)
{
    u16 base = channel->command;
    if (command->ext) {
        out8(base + FEATURES, 0);
        out8(base + SECTORS, (u8)(command->sectors >> 8));
        out8(base + LBA_LOW, (u8)(command->lba >> 24));
        out8(base + LBA_MID, (u8)(command->lba >> 32));
        out8(base + LBA_HIGH, (u8)(command->lba >> 40));
    }
    out8(base + FEATURES, command->features);
    out8(base + SECTORS, (u8)command->sectors);
    out8(base + LBA_LOW, (u8)command->lba);
    out8(base + LBA_MID, (u8)(command->lba >> 8));
    out8(base + LBA_HIGH, (u8)(command->lba >> 16));
    out8(base + DEVICE, device(channel, command));
}

static void begin(struct channel *channel, const struct command *command)
{
    ide_wait_idle(channel);
    out8(channel->command + DEVICE, device(channel, command));
    alternate(channel);
    ide_wait_idle(channel);
    ide_task_file(channel, command);
}

static u8 wait_ready(const struct channel *channel)
{
    u64 end = tsc() + tsc_per_ms() * 3000;
    u8 status;
    while ((status = alternate(channel)) & IDE_BSY)
        if (tsc() > end)
            fail(__FILE__, __LINE__, "the drive ends its command", status, 0);
    return status;
}

u8 ide_pio_in(struct channel *channel, const struct command *command, void *to, u32 block)
{
    begin(channel, command);
    u32 left = command->sectors ? command->sectors : 256, seen = ide_interrupts(channel);
    out8(channel->command + COMMAND, command->opcode);
    while (left) {
        u8 status = ide_interrupt(channel, seen++);
        if (status & (IDE_ERR | IDE_DF))
            return status;
        CHECK_EQ(status & (IDE_BSY | IDE_DRQ), IDE_DRQ);
        u32 now = left < block ? left : block;
        in16_many(channel->command + DATA, to, now * 256);
        to = (u8 *)to + now * 512;
        left -= now;
    }
    u8 status = wait_ready(channel);
    CHECK_EQ(status & IDE_DRQ, 0);
    /* The last block has no interrupt after it. */
    take_interrupts();
    CHECK_EQ(ide_interrupts(channel), seen);
    return status;
}

u8 ide_pio_out(struct channel *channel, const struct command *command, const void *from,
               u32 block)
{
    begin(channel, command);
    u32 left = command->sectors ? command->sectors : 256, seen = ide_interrupts(channel);
    out8(channel->command + COMMAND, command->opcode);
    /* The first block is asked for without an interrupt. */
    u8 status = wait_ready(channel);
    while (left) {
        if (status & (IDE_ERR | IDE_DF))
            return status;
        CHECK_EQ(status & (IDE_BSY | IDE_DRQ), IDE_DRQ);
        u32 now = left < block ? left : block;
        out16_many(channel->command + DATA, from, now * 256);
        from = (const u8 *)from + now * 512;
        left -= now;
        status = ide_interrupt(channel, seen++);
    }
    CHECK_EQ(status & IDE_DRQ, 0);
    return status;
}

u8 ide_no_data(struct channel *channel, const struct command *command)
{
    begin(channel, command);
    u32 seen = ide_interrupts(channel);
    out8(channel->command + COMMAND, command->opcode);
    return ide_interrupt(channel, seen);
}

/*
 * Accesses, as counted with Linux 6.12: alternate status read 4, status read 4, bus master
 * command read 3 and written 3, bus master status read 2 and written 1, table written 1,
 * device written 2, features to LBA high written 5 (10 when 48-bit), command written 1.
 */
u8 ide_dma(struct channel *channel, const struct command *command, const struct prd *table,
           bool to_memory)
{
    u16 bm = channel->bus_master;
    u8 direction = to_memory ? BM_READ : 0;
    begin(channel, command);
    ide_wait_idle(channel);

    out32(bm + BM_TABLE, (u32)(u64)table);
    u8 old = in8(bm + BM_COMMAND) & (u8)~(BM_READ | BM_START);
    out8(bm + BM_COMMAND, old | direction);
    u32 seen = ide_interrupts(channel);
    out8(channel->command + COMMAND, command->opcode);
    alternate(channel);
    old = in8(bm + BM_COMMAND);
    out8(bm + BM_COMMAND, old | BM_START);

    if (!wait_for(&interrupt_count[channel->vector], seen + 1, 5000))
        fail(__FILE__, __LINE__, "an interrupt of the bus master", alternate(channel),
             in8(bm + BM_STATUS));
    u8 status = in8(bm + BM_STATUS);
    CHECK_EQ(status & BM_INTERRUPT, BM_INTERRUPT);
    out8(bm + BM_COMMAND, in8(bm + BM_COMMAND) & (u8)~BM_START);
    alternate(channel);
    alternate(channel);
    u8 result = ide_status(channel);
    u8 after = in8(bm + BM_STATUS);
    out8(bm + BM_STATUS, after);
    return result | (status & BM_ERROR ? IDE_DF : 0);
}

/* An ATAPI command whose data comes by PIO. */
u8 ide_packet_in(struct channel *channel, const u8 packet[12], void *to, u32 limit, u32 *got)
{
    struct command command = {.opcode = PACKET, .lba = (u64)limit << 8};
    begin(channel, &command);
    out8(channel->command + COMMAND, PACKET);
    u8 status = wait_ready(channel);
    CHECK_EQ(status & (IDE_DRQ | IDE_ERR), IDE_DRQ);
    CHECK_EQ(in8(channel->command + SECTORS) & 3, 1); /* a command, to the device */
    u32 seen = ide_interrupts(channel);
    out16_many(channel->command + DATA, packet, 6);
    for (*got = 0;;) {
        status = ide_interrupt(channel, seen++);
        if (!(status & IDE_DRQ))
            return status;
        CHECK_EQ(in8(channel->command + SECTORS) & 3, 2); /* data, to the host */
        u32 now = in8(channel->command + LBA_MID) | (u32)in8(channel->command + LBA_HIGH) << 8;
        CHECK(now > 0 && now <= limit);
        in16_many(channel->command + DATA, (u8 *)to + *got, (now + 1) / 2);
        *got += now;
    }
}
