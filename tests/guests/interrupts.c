/*
 * The I/O APIC and the 8259 pair. The source is COM1's transmitter: IRQ 4 is up while the
 * holding register is empty and its interrupt is enabled, so a line can be held up and let
 * go at will (reading IIR lets it go; writing IER again raises it).
 */
#include "lib/guest.h"

#define COM1 0x3f8
#define IRQ 4
#define VECTOR 0x50

static void line_up(void)
{
    out8(COM1 + 1, 0);
    out8(COM1 + 1, 2);
}

static void line_down(void)
{
    out8(COM1 + 1, 0);
}

static u32 taken(void)
{
    for (u32 i = 0; i < 20; i++)
        take_interrupts();
    return interrupt_count[VECTOR];
}

static void registers(void)
{
    u32 version = ioapic_read(1);
    CHECK_EQ(version >> 16 & 0xff, 23);
    CHECK((version & 0xff) >= 0x11);
    ioapic_write(0, 0x05000000);
    CHECK_EQ(ioapic_read(0), 0x05000000);
    ioapic_write(0, 0);
    for (u8 pin = 0; pin < 24; pin++) {
        /* Masked after reset, all else kept but for the read-only bits. */
        CHECK_EQ(ioapic_entry(pin) & IOAPIC_MASKED, IOAPIC_MASKED);
        ioapic_write(0x10 + 2 * pin, 0xffffffff & ~0x700u);
        CHECK_EQ(ioapic_entry(pin) & ~0x700u, 0x1a8ffu);
        ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
    }
    /* There is no pin 24, nor one after it. */
    for (u32 index = 0x10 + 2 * 24; index < 0x100; index++) {
        ioapic_write((u8)index, 0xffffffff);
        CHECK_EQ(ioapic_read((u8)index), 0);
    }
    CHECK_EQ(ioapic_entry(23), IOAPIC_MASKED);
    pass("registers");
}

static void edge(void)
{
    line_down();
    ioapic_route(IRQ, VECTOR, lapic_id());
    u32 before = taken();
    line_up();
    CHECK_EQ(taken(), before + 1);
    CHECK_EQ(taken(), before + 1);
    line_down();
    line_up();
    CHECK_EQ(taken(), before + 2);
    /* An edge on a masked pin is lost. */
    line_down();
    ioapic_write(0x10 + 2 * IRQ, VECTOR | IOAPIC_MASKED);
    line_up();
    ioapic_write(0x10 + 2 * IRQ, VECTOR);
    CHECK_EQ(taken(), before + 2);
    line_down();
    line_up();
    CHECK_EQ(taken(), before + 3);
    line_down();
    pass("edge");
}

static u32 level_calls;
static bool early;

/* The third time the device is served. */
static void end_and_let_go(struct frame *frame)
{
    (void)frame;
    if (!early) {
        CHECK_EQ(ioapic_entry(IRQ) & IOAPIC_REMOTE_IRR, IOAPIC_REMOTE_IRR);
        CHECK(lapic_in_service(VECTOR));
    }
    if (++level_calls == 3)
        line_down();
    lapic_eoi();
}

/* One more comes where interrupts end before their handler begins. */
#define CHECK_TAKEN(wanted)                                                                   \
    do {                                                                                      \
        u32 taken_ = taken();                                                                 \
        if (!early || taken_ != (wanted) + 1)                                                 \
            CHECK_EQ(taken_, wanted);                                                         \
    } while (0)

static void level(void)
{
    line_down();
    on_interrupt(VECTOR, end_and_let_go);
    ioapic_route(IRQ, VECTOR | IOAPIC_LEVEL, lapic_id());
    u32 before = taken();
    line_up();
    CHECK_TAKEN(before + 3);
    CHECK_EQ(ioapic_entry(IRQ) & IOAPIC_REMOTE_IRR, 0);
    /* A level is not lost while masked. */
    before = taken();
    ioapic_write(0x10 + 2 * IRQ, VECTOR | IOAPIC_LEVEL | IOAPIC_MASKED);
    line_up();
    CHECK_EQ(taken(), before);
    level_calls = 2;
    ioapic_write(0x10 + 2 * IRQ, VECTOR | IOAPIC_LEVEL);
    CHECK_TAKEN(before + 1);
    line_down();
    /* Nor delivered when it is gone by then. */
    before = taken();
    ioapic_write(0x10 + 2 * IRQ, VECTOR | IOAPIC_LEVEL | IOAPIC_MASKED);
    line_up();
    line_down();
    ioapic_write(0x10 + 2 * IRQ, VECTOR | IOAPIC_LEVEL);
    CHECK_EQ(taken(), before);
    pass("level");
}

