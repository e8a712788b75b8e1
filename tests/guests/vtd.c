/*
 * DMA through the VT-d: the IDE disk and the e1000 behind mappings of their own, then what a
 * device is not to reach, tables and a queue that are not as they should be, and DMA that is
 * interrupt requests. Whatever is blocked leaves memory as it was and is recorded with the reason
 * that the manual names. The disk is filled as in ide_pio.c; the host sees the e1000's frame.
 */
#include "lib/e1000.h"
#include "lib/ide.h"
#include "lib/vtd.h"

#define DISK 1
#define NIC 2
/* Where nothing else is: below 4 GiB, as the disk's addresses have 32 bits. */
#define TABLE_AT 0x80000000ul
#define DATA_AT 0xa0000000ul
#define NOWHERE 0xb0000000ul
#define PAGE 4096
#define FRAME 0x88b5
/* On the disk: a DWORD that is REQUEST_VECTOR, once that is written. */
#define REQUEST_AT 2300
#define DISK_PIN 14
#define IOAPIC_SOURCE 0xff00
#define REQUEST_VECTOR 0x58
#define FORGED_VECTOR 0x59

static struct channel ide;
static u16 disk, nic;
static u8 data[4 * PAGE] ALIGNED(4096), expected[2 * PAGE] ALIGNED(4096);
static struct prd prds[4] ALIGNED(4096);
static u64 *disk_top, *nic_top;

static void pattern(void *to, u64 lba, u32 sectors)
{
    u64 *words = to;
    random_seed(lba * 64 * 0x9e3779b97f4a7c15 + 1);
    for (u32 i = 0; i < sectors * 64; i++)
        words[i] = random();
}

/* 8 KiB in one piece at an I/O virtual address. */
static u8 transfer(u8 opcode, u64 lba, u32 at)
{
    struct command command = {.opcode = opcode, .lba = lba, .sectors = 16};
    prds[0] = (struct prd){at, 2 * PAGE, 0x8000};
    return ide_dma(&ide, &command, (struct prd *)TABLE_AT, opcode == READ_DMA);
}

static void offers(void)
{
    u64 cap = read64(VTD + VTD_CAP), ecap = read64(VTD + VTD_ECAP);
    CHECK_EQ(read32(VTD + VTD_VER), 0x10);
    CHECK_EQ(cap >> 7 & 1, 1);
    CHECK_EQ(cap >> 8 & 0x1f, 6);
    CHECK_EQ(cap >> 16 & 0x3f, 47);
    CHECK_EQ(ecap >> 1 & 1, 1);
    CHECK_EQ(ecap >> 3 & 1, 1);
    CHECK_EQ(read32(VTD + VTD_GSTS), 0);
    CHECK_EQ(read32(VTD + VTD_FSTS), 0);
    CHECK_EQ(read64(VTD + VTD_RTADDR), 0);
    pass("registers");
}

static void disk_mapped(void)
{
    disk_top = vtd_domain(disk, DISK);
    vtd_map(disk_top, TABLE_AT, prds, PAGE_READ);
    /* Contiguous for the disk, the other way round in memory. */
    vtd_map(disk_top, DATA_AT, data + PAGE, PAGE_BOTH);
    vtd_map(disk_top, DATA_AT + PAGE, data, PAGE_BOTH);
    vtd_start();
    memset(data, 0x5a, sizeof(data));
    CHECK_EQ(transfer(READ_DMA, 3, DATA_AT) & (IDE_ERR | IDE_DF), 0);
    pattern(expected, 3, 16);
    CHECK_EQ(memcmp(data + PAGE, expected, PAGE), 0);
    CHECK_EQ(memcmp(data, expected + PAGE, PAGE), 0);
    for (u32 i = 2 * PAGE; i < sizeof(data); i++)
        CHECK_EQ(data[i], 0x5a);
    CHECK_EQ(transfer(WRITE_DMA, 2048, DATA_AT) & (IDE_ERR | IDE_DF), 0);
    vtd_expect_none();
    pass("the disk reads and writes through a mapping");

    /* A page of 2 MiB, mapped and announced: the same memory once more. */
    u64 large = (u64)data & ~0x1ffffful;
    *vtd_entry(disk_top, 0xc0000000, 2) = large | PAGE_LARGE | PAGE_BOTH;
    *vtd_entry(disk_top, 0xc0200000, 2) = (large + 0x200000) | PAGE_LARGE | PAGE_BOTH;
    vtd_forget_page(DISK, 0xc0000000);
    vtd_forget_page(DISK, 0xc0200000);
    CHECK_EQ(transfer(READ_DMA, 50, (u32)(0xc0000000 + ((u64)data - large))) & (IDE_ERR | IDE_DF),
             0);
    pattern(expected, 50, 16);
    CHECK_EQ(memcmp(data, expected, 2 * PAGE), 0);
    pass("a large page");
}

