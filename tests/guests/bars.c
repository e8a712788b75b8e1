/* BARs: sizing, moving with decode off and on, and places where no BAR should be. The
 * subject is the e1000 (memory BAR 0, a port BAR) and the IDE controller (ports, BAR 4). */
#include "lib/e1000.h"

static u16 nic;
static const u16 bar0 = 0x10;

static u32 status_at(u64 base)
{
    return read32(base + STATUS);
}

static void sizing(void)
{
    u32 before = config_read32(nic, bar0);
    CHECK_EQ(before & 0xf, 0);
    CHECK(before >= 0xc0000000);
    config_command(nic, 0, COMMAND_MEMORY | COMMAND_IO);
    config_write32(nic, bar0, 0xffffffff);
    CHECK_EQ(config_read32(nic, bar0), 0xfffe0000);
    /* A byte at a time, too. */
    config_write32(nic, bar0, 0);
    config_write8(nic, bar0 + 3, 0xff);
    CHECK_EQ(config_read32(nic, bar0), 0xff000000);
    config_write32(nic, bar0, before);
    CHECK_EQ(config_read32(nic, bar0), before);

    u16 ide = find_class(0x0101);
    u32 port = config_read32(ide, 0x20);
    CHECK_EQ(port & 3, 1);
    config_command(ide, 0, COMMAND_IO);
    config_write32(ide, 0x20, 0xffffffff);
    CHECK_EQ(config_read32(ide, 0x20) & 0xffff, 0xfff1);
    config_write32(ide, 0x20, port);
    config_command(ide, COMMAND_IO, 0);
    pass("sizing");
}

static void decode(void)
{
    u64 base = config_read32(nic, bar0);
    config_command(nic, 0, COMMAND_MEMORY);
    CHECK_EQ(status_at(base), 0xffffffff);
    config_command(nic, COMMAND_MEMORY, 0);
    CHECK(status_at(base) != 0xffffffff);
    pass("decode");
}

static void moves(void)
{
    u64 old = config_read32(nic, bar0);
    u32 ral = read32(old + RAL);
    static const u32 places[] = {0xd0000000, 0xd0020000, 0xfeb80000, 0xc0000000, 0xe0000000};
    for (u32 i = 0; i < COUNT(places); i++) {
        /* With decode off, as an OS does, and with decode on, as it should not. */
        if (i % 2 == 0)
            config_command(nic, 0, COMMAND_MEMORY);
        config_write32(nic, bar0, places[i]);
        config_command(nic, COMMAND_MEMORY, 0);
        CHECK_EQ(read32((u64)places[i] + RAL), ral);
        if (places[i] != old)
            CHECK_EQ(read32(old + RAL), 0xffffffff);
        old = places[i];
    }
    pass("moves");
}

static void port_moves(void)
{
    u16 ide = find_class(0x0101);
    config_command(ide, COMMAND_IO, 0);
    u16 old = (u16)(config_read32(ide, 0x20) & 0xfffc);
    static const u16 places[] = {0x2000, 0x2010, 0xff00, 0x1000};
    for (u32 i = 0; i < COUNT(places); i++) {
        if (i % 2 == 0)
            config_command(ide, 0, COMMAND_IO);
        config_write32(ide, 0x20, places[i] | 1);
        config_command(ide, COMMAND_IO, 0);
        out32(places[i] + 4, 0x123400 + 4 * i);
        CHECK_EQ(in32(places[i] + 4), 0x123400 + 4 * i);
        if (places[i] != old)
            CHECK_EQ(in32(old + 4), 0xffffffff);
        old = places[i];
    }
    pass("port moves");
}

/* Over RAM, over the interrupt controllers, over ECAM, over another BAR, at the very top:
 * what is there stays there or does not, but the machine goes on, and all is well when the
 * BAR is back. */
static void hostile_places(void)
{
    static const u32 places[] = {
        0,          0x00200000, 0x03fe0000, 0x80000000, 0xb0000000, 0xb00f0000,
        0xfec00000, 0xfed1c000, 0xfee00000, 0xfffe0000, 0x000a0000,
    };
    u64 back = config_read32(nic, bar0);
    u32 ral = read32(back + RAL);
    /* Inside the third place. */
    volatile u64 *ram = (volatile u64 *)0x03fe1000;
    for (u32 i = 0; i < COUNT(places); i++) {
        *ram = i;
        config_write32(nic, bar0, places[i]);
        if (places[i] >= 0x80000000 && places[i] != 0xfee00000)
            read32((u64)places[i] + STATUS);
        /* RAM is RAM, and the chipset's registers are its own. */
        CHECK_EQ(*ram, i);
        *ram = ~(u64)i;
        CHECK_EQ(*ram, ~(u64)i);
        CHECK_EQ(config_read32(0, 0), 0x29c08086);
        CHECK_EQ(ioapic_read(1) >> 16 & 0xff, 23);
        CHECK_EQ(lapic_id(), 0);
        config_write32(nic, bar0, (u32)back);
        CHECK_EQ(read32(back + RAL), ral);
        CHECK_EQ(read32(ecam_address(0xf8, 0)), 0x29188086);
    }
    /* Port BAR over the console, the config ports and the interrupt controllers. */
    u16 ide = find_class(0x0101);
    u32 port = config_read32(ide, 0x20);
    static const u16 ports[] = {0x3f0, 0x20, 0xcf0, 0x600, 0x1f0, 0xfff0, 0};
    for (u32 i = 0; i < COUNT(ports); i++) {
        config_write32(ide, 0x20, ports[i] | 1);
        config_write32(ide, 0x20, port);
        CHECK_EQ(config_read32(ide, 0x20), port);
    }
    pass("hostile places");
}

void test(void)
{
    nic = find_id(E1000_ID);
    CHECK(nic != 0xffff);
    sizing();
    decode();
    moves();
    port_moves();
    hostile_places();
}
