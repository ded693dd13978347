/*
 * The program's CPUID instruction is answered here.
 *
 * Where the host's CPUID can fault in user mode (arch_prctl's ARCH_SET_CPUID, a property of each
 * thread that its children inherit), every CPUID of the process becomes a SIGSEGV, the libraries'
 * and translated code's of the program, too.
 *
 * Elsewhere the CPUID instructions of the program's own functions (cpuid_find.c) are replaced by
 * UD2: the same length, and one byte differs, so another thread sees one or the other. The SIGILL
 * is ours only at those addresses. The program's memory then differs in that byte from its file;
 * where it becomes memory of a guest, the instructions are put back. Libraries, code that is
 * generated or loaded later, and copies of program text are not covered: they find the host's
 * CPUID or, in copies made from memory, UD2.
 *
 * In both cases the signal must never be blocked, so threads are prepared from their start.
 */
#include "exec/exec.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif

#define INSNS_MAX    1024
#define OPCODE_CPUID 0xa2 /* behind 0f */
#define OPCODE_UD2   0x0b
#define CPUID_BYTES  2

static struct exec_cpuid_insn insns[INSNS_MAX];
static unsigned insn_count; /* replaced ones; an entry that is put back has no length */
static bool faulting;
static u64 own_start, own_size; /* this library's code, which asks for the host's */

static void faulting_set(bool on)
{
	exec_raw(SYS_arch_prctl, ARCH_SET_CPUID, !on, 0, 0, 0, 0);
}

void exec_cpuid_native(u32 leaf, u32 index, u32 r[4])
{
	if (faulting)
		faulting_set(false);
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "a"(leaf), "c"(index));
	if (faulting)
		faulting_set(true);
}

bool exec_cpuid_trapped(void)
{
	return faulting || insn_count;
}

/* ---- the instructions ---- */

/* One byte of program text. The kernel's view of the process writes where the process may not. */
static bool poke(u64 addr, u8 byte)
{
	int fd = REAL(open)("/proc/self/mem", O_WRONLY | O_CLOEXEC);
	void *page = (void *)(addr & ~(u64)(PAGE_SIZE - 1));
	bool done = false;

	if (fd >= 0) {
		done = exec_raw(SYS_pwrite64, fd, (long)&byte, 1, (long)addr, 0, 0) == 1;
		REAL(close)(fd);
	}
	if (!done && !mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		__atomic_store_n((u8 *)addr, byte, __ATOMIC_SEQ_CST);
		mprotect(page, PAGE_SIZE, PROT_READ | PROT_EXEC);
		done = true;
	}
	return done;
}

static u64 opcode_of(const struct exec_cpuid_insn *in)
{
	return in->addr + in->length - 1;
}

static void replace(void)
{
	unsigned n = exec_cpuid_find(insns, INSNS_MAX);

	/* Known to the handler first. */
	__atomic_store_n(&insn_count, n, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < n; i++)
		if (!poke(opcode_of(&insns[i]), OPCODE_UD2)) {
			exec_log("CPUID of the program cannot be replaced: %s",
				 strerrordesc_np(errno));
			exec_cpuid_restore(0, ~0ull);
			insn_count = 0;
			return;
		}
}

void exec_cpuid_restore(u64 start, u64 size)
{
	for (unsigned i = 0; i < insn_count; i++) {
		struct exec_cpuid_insn *in = &insns[i];

		/* The handler still knows it: another thread may be on its way there. */
		if (in->addr + in->length <= start || in->addr - MIN(start, in->addr) >= size ||
		    *(const u8 *)opcode_of(in) != OPCODE_UD2)
			continue;
		poke(opcode_of(in), OPCODE_CPUID);
	}
}

/* ---- the signal ---- */

static const struct exec_cpuid_insn *insn_at(u64 rip)
{
	unsigned low = 0, high = __atomic_load_n(&insn_count, __ATOMIC_ACQUIRE);

	while (low < high) {
		unsigned mid = low + (high - low) / 2;

		if (insns[mid].addr < rip)
			low = mid + 1;
		else
			high = mid;
	}
	return low < insn_count && insns[low].addr == rip ? &insns[low] : NULL;
}

/* The length of a CPUID that faulted at `rip`, or 0. It was fetched there, so it can be read. */
static unsigned faulted_length(u64 rip)
{
	const u8 *p = (const u8 *)rip;

	for (unsigned n = 0; n < 13; n++) {
		u8 b = p[n];

		if (b == 0x0f)
			return p[n + 1] == OPCODE_CPUID ? n + CPUID_BYTES : 0;
		/* prefixes but LOCK */
		if (b != 0x66 && b != 0x67 && b != 0x2e && b != 0x36 && b != 0x3e && b != 0x26 &&
		    b != 0x64 && b != 0x65 && b != 0xf2 && b != 0xf3 && (b & 0xf0) != 0x40)
			return 0;
	}
	return 0;
}

bool exec_cpuid_signal(int signo, const siginfo_t *info, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;
	u64 rip = (u64)r[REG_RIP];
	unsigned length = 0;
	u32 regs[4];

	if (signo == SIGILL && info->si_code > 0 && insn_count) {
		const struct exec_cpuid_insn *in = insn_at(rip);

		length = in ? in->length : 0;
	} else if (signo == SIGSEGV && info->si_code == SI_KERNEL && faulting) {
		length = faulted_length(rip);
	}
	if (!length)
		return false;
	if (rip - own_start < own_size)
		exec_cpuid_native((u32)r[REG_RAX], (u32)r[REG_RCX], regs);
	else
		exec_cpuid_view((u32)r[REG_RAX], (u32)r[REG_RCX], regs);
	r[REG_RAX] = regs[0];
	r[REG_RBX] = regs[1];
	r[REG_RCX] = regs[2];
	r[REG_RDX] = regs[3];
	r[REG_RIP] = (greg_t)(rip + length);
	return true;
}

void exec_cpuid_start(void)
{
	if (exec_options.host_cpuid)
		return;
	exec_segment_of((u64)&exec_cpuid_start, &own_start, &own_size);
	exec_cpuid_view_init();
	exec_signals_own();
	if (!exec_thread.ready)
		exec_thread_prepare();
	if (!exec_raw(SYS_arch_prctl, ARCH_SET_CPUID, 0, 0, 0, 0, 0))
		faulting = true;
	else
		replace();
}