static struct transmit ring[16] ALIGNED(4096);

static void nic_mapped(void)
{
    static u8 frame[PAGE] ALIGNED(4096);
    config_command(nic, COMMAND_MEMORY | COMMAND_MASTER, 0);
    u64 registers = config_read32(nic, 0x10) & 0xfffffff0;
    write32(registers + IMC, 0xffffffff);
    write32(registers + CTRL, read32(registers + CTRL) | CTRL_SLU);
    nic_top = vtd_domain(nic, NIC);
    /* Beyond what the disk can address. */
    vtd_map(nic_top, 0x4000000000, ring, PAGE_BOTH);
    vtd_map(nic_top, 0x7ffffff000, frame, PAGE_READ);
    vtd_forget_contexts();
    memset(frame, 0xff, 6);
    for (u32 i = 6; i < 200; i++)
        frame[i] = (u8)(i * 5);
    frame[12] = FRAME >> 8, frame[13] = FRAME & 0xff;
    write32(registers + TDBAL, 0);
    write32(registers + TDBAH, 0x40);
    write32(registers + TDLEN, sizeof(ring));
    write32(registers + TDH, 0);
    write32(registers + TDT, 0);
    write32(registers + TCTL, TCTL_EN | TCTL_PSP | 15 << 4 | 64 << 12);
    wait_ms(50);
    u8 command = TX_EOP | TX_IFCS | TX_RS;
    ring[0] = (struct transmit){.address = 0x7ffffff000, .length = 200, .command = command};
    barrier();
    write32(registers + TDT, 1);
    CHECK(wait_for_bits(&ring[0].status, TX_DD, 2000));
    vtd_expect_none();
    pass("the network card sends through a mapping");

    /* A frame that is in the disk's domain and not in the card's. */
    ring[1] = (struct transmit){.address = DATA_AT, .length = 200, .command = command};
    barrier();
    write32(registers + TDT, 2);
    wait_ms(50);
    vtd_expect(FAULT_READ, nic, DATA_AT, true);
    write32(registers + TCTL, 0);
    pass("domains are apart");
}

/* A transfer by the table that is blocked, and the channel as new. */
static void start_blocked_table(u8 opcode)
{
    struct command command = {.opcode = opcode, .lba = 2100, .sectors = 16};
    if (opcode == READ_DMA)
        command.lba = REQUEST_AT;
    u8 direction = opcode == READ_DMA ? BM_READ : 0;
    memset(data, 0x5a, sizeof(data));
    out32(ide.bus_master + 4, TABLE_AT);
    ide_task_file(&ide, &command);
    out8(ide.command + 7, opcode);
    out8(ide.bus_master, direction | BM_START);
    wait_ms(20);
    out8(ide.bus_master, direction);
    out8(ide.bus_master + 2, BM_INTERRUPT | BM_ERROR);
    out8(ide.control, 4);
    wait_us(10);
    out8(ide.control, 0);
    ide_wait_idle(&ide);
    take_interrupts();
}

static void start_blocked(u8 opcode, u32 at)
{
    prds[0] = (struct prd){at, 2 * PAGE, 0x8000};
    start_blocked_table(opcode);
}

static void untouched(void)
{
    for (u32 i = 0; i < sizeof(data); i++)
        CHECK_EQ(data[i], 0x5a);
}

static void blocked(const char *what, u8 reason, u8 opcode, u32 at, u64 info)
{
    start_blocked(opcode, at);
    vtd_expect(reason, disk, info, opcode == WRITE_DMA || info == TABLE_AT);
    vtd_expect_none();
    untouched();
    pass(what);
}

/* The domain as disk_mapped() made it, and it works. */
static void works(void)
{
    CHECK_EQ(transfer(READ_DMA, 3, DATA_AT) & (IDE_ERR | IDE_DF), 0);
    pattern(expected, 3, 16);
    CHECK_EQ(memcmp(data + PAGE, expected, PAGE), 0);
    vtd_expect_none();
}

