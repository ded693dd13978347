/* `anykvm doctor`: what this host offers, what that means for anykvm, and what to do about it. */
#include "vmm/cmd.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/accel.h"
#include "vmm/boot.h"

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE BIT(1)
#endif

/* How bad a finding is. */
enum level {
	GOOD,
	NOTE, /* works, with something missing or slower */
	BAD,  /* anykvm cannot run */
};

struct doctor {
	bool failed;
};

__attribute__((format(printf, 3, 4))) static void report(struct doctor *d, enum level level,
							 const char *fmt, ...)
{
	static const char *const marks[] = {"  ok   ", "  note ", "  FAIL "};
	va_list args;

	va_start(args, fmt);
	fputs(marks[level], stdout);
	vprintf(fmt, args);
	putchar('\n');
	va_end(args);
	d->failed |= level == BAD;
}

/* ---- processor ---- */

struct regs {
	u32 a, b, c, d;
};

static struct regs cpuid(u32 leaf, u32 index)
{
	struct regs r = {0};

	__get_cpuid_count(leaf, index, &r.a, &r.b, &r.c, &r.d);
	return r;
}

static void cpu_name(char vendor[13], char brand[49])
{
	struct regs r = cpuid(0, 0);

	memset(vendor, 0, 13);
	memcpy(vendor, &r.b, 4);
	memcpy(vendor + 4, &r.d, 4);
	memcpy(vendor + 8, &r.c, 4);
	memset(brand, 0, 49);
	for (u32 i = 0; i < 3; i++) {
		r = cpuid(0x80000002 + i, 0);
		memcpy(brand + 16 * i, &r, 16);
	}
	g_strstrip(brand);
}

static unsigned cpu_family(void)
{
	u32 a = cpuid(1, 0).a;
	unsigned family = (a >> 8) & 15;

	return family == 15 ? family + ((a >> 20) & 0xff) : family;
}

static void check_cpu(struct doctor *d)
{
	char vendor[13], brand[49];
	struct regs f7 = cpuid(7, 0), f1 = cpuid(1, 0), d1 = cpuid(0xd, 1);
	bool amd, inv_tsc = cpuid(0x80000007, 0).d & BIT(8);

	cpu_name(vendor, brand);
	amd = !strcmp(vendor, "AuthenticAMD") || !strcmp(vendor, "HygonGenuine");
	printf("Processor: %s\n", *brand ? brand : vendor);
	if (!(f7.b & BIT(0)))
		report(d, BAD,
		       "no FSGSBASE: the translator keeps the vCPU under GS and needs it "
		       "(Intel since Ivy Bridge, AMD since Excavator)");
	else if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
		report(d, BAD,
		       "FSGSBASE is there but the kernel keeps it off (Linux older than "
		       "5.9, or 'nofsgsbase' on its command line)");
	else
		report(d, GOOD, "FSGSBASE, usable by programs");
	if (!(f1.c & BIT(27)))
		report(d, BAD, "no XSAVE, or the kernel keeps it off");
	else
		report(d, d1.a & BIT(0) ? GOOD : NOTE, "XSAVE%s%s",
		       d1.a & BIT(0) ? ", XSAVEOPT" : " without XSAVEOPT: switches are slower",
		       d1.a & BIT(1) ? ", XSAVEC" : "");
	if (!(f7.b & BIT(8)))
		report(d, BAD,
		       "no BMI2: the translator needs its flag-preserving shifts (Intel since "
		       "Haswell, AMD since Excavator)");
	else if (amd && cpu_family() < 0x19)
		report(d, NOTE,
		       "BMI2, but PDEP and PEXT are slow on this processor (AMD before "
		       "Zen 3): the translator should avoid them");
	else
		report(d, GOOD, "BMI2 with fast PDEP and PEXT");
	report(d, f7.b & BIT(5) ? GOOD : NOTE, "guests get %s",
	       f7.b & BIT(16)	? "AVX-512 and what comes with it"
	       : f7.b & BIT(5)	? "AVX and AVX2; the host has no AVX-512"
	       : f1.c & BIT(28) ? "AVX; the host has no AVX2"
				: "SSE only; the host has no AVX");
	if (!(f1.c & BIT(25)))
		report(d, NOTE, "no AES instructions: guests have none either");
	report(d, inv_tsc ? GOOD : NOTE,
	       inv_tsc ? "invariant time-stamp counter"
		       : "the time-stamp counter is not marked invariant: guest clocks may drift");
}

/* ---- kernel and limits ---- */

static bool read_number(const char *path, u64 *value)
{
	g_autofree char *text = NULL;

	if (!g_file_get_contents(path, &text, NULL, NULL))
		return false;
	*value = g_ascii_strtoull(text, NULL, 10);
	return true;
}

static void check_executable_memory(struct doctor *d)
{
	int fd = memfd_create("anykvm-doctor", MFD_CLOEXEC);
	void *w = MAP_FAILED, *x = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, 4096)) {
		w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	if (w == MAP_FAILED || x == MAP_FAILED)
		report(d, BAD,
		       "cannot map memory twice, writable and executable (%s): translated "
		       "code has no place; look for SELinux execmem or a noexec memfd policy "
		       "(vm.memfd_noexec)",
		       g_strerror(errno));
	else
		report(d, GOOD, "code can be mapped writable here and executable there");
	if (w != MAP_FAILED)
		munmap(w, 4096);
	if (x != MAP_FAILED)
		munmap(x, 4096);
	if (fd >= 0)
		close(fd);
}

