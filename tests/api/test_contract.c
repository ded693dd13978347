/*
 * The contract: every request of src/kvm/ioctl.def against the wrong descriptor, a NULL pointer,
 * an unmapped one, one of the kernel's half, a wrong size, and a closed descriptor; and the cases
 * of contract.def (unknown flags, wrong order, values out of range).
 *
 *	test-api-contract --compare [/dev/kvm]
 *
 * makes the same calls on another KVM as well and lists what it answers differently.
 */
#include "api.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define ANY (-1)

enum kind { SYS, VM, VCPU, VM0, VMI, VMIC, VCPUI };
enum how { VALUE, USER, IN, OUT, INOUT };

static const char *const kind_names[] = {"system",
					 "VM",
					 "vCPU",
					 "VM without vCPU",
					 "VM with irqchip",
					 "VM with irqchip and vCPU",
					 "vCPU with irqchip"};

struct row {
	enum kind kind;
	u32 req;
	enum how how;
	const char *name;
};

static const struct row rows[] = {
#define IOCTL_SYS(request, how, type, handler)	{SYS, (u32)request, how, #request},
#define IOCTL_VM(request, how, type, handler)	{VM, (u32)request, how, #request},
#define IOCTL_VCPU(request, how, type, handler) {VCPU, (u32)request, how, #request},
#include "kvm/ioctl.def"
};

struct special {
	enum kind on;
	u32 req;
	const void *data;
	size_t size;
	unsigned long value;
	int expected;
	const char *name, *what;
};

#define V(n)				   NULL, 0, n
#define P(type, ...)			   &(const type){__VA_ARGS__}, sizeof(type), 0
#define CASE(on, req, arg, expected, what) {on, (u32)req, arg, expected, #req, what},
static const struct special specials[] = {
#include "contract.def"
};

/* --- ours or another's ------------------------------------------------------------------------------ */

static const char *other; /* path of the other device: it is asked */

static int target_open(void)
{
	return other ? open(other, O_RDWR | O_CLOEXEC) : api_open(NULL);
}

static int target_ioctl(int fd, u32 req, unsigned long arg)
{
	int ret = other ? ioctl(fd, req, arg) : anykvm_ioctl(fd, req, arg);

	return ret < 0 ? -errno : ret;
}

static void target_close(int fd)
{
	if (fd < 0)
		return;
	if (other)
		close(fd);
	else
		anykvm_close(fd);
}

struct objects {
	int sys, vm, vcpu;
};

static struct objects objects_make(enum kind kind)
{
	struct objects o = {.sys = target_open(), .vm = -1, .vcpu = -1};

	if (kind == SYS || o.sys < 0)
		return o;
	o.vm = target_ioctl(o.sys, KVM_CREATE_VM, 0);
	if (kind == VMI || kind == VMIC || kind == VCPUI)
		target_ioctl(o.vm, (u32)KVM_CREATE_IRQCHIP, 0);
	if (kind != VM0 && kind != VMI)
		o.vcpu = target_ioctl(o.vm, KVM_CREATE_VCPU, 0);
	return o;
}

static void objects_free(const struct objects *o)
{
	target_close(o->vcpu);
	target_close(o->vm);
	target_close(o->sys);
}

static int object_fd(const struct objects *o, enum kind kind)
{
	return kind == SYS ? o->sys : kind == VCPU || kind == VCPUI ? o->vcpu : o->vm;
}

/* One call on fresh objects: -errno or 0 (a descriptor or number counts as 0). */
static int call(enum kind kind, u32 req, unsigned long arg)
{
	struct objects o = objects_make(kind);
	int ret = target_ioctl(object_fd(&o, kind), req, arg);

	if (ret > 0 && (req == (u32)KVM_GET_STATS_FD || req == (u32)KVM_CREATE_VM ||
			req == (u32)KVM_CREATE_VCPU || req == (u32)KVM_CREATE_GUEST_MEMFD))
		target_close(ret);
	objects_free(&o);
	return ret < 0 ? ret : 0;
}

/* --- what is counted ---------------------------------------------------------------------------------- */

static unsigned checked, wrong;
static int *record; /* what ours answered, for the comparison */
static bool comparing;

static void judge(int got, int expected, const char *what, enum kind kind, const char *name)
{
	int want = comparing ? record[checked] : expected == ANY ? 0 : -expected;

	if (!comparing && record)
		record[checked] = got;
	checked++;
	if (got == want)
		return;
	wrong++;
	if (comparing)
		printf("# %s on %s, %s: anykvm %s, %s %s\n", name, kind_names[kind], what,
		       want ? strerror(-want) : "0", other, got ? strerror(-got) : "0");
	else
		printf("# %s on %s, %s: %s, expected %s\n", name, kind_names[kind], what,
		       got ? strerror(-got) : "0", want ? strerror(-want) : "0");
}

