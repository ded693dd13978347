/*
 * Hardware task switches: CALL, JMP, IRET and interrupts through TSS descriptors and task gates,
 * 32- and 16-bit task-state segments, CR3, LDT, debug registers and virtual-8086 mode of the new
 * task; and new tasks whose segments are bad. Those faults belong to the new task: #TS, #NP, #SS
 * and #GP are task gates here, so that their handlers see by the back link which task was
 * current, and by its TSS what it was about to do.
 *
 * Source: SDM "Task Management": exception conditions checked during a task switch; APM "Task
 * Management".
 */
#include "x86/apic.h"
#include "x86/paging.h"

enum {
	SEL_GATE = 0x80,
	SEL_TASK = 0x88,
	SEL_HANDLERS = 0x90, /* four, by vector - EXC_TS */
	SEL_BAD = 0xb0,	     /* descriptors of the cases */
	SEL_ALIAS = 0xb8,
};

static struct tss task __attribute__((aligned(4096)));
static struct tss handlers[4];
static u8 stacks[4][1024] __attribute__((aligned(16)));

/* ---- what the tasks' code leaves ---- */

static volatile u32 task_seen, task_flags, task_cr0, task_tr, task_value, task_address;
static volatile u32 fault_count, fault_error, fault_tr, fault_link;
static u32 *fault_main __attribute__((used)); /* &cpu->tss.eip */
static struct tss *fault_tss[4]
	__attribute__((used)) = {&handlers[0], &handlers[1], &handlers[2], &handlers[3]};
static u32 task_sp __attribute__((used));

__asm__(".text\n"
	"task_code: incl task_seen; pushf; pop task_flags; mov %cr0, %eax; mov %eax, task_cr0; clts\n"
	"str %eax; mov %eax, task_tr; iret\n jmp task_code\n"
	/* reads through FS, or by the new CR3 */
	"task_reads: incl task_seen; mov task_address, %eax; mov %fs:(%eax), %eax; mov %eax, task_value\n"
	"clts; iret\n jmp task_reads\n"
	"task_jumps: incl task_seen; pushf; pop task_flags; clts; ljmp $0x50, $0\n jmp task_jumps\n"
	"task_sixteen: incl task_seen; mov %eax, task_value; mov $0x87654321, %eax; clts; iret\n"
	/* The faults' task: error code on its stack; its way home leads to the main task, by a new back link. */
	"fault_code: pop fault_error; incl fault_count; clts\n"
	"str %eax; mov %eax, fault_tr; sub $0x90, %eax; shr $1, %eax; mov fault_tss(%eax), %eax\n"
	"mov (%eax), %ecx; mov %ecx, fault_link; movl $0x50, (%eax)\n"
	"mov fault_main, %eax; movl $task_resume, (%eax); iret\n jmp fault_code\n"
	"task_go: pusha; mov %esp, task_sp; lcall $0x88, $0; jmp task_resume\n"
	"task_go_int: pusha; mov %esp, task_sp; int $0x55; jmp task_resume\n"
	"task_go_ud: pusha; mov %esp, task_sp; ud2\n"
	"task_go_irq: pusha; mov %esp, task_sp; sti; nop; nop\n"
	"task_resume: cli; mov task_sp, %esp; popa; ret\n");
extern char task_code[], task_reads[], task_jumps[], task_sixteen[], fault_code[];
void task_go(void), task_go_int(void), task_go_ud(void), task_go_irq(void);

static struct tss fresh(char *code)
{
	struct tss t;

	memset(&t, 0, sizeof(t));
	t.cr3 = (u32)read_cr3();
	t.eip = (u32)code;
	t.esp = (u32)this_cpu() + 0x9000; /* an exception there asks for this_cpu() */
	t.esp0 = (u32)this_cpu() + 0x8000;
	t.ss0 = SEL_KDATA;
	t.eflags = 2;
	t.cs = SEL_KCODE;
	t.ss = t.ds = t.es = t.fs = SEL_KDATA;
	t.iomap = 0xffff;
	return t;
}

