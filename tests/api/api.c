#include "api.h"

#include <signal.h>

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_PS 0x80ull

/*
 * cmocka replaces the handlers of fault signals in every test; a client that does so has to pass
 * faults on to the library's. The rig puts the library's back instead.
 */
static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction fault_actions[ARRAY_SIZE(fault_signals)];

__attribute__((constructor)) static void signals_save(void)
{
	int kvm = anykvm_open(NULL);

	for (size_t i = 0; i < ARRAY_SIZE(fault_signals); i++)
		sigaction(fault_signals[i], NULL, &fault_actions[i]);
	anykvm_close(kvm);
}

int api_ioctl(int fd, unsigned long req, void *arg)
{
	int r = anykvm_ioctl(fd, req, (unsigned long)arg);

	return r < 0 ? -errno : r;
}

int api_open(const char *options)
{
	int kvm = anykvm_open(options);

	for (size_t i = 0; i < ARRAY_SIZE(fault_signals); i++)
		sigaction(fault_signals[i], &fault_actions[i], NULL);
	assert_true(kvm >= 0);
	assert_int_equal(api_ioctl_value(kvm, KVM_CHECK_EXTENSION, ANYKVM_CAP_VERSION),
			 ANYKVM_INTERFACE_VERSION);
	return kvm;
}

struct kvm_cpuid2 *api_supported_cpuid(int kvm)
{
	u32 max = 256;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + max * sizeof(c->entries[0]));

	assert_non_null(c);
	c->nent = max;
	assert_int_equal(api_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
	return c;
}

int api_slot(struct api_vm *t, u32 slot, u32 flags, u64 gpa, u64 size, void *hva)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (u64)hva,
	};

	return api_ioctl(t->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void vcpu_make(struct api_vm *t, unsigned i, struct kvm_cpuid2 *cpuid)
{
	t->vcpu[i] = api_ioctl_value(t->vm, KVM_CREATE_VCPU, i);
	assert_true(t->vcpu[i] >= 0);
	t->run[i] = anykvm_mmap(t->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->vcpu[i], 0);
	assert_ptr_not_equal(t->run[i], MAP_FAILED);
	assert_int_equal(api_ioctl(t->vcpu[i], KVM_SET_CPUID2, cpuid), 0);
}

void api_vm_make(struct api_vm *t, unsigned vcpus, unsigned flags)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct kvm_enable_cap told = {.cap = ANYKVM_CAP_WRITES_TOLD};
	struct kvm_enable_cap window = {.cap = ANYKVM_CAP_WINDOW, .args = {ANYKVM_WINDOW_ALWAYS}};
	struct kvm_pit_config pit = {0};
	struct kvm_cpuid2 *cpuid;

	memset(t, -1, sizeof(*t));
	t->kvm = api_open(flags & API_AMD ? "vendor=amd,cache=16" : "vendor=intel,cache=16");
	t->run_size = (size_t)api_ioctl_value(t->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	t->vm = api_ioctl_value(t->kvm, KVM_CREATE_VM,
				flags & API_PROTECTED ? KVM_X86_SW_PROTECTED_VM
						      : KVM_X86_DEFAULT_VM);
	assert_true(t->vm >= 0);
	t->mem = mmap(NULL, API_MEM_SIZE, PROT_READ | PROT_WRITE,
		      (flags & API_WINDOW ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(t->mem, MAP_FAILED);
	assert_int_equal(api_slot(t, 0, 0, 0, API_MEM_SIZE, t->mem), 0);
	if (flags & API_IRQCHIP)
		assert_int_equal(api_ioctl_value(t->vm, KVM_CREATE_IRQCHIP, 0), 0);
	if (flags & API_PIT)
		assert_int_equal(api_ioctl(t->vm, KVM_CREATE_PIT2, &pit), 0);
	if (flags & API_SPLIT)
		assert_int_equal(api_ioctl(t->vm, KVM_ENABLE_CAP, &split), 0);
	if (flags & API_WINDOW)
		assert_int_equal(api_ioctl(t->vm, KVM_ENABLE_CAP, &window), 0);
	if (flags & API_TOLD)
		assert_int_equal(api_ioctl(t->vm, KVM_ENABLE_CAP, &told), 0);
	cpuid = api_supported_cpuid(t->kvm);
	for (unsigned i = 0; i < vcpus; i++)
		vcpu_make(t, i, cpuid);
	free(cpuid);
}

void api_vm_free(struct api_vm *t)
{
	for (unsigned i = 0; i < API_MAX_VCPUS; i++) {
		if (t->vcpu[i] < 0)
			continue;
		anykvm_munmap(t->run[i], t->run_size);
		anykvm_close(t->vcpu[i]);
	}
	anykvm_close(t->vm);
	anykvm_close(t->kvm);
	munmap(t->mem, API_MEM_SIZE);
}

int api_run(struct api_vm *t, unsigned vcpu)
{
	return api_ioctl_value(t->vcpu[vcpu], KVM_RUN, 0);
}

struct kvm_regs api_regs(struct api_vm *t, unsigned vcpu)
{
	struct kvm_regs r;

	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_REGS, &r), 0);
	return r;
}

void api_set_regs(struct api_vm *t, unsigned vcpu, const struct kvm_regs *r)
{
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_SET_REGS, (void *)r), 0);
}

