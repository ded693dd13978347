/* vCPU threads: life cycle, pausing, the run loop and its exits. */
#include "vmm/vcpu.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/cpuid_names.h"
#include "vmm/error.h"
#include "vmm/profile.h"

#define KICK_AGAIN_USEC 10000 /* a kick that came at an unlucky moment is repeated */

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

static const char *const exit_names[VCPU_EXITS_MAX] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_EXCEPTION] = "exception",
	[KVM_EXIT_IO] = "port I/O",
	[KVM_EXIT_HYPERCALL] = "hypercall",
	[KVM_EXIT_DEBUG] = "debug",
	[KVM_EXIT_HLT] = "halt",
	[KVM_EXIT_MMIO] = "MMIO",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "interrupt window",
	[KVM_EXIT_SHUTDOWN] = "shutdown (triple fault)",
	[KVM_EXIT_FAIL_ENTRY] = "failed entry",
	[KVM_EXIT_INTR] = "interrupted",
	[KVM_EXIT_SET_TPR] = "TPR set",
	[KVM_EXIT_TPR_ACCESS] = "TPR access",
	[KVM_EXIT_NMI] = "NMI",
	[KVM_EXIT_INTERNAL_ERROR] = "internal error",
	[KVM_EXIT_SYSTEM_EVENT] = "system event",
	[KVM_EXIT_IOAPIC_EOI] = "IOAPIC EOI",
	[KVM_EXIT_HYPERV] = "Hyper-V",
	[KVM_EXIT_X86_RDMSR] = "RDMSR",
	[KVM_EXIT_X86_WRMSR] = "WRMSR",
	[KVM_EXIT_DIRTY_RING_FULL] = "dirty ring full",
	[KVM_EXIT_X86_BUS_LOCK] = "bus lock",
	[KVM_EXIT_MEMORY_FAULT] = "memory fault",
};

const char *vcpu_exit_name(unsigned reason)
{
	return reason < VCPU_EXITS_MAX && exit_names[reason] ? exit_names[reason] : "unnamed exit";
}

/* ---- exits ---- */

static u64 load(const void *p, unsigned size)
{
	u64 v = 0;

	memcpy(&v, p, MIN(size, 8u));
	return v;
}

static void handle_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u8 *data = (u8 *)run + run->io.data_offset;

	for (u32 i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			bus_write(vcpu->set->pio, run->io.port, load(data, run->io.size),
				  run->io.size);
		} else {
			u64 v = bus_read(vcpu->set->pio, run->io.port, run->io.size);

			memcpy(data, &v, run->io.size);
		}
	}
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	unsigned len = MIN(run->mmio.len, 8u);

	if (run->mmio.is_write) {
		bus_write(vcpu->set->mmio, run->mmio.phys_addr, load(run->mmio.data, len), len);
	} else {
		u64 v = bus_read(vcpu->set->mmio, run->mmio.phys_addr, len);

		memcpy(run->mmio.data, &v, len);
	}
}

static void vcpu_crash(struct vcpu *vcpu, char *line)
{
	struct vcpu_set *set = vcpu->set;
	g_autofree char *dump = vcpu_dump(vcpu);

	g_mutex_lock(&set->lock);
	if (!set->crash)
		set->crash = g_strdup_printf("%s\n%s", line, dump);
	g_mutex_unlock(&set->lock);
	g_free(line);
	power_end(&set->power, POWER_CRASH, 0);
}

static char *internal_error_text(const struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	GString *s = g_string_new(NULL);

	g_string_printf(s, "vCPU %u: the accelerator reports an internal error, suberror %u",
			vcpu->id, run->internal.suberror);
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		g_string_append(s, " (an instruction could not be emulated)");
	for (u32 i = 0; i < MIN(run->internal.ndata, 16u); i++)
		g_string_append_printf(s, "%s%llx", i ? " " : "; data ", run->internal.data[i]);
	return g_string_free(s, FALSE);
}

static void handle_system_event(struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		power_end(&vcpu->set->power, POWER_OFF, 0);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		power_end(&vcpu->set->power, POWER_RESET, 0);
		break;
	default:
		vcpu_crash(vcpu, g_strdup_printf("vCPU %u: the guest reports a crash (event %u)",
						 vcpu->id, vcpu->run->system_event.type));
		break;
	}
}

