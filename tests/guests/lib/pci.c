/* PCI configuration: mechanism 1 (PCI 3.0 3.2.2.3.2) and ECAM (PCIe 6.0 7.2.2). */
#include "guest.h"

u64 ecam = ECAM_RESET;

u64 ecam_address(u16 bdf, u16 offset)
{
    return ecam + ((u64)bdf << 12 | offset);
}

static u16 select(u16 bdf, u16 offset)
{
    out32(0xcf8, 0x80000000 | (u32)bdf << 8 | (offset & 0xfc));
    return 0xcfc + (offset & 3);
}

u8 config_read8(u16 bdf, u16 offset)
{
    return in8(select(bdf, offset));
}

u16 config_read16(u16 bdf, u16 offset)
{
    return in16(select(bdf, offset));
}

u32 config_read32(u16 bdf, u16 offset)
{
    return in32(select(bdf, offset));
}

void config_write8(u16 bdf, u16 offset, u8 value)
{
    out8(select(bdf, offset), value);
}

void config_write16(u16 bdf, u16 offset, u16 value)
{
    out16(select(bdf, offset), value);
}

void config_write32(u16 bdf, u16 offset, u32 value)
{
    out32(select(bdf, offset), value);
}

void config_command(u16 bdf, u16 set, u16 clear)
{
    u16 command = config_read16(bdf, 4);
    config_write16(bdf, 4, (command & (u16)~clear) | set);
}

u16 find_class(u16 class)
{
    for (u16 bdf = 0; bdf < 0x100; bdf++)
        if (config_read32(bdf, 0) != 0xffffffff && config_read16(bdf, 0xa) == class)
            return bdf;
    fail(__FILE__, __LINE__, "no function of this class", class, 0);
}

u16 find_id(u32 id)
{
    for (u16 bdf = 0; bdf < 0x100; bdf++)
        if (config_read32(bdf, 0) == id)
            return bdf;
    return 0xffff;
}

/* Devices below 25 share PIRQE to PIRQH, rotated; the chipset's own are PIRQA and on. */
u8 intx_pin(u16 bdf)
{
    u8 device = bdf >> 3 & 31, pin = config_read8(bdf, 0x3d);
    CHECK(pin >= 1 && pin <= 4);
    pin--;
    return 16 + (device >= 25 ? pin : 4 + (device + pin) % 4);
}
