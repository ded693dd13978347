/*
 * thunks.c - the ways into and out of generated code
 *
 * Emitted once per vCPU at the head of its code cache. Inside, RSP is the host's and 16-byte
 * aligned; a thunk reached by CALL is 8 off. Flags are kept as LAHF/SETO leave them in
 * cpu->hflags; restoring is ADD $0x7f, %al (OF) and SAHF.
 */
#include "jit/jit_internal.h"

_Static_assert(STACK_UPPER_MASK + 8 <= WINDOW_TABLE && WINDOW_TABLE <= STACK_FRAME &&
		       STACK_FRAME % 16 == 8,
	       "aligned behind six registers and a return address");

static const u8 in_registers[] = {RDX, RBX, RBP, RSI, RDI, R12, R13, R14, RSP, RCX};
static const u8 in_frame[] = {R8, R9, R10, R11, R15};
static const u8 caller_saved[] = {RDX, RSI, RDI, R14};

static void bytes(struct emit *e, const char *s, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		emit8(e, (u8)s[i]);
}
#define BYTES(e, s) bytes(e, s, sizeof(s) - 1)

/* RAX and the flags into struct cpu; destroys RAX. */
static void save_flags(struct emit *e)
{
	emit_gs_store(e, H_RAX, GS_GPR(RAX));
	BYTES(e, "\x9f\x0f\x90\xc0"); /* lahf; seto %al */
	BYTES(e, "\x66\x65\x89");     /* mov %ax, %gs:hflags */
	emit_mem(e, H_RAX, -1, -1, 0, (s32)GS(hflags));
}

static void restore_flags(struct emit *e)
{
	BYTES(e, "\x65\x0f\xb7"); /* movzwl %gs:hflags, %eax */
	emit_mem(e, H_RAX, -1, -1, 0, (s32)GS(hflags));
	BYTES(e, "\x04\x7f\x9e"); /* add $0x7f, %al; sahf */
	emit_gs_load(e, H_RAX, GS_GPR(RAX));
}

/* The registers but RAX into struct cpu, and from there; destroys RAX and T. */
static void save_registers(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(in_registers); i++)
		emit_gs_store(e, jit_home[in_registers[i]], GS_GPR(in_registers[i]));
	emit_gs_load(e, H_RAX, GS(host_rsp));
	for (unsigned i = 0; i < ARRAY_SIZE(in_frame); i++) {
		emit_load_at(e, 8, REG_T, H_RAX, -1, STACK_GPR(in_frame[i]));
		emit_gs_store(e, REG_T, GS_GPR(in_frame[i]));
	}
}

static void load_registers(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(in_registers); i++)
		emit_gs_load(e, jit_home[in_registers[i]], GS_GPR(in_registers[i]));
	emit_gs_load(e, H_RAX, GS(host_rsp));
	for (unsigned i = 0; i < ARRAY_SIZE(in_frame); i++) {
		emit_gs_load(e, REG_T, GS_GPR(in_frame[i]));
		emit_store_at(e, 8, REG_T, H_RAX, -1, STACK_GPR(in_frame[i]));
	}
}

/* What a call of C may change, and from there. */
static void save_from_call(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(caller_saved); i++)
		emit_gs_store(e, jit_home[caller_saved[i]], GS_GPR(caller_saved[i]));
	emit_gs_store(e, REG_S, SCRATCH(11));
}

static void load_from_call(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(caller_saved); i++)
		emit_gs_load(e, jit_home[caller_saved[i]], GS_GPR(caller_saved[i]));
	emit_gs_load(e, REG_S, SCRATCH(11));
}

