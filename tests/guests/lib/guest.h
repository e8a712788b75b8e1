/*
 * The small world of the bare-metal guests: 64-bit mode, one address space that is guest
 * physical memory, serial output at COM1, and checks that end the guest when they fail.
 *
 * A guest is one C file with a `void test(void)`. It prints "PASS name" for each thing it
 * has shown, "DONE" at the end (guest_main does) and powers off.
 */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;
typedef u64 size_t;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define ALIGNED(n) __attribute__((aligned(n)))
#define PACKED __attribute__((packed))

/* What a guest defines. */
void test(void);
/* What a guest with more than one processor may define: runs on the others. */
void processor_main(u32 arrival);

/* Console (console.c). %u %d %x %lu %lx %s %c, with width and leading zero. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void pass(const char *name);
_Noreturn void fail(const char *file, int line, const char *what, u64 left, u64 right);
_Noreturn void power_off(void);
#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition))                                                                     \
            fail(__FILE__, __LINE__, #condition, 0, 0);                                       \
    } while (0)
#define CHECK_EQ(left, right)                                                                 \
    do {                                                                                      \
        u64 left_ = (u64)(left), right_ = (u64)(right);                                       \
        if (left_ != right_)                                                                  \
            fail(__FILE__, __LINE__, #left " == " #right, left_, right_);                     \
    } while (0)

/* Command line (console.c): "name=value" words; numbers in decimal. */
u64 argument(const char *name, u64 otherwise);
bool argument_is(const char *name, const char *value);

void *memset(void *to, int byte, size_t len);
void *memcpy(void *to, const void *from, size_t len);
int memcmp(const void *left, const void *right, size_t len);
size_t strlen(const char *text);

/* Ports. */
#define PORT(width, type, name)                                                               \
    static inline void out##width(u16 port, type value)                                       \
    {                                                                                         \
        __asm__ volatile("out" #name " %0, %1" : : "a"(value), "Nd"(port) : "memory");       \
    }                                                                                         \
    static inline type in##width(u16 port)                                                    \
    {                                                                                         \
        type value;                                                                           \
        __asm__ volatile("in" #name " %1, %0" : "=a"(value) : "Nd"(port) : "memory");        \
        return value;                                                                         \
    }
PORT(8, u8, b)
PORT(16, u16, w)
PORT(32, u32, l)
static inline void in16_many(u16 port, void *to, size_t words)
{
    __asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"(port) : "memory");
}
static inline void out16_many(u16 port, const void *from, size_t words)
{
    __asm__ volatile("rep outsw" : "+S"(from), "+c"(words) : "d"(port) : "memory");
}
static inline void in32_many(u16 port, void *to, size_t dwords)
{
    __asm__ volatile("rep insl" : "+D"(to), "+c"(dwords) : "d"(port) : "memory");
}

/* Memory-mapped registers: one instruction of that width each. */
#define MMIO(width, type, name)                                                               \
    static inline void write##width(u64 address, type value)                                  \
    {                                                                                         \
        __asm__ volatile("mov" #name " %0, (%1)" : : "r"(value), "r"(address) : "memory");   \
    }                                                                                         \
    static inline type read##width(u64 address)                                               \
    {                                                                                         \
        type value;                                                                           \
        __asm__ volatile("mov" #name " (%1), %0" : "=r"(value) : "r"(address) : "memory");   \
        return value;                                                                         \
    }
MMIO(8, u8, b)
MMIO(16, u16, w)
MMIO(32, u32, l)
MMIO(64, u64, q)

/* Processor. */
static inline void barrier(void) { __asm__ volatile("" : : : "memory"); }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }
static inline void interrupts_on(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void interrupts_off(void) { __asm__ volatile("cli" : : : "memory"); }
/* Interrupts on, sleep until one was taken, interrupts off. */
static inline void sleep_for_interrupt(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}
static inline u64 read_msr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (u64)high << 32 | low;
}
static inline void write_msr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u32 atomic_add(volatile u32 *to, u32 by)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(by), "+m"(*to) : : "memory");
    return by;
}

/* Time (time.c), by the ACPI PM timer and the TSC. */
#define PM_BASE 0x600
#define PM_HZ 3579545
u32 pm_ticks(void);                 /* 24 bits */
u64 tsc(void);
u64 tsc_per_ms(void);               /* measured at the first call */
void wait_ms(u32 ms);
void wait_us(u32 us);
/* Waits, interrupts on and without an exit, until a bit of `bits` is set; false after ms. */
bool wait_for_bits(volatile u8 *where, u8 bits, u32 ms);
/* Waits, interrupts on and without an exit, until *count >= wanted; false after ms. */
bool wait_for(volatile u32 *count, u32 wanted, u32 ms);

/* Interrupts (interrupts.c). */
struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};
typedef void (*handler)(struct frame *);
void interrupts_init(void);         /* IDT, LAPIC on, IOAPIC and 8259 masked */
void idt_load(void);
void on_interrupt(u8 vector, handler handler);
extern volatile u32 interrupt_count[256];
/* Handler that counts and ends the interrupt at the LAPIC; counting is done for all. */
void end_at_lapic(struct frame *frame);

