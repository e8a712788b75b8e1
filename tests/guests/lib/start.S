/*
 * Entry of the boot processor (PVH: 32-bit protected mode, paging off, %ebx = start info)
 * and of the others (SIPI: real mode), both to 64-bit mode with the low 4 GiB mapped to
 * themselves in 2 MiB pages.
 */
    .set CODE64, 0x08
    .set DATA, 0x10
    .set CODE32, 0x18
    .set MSR_EFER, 0xc0000080

/* Xen's note: name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY. */
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

    .section .text.start, "ax"
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, start_info

    movl $page_directories, %edi
    movl $0x83, %eax            /* present, writable, 2 MiB */
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    cmpl $page_directories + 4 * 4096, %edi
    jne 1b
    movl $page_pointers, page_root
    orl $3, page_root
    movl $page_directories + 3, %eax
    movl $page_pointers, %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 2b

    call long_mode
    ljmp $CODE64, $boot64

/* Turns paging and long mode on; still in a 32-bit segment afterwards. */
long_mode:
    lgdt gdt_pointer
    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $page_root, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $0x100, %eax            /* LME */
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax      /* caches on: CD and NW are set after INIT */
    orl $0x80000001, %eax       /* PG, PE */
    movl %eax, %cr0
    ret

ap32:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $1, %ecx
    lock xaddl %ecx, processors_arrived
    movl %ecx, %esp
    shll $12, %esp
    addl $processor_stacks + 4096, %esp
    movl %ecx, %esi
    call long_mode
    ljmp $CODE64, $ap64

    .code64
boot64:
    call data_segments
    movabsq $boot_stack_top, %rsp
    call guest_main
1:  hlt
    jmp 1b

ap64:
    movl %esp, %esp
    call data_segments
    movl %esi, %edi             /* order of arrival, from 0 */
    call processor_main
1:  cli
    hlt
    jmp 1b

data_segments:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    ret

/* Copied to the page that a SIPI names. */
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl gdt_pointer16 - trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap32
    .balign 8
gdt_pointer16:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 0x08: 64-bit code */
    .quad 0x00cf93000000ffff    /* 0x10: data */
    .quad 0x00cf9b000000ffff    /* 0x18: 32-bit code */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt, 0

    .bss
    .balign 4096
    .globl page_root, page_pointers, processors_arrived, start_info
page_root:
    .skip 4096
page_pointers:
    .skip 4096
page_directories:
    .skip 4 * 4096
boot_stack:
    .skip 16384
boot_stack_top:
processor_stacks:
    .skip 1024 * 4096           /* MAX_PROCESSORS */
start_info:
    .long 0
processors_arrived:
    .long 0

    .section .note.GNU-stack, "", @progbits
