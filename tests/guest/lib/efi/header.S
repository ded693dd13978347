/*
 * A guest test as an EFI application: the PE header, the place for the command line, the way from
 * the firmware's 64-bit mode to the kernel's entry, and the kernel itself (KERNEL is its file).
 *
 * Everything lies at its file offset, one page of headers first, in one section; nothing needs
 * relocation. `anykvm test` writes the command line over the text at COMMAND_LINE.
 */
#define COMMAND_LINE 0x200

	.section .head, "ax"
head:
	.ascii "MZ"
	.org head + 0x3c
	.long pe - head
pe:
	.ascii "PE\0\0"
	.short 0x8664			/* machine: x86-64 */
	.short 1			/* sections */
	.long 0, 0, 0
	.short sections - optional
	.short 0x0206			/* executable, no line numbers, no debug data */
optional:
	.short 0x20b			/* PE32+ */
	.byte 0, 0
	.long image_end - head - 0x1000	/* code */
	.long 0, 0
	.long entry - head
	.long 0x1000
	.quad 0				/* preferred address */
	.long 0x1000, 0x1000		/* alignment in memory and file */
	.short 0, 0, 0, 0, 0, 0
	.long 0
	.long image_end - head
	.long 0x1000			/* headers */
	.long 0
	.short 10, 0			/* EFI application */
	.quad 0, 0, 0, 0
	.long 0
	.long 6
	.quad 0, 0, 0, 0, 0, 0
sections:
	.ascii ".text\0\0\0"
	.long image_end - head - 0x1000, 0x1000
	.long image_end - head - 0x1000, 0x1000
	.long 0, 0
	.short 0, 0
	.long 0xe0000020

	.org head + COMMAND_LINE - 16
	.ascii "anykvm arguments"
	.globl command_line
command_line:
	.asciz "cpus=1"
	.org head + 0x1000

	.section .text, "ax"
	.globl entry, leave, kernel, kernel_end
/* EFI calls it with RCX = image handle, RDX = system table. */
entry:
	sub $40, %rsp
	call efi_main
	add $40, %rsp
	ret

/*
 * void leave(u32 where, u32 info): to 32-bit protected mode without paging, as PVH's loader does.
 * Boot services are gone, interrupts are off.
 */
leave:
	mov %ecx, %edi
	mov %edx, %ebx
	lea gdt(%rip), %rax
	mov %rax, gdt_reg + 2(%rip)
	lgdt gdt_reg(%rip)
	lea 1f(%rip), %rax
	push $0x08
	push %rax
	lretq
	.code32
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	mov $0x21, %eax			/* PE, NE */
	mov %eax, %cr0
	xor %eax, %eax
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	xor %edx, %edx
	wrmsr
	fninit
	xor %eax, %eax
	mov %eax, %dr7
	jmp *%edi
	.code64
	.balign 8
gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_reg:
	.word 23
	.quad 0

	.balign 16
kernel:
	.incbin KERNEL
kernel_end:

	.section .tail, "aw"
	.balign 4096
	.globl image_end
image_end:
	.section .note.GNU-stack, "", @progbits
