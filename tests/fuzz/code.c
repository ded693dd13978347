/*
 * Guest code of any bytes, in real, protected and long mode: what the decoder, the translator and
 * the instructions written in C make of it. The guest may do what it likes for some milliseconds;
 * the process must live on and hold no page that can be written and executed.
 */
#include "input.h"

#include <anykvm.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#define MEMORY (1u << 20)
#define CODE   0x8000u
#define TABLES 0x1000u
#define EXITS  32

/* The one vCPU, and who ends its runs: a guest may loop. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_run *running;
static int running_fd;

static void *kicker(void *opaque)
{
	struct timespec pause = {0, 2000000};

	for (;;) {
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&lock);
		if (running) {
			__atomic_store_n(&running->immediate_exit, 1, __ATOMIC_SEQ_CST);
			anykvm_kick(running_fd);
		}
		pthread_mutex_unlock(&lock);
	}
	return opaque;
}

static void set_running(struct kvm_run *run, int fd)
{
	pthread_mutex_lock(&lock);
	running = run;
	running_fd = fd;
	pthread_mutex_unlock(&lock);
}

static void set_mode(int vcpu, unsigned mode, unsigned char *memory)
{
	struct kvm_sregs s;
	unsigned long *table = (unsigned long *)(memory + TABLES);

	anykvm_ioctl(vcpu, KVM_GET_SREGS, (unsigned long)&s);
	s.cs.base = s.cs.selector = 0;
	if (mode) {
		s.cs.selector = 8;
		s.cs.limit = s.ds.limit = s.es.limit = s.ss.limit = 0xffffffff;
		s.cs.g = s.ds.g = s.es.g = s.ss.g = 1;
		s.cs.db = s.ss.db = mode == 1;
		s.ds.selector = s.es.selector = s.ss.selector = 16;
		s.cr0 |= 1;
	}
	if (mode == 2) {
		table[0] = (TABLES + 0x1000) | 7;
		table[512] = (TABLES + 0x2000) | 7;
		table[1024] = 0x87;
		s.cs.l = 1;
		s.cr3 = TABLES;
		s.cr4 |= 0x620;
		s.cr0 |= 0x80000000;
		s.efer |= 0xd01;
	}
	anykvm_ioctl(vcpu, KVM_SET_SREGS, (unsigned long)&s);
}

static void set_cpuid(int kvm, int vcpu)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid;

	cpuid.head.nent = 256;
	if (!anykvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, (unsigned long)&cpuid))
		anykvm_ioctl(vcpu, KVM_SET_CPUID2, (unsigned long)&cpuid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned char *memory;
	struct input in = {data, size};
	struct kvm_userspace_memory_region region = {.memory_size = MEMORY};
	struct kvm_regs regs = {.rflags = 2, .rip = CODE, .rsp = 0x7000};
	unsigned how = (unsigned)input_number(&in, 1);
	int kvm, vm, vcpu, run_size;
	struct kvm_run *run;
	pthread_t thread;

	if (!memory) {
		memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);
		pthread_create(&thread, NULL, kicker, NULL);
	}
	memset(memory, 0, 0x20000);
	kvm = anykvm_open(how & 4 ? "vendor=amd" : "vendor=intel");
	vm = anykvm_ioctl(kvm, KVM_CREATE_VM, 0);
	region.userspace_addr = (unsigned long)memory;
	anykvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
	vcpu = anykvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	run_size = anykvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = anykvm_mmap((size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		__builtin_trap();
	set_cpuid(kvm, vcpu);
	regs.rax = input_number(&in, 4);
	regs.rcx = input_number(&in, 1);
	regs.rbx = regs.rsi = regs.rdi = 0x9000 + input_number(&in, 2);
	set_mode(vcpu, how & 3, memory);
	anykvm_ioctl(vcpu, KVM_SET_REGS, (unsigned long)&regs);
	input_bytes(&in, memory + CODE, in.left < 4096 ? in.left : 4096);
	set_running(run, vcpu);
	for (unsigned i = 0; i < EXITS; i++)
		if (anykvm_ioctl(vcpu, KVM_RUN, 0) || run->exit_reason == KVM_EXIT_SHUTDOWN ||
		    run->exit_reason == KVM_EXIT_HLT || run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
			break;
	set_running(NULL, -1);
	anykvm_munmap(run, (size_t)run_size);
	anykvm_close(vcpu);
	anykvm_close(vm);
	anykvm_close(kvm);
	return 0;
}
