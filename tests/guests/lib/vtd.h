/* The VT-d unit (VT-d 4.1 §11), in legacy mode, with tables of four levels. */
#ifndef VTD_H
#define VTD_H

#include "guest.h"

#define VTD 0xfed90000ul
enum {
    VTD_VER = 0x0, VTD_CAP = 0x8, VTD_ECAP = 0x10, VTD_GCMD = 0x18, VTD_GSTS = 0x1c,
    VTD_RTADDR = 0x20, VTD_FSTS = 0x34, VTD_FECTL = 0x38, VTD_FEDATA = 0x3c, VTD_FEADDR = 0x40,
    VTD_FEUADDR = 0x44, VTD_IQH = 0x80, VTD_IQT = 0x88, VTD_IQA = 0x90, VTD_IQERCD = 0xb0,
    VTD_IRTA = 0xb8,
};
#define GCMD_TE 0x80000000u
#define GCMD_SRTP 0x40000000u
#define GCMD_QIE 0x04000000u
#define GCMD_IRE 0x02000000u
#define GCMD_SIRTP 0x01000000u
#define GCMD_CFI 0x00800000u
enum { FSTS_PFO = 1, FSTS_PPF = 2, FSTS_IQE = 0x10 };
enum { PAGE_READ = 1, PAGE_WRITE = 2, PAGE_BOTH = 3, PAGE_LARGE = 0x80 };
/* §7.1.3 and §5.1.4.1. */
enum {
    FAULT_ROOT = 0x1, FAULT_CONTEXT = 0x2, FAULT_WRITE = 0x5, FAULT_READ = 0x6,
    FAULT_TABLE_ACCESS = 0x7, FAULT_TABLE_RESERVED = 0xc, FAULT_REQUEST = 0x20,
    FAULT_ENTRY_ABSENT = 0x22, FAULT_COMPATIBILITY = 0x25, FAULT_SOURCE = 0x26,
};

/* Sets pointers and levels, one at a time as §11.4.4 wants it, and waits for the status. */
void vtd_command(u32 bits, bool on);
bool vtd_is_on(u32 bit);

/* An empty page for a table. */
u64 *vtd_table(void);
extern u64 vtd_root[512];
/* Puts a function of bus 0 into a domain with an empty topmost table, which it gives. */
u64 *vtd_domain(u16 bdf, u16 domain);
u64 *vtd_context(u16 bdf);
/* The entry for an address at a level, 4 being the top; tables on the way are made. */
u64 *vtd_entry(u64 *top, u64 iova, u8 level);
void vtd_map(u64 *top, u64 iova, const void *to, u64 flags);

/* The queue: sends a descriptor and waits until all before it is done. */
void vtd_send(u64 low, u64 high);
void vtd_forget_contexts(void);
void vtd_forget_page(u16 domain, u64 iova);
void vtd_forget_domain(u16 domain);
void vtd_forget_interrupts(void);
/* Tables, queue and translation on. */
void vtd_start(void);

/* The next fault must be this one, and is taken. */
void vtd_expect(u8 reason, u16 source, u64 info, bool read);
void vtd_expect_none(void);

/* Interrupt entries, with 32-bit LAPIC ids if `eime`, each valid for `source` only. */
#define VTD_INTERRUPTS 1024
void vtd_interrupt_table(bool eime);
void vtd_interrupt(u32 index, u8 vector, u32 to, u16 source);
/* The address of a request that names an entry. */
u32 vtd_remappable(u32 index);
#endif
