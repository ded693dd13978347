/*
 * FPU state: into and out of the registers, and the images that guests see. The oracle is the
 * host's own instruction, run on the same state.
 */
#include "rig.h"

#include <stdlib.h>

#include "cpu/fpu_host.h"

static u8 expect[4096] __attribute__((aligned(64)));
static u8 after[4096] __attribute__((aligned(64)));

static struct fpu_legacy *own(void)
{
	return rig.cpu->xsave;
}

/* Random values in every component named by bv, initial ones elsewhere. */
static void random_state(u64 bv)
{
	struct cpu *cpu = rig.cpu;
	u8 *image = cpu->xsave;

	cpu_fpu_reset(cpu);
	if (bv & XSTATE_X87) {
		own()->fcw = 0x77f;
		own()->fsw = 0x3800; /* top = 7 */
		own()->ftw = 0xff;
		for (unsigned i = 0; i < 8; i++)
			for (unsigned j = 0; j < 10; j++)
				own()->st[i][j] = (u8)rand();
	}
	own()->mxcsr = bv & XSTATE_SSE ? 0x1fa0 : MXCSR_INIT;
	for (unsigned i = 0; bv & XSTATE_SSE && i < 256; i++)
		own()->xmm[i / 16][i % 16] = (u8)rand();
	for (unsigned i = 2; i < 8; i++)
		for (unsigned j = 0; bv & BIT64(i) && j < cpu->xcomp[i].size; j++)
			image[cpu->xcomp[i].offset + j] = (u8)rand();
	own()->xstate_bv = bv;
}

static int run(cpu_insn_fn fn, const struct cpu_insn *in)
{
	int ret;

	cpu_fpu_load(rig.cpu);
	ret = fn(rig.cpu, in);
	cpu_fpu_save(rig.cpu);
	return ret;
}

/* What a client may leave in the registers, in every component. */
static void dirty_registers(u64 mask)
{
	__asm__ volatile("fninit; fldpi; fstp %st(0); vpcmpeqd %ymm3, %ymm3, %ymm3");
	if (mask & XSTATE_AVX512)
		__asm__ volatile("vpternlogd $0xff, %zmm5, %zmm5, %zmm5\n\t"
				 "vpternlogd $0xff, %zmm29, %zmm29, %zmm29\n\t"
				 "kxnorq %k3, %k3, %k3");
}

static void load_and_save_once(u64 bv, bool dirty)
{
	u64 mask = cpu_fpu_mask();
	u32 mxcsr = host_mxcsr();
	u16 fcw = host_fcw();

	random_state(bv);
	memcpy(expect, rig.cpu->xsave, 4096);
	if (dirty)
		dirty_registers(mask);
	__asm__ volatile("fldcw %0" : : "m"(fcw));
	cpu_fpu_load(rig.cpu);
	cpu_fpu_save(rig.cpu);
	assert_memory_equal(rig.cpu->xsave, expect, 512);
	assert_memory_equal((u8 *)rig.cpu->xsave + 576, expect + 576, 4096 - 576);
	/* What the guest does not use must not look used, except that SSE goes by MXCSR as well. */
	if (own()->xstate_bv & ~(bv | XSTATE_SSE | XSTATE_AVX))
		fail_msg("XSTATE_BV %#lx became %#lx", (long)bv, (long)own()->xstate_bv);
	assert_int_equal(host_mxcsr(), mxcsr);
	assert_int_equal(host_fcw(), fcw);
}

