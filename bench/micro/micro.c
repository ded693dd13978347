/*
 * What single operations of a guest cost. Each line that it prints,
 *
 *	# micro NAME TICKS COUNT KHZ
 *
 * is the best of some rounds: COUNT operations took TICKS of the TSC, which runs at KHZ. What an
 * empty loop takes is already subtracted. bench/micro.py reads it. 64-bit only.
 */
#include "x86/apic.h"
#include "x86/cpu.h"
#include "x86/paging.h"
#include "x86/smp.h"

#define ROUNDS	  40  /* many short ones: a busy machine leaves long ones no quiet best */
#define BUDGET_MS 3   /* a round is sized to take about so long */
#define PAGES	  256 /* of va_alloc() */

#define PORT	     0x80	  /* nobody inside the kernel's KVM answers there */
#define MMIO	     0xe0000000ul /* nor there: the hole for PCI devices */
#define VECTOR_SELF  0xd0
#define VECTOR_PING  0xd1
#define VECTOR_TIMER 0xd2
#define VECTOR_SOFT  0xd3
#define CR3_KEEP     (1ull << 63)

typedef void operation(u64 count);

static u64 khz, empty_ticks, empty_count;

static u64 once(operation *op, u64 count)
{
	u64 start = rdtsc();

	op(count);
	return rdtsc() - start;
}

static void print(const char *name, u64 ticks, u64 count)
{
	note("micro %s %llu %llu %llu", name, (unsigned long long)ticks, (unsigned long long)count,
	     (unsigned long long)khz);
}

/* The best round of one that is long enough to be timed, short enough to wait for. */
static u64 best_of(operation *op, u64 *count)
{
	u64 n = 16, t, best = ~0ull;

	do {
		t = once(op, n);
		if (t < khz * BUDGET_MS / 2)
			n *= 2;
	} while (t < khz * BUDGET_MS / 2 && n < 1ull << 24);
	for (unsigned i = 0; i < ROUNDS; i++) {
		t = once(op, n);
		if (t < best)
			best = t;
	}
	*count = n;
	return best;
}

static void measure(const char *name, operation *op)
{
	u64 count, ticks = best_of(op, &count), empty = empty_ticks * count / empty_count;

	print(name, ticks > empty ? ticks - empty : 0, count);
}

#define LOOP(name, ...)                                    \
	static void op_##name(u64 count)                   \
	{                                                  \
		for (; count; count--) {                   \
			__asm__ volatile("" ::: "memory"); \
			__VA_ARGS__;                       \
		}                                          \
	}

/* ---- ordinary instructions ---- */

static u64 memory[8] __attribute__((aligned(64)));

static __attribute__((noinline)) void callee(void)
{
	__asm__ volatile("");
}
static void (*volatile callee_pointer)(void) = callee;

LOOP(empty)
LOOP(load, (void)*(volatile u64 *)memory)
LOOP(store, *(volatile u64 *)memory = count)
LOOP(push_pop, __asm__ volatile("push %%rax; pop %%rax" ::: "memory"))
LOOP(call, callee())
LOOP(call_indirect, callee_pointer())
LOOP(locked, __asm__ volatile("lock incq %0" : "+m"(memory[0]) : : "cc"))
LOOP(rdtsc, __asm__ volatile("rdtsc" : : : "rax", "rdx"))
LOOP(sti_cli, __asm__ volatile("sti; cli" ::: "memory"))
LOOP(pushf_popf, __asm__ volatile("pushf; popf" ::: "memory", "cc"))
LOOP(swapgs, __asm__ volatile("swapgs; swapgs" ::: "memory"))
static u8 from_page[4096], to_page[4096];
LOOP(string, u64 n = 4096; void *to = to_page; void *from = from_page;
     __asm__ volatile("rep movsb"
		      : "+c"(n), "+D"(to), "+S"(from)
		      :
		      : "memory"))

/* ---- exits ---- */

LOOP(cpuid, cpuid(0, 0))
LOOP(hypercall_intel, u64 a = 1; __asm__ volatile("vmcall" : "+a"(a) : : "memory"))
LOOP(hypercall_amd, u64 a = 1; __asm__ volatile("vmmcall" : "+a"(a) : : "memory"))
LOOP(port_out, outb(PORT, 0))
LOOP(port_in, inb(PORT))
LOOP(mmio_write, *(volatile u32 *)MMIO = 0)
LOOP(mmio_read, (void)*(volatile u32 *)MMIO)
LOOP(rdmsr, rdmsr(MSR_APIC_BASE))
LOOP(wrmsr, wrmsr(MSR_TSC_AUX, 0))
LOOP(apic_read, apic_read(APIC_ID))
LOOP(apic_tpr, apic_write(APIC_TPR, 0))

/* ---- memory management ---- */

