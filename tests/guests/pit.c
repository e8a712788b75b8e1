/*
 * The interval timer: channel 0's interrupts by I/O APIC pin 2 and by the 8259, counted
 * against the PM timer; channel 2's gate and output by port 0x61.
 */
#include "lib/guest.h"

#define VECTOR 0x48
#define HZ 1193182

static void program(u8 channel, u8 mode, u16 count)
{
    out8(0x43, (u8)(channel << 6 | 0x30 | mode << 1));
    out8(0x40 + channel, (u8)count);
    out8(0x40 + channel, (u8)(count >> 8));
}

static u16 latched(u8 channel)
{
    out8(0x43, (u8)(channel << 6));
    u16 low = in8(0x40 + channel);
    return low | (u16)(in8(0x40 + channel) << 8);
}

/* Interrupts of `vector` over `ms`, by the PM timer. */
static u32 count_for(u8 vector, u32 ms)
{
    u32 before = interrupt_count[vector], start = pm_ticks();
    while (((pm_ticks() - start) & 0xffffff) < PM_HZ / 1000 * ms)
        take_interrupts();
    return interrupt_count[vector] - before;
}

static void by_ioapic(void)
{
    on_interrupt(VECTOR, end_at_lapic);
    ioapic_route(2, VECTOR, lapic_id());
    static const struct { u8 mode; u32 hz; } rates[] = {{2, 100}, {3, 50}, {2, 250}};
    for (u32 i = 0; i < COUNT(rates); i++) {
        u32 hz = rates[i].hz, ms = 400;
        program(0, rates[i].mode, (u16)(HZ / hz));
        u32 got = count_for(VECTOR, ms), wanted = hz * ms / 1000;
        print("mode %u at %u Hz for %u ms: %u interrupts\n", rates[i].mode, hz, ms, got);
        CHECK(got >= wanted * 6 / 10 && got <= wanted * 11 / 10 + 2);
    }
    /* Mode 0: one interrupt, at terminal count; what the last rate left is taken before. */
    program(0, 0, 0);
    count_for(VECTOR, 10);
    program(0, 0, HZ / 100);
    u32 got = count_for(VECTOR, 100);
    CHECK_EQ(got, 1);
    got = count_for(VECTOR, 50);
    CHECK_EQ(got, 0);
    ioapic_route(2, IOAPIC_MASKED, 0);
    pass("channel 0 by I/O APIC");
}

static void end_at_pic(struct frame *frame)
{
    pic_eoi((u8)(frame->vector - 0x20));
}

static void by_pic(void)
{
    write32(LAPIC + LAPIC_LINT0, 0x700);
    on_interrupt(0x20, end_at_pic);
    on_interrupt(0x27, end_at_pic);
    pic_mask(0xfffe);
    program(0, 2, HZ / 100);
    u32 got = count_for(0x20, 400);
    print("100 Hz for 400 ms by the 8259: %u interrupts\n", got);
    CHECK(got >= 24 && got <= 46);
    pic_mask(0xffff);
    write32(LAPIC + LAPIC_LINT0, 0x10000);
    program(0, 0, 0);
    pass("channel 0 by 8259");
}

static void channel2(void)
{
    /* Gate off: the count stands. */
    out8(0x61, 0);
    program(2, 0, 0xffff);
    CHECK_EQ(in8(0x61) & 0x20, 0);
    u16 first = latched(2);
    wait_ms(2);
    CHECK_EQ(latched(2), first);
    /* Gate on: it counts, and OUT rises at zero. */
    u32 start = pm_ticks();
    out8(0x61, 1);
    CHECK_EQ(in8(0x61) & 1, 1);
    program(2, 0, HZ / 50);
    while (!(in8(0x61) & 0x20))
        CHECK(((pm_ticks() - start) & 0xffffff) < PM_HZ);
    u32 ticks = (pm_ticks() - start) & 0xffffff;
    print("20 ms by channel 2 are %u us\n", ticks * 1000 / (PM_HZ / 1000));
    CHECK(ticks >= PM_HZ / 50 && ticks < PM_HZ / 20);
    /* How Linux measures the TSC: mode 0, LSB then MSB, watch the count go down. */
    program(2, 0, 0xffff);
    u16 before = latched(2);
    wait_ms(10);
    u16 passed = before - latched(2);
    CHECK(passed >= HZ / 110 && passed < HZ / 30);
    out8(0x61, 0);
    pass("channel 2");
}

static void read_back(void)
{
    program(0, 2, 1000);
    out8(0x43, 0xc2 | 0x20); /* status of channel 0 */
    u8 status = in8(0x40);
    CHECK_EQ(status & 0x3f, 0x34);
    for (u32 i = 0; i < 100; i++) {
        u16 now = latched(0);
        CHECK(now >= 1 && now <= 1000);
    }
    program(0, 0, 0);
    pass("read back");
}

void test(void)
{
    by_ioapic();
    by_pic();
    channel2();
    read_back();
}
