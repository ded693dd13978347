/*
 * page.c - the guest pages that blocks come from, and whether the client changed them
 *
 * Stores by the guest's processors to translated code are seen by the software TLB (mmu/code.c).
 * The client writes guest memory too - a disk's DMA, a loader, a debugger - and nothing tells
 * when. What the engine knows is when a guest could learn of it: after an exit to the client, and
 * after an interrupt that the client made. Each of these begins a new epoch (mmu_client_wrote()),
 * and in a new epoch a page's code is compared, before a block of it runs for the first time, with
 * sums of the bytes it was translated from, a sum for each 64-byte chunk. A chunk that differs is
 * dropped with its blocks.
 *
 * The first time is when the dispatcher comes to the page. But jump caches and links across pages lead
 * there without it (links within a page do not count), so either they are empty in a new epoch, or what
 * they lead to is compared at once. What a guest does between one exit and the next is often the same, so
 * the pages are listed that the dispatcher has come to since the jump caches were empty (jit.reached). They
 * are compared when the epoch begins, while that costs less than to fill the jump caches again: a guest
 * that polls a device has two pages, the way of Linux through an interrupt has a hundred. Else the jump
 * caches are emptied, and the list begins again.
 *
 * The cost is some 2 ns a chunk, once for each page and epoch. A client that tells of its writes
 * (ANYKVM_CAP_WRITES_TOLD) spares it: an epoch begins when it has written to a page with code only.
 */
#include "jit/jit_internal.h"
#include "mmu/hostmem.h"
#include "mmu/mmu.h"

#define CHUNK 64u
#define REACHED_CHUNKS \
	128u /* of the listed pages, when they were listed: worth it in any case, 300 ns */
#define REACHED_MAX 8192u /* 20 us */
#define REACHED_A_WAY \
	8u /* half of what an entry of a jump cache costs: some will not be wanted again */

/*
 * The sum of a chunk, four products of two quadwords each; false when the client's mapping refused.
 * By hand, because it is done for all chunks of a page after each exit: every load has its row in
 * the table of faults, and one look at the end serves them all.
 */
static inline __attribute__((always_inline)) bool chunk_sum(const void *chunk, u64 *sum)
{
	static const u64 keys[8] = {
		0x8ebc6af09c88c6e3, 0x589965cc75374cc3, 0x1d8e4e27c47d124f, 0xeb44accab455d165,
		0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x2d358dccaa6c78a5, 0x8bb84b93962eacc9,
	};
	u32 err = 0;
	u64 s;

#define PRODUCT(at, label0, label1)                                               \
	"movq " #at "(%[k]), %%rax\n" #label0 ": xorq " #at "(%[p]), %%rax\n"     \
	"movq 8+" #at "(%[k]), %%rdx\n" #label1 ": xorq 8+" #at "(%[p]), %%rdx\n" \
	"mulq %%rdx\n"                                                            \
	"xorq %%rdx, %%rax\n"
	__asm__ volatile(
		PRODUCT(0, 10, 11) "movq %%rax, %[s]\n" PRODUCT(16, 12, 13) "addq %%rax, %[s]\n" PRODUCT(
			32, 14,
			15) "addq %%rax, %[s]\n" PRODUCT(48, 16,
							 1) "addq %%rax, %[s]\n"
							    "2:\n" HOSTMEM_FIXUP HOSTMEM_ROW(
								    "10b", "3b") HOSTMEM_ROW("11b",
											     "3b")
								    HOSTMEM_ROW("12b", "3b") HOSTMEM_ROW(
									    "13b",
									    "3b") HOSTMEM_ROW("14b",
											      "3b")
									    HOSTMEM_ROW("15b", "3b")
										    HOSTMEM_ROW(
											    "16b",
											    "3b")
		: [s] "=&r"(s), [err] "+&r"(err)
		: [p] "r"(chunk), [k] "r"(keys)
		: "rax", "rdx", "cc", "memory");
#undef PRODUCT
	*sum = s;
	return LIKELY(!err);
}

/* True when the chunk at `host` still has this sum. */
static inline bool chunk_same(const u8 *host, u64 sum)
{
	u64 now;

	return chunk_sum(host, &now) && now == sum;
}

static struct jit_page **bucket(struct jit *jit, u64 gfn)
{
	return &jit->page[(u32)(gfn * 0x9e3779b1u) % JIT_PAGE_HASH_SIZE];
}

struct jit_page *jit_page_find(struct jit *jit, u64 gfn)
{
	struct jit_page *p = *bucket(jit, gfn);

	while (p && p->gfn != gfn)
		p = p->next;
	return p;
}

static u64 epoch_now(const struct cpu *cpu)
{
	return __atomic_load_n(&cpu->mem->client_epoch, __ATOMIC_ACQUIRE);
}

/** Was the page compared in this epoch, and is it listed? Then jumps may lead there. */
bool jit_page_current(const struct cpu *cpu, const struct jit_page *p)
{
	return p->epoch == epoch_now(cpu) && p->reach == cpu->jit->reach;
}

