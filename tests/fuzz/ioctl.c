/*
 * The ioctls of the API with arguments of any contents, on the three kinds of descriptors. No guest
 * runs (KVM_RUN is called with immediate_exit); code.c is there for that.
 */
#include "input.h"

#include <anykvm.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#define ARGUMENT (1u << 20) /* bytes at the argument's address: more than any array may have */
#define MEMORY	 (1u << 20)

static const unsigned long requests[] = {
	KVM_GET_API_VERSION,
	KVM_CREATE_VM,
	KVM_GET_MSR_INDEX_LIST,
	KVM_CHECK_EXTENSION,
	KVM_GET_VCPU_MMAP_SIZE,
	KVM_GET_SUPPORTED_CPUID,
	KVM_GET_EMULATED_CPUID,
	KVM_GET_MSR_FEATURE_INDEX_LIST,
	KVM_SET_USER_MEMORY_REGION,
	KVM_CREATE_VCPU,
	KVM_GET_DIRTY_LOG,
	KVM_SET_NR_MMU_PAGES,
	KVM_GET_NR_MMU_PAGES,
	KVM_SET_TSS_ADDR,
	KVM_SET_IDENTITY_MAP_ADDR,
	KVM_CREATE_IRQCHIP,
	KVM_IRQ_LINE,
	KVM_GET_IRQCHIP,
	KVM_SET_IRQCHIP,
	KVM_CREATE_PIT2,
	KVM_GET_PIT2,
	KVM_SET_PIT2,
	KVM_REINJECT_CONTROL,
	KVM_SET_GSI_ROUTING,
	KVM_IRQFD,
	KVM_IOEVENTFD,
	KVM_SIGNAL_MSI,
	KVM_SET_BOOT_CPU_ID,
	KVM_SET_CLOCK,
	KVM_GET_CLOCK,
	KVM_REGISTER_COALESCED_MMIO,
	KVM_UNREGISTER_COALESCED_MMIO,
	KVM_ENABLE_CAP,
	KVM_CREATE_DEVICE,
	KVM_X86_SET_MSR_FILTER,
	KVM_CLEAR_DIRTY_LOG,
	KVM_RESET_DIRTY_RINGS,
	KVM_GET_STATS_FD,
	KVM_SET_TSC_KHZ,
	KVM_GET_TSC_KHZ,
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	KVM_GET_SREGS2,
	KVM_SET_SREGS2,
	KVM_TRANSLATE,
	KVM_INTERRUPT,
	KVM_GET_MSRS,
	KVM_SET_MSRS,
	KVM_SET_CPUID2,
	KVM_GET_CPUID2,
	KVM_SET_SIGNAL_MASK,
	KVM_GET_FPU,
	KVM_SET_FPU,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_TPR_ACCESS_REPORTING,
	KVM_SET_VAPIC_ADDR,
	KVM_X86_SETUP_MCE,
	KVM_X86_SET_MCE,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_XSAVE,
	KVM_SET_XSAVE,
	KVM_GET_XSAVE2,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_KVMCLOCK_CTRL,
	KVM_NMI,
	KVM_SMI,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_SET_GUEST_DEBUG,
	KVM_HAS_DEVICE_ATTR,
	KVM_GET_DEVICE_ATTR,
	KVM_SET_DEVICE_ATTR,
};

static void one_call(struct input *in, const int *fds, struct kvm_run *run, unsigned char *argument)
{
	unsigned op = (unsigned)input_number(in, 1), index = (unsigned)input_number(in, 1);
	unsigned long request = requests[index % (sizeof(requests) / sizeof(requests[0]))];
	unsigned long arg = (unsigned long)argument;
	int r;

	/* A client's own pointers and descriptors stay out of it: it may break itself. */
	if (op & 0x40) { /* an integer as argument */
		arg = input_number(in, 4);
	} else {
		size_t len = _IOC_SIZE(request) + ((op & 0x20) ? input_number(in, 1) : 0);

		memset(argument, 0, ARGUMENT);
		input_bytes(in, argument, len);
	}
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU || request == KVM_GET_STATS_FD ||
	    request == KVM_CREATE_DEVICE) {
		r = anykvm_ioctl(fds[op % 3], request, arg);
		if (r > 2)
			anykvm_close(r);
		return;
	}
	anykvm_ioctl(fds[op % 3], request, arg);
	if (op & 0x80) {
		run->immediate_exit = 1;
		anykvm_ioctl(fds[2], KVM_RUN, 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned char *argument, *memory;
	struct input in = {data, size};
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY};
	unsigned how = (unsigned)input_number(&in, 1);
	int fds[3], run_size;
	struct kvm_run *run;

	if (!argument) {
		argument = mmap(NULL, ARGUMENT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				-1, 0);
		memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);
	}
	fds[0] = anykvm_open(how & 2 ? "vendor=amd" : "vendor=intel");
	fds[1] = anykvm_ioctl(fds[0], KVM_CREATE_VM, 0);
	if (how & 1)
		anykvm_ioctl(fds[1], KVM_CREATE_IRQCHIP, 0);
	region.userspace_addr = (unsigned long)memory;
	anykvm_ioctl(fds[1], KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
	fds[2] = anykvm_ioctl(fds[1], KVM_CREATE_VCPU, 0);
	run_size = anykvm_ioctl(fds[0], KVM_GET_VCPU_MMAP_SIZE, 0);
	run = anykvm_mmap((size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[2], 0);
	if (run == MAP_FAILED)
		__builtin_trap();
	for (unsigned n = 0; n < 64 && input_more(&in); n++)
		one_call(&in, fds, run, argument);
	anykvm_munmap(run, (size_t)run_size);
	for (int i = 2; i >= 0; i--)
		anykvm_close(fds[i]);
	return 0;
}