static u8 *area; /* PAGES small pages */
static ulong cr3;

static void touch(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		(void)((volatile u8 *)area)[i * PAGE_SIZE];
}

LOOP(invlpg, invlpg(area))
LOOP(invlpg_touch, invlpg(area); (void)*(volatile u8 *)area)
LOOP(touch, touch())
LOOP(cr3, write_cr3(cr3))
LOOP(cr3_touch, write_cr3(cr3); touch())
LOOP(cr3_pcid, write_cr3(cr3 | CR3_KEEP | (count & 1)))
LOOP(cr3_pcid_touch, write_cr3(cr3 | CR3_KEEP | (count & 1)); touch())

static void measure_paging(void)
{
	u64 touches, flushes, count, flush_count;

	area = (u8 *)va_alloc();
	for (unsigned i = 0; i < PAGES; i++)
		map_page((ulong)area + i * PAGE_SIZE, (ulong)page_alloc(),
			 PT_P | PT_W | PT_A | PT_D);
	cr3 = read_cr3();
	measure("INVLPG", op_invlpg);
	measure("INVLPG_and_touch", op_invlpg_touch);
	measure("CR3_load", op_cr3);
	/* What 256 touches cost more when the TLB is empty. */
	touches = best_of(op_touch, &count) * 1000 / count;
	flushes = best_of(op_cr3_touch, &flush_count) * 1000 / flush_count;
	print("page_touched", touches, 1000 * PAGES);
	print("page_walked", flushes > touches ? flushes - touches : 0, 1000 * PAGES);
	if (!HAS(PCID)) {
		note("no PCID");
		return;
	}
	write_cr4(read_cr4() | CR4_PCIDE);
	measure("CR3_load,_PCID,_kept", op_cr3_pcid);
	flushes = best_of(op_cr3_pcid_touch, &flush_count) * 1000 / flush_count;
	print("page_touched,_PCID_switched", flushes, 1000 * PAGES);
	write_cr3(cr3);
	write_cr4(read_cr4() & ~CR4_PCIDE);
}

/* ---- ways into the kernel and back ---- */

__asm__(".text\n"
	"bare_sysret: sysretq\n"
	"bare_iret: iretq\n"
	"bare_ud: addq $2, (%rsp); iretq\n"
	/* the faulting load below is 2 bytes long */
	"bare_pf: add $8, %rsp; addq $2, (%rsp); iretq\n");
extern char bare_sysret[], bare_iret[], bare_ud[], bare_pf[];

USER static void user_syscalls(void *count)
{
	__asm__ volatile("1: syscall; dec %0; jnz 1b"
			 : "+b"(count)
			 :
			 : "rcx", "r11", "memory", "cc");
}

USER static void user_interrupts(void *count)
{
	__asm__ volatile("1: int %1; dec %0; jnz 1b"
			 : "+b"(count)
			 : "i"(VECTOR_SOFT)
			 : "memory", "cc");
}

static void op_syscall(u64 count)
{
	trap_user(user_syscalls, (void *)count);
}
static void op_user_int(u64 count)
{
	trap_user(user_interrupts, (void *)count);
}
LOOP(int, __asm__ volatile("int %0" : : "i"(VECTOR_SOFT) : "memory"))
LOOP(ud, __asm__ volatile("ud2" ::: "memory"))
LOOP(pf, __asm__ volatile("mov (%0), %%al" : : "D"(area + PAGES * PAGE_SIZE) : "rax", "memory"))
LOOP(iret,
     __asm__ volatile("mov %%rsp, %%rcx; mov %%ss, %%eax; push %%rax; push %%rcx; pushf;"
		      "mov %%cs, %%eax; push %%rax; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
		      :
		      :
		      : "rax", "rcx", "memory", "cc"))

static void measure_traps(void)
{
	idt_set(VECTOR_SOFT, bare_iret, 3);
	idt_set(EXC_UD, bare_ud, 0);
	idt_set(EXC_PF, bare_pf, 0);
	measure("IRET_in_the_kernel", op_iret);
	measure("INT_and_IRET_in_the_kernel", op_int);
	measure("#UD_and_IRET", op_ud);
	measure("#PF_and_IRET", op_pf);
	idt_reset(EXC_UD);
	idt_reset(EXC_PF);
	user_map();
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)SEL_KCODE << 32 | (u64)(SEL_UCODE32 | 3) << 48);
	wrmsr(MSR_LSTAR, (u64)bare_sysret);
	wrmsr(MSR_SFMASK, FL_IF);
	measure("SYSCALL_and_SYSRET", op_syscall);
	measure("INT_and_IRET_from_user_mode", op_user_int);
}

/* ---- interrupts ---- */

static volatile u64 arrived;

static void on_count(struct regs *r)
{
	arrived++;
	apic_eoi();
}