/* Nothing is encrypted here, so a page that the guest shares needs nothing more. */
static void handle_hypercall(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->hypercall.ret = run->hypercall.nr == KVM_HC_MAP_GPA_RANGE ? 0 : (u64)-KVM_ENOSYS;
}

/* Stops the whole set and tells the debugger; the main thread does the rest. */
static void handle_debug(struct vcpu *vcpu)
{
	struct vcpu_set *set = vcpu->set;

	if (!set->debug_notify) {
		vcpu_crash(vcpu,
			   g_strdup_printf("vCPU %u: a debug exit without a debugger", vcpu->id));
		return;
	}
	g_mutex_lock(&set->lock);
	vcpu->debug_exit = vcpu->run->debug.arch;
	vcpu->debug_hit = true;
	if (set->state == VCPU_RUNNING)
		__atomic_store_n(&set->state, VCPU_PAUSED, __ATOMIC_RELEASE);
	g_mutex_unlock(&set->lock);
	set->debug_notify(set->debug_opaque);
}

/* Handles one exit. What it does not know ends the machine: going on would hide it. */
static void vcpu_dispatch(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		break;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		break;
	case KVM_EXIT_HYPERCALL:
		handle_hypercall(vcpu);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		handle_system_event(vcpu);
		break;
	case KVM_EXIT_DEBUG:
		handle_debug(vcpu);
		break;
	case KVM_EXIT_SHUTDOWN:
		vcpu_crash(vcpu, g_strdup_printf("vCPU %u: triple fault", vcpu->id));
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vcpu_crash(vcpu, internal_error_text(vcpu));
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vcpu_crash(vcpu, g_strdup_printf("vCPU %u: cannot enter the guest, hardware "
						 "reason 0x%llx",
						 vcpu->id,
						 run->fail_entry.hardware_entry_failure_reason));
		break;
	default:
		vcpu_crash(vcpu,
			   g_strdup_printf("vCPU %u: exit %u (%s) is not supported", vcpu->id,
					   run->exit_reason, vcpu_exit_name(run->exit_reason)));
		break;
	}
}

/* ---- the thread ---- */

/* Port and memory accesses are finished by the next KVM_RUN; this one does nothing else. */
static void vcpu_complete_exit(struct vcpu *vcpu)
{
	int r;

	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	r = accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_RUN, NULL);
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	/* The access was the instruction of a single step. */
	if (r == 0 && vcpu->run->exit_reason == KVM_EXIT_DEBUG)
		handle_debug(vcpu);
}

static bool vcpu_must_wait(const struct vcpu *vcpu, int state)
{
	return state == VCPU_PAUSED ||
	       (state == VCPU_RUNNING && __atomic_load_n(&vcpu->held, __ATOMIC_RELAXED));
}

/* Waits while the set is paused or this vCPU held; false when the thread has to end. */
static bool vcpu_park(struct vcpu *vcpu)
{
	struct vcpu_set *set = vcpu->set;
	bool go_on;

	vcpu_complete_exit(vcpu);
	g_mutex_lock(&set->lock);
	vcpu->parked = true;
	g_cond_broadcast(&set->changed);
	while (vcpu_must_wait(vcpu, set->state))
		g_cond_wait(&set->changed, &set->lock);
	vcpu->parked = false;
	go_on = set->state == VCPU_RUNNING;
	g_mutex_unlock(&set->lock);
	return go_on;
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vcpu_set *set = vcpu->set;

	g_mutex_lock(&set->lock);
	vcpu->pthread = pthread_self();
	vcpu->started = true;
	g_cond_broadcast(&set->changed);
	g_mutex_unlock(&set->lock);

	profile_thread_begin(set->profile);
	while (!__atomic_load_n(&set->stop_asked, __ATOMIC_ACQUIRE)) {
		int r;

		int state = __atomic_load_n(&set->state, __ATOMIC_ACQUIRE);

		if ((state == VCPU_STOPPING || vcpu_must_wait(vcpu, state)) && !vcpu_park(vcpu))
			break;
		r = accel_ioctl(set->accel, vcpu->fd, KVM_RUN, NULL);
		if (r == -EINTR || r == -EAGAIN) {
			/* Cleared before the state is looked at again, so no kick is lost. */
			__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			continue;
		}
		if (r < 0) {
			vcpu_crash(vcpu, g_strdup_printf("vCPU %u: KVM_RUN failed: %s", vcpu->id,
							 g_strerror(-r)));
			break;
		}
		vcpu->exits[MIN(vcpu->run->exit_reason, VCPU_EXITS_MAX - 1u)]++;
		vcpu_dispatch(vcpu);
	}
	profile_thread_end(set->profile);
	g_mutex_lock(&set->lock);
	vcpu->finished = true;
	g_cond_broadcast(&set->changed);
	g_mutex_unlock(&set->lock);
	return NULL;
}

