/* Private memory: guest_memfd, KVM_SET_MEMORY_ATTRIBUTES, memory faults, KVM_PRE_FAULT_MEMORY. */
#include "api.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#define AT    0x10000000ull
#define PAGES 8u

static int memfd(struct api_vm *t, u64 size, u64 flags)
{
	struct kvm_create_guest_memfd r = {.size = size, .flags = flags};

	return api_ioctl(t->vm, KVM_CREATE_GUEST_MEMFD, &r);
}

static int slot2(struct api_vm *t, u32 slot, u32 flags, u64 gpa, u64 size, void *hva, int fd,
		 u64 offset)
{
	struct kvm_userspace_memory_region2 r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (u64)hva,
		.guest_memfd = (u32)fd,
		.guest_memfd_offset = offset,
	};

	return api_ioctl(t->vm, KVM_SET_USER_MEMORY_REGION2, &r);
}

static int attribute(struct api_vm *t, u64 gpa, u64 size, u64 attributes)
{
	struct kvm_memory_attributes r = {.address = gpa, .size = size, .attributes = attributes};

	return api_ioctl(t->vm, KVM_SET_MEMORY_ATTRIBUTES, &r);
}

#define PRIVATE KVM_MEMORY_ATTRIBUTE_PRIVATE

static void *pages(unsigned n)
{
	void *p = mmap(NULL, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void descriptor(void **state)
{
	struct api_vm t;
	struct stat st;
	char byte = 0;
	int fd;

	api_vm_make(&t, 1, API_PROTECTED);
	assert_errno(memfd(&t, 0, 0), EINVAL);
	assert_errno(memfd(&t, 4095, 0), EINVAL);
	assert_errno(memfd(&t, 1ull << 63, 0), EINVAL);
	assert_errno(memfd(&t, 4096, 1), EINVAL);
	fd = memfd(&t, PAGES * 4096, 0);
	assert_true(fd >= 0);
	assert_int_equal(anykvm_kind(fd), ANYKVM_GUEST_MEMFD);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, PAGES * 4096);
	assert_int_equal(read(fd, &byte, 1), -1);
	assert_int_equal(write(fd, &byte, 1), -1);
	assert_int_equal(pwrite(fd, &byte, 1, 0), -1);
	assert_int_equal(ftruncate(fd, 4096), -1);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_ptr_equal(anykvm_mmap(4096, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_errno(api_ioctl(fd, KVM_CREATE_VCPU, NULL), ENOTTY);
	assert_int_equal(anykvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, PAGES * 4096), 0);
	assert_int_equal(anykvm_fallocate(fd, 0, 0, 4096), -1);
	assert_int_equal(errno, EOPNOTSUPP);
	assert_int_equal(anykvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 4096, PAGES * 4096), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(anykvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 1, 4096),
			 -1);
	assert_int_equal(errno, EINVAL);
	/* The file keeps its VM alive, and its memory lives on after the VM's other descriptors. */
	api_vm_free(&t);
	assert_int_equal(anykvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096),
			 0);
	assert_int_equal(anykvm_close(fd), 0);
}