#define LAPIC 0xfee00000ul
enum {
    LAPIC_ID = 0x20, LAPIC_TPR = 0x80, LAPIC_EOI = 0xb0, LAPIC_SPURIOUS = 0xf0, LAPIC_ISR = 0x100,
    LAPIC_TMR = 0x180, LAPIC_IRR = 0x200, LAPIC_ICR = 0x300, LAPIC_ICR_HIGH = 0x310,
    LAPIC_TIMER = 0x320, LAPIC_LINT0 = 0x350, LAPIC_LINT1 = 0x360, LAPIC_INITIAL = 0x380,
    LAPIC_CURRENT = 0x390, LAPIC_DIVIDE = 0x3e0,
};
/* Interrupts on for a while, so that what is pending is taken. */
void take_interrupts(void);
void lapic_enable(void);
/* From now on; other processors follow in lapic_enable(). */
void lapic_use_x2apic(void);
u32 lapic_id(void);
void lapic_eoi(void);
void lapic_send(u32 to, u32 command); /* and waits until it is sent */
bool lapic_pending(u8 vector);      /* IRR */
bool lapic_in_service(u8 vector);   /* ISR */
/*
 * Some KVMs that interpret kernel code end an interrupt when they deliver it: nothing is ever
 * in service, and a line that is still up when its handler begins fires once more. True if
 * this one does; what depends on the time of the EOI is then checked less exactly.
 */
bool lapic_ends_early(void);

#define IOAPIC 0xfec00000ul
enum { IOAPIC_LEVEL = 1 << 15, IOAPIC_MASKED = 1 << 16, IOAPIC_REMOTE_IRR = 1 << 14 };
u32 ioapic_read(u8 index);
void ioapic_write(u8 index, u32 value);
/* Low half: vector and flags; fixed delivery to physical LAPIC `to`. */
void ioapic_route(u8 pin, u32 low, u32 to);
/* An edge, in the remappable format (VT-d 4.1 5.1.5.1). */
void ioapic_route_remapped(u8 pin, u32 index);
u32 ioapic_entry(u8 pin);

/* Both chips: vectors base and base + 8, all masked. */
void pic_init(u8 base);
void pic_mask(u16 mask);
void pic_eoi(u8 irq);

/* PCI (pci.c). An address is bus << 8 | device << 3 | function. */
#define ECAM_RESET 0xb0000000ul
extern u64 ecam;
u64 ecam_address(u16 bdf, u16 offset);
u8 config_read8(u16 bdf, u16 offset);       /* through CF8h and CFCh */
u16 config_read16(u16 bdf, u16 offset);
u32 config_read32(u16 bdf, u16 offset);
void config_write8(u16 bdf, u16 offset, u8 value);
void config_write16(u16 bdf, u16 offset, u16 value);
void config_write32(u16 bdf, u16 offset, u32 value);
/* The function on bus 0 with that class and subclass; fails if there is none. */
u16 find_class(u16 class);
/* 0xffff if there is none. */
u16 find_id(u32 id);
/* I/O APIC pin of INTA# of a device on bus 0. */
u8 intx_pin(u16 bdf);
enum { COMMAND_IO = 1, COMMAND_MEMORY = 2, COMMAND_MASTER = 4, COMMAND_NO_INTX = 0x400 };
void config_command(u16 bdf, u16 set, u16 clear);

/* Repeatable randomness (random.c). */
void random_seed(u64 seed);
u64 random(void);

/* Other processors (smp.c), fewer than this. Starts `count` of them; they come to processor_main(). */
#define MAX_PROCESSORS 1024
void start_processors(u32 count);
extern volatile u32 processors_arrived;

extern u32 start_info;
#endif
