/*
 * What the debugger's test debugs: a multiboot program that goes to 64-bit mode and loops. Each
 * round counts, calls a function, sums up what it returned and looks at the flags that PUSHF shows.
 * When `stop` is not 0 it ends QEMU through isa-debug-exit: 0 if its sums are right.
 */
#define EXIT_PORT 0xf4
#define PAGE 4096

	.section .text
	.code32
	.align 4
	.long 0x1badb002, 0, -0x1badb002

	.globl _start
_start:
	movl $stack_end, %esp
	/* Identity map of the first GiB by large pages. */
	movl $pd + 3, pdpt
	movl $pdpt + 3, pml4
	movl $pd, %edi
	movl $0x83, %eax
	movl $512, %ecx
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	loop 1b
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0x20, %eax
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax
	wrmsr
	movl $0x80000001, %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $long_mode

	.code64
long_mode:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $stack_end, %esp

	.globl round, at_load, at_call, at_back, at_flags, at_string, at_end, function, in_function
round:	incq counter
at_load:
	movq value, %rdx
at_call:
	call function
at_back:
	addq %rax, sum
at_flags:
	pushfq
	popq %rbx
	andl $0x100, %ebx		/* TF */
	orq %rbx, trap_flags
at_string:
	movl $buffer, %edi
	movl $16, %ecx
	rep stosb
at_end:
	cmpq $0, stop
	je round
	jmp finish

function:
	movl $1, %eax
in_function:
	incq calls
	ret

finish:
	movq counter, %rcx
	movl $1, %eax
	cmpq %rcx, calls
	jne 1f
	movl $2, %eax
	cmpq $0, trap_flags
	jne 1f
	movl $3, %eax
	movq extra, %rdx		/* what the debugger added by patching `function` */
	addq %rcx, %rdx
	cmpq %rdx, sum
	jne 1f
	xorl %eax, %eax
1:	outl %eax, $EXIT_PORT
	hlt
	jmp 1b

	.section .data
	.align 8
	.globl counter, value, stop, calls, sum, extra
counter:	.quad 0
value:		.quad 0x1122334455667788
stop:		.quad 0
calls:		.quad 0
sum:		.quad 0
extra:		.quad 0
trap_flags:	.quad 0
buffer:		.fill 16
	.align 8
gdt:	.quad 0, 0x00209b0000000000, 0x00cf93000000ffff
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	.section .bss
	.align PAGE
pml4:	.skip PAGE
pdpt:	.skip PAGE
pd:	.skip PAGE
	.skip PAGE
stack_end:
