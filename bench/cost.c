/*
 * cost - what the KVM API costs its client: an ordinary program for /dev/kvm
 *
 *	anykvm exec -- bench/cost
 *
 * prints lines `cost NAME | VALUE | UNIT`: times are the best of some rounds, sizes are what this
 * process's resident memory grew by. bench/micro.py reads them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GIB    (1ull << 30)
#define CODE   0x1000ull
#define DATA   0x2000ull
#define DEVICE 0x80000000u
#define PORT   0x10
/* Many short rounds: on a machine that others share, few long ones have no quiet best. */
#define TURNS	    20u
#define EXIT_ROUNDS 40u
#define EXITS	    2000u
#define CREATIONS   30u
#define LOW_SIZE    0x10000u

struct machine {
	int vm, vcpu;
	struct kvm_run *run;
	size_t run_size;
	uint8_t *low; /* the first pages: code */
};

static int kvm;

static void fail(const char *what)
{
	fprintf(stderr, "cost: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int need(int value, const char *what)
{
	if (value < 0)
		fail(what);
	return value;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double least(double a, double b)
{
	return a < b ? a : b;
}

static double resident_kib(void)
{
	long pages = 0, all;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%ld %ld", &all, &pages) != 2)
		fail("/proc/self/statm");
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

static void print(const char *name, double value, const char *unit)
{
	printf("cost %s | %.4g | %s\n", name, value, unit);
	fflush(stdout);
}

static uint8_t *host_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap");
	return p;
}

static void slot(const struct machine *m, uint32_t number, uint32_t flags, uint64_t gpa,
		 uint64_t size, void *host)
{
	struct kvm_userspace_memory_region region = {
		.slot = number,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	need(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

/* Flat 32-bit protected mode. */
static void start_at(const struct machine *m, uint64_t rip)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = rip, .rflags = 2, .rdx = PORT, .rbx = DEVICE, .rsi = DATA};
	struct kvm_segment code = {
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};

	need(ioctl(m->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = code;
	code.selector = 16;
	code.type = 3;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = code;
	sregs.cr0 |= 1;
	need(ioctl(m->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	need(ioctl(m->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void start(const struct machine *m)
{
	start_at(m, CODE);
}

static void machine_create(struct machine *m, uint8_t *low)
{
	m->vm = need(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	m->low = low;
	slot(m, 0, 0, 0, LOW_SIZE, low);
	m->vcpu = need(ioctl(m->vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	m->run_size = (size_t)need(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	m->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
	if (m->run == MAP_FAILED)
		fail("mmap of the vCPU");
	start(m);
}

static void machine_destroy(struct machine *m)
{
	munmap(m->run, m->run_size);
	close(m->vcpu);
	close(m->vm);
}

static void run_until(struct machine *m, uint32_t reason)
{
	need(ioctl(m->vcpu, KVM_RUN, 0), "KVM_RUN");
	if (m->run->exit_reason != reason) {
		fprintf(stderr, "cost: exit %u instead of %u\n", m->run->exit_reason, reason);
		exit(1);
	}
}

#define PROGRAM(m, ...)                                      \
	do {                                                 \
		static const uint8_t text[] = {__VA_ARGS__}; \
		memcpy((m)->low + CODE, text, sizeof(text)); \
	} while (0)

/* The best of some VMs with a vCPU that runs up to its first HLT, in us. */
static double creation_us(uint8_t *low)
{
	struct machine m;
	double best = 1e9;

	low[CODE] = 0xf4; /* hlt */
	for (unsigned i = 0; i < CREATIONS; i++) {
		double t = now();

		machine_create(&m, low);
		run_until(&m, KVM_EXIT_HLT);
		t = now() - t;
		best = least(best, t);
		machine_destroy(&m);
	}
	return best * 1e6;
}

static void cost_vcpu(uint8_t *low)
{
	struct machine m;
	double best = 1e9;

	machine_create(&m, low);
	for (unsigned i = 1; i < 9; i++) {
		double t = now();
		int fd = need(ioctl(m.vm, KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU");

		t = now() - t;
		best = least(best, t);
		close(fd);
	}
	print("another vCPU", best * 1e6, "us");
	machine_destroy(&m);
}

struct exit_kind {
	const char *name;
	uint32_t reason;
	uint8_t code[4]; /* the instruction, and a jump back to it */
};

/* The best of some rounds, in ns. */
static double exits_ns(uint8_t *low, const struct exit_kind *kind)
{
	struct machine m;
	double best = 1e9;

	machine_create(&m, low);
	memcpy(low + CODE, kind->code, sizeof(kind->code));
	for (unsigned round = 0; round < EXIT_ROUNDS; round++) {
		double t;

		start(&m);
		run_until(&m, kind->reason);
		t = now();
		for (unsigned i = 0; i < EXITS; i++)
			run_until(&m, kind->reason);
		t = (now() - t) / EXITS * 1e9;
		best = least(best, t);
	}
	machine_destroy(&m);
	return best;
}

/* Creation and exits take turns, so that a second in which the machine is busy spoils none. */
static void cost_creation_and_exits(uint8_t *low)
{
	static const struct exit_kind kinds[] = {
		{"exit: port out", KVM_EXIT_IO, {0xee, 0xeb, 0xfd}},
		{"exit: port in", KVM_EXIT_IO, {0xec, 0xeb, 0xfd}},
		{"exit: MMIO write", KVM_EXIT_MMIO, {0x89, 0x03, 0xeb, 0xfc}},
		{"exit: MMIO read", KVM_EXIT_MMIO, {0x8b, 0x03, 0xeb, 0xfc}},
		{"exit: HLT", KVM_EXIT_HLT, {0xf4, 0xeb, 0xfd}},
	};
	const unsigned count = sizeof(kinds) / sizeof(kinds[0]);
	double creation = creation_us(low), best[sizeof(kinds) / sizeof(kinds[0])];

	for (unsigned k = 0; k < count; k++)
		best[k] = exits_ns(low, &kinds[k]);
	for (unsigned turn = 1; turn < TURNS; turn++) {
		creation = least(creation, creation_us(low));
		for (unsigned k = 0; k < count; k++)
			best[k] = least(best[k], exits_ns(low, &kinds[k]));
	}
	print("VM, vCPU, first HLT", creation, "us");
	for (unsigned k = 0; k < count; k++)
		print(kinds[k].name, best[k], "ns");
}

/* KVM_GET_DIRTY_LOG of 1 GiB, untouched and with every page written by the guest. */
static void cost_dirty_log(uint8_t *low)
{
	size_t bitmap_size = GIB / 4096 / 8;
	uint8_t *memory = host_memory(GIB), *bitmap = host_memory(bitmap_size);
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bitmap};
	double clean = 1e9, dirty = 1e9, on = 1e9;
	struct machine m;

	machine_create(&m, low);
	/* mov $GiB,%edi; 1: movb $1,(%edi); add $4096,%edi; cmp $2 GiB,%edi; jne 1b; hlt */
	PROGRAM(&m, 0xbf, 0, 0, 0, 0x40, 0xc6, 0x07, 0x01, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, 0,
		0, 0, 0x80, 0x75, 0xef, 0xf4);
	slot(&m, 1, 0, GIB, GIB, memory);
	start(&m);
	run_until(&m, KVM_EXIT_HLT);
	for (unsigned i = 0; i < 3; i++) {
		double t = now();

		slot(&m, 1, KVM_MEM_LOG_DIRTY_PAGES, GIB, GIB, memory);
		t = now() - t;
		on = least(on, t);
		need(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
		for (unsigned k = 0; k < 20; k++) {
			t = now();
			need(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
			t = now() - t;
			clean = least(clean, t);
		}
		start(&m);
		run_until(&m, KVM_EXIT_HLT);
		t = now();
		need(ioctl(m.vm, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
		t = now() - t;
		dirty = least(dirty, t);
		for (size_t k = 0; k < bitmap_size; k++)
			if (bitmap[k] != 0xff) {
				fprintf(stderr, "cost: a written page is not in the dirty log\n");
				exit(1);
			}
		slot(&m, 1, 0, GIB, GIB, memory);
	}
	print("dirty log on, per GiB", on * 1e6, "us");
	print("dirty log per GiB, clean", clean * 1e6, "us");
	print("dirty log per GiB, all dirty", dirty * 1e6, "us");
	machine_destroy(&m);
	munmap(memory, GIB);
	munmap(bitmap, bitmap_size);
}

static void cost_memslots(uint8_t *low)
{
	uint8_t *memory = host_memory(1 << 20);
	double best = 1e9;
	struct machine m;

	machine_create(&m, low);
	for (unsigned i = 0; i < 200; i++) {
		double t = now();

		slot(&m, 1, 0, GIB, 1 << 20, memory);
		slot(&m, 1, 0, GIB, 0, memory);
		t = (now() - t) / 2;
		best = least(best, t);
	}
	print("memslot update", best * 1e6, "us");
	machine_destroy(&m);
	munmap(memory, 1 << 20);
}

/*
 * What resident memory grows by when a guest writes to each page of a new slot. The client's
 * memory is there already, so that only what is kept about it counts.
 */
static double growth_kib(uint8_t *low, uint64_t size)
{
	uint8_t *memory = host_memory(size), end = (uint8_t)((GIB + size) >> 24);
	struct machine m;
	double kib;

	memset(memory, 1, size);
	machine_create(&m, low);
	PROGRAM(&m, 0xbf, 0, 0, 0, 0x40, 0xc6, 0x07, 0x01, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, 0,
		0, 0, 0x80, 0x75, 0xef, 0xf4);
	low[CODE + 19] = end;
	low[DATA] = 0xf4;
	start_at(&m, DATA);
	run_until(&m, KVM_EXIT_HLT);
	kib = resident_kib();
	slot(&m, 1, 0, GIB, size, memory);
	start(&m);
	run_until(&m, KVM_EXIT_HLT);
	kib = resident_kib() - kib;
	machine_destroy(&m);
	munmap(memory, size);
	return kib;
}

#define IDLE 8u

static void cost_memory(uint8_t *low)
{
	struct machine idle[IDLE], m = {.low = low};
	double before, after;

	PROGRAM(&m, 0xf4);
	before = resident_kib();
	for (unsigned i = 0; i < IDLE; i++) {
		machine_create(&idle[i], low);
		run_until(&idle[i], KVM_EXIT_HLT);
	}
	after = resident_kib();
	for (unsigned i = 0; i < IDLE; i++)
		machine_destroy(&idle[i]);
	print("idle VM", (after - before) / IDLE, "KiB");

	/* From the growth, what one vCPU's TLB took drops out. */
	print("metadata per GiB", (growth_kib(low, GIB) - growth_kib(low, GIB / 4)) * 4 / 3, "KiB");
}

int main(void)
{
	uint8_t *low = host_memory(LOW_SIZE);

	kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	cost_creation_and_exits(low);
	cost_vcpu(low);
	cost_memslots(low);
	cost_dirty_log(low);
	cost_memory(low);
	return 0;
}