/* By every way that there is, over clean and over used registers, with two kinds of control words. */
static void load_and_save(void **state)
{
	u64 mask = cpu_fpu_mask(), moves = rig.cpu->fpu_moves;
	u32 mxcsr = host_mxcsr();
	u16 fcw = host_fcw(), other = 0x27f;

	for (unsigned i = 0; i < 2000; i++) {
		u64 bv = (u64)rand() & mask;

		rig.cpu->fpu_moves = i % 3 == 0 ? moves : i % 3 == 1 ? moves & (u64)rand() : 0;
		if (i & 8) { /* as processors have it: nested */
			bv |= bv & 0x40 ? mask & 6 : 0;
			bv |= bv & 4 ? 2 : 0;
		}
		host_set_mxcsr(i & 16 ? 0x1f80 : 0x9fc0);
		__asm__ volatile("fninit; fldcw %0" : : "m"(*(i & 32 ? &fcw : &other)));
		load_and_save_once(bv, i & 64);
	}
	rig.cpu->fpu_moves = moves;
	host_set_mxcsr(mxcsr);
	__asm__ volatile("fninit; fldcw %0" : : "m"(fcw));
}

/* A component that the guest puts back into its initial state reads as such. */
static void stale_components_are_cleared(void **state)
{
	random_state(cpu_fpu_mask());
	cpu_fpu_load(rig.cpu);
	__asm__ volatile("fninit; vzeroall");
	cpu_fpu_save(rig.cpu);
	assert_int_equal(own()->fcw, FCW_INIT);
	for (unsigned i = 0; i < 16 * 16; i++)
		assert_int_equal(own()->xmm[i / 16][i % 16], 0);
	for (unsigned j = 0; j < rig.cpu->xcomp[2].size; j++)
		assert_int_equal(((u8 *)own())[rig.cpu->xcomp[2].offset + j], 0);
}

/* An unmasked exception that is pending neither bites the host nor gets lost. */
static void pending_exception_survives(void **state)
{
	cpu_fpu_reset(rig.cpu);
	cpu_fpu_load(rig.cpu);
	__asm__ volatile("fldcw %0; fldz; fld1; fdiv %%st(1); fnstsw %%ax"
			 :
			 : "m"((u16){0x33b})
			 : "ax");
	cpu_fpu_save(rig.cpu);
	assert_true(own()->fsw & 0x84); /* ES, ZE */
	cpu_fpu_load(rig.cpu);
	cpu_fpu_save(rig.cpu);
	assert_true(own()->fsw & 0x84);
}

static void image_get_and_set(void **state)
{
	struct cpu *cpu = rig.cpu;

	random_state(7);
	cpu->pkru = 0x1234;
	cpu_fpu_image_get(cpu, expect, sizeof(expect));
	assert_true(((struct fpu_legacy *)expect)->xstate_bv == (7 | XSTATE_PKRU));
	cpu_fpu_reset(cpu);
	cpu->pkru = 0;
	assert_int_equal(cpu_fpu_image_set(cpu, expect, sizeof(expect)), 0);
	assert_int_equal(cpu->pkru, 0x1234);
	cpu_fpu_image_get(cpu, after, sizeof(after));
	assert_memory_equal(after, expect, sizeof(after));
	((struct fpu_legacy *)expect)->mxcsr = 1u << 31;
	assert_int_equal(cpu_fpu_image_set(cpu, expect, sizeof(expect)), -22);
	((struct fpu_legacy *)expect)->mxcsr = MXCSR_INIT;
	((struct fpu_legacy *)expect)->xstate_bv |= BIT64(40);
	assert_int_equal(cpu_fpu_image_set(cpu, expect, sizeof(expect)), -22);
	((struct fpu_legacy *)expect)->xstate_bv = 7;
	((struct fpu_legacy *)expect)->xcomp_bv = XCOMP_COMPACTED;
	assert_int_equal(cpu_fpu_image_set(cpu, expect, sizeof(expect)), -22);
}

