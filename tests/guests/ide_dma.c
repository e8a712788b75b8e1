/*
 * Bus master DMA at the IDE disk. With transfers=N: N reads of 4 KiB and nothing else, for
 * the host to count exits. The disk is filled as in ide_pio.c.
 */
#include "lib/ide.h"

#define KIB64 0x10000

static struct channel ide;
static u8 data[4 * KIB64] ALIGNED(65536), expected[4 * KIB64] ALIGNED(65536);
static struct prd table[512] ALIGNED(65536);

static void pattern(void *to, u64 lba, u32 sectors)
{
    u64 *words = to;
    random_seed(lba * 64 * 0x9e3779b97f4a7c15 + 1);
    for (u32 i = 0; i < sectors * 64; i++)
        words[i] = random();
}

static void same(const char *what, u64 lba, u32 sectors)
{
    pattern(expected, lba, sectors);
    for (u32 i = 0; i < sectors * 512; i += 8)
        if (*(u64 *)(data + i) != *(u64 *)(expected + i))
            fail(__FILE__, __LINE__, what, lba, i);
}

/* Pieces of at most 64 KiB. */
static void whole(u32 bytes)
{
    u32 n = 0;
    for (u32 at = 0; at < bytes; at += KIB64, n++) {
        u32 now = bytes - at < KIB64 ? bytes - at : KIB64;
        table[n] = (struct prd){(u32)(u64)data + at, (u16)now, 0};
    }
    table[n - 1].flags = 0x8000;
}

static void reads(void)
{
    struct command command = {.opcode = READ_DMA, .lba = 3, .sectors = 8};
    whole(8 * 512);
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("4 KiB", 3, 8);
    command = (struct command){.opcode = READ_DMA_EXT, .ext = true, .lba = 50, .sectors = 8};
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("4 KiB, 48-bit", 50, 8);
    command = (struct command){.opcode = READ_DMA, .lba = 1, .sectors = 256};
    whole(256 * 512);
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("256 sectors, written as 0", 1, 256);
    command = (struct command){.opcode = READ_DMA_EXT, .ext = true, .lba = 11, .sectors = 512};
    whole(512 * 512);
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("256 KiB", 11, 512);
    pass("read dma");
}

/* Pieces of odd places and lengths (both are even), none at the place before. */
static void scatter(void)
{
    u32 n = 0, at = 0, total = 64 * 512;
    random_seed(5);
    while (at < total) {
        u32 len = (u32)(random() % 2000 + 1) * 2;
        if (len > total - at)
            len = total - at;
        /* Spread over the second half of the buffer. */
        table[n] = (struct prd){(u32)(u64)data + 2 * KIB64 + 2 * at, (u16)len, 0};
        n++;
        at += len;
        CHECK(n < COUNT(table));
    }
    table[n - 1].flags = 0x8000;
    memset(data, 0xa5, sizeof(data));
    struct command command = {.opcode = READ_DMA, .lba = 200, .sectors = 64};
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    for (u32 i = 0, to = 0; i < n; to += table[i].bytes, i++) {
        u8 *piece = (u8 *)(u64)table[i].address;
        for (u32 j = 0; j < table[i].bytes; j++)
            data[to + j] = piece[j];
    }
    same("scattered", 200, 64);
    /* And gathered again, onto the disk. */
    command = (struct command){.opcode = WRITE_DMA, .lba = 2048, .sectors = 64};
    CHECK_EQ(ide_dma(&ide, &command, table, false) & (IDE_ERR | IDE_DF), 0);
    whole(64 * 512);
    memset(data, 0, 64 * 512);
    command.opcode = READ_DMA;
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("gathered", 200, 64);
    pass("scatter and gather");
}

static void writes(void)
{
    struct command command = {
        .opcode = WRITE_DMA_EXT, .ext = true, .lba = 2200, .sectors = 512};
    whole(512 * 512);
    pattern(data, 17, 512);
    CHECK_EQ(ide_dma(&ide, &command, table, false) & (IDE_ERR | IDE_DF), 0);
    command = (struct command){.opcode = FLUSH_EXT, .ext = true};
    CHECK_EQ(ide_no_data(&ide, &command) & IDE_ERR, 0);
    command = (struct command){.opcode = READ_DMA_EXT, .ext = true, .lba = 2200, .sectors = 512};
    memset(data, 0, sizeof(data));
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("read back", 17, 512);
    pass("write dma");
}

/* What the guest gets wrong is an error for the guest, and the next command works. */
static void errors(void)
{
    struct command command = {
        .opcode = READ_DMA, .lba = argument("sectors", 0) - 1, .sectors = 8};
    whole(8 * 512);
    u8 status = ide_dma(&ide, &command, table, true);
    CHECK(status & IDE_ERR);
    command.lba = 3;
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("after an error", 3, 8);

    /* Memory that is not there: the bus master's error, or an aborted command. */
    table[0].address = 0x90000000;
    out32(ide.bus_master + 4, (u32)(u64)table);
    ide_task_file(&ide, &command);
    out8(ide.command + 7, READ_DMA);
    out8(ide.bus_master, BM_READ | BM_START);
    wait_ms(20);
    out8(ide.bus_master, BM_READ);
    print("no memory: bus master status %02x, status %02x\n", in8(ide.bus_master + 2),
          in8(ide.control));
    out8(ide.bus_master + 2, BM_INTERRUPT | BM_ERROR);
    out8(ide.control, 4);
    wait_us(10);
    out8(ide.control, 0);
    ide_wait_idle(&ide);
    take_interrupts();
    whole(8 * 512);
    memset(data, 0, 4096);
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("after a bus error", 3, 8);

    /* Bus mastering off: nothing reaches memory. */
    u16 bdf = find_class(0x0101);
    memset(data, 0x5a, 4096);
    config_command(bdf, 0, COMMAND_MASTER);
    out32(ide.bus_master + 4, (u32)(u64)table);
    ide_task_file(&ide, &command);
    out8(ide.command + 7, READ_DMA);
    out8(ide.bus_master, BM_READ | BM_START);
    wait_ms(20);
    for (u32 i = 0; i < 4096; i++)
        CHECK_EQ(data[i], 0x5a);
    out8(ide.bus_master, BM_READ);
    config_command(bdf, COMMAND_MASTER, 0);
    out8(ide.control, 4);
    wait_us(10);
    out8(ide.control, 0);
    ide_wait_idle(&ide);
    out8(ide.bus_master + 2, BM_INTERRUPT | BM_ERROR);
    take_interrupts();
    CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
    same("a bus master again", 3, 8);
    pass("dma errors");
}

void test(void)
{
    ide_init(&ide, 0);
    tsc_per_ms();
    if (argument("transfers", 1000) != 1000) {
        struct command command = {.opcode = READ_DMA, .lba = 8, .sectors = 8};
        whole(8 * 512);
        for (u64 n = argument("transfers", 0); n; n--)
            CHECK_EQ(ide_dma(&ide, &command, table, true) & (IDE_ERR | IDE_DF), 0);
        return;
    }
    reads();
    scatter();
    writes();
    errors();
}
