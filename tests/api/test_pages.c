/*
 * The statistics of pages given to the vCPUs: sizes, splitting by the dirty log and by NX huge pages,
 * recovery, what forgets them, and KVM_CAP_VM_DISABLE_NX_HUGE_PAGES.
 */
#include "api.h"

#include <linux/capability.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#define AREA   0x10000000ull
#define BLOCK  0x200000ull
#define BLOCKS 3u
#define GIGA   0x40000000ull

#ifndef KVM_CAP_VM_DISABLE_NX_HUGE_PAGES
#define KVM_CAP_VM_DISABLE_NX_HUGE_PAGES 220
#endif

struct counts {
	u64 small, large, huge, splits;
};

static u64 stat_of(int vm, const char *name)
{
	int fd = api_ioctl_value(vm, KVM_GET_STATS_FD, 0);
	struct kvm_stats_header h;
	u64 value = ~0ull;
	bool found = false;

	assert_true(fd >= 0);
	assert_int_equal(anykvm_pread(fd, &h, sizeof(h), 0), sizeof(h));
	for (u32 i = 0; i < h.num_desc && !found; i++) {
		union {
			struct kvm_stats_desc d;
			char room[sizeof(struct kvm_stats_desc) + 256];
		} desc;
		size_t size = sizeof(desc.d) + h.name_size;

		assert_true(size <= sizeof(desc));
		assert_int_equal(anykvm_pread(fd, &desc, size, (off_t)(h.desc_offset + i * size)),
				 size);
		if (strcmp(desc.d.name, name))
			continue;
		found = true;
		assert_int_equal(desc.d.flags & KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_INSTANT);
		assert_int_equal(
			anykvm_pread(fd, &value, 8, (off_t)(h.data_offset + desc.d.offset)), 8);
	}
	assert_true(found);
	anykvm_close(fd);
	return value;
}

static struct counts counts_of(const struct api_vm *t)
{
	return (struct counts){
		.small = stat_of(t->vm, "pages_4k"),
		.large = stat_of(t->vm, "pages_2m"),
		.huge = stat_of(t->vm, "pages_1g"),
		.splits = stat_of(t->vm, "nx_lpage_splits"),
	};
}

/* What has changed since `before`, in signed numbers. */
static void expect(const struct api_vm *t, const struct counts *before, int small, int large,
		   int huge, int splits)
{
	struct counts now = counts_of(t);

	assert_int_equal((int)(now.small - before->small), small);
	assert_int_equal((int)(now.large - before->large), large);
	assert_int_equal((int)(now.huge - before->huge), huge);
	assert_int_equal((int)(now.splits - before->splits), splits);
}

