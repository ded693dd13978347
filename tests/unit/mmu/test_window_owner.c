/* Which processor has which window. */
#include "rig.h"
#include "mmu/window_internal.h"

#include <stdio.h>

static unsigned number_of(const struct cpu *cpu)
{
	const struct mmu_window *w = cpu->mmu->window;

	for (unsigned i = 0; i < MMU_WINDOWS; i++)
		if (w && w == rig.vm.window[i] && w->shape == window_shape(i))
			return i;
	return MMU_WINDOWS;
}

/* What the API cannot show, as a VM's vCPUs stay as long as it. */
static void goes_to_the_next_cpu(void **state)
{
	rig_make(RIG_CPUS);
	assert_int_equal(mmu_window_enable(&rig.vm, true), 0);
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		rig_long(rig.cpu[i]);
		assert_int_equal(number_of(rig.cpu[i]), MMU_WINDOWS);
		mmu_set_cr3(rig.cpu[i], 0x5000);
		assert_int_equal(number_of(rig.cpu[i]), i);
		assert_int_equal(rig.cpu[i]->window_cr3, i < MMU_WINDOWS ? 0x5000 : WINDOW_NONE);
		if (i < MMU_WINDOWS)
			assert_int_equal(rig.cpu[i]->window_rsp, window_mask(window_shape(i)));
	}
	mmu_set_cr3(rig.cpu[1], 0x6000); /* another program, the same window */
	assert_int_equal(number_of(rig.cpu[1]), 1);
	assert_int_equal(rig.cpu[1]->window_cr3, 0x6000);
	mmu_cpu_destroy(rig.cpu[1]);
	assert_null(rig.vm.window[1]->owner);
	mmu_set_cr3(rig.cpu[RIG_CPUS - 1], 0x6000);
	assert_int_equal(number_of(rig.cpu[RIG_CPUS - 1]), 1);
	assert_int_equal(rig.cpu[RIG_CPUS - 1]->window_rsp, window_mask(window_shape(1)));
	assert_ptr_equal(rig.vm.window[1]->owner, rig.cpu[RIG_CPUS - 1]);
	rig_free();
	/* all of it can be had again */
	rig_make(1);
	assert_int_equal(mmu_window_enable(&rig.vm, true), 0);
	for (unsigned i = 0; i < MMU_WINDOWS; i++)
		assert_non_null(rig.vm.window[i]);
	rig_free();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_to_the_next_cpu),
	};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	puts("1..0 # SKIP the sanitizer's own memory is where the windows would be");
	return 0;
#endif
	return cmocka_run_group_tests_name("owners of windows", tests, NULL, NULL);
}