static void ready(char *code)
{
	task = fresh(code);
	gdt_set(SEL_TASK, descriptor((u32)&task, 103, 0x89, 0));
}

static unsigned type_of(unsigned sel)
{
	return (this_cpu()->gdt[sel >> 3] >> 40) & 0xff;
}

static u64 gate(u16 sel, u8 type)
{
	return (u64)sel << 16 | (u64)type << 40;
}

static int task_call(void)
{
	trap_clear();
	__asm__ volatile(TRY("lcall $0x88, $0") : : : "eax", "memory", "cc");
	return trap_vector();
}
static int gate_call(void)
{
	trap_clear();
	__asm__ volatile(TRY("lcall $0x80, $0") : : : "eax", "memory", "cc");
	return trap_vector();
}
static int task_jump(void)
{
	trap_clear();
	__asm__ volatile(TRY("ljmp $0x88, $0") : : : "eax", "memory", "cc");
	return trap_vector();
}

static bool faulted(int vector, u32 error)
{
	return trap_vector() == vector && trap_last()->error == error;
}

/* ---- switches that work ---- */

static void calls(void)
{
	u32 seen;

	task_seen = 0;
	ready(task_code);
	task_call();
	report_eq(task_seen, 1, "CALL to a TSS, and IRET");
	report_eq(task_tr & 0xffff, SEL_TASK, "TR in the task");
	report(task_flags & FL_NT, "NT is set by the CALL");
	report(task_cr0 & CR0_TS, "CR0.TS is set");
	report_eq(task.link, SEL_TSS, "the back link");
	report(!(read_flags() & FL_NT), "NT is clear again");
	report_eq(type_of(SEL_TASK), 0x89, "the task is not busy any more");
	report_eq(type_of(SEL_TSS), 0x8b, "this one is");
	task_call();
	report_eq(task_seen, 2, "again, where it was left");

	ready(task_code);
	idt[0x55] = (struct gate){.sel = SEL_TASK, .type = 0x85};
	__asm__ volatile("int $0x55" : : : "eax", "memory", "cc");
	report(task_seen == 3 && task.link == SEL_TSS, "a task gate in the IDT");
	idt_reset(0x55);

	ready(task_code);
	gdt_set(SEL_GATE, gate(SEL_TASK, 0x85));
	report(gate_call() == -1 && task_seen == 4, "a task gate in the GDT");

	ready(task_jumps);
	seen = task_seen;
	task.link = 0x1234;
	report(task_jump() == -1 && task_seen == seen + 1, "JMP to a TSS and back");
	report(!(task_flags & FL_NT) && task.link == 0x1234,
	       "JMP sets neither NT nor the back link");
	report(type_of(SEL_TASK) == 0x89 && type_of(SEL_TSS) == 0x8b,
	       "JMP clears the old task's busy bit");
}

static volatile u32 db_dr6, db_ip;
static void db_hook(struct regs *r)
{
	if (r->vector != EXC_DB)
		return;
	db_dr6 = (u32)read_dr6();
	db_ip = r->ip;
	write_dr6(0xffff0ff0);
	this_cpu()->hooked = true;
}

static void debug(void)
{
	u32 seen = task_seen;

	ready(task_code);
	task.trap = 1;
	this_cpu()->hook = db_hook;
	task_call();
	this_cpu()->hook = NULL;
	report(db_dr6 & 0x8000, "the T flag of a TSS: DR6.BT");
	report_eq(db_ip, (u32)task_code, "before the task's first instruction");
	report_eq(task_seen, seen + 1, "and the task runs");
	ready(task_code);
	write_dr0(0x12345);
	write_dr7(3);
	task_call();
	report_eq(read_dr7() & 3, 2, "a task switch clears DR7.L0 and keeps G0");
	write_dr7(0);
}

