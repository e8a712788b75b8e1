/*
 * The e1000 with a legacy driver's means, interrupts by INTx through the I/O APIC. The host
 * is the other end of the wire: it sends `frames=` frames of type 88B5h that come back with
 * their addresses swapped, byte for byte; then it sees offloads and filters at work.
 */
#include "lib/e1000.h"

#define RING 16
#define BUFFER 2048
#define VECTOR 0x61

static u64 registers;
static struct receive rx[RING] ALIGNED(4096);
static union {
    struct transmit legacy;
    struct context context;
    struct data data;
} tx[RING] ALIGNED(4096);
static u8 received[RING][BUFFER] ALIGNED(4096), sent[8192] ALIGNED(4096);
static u32 next_rx, next_tx, pin;
static volatile u32 causes;
static u8 mac[6];

static u32 get(u32 offset)
{
    return read32(registers + offset);
}

static void put(u32 offset, u32 value)
{
    write32(registers + offset, value);
}

static void interrupt(struct frame *frame)
{
    (void)frame;
    causes |= get(ICR);
    lapic_eoi();
}

static u16 eeprom(u8 word)
{
    put(EERD, (u32)word << 8 | 1);
    u32 value;
    while (!((value = get(EERD)) & 1 << 4))
        pause();
    return (u16)(value >> 16);
}

