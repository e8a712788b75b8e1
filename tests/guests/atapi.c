/* The CD-ROM: a disc of `blocks=` blocks filled as in ide_pio.c, second drive in order. */
#include "lib/ide.h"

#define BLOCK 2048

static struct channel ide;
static u8 data[64 * BLOCK] ALIGNED(65536), expected[64 * BLOCK];
static struct prd table[4] ALIGNED(65536);

static void same(const char *what, u64 block, u32 blocks)
{
    u64 *words = (u64 *)expected;
    random_seed(block * 256 * 0x9e3779b97f4a7c15 + 1);
    for (u32 i = 0; i < blocks * 256; i++)
        words[i] = random();
    for (u32 i = 0; i < blocks * BLOCK; i += 8)
        if (*(u64 *)(data + i) != *(u64 *)(expected + i))
            fail(__FILE__, __LINE__, what, block, i);
}

static u32 big32(const u8 *at)
{
    return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
}

/* On whichever drive it is. */
static void find(void)
{
    for (u8 number = 0; number < 2; number++)
        for (u8 drive = 0; drive < 2; drive++) {
            ide_init(&ide, number);
            ide.drive = drive;
            out8(ide.control, 4);
            wait_us(10);
            out8(ide.control, 0);
            wait_ms(1);
            out8(ide.command + 6, 0xa0 | (u8)(drive << 4));
            if (in8(ide.command + 4) == 0x14 && in8(ide.command + 5) == 0xeb) {
                print("CD-ROM is drive %u of channel %u\n", drive, number);
                return;
            }
        }
    CHECK(!"there is a CD-ROM");
}

static void identify(void)
{
    /* A packet device has no IDENTIFY DEVICE, and says who it is instead. */
    out8(ide.command + 6, 0xa0 | (u8)(ide.drive << 4));
    u32 seen = ide_interrupts(&ide);
    out8(ide.command + 7, IDENTIFY);
    u8 status = ide_interrupt(&ide, seen);
    CHECK_EQ(status & IDE_ERR, IDE_ERR);
    CHECK_EQ(in8(ide.command + 4), 0x14);
    CHECK_EQ(in8(ide.command + 5), 0xeb);
    seen = ide_interrupts(&ide);
    out8(ide.command + 7, IDENTIFY_PACKET);
    status = ide_interrupt(&ide, seen);
    CHECK_EQ(status & (IDE_DRQ | IDE_ERR), IDE_DRQ);
    in16_many(ide.command, data, 256);
    CHECK_EQ(((u16 *)data)[0] & 0xdf03, 0x8500); /* ATAPI, CD-ROM, removable, 12 bytes */
    pass("identify packet device");
}

/* TEST UNIT READY until there is no unit attention. */
static void ready(void)
{
    static const u8 test_unit[12] = {0}, sense[12] = {0x03, 0, 0, 0, 18};
    u32 got;
    for (u32 i = 0; i < 10; i++) {
        if (!(ide_packet_in(&ide, test_unit, data, 64, &got) & IDE_ERR)) {
            pass("ready");
            return;
        }
        CHECK_EQ(ide_packet_in(&ide, sense, data, 64, &got) & IDE_ERR, 0);
        CHECK(got >= 14);
        print("sense %x/%02x/%02x\n", data[2] & 15, data[12], data[13]);
        wait_ms(5);
    }
    CHECK(!"the drive gets ready");
}

static void reads(void)
{
    u32 got;
    static const u8 capacity[12] = {0x25};
    CHECK_EQ(ide_packet_in(&ide, capacity, data, 64, &got) & IDE_ERR, 0);
    CHECK_EQ(got, 8);
    CHECK_EQ(big32(data) + 1, argument("blocks", 0));
    CHECK_EQ(big32(data + 4), BLOCK);

    const u8 one[12] = {0x28, 0, 0, 0, 0, 16, 0, 0, 1};
    CHECK_EQ(ide_packet_in(&ide, one, data, BLOCK, &got) & IDE_ERR, 0);
    CHECK_EQ(got, BLOCK);
    same("one block", 16, 1);
    /* The guest takes less at a time than there is. */
    const u8 many[12] = {0x28, 0, 0, 0, 0, 100, 0, 0, 24};
    CHECK_EQ(ide_packet_in(&ide, many, data, 8192, &got) & IDE_ERR, 0);
    CHECK_EQ(got, 24 * BLOCK);
    same("24 blocks", 100, 24);
    const u8 long_read[12] = {0xa8, 0, 0, 0, 0, 200, 0, 0, 0, 8};
    CHECK_EQ(ide_packet_in(&ide, long_read, data, 0xfffe, &got) & IDE_ERR, 0);
    CHECK_EQ(got, 8 * BLOCK);
    same("READ(12)", 200, 8);
    /* Beyond the end: a check condition, and life goes on. */
    const u8 beyond[12] = {0x28, 0, 0xff, 0, 0, 0, 0, 0, 1};
    CHECK_EQ(ide_packet_in(&ide, beyond, data, BLOCK, &got) & IDE_ERR, IDE_ERR);
    CHECK_EQ(ide_packet_in(&ide, one, data, BLOCK, &got) & IDE_ERR, 0);
    same("after an error", 16, 1);
    pass("read by PIO");
}

static void dma(void)
{
    u16 bm = ide.bus_master;
    const u8 packet[12] = {0x28, 0, 0, 0, 1, 0x2c, 0, 0, 32};
    table[0] = (struct prd){(u32)(u64)data, 0, 0x8000}; /* 64 KiB */
    memset(data, 0, sizeof(data));
    ide_wait_idle(&ide);
    struct command command = {.opcode = PACKET, .features = 1};
    ide_task_file(&ide, &command);
    out32(bm + 4, (u32)(u64)table);
    out8(bm, BM_READ);
    out8(ide.command + 7, PACKET);
    while (in8(ide.control) & IDE_BSY)
        pause();
    u32 seen = ide_interrupts(&ide);
    out16_many(ide.command, packet, 6);
    out8(bm, BM_READ | BM_START);
    CHECK_EQ(ide_interrupt(&ide, seen) & (IDE_ERR | IDE_DRQ | IDE_BSY), 0);
    CHECK_EQ(in8(bm + 2) & (BM_INTERRUPT | BM_ERROR), BM_INTERRUPT);
    out8(bm, 0);
    out8(bm + 2, BM_INTERRUPT);
    same("32 blocks by DMA", 300, 32);
    pass("read by DMA");
}

void test(void)
{
    tsc_per_ms();
    find();
    identify();
    ready();
    reads();
    dma();
}
