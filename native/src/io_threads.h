/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that transfer requests by pread() and pwrite(), where there is no io_uring. */
#ifndef DMSNAP_SRC_IO_THREADS_H
#define DMSNAP_SRC_IO_THREADS_H

#include <stdint.h>

struct dms_io_request;
struct dms_io_threads;

/* As many as can be started, up to count; without any, put() transfers. NULL: no memory. */
struct dms_io_threads *dms_io_threads_create(uint32_t count);
/* Nothing may be in flight. */
void dms_io_threads_destroy(struct dms_io_threads *threads);

void dms_io_threads_put(struct dms_io_threads *threads, struct dms_io_request *request);
/* A request that is complete, or NULL when none is within timeout_ms; negative: no limit. */
struct dms_io_request *dms_io_threads_get(struct dms_io_threads *threads, int timeout_ms);

#endif
