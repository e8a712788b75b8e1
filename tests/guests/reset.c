/*
 * Ends of a run. `by=`cf9, i8042, triple or off. CMOS survives a reset (it has a battery)
 * and counts boots in a cell; devices do not remember. Ends by power-off at boot number
 * `boots=`.
 */
#include "lib/guest.h"

#define CELL 0x52

static u8 cmos(u8 index)
{
    out8(0x70, index);
    return in8(0x71);
}

static u32 in_data = 0x600d;
static u32 in_bss;

static void is_fresh(void)
{
    /* The image is loaded again. */
    CHECK_EQ(in_data, 0x600d);
    CHECK_EQ(in_bss, 0);
    in_data = in_bss = 0xbad;
    /* Chipset: entries masked, config space at reset values. */
    for (u8 pin = 0; pin < 24; pin++)
        CHECK_EQ(ioapic_entry(pin), IOAPIC_MASKED);
    ioapic_route(4, 0x50 | IOAPIC_LEVEL, lapic_id());
    CHECK_EQ(config_read32(0, 0x60), ECAM_RESET | 1);
    config_write32(0, 0x60, 0xe0000001);
    CHECK_EQ(in8(0x3f8 + 1), 0);
    out8(0x3f8 + 1, 1);
    CHECK_EQ(lapic_id(), 0);
}

void test(void)
{
    u8 boot = cmos(CELL) + 1;
    out8(0x70, CELL);
    out8(0x71, boot);
    print("BOOT %u\n", boot);
    is_fresh();
    if (boot >= argument("boots", 1))
        return;
    print("RESET\n");
    if (argument_is("by", "cf9")) {
        out8(0xcf9, 0x02);
        out8(0xcf9, 0x06);
    } else if (argument_is("by", "i8042")) {
        out8(0x64, 0xfe);
    } else if (argument_is("by", "triple")) {
        struct PACKED {
            u16 limit;
            u64 base;
        } none = {0, 0};
        __asm__ volatile("lidt %0; ud2" : : "m"(none));
    }
    /* It is not immediate on a chip either. */
    u64 end = tsc() + tsc_per_ms() * 2000;
    while (tsc() < end)
        pause();
    CHECK(!"the machine was reset");
}
