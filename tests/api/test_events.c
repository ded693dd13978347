/*
 * What is under way between two KVM_RUNs: injected and pending events, kicks, requests; what of it an INIT and
 * the client's writes leave.
 */
#include "api.h"

#include <linux/kvm_para.h>

#define HANDLER 0x9000u

static void msi(struct api_vm *t, u32 data)
{
	struct kvm_msi m = {.address_lo = 0xfee00000, .data = data};

	assert_int_equal(api_ioctl(t->vm, KVM_SIGNAL_MSI, &m), 1);
}

static u32 mp_state(struct api_vm *t)
{
	struct kvm_mp_state mp;

	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_MP_STATE, &mp), 0);
	return mp.mp_state;
}

API_CODE16(outs, "out %al, $0x40; out %al, $0x41; hlt");

/* INIT takes the records of before away, and nothing is written to where they were. */
static void init_ends_records(void **state)
{
	static const struct {
		u32 msr;
		u64 value, after;
	} rows[] = {
		{MSR_KVM_SYSTEM_TIME_NEW, 0x20001, 0}, {MSR_KVM_STEAL_TIME, 0x21001, 0},
		{MSR_KVM_PV_EOI_EN, 0x22001, 0},       {MSR_KVM_ASYNC_PF_EN, 0x23009, 0},
		{MSR_KVM_ASYNC_PF_INT, 0x51, 0},       {MSR_KVM_POLL_CONTROL, 0, 0},
	};
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(api_set_msr(&t, 0, rows[i].msr, rows[i].value), 1);
	api_start16(&t, 0, outs_begin, API_SIZE(outs));
	api_run_expect(&t, 0, KVM_EXIT_IO);
	assert_true(*(u32 *)(t.mem + 0x20000)); /* the clock's version */
	msi(&t, 0x500);
	assert_int_equal(mp_state(&t), KVM_MP_STATE_RUNNABLE);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(api_msr(&t, 0, rows[i].msr), rows[i].after);
	memset(t.mem + 0x20000, 0xcc, 0x4000);
	api_start16(&t, 0, outs_begin, API_SIZE(outs));
	api_run_expect(&t, 0, KVM_EXIT_IO);
	for (unsigned i = 0; i < 0x4000; i++)
		assert_int_equal(t.mem[0x20000 + i], 0xcc);
	api_vm_free(&t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(init_ends_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
