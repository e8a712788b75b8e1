/*
 * A guest that means harm, or has lost its mind: random accesses of all widths to ports,
 * to every hole in the address space, to config space. Nothing of it may end or hang the
 * VMM; what it does to itself (a reset, a power-off) is its business, so the ports and bits
 * that do so on purpose are left out. `seed=`, `rounds=`, `what=`ports, memory or config.
 */
#include "lib/guest.h"

static u32 interesting(void)
{
    static const u32 values[] = {0, 0xffffffff, 0x80000000, 0x7fffffff, 1, 0xff, 0x55aa55aa};
    u64 r = random();
    return r & 1 ? (u32)(r >> 32) : values[(r >> 8) % COUNT(values)];
}

/* Those that end the run by design. */
static bool is_end(u16 port)
{
    return (port >= PM_BASE + 1 && port <= PM_BASE + 7) || (port >= 0x61 && port <= 0x64) ||
           (port >= 0x8f && port <= 0x92) || (port >= 0xcf5 && port <= 0xcff) ||
           (port >= 0x3f0 && port <= 0x3ff); /* and the console's */
}

static const u16 ranges[][2] = {
    {0x20, 2}, {0xa0, 2}, {0x40, 4}, {0x60, 1}, {0x70, 8}, {0x80, 16}, {0xb2, 2}, {0x170, 8},
    {0x1f0, 8}, {0x376, 1}, {0x4d0, 2}, {0x600, 1}, {0x608, 0x78}, {0xc000, 0x1000},
};

static void one_port(u16 port)
{
    if (is_end(port))
        return;
    switch (random() % 6) {
    case 0: in8(port); break;
    case 1: in16(port); break;
    case 2: in32(port); break;
    case 3: out8(port, (u8)interesting()); break;
    case 4: out16(port, (u16)interesting()); break;
    default: out32(port, interesting()); break;
    }
}

static void ports(u32 rounds)
{
    u16 bars[16];
    u32 count = 0;
    for (u16 bdf = 0; bdf < 0x100; bdf += 8)
        for (u16 bar = 0x10; bar < 0x28; bar += 4) {
            u32 value = config_read32(bdf, bar);
            if (config_read16(bdf, 0) != 0xffff && (value & 3) == 1 && count < COUNT(bars))
                bars[count++] = (u16)(value & 0xfffc);
        }
    for (u32 i = 0; i < rounds; i++) {
        u64 r = random();
        u16 port;
        if (r & 1)
            port = (u16)(r >> 16);
        else if (r & 2 && count)
            port = bars[(r >> 8) % count] + (u16)(r >> 32 & 0x3f);
        else {
            const u16 *range = ranges[(r >> 8) % COUNT(ranges)];
            port = range[0] + (u16)((r >> 32) % range[1]);
        }
        one_port(port);
    }
}

static void one_place(u64 address)
{
    switch (random() % 9) {
    case 0: read8(address); break;
    case 1: read16(address); break;
    case 2: read32(address); break;
    case 3: read64(address); break;
    case 4: write8(address, (u8)interesting()); break;
    case 5: write16(address, (u16)interesting()); break;
    case 6: write32(address, interesting()); break;
    default: write64(address, random()); break;
    }
}

/* ECAM of the functions on bus 0 is left to config(). */
static void memory(u32 rounds)
{
    static const u64 places[][2] = {
        {0xa0000, 0x40000},    {0x90000000, 0x1000},  {0xb0100000, 0x10000}, {0xbffff000, 0x2000},
        {0xc0000000, 0x1000},  {0xfec00000, 0x1000},  {0xfed00000, 0x1000},  {0xfed1c000, 0x4000},
        {0xfed90000, 0x1000},  {0xfec00ff0, 0x20},    {0xfed40000, 0x5000},  {0xff000000, 0x1000},
    };
    u64 bars[16];
    u32 count = 0;
    for (u16 bdf = 0; bdf < 0x100; bdf += 8)
        for (u16 bar = 0x10; bar < 0x28; bar += 4) {
            u32 value = config_read32(bdf, bar);
            if (config_read16(bdf, 0) != 0xffff && !(value & 1) && value & 0xfffffff0 &&
                count < COUNT(bars))
                bars[count++] = value & 0xfffffff0;
        }
    for (u32 i = 0; i < rounds; i++) {
        u64 r = random();
        u64 address;
        if (r & 1 && count)
            address = bars[(r >> 8) % count] + (r >> 32) % 0x20000;
        else if (r & 2)
            address = 0xc0000000 + (r >> 32) % 0x3ec00000;
        else {
            const u64 *place = places[(r >> 8) % COUNT(places)];
            address = place[0] + (r >> 32) % place[1];
        }
        if (r & 0xc0)
            address &= ~3ul;
        one_place(address);
    }
}

