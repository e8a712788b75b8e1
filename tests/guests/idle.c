/* A guest that sleeps: interrupts on, one LAPIC timer interrupt after `ms=`. What that
 * costs the host between the two marks is measured there. */
#include "lib/guest.h"

#define VECTOR 0x40

void test(void)
{
    on_interrupt(VECTOR, end_at_lapic);
    write32(LAPIC + LAPIC_DIVIDE, 3); /* by 16 */
    write32(LAPIC + LAPIC_TIMER, VECTOR);
    write32(LAPIC + LAPIC_INITIAL, 0xffffffff);
    wait_ms(20);
    u32 per_ms = (0xffffffff - read32(LAPIC + LAPIC_CURRENT)) / 20;
    write32(LAPIC + LAPIC_INITIAL, 0);
    take_interrupts();
    print("SLEEP\n");
    wait_ms(300); /* while the host takes its first measurement; no exits either */
    u64 start = tsc();
    u32 before = interrupt_count[VECTOR];
    write32(LAPIC + LAPIC_INITIAL, per_ms * (u32)argument("ms", 100));
    while (interrupt_count[VECTOR] == before)
        sleep_for_interrupt();
    u64 slept = (tsc() - start) / tsc_per_ms();
    print("AWAKE\n");
    wait_ms(300);
    print("slept %lu ms\n", slept);
    CHECK(slept >= argument("ms", 100) * 9 / 10);
    pass("sleep");
}
