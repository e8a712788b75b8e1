/* `cpus=` processors: each is started by INIT and SIPI, has its own LAPIC id, counts, and
 * takes an interrupt sent by the first; then all of them at once, through one I/O APIC. */
#include "lib/guest.h"

#define IPI 0x70

static volatile u32 ready, counter, taken, ids[256];

static void count_ipi(struct frame *frame)
{
    (void)frame;
    lapic_eoi();
    atomic_add(&taken, 1);
}

void processor_main(u32 arrival)
{
    idt_load();
    lapic_enable();
    u32 id = lapic_id();
    u32 leaf = 1, ebx, ecx, edx;
    __asm__ volatile("cpuid" : "+a"(leaf), "=b"(ebx), "=c"(ecx), "=d"(edx));
    if (ebx >> 24 != id)
        fail(__FILE__, __LINE__, "CPUID tells the LAPIC id", ebx >> 24, id);
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

void test(void)
{
    u32 others = (u32)argument("cpus", 1) - 1;
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
    }
    lapic_send(0, IPI | 0x4000 | 3 << 18); /* all but self */
    wait(&taken, 2 * others, "an interrupt sent to all");
    pass("interprocessor interrupts");

    /* The I/O APIC reaches each of them: COM1's transmitter, an edge each. */
    for (u32 id = 1; id <= others; id++) {
        out8(0x3f9, 0);
        ioapic_route(4, IPI, id);
        out8(0x3f9, 2);
        wait(&taken, 2 * others + id, "an interrupt of a device");
    }
    out8(0x3f9, 0);
    pass("device interrupts to each");
}
