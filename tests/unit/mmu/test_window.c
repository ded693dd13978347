/*
 * The arithmetic of window.h, for each window: where a linear address is, and that no other one leads there.
 * Addresses are all that is special (borders of parts and of what is served, upper bits) and many that are not.
 */
#include "rig.h"
#include "mmu/window_internal.h"

/* Memory operands reach so far from the base that tells the part, accesses included; RSP may have moved by 48 MiB. */
#define REACH ((1ll << 31) + (48ll << 20) + 4096)
#define PIE_FIRST \
	0x555555554000ull /* Linux: two thirds of the user's half, and a random TiB at most */
#define PIE_SPAN (1ull << 40)
#define VSYSCALL 0xffffffffff600000ull
#define NO_LIN	 (~0ull)

static u64 seed;

static u64 any(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* What generated code adds to an address. */
static u64 addend_of(const struct window_shape *s, u64 lin)
{
	return window_addend(s, (unsigned)((lin & window_mask(s)) >> s->part_shift));
}

static bool in_room(const struct window_shape *s, u64 host)
{
	return host - window_room(s) < window_room_size(s);
}

/* At one window's time: fails with the address and the shape, which assert_*() would not tell. */
#define check(s, lin, what)                                                                        \
	do {                                                                                       \
		if (!(what))                                                                       \
			fail_msg("window at %#llx, address %#llx: %s",                             \
				 (unsigned long long)(s)->host, (unsigned long long)(lin), #what); \
	} while (0)

/* --- the windows among each other ---------------------------------------------------------------- */

struct range {
	u64 first, size;
};

static void share_no_address(void **state)
{
	struct range r[2 * MMU_WINDOWS];

	for (unsigned n = 0; n < MMU_WINDOWS; n++) {
		const struct window_shape *s = window_shape(n);

		r[2 * n] = (struct range){window_room(s), window_room_size(s)};
		r[2 * n + 1] =
			(struct range){window_mask(s) - WINDOW_STACK, WINDOW_STACK + WINDOW_FRAME};
		assert_ptr_not_equal(s, window_shape((n + 1) % MMU_WINDOWS));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
		assert_true(r[i].first % PAGE_SIZE == 0 && r[i].size % PAGE_SIZE == 0);
		/* not even by way of a displacement out of the user's half: that would be a #PF, or worse */
		assert_true(r[i].first > 1ull << 32 && r[i].first + r[i].size < WINDOW_USER);
		for (unsigned k = 0; k < i; k++)
			assert_true(r[i].first + r[i].size <= r[k].first ||
				    r[k].first + r[k].size <= r[i].first);
	}
}

static void serve_what_linux_uses(void **state)
{
	u64 host;

	for (unsigned n = 0; n < MMU_WINDOWS; n++) {
		const struct window_shape *s = window_shape(n);

		assert_true(WINDOW_TABLE + 8 * window_parts(s) <= WINDOW_FRAME);
		check(s, 0, window_host(s, 0, &host) && host == s->host);
		check(s, 0x400000, window_host(s, 0x400000, &host));
		for (u64 at = PIE_FIRST; at < PIE_FIRST + PIE_SPAN; at += 1ull << 30)
			check(s, at, window_host(s, at, &host));
		/* a terabyte of libraries, other memory, and the stack, up to its last page */
		for (u64 at = WINDOW_USER - 8192; at > WINDOW_USER - PIE_SPAN; at -= 1ull << 30)
			check(s, at, window_host(s, at, &host));
	}
}

/* --- one address ------------------------------------------------------------------------------- */

/* Is this where the process has a page of the program's? Then it is the one at lin. */
static void check_there(const struct window_shape *s, u64 lin, u64 host)
{
	u64 back = window_lin(s, host), there;

	if (back == NO_LIN || !window_host(s, back, &there))
		return;
	check(s, lin, there == host);
	check(s, lin, back == lin);
}

/* All that holds for any address, whatever is in the guest's page tables. */
static void check_address(const struct window_shape *s, u64 lin)
{
	const s64 disps[] = {0,	      1,     -1,     -8,
			     63,      4095,  4096,   -4096,
			     1 << 20, REACH, -REACH, (s64)(any() % (2 * REACH)) - REACH};
	u64 sum = lin + addend_of(s, lin), host;

	if (window_host(s, lin, &host)) {
		check(s, lin, lin < WINDOW_USER - PAGE_SIZE);
		check(s, lin, host == sum);
		check(s, lin, host - s->host < window_size(s));
		check(s, lin, window_lin(s, host) == lin);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(disps); i++) {
		u64 at = sum + (u64)disps[i];

		if (lin < WINDOW_USER)
			check(s, lin, in_room(s, at));
		else /* not canonical, or the kernel's half; not what every process has there */
			check(s, lin, at >= WINDOW_USER && at < VSYSCALL);
		check_there(s, lin + (u64)disps[i], at);
	}
}

/* Addresses about which something changes: of the first and last bytes, too. */
static void each_border(const struct window_shape *s, void (*f)(const struct window_shape *, u64))
{
	static const u64 off[] = {0, 1, 8, 4095, 4096, 8192, WINDOW_GUARD, 1ull << 31, 1ull << 32};

	for (u64 part = 0; part <= window_parts(s); part++)
		for (unsigned i = 0; i < ARRAY_SIZE(off); i++)
			for (int by = -1; by <= 1; by++) {
				f(s, (part << s->part_shift) + off[i] + (u64)by);
				f(s, (part << s->part_shift) - off[i] + (u64)by);
			}
}

/* An address with each of its upper bits, with all from one on, and with any. */
static void with_upper_bits(const struct window_shape *s, u64 lin)
{
	check_address(s, lin);
	for (unsigned bit = 47; bit < 64; bit++) {
		check_address(s, lin ^ BIT64(bit));
		check_address(s, lin | ~0ull << bit);
	}
	check_address(s, lin ^ any() << 47);
}

static void no_border_leads_elsewhere(void **state)
{
	for (unsigned n = 0; n < MMU_WINDOWS; n++)
		each_border(window_shape(n), with_upper_bits);
}

static void no_address_leads_elsewhere(void **state)
{
	for (unsigned n = 0; n < MMU_WINDOWS; n++)
		for (unsigned i = 0; i < 200000; i++) {
			u64 lin = any();

			check_address(window_shape(n), lin);
			check_address(window_shape(n), lin % WINDOW_USER);
			check_address(window_shape(n), (u64)((s64)(lin << 16) >> 16));
		}
}

/* Of every combination of upper bits, at the places' ends, where a sum is nearest to the next one. */
static void upper_bits_never_cancel(void **state)
{
	for (unsigned n = 0; n < MMU_WINDOWS; n++) {
		const struct window_shape *s = window_shape(n);

		for (u64 upper = 1; upper < 1ull << 17; upper++) {
			u64 first = upper << 47, last = first + WINDOW_USER - 1;

			check(s, first, !window_host(s, first, &(u64){0}));
			check(s, first, first + addend_of(s, first) - REACH >= WINDOW_USER);
			check(s, last, !window_host(s, last, &(u64){0}));
			check(s, last, last + addend_of(s, last) + REACH < VSYSCALL);
			check(s, last, last + addend_of(s, last) + REACH > first);
		}
	}
}

/* --- what is served ------------------------------------------------------------------------------ */

/* Is the place behind (or before) this part's that of the part behind (or before) it? Not asked of window_place(). */
static bool goes_on(const struct window_shape *s, u64 part)
{
	return part >= s->middle && part + 1 < (u64)s->middle + s->middles;
}

static void check_served(const struct window_shape *s, u64 lin)
{
	u64 part = lin >> s->part_shift, at = lin % window_part_size(s), last = window_parts(s) - 1,
	    host;
	bool want = part == 0 || part == last ||
		    (part >= s->middle && part < (u64)s->middle + s->middles);

	if (part > last) {
		check(s, lin, !window_host(s, lin, &host));
		return;
	}
	/* before address 0 and behind the user's half there is nothing that could be meant */
	if (want && at < WINDOW_GUARD)
		want = part == 0 || goes_on(s, part - 1);
	else if (want && at >= window_part_size(s) - WINDOW_GUARD)
		want = part == last ? lin < WINDOW_USER - PAGE_SIZE : goes_on(s, part);
	check(s, lin, window_host(s, lin, &host) == want);
}

static void serves_parts_but_for_their_ends(void **state)
{
	for (unsigned n = 0; n < MMU_WINDOWS; n++) {
		const struct window_shape *s = window_shape(n);

		each_border(s, check_served);
		for (unsigned i = 0; i < 100000; i++)
			check_served(s, any() % WINDOW_USER);
	}
}

/* From the host's addresses: a fault anywhere in the room is of one linear address, or of none. */
static void faults_are_told_apart(void **state)
{
	for (unsigned n = 0; n < MMU_WINDOWS; n++) {
		const struct window_shape *s = window_shape(n);

		for (unsigned i = 0; i < 200000; i++) {
			u64 host = window_room(s) + any() % window_room_size(s), lin, back;

			lin = window_lin(s, host);
			check(s, host, (lin == NO_LIN) == (host - s->host >= window_size(s)));
			if (lin != NO_LIN && window_host(s, lin, &back))
				check(s, host, back == host);
		}
		check(s, 0, window_lin(s, s->host - 1) == NO_LIN);
		check(s, 0, window_lin(s, s->host) == 0);
		check(s, 0, window_lin(s, s->host + window_size(s) - 1) == WINDOW_USER - 1);
		check(s, 0, window_lin(s, s->host + window_size(s)) == NO_LIN);
		/* what a fault without an address tells */
		check(s, 0, window_lin(s, 0) == NO_LIN && window_lin(s, ~0ull) == NO_LIN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(share_no_address),
		cmocka_unit_test(serve_what_linux_uses),
		cmocka_unit_test(no_border_leads_elsewhere),
		cmocka_unit_test(no_address_leads_elsewhere),
		cmocka_unit_test(upper_bits_never_cancel),
		cmocka_unit_test(serves_parts_but_for_their_ends),
		cmocka_unit_test(faults_are_told_apart),
	};

	seed = 0x9e3779b97f4a7c15ull;
	return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