static bool has_row(enum kind kind, u32 req)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].kind == kind && rows[i].req == req)
			return true;
	return false;
}

static int unknown(enum kind kind)
{
	return kind == VM ? ENOTTY : EINVAL;
}

/* Requests that look at something else before they look at the pointer. */
static int null_answer(const struct row *r)
{
	switch (r->kind << 16 | (r->req & 0xffff)) {
	case VM << 16 | ((u32)KVM_SET_IDENTITY_MAP_ADDR & 0xffff): /* a vCPU is there */
	case VCPU << 16 | ((u32)KVM_GET_LAPIC & 0xffff):
	case VCPU << 16 | ((u32)KVM_SET_LAPIC & 0xffff):
	case VCPU << 16 | ((u32)KVM_SET_VAPIC_ADDR & 0xffff):
		return EINVAL;
	case VM << 16 | ((u32)KVM_GET_PIT2 & 0xffff):
		return ENXIO;
	default:
		return EFAULT;
	}
}

static void run_rows(void)
{
	void *hole = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const struct {
		const char *what;
		unsigned long value;
	} pointers[] = {
		{"NULL", 0},
		{"the kernel's half", 0xffff888000000000},
		{"not canonical", 0x1234567800000000},
		{"a hole", 1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *r = &rows[i];
		struct objects o = objects_make(VM);
		int fd = object_fd(&o, r->kind);

		for (enum kind k = SYS; k <= VCPU; k++)
			if (!has_row(k, r->req))
				judge(call(k, r->req, 0), unknown(k), "wrong descriptor", k,
				      r->name);
		/* The size is part of the number: another size is another request. */
		if (!has_row(r->kind, r->req + (4u << 16)))
			judge(call(r->kind, r->req + (4u << 16), 0), unknown(r->kind), "wrong size",
			      r->kind, r->name);
		for (size_t p = 0; p < ARRAY_SIZE(pointers) && r->how != VALUE; p++) {
			if (r->req == (u32)KVM_SET_SIGNAL_MASK && !p)
				continue;
			judge(call(r->kind, r->req,
				   pointers[p].value == 1 ? (unsigned long)hole
							  : pointers[p].value),
			      null_answer(r), pointers[p].what, r->kind, r->name);
		}
		objects_free(&o);
		judge(target_ioctl(fd, r->req, 0), EBADF, "closed", r->kind, r->name);
	}
	munmap(hole, 8192);
}

static void run_specials(void)
{
	/* Variable parts behind the structures are read from here: zeros. */
	static u8 buf[16384] __attribute__((aligned(16)));

	for (size_t i = 0; i < ARRAY_SIZE(specials); i++) {
		const struct special *s = &specials[i];
		unsigned long arg = s->value;

		if (s->data) {
			memset(buf, 0, sizeof(buf));
			memcpy(buf, s->data, s->size);
			arg = (unsigned long)buf;
		}
		judge(call(s->on, s->req, arg), s->expected, s->what, s->on, s->name);
	}
}

static void requests(void **state)
{
	checked = wrong = 0;
	run_rows();
	assert_int_equal(wrong, 0);
}

static void cases(void **state)
{
	checked = wrong = 0;
	run_specials();
	assert_int_equal(wrong, 0);
}

/* Descriptors that are not KVM's three kinds. */
static void other_descriptors(void **state)
{
	struct objects o = objects_make(VM);
	struct kvm_create_guest_memfd g = {.size = 4096};
	int stats = target_ioctl(o.vm, KVM_GET_STATS_FD, 0);
	int gmem = target_ioctl(o.vm, (u32)KVM_CREATE_GUEST_MEMFD, (unsigned long)&g);

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_errno(target_ioctl(stats, rows[i].req, 0), ENOTTY);
		assert_errno(target_ioctl(gmem, rows[i].req, 0), ENOTTY);
	}
	target_close(gmem);
	target_close(stats);
	objects_free(&o);
}

static int compare(const char *path)
{
	record = calloc(65536, sizeof(*record));
	if (!record)
		return 1;
	run_rows();
	run_specials();
	other = path;
	if (access(path, R_OK | W_OK) || target_open() < 0) {
		printf("%s: %s\n", path, strerror(errno));
		return 77;
	}
	comparing = true;
	checked = wrong = 0;
	run_rows();
	run_specials();
	printf("%u calls compared with %s, %u different\n", checked, path, wrong);
	free(record);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests),
		cmocka_unit_test(cases),
		cmocka_unit_test(other_descriptors),
	};

	if (argc > 1 && !strcmp(argv[1], "--compare"))
		return compare(argc > 2 ? argv[2] : "/dev/kvm");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
