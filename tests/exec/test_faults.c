/*
 * A small boot in which each of the library's calls into libc fails once in turn: the process does
 * not crash or hang, what fails says so with an errno, and what can be closed is closed.
 *
 * The guest is real-mode code that does port and memory I/O, changes itself and sleeps for the
 * PIT's interrupts; the client uses eventfds, dirty log, statistics and every state ioctl. What makes
 * something anew and publishes it (slots, attributes, filters, routes) must do so when asked again.
 */
#include "faults.h"

#include <anykvm.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvm/abi.h"

#define MEM_SIZE   (1u << 20)
#define CODE	   0x8000u
#define PORT_DONE  0x10
#define PORT_EVENT 0x20
#define MAX_FAULTS 5000u
#define SECONDS	   20

enum { GOOD = 0, CLEAN = 1, WRONG = 2, LEAK = 3 };

extern const u8 guest_code[], guest_code_end[];
__asm__(".pushsection .rodata\n.code16\nguest_code:\n"
	"	xorw %ax, %ax\n	movw %ax, %ds\n	movw %ax, %ss\n	movw $0x7000, %sp\n"
	/* PIC: vectors from 0x20, only IRQ 0 open; PIT: 1 kHz. */
	"	movb $0x11, %al\n	outb %al, $0x20\n	movb $0x20, %al\n	outb %al, $0x21\n"
	"	movb $4, %al\n	outb %al, $0x21\n	movb $1, %al\n	outb %al, $0x21\n"
	"	movb $0xfe, %al\n	outb %al, $0x21\n"
	"	movb $0x34, %al\n	outb %al, $0x43\n	movb $0xa9, %al\n	outb %al, $0x40\n"
	"	movb $4, %al\n	outb %al, $0x40\n"
	"	movw $(0x8000 + handler - guest_code), 0x80\n	movw $0, 0x82\n"
	"	movw $0, 0x600\n"
	"	movw $0xd000, %ax\n	movw %ax, %es\n"
	"	movb %al, %es:0x10\n	movb %es:0x10, %al\n"
	"	movw $1, %ax\n	movw $0x120, %dx\n	outw %ax, %dx\n"
	"	movb $5, 0x8000 + patched + 1 - guest_code\n"
	"	jmp patched\n"
	"patched:	movb $1, %bl\n"
	"	movw $0x500, %di\n	xorw %ax, %ax\n	movw %ax, %es\n	movw $64, %cx\n"
	"	cld\n	rep stosb\n"
	"	fldpi\n	fstpl 0x610\n"
	"wait:	sti\n	hlt\n	cli\n	cmpw $3, 0x600\n	jb wait\n"
	"	movb %bl, %al\n	outb %al, $0x10\n"
	"	hlt\n"
	"handler:	incw 0x600\n	pushw %ax\n	movb $0x20, %al\n	outb %al, $0x20\n"
	"	popw %ax\n	iretw\n"
	"guest_code_end:\n.code64\n.popsection");

struct client {
	int kvm, vm, vcpu[2], stats, events[2];
	struct kvm_run *run[2];
	size_t run_size;
	u8 *mem;
};

void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t n);
int __real_close(int fd);
int __real_eventfd(unsigned value, int flags);
void *__real_calloc(size_t n, size_t size);

/* 0 or more, or -errno; a failure without errno is a fault of its own. */
static bool talk; /* the boot without a fault */

static int call(int fd, unsigned long request, const void *arg)
{
	int ret;

	errno = 0;
	ret = anykvm_ioctl(fd, request, (unsigned long)arg);
	if (ret >= 0)
		return ret;
	if (talk)
		printf("# request %#lx: %s\n", request, strerror(errno));
	if (errno <= 0 || errno > 4095)
		_exit(WRONG);
	return -errno;
}

#define TRY(...)                       \
	do {                           \
		if ((__VA_ARGS__) < 0) \
			return CLEAN;  \
	} while (0)

/* What failed for want of something is asked for once more: nothing may have stayed behind by halves. */
static int again(int fd, unsigned long request, const void *arg)
{
	int ret = call(fd, request, arg);

	if (ret < 0)
		ret = call(fd, request, arg);
	if (ret < 0) {
		printf("# request %#lx twice: %s\n", request, strerror(-ret));
		fflush(stdout);
		_exit(WRONG);
	}
	return ret;
}