/* The new task's own address space and local descriptors. */
static void spaces(void)
{
	u32 *root = page_alloc(), *table = page_alloc(), *there = page_alloc();
	static u64 ldt[2];
	static u32 cell = 0x77665544;
	ulong va = va_alloc();
	u16 sel;

	memcpy(root, (void *)read_cr3(), PAGE_SIZE);
	memcpy(table, (void *)((ulong)pte_of(va) & ~0xffful), PAGE_SIZE);
	table[(va >> 12) & 1023] = (u32)there | PT_P | PT_W | PT_U;
	root[va >> 22] = (u32)table | PT_P | PT_W | PT_U;
	*there = 0x13572468;
	ready(task_reads);
	task.cr3 = (u32)root;
	task_address = va;
	task_call();
	report_eq(task_value, 0x13572468, "the new task's CR3");
	report_eq(read_cr3(), ((struct tss *)&this_cpu()->tss)->cr3, "and this one's again");
	trap_clear();
	__asm__ volatile(TRY("movl (%0), %%eax") : : "r"(va) : "eax", "memory");
	report_eq(trap_vector(), EXC_PF, "where the page is not there");

	ldt[1] = descriptor((u32)&cell, 3, 0x93, 4);
	gdt_set(SEL_BAD, descriptor((u32)ldt, sizeof(ldt) - 1, 0x82, 0));
	ready(task_reads);
	task.ldt = SEL_BAD;
	task.fs = 0x0c;
	task_address = 0;
	task_call();
	report_eq(task_value, 0x77665544, "the new task's LDT");
	__asm__ volatile("sldt %0" : "=r"(sel));
	report_eq(sel, 0, "and this one's again");
}

/* 16-bit: 44 bytes, the low halves of registers, no FS, GS and CR3. */
static void sixteen(void)
{
	static u16 image[22];
	u32 base = (u32)task_sixteen & 0xffff0000, seen = task_seen;

	memset(image, 0, sizeof(image));
	image[7] = (u16)(u32)task_sixteen;
	image[8] = 2;
	image[9] = 0xabcd; /* AX */
	image[17] = image[19] = image[20] = SEL_KDATA;
	image[18] = SEL_BAD; /* CS */
	gdt_set(SEL_BAD, descriptor(base, 0xfffff, 0x9b, 0xc));
	gdt_set(SEL_TASK, descriptor((u32)image, 43, 0x81, 0));
	report(task_call() == -1 && task_seen == seen + 1, "a 16-bit TSS");
	report_eq(task_value & 0xffff, 0xabcd, "16-bit TSS: AX");
	report_eq(image[9], 0x4321, "16-bit TSS: AX is saved");
	report(image[0] == SEL_TSS && type_of(SEL_TASK) == 0x81,
	       "16-bit TSS: back link, not busy after IRET");
	gdt_set(SEL_TASK, descriptor((u32)image, 42, 0x81, 0));
	task_call();
	report(faulted(EXC_TS, SEL_TASK), "16-bit TSS: too small");
}

/* ---- refused before the switch: faults of the old task ---- */

__asm__(".section .user, \"ax\"\n user_call_task: lcall $0x88, $0; ret\n"
	"user_call_gate: lcall $0x80, $0; ret\n .text\n");
extern char user_call_task[], user_call_gate[];

