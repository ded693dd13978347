/*
 * Descriptors: numbers of the process's table that stand for our objects.
 *
 * A `struct fd_file` is what the kernel calls an open file: numbers refer to it, each holding one
 * reference, and every call in progress holds one more. The table of numbers is the library's
 * only mutable global (decision D8).
 *
 * Lookups take no lock, because anykvm_kick() looks up in signal handlers: a reader pins the
 * table's slot while it takes its reference, and a close empties the slot and then waits for the
 * pins, which are held for a few instructions only.
 */
#ifndef KVM_FD_H
#define KVM_FD_H

#include "base/types.h"

#include <anykvm.h>

struct fd_file;

struct fd_ops {
	enum anykvm_kind kind;
	long (*ioctl)(struct fd_file *file, u32 req, unsigned long arg);
	/* NULL: -ENODEV. Returns the address or -errno. */
	long (*mmap)(struct fd_file *file, size_t length, int prot, int flags, u64 offset);
	/* NULL: -EINVAL. Bytes or -errno. */
	long (*read)(struct fd_file *file, void *buf, size_t size, u64 offset);
	/* NULL: -EOPNOTSUPP. */
	long (*fallocate)(struct fd_file *file, int mode, u64 offset, u64 length);
	/* The last reference is gone; drops the file's hold on its object. */
	void (*release)(struct fd_file *file);
};

struct fd_file {
	const struct fd_ops *ops;
	void *object;
	u32 refs;
	u64 offset; /* of read() */
};

/**
 * Makes a descriptor for an object. On success the file owns the caller's reference to it.
 *
 * Returns the number, or -ENOMEM, -EMFILE, -ENFILE (the caller still owns the object).
 */
int fd_create(const struct fd_ops *ops, void *object);

/** The same with a number that is open already. 0, -ENOMEM, -EMFILE. */
int fd_attach(int fd, const struct fd_ops *ops, void *object);

/** The file behind a number with a reference taken, or NULL. Async-signal-safe. */
struct fd_file *fd_get(int fd);
/** Gives a reference back. */
void fd_put(struct fd_file *file);
/** What a number stands for just now. Async-signal-safe. */
enum anykvm_kind fd_kind(int fd);
/** anykvm_ioctl() of a file that the caller holds. */
int fd_ioctl(struct fd_file *file, unsigned long request, unsigned long arg);

/** Makes an open number refer to the file; 0, -EMFILE, -ENOMEM. */
int fd_install(int fd, struct fd_file *file);
/** Empties a number's slot. 0 or -EBADF. Does not close the number. */
int fd_remove(int fd);

#endif
