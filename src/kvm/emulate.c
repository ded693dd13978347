#include "kvm/emulate.h"

#include "base/mem.h"

unsigned emulate_fetch(struct vcpu *vcpu, u8 *bytes)
{
	struct cpu *cpu = &vcpu->cpu;
	u64 lin = cpu->seg[SEG_CS].base + cpu->rip;
	unsigned n = (unsigned)MIN((u64)EMULATE_BYTES, PAGE_SIZE - (lin & ~PAGE_MASK));
	struct mmu_fault fault;
	struct mmu_slot *slot;
	struct mmu_walk w;
	struct mmu_fetched at;

	/* The instruction is running, so its first page can be fetched. */
	if (mmu_fetch(cpu, lin, &at) || hostmem_copy(bytes, at.host, n))
		return 0;
	if (n == EMULATE_BYTES || mmu_walk(cpu, lin + n, MMU_EXEC, true, &w, &fault))
		return n;
	slot = mmu_slot_find(cpu, w.gpa);
	if (!slot || hostmem_copy(bytes + n, mmu_slot_host(slot, w.gpa), EMULATE_BYTES - n))
		return n;
	return EMULATE_BYTES;
}

/* Mandatory prefixes, as sets. */
#define NP  1u /* none */
#define P66 2u
#define PF3 4u
#define PF2 8u
#define ANY 15u

/* Two-byte opcodes with a memory operand: the prefixes with which each is known. */
static unsigned known_0f(u8 op, unsigned reg)
{
	switch (op) {
	case 0x00:
	case 0x01:
	case 0x0d:
	case 0x18 ... 0x1f:
	case 0x40 ... 0x4f:
	case 0x90 ... 0x9f:
	case 0xa3 ... 0xa5:
	case 0xab ... 0xad:
	case 0xaf ... 0xb7:
	case 0xba ... 0xc1:
	case 0xc3:
		return ANY;
	case 0x10:
	case 0x11: /* MOVUPS, MOVUPD; not the scalar moves */
	case 0x28:
	case 0x29: /* MOVAPS, MOVAPD */
	case 0x2b: /* MOVNTPS, MOVNTPD */
		return NP | P66;
	case 0x6f:
	case 0x7f: /* MOVQ (MMX), MOVDQA, MOVDQU */
		return NP | P66 | PF3;
	case 0xe7: /* MOVNTDQ; not MOVNTQ */
		return P66;
	case 0xae: /* FXSAVE, FXRSTOR, CLFLUSH, CLFLUSHOPT */
		return reg <= 1 ? ANY : reg == 7 ? NP | P66 : 0;
	case 0xc7: /* CMPXCHG8B and 16B; not XSAVEC and the like */
		return reg == 1 ? ANY : 0;
	default: /* the rest of SSE, POPCNT … */
		return 0;
	}
}

static bool known_x87(u8 op, unsigned reg)
{
	return reg == 7 && (op == 0xd9 || op == 0xdd); /* FNSTCW, FNSTSW */
}

bool emulate_known(const struct vcpu *vcpu, const u8 *b, unsigned n)
{
	bool wide = cpu_is_64bit(&vcpu->cpu);
	unsigned i = 0, prefix = NP, reg;
	u8 op;

	for (; i < n; i++) {
		if (b[i] == 0x66) {
			prefix = prefix == NP ? P66 : prefix;
		} else if (b[i] == 0xf3) {
			prefix = PF3;
		} else if (b[i] == 0xf2) {
			prefix = PF2;
		} else if (!(b[i] == 0x67 || b[i] == 0xf0 || b[i] == 0x64 || b[i] == 0x65 ||
			     (b[i] & 0xe7) == 0x26 || (wide && (b[i] & 0xf0) == 0x40))) {
			break;
		}
	}
	if (i + 2 > n)
		return false;
	op = b[i++];
	reg = (b[i] >> 3) & 7;
	switch (op) {
	case 0x0f:
		break;
	case 0xd8 ... 0xdf:
		return known_x87(op, reg);
	case 0x62: /* BOUND, EVEX */
		return false;
	case 0xc4:
	case 0xc5: /* VEX; in other modes LES, LDS as well */
		return !wide && b[i] < 0xc0;
	case 0x8f: /* POP, XOP */
		return !reg;
	default:
		return true;
	}
	op = b[i++];
	if (op == 0x38) /* MOVBE; not CRC32, which has F2 */
		return i < n && (b[i] & 0xfe) == 0xf0 && (prefix & (NP | P66));
	if (i >= n)
		return false;
	return known_0f(op, (b[i] >> 3) & 7) & prefix;
}