static void refused(void)
{
	u32 seen = task_seen;

	ready(task_code);
	gdt_set(SEL_TASK, descriptor((u32)&task, 103, 0x8b, 0));
	task_call();
	report(faulted(EXC_GP, SEL_TASK), "CALL to a busy TSS");
	task_jump();
	report(faulted(EXC_GP, SEL_TASK), "JMP to a busy TSS");
	gdt_set(SEL_TASK, descriptor((u32)&task, 103, 0x09, 0));
	task_call();
	report(faulted(EXC_NP, SEL_TASK), "a TSS that is not present");
	gdt_set(SEL_TASK, descriptor((u32)&task, 102, 0x89, 0));
	task_call();
	report(faulted(EXC_TS, SEL_TASK), "a TSS that is too small");
	report_eq(type_of(SEL_TASK), 0x89, "it is not busy then");

	ready(task_code);
	gdt_set(SEL_GATE, gate(SEL_TASK, 0x05));
	gate_call();
	report(faulted(EXC_NP, SEL_GATE), "a task gate that is not present");
	gdt_set(SEL_GATE, gate(0, 0x85));
	gate_call();
	report(faulted(EXC_GP, 0), "a task gate with a null selector");
	gdt_set(SEL_GATE, gate(0x0c, 0x85));
	gate_call();
	report(faulted(EXC_GP, 0x0c), "a task gate to the LDT");
	gdt_set(SEL_GATE, gate(0xfff8, 0x85));
	gate_call();
	report(faulted(EXC_GP, 0xfff8), "a task gate beyond the GDT");
	gdt_set(SEL_GATE, gate(SEL_KDATA, 0x85));
	gate_call();
	report(faulted(EXC_GP, SEL_KDATA), "a task gate to a data segment");
	gdt_set(SEL_TASK, descriptor((u32)&task, 103, 0x09, 0));
	gdt_set(SEL_GATE, gate(SEL_TASK, 0x85));
	gate_call();
	report(faulted(EXC_NP, SEL_TASK), "a task gate to a TSS that is not present");
	ready(task_code);
	idt[0x55] = (struct gate){.sel = SEL_TASK, .type = 0x05};
	trap_clear();
	__asm__ volatile(TRY("int $0x55") : : : "eax", "memory", "cc");
	report(faulted(EXC_NP, 0x55 * 8 + 2), "a task gate in the IDT that is not present");
	gdt_set(SEL_TASK, descriptor((u32)&task, 103, 0x8b, 0));
	idt[0x55].type = 0x85;
	trap_clear();
	__asm__ volatile(TRY("int $0x55") : : : "eax", "memory", "cc");
	report(faulted(EXC_GP, SEL_TASK), "a task gate in the IDT to a busy TSS");
	idt_reset(0x55);
	report_eq(task_seen, seen, "and none of them ran");

	ready(task_code);
	trap_user((void (*)(void *))user_call_task, NULL);
	report(faulted(EXC_GP, SEL_TASK), "level 3: a TSS of level 0");
	gdt_set(SEL_TASK, descriptor((u32)&task, 103, 0xe9, 0));
	trap_user((void (*)(void *))user_call_task, NULL);
	report(trap_vector() == -1 && task_seen == seen + 1, "level 3: a TSS of level 3");
	ready(task_code);
	gdt_set(SEL_GATE, gate(SEL_TASK, 0x85));
	trap_user((void (*)(void *))user_call_gate, NULL);
	report(faulted(EXC_GP, SEL_GATE), "level 3: a task gate of level 0");
	gdt_set(SEL_GATE, gate(SEL_TASK, 0xe5));
	trap_user((void (*)(void *))user_call_gate, NULL);
	report(trap_vector() == -1 && task_seen == seen + 2, "level 3: a task gate of level 3");
}

/* ---- new tasks with bad segments: faults of the new task ---- */

#define AT(field) offsetof(struct tss, field)

static void handlers_on(void)
{
	fault_main = (u32 *)((u8 *)&this_cpu()->tss + AT(eip));
	for (unsigned i = 0; i < 4; i++) {
		handlers[i] = fresh(fault_code);
		handlers[i].esp = (u32)stacks[i] + sizeof(stacks[i]);
		gdt_set(SEL_HANDLERS + 8 * i, descriptor((u32)&handlers[i], 103, 0x89, 0));
		idt[EXC_TS + i] = (struct gate){.sel = (u16)(SEL_HANDLERS + 8 * i), .type = 0x85};
	}
}
static void handlers_off(void)
{
	for (unsigned i = 0; i < 4; i++)
		idt_reset(EXC_TS + i);
}

struct bad {
	const char *name;
	u16 offset; /* of the selector in the TSS */
	u16 sel;
	u64 desc; /* of SEL_BAD, or 0 */
	int vector;
	u32 error;
	bool user; /* the task runs at level 3 */
};
#define DESC(access, flags) \
	((u64)0xffff | (u64)(access) << 40 | (u64)0xf << 48 | (u64)(flags) << 52)

