/* The fakes of fake.h. */
#include "fake.h"

#include <errno.h>

#include "vmm/accel.h"

struct fake fake;

static void fake_end(void *opaque, enum power_end why, int status)
{
	if (fake.end == POWER_ON) {
		fake.end = why;
		fake.end_status = status;
	}
}

const struct power fake_power = {fake_end, NULL};

int fake_reset(void **state)
{
	if (fake.input)
		g_string_free(fake.input, TRUE);
	if (fake.output)
		g_string_free(fake.output, TRUE);
	memset(&fake, 0, sizeof(fake));
	fake.input = g_string_new(NULL);
	fake.output = g_string_new(NULL);
	fake.output_room = 1 << 20;
	return 0;
}

bool fake_line(unsigned gsi)
{
	return fake.lines[gsi] != 0;
}

void irq_set(struct irq_ctl *irq, unsigned gsi, unsigned source, bool level)
{
	u64 old = fake.lines[gsi];

	fake.lines[gsi] = level ? old | BIT64(source) : old & ~BIT64(source);
	fake.edges[gsi] += !old && fake.lines[gsi];
}

void irq_msi(struct irq_ctl *irq, u64 address, u32 data)
{
	fake.msis++;
	fake.msi_address = address;
	fake.msi_data = data;
}

size_t console_read(struct console *con, u8 *buf, size_t max)
{
	size_t n = MIN(max, fake.input->len);

	memcpy(buf, fake.input->str, n);
	g_string_erase(fake.input, 0, (gssize)n);
	return n;
}

size_t console_pending(struct console *con)
{
	return fake.input->len;
}

size_t console_write(struct console *con, const void *buf, size_t len)
{
	size_t n = MIN(len, fake.output_room);

	g_string_append_len(fake.output, buf, (gssize)n);
	fake.output_room -= n;
	return n;
}

void console_attach(struct console *con, const struct console_frontend *fe, void *dev)
{
	fake.frontend = fe;
	fake.frontend_dev = dev;
}

int accel_ioctl(const struct accel *accel, int fd, unsigned long req, const void *arg)
{
	struct kvm_cpuid2 *cpuid = (struct kvm_cpuid2 *)arg;

	if (req != KVM_GET_SUPPORTED_CPUID)
		return -ENOTTY;
	if (cpuid->nent < 200)
		return -E2BIG;
	cpuid->nent = 200;
	for (unsigned i = 0; i < 200; i++)
		cpuid->entries[i].function = 0x40000000 + i;
	cpuid->entries[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 0x1f};
	cpuid->entries[10] = (struct kvm_cpuid_entry2){.function = 0xb};
	cpuid->entries[20] = (struct kvm_cpuid_entry2){.function = 0x1f};
	cpuid->entries[199] = (struct kvm_cpuid_entry2){.function = 1};
	return 0;
}

int accel_extension(const struct accel *accel, int fd, int cap)
{
	return cap == KVM_CAP_TSC_DEADLINE_TIMER && fake.deadline_timer;
}