static void fxsave_fxrstor(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);

	rig_long();
	random_state(3);
	memset(rig.ram + RIG_DATA, 0xa5, 512);
	memcpy(expect, rig.cpu->xsave, 416);
	memset(expect + 416, 0xa5, 96);
	EXPECT_OK(run(insn_fxsave, &in));
	assert_memory_equal(rig.ram + RIG_DATA, expect, 512);
	cpu_fpu_reset(rig.cpu);
	EXPECT_OK(run(insn_fxrstor, &in));
	assert_memory_equal(rig.cpu->xsave, expect, 416);
	in.disp += 8;
	EXPECT_EXC(run(insn_fxsave, &in), EXC_GP);
	in.disp -= 8;
	memset(rig.ram + RIG_DATA + 24, 0xff, 4);
	EXPECT_EXC(run(insn_fxrstor, &in), EXC_GP);
	rig.cpu->cr0 |= CR0_TS;
	EXPECT_EXC(run(insn_fxsave, &in), EXC_NM);
	rig.cpu->cr0 ^= CR0_TS | CR0_EM;
	EXPECT_EXC(run(insn_fxrstor, &in), EXC_NM);
	in.prefix = CPU_PREFIX_LOCK;
	EXPECT_EXC(run(insn_fxrstor, &in), EXC_UD);
}

static void fxsave_32bit_leaves_upper_registers(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 4);

	rig_flat32();
	random_state(3);
	memset(rig.ram + RIG_DATA, 0xa5, 512);
	EXPECT_OK(run(insn_fxsave, &in));
	assert_memory_equal(rig.ram + RIG_DATA + 160, own()->xmm, 128);
	for (unsigned i = 288; i < 512; i++)
		assert_int_equal(rig.ram[RIG_DATA + i], 0xa5);
	memcpy(expect, own()->xmm[8], 128);
	memset(rig.ram + RIG_DATA + 160, 0x77, 256);
	EXPECT_OK(run(insn_fxrstor, &in));
	assert_int_equal(own()->xmm[7][15], 0x77);
	assert_memory_equal(own()->xmm[8], expect, 128);
}

/* What the host's instruction makes of the same state and mask. */
static void host_save(u8 form, u64 mask, u8 *image)
{
	u32 lo = (u32)mask, hi = (u32)(mask >> 32);

	cpu_fpu_load(rig.cpu);
	switch (form) {
	case 'X':
		__asm__ volatile("xsave64 (%0)" : : "r"(image), "a"(lo), "d"(hi) : "memory");
		break;
	case 'O':
		__asm__ volatile("xsaveopt64 (%0)" : : "r"(image), "a"(lo), "d"(hi) : "memory");
		break;
	default:
		__asm__ volatile("xsavec64 (%0)" : : "r"(image), "a"(lo), "d"(hi) : "memory");
		break;
	}
	cpu_fpu_save(rig.cpu);
}

static bool host_has_xsavec(void)
{
	return cpu_has(rig.cpu, X86_FEATURE_XSAVEC) && cpu_has(rig.cpu, X86_FEATURE_XSAVES);
}

/*
 * Which components are in use is the processor's to say, and it may say something else after the
 * host's kernel has switched tasks: such a pair of runs is not compared.
 */
static void xsave_forms_match_host(void **state)
{
	unsigned skipped = 0;
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);
	static const u8 forms[] = {'X', 'O', 'C', 'S'};
	u64 mask = cpu_fpu_mask();

	rig_long();
	for (unsigned i = 0; i < 2000; i++) {
		u64 rfbm = (u64)rand() & mask, *header = (u64 *)(expect + 512);

		in.opcode = forms[i % 4];
		if (i % 4 >= 2 && !host_has_xsavec())
			continue;
		random_state((u64)rand() & mask);
		memset(expect, 0x5a, sizeof(expect));
		header[0] = (u64)rand() & 0x7; /* old XSTATE_BV */
		header[1] = 0;
		memset(rig.ram + RIG_DATA, 0x5a, 4096);
		memcpy(rig.ram + RIG_DATA + 512, header, 16);
		host_save(in.opcode, rfbm, expect);
		rig.cpu->gpr[RAX] = (u32)rfbm;
		rig.cpu->gpr[RDX] = rfbm >> 32;
		EXPECT_OK(run(insn_xsave, &in));
		if (memcmp(rig.ram + RIG_DATA + 512, header, 8)) {
			skipped++;
			continue;
		}
		assert_memory_equal(rig.ram + RIG_DATA, expect, 4096);
	}
	assert_true(skipped < 200);
}

