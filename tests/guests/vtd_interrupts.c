/*
 * Interrupts through the VT-d: the I/O APIC's, a root port's MSI, and the unit's own. What an
 * entry does not allow is blocked and recorded. The machine has a root port with an empty slot
 * (--control), whose events interrupt.
 */
#include "lib/vtd.h"

#define ROOT_PORT 0x80 /* 00:10.0 */
#define IOAPIC_SOURCE 0xff00
#define PIN_VECTOR 0x51
#define PORT_VECTOR 0x52
#define OTHER_VECTOR 0x53
#define FAULT_VECTOR 0x54
#define FORGED_VECTOR 0x55
enum { SLOT_CONTROL = 0x18, SLOT_STATUS = 0x1a };
enum { COMMAND_COMPLETED_ENABLE = 1 << 4, HOT_PLUG_ENABLE = 1 << 5, COMMAND_COMPLETED = 1 << 4 };

static u8 express, msi;

static u8 capability(u8 id)
{
    u8 at = config_read8(ROOT_PORT, 0x34);
    while (at && config_read8(ROOT_PORT, at) != id)
        at = config_read8(ROOT_PORT, at + 1);
    CHECK(at);
    return at;
}

/* What the port is to send, for better or worse. */
static void message(u32 address, u16 value)
{
    config_write16(ROOT_PORT, msi + 2, 0);
    config_write32(ROOT_PORT, msi + 4, address);
    u16 control = config_read16(ROOT_PORT, msi + 2);
    if (control & 0x80)
        config_write32(ROOT_PORT, msi + 8, 0);
    config_write16(ROOT_PORT, msi + (control & 0x80 ? 12 : 8), value);
    config_write16(ROOT_PORT, msi + 2, 1);
}

/* Has the port send it: a command to the slot is completed at once. */
static void provoke(void)
{
    config_write16(ROOT_PORT, express + SLOT_STATUS, COMMAND_COMPLETED);
    u16 control = config_read16(ROOT_PORT, express + SLOT_CONTROL);
    config_write16(ROOT_PORT, express + SLOT_CONTROL,
                   control | COMMAND_COMPLETED_ENABLE | HOT_PLUG_ENABLE);
    take_interrupts();
}

static void arrives(u8 vector)
{
    static u32 seen[256];
    CHECK(wait_for(&interrupt_count[vector], seen[vector] + 1, 1000));
    wait_ms(5);
    take_interrupts();
    CHECK_EQ(interrupt_count[vector], seen[vector] + 1);
    seen[vector]++;
}

static void nothing_arrives(u8 vector)
{
    u32 before = interrupt_count[vector];
    wait_ms(10);
    take_interrupts();
    CHECK_EQ(interrupt_count[vector], before);
}

static void port_msi(void)
{
    config_command(ROOT_PORT, COMMAND_MASTER, 0);
    message(0xfee00000 | lapic_id() << 12, PORT_VECTOR);
    provoke();
    arrives(PORT_VECTOR);

    vtd_interrupt_table(false);
    vtd_interrupt(9, PORT_VECTOR, lapic_id(), ROOT_PORT);
    vtd_command(GCMD_IRE, true);
    message(vtd_remappable(9), 0);
    provoke();
    arrives(PORT_VECTOR);
    vtd_expect_none();
    pass("a message through an entry");

    vtd_interrupt(9, OTHER_VECTOR, lapic_id(), ROOT_PORT);
    vtd_forget_interrupts();
    provoke();
    arrives(OTHER_VECTOR);
    nothing_arrives(PORT_VECTOR);
    pass("an entry that changed");
}

static void forged(void)
{
    message(0xfee00000 | lapic_id() << 12, FORGED_VECTOR);
    provoke();
    nothing_arrives(FORGED_VECTOR);
    vtd_expect(FAULT_COMPATIBILITY, ROOT_PORT, 0, false);
    pass("a message that names a vector itself");

    /* The I/O APIC's entry. */
    vtd_interrupt(10, FORGED_VECTOR, lapic_id(), IOAPIC_SOURCE);
    vtd_forget_interrupts();
    message(vtd_remappable(10), 0);
    provoke();
    nothing_arrives(FORGED_VECTOR);
    vtd_expect(FAULT_SOURCE, ROOT_PORT, 10ul << 48, false);
    pass("a message that names somebody else's entry");

    message(vtd_remappable(11), 0);
    provoke();
    nothing_arrives(FORGED_VECTOR);
    vtd_expect(FAULT_ENTRY_ABSENT, ROOT_PORT, 11ul << 48, false);
    vtd_expect_none();
    pass("a message that names no entry");
}

/* The timer's pin, through entry 12. */
static void io_apic(void)
{
    vtd_interrupt(12, PIN_VECTOR, lapic_id(), IOAPIC_SOURCE);
    vtd_forget_interrupts();
    u8 pin = 2;
    u64 entry = 12ul << 49 | 1ul << 48 | pin;
    ioapic_write(0x11 + 2 * pin, (u32)(entry >> 32));
    ioapic_write(0x10 + 2 * pin, (u32)entry);
    /* One shot of the timer, mode 0. */
    out8(0x43, 0x30);
    out8(0x40, 0x10);
    out8(0x40, 0);
    arrives(PIN_VECTOR);
    vtd_interrupt(12, OTHER_VECTOR, lapic_id(), IOAPIC_SOURCE);
    vtd_forget_interrupts();
    out8(0x43, 0x30);
    out8(0x40, 0x10);
    out8(0x40, 0);
    arrives(OTHER_VECTOR);
    vtd_expect_none();
    pass("the I/O APIC through an entry");

    /* It is not exempt. */
    ioapic_route(pin, FORGED_VECTOR, lapic_id());
    out8(0x43, 0x30);
    out8(0x40, 0x10);
    out8(0x40, 0);
    nothing_arrives(FORGED_VECTOR);
    vtd_expect(FAULT_COMPATIBILITY, IOAPIC_SOURCE, 0, false);
    pass("the I/O APIC in the compatibility format");
}

/* The unit's own message is not remapped. */
static void own(void)
{
    write32(VTD + VTD_FEDATA, FAULT_VECTOR);
    write32(VTD + VTD_FEADDR, 0xfee00000 | lapic_id() << 12);
    write32(VTD + VTD_FECTL, 0);
    message(vtd_remappable(11), 0);
    provoke();
    arrives(FAULT_VECTOR);
    vtd_expect(FAULT_ENTRY_ABSENT, ROOT_PORT, 11ul << 48, false);
    pass("the fault event");
}

void test(void)
{
    tsc_per_ms();
    for (u32 vector = PIN_VECTOR; vector <= FORGED_VECTOR; vector++)
        on_interrupt((u8)vector, end_at_lapic);
    express = capability(0x10);
    msi = capability(0x05);
    vtd_start();
    vtd_command(GCMD_TE, false);
    port_msi();
    forged();
    io_apic();
    own();
    vtd_command(GCMD_IRE, false);
    message(0xfee00000 | lapic_id() << 12, PORT_VECTOR);
    provoke();
    arrives(PORT_VECTOR);
    pass("off again");
}