static const struct bad bads[] = {
	{"LDT in an LDT", AT(ldt), 0x0c, 0, EXC_TS, 0x0c, false},
	{"LDT beyond the GDT", AT(ldt), 0xfff8, 0, EXC_TS, 0xfff8, false},
	{"LDT is data", AT(ldt), SEL_KDATA, 0, EXC_TS, SEL_KDATA, false},
	{"LDT not present", AT(ldt), SEL_BAD, DESC(0x02, 0), EXC_TS, SEL_BAD, false},
	{"CS null", AT(cs), 0, 0, EXC_TS, 0, false},
	{"CS beyond the GDT", AT(cs), 0xfff8, 0, EXC_TS, 0xfff8, false},
	{"CS in an empty LDT", AT(cs), 0x0c, 0, EXC_TS, 0x0c, false},
	{"CS is data", AT(cs), SEL_KDATA, 0, EXC_TS, SEL_KDATA, false},
	{"CS is a TSS", AT(cs), SEL_TSS, 0, EXC_TS, SEL_TSS, false},
	{"CS of level 0 with RPL 3", AT(cs), SEL_KCODE | 3, 0, EXC_TS, SEL_KCODE, false},
	{"CS of level 3 with RPL 0", AT(cs), SEL_UCODE, 0, EXC_TS, SEL_UCODE, false},
	{"conforming CS of level 3 with RPL 0", AT(cs), SEL_BAD, DESC(0xff, 0xc), EXC_TS, SEL_BAD,
	 false},
	{"EIP beyond CS's limit", AT(cs), SEL_BAD, 0x00409b0000000fff, EXC_GP, 0, false},
	{"CS not present", AT(cs), SEL_BAD, DESC(0x1b, 0xc), EXC_NP, SEL_BAD, false},
	{"SS null", AT(ss), 0, 0, EXC_TS, 0, false},
	{"SS beyond the GDT", AT(ss), 0xfff8, 0, EXC_TS, 0xfff8, false},
	{"SS is code", AT(ss), SEL_KCODE, 0, EXC_TS, SEL_KCODE, false},
	{"SS is read-only", AT(ss), SEL_BAD, DESC(0x91, 0xc), EXC_TS, SEL_BAD, false},
	{"SS of level 3 at level 0", AT(ss), SEL_UDATA | 3, 0, EXC_TS, SEL_UDATA, false},
	{"SS of level 0 with RPL 3", AT(ss), SEL_KDATA | 3, 0, EXC_TS, SEL_KDATA, false},
	{"SS of level 0 at level 3", AT(ss), SEL_KDATA, 0, EXC_TS, SEL_KDATA, true},
	{"SS not present", AT(ss), SEL_BAD, DESC(0x13, 0xc), EXC_SS, SEL_BAD, false},
	{"DS beyond the GDT", AT(ds), 0xfff8, 0, EXC_TS, 0xfff8, false},
	{"DS is a TSS", AT(ds), SEL_TSS, 0, EXC_TS, SEL_TSS, false},
	{"DS is execute-only", AT(ds), SEL_BAD, DESC(0x99, 0xc), EXC_TS, SEL_BAD, false},
	{"DS not present", AT(ds), SEL_BAD, DESC(0x13, 0xc), EXC_NP, SEL_BAD, false},
	{"DS of level 0 at level 3", AT(ds), SEL_KDATA, 0, EXC_TS, SEL_KDATA, true},
	{"DS of level 0 with RPL 3", AT(ds), SEL_KDATA | 3, 0, EXC_TS, SEL_KDATA, false},
	{"ES beyond the GDT", AT(es), 0xfff8, 0, EXC_TS, 0xfff8, false},
	{"ES not present", AT(es), SEL_BAD, DESC(0x13, 0xc), EXC_NP, SEL_BAD, false},
	{"FS is a TSS", AT(fs), SEL_TSS, 0, EXC_TS, SEL_TSS, false},
	{"FS not present", AT(fs), SEL_BAD, DESC(0x13, 0xc), EXC_NP, SEL_BAD, false},
	{"GS in an empty LDT", AT(gs), 0x0c, 0, EXC_TS, 0x0c, false},
	{"GS not present", AT(gs), SEL_BAD, DESC(0x13, 0xc), EXC_NP, SEL_BAD, false},
};