/* ---- the set ---- */

#define MCG_CTL_P  (1ull << 8)
#define MCG_CMCI_P (1ull << 10)
#define MCG_SER_P  (1ull << 24)
#define MCE_BANKS  10

/* As many banks of errors as QEMU gives, with what the accelerator can do with them. */
static void vcpu_setup_mce(struct vcpu *vcpu)
{
	const struct accel *accel = vcpu->set->accel;
	__u64 cap = 0;

	if (accel_ioctl(accel, accel->fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap) < 0)
		return;
	cap = (cap & (MCG_CTL_P | MCG_CMCI_P | MCG_SER_P)) | MCE_BANKS;
	/* Refused: the accelerator's own default is as good. */
	accel_ioctl(accel, vcpu->fd, KVM_X86_SETUP_MCE, &cap);
}

static bool vcpu_create(struct vcpu *vcpu, GError **error)
{
	const struct accel *accel = vcpu->set->accel;
	int r = accel_ioctl_value(accel, accel->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *p;

	if (r < (int)sizeof(struct kvm_run)) {
		vmm_error(error, "%s reports a kvm_run area of %d bytes", accel->ops->name, r);
		return false;
	}
	vcpu->run_size = (size_t)r;
	vcpu->fd = accel_ioctl_value(accel, vcpu->set->vm_fd, KVM_CREATE_VCPU, vcpu->id);
	if (vcpu->fd < 0) {
		vmm_error(error, "%s cannot create vCPU %u: %s", accel->ops->name, vcpu->id,
			  g_strerror(-vcpu->fd));
		return false;
	}
	p = accel->ops->mmap(vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (p == MAP_FAILED) {
		vmm_error(error, "cannot map vCPU %u's run area: %s", vcpu->id, g_strerror(errno));
		return false;
	}
	vcpu->run = p;
	vcpu_setup_mce(vcpu);
	return true;
}

bool vcpu_set_init(struct vcpu_set *set, const struct accel *accel, int vm_fd, unsigned count,
		   struct bus *pio, struct bus *mmio, const struct power *power, GError **error)
{
	int max = accel_extension(accel, vm_fd, KVM_CAP_MAX_VCPUS);

	memset(set, 0, sizeof(*set));
	set->accel = accel;
	set->vm_fd = vm_fd;
	set->pio = pio;
	set->mmio = mmio;
	set->power = *power;
	g_mutex_init(&set->lock);
	g_cond_init(&set->changed);
	if (max && count > (unsigned)max) {
		vmm_error(error, "%s runs at most %d vCPUs, not %u", accel->ops->name, max, count);
		return false;
	}
	set->vcpus = g_new0(struct vcpu, count);
	for (unsigned i = 0; i < count; i++) {
		set->vcpus[i].set = set;
		set->vcpus[i].id = i;
		set->vcpus[i].fd = -1;
		set->count++;
		if (!vcpu_create(&set->vcpus[i], error))
			return false;
	}
	return true;
}

bool vcpu_set_boot(struct vcpu_set *set, const struct boot_entry *entry, GError **error)
{
	struct kvm_cpuid2 *cpuid = cpuid_supported(set->accel, error);
	bool ok = false;

	if (!cpuid)
		return false;
	for (char **name = set->without; name && *name; name++)
		cpuid_feature_remove(cpuid, cpuid_feature_find(*name + 1));
	for (unsigned i = 0; i < set->count; i++) {
		int r;

		cpuid_set_topology(cpuid, i, set->count);
		r = accel_ioctl(set->accel, set->vcpus[i].fd, KVM_SET_CPUID2, cpuid);
		if (r < 0) {
			vmm_error(error, "%s refuses the CPUID of vCPU %u: %s",
				  set->accel->ops->name, i, g_strerror(-r));
			goto out;
		}
		if (!vcpu_boot_state(&set->vcpus[i], entry, error))
			goto out;
	}
	ok = true;
out:
	g_free(cpuid);
	return ok;
}

void vcpu_set_start(struct vcpu_set *set)
{
	for (unsigned i = 0; i < set->count; i++) {
		g_autofree char *name = g_strdup_printf("vcpu %u", i);

		set->vcpus[i].thread = g_thread_new(name, vcpu_thread, &set->vcpus[i]);
	}
}

/* Kicks every thread that is neither parked nor finished; true when there is none. Lock held. */
static bool kick_all(struct vcpu_set *set)
{
	bool quiet = true;

	for (unsigned i = 0; i < set->count; i++) {
		struct vcpu *v = &set->vcpus[i];

		if (!v->thread || v->finished || (set->state == VCPU_PAUSED && v->parked))
			continue;
		quiet = false;
		if (v->started)
			set->accel->ops->vcpu_kick(v->fd, v->pthread, v->run);
	}
	return quiet;
}

static void set_state(struct vcpu_set *set, enum vcpu_state state)
{
	g_mutex_lock(&set->lock);
	__atomic_store_n(&set->state, state, __ATOMIC_RELEASE);
	g_cond_broadcast(&set->changed);
	while (state != VCPU_RUNNING && !kick_all(set))
		g_cond_wait_until(&set->changed, &set->lock,
				  g_get_monotonic_time() + KICK_AGAIN_USEC);
	g_mutex_unlock(&set->lock);
}

void vcpu_set_pause(struct vcpu_set *set)
{
	set_state(set, VCPU_PAUSED);
}

void vcpu_set_resume(struct vcpu_set *set)
{
	set_state(set, VCPU_RUNNING);
}

void vcpu_hold(struct vcpu *vcpu, bool hold)
{
	__atomic_store_n(&vcpu->held, hold, __ATOMIC_RELAXED);
}

void vcpu_set_stop(struct vcpu_set *set)
{
	if (!set->accel)
		return;
	set_state(set, VCPU_STOPPING);
	for (unsigned i = 0; i < set->count; i++)
		g_clear_pointer(&set->vcpus[i].thread, g_thread_join);
}

void vcpu_set_free(struct vcpu_set *set)
{
	if (!set->accel)
		return;
	for (unsigned i = 0; i < set->count; i++) {
		if (set->vcpus[i].run)
			set->accel->ops->munmap(set->vcpus[i].run, set->vcpus[i].run_size);
		if (set->vcpus[i].fd >= 0)
			set->accel->ops->close(set->vcpus[i].fd);
	}
	g_clear_pointer(&set->vcpus, g_free);
	g_clear_pointer(&set->crash, g_free);
	g_cond_clear(&set->changed);
	g_mutex_clear(&set->lock);
	set->accel = NULL;
}

char *vcpu_set_stats(const struct vcpu_set *set)
{
	GString *s = g_string_new("exits to the VMM:\n");

	for (unsigned reason = 0; reason < VCPU_EXITS_MAX; reason++) {
		u64 total = 0;

		for (unsigned i = 0; i < set->count; i++)
			total += set->vcpus[i].exits[reason];
		if (!total)
			continue;
		g_string_append_printf(s, "  %-24s %12" G_GUINT64_FORMAT, vcpu_exit_name(reason),
				       total);
		for (unsigned i = 0; set->count > 1 && i < set->count; i++)
			g_string_append_printf(s, " %10" G_GUINT64_FORMAT,
					       set->vcpus[i].exits[reason]);
		g_string_append_c(s, '\n');
	}
	return g_string_free(s, FALSE);
}
