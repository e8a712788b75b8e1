/*
 * `cpus=` processors: each is started by INIT and SIPI, has its own LAPIC id, counts, and
 * takes an interrupt sent by the first; then all of them at once, through one I/O APIC. With
 * `x2apic=1` LAPICs have 32-bit ids, which the I/O APIC's messages reach through a VT-d.
 */
#include "lib/vtd.h"

#define IPI 0x70
#define COM1_PIN 4
#define IOAPIC_SOURCE 0xff00

static volatile u32 ready, counter, taken, last, ids[MAX_PROCESSORS];
static bool x2apic;

static void count_ipi(struct frame *frame)
{
    (void)frame;
    last = lapic_id();
    lapic_eoi();
    atomic_add(&taken, 1);
}

void processor_main(u32 arrival)
{
    idt_load();
    lapic_enable();
    u32 id = lapic_id();
    u32 leaf = x2apic ? 0xb : 1, ebx, ecx = 0, edx;
    __asm__ volatile("cpuid" : "+a"(leaf), "=b"(ebx), "+c"(ecx), "=d"(edx));
    u32 told = x2apic ? edx : ebx >> 24;
    if (told != id)
        fail(__FILE__, __LINE__, "CPUID tells the LAPIC id", told, id);
    atomic_add(&ids[id], 1);
    for (u32 i = 0; i < 100; i++)
        atomic_add(&counter, 1);
    (void)arrival;
    atomic_add(&ready, 1);
    for (;;)
        sleep_for_interrupt();
}

static void wait(volatile u32 *what, u32 wanted, const char *name)
{
    u64 end = tsc() + tsc_per_ms() * 20000;
    while (*what < wanted) {
        if (tsc() > end)
            fail(__FILE__, __LINE__, name, *what, wanted);
        take_interrupts();
        pause();
    }
    CHECK_EQ(*what, wanted);
}

/* The transmitter is empty: an edge when its interrupt is enabled. */
static void provoke(void)
{
    out8(0x3f9, 0);
    out8(0x3f9, 2);
}

/* COM1 interrupts each of them once. */
static void device_to_each(u32 others)
{
    u32 before = taken;
    if (x2apic) {
        vtd_start();
        vtd_command(GCMD_TE, false);
        vtd_interrupt_table(true);
        vtd_command(GCMD_IRE, true);
    }
    for (u32 id = 1; id <= others; id++) {
        out8(0x3f9, 0);
        if (x2apic) {
            vtd_interrupt(id, IPI, id, IOAPIC_SOURCE);
            ioapic_route_remapped(COM1_PIN, id);
        } else {
            ioapic_route(COM1_PIN, IPI, id);
        }
        provoke();
        wait(&taken, before + id, "an interrupt of a device");
        CHECK_EQ(last, id);
    }
    pass("device interrupts to each");
    if (!x2apic)
        return;

    /* The same entry, changed, and the unit's own message. */
    vtd_interrupt(others, IPI, 1, IOAPIC_SOURCE);
    vtd_forget_interrupts();
    provoke();
    wait(&taken, before + others + 1, "an interrupt that moved");
    CHECK_EQ(last, 1);
    write32(VTD + VTD_FEDATA, IPI);
    write32(VTD + VTD_FEADDR, 0xfee00000 | (others & 0xff) << 12);
    write32(VTD + VTD_FEUADDR, others & ~0xffu);
    write32(VTD + VTD_FECTL, 0);
    ioapic_route(COM1_PIN, IPI, 2);
    provoke();
    wait(&taken, before + others + 2, "a fault event");
    CHECK_EQ(last, others);
    vtd_expect(FAULT_COMPATIBILITY, IOAPIC_SOURCE, 0, false);
    pass("a fault event to the last");
}

void test(void)
{
    u32 others = (u32)argument("cpus", 1) - 1;
    CHECK(others < MAX_PROCESSORS);
    x2apic = argument("x2apic", 0);
    if (x2apic)
        lapic_use_x2apic();
    tsc_per_ms();
    on_interrupt(IPI, count_ipi);
    start_processors(others);
    wait(&ready, others, "all processors arrive");
    CHECK_EQ(counter, 100 * others);
    CHECK_EQ(processors_arrived, others);
    for (u32 id = 1; id <= others; id++)
        CHECK_EQ(ids[id], 1);
    pass("started");

    for (u32 id = 1; id <= others; id++) {
        lapic_send(id, IPI);
        wait(&taken, id, "an interrupt sent to one");
        CHECK_EQ(last, id);
    }
    lapic_send(0, IPI | 0x4000 | 3 << 18); /* all but self */
    wait(&taken, 2 * others, "an interrupt sent to all");
    pass("interprocessor interrupts");

    device_to_each(others);
    out8(0x3f9, 0);
}
