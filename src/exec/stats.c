/* --stats: how often each ioctl was called and each exit happened, printed at the end. */
#include "exec/exec.h"

#include "kvm/ioctl.h"

#define SLOTS 512
#define EXITS 64

static struct {
	u64 key; /* kind << 32 | request */
	u64 count;
} slots[SLOTS];
static u64 exits[EXITS];

void exec_stats_count(enum anykvm_kind kind, u32 request)
{
	u64 key = (u64)kind << 32 | request;
	u32 at = (request ^ request >> 8 ^ (u32)kind * 37) % SLOTS;

	for (u32 i = 0; i < SLOTS; i++, at = (at + 1) % SLOTS) {
		u64 none = 0;

		if (__atomic_load_n(&slots[at].key, __ATOMIC_RELAXED) == key ||
		    __atomic_compare_exchange_n(&slots[at].key, &none, key, false, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED) ||
		    none == key) {
			__atomic_fetch_add(&slots[at].count, 1, __ATOMIC_RELAXED);
			return;
		}
	}
}

void exec_stats_exit(u32 reason)
{
	__atomic_fetch_add(&exits[MIN(reason, EXITS - 1u)], 1, __ATOMIC_RELAXED);
}

void exec_stats_print(void)
{
	for (u32 i = 0; i < SLOTS; i++) {
		u32 request = (u32)slots[i].key;
		const char *name = ioctl_name((enum anykvm_kind)(slots[i].key >> 32), request);

		if (!slots[i].count)
			continue;
		if (name)
			exec_log("stats: %12llu %s", (unsigned long long)slots[i].count, name);
		else
			exec_log("stats: %12llu request 0x%x (refused)",
				 (unsigned long long)slots[i].count, request);
	}
	for (u32 i = 0; i < EXITS; i++)
		if (exits[i])
			exec_log("stats: %12llu exits with reason %u", (unsigned long long)exits[i],
				 i);
}
