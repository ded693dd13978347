/*
 * Entry of the boot processor (multiboot, PVH: 32-bit protected mode, paging off) and of the
 * others (real mode, through a page that is copied below 1 MiB).
 */
	.section .boot, "ax"
#ifndef __x86_64__
	/* multiboot header: no flags, the ELF headers say where everything goes */
	.balign 4
	.long 0x1badb002, 0, -0x1badb002
#endif

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start
start:
	cli
	cld
	mov %eax, boot_magic
	mov %ebx, boot_info
	mov $cpu_blocks + 0x10000 - 64, %edi
	mov $cpu_start, %ebp
#ifdef __x86_64__
	/* 4 GiB, identity, in 2 MiB pages */
	mov $boot_pd, %ebx
	mov $0x83, %eax
1:	mov %eax, (%ebx)
	add $8, %ebx
	add $0x200000, %eax
	jnc 1b
	mov $boot_pd + 3, %eax
	mov $boot_pdpt, %ebx
	mov $4, %ecx
2:	mov %eax, (%ebx)
	add $4096, %eax
	add $8, %ebx
	loop 2b
	movl $boot_pdpt + 3, boot_cr3
#else
	/* 4 GiB, identity, in 4 MiB pages */
	mov $boot_cr3, %ebx
	mov $0x83, %eax
1:	mov %eax, (%ebx)
	add $4, %ebx
	add $0x400000, %eax
	jnc 1b
#endif

/* Both: %edi = stack, %ebp = C function */
enter:
	lgdt boot_gdt_reg
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $boot_cr3, %eax
	mov %eax, %cr3
#ifdef __x86_64__
	mov $0x20, %eax		/* PAE */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x900, %eax		/* LME, NXE */
	wrmsr
	mov $0x80010033, %eax
	mov %eax, %cr0
	ljmp $0x08, $1f
	.code64
1:	mov %edi, %esp
	mov %ebp, %eax
	xor %ebp, %ebp
	call *%rax
#else
	mov $0x10, %eax		/* PSE */
	mov %eax, %cr4
	mov $0x80010033, %eax
	mov %eax, %cr0
	ljmp $0x08, $1f
1:	mov %edi, %esp
	mov %ebp, %eax
	xor %ebp, %ebp
	call *%eax
#endif
1:	hlt
	jmp 1b

	.code32
ap_start32:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov $1, %eax
	lock xadd %eax, ap_next
	shl $16, %eax
	lea cpu_blocks + 0x10000 - 64(%eax), %edi
	mov $ap_main, %ebp
	jmp enter

	/* Copied to the page that the start-up IPI names; runs there in real mode. */
	.code16
	.globl ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl 1f - ap_trampoline
	mov %cr0, %eax
	and $0x9fffffff, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $0x38, $ap_start32
	.balign 8
1:	.word 0x3f
	.long boot_gdt
ap_trampoline_end:

	.section .data
	.balign 16
	.globl boot_gdt
boot_gdt:
	.quad 0
#ifdef __x86_64__
	.quad 0x00af9b000000ffff
#else
	.quad 0x00cf9b000000ffff
#endif
	.quad 0x00cf93000000ffff
	.fill 4, 8, 0
	.quad 0x00cf9b000000ffff	/* 0x38 */
boot_gdt_reg:
	.word 0x3f
	.long boot_gdt, 0
	.globl boot_magic, boot_info, ap_next
boot_magic: .long 0
boot_info: .long 0
ap_next: .long 1

	.section .bss
	.balign 4096
	.globl boot_cr3
#ifdef __x86_64__
boot_cr3: .fill 4096
boot_pdpt: .fill 4096
boot_pd: .fill 4 * 4096
#else
boot_cr3: .fill 4096
#endif

	.section .note.GNU-stack, "", @progbits
