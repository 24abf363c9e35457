// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "io_queue.h"
#include "io_ring.h"

/* The most transfers that are held back to be given to the kernel by one io_uring_enter(2). */
#define MAX_BATCH 16u

/*
 * Descriptors are not registered: the kernel lets go of them some time after
 * the ring is closed (io_ring_exit_work()), and a device that was opened O_EXCL
 * stays claimed until then.
 */
struct dms_io_ring {
	struct io_uring ring;
	const char *memory; /* registered as buffer 0; NULL: none is */
	size_t memory_bytes;
	/*
	 * How many transfers to hold back. A medium that answers inside of
	 * io_uring_enter(2), as a page cache does, gets one at a time: the answer
	 * is then used while it is in the processor's cache.
	 */
	unsigned int batch;
};

/*
 * One thread submits and reaps, and looks for completions only when it enters
 * the kernel: no interrupts of the loop (Linux 6.1). Older kernels know less
 * of it, or nothing.
 */
static const unsigned int setups[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	IORING_SETUP_COOP_TASKRUN,
	0,
};

#define NR_SETUPS (sizeof(setups) / sizeof(setups[0]))

/* Before Linux 5.6 there is a ring, but it neither knows these, nor can it be asked. */
static bool knows_transfers(struct io_uring *ring)
{
	static const int needed[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED,
				      IORING_OP_WRITE_FIXED };
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool known = probe != NULL;
	size_t i;

	for (i = 0; known && i < sizeof(needed) / sizeof(needed[0]); i++)
		known = io_uring_opcode_supported(probe, needed[i]);
	if (probe)
		io_uring_free_probe(probe);
	return known;
}

struct dms_io_ring *dms_io_ring_create(uint32_t depth)
{
	struct dms_io_ring *ring = calloc(1, sizeof(*ring));
	size_t i;

	if (!ring)
		return NULL;
	ring->batch = 1;
	for (i = 0; i < NR_SETUPS; i++) {
		/* One entry more: before Linux 5.11 liburing's timeouts take one. */
		if (io_uring_queue_init(depth + 1, &ring->ring, setups[i]))
			continue;
		if (knows_transfers(&ring->ring))
			return ring;
		io_uring_queue_exit(&ring->ring);
		break;
	}
	free(ring);
	return NULL;
}

void dms_io_ring_destroy(struct dms_io_ring *ring)
{
	if (!ring)
		return;
	io_uring_queue_exit(&ring->ring);
	free(ring);
}

void dms_io_ring_register(struct dms_io_ring *ring, void *memory, size_t length_bytes)
{
	const struct iovec region = { .iov_base = memory, .iov_len = length_bytes };

	if (ring->memory || io_uring_register_buffers(&ring->ring, &region, 1))
		return;
	ring->memory = memory;
	ring->memory_bytes = length_bytes;
}

static bool is_registered(const struct dms_io_ring *ring, const char *buffer, uint32_t length)
{
	return ring->memory && buffer >= ring->memory &&
	       buffer + length <= ring->memory + ring->memory_bytes;
}

bool dms_io_ring_put(struct dms_io_ring *ring, struct dms_io_request *request, uint32_t length)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
	char *buffer = (char *)request->buffer + request->done_bytes;
	uint64_t offset = request->offset_bytes + request->done_bytes;
	bool registered = is_registered(ring, buffer, length);

	if (!sqe)
		return false;
	if (request->write && registered)
		io_uring_prep_write_fixed(sqe, request->fd, buffer, length, offset, 0);
	else if (request->write)
		io_uring_prep_write(sqe, request->fd, buffer, length, offset);
	else if (registered)
		io_uring_prep_read_fixed(sqe, request->fd, buffer, length, offset, 0);
	else
		io_uring_prep_read(sqe, request->fd, buffer, length, offset);
	if (request->aside)
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data(sqe, request);
	return true;
}

/* Give the kernel what is prepared, when it is enough, and learn how the medium answers. */
static int submit_batch(struct dms_io_ring *ring, struct io_uring_cqe **cqe)
{
	int result;

	if (io_uring_sq_ready(&ring->ring) < ring->batch)
		return -EAGAIN;
	result = io_uring_submit(&ring->ring);
	if (result < 0)
		return result == -EBUSY ? -EAGAIN : result;
	result = io_uring_peek_cqe(&ring->ring, cqe);
	if (!result)
		ring->batch = 1;
	else if (ring->batch < MAX_BATCH)
		ring->batch *= 2;
	return result;
}

static int submit_and_wait(struct dms_io_ring *ring, int timeout_ms, struct io_uring_cqe **cqe)
{
	struct __kernel_timespec timeout = {
		.tv_sec = timeout_ms / 1000,
		.tv_nsec = (long long)(timeout_ms % 1000) * 1000000,
	};
	int result = io_uring_submit_and_wait_timeout(&ring->ring, cqe, 1,
						      timeout_ms < 0 ? NULL : &timeout, NULL);

	if (result == -EBUSY)
		return -EAGAIN;
	/* What was submitted is a success even when nothing completed in time. */
	return result < 0 ? result : io_uring_peek_cqe(&ring->ring, cqe);
}

int dms_io_ring_get(struct dms_io_ring *ring, int timeout_ms, struct dms_io_request **request,
		    int *result)
{
	struct io_uring_cqe *cqe = NULL;
	int code = io_uring_peek_cqe(&ring->ring, &cqe);

	if (code == -EAGAIN)
		code = timeout_ms ? submit_and_wait(ring, timeout_ms, &cqe) :
				    submit_batch(ring, &cqe);
	if (code < 0)
		return code;
	*request = io_uring_cqe_get_data(cqe);
	*result = cqe->res;
	io_uring_cqe_seen(&ring->ring, cqe);
	return 0;
}
