/* Time by the ACPI PM timer (ACPI 6.5 4.8.2.1) and the TSC. */
#include "guest.h"

u32 pm_ticks(void)
{
    return in32(PM_BASE + 8) & 0xffffff;
}

u64 tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

u64 tsc_per_ms(void)
{
    static u64 rate;
    if (rate)
        return rate;
    u32 start = pm_ticks(), passed;
    u64 first = tsc();
    do
        passed = (pm_ticks() - start) & 0xffffff;
    while (passed < PM_HZ / 50);
    rate = (tsc() - first) * (PM_HZ / 1000) / passed;
    return rate;
}

void wait_us(u32 us)
{
    u64 end = tsc() + tsc_per_ms() * us / 1000;
    while (tsc() < end)
        pause();
}

void wait_ms(u32 ms)
{
    wait_us(ms * 1000);
}

bool wait_for(volatile u32 *count, u32 wanted, u32 ms)
{
    u64 end = tsc() + tsc_per_ms() * ms;
    interrupts_on();
    while (*count < wanted && tsc() <= end)
        pause();
    interrupts_off();
    return *count >= wanted;
}

bool wait_for_bits(volatile u8 *where, u8 bits, u32 ms)
{
    u64 end = tsc() + tsc_per_ms() * ms;
    interrupts_on();
    while (!(*where & bits) && tsc() <= end)
        pause();
    interrupts_off();
    return *where & bits;
}
