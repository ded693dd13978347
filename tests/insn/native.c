/*
 * native.c - runs a case on the host CPU
 *
 * native_asm.S loads the whole state and jumps into the case. It ends at the stub, which saves
 * everything, or with a fault, whose signal frame holds everything. A seccomp filter turns system
 * calls from the case's code (after a wild jump, say) into SIGSYS; a timer in the parent process
 * sends SIGUSR1 to a case that does not end, or SIGUSR2 that is for the host's run only.
 */
#include <cpuid.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include "insn.h"
#include "memory.h"
#include "native.h"

extern const u8 native_stub_begin[], native_stub_end[];
void native_signal(int sig, siginfo_t *info, void *uc);
void native_signal_chain(int sig, siginfo_t *info, void *uc);
void native_capture(int sig, siginfo_t *info, void *uc);

struct native_ctx {
	struct insn_regs in, out;
	u64 host_rsp, host_fs, host_gs, active, mask;
	u32 vector, error;
	u64 cr2;
	u8 pad[CTX_XIN - 408];
	u8 xin[INSN_XSAVE_SIZE], xout[INSN_XSAVE_SIZE];
};
_Static_assert(offsetof(struct native_ctx, in) == CTX_IN, "layout.h");
_Static_assert(offsetof(struct native_ctx, out) == CTX_OUT, "layout.h");
_Static_assert(offsetof(struct native_ctx, host_rsp) == CTX_HOST_RSP, "layout.h");
_Static_assert(offsetof(struct native_ctx, active) == CTX_ACTIVE, "layout.h");
_Static_assert(offsetof(struct native_ctx, mask) == CTX_MASK, "layout.h");
_Static_assert(offsetof(struct native_ctx, xin) == CTX_XIN, "layout.h");
_Static_assert(offsetof(struct native_ctx, xout) == CTX_XOUT, "layout.h");
_Static_assert(offsetof(struct insn_regs, gs_base) == REGS_GS, "layout.h");

#define CTX ((struct native_ctx *)INSN_CTX_VA)

unsigned insn_xsave_size, insn_xsave_offset[8];
u64 insn_xsave_mask;
static struct sigaction old_action[NSIG];
static void (*kick)(void);

void native_set_kick(void (*fn)(void))
{
	kick = fn;
}

bool native_active(void)
{
	return CTX->active;
}

/* A signal that no native case caused: the engine's, or the watchdog's. */
void native_signal_chain(int sig, siginfo_t *info, void *uc)
{
	struct sigaction *old = &old_action[sig];

	if (sig == SIGUSR2) /* for a case that had just ended */
		return;
	if (sig == SIGUSR1 || sig == SIGALRM) {
		if (kick)
			kick();
		return;
	}
	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, info, uc);
	else
		signal(sig, SIG_DFL);
}

void native_capture(int sig, siginfo_t *info, void *context)
{
	static const u8 order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				     REG_RSI, REG_RDI, REG_R8,	REG_R9,	 REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15};
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;

	for (unsigned i = 0; i < 16; i++)
		CTX->out.gpr[i] = g[order[i]];
	CTX->out.rip = g[REG_RIP];
	CTX->out.rflags = g[REG_EFL];
	CTX->out.sel[1] = g[REG_CSGSFS];
	CTX->out.sel[2] = g[REG_CSGSFS] >> 48;
	CTX->vector = g[REG_TRAPNO];
	CTX->error = g[REG_ERR];
	CTX->cr2 = g[REG_CR2];
	if (sig == SIGUSR1 || sig == SIGUSR2 || sig == SIGALRM)
		CTX->vector = INSN_VEC_TIMEOUT;
	else if (sig == SIGSYS)
		CTX->vector = INSN_VEC_SYSCALL;
	memcpy(CTX->xout, uc->uc_mcontext.fpregs, insn_xsave_size);
}

