#include "vtd.h"

#define POOL 96
#define MASK 0x000ffffffffff000ul

u64 vtd_root[512] ALIGNED(4096);
u64 vtd_interrupts[2 * VTD_INTERRUPTS] ALIGNED(4096);
static bool extended;
static u64 contexts[512] ALIGNED(4096);
static u64 pool[POOL][512] ALIGNED(4096);
static u64 queue[512] ALIGNED(4096);
static volatile u32 done ALIGNED(16);
static u32 used, tail;

bool vtd_is_on(u32 bit)
{
    return read32(VTD + VTD_GSTS) & bit;
}

void vtd_command(u32 bit, bool on)
{
    /* The bits that are no levels read as status of the last command. */
    u32 levels = read32(VTD + VTD_GSTS) & ~(GCMD_SRTP | GCMD_SIRTP);
    write32(VTD + VTD_GCMD, on ? levels | bit : levels & ~bit);
    u64 end = tsc() + tsc_per_ms() * 1000;
    while (vtd_is_on(bit) != on)
        CHECK(tsc() < end);
}

u64 *vtd_table(void)
{
    CHECK(used < POOL);
    return pool[used++];
}

u64 *vtd_context(u16 bdf)
{
    CHECK(bdf < 0x100);
    vtd_root[0] = (u64)contexts | 1;
    return contexts + 2 * bdf;
}

u64 *vtd_domain(u16 bdf, u16 domain)
{
    u64 *top = vtd_table(), *context = vtd_context(bdf);
    context[1] = (u64)domain << 8 | 2;
    barrier();
    context[0] = (u64)top | 1;
    return top;
}

u64 *vtd_entry(u64 *top, u64 iova, u8 level)
{
    u64 *table = top;
    for (u8 at = 4;; at--) {
        u64 *entry = table + (iova >> (12 + 9 * (at - 1)) & 511);
        if (at == level)
            return entry;
        if (!(*entry & PAGE_BOTH))
            *entry = (u64)vtd_table() | PAGE_BOTH;
        table = (u64 *)(*entry & MASK);
    }
}

void vtd_map(u64 *top, u64 iova, const void *to, u64 flags)
{
    *vtd_entry(top, iova, 1) = flags ? (u64)to | flags : 0;
}

static void put(u64 low, u64 high)
{
    queue[tail / 8] = low;
    queue[tail / 8 + 1] = high;
    tail = (tail + 16) % sizeof(queue);
}

void vtd_send(u64 low, u64 high)
{
    done = 0;
    put(low, high);
    put(1ul << 32 | 1 << 5 | 5, (u64)&done);
    barrier();
    write64(VTD + VTD_IQT, tail);
    u64 end = tsc() + tsc_per_ms() * 1000;
    while (!done)
        CHECK(tsc() < end);
}

void vtd_forget_contexts(void)
{
    vtd_send(1 << 4 | 1, 0);
}

void vtd_forget_page(u16 domain, u64 iova)
{
    vtd_send((u64)domain << 16 | 3 << 4 | 2, iova);
}

void vtd_forget_domain(u16 domain)
{
    vtd_send((u64)domain << 16 | 2 << 4 | 2, 0);
}

void vtd_forget_interrupts(void)
{
    vtd_send(4, 0);
}

void vtd_start(void)
{
    write64(VTD + VTD_RTADDR, (u64)vtd_root);
    vtd_command(GCMD_SRTP, true);
    tail = 0;
    write64(VTD + VTD_IQT, 0);
    write64(VTD + VTD_IQA, (u64)queue);
    vtd_command(GCMD_QIE, true);
    vtd_forget_contexts();
    vtd_command(GCMD_TE, true);
}

static u64 record(u32 index)
{
    u64 cap = read64(VTD + VTD_CAP);
    return VTD + (cap >> 24 & 0x3ff) * 16 + 16 * index;
}

void vtd_expect(u8 reason, u16 source, u64 info, bool read)
{
    u32 status = read32(VTD + VTD_FSTS);
    if (!(status & FSTS_PPF))
        fail(__FILE__, __LINE__, "a fault is recorded", reason, status);
    u64 at = record(status >> 8 & 0xff);
    u64 low = read64(at), high = read64(at + 8);
    CHECK_EQ(high >> 63, 1);
    CHECK_EQ(high >> 32 & 0xff, reason);
    CHECK_EQ(high & 0xffff, source);
    CHECK_EQ(low, info);
    CHECK_EQ(high >> 62 & 1, read);
    write64(at + 8, 1ul << 63);
}

void vtd_expect_none(void)
{
    /* Which record is first means nothing without one. */
    CHECK_EQ(read32(VTD + VTD_FSTS) & 0xff, 0);
}

void vtd_interrupt_table(bool eime)
{
    extended = eime;
    u32 size = 0; /* 2 to the (size + 1) entries */
    while (2u << size < VTD_INTERRUPTS)
        size++;
    write64(VTD + VTD_IRTA, (u64)vtd_interrupts | (eime ? 1 << 11 : 0) | size);
    vtd_command(GCMD_SIRTP, true);
}

void vtd_interrupt(u32 index, u8 vector, u32 to, u16 source)
{
    CHECK(index < VTD_INTERRUPTS);
    vtd_interrupts[2 * index + 1] = 1 << 18 | source;
    barrier();
    vtd_interrupts[2 * index] = (u64)to << (extended ? 32 : 40) | (u64)vector << 16 | 1;
}

u32 vtd_remappable(u32 index)
{
    return 0xfee00000 | (index & 0x7fff) << 5 | 1 << 4 | (index >> 15) << 2;
}
