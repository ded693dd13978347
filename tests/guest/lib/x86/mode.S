/* void mode_switch(ulong cr3, ulong cr4) */
	.text
	.globl mode_switch
mode_switch:
#ifdef __x86_64__
	push %rbx
	mov %cr0, %rax
	mov %rax, %rbx
	ljmp *far32
	.code32
1:	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov %esi, %cr4
	mov %edi, %cr3
	mov %ebx, %cr0
	ljmp $0x08, $2f
	.code64
2:	pop %rbx
	ret

	.section .data
far32:	.long 1b
	.word 0x38
#else
	mov 4(%esp), %ecx
	mov 8(%esp), %edx
	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	jmp 1f
1:	mov %edx, %cr4
	mov %ecx, %cr3
	or $0x80000000, %eax
	mov %eax, %cr0
	jmp 2f
2:	ret
#endif
	.section .note.GNU-stack, "", @progbits