static void op_self_ipi(u64 count)
{
	for (; count; count--) {
		u64 before = arrived;

		apic_icr(ICR_SELF | ICR_ASSERT | VECTOR_SELF, 0);
		sti_nop();
		while (arrived == before)
			pause();
		cli();
	}
}

static volatile bool stay, halting;

/* The other CPU: answers by counting, awake or asleep. */
static void other_cpu(void *arg)
{
	while (stay) {
		if (halting) {
			cli();
			if (stay && halting)
				__asm__ volatile("sti; hlt" ::: "memory");
		}
		sti_nop();
		pause();
	}
	cli();
}

static void op_ipi(u64 count)
{
	for (; count; count--) {
		u64 before = arrived;

		apic_icr(VECTOR_PING | ICR_ASSERT, cpus[1]->apic_id);
		while (arrived == before)
			pause();
	}
}

/* With time for it to fall asleep in between: only the way from the IPI to the handler counts. */
static void measure_halted(void)
{
	u64 best = ~0ull;

	for (unsigned i = 0; i < 200; i++) {
		u64 before = arrived, start;

		delay_us(300);
		start = rdtsc();
		apic_icr(VECTOR_PING | ICR_ASSERT, cpus[1]->apic_id);
		while (arrived == before)
			pause();
		start = rdtsc() - start;
		if (start < best)
			best = start;
	}
	print("IPI_to_a_halted_CPU,_best", best, 1);
}

static volatile u64 late_since;

static void on_timer(struct regs *r)
{
	u64 now = rdtsc();

	arrived = now > late_since ? now - late_since : 1;
	apic_eoi();
}

/* How much later than asked the timer's interrupt comes. */
static void measure_timer(const char *name, bool halt)
{
	u64 sum = 0, n = 100;

	for (unsigned i = 0; i < n; i++) {
		arrived = 0;
		late_since = rdtsc() + khz / 5; /* 200 µs */
		wrmsr(MSR_TSC_DEADLINE, late_since);
		while (!arrived) {
			if (halt)
				__asm__ volatile("sti; hlt; cli" ::: "memory");
			else
				sti_nop();
		}
		cli();
		sum += arrived;
	}
	print(name, sum, n);
}

static void measure_interrupts(void)
{
	irq_set(VECTOR_SELF, on_count);
	irq_set(VECTOR_PING, on_count);
	measure("IPI_to_itself", op_self_ipi);
	if (HAS(TSC_DEADLINE)) {
		irq_set(VECTOR_TIMER, on_timer);
		apic_write(APIC_LVTT, LVT_DEADLINE | VECTOR_TIMER);
		measure_timer("TSC_deadline,_late,_running", false);
		measure_timer("TSC_deadline,_late,_halted", true);
		apic_write(APIC_LVTT, LVT_MASKED);
	} else {
		note("no TSC deadline");
	}
	if (cpu_count < 2)
		return;
	stay = true;
	smp_post(1, other_cpu, NULL);
	measure("IPI_and_answer", op_ipi);
	halting = true;
	measure_halted();
	halting = stay = false;
	apic_icr(VECTOR_PING | ICR_ASSERT, cpus[1]->apic_id);
	smp_wait(1);
}

void test_main(void)
{
	smp_start();
	khz = tsc_khz();
	empty_count = 1;
	empty_ticks = 0;
	empty_ticks = best_of(op_empty, &empty_count);
	print("empty_loop", empty_ticks, empty_count);

	measure("load", op_load);
	measure("store", op_store);
	measure("PUSH_and_POP", op_push_pop);
	measure("call_and_return", op_call);
	measure("indirect_call_and_return", op_call_indirect);
	measure("LOCK_INC", op_locked);
	measure("RDTSC", op_rdtsc);
	measure("STI_and_CLI", op_sti_cli);
	measure("PUSHF_and_POPF", op_pushf_popf);
	measure("SWAPGS_twice", op_swapgs);
	measure("REP_MOVSB,_4_KiB", op_string);

	measure("cpuid", op_cpuid);
	if (cpu_has_kvm())
		measure("hypercall", cpu_is_intel() ? op_hypercall_intel : op_hypercall_amd);
	else
		note("no hypercalls of KVM");
	measure("port_out_to_user_space", op_port_out);
	measure("port_in_to_user_space", op_port_in);
	measure("MMIO_write_to_user_space", op_mmio_write);
	measure("MMIO_read_to_user_space", op_mmio_read);
	measure("RDMSR", op_rdmsr);
	measure("WRMSR", op_wrmsr);
	measure("APIC_read", op_apic_read);
	measure("APIC_TPR_write", op_apic_tpr);

	measure_paging();
	measure_traps();
	measure_interrupts();
	report(true, "measured");
}
