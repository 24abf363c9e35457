/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring under a queue: transfers go in in batches, and come out with their results. */
#ifndef DMSNAP_SRC_IO_RING_H
#define DMSNAP_SRC_IO_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dms_io_request;
struct dms_io_ring;

/* NULL where the kernel refuses, for whatever reason, or cannot do what is asked of it here. */
struct dms_io_ring *dms_io_ring_create(uint32_t depth);
/* Nothing may be in flight. */
void dms_io_ring_destroy(struct dms_io_ring *ring);

/* Pin memory once instead of at every transfer; where the kernel refuses, nothing changes. */
void dms_io_ring_register(struct dms_io_ring *ring, void *memory, size_t length_bytes);

/* Prepare a transfer of the next length bytes of the request; false when the ring is full. */
bool dms_io_ring_put(struct dms_io_ring *ring, struct dms_io_request *request, uint32_t length);
/*
 * A transfer that is done, and its result. 0, or a negative errno: -ETIME,
 * -EINTR and -EAGAIN mean that there is none. What was put is given to the
 * kernel at the latest when this waits.
 */
int dms_io_ring_get(struct dms_io_ring *ring, int timeout_ms, struct dms_io_request **request,
		    int *result);

#endif
