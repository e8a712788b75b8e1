/*
 * PIO at the IDE disk, interrupts by I/O APIC pin 14. The disk has 64-bit words of
 * SplitMix64 (random_seed(1)) up to sector 4096; the host compares what is written here.
 */
#include "lib/ide.h"

static struct channel ide;
static u8 data[256 * 512] ALIGNED(4096), expected[256 * 512] ALIGNED(4096);

/* What the host put on the disk before. */
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

static void identify(void)
{
    struct command command = {.opcode = IDENTIFY, .sectors = 1};
    u8 status = ide_pio_in(&ide, &command, data, 1);
    CHECK_EQ(status & (IDE_ERR | IDE_DRDY), IDE_DRDY);
    const u16 *words = (const u16 *)data;
    CHECK_EQ(words[0] & 0x8000, 0);
    u32 lba28 = words[60] | (u32)words[61] << 16;
    u64 lba48 = words[100] | (u64)words[101] << 16 | (u64)words[102] << 32;
    CHECK_EQ(lba28, argument("sectors", 0));
    CHECK_EQ(lba48, argument("sectors", 0));
    CHECK(words[49] & 1 << 9);  /* LBA */
    CHECK(words[49] & 1 << 8);  /* DMA */
    CHECK(words[83] & 1 << 10); /* 48-bit */
    if ((words[255] & 0xff) == 0xa5) {
        u8 sum = 0;
        for (u32 i = 0; i < 512; i++)
            sum += data[i];
        CHECK_EQ(sum, 0);
    }
    print("model \"");
    for (u32 i = 27; i < 47; i++)
        print("%c%c", words[i] >> 8, words[i] & 0xff);
    print("\"\n");
    pass("identify");
}

static void reads(void)
{
    struct command command = {.opcode = READ_SECTORS, .lba = 7, .sectors = 1};
    CHECK_EQ(ide_pio_in(&ide, &command, data, 1) & IDE_ERR, 0);
    same("one sector", 7, 1);
    command.sectors = 9;
    CHECK_EQ(ide_pio_in(&ide, &command, data, 1) & IDE_ERR, 0);
    same("nine sectors", 7, 9);
    command = (struct command){.opcode = READ_SECTORS, .lba = 100, .sectors = 256};
    CHECK_EQ(ide_pio_in(&ide, &command, data, 1) & IDE_ERR, 0);
    same("256 sectors, written as 0", 100, 256);
    command = (struct command){.opcode = READ_SECTORS_EXT, .ext = true, .lba = 33, .sectors = 3};
    CHECK_EQ(ide_pio_in(&ide, &command, data, 1) & IDE_ERR, 0);
    same("48-bit", 33, 3);
    pass("read sectors");

    command = (struct command){.opcode = SET_MULTIPLE, .sectors = 16};
    CHECK_EQ(ide_no_data(&ide, &command) & IDE_ERR, 0);
    command = (struct command){.opcode = READ_MULTIPLE, .lba = 55, .sectors = 40};
    u32 before = ide_interrupts(&ide);
    CHECK_EQ(ide_pio_in(&ide, &command, data, 16) & IDE_ERR, 0);
    CHECK_EQ(ide_interrupts(&ide) - before, 3);
    same("multiple", 55, 40);
    pass("read multiple");
}

static void dword_reads(void)
{
    struct command command = {.opcode = READ_SECTORS, .lba = 70, .sectors = 1};
    u32 seen = ide_interrupts(&ide);
    ide_wait_idle(&ide);
    ide_task_file(&ide, &command);
    out8(ide.command + 7, READ_SECTORS);
    ide_interrupt(&ide, seen);
    in32_many(ide.command, data, 64);
    for (u32 i = 256; i < 512; i += 2)
        *(u16 *)(data + i) = in16(ide.command);
    same("dwords and words", 70, 1);
    CHECK_EQ(ide_wait_idle(&ide) & IDE_DRQ, 0);
    pass("data register widths");
}

/* Sectors of the second half, which the host looks at afterwards. */
static void writes(void)
{
    struct command command = {.opcode = WRITE_SECTORS, .lba = 2048, .sectors = 5};
    pattern(data, 4, 5);
    CHECK_EQ(ide_pio_out(&ide, &command, data, 1) & IDE_ERR, 0);
    command = (struct command){.opcode = WRITE_SECTORS_EXT, .ext = true, .lba = 2060, .sectors = 3};
    pattern(data, 5, 3);
    CHECK_EQ(ide_pio_out(&ide, &command, data, 1) & IDE_ERR, 0);
    command = (struct command){.opcode = WRITE_MULTIPLE, .lba = 2100, .sectors = 40};
    pattern(data, 6, 40);
    CHECK_EQ(ide_pio_out(&ide, &command, data, 16) & IDE_ERR, 0);
    command = (struct command){.opcode = FLUSH};
    CHECK_EQ(ide_no_data(&ide, &command) & IDE_ERR, 0);
    command = (struct command){.opcode = READ_SECTORS, .lba = 2100, .sectors = 40};
    CHECK_EQ(ide_pio_in(&ide, &command, data, 1) & IDE_ERR, 0);
    same("read back", 6, 40);
    pass("write");
}

static void errors(void)
{
    struct command command = {.opcode = 0x5a};
    u8 status = ide_no_data(&ide, &command);
    CHECK_EQ(status & IDE_ERR, IDE_ERR);
    CHECK_EQ(in8(ide.command + 1) & IDE_ABRT, IDE_ABRT);
    command = (struct command){.opcode = READ_SECTORS, .lba = argument("sectors", 0), .sectors = 1};
    status = ide_pio_in(&ide, &command, data, 1);
    CHECK_EQ(status & IDE_ERR, IDE_ERR);
    CHECK(in8(ide.command + 1) & 0x14); /* IDNF or ABRT */
    command = (struct command){.opcode = READ_SECTORS, .lba = 1, .sectors = 1};
    CHECK_EQ(ide_pio_in(&ide, &command, data, 1) & IDE_ERR, 0);
    same("after an error", 1, 1);
    pass("errors");
}

/* nIEN keeps the interrupt back; SRST leaves the signature of a disk. */
static void control(void)
{
    u32 before = ide_interrupts(&ide);
    out8(ide.control, 2);
    out8(ide.command + 6, 0xe0);
    out8(ide.command + 7, FLUSH);
    while (in8(ide.control) & IDE_BSY)
        pause();
    wait_ms(5);
    take_interrupts();
    CHECK_EQ(ide_interrupts(&ide), before);
    ide_status(&ide);
    out8(ide.control, 4);
    wait_us(10);
    out8(ide.control, 0);
    ide_wait_idle(&ide);
    CHECK_EQ(in8(ide.command + 2), 1);
    CHECK_EQ(in8(ide.command + 3), 1);
    CHECK_EQ(in8(ide.command + 4), 0);
    CHECK_EQ(in8(ide.command + 5), 0);
    /* There is no second drive. */
    out8(ide.command + 6, 0xf0);
    CHECK_EQ(ide_status(&ide) & (IDE_BSY | IDE_DRQ | IDE_DRDY), 0);
    out8(ide.command + 6, 0xe0);
    CHECK_EQ(ide_status(&ide) & (IDE_BSY | IDE_DRDY), IDE_DRDY);
    pass("device control");
}

void test(void)
{
    ide_init(&ide, 0);
    identify();
    reads();
    dword_reads();
    writes();
    errors();
    control();
}
