/*
 * A small boot in which each of the library's calls into libc fails once in turn: the process does
 * not crash or hang, what fails says so with an errno, and what can be closed is closed.
 *
 * The guest is real-mode code that does port and memory I/O, changes itself and sleeps for the
 * PIT's interrupts; the client uses eventfds, dirty log, statistics and every state ioctl.
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
	TRY(c->vm = call(c->kvm, KVM_CREATE_VM, NULL));
	TRY(call(c->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000));
	TRY(call(c->vm, KVM_CREATE_IRQCHIP, NULL));
	TRY(call(c->vm, KVM_CREATE_PIT2, &pit));
	slot.memory_size = 0xc0000; /* what is behind is I/O */
	TRY(call(c->vm, KVM_SET_USER_MEMORY_REGION, &slot));
	TRY(call(c->vm, KVM_REGISTER_COALESCED_MMIO, &zone));
	event.fd = c->events[0];
	TRY(call(c->vm, KVM_IOEVENTFD, &event));
	irqfd.fd = (u32)c->events[1];
	TRY(call(c->vm, KVM_IRQFD, &irqfd));
	return GOOD;
}

static int vcpu_make(struct client *c, unsigned i, struct kvm_cpuid2 *cpuid)
{
	int size = call(c->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	void *run;

	TRY(size);
	c->run_size = (size_t)size;
	TRY(c->vcpu[i] = call(c->vm, KVM_CREATE_VCPU, (void *)(u64)i));
	run = anykvm_mmap(c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu[i], 0);
	if (run == MAP_FAILED)
		return CLEAN;
	c->run[i] = run;
	cpuid->nent = 128;
	TRY(call(c->kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
	TRY(call(c->vcpu[i], KVM_SET_CPUID2, cpuid));
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
