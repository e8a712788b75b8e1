/* Serial output, checks, command line, memory. */
#include "guest.h"

#define COM1 0x3f8
#define LSR (COM1 + 5)
#define LSR_THRE 0x20

static void put(char c)
{
    while (!(in8(LSR) & LSR_THRE))
        pause();
    out8(COM1, (u8)c);
}

static void put_number(u64 value, u32 base, int width, char fill)
{
    char digits[24];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    for (int i = n; i < width; i++)
        put(fill);
    while (n)
        put(digits[--n]);
}

void print(const char *format, ...)
{
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        char fill = *++format == '0' ? '0' : ' ';
        int width = 0;
        while (*format >= '0' && *format <= '9')
            width = width * 10 + (*format++ - '0');
        bool wide = *format == 'l';
        format += wide;
        switch (*format) {
        case 's':
            for (const char *text = __builtin_va_arg(arguments, const char *); *text; text++)
                put(*text);
            break;
        case 'c':
            put((char)__builtin_va_arg(arguments, int));
            break;
        case 'd': {
            i64 value = wide ? __builtin_va_arg(arguments, i64) : __builtin_va_arg(arguments, int);
            if (value < 0)
                put('-');
            put_number(value < 0 ? -(u64)value : (u64)value, 10, width, fill);
            break;
        }
        default:
            put_number(wide ? __builtin_va_arg(arguments, u64) : __builtin_va_arg(arguments, u32),
                       *format == 'x' ? 16 : 10, width, fill);
        }
    }
    __builtin_va_end(arguments);
}

void pass(const char *name)
{
    print("PASS %s\n", name);
}

_Noreturn void fail(const char *file, int line, const char *what, u64 left, u64 right)
{
    for (const char *at = file; *at; at++)
        if (*at == '/')
            file = at + 1;
    print("FAIL %s:%d %s (0x%lx, 0x%lx)\n", file, line, what, left, right);
    power_off();
}

/* SLP_TYP 7 is S5 of this machine's _S5; SLP_EN. */
_Noreturn void power_off(void)
{
    interrupts_off();
    out16(PM_BASE + 4, 7 << 10 | 1 << 13);
    for (;;)
        __asm__ volatile("hlt");
}

static const char *value_of(const char *name)
{
    const char *at = (const char *)*(u64 *)(u64)(start_info + 24);
    size_t len = strlen(name);
    while (at && *at) {
        if (!memcmp(at, name, len) && at[len] == '=')
            return at + len + 1;
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return NULL;
}

u64 argument(const char *name, u64 otherwise)
{
    const char *text = value_of(name);
    if (!text)
        return otherwise;
    u64 value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (u64)(*text - '0');
    return value;
}

bool argument_is(const char *name, const char *value)
{
    const char *text = value_of(name);
    size_t len = strlen(value);
    return text && !memcmp(text, value, len) && (text[len] == 0 || text[len] == ' ');
}

void *memset(void *to, int byte, size_t len)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(len) : : "memory");
    return to;
}

int memcmp(const void *left, const void *right, size_t len)
{
    const u8 *l = left, *r = right;
    for (; len; len--, l++, r++)
        if (*l != *r)
            return *l - *r;
    return 0;
}

size_t strlen(const char *text)
{
    size_t len = 0;
    while (text[len])
        len++;
    return len;
}

void guest_main(void);
void guest_main(void)
{
    interrupts_init();
    test();
    print("DONE\n");
    power_off();
}

__attribute__((weak)) void processor_main(u32 arrival)
{
    (void)arrival;
}
