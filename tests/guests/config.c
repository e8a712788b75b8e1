/* The two config mechanisms: they show the same space, at every width; what is absent reads
 * as ones; ECAM moves where PCIEXBAR says. */
#include "lib/guest.h"

#define MCH 0
#define PCIEXBAR 0x60

/* Every function there is, by mechanism 1. */
static u16 found[64];
static u32 functions;

static void find_functions(void)
{
    for (u16 bdf = 0; bdf < 0x100; bdf++) {
        if (bdf & 7 && !(config_read8(bdf & ~7, 0xe) & 0x80))
            continue;
        if (config_read16(bdf, 0) != 0xffff && functions < COUNT(found)) {
            print("function %02x.%u %04x:%04x\n", bdf >> 3, bdf & 7, config_read16(bdf, 0),
                  config_read16(bdf, 2));
            found[functions++] = bdf;
        }
    }
    CHECK(functions >= 2);
    CHECK_EQ(found[0], MCH);
    CHECK_EQ(config_read32(MCH, 0), 0x29c08086);
    CHECK_EQ(config_read32(0xf8, 0), 0x29188086);
    pass("functions");
}

static void agreement(void)
{
    for (u32 i = 0; i < functions; i++)
        for (u16 offset = 0; offset < 0x100; offset += 4) {
            u16 bdf = found[i];
            u32 dword = config_read32(bdf, offset);
            CHECK_EQ(read32(ecam_address(bdf, offset)), dword);
            for (u16 word = 0; word < 4; word += 2) {
                CHECK_EQ(config_read16(bdf, offset + word), (u16)(dword >> 8 * word));
                CHECK_EQ(read16(ecam_address(bdf, offset + word)), (u16)(dword >> 8 * word));
            }
            for (u16 byte = 0; byte < 4; byte++) {
                CHECK_EQ(config_read8(bdf, offset + byte), (u8)(dword >> 8 * byte));
                CHECK_EQ(read8(ecam_address(bdf, offset + byte)), (u8)(dword >> 8 * byte));
            }
        }
    pass("agreement");
}

/* The PIRQ routing registers of the LPC bridge: eight bytes, each written alone. */
static void narrow_writes(void)
{
    const u16 lpc = 0xf8, routes = 0x60;
    u32 before = config_read32(lpc, routes);
    config_write32(lpc, routes, 0x80808080);
    config_write8(lpc, routes + 1, 0x0b);
    CHECK_EQ(read32(ecam_address(lpc, routes)), 0x80800b80);
    write8(ecam_address(lpc, routes + 3), 0x05);
    CHECK_EQ(config_read32(lpc, routes), 0x05800b80);
    config_write16(lpc, routes + 2, 0x0a80);
    CHECK_EQ(config_read32(lpc, routes), 0x0a800b80);
    write16(ecam_address(lpc, routes), 0x8005);
    CHECK_EQ(config_read32(lpc, routes), 0x0a808005);
    write32(ecam_address(lpc, routes), before);
    CHECK_EQ(config_read32(lpc, routes), before);
    pass("narrow writes");
}

static void absent(void)
{
    /* A device, a function and a bus that are not there. */
    static const u16 nobody[] = {0x0f << 3, 0x00 << 3 | 3, 0x7f00, 0xfff8};
    for (u32 i = 0; i < COUNT(nobody); i++) {
        u16 bdf = nobody[i];
        CHECK_EQ(config_read32(bdf, 0), 0xffffffff);
        CHECK_EQ(config_read8(bdf, 1), 0xff);
        CHECK_EQ(read32(ecam_address(bdf, 0)), 0xffffffff);
        CHECK_EQ(read8(ecam_address(bdf, 0xfff)), 0xff);
        config_write32(bdf, 4, 0xffffffff);
        write32(ecam_address(bdf, 4), 0xffffffff);
        CHECK_EQ(config_read32(bdf, 4), 0xffffffff);
    }
    pass("absent functions");
}

/* CF8h is a register of 32 bits; anything narrower is another device's or nobody's. */
static void address_port(void)
{
    out32(0xcf8, 0x80001234);
    CHECK_EQ(in32(0xcf8), 0x80001234);
    out8(0xcf8, 0xff);
    out16(0xcfa, 0xffff);
    CHECK_EQ(in32(0xcf8), 0x80001234);
    /* Without the enable bit CFCh is no window. */
    out32(0xcf8, 0);
    CHECK_EQ(in32(0xcfc), 0xffffffff);
    out32(0xcfc, 0);
    pass("address port");
}

static void relocation(void)
{
    u32 low = config_read32(MCH, PCIEXBAR), high = config_read32(MCH, PCIEXBAR + 4);
    CHECK_EQ(low & 1, 1);
    CHECK_EQ((u64)high << 32 | (low & 0xf0000000), ECAM_RESET);
    u32 id = config_read32(0xf8, 0);

    /* Off: nothing answers. */
    config_write32(MCH, PCIEXBAR, low & ~1u);
    CHECK_EQ(read32(ecam_address(0xf8, 0)), 0xffffffff);
    /* Elsewhere. */
    ecam = 0xe0000000;
    config_write32(MCH, PCIEXBAR, (u32)ecam | 1);
    CHECK_EQ(read32(ecam_address(0xf8, 0)), id);
    CHECK_EQ(read32(ECAM_RESET + (0xf8 << 12)), 0xffffffff);
    /* 64 MiB: 64 buses, and the next is outside. */
    ecam = 0xec000000;
    config_write32(MCH, PCIEXBAR, (u32)ecam | 2 << 1 | 1);
    CHECK_EQ(read32(ecam_address(0xf8, 0)), id);
    CHECK_EQ(read32(0xe0000000 + (0xf8 << 12)), 0xffffffff);
    /* Back, through ECAM itself. */
    write32(ecam_address(MCH, PCIEXBAR), low);
    ecam = ECAM_RESET;
    CHECK_EQ(read32(ecam_address(0xf8, 0)), id);
    CHECK_EQ(read32(0xec000000 + (0xf8 << 12)), 0xffffffff);
    pass("relocation");
}

void test(void)
{
    find_functions();
    agreement();
    narrow_writes();
    absent();
    address_port();
    relocation();
}