/* Every function, both mechanisms, all offsets. PMBASE and ECAM move under our feet, so
 * they are put back at the end. */
static void config(u32 rounds)
{
    u16 found[32];
    u32 count = 0;
    for (u16 bdf = 0; bdf < 0x200 && count < COUNT(found); bdf++)
        if (config_read16(bdf, 0) != 0xffff)
            found[count++] = bdf;
    for (u32 i = 0; i < rounds; i++) {
        u64 r = random();
        u16 bdf = found[(r >> 8) % count], offset = (u16)(r >> 32) & 0xff;
        switch (r % 8) {
        case 0: config_write8(bdf, offset, (u8)interesting()); break;
        case 1: config_write16(bdf, offset & 0xfe, (u16)interesting()); break;
        case 2: config_write32(bdf, offset & 0xfc, interesting()); break;
        case 3: config_read32(bdf, offset & 0xfc); break;
        case 4: config_write32(bdf, 0x10 + offset % 6 * 4, interesting()); break;
        case 5: config_write8(bdf, 4, (u8)r >> 3); break;
        case 6: write32(ecam_address(bdf, offset & 0xfc), interesting()); break;
        default: write16(ecam_address(bdf, (u16)(r >> 40) & 0xffe), (u16)interesting()); break;
        }
        /* Look at what may be there now. */
        if (i % 16 == 0) {
            one_place(0xc0000000 + (r >> 20) % 0x3ec00000);
            one_port((u16)(0x1000 + (r >> 40) % 0xe000));
        }
    }
    config_write32(0, 0x64, 0);
    config_write32(0, 0x60, ECAM_RESET | 1);
    config_write32(0xf8, 0x40, PM_BASE | 1);
    config_write8(0xf8, 0x44, 0x80);
    config_write32(0, 0x60, ECAM_RESET | 1);
    CHECK_EQ(config_read32(0, 0), 0x29c08086);
    CHECK_EQ(read32(ecam_address(0xf8, 0)), 0x29188086);
}

/* Whatever it brought about may interrupt us. */
static void ignore(struct frame *frame)
{
    (void)frame;
    lapic_eoi();
}

static u8 cmos(u8 index)
{
    out8(0x70, index);
    return in8(0x71);
}

/* After a reset all is as it ever was, whatever happened before. */
static void is_fresh(void)
{
    CHECK_EQ(config_read32(0, 0), 0x29c08086);
    CHECK_EQ(config_read32(0, 0x60), ECAM_RESET | 1);
    CHECK_EQ(config_read32(0, 0x64), 0);
    CHECK_EQ(read32(ecam_address(0xf8, 0)), 0x29188086);
    CHECK_EQ(config_read32(0xf8, 0x40), PM_BASE | 1);
    for (u8 pin = 0; pin < 24; pin++)
        CHECK_EQ(ioapic_entry(pin), IOAPIC_MASKED);
    CHECK_EQ(in8(0x21), 0xff);
    u16 nic = find_id(0x100e8086);
    if (nic != 0xffff) {
        u32 bar = config_read32(nic, 0x10);
        CHECK(bar >= 0xc0000000 && bar < 0xfec00000);
        config_command(nic, COMMAND_MEMORY, 0);
        CHECK_EQ(read32(bar + 0x5404) >> 31, 1); /* RAH0: the address is valid */
    }
    u16 ide = find_class(0x0101);
    u32 ports = config_read32(ide, 0x20);
    config_command(ide, COMMAND_IO, 0);
    CHECK_EQ(in8((u16)(ports & 0xfff0)), 0);
    CHECK_EQ(in8((u16)(ports & 0xfff0) + 2) & 7, 0);
    pass("fresh");
}

/* A cell that the battery keeps: this is the boot after the reset. */
#define CELL 0x52
#define AGAIN 0xa5

void test(void)
{
    for (u32 vector = 32; vector < 256; vector++)
        on_interrupt((u8)vector, ignore);
    bool again = cmos(CELL) == AGAIN;
    if (again)
        is_fresh();
    u64 seed = argument("seed", 1) + (again ? 1000 : 0);
    u32 rounds = (u32)argument("rounds", 1000);
    print("seed %lu, %u rounds\n", seed, rounds);
    random_seed(seed);
    if (argument_is("what", "ports"))
        ports(rounds);
    else if (argument_is("what", "memory"))
        memory(rounds);
    else
        config(rounds);
    pass("survived");
    if (again)
        return;
    out8(0x70, CELL);
    out8(0x71, AGAIN);
    out8(0xcf9, 0x02);
    out8(0xcf9, 0x06);
    wait_ms(2000);
    CHECK(!"the machine was reset");
}
