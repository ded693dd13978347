/*
 * native_asm.S - loads a complete user-mode register state, and saves it again
 *
 * native_stub_begin..native_stub_end is copied to INSN_STUB_VA and reaches struct native_ctx on
 * the next page RIP-relatively, so that it needs no register of its own.
 */
#include "layout.h"

	.intel_syntax noprefix
	.text
	.globl native_stub_begin, native_stub_end, native_signal

	.balign 64
native_stub_begin:
#define CTX native_stub_begin + 0x1000
#define OUT(n) [rip + CTX + CTX_OUT + (n)]
#define IN(n) [rip + CTX + CTX_IN + (n)]
	/* A case jumps here when it is done. */
	mov	OUT(0), rax
	mov	OUT(32), rsp
	mov	rsp, [rip + CTX + CTX_HOST_RSP]
	pushfq
	pop	qword ptr OUT(REGS_RFLAGS)
	push	0x202
	popfq
	mov	OUT(8), rcx
	mov	OUT(16), rdx
	mov	OUT(24), rbx
	mov	OUT(40), rbp
	mov	OUT(48), rsi
	mov	OUT(56), rdi
	mov	OUT(64), r8
	mov	OUT(72), r9
	mov	OUT(80), r10
	mov	OUT(88), r11
	mov	OUT(96), r12
	mov	OUT(104), r13
	mov	OUT(112), r14
	mov	OUT(120), r15
	rdfsbase rcx
	mov	OUT(REGS_FS), rcx
	rdgsbase rcx
	mov	OUT(REGS_GS), rcx
	mov	OUT(REGS_SEL), es
	mov	OUT(REGS_SEL + 4), ss
	mov	OUT(REGS_SEL + 6), ds
	mov	OUT(REGS_SEL + 8), fs
	mov	OUT(REGS_SEL + 10), gs
	xor	ecx, ecx
	mov	ds, ecx
	mov	es, ecx
	mov	fs, ecx
	mov	gs, ecx
	mov	ecx, 0x2b
	mov	ss, ecx
	mov	eax, [rip + CTX + CTX_MASK]
	xor	edx, edx
	lea	rcx, [rip + CTX + CTX_XOUT]
	mov	qword ptr [rcx + 512], 0
	xsave64	[rcx]
	mov	qword ptr [rip + CTX + CTX_ACTIVE], 0
leave:
	mov	rcx, [rip + CTX + CTX_HOST_FS]
	wrfsbase rcx
	mov	rcx, [rip + CTX + CTX_HOST_GS]
	wrgsbase rcx
	vzeroupper
	fninit
	push	0x1f80
	ldmxcsr	[rsp]
	pop	rcx
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret

	/* Everything but RIP. */
	.macro load_state
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rip + CTX + CTX_HOST_RSP], rsp
	rdfsbase rcx
	mov	[rip + CTX + CTX_HOST_FS], rcx
	rdgsbase rcx
	mov	[rip + CTX + CTX_HOST_GS], rcx
	mov	eax, [rip + CTX + CTX_MASK]
	xor	edx, edx
	lea	rcx, [rip + CTX + CTX_XIN]
	xrstor64 [rcx]
	mov	qword ptr [rip + CTX + CTX_ACTIVE], 1
	mov	rcx, IN(REGS_FS)
	wrfsbase rcx
	mov	rcx, IN(REGS_GS)
	wrgsbase rcx
	push	qword ptr IN(REGS_RFLAGS)
	popfq
	mov	rax, IN(0)
	mov	rcx, IN(8)
	mov	rdx, IN(16)
	mov	rbx, IN(24)
	mov	rsp, IN(32)
	mov	rbp, IN(40)
	mov	rsi, IN(48)
	mov	rdi, IN(56)
	mov	r8, IN(64)
	mov	r9, IN(72)
	mov	r10, IN(80)
	mov	r11, IN(88)
	mov	r12, IN(96)
	mov	r13, IN(104)
	mov	r14, IN(112)
	mov	r15, IN(120)
	.endm

	.org	native_stub_begin + STUB_ENTER
	load_state
	jmp	qword ptr IN(REGS_RIP)

	/* The same into 32- or 16-bit code. */
	.org	native_stub_begin + STUB_ENTER32
	mov	cx, IN(REGS_SEL + 6)
	mov	ds, ecx
	mov	cx, IN(REGS_SEL)
	mov	es, ecx
	load_state
	mov	fs, IN(REGS_SEL + 8)
	mov	gs, IN(REGS_SEL + 10)
	mov	ss, IN(REGS_SEL + 4)
	jmp	fword ptr IN(REGS_RIP)
native_stub_end:

/*
 * All synchronous signals come here first, on the alternate stack. A case's fault is recorded and
 * control goes back to native_enter's caller; no sigreturn is needed, since no signal is blocked.
 */
	.balign 16
	.type	native_signal, @function
native_signal:
	movabs	rax, INSN_CTX_VA
	cmp	qword ptr [rax + CTX_ACTIVE], 0
	je	native_signal_chain
	push	0x202
	popfq
	mov	[rax + CTX_OUT + REGS_SEL], es
	mov	[rax + CTX_OUT + REGS_SEL + 6], ds
	mov	[rax + CTX_OUT + REGS_SEL + 8], fs
	mov	[rax + CTX_OUT + REGS_SEL + 10], gs
	mov	ecx, 0x2b
	mov	ss, ecx
	rdfsbase rcx
	mov	[rax + CTX_OUT + REGS_FS], rcx
	rdgsbase rcx
	mov	[rax + CTX_OUT + REGS_GS], rcx
	xor	ecx, ecx
	mov	ds, ecx
	mov	es, ecx
	mov	fs, ecx
	mov	gs, ecx
	mov	rcx, [rax + CTX_HOST_FS]
	wrfsbase rcx
	mov	rcx, [rax + CTX_HOST_GS]
	wrgsbase rcx
	sub	rsp, 8
	call	native_capture
	movabs	rax, INSN_CTX_VA
	mov	qword ptr [rax + CTX_ACTIVE], 0
	mov	rsp, [rax + CTX_HOST_RSP]
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret
	.size	native_signal, . - native_signal

	.section .note.GNU-stack,"",@progbits