void api_start16(struct api_vm *t, unsigned vcpu, const void *code, size_t size)
{
	struct kvm_regs r = {.rip = API_CODE, .rsp = API_STACK, .rflags = 2};
	struct kvm_sregs s;

	memcpy(t->mem + API_CODE, code, size);
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_SREGS, &s), 0);
	s.cs.base = 0;
	s.cs.selector = 0;
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_SET_SREGS, &s), 0);
	api_set_regs(t, vcpu, &r);
}

static void put64(struct api_vm *t, u64 at, u64 v)
{
	memcpy(t->mem + at, &v, sizeof(v));
}

void api_idt64(struct api_vm *t, unsigned vector, u64 handler)
{
	u64 low =
		(handler & 0xffff) | 8ull << 16 | 0x8e00ull << 32 | (handler >> 16 & 0xffff) << 48;

	put64(t, API_IDT + 16 * vector, low);
	put64(t, API_IDT + 16 * vector + 8, handler >> 32);
}

void api_start64_at(struct api_vm *t, unsigned vcpu, u64 rip)
{
	struct kvm_regs r = {.rip = rip, .rsp = API_STACK - 0x200 * vcpu, .rflags = 2};
	struct kvm_segment code = {
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
		.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_sregs s;

	put64(t, API_PML4, 0x2000 | PTE_P | PTE_W);
	put64(t, 0x2000, PTE_P | PTE_W | PTE_PS);
	put64(t, API_GDT + 8, 0x00af9b000000ffffull);
	put64(t, API_GDT + 16, 0x00cf93000000ffffull);
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_SREGS, &s), 0);
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gdt.base = API_GDT;
	s.gdt.limit = 23;
	s.idt.base = API_IDT;
	s.idt.limit = 0xfff;
	s.cr0 = 0x80050033;
	s.cr3 = API_PML4;
	s.cr4 = 0x20 | 0x600;
	s.efer = 0x500;
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_SET_SREGS, &s), 0);
	api_set_regs(t, vcpu, &r);
}

void api_start64(struct api_vm *t, unsigned vcpu, const void *code, size_t size)
{
	memcpy(t->mem + API_CODE, code, size);
	api_start64_at(t, vcpu, API_CODE);
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

u64 api_msr(struct api_vm *t, unsigned vcpu, u32 index)
{
	struct one_msr m = {.head.nmsrs = 1, .entry.index = index};

	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_MSRS, &m), 1);
	return m.entry.data;
}

int api_set_msr(struct api_vm *t, unsigned vcpu, u32 index, u64 value)
{
	struct one_msr m = {.head.nmsrs = 1, .entry.index = index, .entry.data = value};

	return api_ioctl(t->vcpu[vcpu], KVM_SET_MSRS, &m);
}

void api_run_expect(struct api_vm *t, unsigned vcpu, u32 reason)
{
	assert_int_equal(api_run(t, vcpu), 0);
	assert_int_equal(t->run[vcpu]->exit_reason, reason);
}

u32 api_run_to_out(struct api_vm *t, unsigned vcpu, u16 port)
{
	struct kvm_run *run = t->run[vcpu];
	u32 value = 0;

	for (;;) {
		api_run_expect(t, vcpu, KVM_EXIT_IO);
		if (run->io.port != port || run->io.direction != KVM_EXIT_IO_OUT)
			continue;
		memcpy(&value, (u8 *)run + run->io.data_offset, run->io.size);
		return value;
	}
}

u32 api_apic_reg(struct api_vm *t, unsigned vcpu, unsigned reg)
{
	struct kvm_lapic_state s;
	u32 value;

	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_LAPIC, &s), 0);
	memcpy(&value, s.regs + reg, sizeof(value));
	return value;
}

void api_route_msi(struct api_vm *t, u32 gsi, u32 data)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e;
	} r = {.head.nr = 1,
	       .e = {.gsi = gsi,
		     .type = KVM_IRQ_ROUTING_MSI,
		     .u.msi = {.address_lo = 0xfee00000, .data = data}}};

	assert_int_equal(api_ioctl(t->vm, KVM_SET_GSI_ROUTING, &r), 0);
}