static void xrstor_brings_back(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);
	u64 mask = cpu_fpu_mask();

	rig_long();
	for (unsigned i = 0; i < 2000; i++) {
		bool compacted = i & 1 && host_has_xsavec();
		u64 rfbm = (u64)rand() & mask;

		/* An image of one state, restored over another: once by the host, once by us. */
		random_state((u64)rand() & mask);
		memset(rig.ram + RIG_DATA, 0, 4096);
		host_save(compacted ? 'C' : 'X', mask, rig.ram + RIG_DATA);
		random_state((u64)rand() & mask);
		memcpy(after, rig.cpu->xsave, 4096);
		cpu_fpu_load(rig.cpu);
		host_xrstor(rig.ram + RIG_DATA, rfbm);
		cpu_fpu_save(rig.cpu);
		memcpy(expect, rig.cpu->xsave, 4096);
		memcpy(rig.cpu->xsave, after, 4096);
		rig.cpu->gpr[RAX] = (u32)rfbm;
		rig.cpu->gpr[RDX] = rfbm >> 32;
		in.opcode = compacted && i & 2 ? 'S' : 'X';
		EXPECT_OK(run(insn_xrstor, &in));
		assert_memory_equal(rig.cpu->xsave, expect, 512);
		assert_memory_equal((u8 *)rig.cpu->xsave + 576, expect + 576, 4096 - 576);
	}
}

static void xrstor_refuses(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);
	struct cpu *cpu = rig.cpu;
	struct fpu_legacy *guest = (struct fpu_legacy *)(rig.ram + RIG_DATA);

	rig_long();
	in.opcode = 'X';
	cpu->gpr[RAX] = 7;
	memset(guest, 0, 576);
	guest->mxcsr = MXCSR_INIT;
	EXPECT_OK(run(insn_xrstor, &in));
	guest->xstate_bv = BIT64(40);
	EXPECT_EXC(run(insn_xrstor, &in), EXC_GP);
	guest->xstate_bv = 0;
	guest->xcomp_bv = 1;
	EXPECT_EXC(run(insn_xrstor, &in), EXC_GP);
	guest->xcomp_bv = 0;
	guest->reserved2[0] = 1;
	EXPECT_EXC(run(insn_xrstor, &in), EXC_GP);
	guest->reserved2[0] = 0;
	guest->mxcsr = BIT(30);
	EXPECT_EXC(run(insn_xrstor, &in), EXC_GP);
	cpu->gpr[RAX] = 1; /* MXCSR is not loaded */
	EXPECT_OK(run(insn_xrstor, &in));
	in.disp += 16;
	EXPECT_EXC(run(insn_xrstor, &in), EXC_GP);
	in.disp -= 16;
	if (host_has_xsavec()) {
		in.opcode = 'S';
		EXPECT_EXC(run(insn_xrstor, &in), EXC_GP); /* not compacted */
		rig_cpl(3);
		EXPECT_EXC(run(insn_xsave, &in), EXC_GP);
		rig_cpl(0);
	}
	in.opcode = 'X';
	cpu->cr0 |= CR0_TS;
	EXPECT_EXC(run(insn_xsave, &in), EXC_NM);
	cpu->cr4 &= ~CR4_OSXSAVE;
	EXPECT_EXC(run(insn_xsave, &in), EXC_UD);
}