static void out_of_reach(void)
{
    blocked("a write where nothing is mapped", FAULT_WRITE, READ_DMA, NOWHERE, NOWHERE);
    blocked("a read where nothing is mapped", FAULT_READ, WRITE_DMA, NOWHERE, NOWHERE);
    vtd_map(disk_top, NOWHERE, data, PAGE_READ);
    vtd_map(disk_top, NOWHERE + PAGE, data + PAGE, PAGE_READ);
    vtd_forget_domain(DISK);
    blocked("a write into a read-only mapping", FAULT_WRITE, READ_DMA, NOWHERE, NOWHERE);

    works();
    vtd_map(disk_top, DATA_AT, 0, 0);
    vtd_forget_page(DISK, DATA_AT);
    blocked("a write through what has just been unmapped", FAULT_WRITE, READ_DMA, DATA_AT,
            DATA_AT);
    vtd_map(disk_top, DATA_AT, data + PAGE, PAGE_BOTH);
    vtd_forget_page(DISK, DATA_AT);
    works();

    u64 *context = vtd_context(disk), kept = context[0];
    context[0] = 0;
    vtd_forget_contexts();
    vtd_forget_domain(DISK);
    blocked("no context", FAULT_CONTEXT, READ_DMA, DATA_AT, TABLE_AT);
    context[0] = kept;
    kept = vtd_root[0];
    vtd_root[0] = 0;
    vtd_forget_contexts();
    blocked("no root entry", FAULT_ROOT, READ_DMA, DATA_AT, TABLE_AT);
    vtd_root[0] = kept;
    vtd_forget_contexts();
    works();
}

static void bad_tables(void)
{
    /* Its own table at every level, and so its own page. */
    static u64 loop[512] ALIGNED(4096);
    for (u32 i = 0; i < 512; i++)
        loop[i] = (u64)loop | PAGE_BOTH;
    u64 *entry = vtd_entry(disk_top, NOWHERE, 2), kept = *entry;
    *entry = (u64)loop | PAGE_BOTH;
    *vtd_entry(disk_top, 0xd0000000, 3) = (u64)disk_top | PAGE_BOTH;
    vtd_forget_domain(DISK);
    CHECK_EQ(transfer(WRITE_DMA, 2200, NOWHERE) & (IDE_ERR | IDE_DF), 0);
    *entry = kept;
    vtd_forget_domain(DISK);
    memset(data, 0, sizeof(data));
    CHECK_EQ(transfer(READ_DMA, 2200, DATA_AT) & (IDE_ERR | IDE_DF), 0);
    CHECK_EQ(memcmp(data + PAGE, loop, PAGE), 0);
    CHECK_EQ(memcmp(data, loop, PAGE), 0);
    vtd_expect_none();
    pass("tables that loop end");

    *entry = 0x90000000 | PAGE_BOTH;
    vtd_forget_domain(DISK);
    blocked("a table where there is no memory", FAULT_TABLE_ACCESS, READ_DMA, NOWHERE, NOWHERE);
    *entry = kept;
    vtd_map(disk_top, NOWHERE, data, PAGE_BOTH | 1 << 11);
    vtd_forget_domain(DISK);
    blocked("reserved bits in an entry", FAULT_TABLE_RESERVED, READ_DMA, NOWHERE, NOWHERE);
    vtd_map(disk_top, NOWHERE, (void *)0x90000000, PAGE_BOTH);
    vtd_forget_domain(DISK);
    start_blocked(READ_DMA, NOWHERE);
    untouched();
    vtd_expect_none();
    works();
    pass("a page where there is no memory");
}

/* The first DWORD goes to an address, the rest to memory. */
static void table_with_request(u32 address)
{
    prds[0] = (struct prd){address, 4, 0};
    prds[1] = (struct prd){DATA_AT, 2 * PAGE - 4, 0x8000};
}

/* A DWORD of the disk's is taken for a request, and the rest of it is where it should be. */
static void request_arrives(const char *what, u32 address)
{
    u32 before = interrupt_count[REQUEST_VECTOR];
    struct command command = {.opcode = READ_DMA, .lba = REQUEST_AT, .sectors = 16};
    table_with_request(address);
    memset(data, 0x5a, sizeof(data));
    CHECK_EQ(ide_dma(&ide, &command, (struct prd *)TABLE_AT, true) & (IDE_ERR | IDE_DF), 0);
    CHECK(wait_for(&interrupt_count[REQUEST_VECTOR], before + 1, 1000));
    CHECK_EQ(interrupt_count[REQUEST_VECTOR], before + 1);
    CHECK_EQ(memcmp(data + PAGE, (u8 *)expected + 4, PAGE), 0);
    CHECK_EQ(memcmp(data, (u8 *)expected + 4 + PAGE, PAGE - 4), 0);
    vtd_expect_none();
    pass(what);
}

static void request_blocked(const char *what, u8 reason, u32 address, u64 info)
{
    u32 before = interrupt_count[REQUEST_VECTOR];
    table_with_request(address);
    start_blocked_table(READ_DMA);
    vtd_expect(reason, disk, info, false);
    vtd_expect_none();
    untouched();
    CHECK_EQ(interrupt_count[FORGED_VECTOR], 0);
    CHECK_EQ(interrupt_count[REQUEST_VECTOR], before);
    pass(what);
}

