/*
 * Copies between our structures and the client's pointers. Every pointer that a client passes may
 * be wrong, unmapped under our feet, or refused by its mapping: the result is -EFAULT.
 */
#ifndef KVM_USER_H
#define KVM_USER_H

#include "base/types.h"

#include <errno.h>

/** Copies n bytes from the client. 0 or -EFAULT. */
int user_copy_in(void *dst, u64 src, size_t n);
/** Copies n bytes to the client. 0 or -EFAULT. */
int user_copy_out(u64 dst, const void *src, size_t n);
/** Writes zeros to n bytes of the client's. 0 or -EFAULT. */
int user_clear(u64 dst, size_t n);
/**
 * Copies an array from the client into fresh memory (free() it; NULL when n is 0).
 * 0, -EFAULT, -ENOMEM, -E2BIG when n > max.
 */
int user_array_in(void **out, u64 src, size_t n, size_t size, size_t max);

#endif
