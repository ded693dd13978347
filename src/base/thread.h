/* thread.h - service threads */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

/**
 * Starts a thread in which every signal is blocked, but for those that stand for faults. The caller's own
 * mask is not touched: what fails on the way back to it could not be put right. 0 or -errno.
 */
int thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg);

#endif