/* DMA to where interrupt requests are taken. */
static void requests(void)
{
    on_interrupt(REQUEST_VECTOR, end_at_lapic);
    on_interrupt(FORGED_VECTOR, end_at_lapic);
    pattern(expected, 7, 16);
    *(u32 *)expected = REQUEST_VECTOR;
    memcpy(data + PAGE, expected, PAGE);
    memcpy(data, expected + PAGE, PAGE);
    CHECK_EQ(transfer(WRITE_DMA, REQUEST_AT, DATA_AT) & (IDE_ERR | IDE_DF), 0);
    u32 plain = 0xfee00000 | lapic_id() << 12;
    request_arrives("a DMA write is an interrupt request", plain);

    vtd_interrupt_table(false);
    vtd_interrupt(5, REQUEST_VECTOR, lapic_id(), disk);
    vtd_interrupt(6, FORGED_VECTOR, lapic_id(), disk + 8);
    vtd_interrupt(8, ide.vector, lapic_id(), IOAPIC_SOURCE);
    vtd_command(GCMD_IRE, true);
    ioapic_route_remapped(DISK_PIN, 8);
    request_arrives("a DMA write that names an entry", vtd_remappable(5));
    request_blocked("a DMA write that names somebody else's entry", FAULT_SOURCE,
                    vtd_remappable(6), 6ul << 48);
    request_blocked("a DMA write that names no entry", FAULT_ENTRY_ABSENT, vtd_remappable(7),
                    7ul << 48);
    request_blocked("a DMA write across two DWORDs", FAULT_REQUEST, vtd_remappable(5) + 2, 0);
    start_blocked(READ_DMA, vtd_remappable(5));
    vtd_expect(FAULT_REQUEST, disk, 0, false);
    start_blocked(WRITE_DMA, vtd_remappable(5));
    vtd_expect(FAULT_REQUEST, disk, 0, false);
    vtd_expect_none();
    untouched();
    pass("other DMA among interrupt requests");
    request_blocked("a DMA write that names a vector itself", FAULT_COMPATIBILITY, plain, 0);
    vtd_command(GCMD_IRE, false);
    ioapic_route(DISK_PIN, ide.vector, lapic_id());
    works();
}

static void bad_queue(void)
{
    write64(VTD + VTD_IQT, 0x1000);
    CHECK_EQ(read32(VTD + VTD_FSTS) & 0xff, FSTS_IQE);
    CHECK_EQ(read64(VTD + VTD_IQERCD) & 0xf, 1);
    vtd_command(GCMD_QIE, false);
    write32(VTD + VTD_FSTS, FSTS_IQE);
    vtd_expect_none();
    vtd_start();
    /* A descriptor of no type there is. */
    u64 *queue = (u64 *)(read64(VTD + VTD_IQA) & ~0xffful);
    u64 tail = read64(VTD + VTD_IQT);
    queue[tail / 8] = 0xf;
    write64(VTD + VTD_IQT, tail + 16);
    CHECK_EQ(read32(VTD + VTD_FSTS) & 0xff, FSTS_IQE);
    CHECK_EQ(read64(VTD + VTD_IQERCD) & 0xf, 3);
    CHECK_EQ(read64(VTD + VTD_IQH), tail);
    vtd_command(GCMD_QIE, false);
    write32(VTD + VTD_FSTS, FSTS_IQE);
    vtd_start();
    works();
    pass("a queue that is not as it should be");
}

/* CMOS survives a reset; the unit, on and with a fault recorded, does not. */
static bool first_boot(void)
{
    out8(0x70, 0x52);
    u8 boots = in8(0x71);
    out8(0x71, boots + 1);
    return boots == 0;
}

static void reset(void)
{
    start_blocked(READ_DMA, NOWHERE + 8 * PAGE);
    CHECK(vtd_is_on(GCMD_TE));
    CHECK(read32(VTD + VTD_FSTS) & FSTS_PPF);
    print("RESET\n");
    out8(0xcf9, 0x02);
    out8(0xcf9, 0x06);
    wait_ms(2000);
    CHECK(!"the machine was reset");
}

void test(void)
{
    ide_init(&ide, 0);
    tsc_per_ms();
    disk = find_class(0x0101);
    nic = find_id(E1000_ID);
    offers();
    disk_mapped();
    if (nic != 0xffff)
        nic_mapped();
    out_of_reach();
    bad_tables();
    requests();
    bad_queue();
    if (first_boot())
        reset();
    /* Off, addresses are memory's again. */
    vtd_command(GCMD_TE, false);
    struct command command = {.opcode = READ_DMA, .lba = 3, .sectors = 16};
    prds[0] = (struct prd){(u32)(u64)data, 2 * PAGE, 0x8000};
    CHECK_EQ(ide_dma(&ide, &command, prds, true) & (IDE_ERR | IDE_DF), 0);
    pattern(expected, 3, 16);
    CHECK_EQ(memcmp(data, expected, 2 * PAGE), 0);
    pass("off again");
}