/* Eight registers: the upper ones are neither stored nor changed, initial or not. */
static void xsave_32bit_leaves_upper_registers(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 4);
	u64 mask = cpu_fpu_mask();
	u32 avx = rig.cpu->xcomp[2].offset;
	u8 *image = rig.cpu->xsave;

	rig_flat32();
	for (unsigned i = 0; i < 100; i++) {
		in.opcode = 'X';
		rig.cpu->gpr[RAX] = (u32)mask;
		rig.cpu->gpr[RDX] = mask >> 32;
		random_state(mask);
		memset(rig.ram + RIG_DATA, 0xa5, 4096);
		memset(rig.ram + RIG_DATA + 512, 0, 64);
		EXPECT_OK(run(insn_xsave, &in));
		assert_memory_equal(rig.ram + RIG_DATA + 160, own()->xmm, 128);
		assert_memory_equal(rig.ram + RIG_DATA + avx, image + avx, 128);
		assert_int_equal(rig.ram[RIG_DATA + 160 + 128], 0xa5);
		assert_int_equal(rig.ram[RIG_DATA + avx + 128], 0xa5);
		random_state(mask);
		memcpy(expect, image, 4096);
		if (i & 1) /* everything initial */
			memset(rig.ram + RIG_DATA + 512, 0, 8);
		EXPECT_OK(run(insn_xrstor, &in));
		assert_memory_equal(own()->xmm[8], expect + 160 + 128, 128);
		assert_memory_equal(image + avx + 128, expect + avx + 128, 128);
		for (unsigned j = 0; j < 128; j++) {
			u8 want = i & 1 ? 0 : rig.ram[RIG_DATA + 160 + j];

			assert_int_equal(((u8 *)own()->xmm)[j], want);
		}
		if (mask & BIT64(7))
			assert_memory_equal(image + rig.cpu->xcomp[7].offset,
					    expect + rig.cpu->xcomp[7].offset, 1024);
	}
}

static void pkru_travels_in_images(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);
	struct cpu *cpu = rig.cpu;
	u32 at = cpu->xcomp[9].offset, v;

	rig_long();
	cpu->cr4 |= CR4_PKE;
	in.opcode = 'X';
	cpu->gpr[RAX] = XSTATE_PKRU;
	cpu->gpr[RDX] = 0;
	cpu->pkru = 0xabcc;
	memset(rig.ram + RIG_DATA, 0, 4096);
	EXPECT_OK(run(insn_xsave, &in));
	memcpy(&v, rig.ram + RIG_DATA + at, 4);
	assert_int_equal(v, 0xabcc);
	cpu->pkru = 1;
	EXPECT_OK(run(insn_xrstor, &in));
	assert_int_equal(cpu->pkru, 0xabcc);
	memset(rig.ram + RIG_DATA + 512, 0, 8);
	EXPECT_OK(run(insn_xrstor, &in));
	assert_int_equal(cpu->pkru, 0);
}

static void faults_change_nothing(void **state)
{
	/* The image crosses from the last page of RAM into a page that is not mapped. */
	struct cpu_insn in = rig_mem_insn(0x40000000 - 1024, 8);
	u64 pde = 0x102000 | 7, pte = 0x83;

	rig_long();
	/* 1 GiB by 2 MiB pages: the last one present, the next gigabyte absent. */
	memcpy(rig.ram + 0x101000, &pde, 8);
	memset(rig.ram + 0x102000, 0, 4096);
	memcpy(rig.ram + 0x102000 + 511 * 8, &pte, 8);
	mmu_flush_all(rig.cpu);
	random_state(cpu_fpu_mask());
	memset(rig.ram + 0x1ffc00, 0x3c, 1024);
	in.opcode = 'X';
	rig.cpu->gpr[RAX] = (u32)cpu_fpu_mask();
	rig.cpu->gpr[RDX] = 0;
	if (cpu_xsave_size(rig.cpu->xcomp, cpu_fpu_mask(), false) <= 1024)
		return;
	EXPECT_EXC(run(insn_xsave, &in), EXC_PF);
	assert_true(rig.cpu->exc.payload == 0x40000000);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(rig.ram[0x1ffc00 + i], 0x3c);
	assert_int_equal(rig.cpu->rip, 0x1000);
}

