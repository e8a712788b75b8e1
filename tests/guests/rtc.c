/* The CMOS clock: time that the host also has, and the periodic interrupt, IRQ 8. */
#include "lib/guest.h"

#define VECTOR 0x58

static u8 cmos(u8 index)
{
    out8(0x70, index);
    return in8(0x71);
}

static void cmos_write(u8 index, u8 value)
{
    out8(0x70, index);
    out8(0x71, value);
}

static u32 decimal(u8 bcd, bool binary)
{
    return binary ? bcd : (u32)(bcd >> 4) * 10 + (bcd & 15);
}

static void clock(void)
{
    static const u8 indices[] = {0x32, 9, 8, 7, 4, 2, 0};
    u8 now[COUNT(indices)], again[COUNT(indices)];
    CHECK_EQ(cmos(0xd) & 0x80, 0x80);
    do {
        for (u32 i = 0; i < COUNT(indices); i++)
            now[i] = cmos(indices[i]);
        for (u32 i = 0; i < COUNT(indices); i++)
            again[i] = cmos(indices[i]);
    } while (memcmp(now, again, sizeof(now)));
    u8 b = cmos(0xb);
    CHECK_EQ(b & 2, 2); /* 24 hours */
    u32 part[COUNT(indices)];
    for (u32 i = 0; i < COUNT(indices); i++)
        part[i] = decimal(now[i], b & 4);
    print("CLOCK %02u%02u-%02u-%02u %02u:%02u:%02u\n", part[0], part[1], part[2], part[3],
          part[4], part[5], part[6]);
    /* Seconds pass, one at a time. */
    u8 second = cmos(0), next;
    u64 end = tsc() + tsc_per_ms() * 1500;
    while ((next = cmos(0)) == second)
        CHECK(tsc() < end);
    CHECK_EQ(decimal(next, b & 4), (decimal(second, b & 4) + 1) % 60);
    pass("clock");
}

static void memory(void)
{
    for (u8 index = 0x40; index < 0x48; index++)
        cmos_write(index, (u8)(index * 7));
    for (u8 index = 0x40; index < 0x48; index++)
        CHECK_EQ(cmos(index), (u8)(index * 7));
    pass("memory");
}

static u32 flags;

static void tick(struct frame *frame)
{
    (void)frame;
    flags |= cmos(0xc);
    lapic_eoi();
}

static void periodic(void)
{
    on_interrupt(VECTOR, tick);
    tsc_per_ms();
    cmos_write(0xa, 0x26 + 4); /* 32768 Hz chain, rate 10: 64 Hz */
    cmos(0xc);
    ioapic_route(8, VECTOR, lapic_id());
    cmos_write(0xb, cmos(0xb) | 0x40);
    u64 start = tsc();
    CHECK(wait_for(&interrupt_count[VECTOR], 33, 3000));
    u64 ms = (tsc() - start) / tsc_per_ms();
    cmos_write(0xb, cmos(0xb) & (u8)~0x40);
    cmos(0xc);
    print("33 ticks of 64 Hz in %lu ms\n", ms);
    CHECK(ms >= 440 && ms <= 2000);
    CHECK_EQ(flags & 0xc0, 0xc0);
    u32 after = interrupt_count[VECTOR];
    wait_ms(50);
    take_interrupts();
    CHECK(interrupt_count[VECTOR] <= after + 1);
    pass("periodic interrupt");
}

static void alarm_and_update(void)
{
    /* The update-ended interrupt comes once a second. */
    cmos(0xc);
    flags = 0;
    u32 before = interrupt_count[VECTOR];
    cmos_write(0xb, cmos(0xb) | 0x10);
    CHECK(wait_for(&interrupt_count[VECTOR], before + 1, 1500));
    CHECK_EQ(flags & 0x90, 0x90);
    cmos_write(0xb, cmos(0xb) & (u8)~0x10);
    pass("update-ended interrupt");
}

void test(void)
{
    clock();
    memory();
    periodic();
    alarm_and_update();
}