static void no_end(struct frame *frame)
{
    (void)frame;
}

/* Until the EOI the line is held back (remote IRR), and there is one EOI for one interrupt. */
static void remote_irr(void)
{
    line_down();
    on_interrupt(VECTOR, no_end);
    ioapic_route(IRQ, VECTOR | IOAPIC_LEVEL, lapic_id());
    u32 before = taken();
    line_up();
    CHECK_EQ(taken(), before + 1);
    line_down();
    line_up();
    CHECK_EQ(taken(), before + 1);
    CHECK_EQ(ioapic_entry(IRQ) & IOAPIC_REMOTE_IRR, IOAPIC_REMOTE_IRR);
    line_down();
    lapic_eoi();
    CHECK_EQ(taken(), before + 1);
    CHECK_EQ(ioapic_entry(IRQ) & IOAPIC_REMOTE_IRR, 0);
    pass("remote irr");
}

static u8 in_service(u16 port)
{
    out8(port, 0x0b);
    return in8(port);
}

static u8 requested(u16 port)
{
    out8(port, 0x0a);
    return in8(port);
}

static u32 pic_taken(u8 irq)
{
    for (u32 i = 0; i < 20; i++)
        take_interrupts();
    return interrupt_count[0x20 + irq];
}

static void end_at_pic(struct frame *frame)
{
    CHECK_EQ(in_service(0x20), 1 << IRQ);
    line_down();
    pic_eoi((u8)(frame->vector - 0x20));
}

static void pic(void)
{
    /* INTR comes in at LINT0, as ExtINT. */
    write32(LAPIC + LAPIC_LINT0, 0x700);
    pic_init(0x20);
    on_interrupt(0x20 + IRQ, end_at_pic);
    CHECK_EQ(in8(0x21), 0xff);
    line_up();
    CHECK_EQ(requested(0x20) & 1 << IRQ, 1 << IRQ);
    CHECK_EQ(pic_taken(IRQ), 0);
    pic_mask(0xffff & ~(1 << IRQ));
    CHECK_EQ(pic_taken(IRQ), 1);
    CHECK_EQ(in_service(0x20), 0);
    for (u32 i = 2; i < 12; i++) {
        line_up();
        CHECK_EQ(pic_taken(IRQ), i);
    }
    pass("8259");
}

/* The line goes away between INTR and its acknowledgement: IRQ 7, nothing in service. */
static void spurious(struct frame *frame)
{
    (void)frame;
    CHECK_EQ(in_service(0x20), 0);
}

static void pic_spurious(void)
{
    on_interrupt(0x27, spurious);
    out8(0x4d0, 1 << IRQ); /* by level */
    CHECK_EQ(in8(0x4d0), 1 << IRQ);
    u32 before = pic_taken(IRQ), spurious_before = interrupt_count[0x27];
    line_up();
    line_down();
    /* INTR may or may not have gone in time; nothing real is left either way. */
    CHECK_EQ(pic_taken(IRQ), before);
    CHECK(interrupt_count[0x27] - spurious_before <= 1);
    CHECK_EQ(requested(0x20), 0);
    line_up();
    CHECK_EQ(pic_taken(IRQ), before + 1);
    out8(0x4d0, 0);
    pass("8259 level and spurious");
}

/* The poll command answers for the acknowledgement. */
static void pic_poll(void)
{
    pic_mask(0xffff & ~(1 << IRQ));
    line_up();
    out8(0x20, 0x0c);
    CHECK_EQ(in8(0x20) & 0x87, 0x80 | IRQ);
    CHECK_EQ(in_service(0x20), 1 << IRQ);
    line_down();
    out8(0x20, 0x60 | IRQ); /* specific EOI */
    CHECK_EQ(in_service(0x20), 0);
    pic_mask(0xffff);
    pass("8259 poll");
}

void test(void)
{
    on_interrupt(VECTOR, end_at_lapic);
    registers();
    edge();
    early = lapic_ends_early();
    level();
    if (!early)
        remote_irr();
    on_interrupt(VECTOR, end_at_lapic);
    ioapic_route(IRQ, IOAPIC_MASKED, 0);
    pic();
    pic_spurious();
    pic_poll();
    write32(LAPIC + LAPIC_LINT0, 0x10000);
}
