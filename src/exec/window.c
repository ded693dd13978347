/*
 * --window: guests' programs run in a second mapping of their memory (ANYKVM_CAP_WINDOW)
 *
 * What the engine wants promised for that, the user promises by the option. Memory that cannot be mapped a
 * second time (it is not shared, or of huge pages) is noticed here, and said: it goes without.
 */
#include "exec/exec.h"

#include "kvm/abi.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* Slots below this many bytes are firmware and screens. */
#define RAM_LEAST (16ull << 20)

void exec_window_enable(int vm)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WINDOW, .args = {ANYKVM_WINDOW_AUTO}};
	int error = errno;

	if (!exec_options.window || !anykvm_ioctl(vm, KVM_ENABLE_CAP, (unsigned long)&cap))
		return;
	exec_log("no window for this VM: %s",
		 errno == EBUSY ? "its addresses are in use (one VM of a process can have it)"
				: "no memory");
	errno = error;
}

/* Only shared mappings can be made a second time, and hugetlb's not page by page. */
static bool is_shared(u64 address)
{
	long again = exec_raw(SYS_mremap, (long)address, 0, PAGE_SIZE, MREMAP_MAYMOVE, 0, 0);

	if (again < 0)
		return false;
	exec_raw(SYS_munmap, again, PAGE_SIZE, 0, 0, 0, 0);
	return true;
}

void exec_window_check(const struct kvm_userspace_memory_region *region)
{
	static bool said;

	if (LIKELY(!exec_options.window) || region->memory_size < RAM_LEAST ||
	    is_shared(region->userspace_addr) || __atomic_exchange_n(&said, true, __ATOMIC_RELAXED))
		return;
	exec_log(
		"--window does nothing for %llu MiB of memory at %#llx that are not shared memory of "
		"ordinary pages; QEMU shares them with -object memory-backend-memfd,id=ram,size=SIZE,share=on "
		"-machine memory-backend=ram",
		region->memory_size >> 20, region->guest_phys_addr);
}
