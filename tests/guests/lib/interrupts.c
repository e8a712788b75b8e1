/* IDT, local APIC (Intel SDM vol. 3A ch. 11), I/O APIC (82093AA), 8259A pair. */
#include "guest.h"

struct gate {
    u16 low, selector;
    u8 stack, type;
    u16 middle;
    u32 high, reserved;
};

static struct gate idt[256] ALIGNED(16);
static handler handlers[256];
volatile u32 interrupt_count[256];
extern u8 trap_stubs[];
void trap(struct frame *frame);

void trap(struct frame *frame)
{
    u8 vector = (u8)frame->vector;
    atomic_add(&interrupt_count[vector], 1);
    if (handlers[vector]) {
        handlers[vector](frame);
        return;
    }
    u64 cr2;
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    print("FAIL unexpected interrupt %u, error 0x%lx, at 0x%lx, cr2 0x%lx\n", vector,
          frame->error, frame->rip, cr2);
    power_off();
}

void on_interrupt(u8 vector, handler handler)
{
    handlers[vector] = handler;
}

void idt_load(void)
{
    struct PACKED {
        u16 limit;
        u64 base;
    } pointer = {sizeof(idt) - 1, (u64)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

void interrupts_init(void)
{
    for (u32 i = 0; i < 256; i++) {
        u64 stub = (u64)trap_stubs + 16 * i;
        idt[i] = (struct gate){(u16)stub, 8, 0, 0x8e, (u16)(stub >> 16), (u32)(stub >> 32), 0};
    }
    idt_load();
    lapic_enable();
    pic_init(0x20);
}

/* Local APIC, in memory or, as an x2APIC (ch. 11.12), in MSRs. */

#define APIC_BASE 0x1b
#define APIC_BASE_X2APIC (1 << 10)
#define X2APIC 0x800

static bool x2apic;

static u32 lapic_read(u32 at)
{
    return x2apic ? (u32)read_msr(X2APIC + at / 16) : read32(LAPIC + at);
}

static void lapic_write(u32 at, u32 value)
{
    if (x2apic)
        write_msr(X2APIC + at / 16, value);
    else
        write32(LAPIC + at, value);
}

void lapic_use_x2apic(void)
{
    x2apic = true;
    lapic_enable();
}

void lapic_enable(void)
{
    if (x2apic)
        write_msr(APIC_BASE, read_msr(APIC_BASE) | APIC_BASE_X2APIC);
    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_SPURIOUS, 0x1ff);
}

/*
 * A KVM that interprets kernel code may overlook what became pending while interrupts were
 * off. It looks again when the task priority falls, and enters the guest anew after an exit.
 * The no-operation keeps the exit out of the shadow of STI, where none could be taken.
 */
void take_interrupts(void)
{
    interrupts_on();
    __asm__ volatile("nop");
    lapic_write(LAPIC_TPR, 0xf0);
    lapic_write(LAPIC_TPR, 0);
    in8(0x80);
    for (u32 i = 0; i < 20; i++)
        pause();
    in8(0x80);
    interrupts_off();
}

u32 lapic_id(void)
{
    return lapic_read(LAPIC_ID) >> (x2apic ? 0 : 24);
}

void lapic_eoi(void)
{
    lapic_write(LAPIC_EOI, 0);
}

void end_at_lapic(struct frame *frame)
{
    (void)frame;
    lapic_eoi();
}

void lapic_send(u32 to, u32 command)
{
    if (x2apic) {
        barrier();
        write_msr(X2APIC + LAPIC_ICR / 16, (u64)to << 32 | command);
        return;
    }
    write32(LAPIC + LAPIC_ICR_HIGH, to << 24);
    write32(LAPIC + LAPIC_ICR, command);
    while (read32(LAPIC + LAPIC_ICR) & 1 << 12)
        pause();
}

static bool lapic_bit(u32 registers, u8 vector)
{
    return lapic_read(registers + 0x10 * (vector / 32)) >> vector % 32 & 1;
}

bool lapic_pending(u8 vector)
{
    return lapic_bit(LAPIC_IRR, vector);
}

bool lapic_in_service(u8 vector)
{
    return lapic_bit(LAPIC_ISR, vector);
}

static bool seen_in_service;

static void look_at_service(struct frame *frame)
{
    seen_in_service = lapic_in_service((u8)frame->vector);
    lapic_eoi();
}

bool lapic_ends_early(void)
{
    const u8 vector = 0x3f;
    on_interrupt(vector, look_at_service);
    u32 before = interrupt_count[vector];
    lapic_send(lapic_id(), vector);
    while (interrupt_count[vector] == before)
        take_interrupts();
    if (!seen_in_service)
        print("NOTE this KVM ends interrupts when it delivers them\n");
    return !seen_in_service;
}

/* I/O APIC. */

u32 ioapic_read(u8 index)
{
    write32(IOAPIC, index);
    return read32(IOAPIC + 0x10);
}

void ioapic_write(u8 index, u32 value)
{
    write32(IOAPIC, index);
    write32(IOAPIC + 0x10, value);
}

void ioapic_route(u8 pin, u32 low, u32 to)
{
    ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
    ioapic_write(0x11 + 2 * pin, to << 24);
    ioapic_write(0x10 + 2 * pin, low);
}

void ioapic_route_remapped(u8 pin, u32 index)
{
    ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
    ioapic_write(0x11 + 2 * pin, (index & 0x7fff) << 17 | 1 << 16);
    ioapic_write(0x10 + 2 * pin, (index >> 15) << 11 | pin);
}

u32 ioapic_entry(u8 pin)
{
    return ioapic_read(0x10 + 2 * pin);
}

/* 8259A pair. */

void pic_init(u8 base)
{
    out8(0x20, 0x11);
    out8(0xa0, 0x11);
    out8(0x21, base);
    out8(0xa1, base + 8);
    out8(0x21, 1 << 2);
    out8(0xa1, 2);
    out8(0x21, 1);
    out8(0xa1, 1);
    pic_mask(0xffff);
}

void pic_mask(u16 mask)
{
    out8(0x21, (u8)mask);
    out8(0xa1, mask >> 8);
}

void pic_eoi(u8 irq)
{
    if (irq >= 8)
        out8(0xa0, 0x20);
    out8(0x20, 0x20);
}