static int vm_make(struct client *c)
{
	struct kvm_pit_config pit = {0};
	struct kvm_userspace_memory_region slot = {.flags = KVM_MEM_LOG_DIRTY_PAGES,
						   .memory_size = MEM_SIZE,
						   .guest_phys_addr = 0,
						   .userspace_addr = (u64)c->mem};
	struct kvm_coalesced_mmio_zone zone = {.addr = 0xe0000, .size = 4096};
	struct kvm_ioeventfd event = {.addr = 0x120, .len = 2, .flags = KVM_IOEVENTFD_FLAG_PIO};
	struct kvm_irqfd irqfd = {.gsi = 5};

	c->kvm = anykvm_open("cache=16");
	TRY(c->kvm);
	c->vm = again(c->kvm, KVM_CREATE_VM, NULL);
	again(c->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000);
	again(c->vm, KVM_CREATE_IRQCHIP, NULL);
	again(c->vm, KVM_CREATE_PIT2, &pit);
	slot.memory_size = 0xc0000; /* what is behind is I/O */
	again(c->vm, KVM_SET_USER_MEMORY_REGION, &slot);
	again(c->vm, KVM_REGISTER_COALESCED_MMIO, &zone);
	event.fd = c->events[0];
	again(c->vm, KVM_IOEVENTFD, &event);
	irqfd.fd = (u32)c->events[1];
	again(c->vm, KVM_IRQFD, &irqfd);
	return GOOD;
}