static struct cases current, first;

/* Runs it and asks which handler was reached, from which task, with what. */
static void expect_fault(void (*go)(void), int vector, u32 error, const char *name)
{
	u32 main_seen = task_seen;
	int got;

	handlers_on();
	fault_count = fault_link = 0;
	go();
	handlers_off();
	got = fault_count ? EXC_TS + (int)(((fault_tr & 0xffff) - SEL_HANDLERS) / 8) : -1;
	if (!report(got == vector && fault_error == error && task_seen == main_seen, "new task: %s",
		    name))
		note("want %d/%x, got %d/%x", vector, error, got, fault_error);
	current.run++, first.run++;
	if ((fault_link & 0xffff) != SEL_TASK || type_of(SEL_TASK) != 0x8b ||
	    type_of(SEL_TSS) != 0x8b)
		fail_case(&current, "%s: back link %x", name, fault_link);
	if (task.eip != (u32)task_code)
		fail_case(&first, "%s: EIP %x", name, task.eip);
}

static void one_bad(const struct bad *b)
{
	ready(task_code);
	if (b->user) {
		task.cs = SEL_UCODE | 3;
		task.ss = task.ds = task.es = SEL_UDATA | 3;
		task.fs = 0;
	}
	if (b->desc)
		gdt_set(SEL_BAD, b->desc);
	*(u16 *)((u8 *)&task + b->offset) = b->sel;
	expect_fault(task_go, b->vector, b->error, b->name);
}

/* What began the switch shows in EXT: neither CALL nor INT n, but interrupts and exceptions. */
static void ext(void)
{
	const struct gate to_task = {.sel = SEL_TASK, .type = 0x85};

	ready(task_code);
	task.ds = 0xfff8;
	idt[0x55] = idt[0x56] = idt[EXC_UD] = to_task;
	expect_fault(task_go_int, EXC_TS, 0xfff8, "by INT n: no EXT");
	ready(task_code);
	task.ds = 0xfff8;
	expect_fault(task_go_ud, EXC_TS, 0xfff9, "by an exception: EXT");
	ready(task_code);
	task.ds = 0xfff8;
	apic_icr(ICR_SELF | ICR_ASSERT | 0x56, 0);
	expect_fault(task_go_irq, EXC_TS, 0xfff9, "by an interrupt: EXT");
	apic_eoi();
	idt_reset(0x55);
	idt_reset(0x56);
	idt_reset(EXC_UD);
}

/* A task in virtual-8086 mode: its segments are no selectors. */
static void virtual8086(void)
{
	static const u8 code[] = {0xc6, 0x06, 0x10, 0x00, 0x5a, 0xf4}; /* movb $0x5a, 0x10; hlt */
	volatile u8 *mem = (u8 *)0x22000;

	memcpy((void *)0x20000, code, sizeof(code));
	mem[0x10] = 0;
	ready(task_code);
	task.eflags = 2 | FL_VM;
	task.eip = 0;
	task.cs = 0x2000;
	task.ss = 0x2100;
	task.ds = task.es = 0x2200;
	handlers_on();
	fault_count = 0;
	task_go();
	handlers_off();
	report(fault_count == 1 && (fault_tr & 0xffff) == SEL_HANDLERS + 8 * (EXC_GP - EXC_TS) &&
		       !fault_error,
	       "a task in virtual-8086 mode");
	report(mem[0x10] == 0x5a && task.eip == 5 && task.eflags & FL_VM && task.cs == 0x2000 &&
		       task.ds == 0x2200,
	       "its store, and what was saved of it");
}

void test_main(void)
{
	cli();
	user_map();
	calls();
	debug();
	spaces();
	sixteen();
	refused();
	for (unsigned i = 0; i < ARRAY_SIZE(bads); i++)
		one_bad(&bads[i]);
	ext();
	report_cases(&current, "these faults are the new task's, which stays busy");
	report_cases(&first, "at its first instruction");
	virtual8086();
}
