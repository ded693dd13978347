/* Entry of all 256 vectors, and the ways into and out of guarded code. */
	.text
#ifdef __x86_64__
	.code64
#endif

	.balign 16
	.globl trap_stubs
trap_stubs:
	vector = 0
	.rept 256
	.balign 16
	.if (vector != 8) && (vector != 17) && (vector != 21) && ((vector < 10) || (vector > 14))
	push $0
	.endif
	push $vector
	jmp trap_common
	vector = vector + 1
	.endr

#ifdef __x86_64__
trap_common:
	cld
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call trap_handle
	mov %rbx, %rsp
	.globl trap_return
trap_return:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

/* int guard_enter(ulong *slot, void (*fn)(void *), void *arg): -1, or what guard_leave() has */
	.globl guard_enter, guard_leave, guard_enter_regs
guard_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	pushf
	push (%rdi)
	mov %rsp, (%rdi)
	push %rdi
	mov %rdx, %rdi
	call *%rsi
	pop %rdi
	mov $-1, %eax
	jmp 1f
/* void guard_leave(ulong *slot, ulong context, int value) */
guard_leave:
	mov %rsi, %rsp
	mov %edx, %eax
1:	mov $0x10, %ecx
	mov %ecx, %ds
	mov %ecx, %es
	mov %ecx, %ss
	pop (%rdi)
	popf
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

/* int guard_enter_regs(ulong *slot, const struct regs *regs): loads all of them by IRET */
guard_enter_regs:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	pushf
	push (%rdi)
	mov %rsp, (%rdi)
	sub $22*8, %rsp
	mov %rsp, %rdi
	mov $22, %ecx
	rep movsq
	jmp trap_return

#else
trap_common:
	cld
	push %eax
	push %ecx
	push %edx
	push %ebx
	push %ebp
	push %esi
	push %edi
	push %ds
	push %es
	push %fs
	push %gs
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %esp, %eax
	push %eax
	call trap_handle
	add $4, %esp
	.globl trap_return
trap_return:
	pop %gs
	pop %fs
	pop %es
	pop %ds
	pop %edi
	pop %esi
	pop %ebp
	pop %ebx
	pop %edx
	pop %ecx
	pop %eax
	add $8, %esp
	iret

	.globl guard_enter, guard_leave, guard_enter_regs
guard_enter:
	mov 4(%esp), %eax
	mov 8(%esp), %ecx
	mov 12(%esp), %edx
	push %ebx
	push %ebp
	push %esi
	push %edi
	pushf
	push (%eax)
	mov %esp, (%eax)
	push %eax
	push %edx
	call *%ecx
	add $4, %esp
	pop %ecx
	mov $-1, %eax
	jmp 1f
guard_leave:
	mov 4(%esp), %ecx
	mov 12(%esp), %eax
	mov 8(%esp), %esp
1:	mov $0x10, %edx
	mov %edx, %ds
	mov %edx, %es
	mov %edx, %ss
	pop (%ecx)
	popf
	pop %edi
	pop %esi
	pop %ebp
	pop %ebx
	ret

guard_enter_regs:
	mov 4(%esp), %eax
	mov 8(%esp), %edx
	push %ebx
	push %ebp
	push %esi
	push %edi
	pushf
	push (%eax)
	mov %esp, (%eax)
	sub $22*4, %esp
	mov %edx, %esi
	mov %esp, %edi
	mov $22, %ecx
	rep movsl
	jmp trap_return


	/* #DF in 32-bit kernels: a task of its own */
	.globl df_task
df_task:
	cli
	call df_handle
#endif

	.section .user, "ax"
	.globl user_return
user_return:
	int $0x80

	.section .note.GNU-stack, "", @progbits