static void *aligned_map(u64 size, u64 align, u64 off, void **base)
{
	u8 *p = mmap(NULL, size + 2 * align, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	*base = p;
	return (u8 *)(((u64)p + align - 1) & ~(align - 1)) + off;
}

struct area {
	struct api_vm t;
	void *base, *low;
	u8 *mem;
	size_t mapped;
	struct counts before; /* when the code has run to its first exit */
};

/* Code that has an argument in RDI and RSI, and leaves by port 0x10 before it begins. */
static void area_start(struct area *a, const u8 *code, size_t size)
{
	struct kvm_regs r;
	u8 *low = aligned_map(API_MEM_SIZE, BLOCK, 0x1000, &a->low);

	api_start64(&a->t, 0, code, size);
	/* Of the memory with the code nothing fits a larger page. */
	memcpy(low, a->t.mem, API_MEM_SIZE);
	assert_int_equal(api_slot(&a->t, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(api_slot(&a->t, 0, 0, 0, API_MEM_SIZE, low), 0);
	r = api_regs(&a->t, 0);
	r.rdi = AREA;
	r.rsi = AREA + BLOCK;
	r.rbx = AREA + 2 * BLOCK;
	api_set_regs(&a->t, 0, &r);
	api_run_to_out(&a->t, 0, 0x10);
	a->before = counts_of(&a->t);
}

/* `off`: how far the client's memory is from being aligned as the guest's is. */
static void area_slot(struct area *a, u32 flags, u64 off)
{
	a->mapped = BLOCKS * BLOCK + 2 * BLOCK;
	a->mem = aligned_map(BLOCKS * BLOCK, BLOCK, off, &a->base);
	memset(a->mem, 0xc3, BLOCKS * BLOCK); /* RET */
	assert_int_equal(api_slot(&a->t, 1, flags, AREA, BLOCKS * BLOCK, a->mem), 0);
}

static void area_free(struct area *a)
{
	api_vm_free(&a->t);
	munmap(a->base, a->mapped);
	munmap(a->low, API_MEM_SIZE + 2 * BLOCK);
}

static void nx_set(struct area *a, unsigned on, unsigned ratio, unsigned period)
{
	struct anykvm_parameters p = {on, ratio, period, 1};

	assert_int_equal(anykvm_set_parameters(a->t.vm, &p), 0);
}

static void sleep_ms(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

API_CODE64(reads, "out %al, $0x10; mov (%rdi), %rax; out %al, $0x10; mov 0x5000(%rdi), %rax;"
		  "mov 0x7000(%rsi), %rax; out %al, $0x10; movb $1, 0x1000(%rdi); out %al, $0x10;"
		  "mov (%rdi), %rax; mov (%rbx), %rax; out %al, $0x10");

static void sizes(void **state)
{
	struct area a;

	api_vm_make(&a.t, 1, 0);
	area_slot(&a, 0, 0);
	area_start(&a, reads_begin, API_SIZE(reads));
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 1, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	/* A slot that moves takes them with it. */
	assert_int_equal(api_slot(&a.t, 1, 0, AREA + 8 * BLOCK, BLOCKS * BLOCK, a.mem), 0);
	expect(&a.t, &a.before, 0, 0, 0, 0);
	assert_int_equal(api_slot(&a.t, 1, 0, AREA, BLOCKS * BLOCK, a.mem), 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	assert_int_equal(api_slot(&a.t, 1, 0, AREA, 0, NULL), 0);
	expect(&a.t, &a.before, 0, 0, 0, 0);
	area_free(&a);
}

static void unaligned(void **state)
{
	struct area a;

	api_vm_make(&a.t, 1, 0);
	area_slot(&a, 0, 0x1000);
	area_start(&a, reads_begin, API_SIZE(reads));
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 1, 0, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 3, 0, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 4, 0, 0, 0);
	area_free(&a);
}

/* A block that reaches beyond its slot is given in single pages. */
static void edges(void **state)
{
	struct area a;

	api_vm_make(&a.t, 1, 0);
	area_slot(&a, 0, 0);
	assert_int_equal(api_slot(&a.t, 1, 0, 0, 0, NULL), 0);
	assert_int_equal(api_slot(&a.t, 1, 0, AREA, BLOCK + 0x100000, a.mem), 0);
	area_start(&a, reads_begin, API_SIZE(reads));
	api_run_to_out(&a.t, 0, 0x10);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 1, 1, 0, 0);
	area_free(&a);
}

API_CODE64(
	far,
	"push %rax; pop %rax; out %al, $0x10; mov 0x8000000, %al; out %al, $0x10; mov $0x30000000, %ebx;"
	"movb $0xc3, (%rbx); out %al, $0x10; call *%rbx; out %al, $0x10");

static void giga(void **state)
{
	struct anykvm_parameters nx = {1, 0, 0, 1};
	struct counts none = {0};
	struct api_vm t;
	void *base;
	u8 *mem;

	for (unsigned on = 0; on < 2; on++) {
		api_vm_make(&t, 1, 0);
		nx.nx_huge_pages = on;
		assert_int_equal(anykvm_set_parameters(t.vm, &nx), 0);
		api_start64(&t, 0, far_begin, API_SIZE(far));
		mem = aligned_map(GIGA, GIGA, 0, &base);
		memcpy(mem, t.mem, API_MEM_SIZE);
		assert_int_equal(api_slot(&t, 0, 0, 0, 0, NULL), 0);
		assert_int_equal(api_slot(&t, 0, 0, 0, GIGA, mem), 0);
		api_run_to_out(&t, 0, 0x10);
		/* The code's page is the first, beside the stack's; with NX it takes both larger sizes apart. */
		if (!on)
			expect(&t, &none, 0, 0, 1, 0);
		else
			expect(&t, &none, 2, 0, 0, 2);
		api_run_to_out(&t, 0, 0x10);
		api_run_to_out(&t, 0, 0x10);
		if (!on)
			expect(&t, &none, 0, 0, 1, 0);
		else
			expect(&t, &none, 2, 2, 0, 2);
		api_run_to_out(&t, 0, 0x10);
		if (!on)
			expect(&t, &none, 0, 0, 1, 0);
		else
			expect(&t, &none, 514, 1, 0, 3);
		/* The dirty log takes all of it apart. */
		assert_int_equal(api_slot(&t, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, GIGA, mem), 0);
		if (!on)
			expect(&t, &none, 512 * 512, 0, 0, 0);
		else
			expect(&t, &none, 1026, 0, 0, 3);
		api_vm_free(&t);
		munmap(base, 3 * GIGA);
	}
}

static void dirty_log(void **state)
{
	struct area a;

	api_vm_make(&a.t, 1, 0);
	area_slot(&a, 0, 0);
	area_start(&a, reads_begin, API_SIZE(reads));
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 1, 0, 0);
	assert_int_equal(api_slot(&a.t, 1, KVM_MEM_LOG_DIRTY_PAGES, AREA, BLOCKS * BLOCK, a.mem),
			 0);
	expect(&a.t, &a.before, 512, 0, 0, 0);
	api_run_to_out(&a.t, 0, 0x10); /* one page of another block */
	expect(&a.t, &a.before, 513, 0, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 513, 0, 0, 0);
	assert_int_equal(api_slot(&a.t, 1, 0, AREA, BLOCKS * BLOCK, a.mem), 0);
	expect(&a.t, &a.before, 0, 0, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	area_free(&a);
}

/* Without eager_page_split the first store does it. */
static void dirty_log_lazy(void **state)
{
	struct anykvm_parameters p = {0, 60, 0, 0};
	struct area a;

	api_vm_make(&a.t, 1, 0);
	assert_int_equal(anykvm_set_parameters(a.t.vm, &p), 0);
	area_slot(&a, 0, 0);
	area_start(&a, reads_begin, API_SIZE(reads));
	api_run_to_out(&a.t, 0, 0x10);
	assert_int_equal(api_slot(&a.t, 1, KVM_MEM_LOG_DIRTY_PAGES, AREA, BLOCKS * BLOCK, a.mem),
			 0);
	expect(&a.t, &a.before, 0, 1, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 1, 1, 0, 0);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 513, 0, 0, 0);
	area_free(&a);
}

/* A log that begins with all bits set splits what is cleared from it. */
static void dirty_log_clear(void **state)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET}};
	u64 bits[BLOCKS * 8] = {0};
	struct kvm_clear_dirty_log clear = {
		.slot = 1, .num_pages = BLOCKS * 512, .dirty_bitmap = bits};
	struct area a;

	api_vm_make(&a.t, 1, 0);
	assert_int_equal(api_ioctl(a.t.vm, KVM_ENABLE_CAP, &cap), 0);
	area_slot(&a, 0, 0);
	area_start(&a, reads_begin, API_SIZE(reads));
	api_run_to_out(&a.t, 0, 0x10);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	assert_int_equal(api_slot(&a.t, 1, KVM_MEM_LOG_DIRTY_PAGES, AREA, BLOCKS * BLOCK, a.mem),
			 0);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	api_run_to_out(&a.t, 0, 0x10); /* nothing is protected yet */
	expect(&a.t, &a.before, 0, 2, 0, 0);
	bits[9] = 4;
	assert_int_equal(api_ioctl(a.t.vm, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	expect(&a.t, &a.before, 512, 1, 0, 0);
	bits[0] = 1;
	assert_int_equal(api_ioctl(a.t.vm, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	expect(&a.t, &a.before, 1024, 0, 0, 0);
	area_free(&a);
}

/* ---- NX huge pages ---- */

API_CODE64(
	calls,
	"push %rax; pop %rax; out %al, $0x10; mov (%rdi), %rax; mov (%rsi), %rax; out %al, $0x10; call *%rdi;"
	"out %al, $0x10; call *%rbx; out %al, $0x10; mov (%rdi), %rax; out %al, $0x10;"
	"mov (%rbx), %rax; out %al, $0x10; call *%rdi; out %al, $0x10");

static void nx_start(struct area *a, unsigned ratio, unsigned period, u32 flags)
{
	api_vm_make(&a->t, 1, 0);
	area_slot(a, flags, 0);
	nx_set(a, 1, ratio, period);
	area_start(a, calls_begin, API_SIZE(calls));
	api_run_to_out(&a->t, 0, 0x10);
}

static void nx_splits(void **state)
{
	struct area a;

	nx_start(&a, 0, 0, 0);
	expect(&a.t, &a.before, 0, 2, 0, 0);
	api_run_to_out(&a.t, 0,
		       0x10); /* executes from a block that was given: all of it in 4 KiB */
	expect(&a.t, &a.before, 512, 1, 0, 1);
	api_run_to_out(&a.t, 0, 0x10); /* from one that was not: one page */
	expect(&a.t, &a.before, 513, 1, 0, 2);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 513, 1, 0, 2);
	api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 513, 1, 0, 2);
	/* Off: all that was given is void, and nothing is split again. */
	nx_set(&a, 0, 0, 0);
	assert_int_equal(stat_of(a.t.vm, "pages_4k"), 0);
	assert_int_equal(stat_of(a.t.vm, "nx_lpage_splits"), 0);
	api_run_to_out(&a.t, 0, 0x10);
	assert_int_equal(stat_of(a.t.vm, "nx_lpage_splits"), 0);
	assert_true(stat_of(a.t.vm, "pages_2m") >= 1);
	area_free(&a);
}

static void nx_recovers(void **state)
{
	struct area a;

	nx_start(&a, 1, 50, 0);
	api_run_to_out(&a.t, 0, 0x10);
	api_run_to_out(&a.t, 0, 0x10);
	api_run_to_out(&a.t, 0, 0x10);
	sleep_ms(200);
	assert_int_equal(stat_of(a.t.vm, "nx_lpage_splits"), 0);
	expect(&a.t, &a.before, 0, 1, 0, 0);
	api_run_to_out(&a.t, 0, 0x10); /* what was recovered is given in one piece */
	expect(&a.t, &a.before, 0, 2, 0, 0);
	area_free(&a);
}

/* One part in `ratio` each period, the oldest first. */
static void nx_recovers_a_part(void **state)
{
	u64 last = 2, began = 0, gap = 0;
	bool one = false;
	struct area a;

	nx_start(&a, 2, 400, 0);
	api_run_to_out(&a.t, 0, 0x10);
	sleep_ms(20);
	api_run_to_out(&a.t, 0, 0x10);
	for (unsigned i = 0; i < 3000 && last; i++) {
		struct timespec t;
		u64 ms, small;

		clock_gettime(CLOCK_MONOTONIC, &t);
		ms = (u64)t.tv_sec * 1000 + (u64)t.tv_nsec / 1000000;
		gap = began && ms - began > gap ? ms - began : gap;
		began = ms;
		/* Each look may be the one that recovers: one split before the others and behind. */
		last = stat_of(a.t.vm, "nx_lpage_splits");
		small = stat_of(a.t.vm, "pages_4k");
		if (last == 1 && stat_of(a.t.vm, "nx_lpage_splits") == 1) {
			one = true;
			assert_int_equal(small - a.before.small, 1);
		}
		sleep_ms(10);
	}
	assert_int_equal(last, 0);
	expect(&a.t, &a.before, 0, 1, 0, 0);
	/* It is seen on the way, unless this machine stood still for so long. */
	assert_true(one || gap >= 400);
	area_free(&a);
}

/* Where a dirty log is on, recovery only stops to count. */
static void nx_recovery_and_log(void **state)
{
	struct area a;

	nx_start(&a, 1, 100, 0);
	api_run_to_out(&a.t, 0, 0x10);
	assert_int_equal(api_slot(&a.t, 1, KVM_MEM_LOG_DIRTY_PAGES, AREA, BLOCKS * BLOCK, a.mem),
			 0);
	sleep_ms(250);
	assert_int_equal(stat_of(a.t.vm, "nx_lpage_splits"), 0);
	expect(&a.t, &a.before, 1024, 0, 0, 0);
	area_free(&a);
}

/* ---- all of it under running vCPUs ---- */

API_CODE64(
	busy,
	"push %rax; pop %rax; out %al, $0x10; again: mov $2000, %ecx;"
	"1: mov (%rdi), %rax; mov 0x3000(%rsi), %rax; mov 0x5000(%rbx), %rax; movb $0xc3, 0x7000(%rdi);"
	"call *%rdi; call *%rsi; dec %ecx; jnz 1b; out %al, $0x10; jmp again");

struct busy {
	struct area *a;
	unsigned vcpu;
	bool stop; /* atomic */
};

static void *busy_vcpu(void *arg)
{
	struct busy *b = arg;

	while (!__atomic_load_n(&b->stop, __ATOMIC_ACQUIRE))
		if (api_run(&b->a->t, b->vcpu))
			return b;
	return NULL;
}

static void under_load(void **state)
{
	struct busy b[2];
	pthread_t thread[2];
	struct kvm_regs r;
	struct area a;
	void *bad;

	api_vm_make(&a.t, 2, 0);
	area_slot(&a, 0, 0);
	area_start(&a, busy_begin, API_SIZE(busy));
	r = api_regs(&a.t, 0);
	{
		struct kvm_sregs s;

		assert_int_equal(api_ioctl(a.t.vcpu[0], KVM_GET_SREGS, &s), 0);
		assert_int_equal(api_ioctl(a.t.vcpu[1], KVM_SET_SREGS, &s), 0);
	}
	r.rsp -= 0x100;
	api_set_regs(&a.t, 1, &r);
	for (unsigned i = 0; i < 2; i++) {
		b[i] = (struct busy){.a = &a, .vcpu = i};
		assert_int_equal(pthread_create(&thread[i], NULL, busy_vcpu, &b[i]), 0);
	}
	for (unsigned i = 0; i < 60; i++) {
		struct counts now;

		nx_set(&a, i / 2 & 1, 1, 1);
		assert_int_equal(api_slot(&a.t, 1, i & 1 ? KVM_MEM_LOG_DIRTY_PAGES : 0, AREA,
					  BLOCKS * BLOCK, a.mem),
				 0);
		now = counts_of(&a.t);
		assert_true(now.small <= a.before.small + BLOCKS * 512);
		assert_true(now.large <= BLOCKS && now.splits <= BLOCKS && !now.huge);
	}
	for (unsigned i = 0; i < 2; i++) {
		__atomic_store_n(&b[i].stop, true, __ATOMIC_RELEASE);
		pthread_join(thread[i], &bad);
		assert_null(bad);
	}
	/* When it is quiet again the counts are as ever. */
	nx_set(&a, 0, 1, 1);
	assert_int_equal(api_slot(&a.t, 1, KVM_MEM_LOG_DIRTY_PAGES, AREA, BLOCKS * BLOCK, a.mem),
			 0);
	assert_int_equal(api_slot(&a.t, 1, 0, AREA, BLOCKS * BLOCK, a.mem), 0);
	api_run_to_out(&a.t, 0, 0x10);
	api_run_to_out(&a.t, 0, 0x10);
	assert_int_equal(stat_of(a.t.vm, "pages_2m"), BLOCKS);
	assert_int_equal(stat_of(a.t.vm, "nx_lpage_splits"), 0);
	area_free(&a);
}

static void parameters_of_system(void **state)
{
	struct anykvm_parameters p = {1, 60, 0, 1}, bad = {2, 60, 0, 1};
	struct api_vm t;
	int vm;

	api_vm_make(&t, 1, 0);
	assert_int_equal(anykvm_set_parameters(t.kvm, &p), 0);
	vm = api_ioctl_value(t.kvm, KVM_CREATE_VM, 0);
	assert_true(vm >= 0);
	assert_int_equal(stat_of(vm, "pages_4k"), 0);
	assert_int_equal(anykvm_set_parameters(t.kvm, &bad), -1);
	assert_int_equal(errno, EINVAL);
	bad = p;
	bad.eager_page_split = 2;
	assert_int_equal(anykvm_set_parameters(vm, &bad), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(anykvm_set_parameters(t.vcpu[0], &p), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(anykvm_set_parameters(-1, &p), -1);
	assert_int_equal(errno, EBADF);
	anykvm_close(vm);
	api_vm_free(&t);
}

/* ---- KVM_CAP_VM_DISABLE_NX_HUGE_PAGES ---- */

static void sys_boot(bool on)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	u32 mask = CAP_TO_MASK(CAP_SYS_BOOT), *set = &data[CAP_TO_INDEX(CAP_SYS_BOOT)].effective;

	assert_int_equal(syscall(SYS_capget, &head, data), 0);
	if (on && !(data[CAP_TO_INDEX(CAP_SYS_BOOT)].permitted & mask))
		skip();
	*set = on ? *set | mask : *set & ~mask;
	assert_int_equal(syscall(SYS_capset, &head, data), 0);
}

static void disable_refused(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, .args = {1}};
	struct api_vm t;

	api_vm_make(&t, 0, 0);
	assert_int_equal(api_ioctl_value(t.vm, KVM_CHECK_EXTENSION, cap.cap), 1);
	sys_boot(false);
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EPERM); /* whatever the argument */
	cap.args[0] = 0;
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EPERM);
	api_vm_free(&t);
}

