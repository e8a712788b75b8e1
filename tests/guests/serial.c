/* COM1 as a terminal line: what the host sends comes back, by interrupt (IRQ 4), through
 * the FIFOs; the host looks at every byte. `bytes=N` of them. */
#include "lib/guest.h"

#define COM1 0x3f8
#define VECTOR 0x50

static u8 ring[4096];
static volatile u32 received, timeouts, levels;

static void receive(struct frame *frame)
{
    (void)frame;
    u8 cause;
    while (!((cause = in8(COM1 + 2)) & 1)) {
        if ((cause & 0xf) == 0xc)
            timeouts++;
        else if ((cause & 0xf) == 4)
            levels++;
        while (in8(COM1 + 5) & 1)
            ring[received++ % sizeof(ring)] = in8(COM1);
    }
    lapic_eoi();
}

static void loopback(void)
{
    out8(COM1 + 4, 0x10);
    for (u32 i = 0; i < 16; i++)
        out8(COM1, (u8)(0x40 + i));
    for (u32 i = 0; i < 16; i++) {
        CHECK_EQ(in8(COM1 + 5) & 1, 1);
        CHECK_EQ(in8(COM1), 0x40 + i);
    }
    CHECK_EQ(in8(COM1 + 5) & 1, 0);
    /* One more than fits: overrun, told once. */
    for (u32 i = 0; i < 17; i++)
        out8(COM1, (u8)i);
    CHECK_EQ(in8(COM1 + 5) & 2, 2);
    CHECK_EQ(in8(COM1 + 5) & 2, 0);
    out8(COM1 + 2, 0xc7);
    CHECK_EQ(in8(COM1 + 5) & 1, 0);
    /* DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD. */
    out8(COM1 + 4, 0x1f);
    CHECK_EQ(in8(COM1 + 6) & 0xf0, 0xf0);
    out8(COM1 + 4, 0x10);
    CHECK_EQ(in8(COM1 + 6) & 0xf0, 0);
    out8(COM1 + 4, 0xb);
}

static void registers(void)
{
    out8(COM1 + 3, 0x83);
    out8(COM1, 1);
    out8(COM1 + 1, 0);
    CHECK_EQ(in8(COM1), 1);
    out8(COM1 + 3, 0x03);
    out8(COM1 + 7, 0x5a);
    CHECK_EQ(in8(COM1 + 7), 0x5a);
    out8(COM1 + 2, 0xc7);
    CHECK_EQ(in8(COM1 + 2) & 0xc0, 0xc0); /* FIFOs on: a 16550A */
}

void test(void)
{
    registers();
    loopback();
    pass("registers and loopback");

    u32 wanted = (u32)argument("bytes", 0);
    on_interrupt(VECTOR, receive);
    ioapic_route(4, VECTOR | IOAPIC_LEVEL, lapic_id());
    out8(COM1 + 1, 1);
    print("READY\n");
    u32 sent = 0;
    u64 end = tsc() + tsc_per_ms() * 10000;
    while (sent < wanted) {
        while (sent == received) {
            if (tsc() > end)
                fail(__FILE__, __LINE__, "all input arrives", received, wanted);
            take_interrupts();
        }
        print("%c", ring[sent++ % sizeof(ring)]);
    }
    out8(COM1 + 1, 0);
    print("\nlevels %u, timeouts %u\n", levels, timeouts);
    for (u32 i = 0; i < 10; i++)
        take_interrupts();
    CHECK_EQ(ioapic_entry(4) & IOAPIC_REMOTE_IRR, 0);
    pass("echo");
}
