/* --trace: the API's calls. What happens inside KVM_RUN is traced by the engine (base/trace.def). */
#include "exec/exec.h"

#include "kvm/ioctl.h"

#include <string.h>

void exec_trace_ioctl(int fd, enum anykvm_kind kind, u32 request, unsigned long arg, int ret)
{
	static const char *const kinds[] = {"?", "system", "vm", "vcpu", "stats", "device"};
	const char *name = ioctl_name(kind, request);
	char number[24];

	snprintf(number, sizeof(number), "0x%x", request);
	exec_log("ioctl: fd %d (%s) %s arg 0x%lx = %d%s%s", fd,
		 (unsigned)kind < ARRAY_SIZE(kinds) ? kinds[kind] : "?", name ? name : number, arg,
		 ret, ret < 0 ? " " : "", ret < 0 ? strerrorname_np(-ret) : "");
}