static void disable(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, .args = {1}};
	struct kvm_cpuid2 *cpuid;
	struct area a;

	sys_boot(true);
	api_vm_make(&a.t, 0, 0);
	nx_set(&a, 1, 0, 0);
	assert_errno(api_ioctl(a.t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 0;
	cap.flags = 1;
	assert_errno(api_ioctl(a.t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.flags = 0;
	assert_int_equal(api_ioctl(a.t.vm, KVM_ENABLE_CAP, &cap), 0);
	a.t.vcpu[0] = api_ioctl_value(a.t.vm, KVM_CREATE_VCPU, 0);
	a.t.run[0] = anykvm_mmap(a.t.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, a.t.vcpu[0], 0);
	cpuid = api_supported_cpuid(a.t.kvm);
	assert_int_equal(api_ioctl(a.t.vcpu[0], KVM_SET_CPUID2, cpuid), 0);
	free(cpuid);
	assert_errno(api_ioctl(a.t.vm, KVM_ENABLE_CAP, &cap), EINVAL); /* too late */
	area_slot(&a, 0, 0);
	area_start(&a, calls_begin, API_SIZE(calls));
	for (unsigned i = 0; i < 3; i++)
		api_run_to_out(&a.t, 0, 0x10);
	expect(&a.t, &a.before, 0, 3, 0, 0);
	assert_int_equal(stat_of(a.t.vm, "nx_lpage_splits"), 0);
	area_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(unaligned),
		cmocka_unit_test(edges),
		cmocka_unit_test(giga),
		cmocka_unit_test(dirty_log),
		cmocka_unit_test(dirty_log_lazy),
		cmocka_unit_test(dirty_log_clear),
		cmocka_unit_test(nx_splits),
		cmocka_unit_test(nx_recovers),
		cmocka_unit_test(nx_recovers_a_part),
		cmocka_unit_test(nx_recovery_and_log),
		cmocka_unit_test(under_load),
		cmocka_unit_test(parameters_of_system),
		cmocka_unit_test(disable),
		cmocka_unit_test(disable_refused),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