static void slots(void **state)
{
	struct api_vm t, other, plain;
	u8 *p = pages(PAGES);
	int fd, fd2;

	api_vm_make(&t, 1, API_PROTECTED);
	api_vm_make(&other, 1, API_PROTECTED);
	api_vm_make(&plain, 1, 0);
	fd = memfd(&t, PAGES * 4096, 0);
	fd2 = memfd(&other, PAGES * 4096, 0);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, -1, 0), EBADF);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, t.vm, 0), EINVAL);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, 0, 0), EINVAL);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, fd2, 0), EINVAL);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, fd, 1), EINVAL);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, fd, PAGES * 4096), EINVAL);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY, AT, 0x1000, p, fd, 0),
		     EINVAL);
	assert_errno(
		slot2(&t, 1, KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES, AT, 0x1000, p, fd, 0),
		EINVAL);
	assert_errno(slot2(&t, 1u << 16, 0, AT, 0x1000, p, -1, 0), EINVAL); /* one address space */
	assert_int_equal(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x2000, p, fd, 0x1000), 0);
	assert_errno(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, 0x2000, p, fd, 0x1000), EINVAL);
	assert_errno(slot2(&t, 2, KVM_MEM_GUEST_MEMFD, AT + 0x2000, 0x1000, p, fd, 0x2000), EINVAL);
	assert_errno(slot2(&t, 2, KVM_MEM_GUEST_MEMFD, AT + 0x1000, 0x2000, p, fd, 0x4000), EEXIST);
	assert_int_equal(slot2(&t, 2, KVM_MEM_GUEST_MEMFD, AT + 0x2000, 0x1000, p, fd, 0x3000), 0);
	/* Private pages that lead nowhere still belong to their slot. */
	assert_int_equal(slot2(&t, 3, 0, AT + 0x10000, 0x1000, p, -1, 0), 0);
	assert_int_equal(attribute(&t, AT + 0x10000, 0x1000, PRIVATE), 0);
	assert_errno(slot2(&t, 4, 0, AT + 0x10000, 0x1000, p, -1, 0), EEXIST);
	assert_errno(slot2(&plain, 1, KVM_MEM_GUEST_MEMFD, AT, 0x1000, p, -1, 0), EINVAL);
	assert_errno(api_slot(&t, 5, KVM_MEM_GUEST_MEMFD, AT + 0x20000, 0x1000, p), EINVAL);
	/* Attributes. */
	assert_errno(attribute(&plain, AT, 0x1000, PRIVATE), EINVAL);
	assert_int_equal(attribute(&plain, AT, 0x1000, 0), 0);
	assert_errno(attribute(&t, AT, 0, PRIVATE), EINVAL);
	assert_errno(attribute(&t, AT, 0x1001, PRIVATE), EINVAL);
	assert_errno(attribute(&t, AT + 1, 0x1000, PRIVATE), EINVAL);
	assert_errno(attribute(&t, ~0xfffull, 0x2000, PRIVATE), EINVAL);
	assert_errno(attribute(&t, AT, 0x1000, PRIVATE | 1), EINVAL);
	assert_int_equal(api_ioctl_value(t.vm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES),
			 PRIVATE);
	assert_int_equal(api_ioctl_value(plain.vm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES),
			 0);
	assert_int_equal(api_ioctl_value(plain.vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD), 0);
	assert_int_equal(api_ioctl_value(t.vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD), 1);
	anykvm_close(fd);
	anykvm_close(fd2);
	api_vm_free(&t);
	api_vm_free(&other);
	api_vm_free(&plain);
	munmap(p, PAGES * 4096);
}

/* Writes DL to [RBX], then reads [RSI] into AL, out to port 0x10, for ever. */
API_CODE64(poke, "1: mov %dl, (%rbx); mov (%rsi), %al; out %al, $0x10; jmp 1b");

static u8 poke_peek(struct api_vm *t, u64 to, u8 value, u64 from)
{
	struct kvm_regs r;

	api_start64(t, 0, poke_begin, API_SIZE(poke));
	r = api_regs(t, 0);
	r.rbx = to;
	r.rdx = value;
	r.rsi = from;
	api_set_regs(t, 0, &r);
	return (u8)api_run_to_out(t, 0, 0x10);
}

static void conversions(void **state)
{
	struct api_vm t;
	u8 *p = pages(PAGES);
	int fd;

	api_vm_make(&t, 1, API_PROTECTED);
	fd = memfd(&t, PAGES * 4096, 0);
	assert_int_equal(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, PAGES * 4096, p, fd, 0), 0);
	for (unsigned i = 0; i < PAGES; i++)
		p[i * 4096] = (u8)(0x40 + i);
	assert_int_equal(poke_peek(&t, AT, 0x11, AT + 3 * 4096), 0x43);
	assert_int_equal(p[0], 0x11);
	/* Private pages 2 to 5: zero at first, and not the client's. */
	assert_int_equal(attribute(&t, AT + 2 * 4096, 4 * 4096, PRIVATE), 0);
	assert_int_equal(poke_peek(&t, AT + 2 * 4096, 0x22, AT + 3 * 4096), 0);
	assert_int_equal(poke_peek(&t, AT + 3 * 4096, 0x33, AT + 2 * 4096), 0x22);
	assert_int_equal(p[2 * 4096], 0x42);
	assert_int_equal(poke_peek(&t, AT + 6 * 4096, 0x66, AT + 4096), 0x41);
	/* Every other one back, and all private again: both sides keep what they had. */
	assert_int_equal(attribute(&t, AT + 3 * 4096, 4096, 0), 0);
	assert_int_equal(poke_peek(&t, AT + 3 * 4096, 0x77, AT + 3 * 4096), 0x77);
	assert_int_equal(p[3 * 4096], 0x77);
	assert_int_equal(attribute(&t, 0x8000000, 1ull << 40, PRIVATE), 0);
	assert_int_equal(poke_peek(&t, AT + 4096, 0x99, AT + 3 * 4096), 0x33);
	/* A hole takes the private copy only. */
	assert_int_equal(
		anykvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 3 * 4096, 4096),
		0);
	assert_int_equal(poke_peek(&t, AT + 4096, 0x99, AT + 3 * 4096), 0);
	assert_int_equal(attribute(&t, 0x8000000, 1ull << 40, 0), 0);
	assert_int_equal(poke_peek(&t, AT, 0x12, AT + 3 * 4096), 0x77);
	anykvm_close(fd);
	api_vm_free(&t);
	munmap(p, PAGES * 4096);
}