static void environments(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 4);
	u32 native[7], d[7];
	u8 native_all[108], all[108];

	rig_flat32();
	for (unsigned i = 0; i < 100; i++) {
		random_state(1);
		own()->fcw = (u16)(0x340 | (rand() & 0x3f));
		own()->fsw = (u16)(rand() & 0x3f00);
		own()->ftw = (u8)rand();
		cpu_fpu_load(rig.cpu);
		__asm__ volatile("fnstenv %0" : "=m"(native));
		cpu_fpu_save(rig.cpu);
		own()->fcw = (u16)native[0];
		EXPECT_OK(run(insn_fnstenv, &in));
		memcpy(d, rig.ram + RIG_DATA, 28);
		assert_memory_equal(d, native, 12);
		assert_int_equal(own()->fcw & 0x3f, 0x3f);
		/* With all the registers. */
		own()->fcw = (u16)native[0];
		cpu_fpu_load(rig.cpu);
		__asm__ volatile("fnsave %0" : "=m"(native_all));
		__asm__ volatile("frstor %0" : : "m"(native_all));
		cpu_fpu_save(rig.cpu);
		EXPECT_OK(run(insn_fnsave, &in));
		memcpy(all, rig.ram + RIG_DATA, 108);
		assert_memory_equal(all, native_all, 12);
		assert_memory_equal(all + 28, native_all + 28, 80);
		assert_int_equal(own()->fcw, FCW_INIT);
		EXPECT_OK(run(insn_frstor, &in));
		assert_int_equal(own()->fcw, (u16)native[0]);
		for (unsigned j = 0; j < 8; j++)
			assert_memory_equal(own()->st[j], native_all + 28 + 10 * j, 10);
	}
}

/* FNSTENV with an unmasked exception pending does not wait; FLDENV does. */
static void environment_with_pending_exception(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 4);
	u16 fsw;
	int ret;

	rig_flat32();
	cpu_fpu_reset(rig.cpu);
	cpu_fpu_load(rig.cpu);
	__asm__ volatile("fldcw %0; fldz; fld1; fdiv %%st(1)" : : "m"((u16){0x33b}));
	ret = insn_fldenv(rig.cpu, &in);
	cpu_fpu_save(rig.cpu);
	EXPECT_EXC(ret, EXC_MF);
	EXPECT_OK(run(insn_fnstenv, &in));
	memcpy(&fsw, rig.ram + RIG_DATA + 4, 2);
	assert_true(fsw & 0x80);
	EXPECT_OK(run(insn_fldenv, &in));
	EXPECT_EXC(run(insn_fldenv, &in), EXC_MF);
}

static void environment_16bit_and_real(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 2);
	u16 w[7] = {0x37f, 0, 0xffff, 0x1234, 0xa5d8, 0x5678, 0xb000}, out[7];

	rig_flat32();
	rig.cpu->cr0 = CR0_ET;
	cpu_mode_update(rig.cpu);
	rig.cpu->seg[SEG_DS].limit = 0xffffffff;
	in.addrsize = 4;
	memcpy(rig.ram + RIG_DATA, w, 14);
	EXPECT_OK(run(insn_fldenv, &in));
	memset(rig.ram + RIG_DATA, 0xee, 32);
	EXPECT_OK(run(insn_fnstenv, &in));
	memcpy(out, rig.ram + RIG_DATA, 14);
	assert_int_equal(out[0], 0x37f);
	assert_int_equal(out[2], 0xffff);
	assert_int_equal(rig.ram[RIG_DATA + 14], 0xee);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(load_and_save),
		T(stale_components_are_cleared),
		T(pending_exception_survives),
		T(image_get_and_set),
		T(fxsave_fxrstor),
		T(fxsave_32bit_leaves_upper_registers),
		T(xsave_forms_match_host),
		T(xrstor_brings_back),
		T(xrstor_refuses),
		T(xsave_32bit_leaves_upper_registers),
		T(pkru_travels_in_images),
		T(faults_change_nothing),
		T(environments),
		T(environment_with_pending_exception),
		T(environment_16bit_and_real),
	};

	return cmocka_run_group_tests_name("cpu fpu", tests, NULL, NULL);
}
