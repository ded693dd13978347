# interruptible PROGRAM [ARGUMENT...]: runs a program (absolute path) with SIGINT and SIGQUIT
# as they are by default. /init starts its shell in the background, to be free for signals,
# and a shell makes such children ignore both; no command of busybox takes that back.

#include <asm/unistd_64.h>

	.text
	.globl _start
_start:
	movl $2, %edi			# SIGINT
	call reset
	movl $3, %edi			# SIGQUIT
	call reset
	movq (%rsp), %rax
	movq 16(%rsp), %rdi		# argv[1], NULL if it is missing: execve fails
	leaq 16(%rsp), %rsi
	leaq 16(%rsp, %rax, 8), %rdx	# environment
	movl $__NR_execve, %eax
	syscall
	movl $127, %edi
	movl $__NR_exit_group, %eax
	syscall

reset:
	leaq default_action(%rip), %rsi
	xorl %edx, %edx
	movl $8, %r10d
	movl $__NR_rt_sigaction, %eax
	syscall
	ret

	.section .rodata
	.balign 8
default_action:
	.zero 32			# SIG_DFL, no flags, no mask

	.section .note.GNU-stack, "", @progbits