/** The jump caches are empty, and there are no links across pages. */
void jit_pages_unreached(struct jit *jit)
{
	jit->reached_count = 0;
	jit->reached_chunks = 0;
	jit->reach++;
}

/* The page is compared now, or new. */
static void reached(struct cpu *cpu, struct jit_page *p, u64 epoch, const u8 *host)
{
	struct jit *jit = cpu->jit;

	p->epoch = epoch;
	p->host = host;
	if (p->reach == jit->reach)
		return;
	p->reach = jit->reach;
	if (jit->reached_count < JIT_REACHED)
		jit->reached[jit->reached_count] = p;
	jit->reached_count++;
	jit->reached_chunks += (u32)__builtin_popcountll(p->chunks);
}

/** The record of a page, made when there is none. `host`: the page. NULL: the cache is full. */
struct jit_page *jit_page_get(struct cpu *cpu, u64 gfn, const u8 *host)
{
	struct jit *jit = cpu->jit;
	struct jit_page *p = jit_page_find(jit, gfn), **head = bucket(jit, gfn);

	if (p) {
		jit_page_check(cpu, p, host);
		return p;
	}
	p = jit_meta_alloc(jit, sizeof(*p));
	if (!p)
		return NULL;
	p->gfn = gfn;
	p->chunks = 0;
	p->reach = ~jit->reach;
	reached(cpu, p, epoch_now(cpu), host);
	p->busy = false;
	p->blocks = NULL;
	p->next = *head;
	*head = p;
	return p;
}

static void compare(struct cpu *cpu, struct jit_page *p, const u8 *host)
{
	reached(cpu, p, epoch_now(cpu), host);
	for (u64 m = p->chunks; m; m &= m - 1) {
		unsigned k = (unsigned)__builtin_ctzll(m);

		if (UNLIKELY(!chunk_same(host + k * CHUNK, p->sum[k]))) {
			cpu->jit->stat_client_writes++;
			jit_invalidate(cpu, (p->gfn << PAGE_SHIFT) + k * CHUNK, CHUNK);
		}
	}
}

/** Compares a page's code with what was translated, once in an epoch. */
void jit_page_check(struct cpu *cpu, struct jit_page *p, const u8 *host)
{
	if (UNLIKELY(!jit_page_current(cpu, p)))
		compare(cpu, p, host);
}

/* Does it cost less to compare the listed pages than to fill the jump caches again? */
static bool recheck_pays(const struct cpu *cpu)
{
	const struct jit *jit = cpu->jit;
	u64 ways = 0;

	if (jit->reached_count > JIT_REACHED || jit->reached_chunks > REACHED_MAX)
		return false;
	if (LIKELY(jit->reached_chunks <= REACHED_CHUNKS))
		return true;
	for (unsigned v = 0; v < cpu_views(cpu); v++)
		ways += jit->jc_log[v].local_count + jit->jc_log[v].global_count;
	return jit->reached_chunks < ways * REACHED_A_WAY;
}

/** A new epoch has begun: see above. */
void jit_pages_recheck(struct cpu *cpu)
{
	struct jit *jit = cpu->jit;

	if (!recheck_pays(cpu)) {
		jit_jump_cache_flush(cpu);
		return;
	}
	for (u32 i = 0; i < jit->reached_count; i++)
		compare(cpu, jit->reached[i], jit->reached[i]->host);
}

/**
 * Reads a chunk to translate from: 64 bytes into `to`. Its stores are tracked before it is read,
 * so that a store by another vCPU either comes before the read or is reported.
 * CPU_OK, or CPU_EXIT when the client's mapping refused.
 */
int jit_page_read(struct cpu *cpu, struct jit_page *p, const u8 *host, unsigned k, u8 *to)
{
	u64 gpa = (p->gfn << PAGE_SHIFT) + k * CHUNK, bit = BIT64(k), q[8], sum;

	mmu_code_add(cpu, gpa, CHUNK);
	if (hostmem_copy(q, host + k * CHUNK, CHUNK) < 0) {
		cpu->exit.reason = CPU_EXIT_MEMFAULT;
		cpu->exit.mem.gpa = gpa;
		cpu->exit.mem.size = PAGE_SIZE;
		cpu->exit.mem.write = false;
		cpu->exit.mem.exec = true;
		return CPU_EXIT;
	}
	chunk_sum(q, &sum);
	if (UNLIKELY((p->chunks & bit) && p->sum[k] != sum))
		jit_invalidate(cpu, gpa, CHUNK); /* the client wrote after the page was checked */
	p->sum[k] = sum;
	p->chunks |= bit;
	mem_copy(to, q, CHUNK);
	return CPU_OK;
}

void jit_client_wrote(struct cpu *cpu)
{
	if (cpu->mem->writes_told)
		return;
	mmu_client_wrote(cpu->mem);
	if (cpu->jit)
		cpu->jit->client_came = true;
}