static void identity(void)
{
    u16 sum = 0;
    for (u8 word = 0; word < 0x40; word++)
        sum += eeprom(word);
    CHECK_EQ(sum, 0xbaba);
    for (u32 i = 0; i < 6; i++)
        mac[i] = (u8)(eeprom((u8)(i / 2)) >> i % 2 * 8);
    CHECK_EQ(get(RAL), mac[0] | mac[1] << 8 | mac[2] << 16 | (u32)mac[3] << 24);
    CHECK_EQ(get(RAH) & 0x8000ffff, 0x80000000 | mac[4] | (u32)mac[5] << 8);
    /* The PHY: an M88, link up. */
    put(MDIC, 2u << 26 | 1 << 21 | 2 << 16);
    while (!(get(MDIC) & 1 << 28))
        pause();
    CHECK_EQ(get(MDIC) & 0xffff, 0x0141);
    print("MAC %02x:%02x:%02x:%02x:%02x:%02x\n", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    pass("identity");
}

static void start(void)
{
    u16 bdf = find_id(E1000_ID);
    CHECK(bdf != 0xffff);
    config_command(bdf, COMMAND_MEMORY | COMMAND_MASTER, COMMAND_NO_INTX);
    registers = config_read32(bdf, 0x10) & 0xfffffff0;
    put(IMC, 0xffffffff);
    put(CTRL, get(CTRL) | CTRL_RST);
    wait_ms(2);
    put(IMC, 0xffffffff);
    get(ICR);
    pin = intx_pin(bdf);
    on_interrupt(VECTOR, interrupt);
    ioapic_route((u8)pin, VECTOR | IOAPIC_LEVEL, lapic_id());
}

static void rings(void)
{
    put(CTRL, get(CTRL) | CTRL_SLU);
    for (u32 i = 0; i < 128; i++)
        put(MTA + 4 * i, 0);
    for (u32 i = 0; i < RING; i++)
        rx[i] = (struct receive){.address = (u64)received[i]};
    put(RDBAL, (u32)(u64)rx);
    put(RDBAH, 0);
    put(RDLEN, sizeof(rx));
    put(RDH, 0);
    put(RDT, RING - 1);
    put(RDTR, 0);
    put(RXCSUM, 0x300);
    put(TDBAL, (u32)(u64)tx);
    put(TDBAH, 0);
    put(TDLEN, sizeof(tx));
    put(TDH, 0);
    put(TDT, 0);
    put(TIDV, 0);
    put(TIPG, 10 | 8 << 10 | 6 << 20);
    put(TCTL, TCTL_EN | TCTL_PSP | 15 << 4 | 64 << 12);
    put(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
    u64 end = tsc() + tsc_per_ms() * 2000;
    while (!(get(STATUS) & STATUS_LU))
        CHECK(tsc() < end);
    get(ICR);
    put(IMS, CAUSE_TXDW | CAUSE_RXT0 | CAUSE_RXDMT0 | CAUSE_LSC);
}

/* What has arrived, or NULL after ms. The descriptor goes back at the next call. */
static u8 *receive(struct receive *descriptor, u32 ms)
{
    static bool owed;
    if (owed) {
        rx[next_rx].status = 0;
        put(RDT, next_rx);
        next_rx = (next_rx + 1) % RING;
        owed = false;
    }
    if (!wait_for_bits(&rx[next_rx].status, RX_DD, ms))
        return NULL;
    owed = true;
    barrier();
    *descriptor = rx[next_rx];
    CHECK_EQ(descriptor->status & RX_EOP, RX_EOP);
    return received[next_rx];
}

static volatile u8 *queue_legacy(u64 at, u16 length, u8 command, u8 cso, u8 css)
{
    struct transmit *descriptor = &tx[next_tx].legacy;
    *descriptor = (struct transmit){.address = at, .length = length, .command = command,
                                    .cso = cso, .css = css};
    next_tx = (next_tx + 1) % RING;
    return &descriptor->status;
}

static void transmit(volatile u8 *status)
{
    barrier();
    put(TDT, next_tx);
    CHECK(wait_for_bits(status, TX_DD, 2000));
}

static void echo(u32 frames)
{
    causes = 0;
    print("READY\n");
    for (u32 i = 0; i < frames; i++) {
        struct receive descriptor;
        u8 *frame = receive(&descriptor, 5000);
        if (!frame)
            fail(__FILE__, __LINE__, "every frame arrives", i, frames);
        if (frame[12] != 0x88 || frame[13] != 0xb5) {
            i--;
            continue;
        }
        memcpy(sent, frame, descriptor.length);
        memcpy(sent, frame + 6, 6);
        memcpy(sent + 6, mac, 6);
        u8 command = TX_IFCS | TX_RS;
        /* Every third in two pieces. */
        if (i % 3 == 2) {
            queue_legacy((u64)sent, 20, TX_IFCS, 0, 0);
            transmit(queue_legacy((u64)sent + 20, descriptor.length - 20, command | TX_EOP, 0, 0));
        } else {
            transmit(queue_legacy((u64)sent, descriptor.length, command | TX_EOP, 0, 0));
        }
    }
    CHECK(wait_for_bits((volatile u8 *)&causes, CAUSE_TXDW, 500));
    CHECK_EQ(causes & (CAUSE_TXDW | CAUSE_RXT0), CAUSE_TXDW | CAUSE_RXT0);
    CHECK(interrupt_count[VECTOR] > 0);
    pass("echo");
}

/* No line stays up, and masked causes raise none. */
static void quiet(void)
{
    for (u32 i = 0; i < 20; i++)
        take_interrupts();
    wait_ms(20);
    take_interrupts();
    u32 before = interrupt_count[VECTOR];
    wait_ms(20);
    take_interrupts();
    CHECK_EQ(interrupt_count[VECTOR], before);
    CHECK_EQ(ioapic_entry((u8)pin) & IOAPIC_REMOTE_IRR, 0);
    put(IMC, 0xffffffff);
    put(ICS, CAUSE_LSC);
    take_interrupts();
    CHECK_EQ(interrupt_count[VECTOR], before);
    put(IMS, CAUSE_LSC);
    causes = 0;
    CHECK(wait_for(&interrupt_count[VECTOR], before + 1, 500));
    CHECK_EQ(causes & CAUSE_LSC, CAUSE_LSC);
    take_interrupts();
    CHECK_EQ(get(ICR), 0);
    put(IMS, CAUSE_TXDW | CAUSE_RXT0);
    pass("no stuck line");
}

static void ip_header(u8 *at, u8 protocol, u16 total)
{
    static const u8 start[] = {0x45, 0, 0, 0, 0, 1, 0, 0, 64, 0, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1};
    memcpy(at, start, sizeof(start));
    at[2] = (u8)(total >> 8);
    at[3] = (u8)total;
    at[9] = protocol;
}

static u32 sum(u32 start, const u8 *at, u32 len)
{
    for (u32 i = 0; i < len; i++)
        start += (u32)at[i] << (i % 2 ? 0 : 8);
    while (start >> 16)
        start = (start & 0xffff) + (start >> 16);
    return start;
}

/* Ethernet and IP in front; returns where TCP or UDP begins. */
static u8 *packet(u8 protocol, u16 len)
{
    memset(sent, 0, sizeof(sent));
    memset(sent, 0xff, 6);
    memcpy(sent + 6, mac, 6);
    sent[12] = 8;
    ip_header(sent + 14, protocol, 20 + len);
    u8 *at = sent + 34;
    /* The pseudo header's sum goes into the checksum field, as every driver does. */
    u32 pseudo = sum(protocol + len, sent + 26, 8);
    u32 field = protocol == 17 ? 6 : 16;
    at[field] = (u8)(pseudo >> 8);
    at[field + 1] = (u8)pseudo;
    return at;
}

/* Both checksums by context and data descriptors; the host checks them. */
static void checksum_offload(void)
{
    const u16 udp = 8 + 101;
    u8 *at = packet(17, udp);
    at[1] = 9, at[3] = 9, at[4] = (u8)(udp >> 8), at[5] = (u8)udp;
    for (u32 i = 8; i < udp; i++)
        at[i] = (u8)(i * 3);
    tx[next_tx].context = (struct context){14, 24, 33, 34, 40, 0, (u32)(TX_DEXT | TX_RS) << 24 | 1 << 25, 0, 0, 0};
    next_tx = (next_tx + 1) % RING;
    tx[next_tx].data = (struct data){(u64)sent, (u32)(TX_DEXT | TX_EOP | TX_IFCS | TX_RS) << 24 | 1 << 20 | (34 + udp), 0, 3, 0};
    volatile u8 *status = &tx[next_tx].data.status;
    next_tx = (next_tx + 1) % RING;
    transmit(status);
    /* The legacy way: one checksum at CSO, from CSS on. */
    at = packet(17, udp);
    at[1] = 10, at[3] = 9, at[4] = (u8)(udp >> 8), at[5] = (u8)udp;
    at[6] = at[7] = 0;
    u32 pseudo = sum(17 + udp, sent + 26, 8);
    at[6] = (u8)(pseudo >> 8), at[7] = (u8)pseudo;
    u32 ip = ~sum(0, sent + 14, 20) & 0xffff;
    sent[24] = (u8)(ip >> 8), sent[25] = (u8)ip;
    transmit(queue_legacy((u64)sent, 34 + udp, TX_IFCS | TX_RS | TX_IC | TX_EOP, 40, 34));
    pass("checksum offload");
}

/* 4000 bytes of TCP in segments of 1000. */
static void segmentation(void)
{
    const u32 header = 54, payload = 4000;
    u8 *at = packet(6, 20);
    /* For TSO the pseudo header leaves the length out. */
    u32 pseudo = sum(6, sent + 26, 8);
    at[16] = (u8)(pseudo >> 8), at[17] = (u8)pseudo;
    sent[16] = sent[17] = 0;
    at[1] = 11, at[3] = 9;
    at[4] = 0x12, at[5] = 0x34, at[6] = 0x56, at[7] = 0x78;
    at[12] = 5 << 4, at[13] = 0x18;
    for (u32 i = 0; i < payload; i++)
        at[20 + i] = (u8)(i * 7 + (i >> 8));
    tx[next_tx].context = (struct context){14, 24, 33, 34, 50, 0, (u32)(TX_DEXT | TX_RS | 1 << 2 | 1 << 1 | 1) << 24 | payload, 0, (u8)header, 1000};
    next_tx = (next_tx + 1) % RING;
    u32 command = (u32)(TX_DEXT | TX_IFCS | 1 << 2) << 24 | 1 << 20;
    tx[next_tx].data = (struct data){(u64)sent, command | header, 0, 3, 0};
    next_tx = (next_tx + 1) % RING;
    tx[next_tx].data = (struct data){(u64)sent + header, command | (u32)(TX_EOP | TX_RS) << 24 | payload, 0, 3, 0};
    volatile u8 *status = &tx[next_tx].data.status;
    next_tx = (next_tx + 1) % RING;
    transmit(status);
    pass("segmentation");
}

static const u8 *next_of(u8 mark, struct receive *descriptor, u32 ms)
{
    for (;;) {
        const u8 *frame = receive(descriptor, ms);
        if (!frame || frame[14] == mark || frame[42] == mark)
            return frame;
    }
}

/* The host sends, after each mark: to us, to somebody else, to all. */
static void filters(void)
{
    struct receive descriptor;
    print("FILTER\n");
    CHECK(next_of(1, &descriptor, 3000));
    CHECK_EQ(next_of(2, &descriptor, 100), NULL);
    print("BROADCAST\n");
    CHECK(next_of(3, &descriptor, 3000));
    put(RCTL, get(RCTL) | RCTL_UPE);
    print("PROMISCUOUS\n");
    CHECK(next_of(4, &descriptor, 3000));
    put(RCTL, get(RCTL) & ~(u32)RCTL_UPE);
    pass("filters");
}

/* One UDP packet with its checksum right, one with it wrong. */
static void receive_checksums(void)
{
    struct receive descriptor;
    print("CHECKSUMS\n");
    CHECK(next_of(5, &descriptor, 3000));
    CHECK_EQ(descriptor.status & (RX_IXSM | RX_TCPCS | RX_IPCS), RX_TCPCS | RX_IPCS);
    CHECK_EQ(descriptor.errors & (RX_TCPE | RX_IPE), 0);
    CHECK(next_of(6, &descriptor, 3000));
    CHECK_EQ(descriptor.errors & (RX_TCPE | RX_IPE), RX_TCPE);
    pass("receive checksums");
}

void test(void)
{
    tsc_per_ms();
    start();
    identity();
    rings();
    echo((u32)argument("frames", 0));
    quiet();
    checksum_offload();
    segmentation();
    filters();
    receive_checksums();
    put(RCTL, 0);
    put(TCTL, 0);
}