static int vcpu_make(struct client *c, unsigned i, struct kvm_cpuid2 *cpuid)
{
	int size = again(c->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	void *run;

	c->run_size = (size_t)size;
	c->vcpu[i] = again(c->vm, KVM_CREATE_VCPU, (void *)(u64)i);
	run = anykvm_mmap(c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu[i], 0);
	if (run == MAP_FAILED)
		return CLEAN;
	c->run[i] = run;
	cpuid->nent = 128;
	again(c->kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
	again(c->vcpu[i], KVM_SET_CPUID2, cpuid);
	return GOOD;
}

/* There and back: nothing changes. */
static int states(struct client *c)
{
	static const unsigned long pairs[][2] = {
		{KVM_GET_REGS, KVM_SET_REGS},
		{KVM_GET_SREGS, KVM_SET_SREGS},
		{KVM_GET_FPU, KVM_SET_FPU},
		{KVM_GET_XSAVE, KVM_SET_XSAVE},
		{KVM_GET_XCRS, KVM_SET_XCRS},
		{KVM_GET_LAPIC, KVM_SET_LAPIC},
		{KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS},
		{KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS},
		{KVM_GET_MP_STATE, KVM_SET_MP_STATE},
	};
	static u64 buffer[1024];

	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++) {
		memset(buffer, 0, sizeof(buffer));
		TRY(call(c->vcpu[0], pairs[i][0], buffer));
		TRY(call(c->vcpu[0], pairs[i][1], buffer));
	}
	return GOOD;
}

/* Requests that make something anew and publish it. */
static void publishing(struct client *c)
{
	union {
		struct kvm_irq_routing head;
		u8 room[sizeof(struct kvm_irq_routing) + 2 * sizeof(struct kvm_irq_routing_entry)];
	} routes = {.head = {.nr = 2}};
	static u8 bits[16];
	struct kvm_msr_filter filter = {.ranges[0] = {.flags = KVM_MSR_FILTER_READ,
						      .nmsrs = 128,
						      .base = 0xc0000100,
						      .bitmap = bits}};
	union {
		struct kvm_pmu_event_filter head;
		u8 room[sizeof(struct kvm_pmu_event_filter) + 4 * sizeof(u64)];
	} events = {.head = {.action = KVM_PMU_EVENT_DENY, .nevents = 4}};
	struct kvm_ioeventfd event = {
		.addr = 0x140, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO, .fd = c->events[0]};
	struct kvm_coalesced_mmio_zone zone = {.addr = 0xf0000, .size = 4096};
	struct kvm_irqfd resample = {.fd = (u32)c->events[0],
				     .gsi = 9,
				     .flags = KVM_IRQFD_FLAG_RESAMPLE,
				     .resamplefd = (u32)c->events[1]};

	for (unsigned i = 0; i < 2; i++)
		routes.head.entries[i] = (struct kvm_irq_routing_entry){
			.gsi = 5 + 4 * i,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {KVM_IRQCHIP_IOAPIC, 5 + 4 * i}};
	again(c->vm, KVM_SET_GSI_ROUTING, &routes);
	again(c->vm, KVM_X86_SET_MSR_FILTER, &filter);
	again(c->vm, KVM_SET_PMU_EVENT_FILTER, &events);
	again(c->vm, KVM_IOEVENTFD, &event);
	event.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	again(c->vm, KVM_IOEVENTFD, &event);
	again(c->vm, KVM_REGISTER_COALESCED_MMIO, &zone);
	again(c->vm, KVM_UNREGISTER_COALESCED_MMIO, &zone);
	again(c->vm, KVM_IRQFD, &resample);
	resample.flags = KVM_IRQFD_FLAG_DEASSIGN;
	again(c->vm, KVM_IRQFD, &resample);
}

/* Slots that come, go, move and begin a log; enough of them for the map to have inner nodes. */
static void slots(struct client *c)
{
	struct kvm_userspace_memory_region r = {.memory_size = 4096, .userspace_addr = (u64)c->mem};
	u64 bits = ~0ull;
	struct kvm_clear_dirty_log clear = {.slot = 10, .num_pages = 1, .dirty_bitmap = &bits};

	for (unsigned i = 0; i < 70; i++) {
		r.slot = 10 + i;
		r.guest_phys_addr = 0x1000000 + i * 0x2000;
		again(c->vm, KVM_SET_USER_MEMORY_REGION, &r);
	}
	r.slot = 10;
	r.guest_phys_addr = 0x3000000;
	again(c->vm, KVM_SET_USER_MEMORY_REGION, &r);
	r.flags = KVM_MEM_LOG_DIRTY_PAGES;
	again(c->vm, KVM_SET_USER_MEMORY_REGION, &r);
	again(c->vm, KVM_CLEAR_DIRTY_LOG, &clear);
	r.memory_size = 0;
	for (unsigned i = 0; i < 70; i++) {
		r.slot = 10 + i;
		again(c->vm, KVM_SET_USER_MEMORY_REGION, &r);
	}
}

/* A VM with private memory, without vCPUs. */
static int private_memory(struct client *c)
{
	struct kvm_create_guest_memfd make = {.size = 16 * 4096};
	struct kvm_userspace_memory_region2 r = {.flags = KVM_MEM_GUEST_MEMFD,
						 .memory_size = 16 * 4096,
						 .userspace_addr = (u64)c->mem};
	struct kvm_memory_attributes a = {.size = 4096, .attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE};
	int vm = call(c->kvm, KVM_CREATE_VM, (void *)KVM_X86_SW_PROTECTED_VM), fd;

	if (vm < 0)
		return CLEAN;
	fd = again(vm, KVM_CREATE_GUEST_MEMFD, &make);
	r.guest_memfd = (u32)fd;
	again(vm, KVM_SET_USER_MEMORY_REGION2, &r);
	for (a.address = 0x1000; a.address < 16 * 4096; a.address += 0x2000)
		again(vm, KVM_SET_MEMORY_ATTRIBUTES, &a);
	a = (struct kvm_memory_attributes){.size = 16 * 4096};
	again(vm, KVM_SET_MEMORY_ATTRIBUTES, &a);
	if (anykvm_fallocate(fd, 3 /* KEEP_SIZE, PUNCH_HOLE */, 0, 4096) && !errno)
		_exit(WRONG);
	anykvm_close(fd);
	anykvm_close(vm);
	return GOOD;
}

static int start(struct client *c)
{
	struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	struct kvm_sregs sregs;

	memcpy(c->mem + CODE, guest_code, (size_t)(guest_code_end - guest_code));
	TRY(call(c->vcpu[0], KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	TRY(call(c->vcpu[0], KVM_SET_SREGS, &sregs));
	TRY(call(c->vcpu[0], KVM_SET_REGS, &regs));
	return GOOD;
}

/* The guest to its end: it counted three interrupts or more and ran its changed instruction. */
static int run_guest(struct client *c)
{
	struct kvm_run *run = c->run[0];
	u64 bitmap[MEM_SIZE / 4096 / 64] = {0};
	struct kvm_dirty_log log = {.dirty_bitmap = bitmap};

	for (;;) {
		int ret = call(c->vcpu[0], KVM_RUN, NULL);

		if (ret == -EINTR)
			continue;
		TRY(ret);
		if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
			return CLEAN;
		if (run->exit_reason == KVM_EXIT_MMIO) {
			memset(run->mmio.data, 0, sizeof(run->mmio.data));
			continue;
		}
		if (run->exit_reason != KVM_EXIT_IO)
			return WRONG;
		if (run->io.port == PORT_DONE)
			break;
	}
	if (((u8 *)run)[run->io.data_offset] != 5 || *(u16 *)(c->mem + 0x600) < 3)
		return WRONG;
	TRY(call(c->vm, KVM_GET_DIRTY_LOG, &log));
	return bitmap[0] & 1 ? GOOD : WRONG;
}

static int boot(struct client *c, struct kvm_cpuid2 *cpuid)
{
	char text[512];
	int ret = vm_make(c);

	for (unsigned i = 0; !ret && i < 2; i++)
		ret = vcpu_make(c, i, cpuid);
	if (!ret)
		ret = start(c);
	if (!ret)
		ret = run_guest(c);
	if (!ret)
		ret = states(c);
	if (ret)
		return ret;
	publishing(c);
	slots(c);
	TRY(-private_memory(c));
	TRY(c->stats = call(c->vcpu[0], KVM_GET_STATS_FD, NULL));
	TRY((int)anykvm_read(c->stats, text, sizeof(text)));
	return GOOD;
}

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (dir && readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* In a process of its own. */
static int attempt(u32 n)
{
	struct client c = {.kvm = -1, .vm = -1, .vcpu = {-1, -1}, .stats = -1};
	struct kvm_cpuid2 *cpuid =
		__real_calloc(1, sizeof(*cpuid) + 128 * sizeof(cpuid->entries[0]));
	int before, ret;

	c.mem = __real_mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0);
	c.events[0] = __real_eventfd(0, 0);
	c.events[1] = __real_eventfd(0, 0);
	before = descriptors();
	faults_arm(n);
	ret = boot(&c, cpuid);
	for (unsigned i = 0; i < 2; i++) {
		if (c.run[i])
			anykvm_munmap(c.run[i], c.run_size);
		if (c.vcpu[i] >= 0)
			anykvm_close(c.vcpu[i]);
	}
	if (c.stats >= 0)
		anykvm_close(c.stats);
	if (c.vm >= 0)
		anykvm_close(c.vm);
	if (c.kvm >= 0)
		anykvm_close(c.kvm);
	if (ret <= CLEAN && descriptors() > before)
		ret = LEAK;
	return ret;
}

struct report {
	u32 count;
	const char *name;
	void *site;
	int ret;
};

/* One boot in a process of its own: how it ended. */
static int boot_apart(u32 n, struct report *shared)
{
	int status = -1;
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	shared->ret = WRONG;
	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(SECONDS);
		faults_report(&shared->name, &shared->site);
		shared->ret = attempt(n);
		shared->count = faults_count();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

extern char __executable_start[];

int main(int argc, char **argv)
{
	static const char *const words[] = {"good", "clean", "wrong result", "descriptors leak"};
	struct report *shared =
		__real_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	u32 calls, bad = 0, first = argc > 1 ? (u32)atoi(argv[1]) : 1, clean = 0;
	int status;

	/* Without a fault; the child's calls are counted. */
	printf("1..2\n");
	talk = true;
	status = boot_apart(0, shared);
	calls = shared->count;
	printf("%sok 1 - a boot, %u calls\n", status || shared->ret ? "not " : "", calls);
	if (status || shared->ret)
		printf("# status %x, %s\n", (unsigned)status, words[shared->ret & 3]);
	talk = false;
	for (u32 n = first; n <= MIN(argc > 1 ? first : calls + 2, MAX_FAULTS); n++) {
		status = boot_apart(n, shared);
		clean += !status && shared->ret == CLEAN;
		if (!status && shared->ret <= CLEAN)
			continue;
		bad++;
		printf("# call %u, %s at %#lx: %s %d\n", n, shared->name ? shared->name : "none",
		       (unsigned long)((char *)shared->site - __executable_start),
		       status ? "signal" : words[shared->ret & 3], WTERMSIG(status));
	}
	printf("%sok 2 - each of them fails once: %u errors for the client, %u borne\n",
	       bad ? "not " : "", clean, calls - MIN(clean, calls));
	return bad || 0;
}
