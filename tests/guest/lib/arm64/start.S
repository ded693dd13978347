/*
 * Entry of all CPUs on `qemu-system-aarch64 -M virt -kernel`: the first by the boot protocol
 * (x0 = device tree), the others by PSCI CPU_ON (x0 = struct cpu's stack). Everything, the
 * secondary entry included, lives in .text. Runs at EL1 with the MMU on, identity-mapped.
 */
	.section .text.start, "ax"
	.globl start
start:
	/* Linux image header, so that the loader takes the flat file too */
	b 1f
	.long 0
	.quad 0x200000, 0, 0
	.quad 0, 0, 0
	.ascii "ARM\x64"
	.long 0
1:	adr x1, boot_stack_top
	mov sp, x1
	ldr x2, =bss_start
	ldr x3, =bss_end
2:	cmp x2, x3
	b.hs 3f
	str xzr, [x2], #8
	b 2b
3:	bl mmu_on
	bl cpu_start
	b .

	.globl secondary_entry
secondary_entry:
	mov sp, x0
	bl mmu_on
	bl secondary_main
	b .

mmu_on:
	ldr x0, =vectors
	msr vbar_el1, x0
	mov x0, #(3 << 20)	/* FP and SIMD */
	msr cpacr_el1, x0
	ldr x0, =0x00ff		/* attribute 0: normal, 1: device */
	msr mair_el1, x0
	ldr x0, =0x200803519	/* 39-bit VA, 4 KiB, inner shareable, write-back, 40-bit PA; no TTBR1 */
	msr tcr_el1, x0
	adr x0, root
	msr ttbr0_el1, x0
	isb
	tlbi vmalle1
	dsb sy
	mrs x0, sctlr_el1
	ldr x1, =0x1005		/* M, C, I */
	orr x0, x0, x1
	msr sctlr_el1, x0
	isb
	ret

	.balign 2048
	.globl vectors
vectors:
	index = 0
	.rept 16
	.balign 128
	sub sp, sp, #272
	stp x0, x1, [sp]
	mov x0, #index
	b trap_common
	index = index + 1
	.endr

trap_common:
	stp x2, x3, [sp, #16]
	stp x4, x5, [sp, #32]
	stp x6, x7, [sp, #48]
	stp x8, x9, [sp, #64]
	stp x10, x11, [sp, #80]
	stp x12, x13, [sp, #96]
	stp x14, x15, [sp, #112]
	stp x16, x17, [sp, #128]
	stp x18, x29, [sp, #144]
	str x30, [sp, #160]
	mrs x1, elr_el1
	mrs x2, spsr_el1
	stp x1, x2, [sp, #176]
	mov x1, sp
	bl trap_handle
	ldp x1, x2, [sp, #176]
	msr elr_el1, x1
	msr spsr_el1, x2
	ldp x2, x3, [sp, #16]
	ldp x4, x5, [sp, #32]
	ldp x6, x7, [sp, #48]
	ldp x8, x9, [sp, #64]
	ldp x10, x11, [sp, #80]
	ldp x12, x13, [sp, #96]
	ldp x14, x15, [sp, #112]
	ldp x16, x17, [sp, #128]
	ldp x18, x29, [sp, #144]
	ldr x30, [sp, #160]
	ldp x0, x1, [sp]
	add sp, sp, #272
	eret

	.data
	.balign 4096
	.globl root
root:	/* 1 GiB blocks: devices, then two of memory */
	.quad 0x00000000 + 0x60000000000405
	.quad 0x40000000 + 0x701
	.quad 0x80000000 + 0x701
	.fill 509, 8, 0

	.bss
	.balign 16
boot_stack:
	.fill 32768
boot_stack_top:
	.section .note.GNU-stack, "", %progbits