struct fault {
	u64 flags, gpa, size;
};

static void expect_fault(struct api_vm *t, u64 gpa, u64 flags)
{
	const struct fault *f = (const void *)&t->run[0]->hw;

	assert_errno(api_run(t, 0), EFAULT);
	assert_int_equal(t->run[0]->exit_reason, KVM_EXIT_MEMORY_FAULT);
	assert_int_equal(f->gpa, gpa);
	assert_int_equal(f->size, 4096);
	assert_int_equal(f->flags, flags);
}

static void faults(void **state)
{
	struct api_vm t;
	struct kvm_regs r;
	u8 *p = pages(PAGES);
	int fd;

	api_vm_make(&t, 1, API_PROTECTED);
	fd = memfd(&t, PAGES * 4096, 0);
	assert_int_equal(slot2(&t, 1, KVM_MEM_GUEST_MEMFD, AT, PAGES * 4096, p, fd, 0), 0);
	assert_int_equal(slot2(&t, 2, 0, AT + 0x100000, 4096, p, -1, 0), 0);
	assert_int_equal(attribute(&t, AT, 0x200000, PRIVATE), 0);
	assert_int_equal(poke_peek(&t, AT, 1, AT), 1);
	/* No guest_memfd behind it, then no slot at all: a fault, which the client can mend. */
	r = api_regs(&t, 0);
	r.rip = API_CODE;
	r.rsi = AT + 0x100008;
	api_set_regs(&t, 0, &r);
	expect_fault(&t, AT + 0x100000, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	r.rsi = AT + 0x150008;
	api_set_regs(&t, 0, &r);
	expect_fault(&t, AT + 0x150000, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	assert_int_equal(attribute(&t, AT + 0x150000, 4096, 0), 0);
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	r.rsi = AT;
	api_start64(&t, 0, poke_begin, API_SIZE(poke));
	api_set_regs(&t, 0, &r);
	/* The file closes while its slot is there. */
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 1);
	anykvm_close(fd);
	expect_fault(&t, AT, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	assert_int_equal(attribute(&t, AT, PAGES * 4096, 0), 0);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 1);
	assert_int_equal(p[0], 1);
	api_vm_free(&t);
	munmap(p, PAGES * 4096);
}

static int prefault(struct api_vm *t, struct kvm_pre_fault_memory *r)
{
	return api_ioctl(t->vcpu[0], KVM_PRE_FAULT_MEMORY, r);
}

static void prefaults(void **state)
{
	struct kvm_pre_fault_memory r = {.gpa = AT, .size = 0};
	struct api_vm t;
	u8 *p = pages(PAGES);

	api_vm_make(&t, 1, API_PROTECTED);
	assert_int_equal(slot2(&t, 1, 0, AT, PAGES * 4096, p, -1, 0), 0);
	assert_errno(prefault(&t, &r), EINVAL);
	r.size = 0x1001;
	assert_errno(prefault(&t, &r), EINVAL);
	r = (struct kvm_pre_fault_memory){.gpa = ~0xfffull, .size = 0x2000};
	assert_errno(prefault(&t, &r), EINVAL);
	r = (struct kvm_pre_fault_memory){.gpa = AT, .size = 0x1000, .flags = 1};
	assert_errno(prefault(&t, &r), EINVAL);
	r = (struct kvm_pre_fault_memory){.gpa = AT + 4096, .size = PAGES * 4096};
	assert_int_equal(prefault(&t, &r), 0);
	assert_int_equal(r.gpa, AT + PAGES * 4096);
	assert_int_equal(r.size, 4096);
	assert_errno(prefault(&t, &r), ENOENT);
	assert_int_equal(attribute(&t, AT, 4096, PRIVATE), 0);
	r = (struct kvm_pre_fault_memory){.gpa = AT, .size = 4096};
	assert_errno(prefault(&t, &r), EFAULT);
	assert_errno(api_ioctl(t.vcpu[0], KVM_PRE_FAULT_MEMORY, NULL), EFAULT);
	mprotect(p + 4096, 4096, PROT_NONE);
	r = (struct kvm_pre_fault_memory){.gpa = AT + 4096, .size = 4096};
	assert_errno(prefault(&t, &r), EFAULT);
	api_vm_free(&t);
	munmap(p, PAGES * 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptor),  cmocka_unit_test(slots),
		cmocka_unit_test(conversions), cmocka_unit_test(faults),
		cmocka_unit_test(prefaults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
