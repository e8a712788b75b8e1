/* Starting the other processors: INIT, SIPI, SIPI (Intel SDM vol. 3A 9.4.4). */
#include "guest.h"

#define PAGE_OF_SIPI 0x1

extern u8 trampoline[], trampoline_end[];

void start_processors(u32 count)
{
    memcpy((void *)(PAGE_OF_SIPI << 12), trampoline, (size_t)(trampoline_end - trampoline));
    for (u32 id = 1; id <= count; id++) {
        lapic_send(id, 0x4500);
        lapic_send(id, 0x4600 | PAGE_OF_SIPI);
        wait_us(200);
        lapic_send(id, 0x4600 | PAGE_OF_SIPI);
    }
}
