/* See faults.h. One row a function: what it answers when it fails. */
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PLACES 512

static struct {
	u32 at, count;
	const char **name;
	void **site;
} faults;

void faults_arm(u32 n)
{
	faults.at = n;
	__atomic_store_n(&faults.count, 0, __ATOMIC_SEQ_CST);
}

u32 faults_count(void)
{
	return __atomic_load_n(&faults.count, __ATOMIC_SEQ_CST);
}

void faults_report(const char **name, void **site)
{
	faults.name = name;
	faults.site = site;
}

/*
 * Calls by the place that they are made from, by its distance from fails(): a long run makes
 * thousands from few places. Lines are taken in order and never given back.
 */
static bool fails(const char *name, void *site, int error);

static struct place {
	long at;
	u32 count;
	const char *name;
} places[PLACES];
static struct {
	long at;
	u32 hit;
} wanted_place;

static bool place_fails(const char *name, void *site)
{
	long at = (char *)site - (char *)&fails;
	struct place *p;

	for (p = places; p < places + PLACES; p++) {
		long none = 0;

		if (__atomic_load_n(&p->at, __ATOMIC_SEQ_CST) == at ||
		    __atomic_compare_exchange_n(&p->at, &none, at, false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST) ||
		    none == at)
			break;
	}
	if (p == places + PLACES)
		return false;
	p->name = name;
	return __atomic_add_fetch(&p->count, 1, __ATOMIC_SEQ_CST) == wanted_place.hit &&
	       wanted_place.at == at;
}

static bool fails(const char *name, void *site, int error)
{
	bool this_place = place_fails(name, site);

	if (__atomic_add_fetch(&faults.count, 1, __ATOMIC_SEQ_CST) != faults.at && !this_place)
		return false;
	if (faults.name) {
		*faults.name = name;
		*faults.site = site;
	}
	errno = error;
	return true;
}

#define WRAP(type, name, error, failed, params, args)                 \
	type __real_##name params;                                    \
	type __wrap_##name params;                                    \
	type __wrap_##name params                                     \
	{                                                             \
		if (fails(#name, __builtin_return_address(0), error)) \
			return failed;                                \
		return __real_##name args;                            \
	}

WRAP(void *, malloc, ENOMEM, NULL, (size_t n), (n))
WRAP(void *, calloc, ENOMEM, NULL, (size_t n, size_t size), (n, size))
WRAP(void *, realloc, ENOMEM, NULL, (void *p, size_t n), (p, n))
WRAP(void *, aligned_alloc, ENOMEM, NULL, (size_t align, size_t n), (align, n))
/* mmu/slots.c: memory by a bare system call, which nothing else can refuse. */
WRAP(void *, pages_map, ENOMEM, NULL, (size_t n), (n))
WRAP(void *, mmap, ENOMEM, MAP_FAILED,
     (void *at, size_t n, int prot, int flags, int fd, off_t offset),
     (at, n, prot, flags, fd, offset))
WRAP(int, munmap, ENOMEM, -1, (void *at, size_t n), (at, n))
WRAP(int, mprotect, ENOMEM, -1, (void *at, size_t n, int prot), (at, n, prot))
WRAP(int, madvise, ENOMEM, -1, (void *at, size_t n, int advice), (at, n, advice))
WRAP(int, memfd_create, EMFILE, -1, (const char *name, unsigned flags), (name, flags))
WRAP(int, ftruncate, ENOSPC, -1, (int fd, off_t n), (fd, n))
WRAP(int, fallocate, ENOSPC, -1, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
WRAP(int, eventfd, EMFILE, -1, (unsigned value, int flags), (value, flags))
WRAP(int, epoll_create1, EMFILE, -1, (int flags), (flags))
WRAP(int, epoll_ctl, ENOSPC, -1, (int fd, int op, int of, struct epoll_event *e), (fd, op, of, e))
WRAP(int, pthread_create, EAGAIN, EAGAIN,
     (pthread_t * t, const pthread_attr_t *attr, void *(*start)(void *), void *arg),
     (t, attr, start, arg))
WRAP(int, sigaction, EINVAL, -1, (int signo, const struct sigaction *act, struct sigaction *old),
     (signo, act, old))
WRAP(int, pthread_sigmask, EINVAL, EINVAL, (int how, const sigset_t *set, sigset_t *old),
     (how, set, old))
WRAP(ssize_t, read, EIO, -1, (int fd, void *buf, size_t n), (fd, buf, n))
WRAP(ssize_t, pread, EIO, -1, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at))

/* The kernel closes whatever it answers. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	int ret = __real_close(fd);

	return fails("close", __builtin_return_address(0), EINTR) ? -1 : ret;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, mode_t mode);
int __wrap_open(const char *path, int flags, mode_t mode)
{
	if (fails("open", __builtin_return_address(0), EMFILE))
		return -1;
	return __real_open(path, flags, mode);
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, long arg);
int __wrap_fcntl(int fd, int command, long arg)
{
	if (fails("fcntl", __builtin_return_address(0), EBADF))
		return -1;
	return __real_fcntl(fd, command, arg);
}

/* Futexes are interrupted; anything else is refused. */
long __real_syscall(long n, ...);
long __wrap_syscall(long n, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long n, long a, long b, long c, long d, long e, long f)
{
	if (fails("syscall", __builtin_return_address(0), n == SYS_futex ? EINTR : ENOSYS))
		return -1;
	return __real_syscall(n, a, b, c, d, e, f);
}

/*
 * In the preload library the environment says which call fails, and where to leave the number of
 * calls and the name of the one that failed. The program's threads and forks are all counted.
 */
static int report_fd = -1;
static const char *failed_name;
static void *failed_site;

static __attribute__((constructor)) void start(void)
{
	const char *at = getenv("ANYKVM_FAULT_AT"), *report = getenv("ANYKVM_FAULT_REPORT");
	const char *place = getenv("ANYKVM_FAULT_PLACE"); /* distance:hit */

	if (report)
		report_fd = __real_open(report, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (place)
		sscanf(place, "%ld:%u", &wanted_place.at, &wanted_place.hit);
	if (at || place) {
		faults_report(&failed_name, &failed_site);
		faults_arm(at ? (u32)atoi(at) : 0);
	}
}

static __attribute__((destructor)) void end(void)
{
	if (report_fd < 0)
		return;
	dprintf(report_fd, "%u %s\n", faults_count(), failed_name ? failed_name : "none");
	for (struct place *p = places; p < places + PLACES && p->at; p++)
		dprintf(report_fd, "%ld %u %s\n", p->at, p->count, p->name);
}