static void check_limits(struct doctor *d)
{
	struct rlimit lim;
	u64 n;

	if (read_number("/proc/sys/vm/max_map_count", &n))
		report(d, n < 65530 ? NOTE : GOOD, "vm.max_map_count is %" G_GUINT64_FORMAT "%s", n,
		       n < 65530 ? ": clients that remap guest memory piecewise may run out" : "");
	if (!getrlimit(RLIMIT_AS, &lim) && lim.rlim_cur != RLIM_INFINITY)
		report(d, NOTE,
		       "address space is limited to %llu MiB (ulimit -v): this bounds "
		       "guest memory",
		       (unsigned long long)lim.rlim_cur >> 20);
	if (!getrlimit(RLIMIT_NOFILE, &lim) && lim.rlim_cur < 256)
		report(d, NOTE, "only %llu files may be open (ulimit -n)",
		       (unsigned long long)lim.rlim_cur);
	if (read_number("/proc/sys/vm/overcommit_memory", &n) && n == 2)
		report(d, NOTE,
		       "vm.overcommit_memory is 2: guest memory counts as used from the "
		       "start");
}

static void check_userfaultfd(struct doctor *d)
{
	int flags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
	int fd = (int)syscall(SYS_userfaultfd, flags);

	if (fd >= 0) {
		report(d, GOOD, "userfaultfd");
		close(fd);
	} else {
		report(d, NOTE,
		       "no userfaultfd (%s): clients that fill memory on demand, such as "
		       "post-copy migration, cannot",
		       g_strerror(errno));
	}
}

static void check_seccomp(struct doctor *d)
{
	int mode = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);

	if (mode > 0)
		report(d, NOTE,
		       "a seccomp filter is in force (a container?): system calls it "
		       "forbids fail in ways anykvm cannot foresee");
	else
		report(d, GOOD, "no seccomp filter");
}

static void check_memory(struct doctor *d)
{
	struct sysinfo info;
	u64 available;

	if (sysinfo(&info))
		return;
	available = ((u64)info.freeram + info.bufferram) * info.mem_unit;
	report(d, (u64)info.totalram * info.mem_unit < (512ull << 20) ? NOTE : GOOD,
	       "%llu MiB of memory, %llu MiB free, %d processors",
	       (unsigned long long)info.totalram * info.mem_unit >> 20,
	       (unsigned long long)available >> 20, get_nprocs());
}

static void check_kernel(struct doctor *d)
{
	g_autofree char *version = NULL;

	if (g_file_get_contents("/proc/sys/kernel/osrelease", &version, NULL, NULL))
		g_strstrip(version);
	printf("Kernel: Linux %s\n", version ? version : "(unknown)");
	check_executable_memory(d);
	check_limits(d);
	check_userfaultfd(d);
	check_seccomp(d);
	check_memory(d);
}

/* ---- accelerators and guests ---- */

static void check_accelerators(struct doctor *d)
{
	struct accel accel;
	g_autofree char *why = NULL;

	puts("Accelerators:");
	if (accel_open(&accel, "anykvm", NULL, &why)) {
		report(d, BAD, "anykvm: %s", why);
	} else {
		int vm = accel_ioctl_value(&accel, accel.fd, KVM_CREATE_VM, 0);

		if (vm >= 0) {
			report(d, GOOD, "anykvm's own processor, interface version %d",
			       accel_extension(&accel, accel.fd, ACCEL_CAP_ANYKVM));
			accel.ops->close(vm);
		} else {
			report(d, BAD, "anykvm cannot create a virtual machine: %s",
			       g_strerror(-vm));
		}
		accel_close(&accel);
	}
	g_clear_pointer(&why, g_free);
	if (access("/dev/kvm", F_OK)) {
		report(d, GOOD, "no /dev/kvm here: nothing is lost, anykvm does not need it");
	} else if (accel_open(&accel, "kvm", NULL, &why)) {
		report(d, NOTE, "/dev/kvm is there but not for you: %s; anykvm does not need it",
		       why);
	} else {
		report(d, GOOD, "/dev/kvm too, for 'anykvm run --accel kvm' and comparisons");
		accel_close(&accel);
	}
}

static void check_guest(struct doctor *d)
{
	g_autofree char *kernel = NULL, *initrd = NULL;

	puts("Default guest:");
	if (boot_default_guest(&kernel, &initrd))
		report(d, GOOD, "%s with %s", kernel, initrd);
	else
		report(d, NOTE,
		       "%s or %s is missing: 'scripts/guest-assets' makes them; until "
		       "then name a kernel with --kernel",
		       kernel, initrd);
}

int cmd_doctor(int argc, char **argv)
{
	struct doctor d = {0};

	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		puts("Usage: anykvm doctor\n\n"
		     "Says what this host can and cannot do for anykvm, and why. Ends with status 0\n"
		     "when guests can run, 1 when something needed is missing.");
		return 0;
	}
	if (argc > 1) {
		fprintf(stderr,
			"anykvm doctor: unexpected argument '%s' ('anykvm doctor --help' explains)\n",
			argv[1]);
		return 2;
	}
	check_cpu(&d);
	check_kernel(&d);
	check_accelerators(&d);
	check_guest(&d);
	puts(d.failed ? "This host cannot run anykvm's guests; see FAIL above."
		      : "This host can run anykvm's guests.");
	return d.failed;
}
