/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O priority of the calling thread (ioprio_set(2), for which the C
 * library has no function). Threads and processes that it begins have the same
 * one, and so have requests that io_uring's workers do for it.
 */
#ifndef DMSNAP_IO_PRIORITY_H
#define DMSNAP_IO_PRIORITY_H

#include <stdint.h>

#include <dmsnap/error.h>

/* cffi: begin */
enum dms_io_class {
	DMS_IO_CLASS_NONE = 0, /* what the thread's nice value makes of it */
	DMS_IO_CLASS_REALTIME = 1,
	DMS_IO_CLASS_BEST_EFFORT = 2,
	DMS_IO_CLASS_IDLE = 3,
};

#define DMS_IO_LEVELS 8

struct dms_io_priority {
	enum dms_io_class io_class;
	uint32_t level; /* 0 is the highest; of the classes realtime and best effort alone */
};

struct dms_error *dms_io_priority_get(struct dms_io_priority *priority);
/* Needs no privileges but for the class realtime. */
struct dms_error *dms_io_priority_set(const struct dms_io_priority *priority);
/* cffi: end */

#endif