void native_run(const struct insn_case *c, struct insn_result *out)
{
	bool lng = c->mode == INSN_LONG;
	void (*enter)(void) = (void (*)(void))(INSN_STUB_VA + (lng ? STUB_ENTER : STUB_ENTER32));

	CTX->in = c->in.regs;
	CTX->in.rip = lng ? c->ip : c->ip | (u64)c->in.regs.sel[1] << 32; /* a far pointer */
	memcpy(CTX->out.sel, c->in.regs.sel, sizeof(CTX->out.sel));
	memcpy(CTX->xin, c->in.xsave, insn_xsave_size);
	CTX->vector = INSN_VEC_DONE;
	CTX->error = 0;
	CTX->cr2 = 0;
	enter();
	out->regs = CTX->out;
	out->vector = CTX->vector;
	out->error = CTX->error;
	out->cr2 = CTX->vector == 14 ? CTX->cr2 : 0;
	if (out->vector == INSN_VEC_DONE)
		out->regs.rip = INSN_STUB_VA;
	memcpy(out->xsave, CTX->xout, insn_xsave_size);
}

/* System calls from the code area, the data area or the stub's surroundings become SIGSYS. */
static int filter_install(void)
{
	struct sock_filter code[] = {
		/* 64-bit instruction pointer: the high word decides between low and stub memory. */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, INSN_STUB_VA >> 32, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(code), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		return -1;
	return 0;
}

static int xsave_init(void)
{
	unsigned a, b, c, d, lo, hi;

	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE) || !(c & bit_AVX) || !(getauxval(AT_HWCAP2) & 2)) {
		printf("1..0 # SKIP the host has no AVX or FSGSBASE\n");
		return 1;
	}
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	insn_xsave_mask = lo & 0xe7;
	insn_xsave_size = 576;
	for (unsigned i = 2; i < 8; i++) {
		if (!(insn_xsave_mask >> i & 1))
			continue;
		__cpuid_count(13, i, a, b, c, d);
		insn_xsave_offset[i] = b;
		insn_xsave_size = MAX(insn_xsave_size, a + b);
	}
	return insn_xsave_size <= INSN_XSAVE_SIZE ? 0 : -1;
}

int native_signals(bool install)
{
	static const int signals[] = {SIGSEGV, SIGBUS,	SIGFPE,	 SIGILL, SIGTRAP,
				      SIGSYS,  SIGUSR1, SIGUSR2, SIGALRM};
	struct sigaction sa = {.sa_sigaction = native_signal,
			       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
		if (!install)
			signal(signals[i], SIG_DFL);
		else if (sigaction(signals[i], &sa, &old_action[signals[i]]) < 0)
			return -1;
	}
	return 0;
}

int native_init(void)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE;
	stack_t ss = {.ss_sp = (void *)INSN_ALT_VA, .ss_size = INSN_ALT_SIZE};
	void *stub, *ctx, *alt;
	int ret;

	ret = xsave_init();
	if (ret)
		return ret;
	stub = mmap((void *)INSN_STUB_VA, PAGE_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	ctx = mmap((void *)INSN_CTX_VA, align_up(sizeof(struct native_ctx), PAGE_SIZE),
		   PROT_READ | PROT_WRITE, flags, -1, 0);
	alt = mmap((void *)INSN_ALT_VA, INSN_ALT_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	if ((u64)stub != INSN_STUB_VA || (u64)ctx != INSN_CTX_VA || (u64)alt != INSN_ALT_VA) {
		printf("Bail out! cannot map the stub\n");
		return -1;
	}
	memcpy(stub, native_stub_begin, native_stub_end - native_stub_begin);
	if (mprotect(stub, PAGE_SIZE, PROT_READ | PROT_EXEC) < 0)
		return -1;
	CTX->mask = insn_xsave_mask;
	if (sigaltstack(&ss, NULL) < 0 || native_signals(true) < 0)
		return -1;
	return filter_install();
}