/* Back to the caller of enter with a reason; the guest's state is in struct cpu. */
static void leave_saved(struct emit *e, unsigned reason)
{
	emit_gs_load(e, H_RSP, GS(client_rsp));
	emit_mov_imm(e, H_RAX, reason);
	BYTES(e, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"); /* pop r15..r12 rbp rbx; ret */
}

/* Everything into struct cpu and back to the caller of enter with a reason. */
static void leave(struct emit *e, unsigned reason, bool flags_saved)
{
	if (!flags_saved)
		save_flags(e);
	save_registers(e);
	leave_saved(e, reason);
}

static void emit_enter(struct emit *e, bool window)
{
	BYTES(e, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"); /* push rbx rbp r12..r15 */
	emit_gs_store(e, H_RSP, GS(client_rsp));
	if (window) {
		emit_gs_load(e, H_RSP, GS(window_rsp));
	} else {
		BYTES(e, "\x48\x81\xec"); /* sub $STACK_FRAME, %rsp */
		emit32(e, STACK_FRAME);
	}
	emit_gs_store(e, H_RSP, GS(host_rsp));
	emit_gs_load(e, H_RAX, GS(tlb_mask));
	emit_store_stack(e, H_RAX, STACK_TLB_MASK);
	emit_gs_load(e, H_RAX, GS(page_mask));
	emit_store_stack(e, H_RAX, STACK_PAGE_MASK);
	if (window) {
		emit_mov_imm(e, H_RAX, ~(WINDOW_USER - 1));
		emit_store_stack(e, H_RAX, STACK_UPPER_MASK);
	}
	emit_gs_store(e, H_RSI, SCRATCH(4));
	load_registers(e);
	if (window)
		emit_window(e, REG_S, jit_home[RSP]);
	restore_flags(e);
	emit_gs_load(e, REG_A, GS(rip)); /* as a computed jump would come */
	BYTES(e, "\x65\xff");		 /* jmp *%gs:scratch4 */
	emit_mem(e, 4, -1, -1, 0, (s32)SCRATCH(4));
}

static void emit_call_c(struct emit *e, u64 function)
{
	emit_mov_imm(e, H_RAX, function);
	BYTES(e, "\x48\x83\xec\x08\xff\xd0\x48\x83\xc4\x08"); /* sub 8; call *%rax; add 8 */
}

/*
 * Pops the return address into A; destroys B. By a RET, which is predicted wrongly: with a POP, the
 * host's return stack would be off by one, and so would all returns be from here up to the client.
 */
static void take_return_address(struct emit *e)
{
	BYTES(e, "\x4c\x8b\x14\x24");		  /* mov (%rsp), %r10 */
	BYTES(e, "\x4c\x8d\x1d\x05\x00\x00\x00"); /* lea 5(%rip), %r11 */
	BYTES(e, "\x4c\x89\x1c\x24\xc3");	  /* mov %r11, (%rsp); ret */
}

/* Pops the return address into scratch 1 and leaves; flags and caller-saved are saved. */
static void stop_from_call(struct emit *e, unsigned reason)
{
	take_return_address(e);
	emit_gs_store(e, REG_A, SCRATCH(1));
	load_from_call(e);
	leave(e, reason, true);
}

/* A = linear address (or offset), ECX = descriptor. Returns A unchanged, B = host address - A. */
static void emit_resolve(struct emit *e, const struct cpu *cpu, bool write)
{
	u8 *stop;

	save_flags(e);
	save_from_call(e);
	/* The C side may look at RSP and RCX (stack checks): keep them current. */
	emit_gs_store(e, H_R14, GS_GPR(RSP));
	emit_gs_store(e, REG_A, SCRATCH(5));
	emit_mov_imm(e, H_RDI, (u64)cpu);
	emit_mov(e, true, H_RSI, REG_A);
	emit_mov(e, true, H_RDX, H_RCX);
	emit_call_c(e, (u64)jit_resolve);
	BYTES(e, "\x83\xf8\x01\x0f\x87"); /* cmp $1, %eax; ja */
	stop = e->p;
	emit32(e, 0);
	if (write) {
		/* direct: 0, bounced: 1 → the return address moves over the 5-byte JMP */
		BYTES(e,
		      "\x8d\x04\x80\x48\x01\x04\x24"); /* lea (%rax,%rax,4), %eax; add %rax, (%rsp) */
	}
	load_from_call(e);
	emit_gs_load(e, REG_A, SCRATCH(5));
	emit_gs_load(e, REG_B, SCRATCH(0));
	BYTES(e, "\x4d\x29\xd3"); /* sub %r10, %r11 */
	restore_flags(e);
	emit8(e, 0xc3);
	emit_patch_rel32(stop, e->p);
	emit_gs_store(e, H_RAX, SCRATCH(3));
	stop_from_call(e, JIT_RESOLVE);
}

static void emit_commit(struct emit *e, const struct cpu *cpu)
{
	u8 *stop;

	save_flags(e);
	save_from_call(e);
	emit_mov_imm(e, H_RDI, (u64)cpu);
	emit_call_c(e, (u64)jit_commit);
	BYTES(e, "\x85\xc0\x0f\x85"); /* test %eax, %eax; jne */
	stop = e->p;
	emit32(e, 0);
	load_from_call(e);
	restore_flags(e);
	emit8(e, 0xc3);
	emit_patch_rel32(stop, e->p);
	emit_gs_store(e, H_RAX, SCRATCH(3));
	stop_from_call(e, JIT_COMMIT);
}

/* A = guest RIP of a computed jump that the jump cache does not have. */
static void emit_lookup(struct emit *e, const struct cpu *cpu)
{
	u8 *stop;

	save_flags(e);
	save_from_call(e);
	emit_gs_store(e, REG_A, GS(rip));
	emit_mov_imm(e, H_RDI, (u64)cpu);
	emit_call_c(e, (u64)jit_jc_lookup);
	BYTES(e, "\x48\x85\xc0\x0f\x84"); /* test %rax, %rax; je */
	stop = e->p;
	emit32(e, 0);
	emit_gs_store(e, H_RAX, SCRATCH(6));
	load_from_call(e);
	BYTES(e, "\x48\x83\xc4\x08"); /* add $8, %rsp: no return */
	emit_gs_load(e, REG_A, GS(rip));
	restore_flags(e);
	BYTES(e, "\x65\xff"); /* jmp *%gs:scratch6 */
	emit_mem(e, 4, -1, -1, 0, (s32)SCRATCH(6));
	emit_patch_rel32(stop, e->p);
	stop_from_call(e, JIT_TARGET);
}

/* A = struct jit_link of a jump into another page (cross.c). */
static void emit_again(struct emit *e, const struct cpu *cpu)
{
	u8 *stop;

	save_flags(e);
	save_from_call(e);
	emit_gs_store(e, REG_A, SCRATCH(2));
	emit_mov_imm(e, H_RDI, (u64)cpu);
	emit_mov(e, true, H_RSI, REG_A);
	BYTES(e, "\x48\x83\xec\x08"); /* sub $8, %rsp: as if called */
	emit_call_c(e, (u64)jit_link_again);
	BYTES(e, "\x48\x83\xc4\x08"); /* add $8, %rsp */
	emit_gs_store(e, H_RAX, SCRATCH(6));
	BYTES(e, "\x48\x85\xc0\x0f\x84"); /* test %rax, %rax; je */
	stop = e->p;
	emit32(e, 0);
	load_from_call(e);
	restore_flags(e);
	BYTES(e, "\x65\xff"); /* jmp *%gs:scratch6 */
	emit_mem(e, 4, -1, -1, 0, (s32)SCRATCH(6));
	emit_patch_rel32(stop, e->p);
	load_from_call(e);
	leave(e, JIT_LINK, true);
}

/* A = struct jit_called. Returns when the block goes on behind it. */
static void emit_called(struct emit *e, const struct cpu *cpu)
{
	u8 *stop;

	save_flags(e);
	save_registers(e);
	emit_gs_store(e, REG_S, SCRATCH(11));
	emit_mov_imm(e, H_RDI, (u64)cpu);
	emit_mov(e, true, H_RSI, REG_A);
	emit_call_c(e, (u64)jit_called);
	BYTES(e, "\x48\x85\xc0\x0f\x85"); /* test %rax, %rax; jne */
	stop = e->p;
	emit32(e, 0);
	load_registers(e);
	emit_gs_load(e, REG_S, SCRATCH(11));
	restore_flags(e);
	emit8(e, 0xc3);
	emit_patch_rel32(stop, e->p);
	take_return_address(e);
	leave_saved(e, JIT_CALLED);
}

/** Emits all thunks at the head of the cache. */
void jit_thunks_emit(struct cpu *cpu)
{
	struct jit *jit = cpu->jit;
	struct emit e = {.p = jit->rw, .end = jit->rw + 16384};

	jit->thunk.enter = e.p;
	emit_enter(&e, false);
	jit->thunk.enter_window = e.p;
	emit_enter(&e, true);
	jit->thunk.link = e.p;
	emit_gs_store(&e, REG_A, SCRATCH(2));
	leave(&e, JIT_LINK, false);
	jit->thunk.insn = e.p;
	emit_gs_store(&e, REG_A, SCRATCH(2));
	leave(&e, JIT_INSN, false);
	jit->thunk.next = e.p;
	emit_gs_store(&e, REG_A, GS(rip));
	leave(&e, JIT_NEXT, false);
	jit->thunk.fault = e.p;
	leave(&e, JIT_FAULT, false);
	jit->thunk.poll = e.p;
	take_return_address(&e);
	emit_gs_store(&e, REG_A, SCRATCH(1));
	leave(&e, JIT_POLL, false);
	jit->thunk.target = e.p;
	emit_gs_store(&e, REG_A, GS(rip));
	take_return_address(&e);
	emit_gs_store(&e, REG_A, SCRATCH(1));
	leave(&e, JIT_TARGET, false);
	jit->thunk.lookup = e.p;
	emit_lookup(&e, cpu);
	jit->thunk.again = e.p;
	emit_again(&e, cpu);
	jit->thunk.called = e.p;
	emit_called(&e, cpu);
	jit->thunk.resolve_read = e.p;
	emit_resolve(&e, cpu, false);
	jit->thunk.resolve_write = e.p;
	emit_resolve(&e, cpu, true);
	jit->thunk.commit = e.p;
	emit_commit(&e, cpu);
	jit->code_start = (u8 *)align_up((u64)e.p, 64);
}
