// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "io_list.h"
#include "io_queue.h"
#include "io_ring.h"
#include "io_threads.h"
#include "io_transfer.h"

/* More would not make one disk faster, and every one delays a cancel by its transfer. */
#define MAX_THREADS 8u
#define HUGE_PAGE_BYTES (2u << 20)

struct dms_io_queue {
	struct dms_io_ring *ring; /* NULL: threads transfer */
	struct dms_io_threads *threads;
	uint32_t depth;
	uint32_t in_flight;
	struct dms_io_list completed; /* and not yet handed out */
};

struct dms_error *dms_io_queue_create(uint32_t depth, bool without_io_uring,
				      struct dms_io_queue **queue)
{
	struct dms_io_queue *new;

	if (!depth)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT, "an I/O queue of depth 0");
	new = calloc(1, sizeof(*new));
	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for an I/O queue");
	new->depth = depth;
	if (!without_io_uring)
		new->ring = dms_io_ring_create(depth);
	if (!new->ring)
		new->threads = dms_io_threads_create(depth < MAX_THREADS ? depth : MAX_THREADS);
	if (!new->ring && !new->threads) {
		free(new);
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for an I/O queue");
	}
	*queue = new;
	return NULL;
}

void dms_io_queue_destroy(struct dms_io_queue *queue)
{
	if (!queue)
		return;
	dms_io_queue_drain(queue);
	dms_io_ring_destroy(queue->ring);
	dms_io_threads_destroy(queue->threads);
	free(queue);
}

bool dms_io_queue_is_io_uring(const struct dms_io_queue *queue)
{
	return queue->ring != NULL;
}

uint32_t dms_io_queue_in_flight(const struct dms_io_queue *queue)
{
	return queue->in_flight;
}

uint32_t dms_io_queue_room(const struct dms_io_queue *queue)
{
	return queue->depth - queue->in_flight;
}

void dms_io_queue_register(struct dms_io_queue *queue, void *memory, size_t length_bytes)
{
	/* Fewer and larger pieces for the medium, with or without being pinned. */
	madvise(memory, length_bytes, MADV_HUGEPAGE);
	if (queue->ring)
		dms_io_ring_register(queue->ring, memory, length_bytes);
}

/*
 * Give the rest of a request to the ring. An injected error completes it at
 * once. The ring has room: it holds more than depth entries.
 */
static struct dms_error *put_rest(struct dms_io_queue *queue, struct dms_io_request *request)
{
	ssize_t length = dms_io_transfer_length(request);

	while (length < 0) {
		if (dms_io_transfer_account(request, length)) {
			dms_io_list_push(&queue->completed, request);
			return NULL;
		}
		length = dms_io_transfer_length(request);
	}
	if (!dms_io_ring_put(queue->ring, request, (uint32_t)length))
		return dms_error_create_os(EBUSY, "the io_uring has no free entry");
	return NULL;
}

struct dms_error *dms_io_queue_submit(struct dms_io_queue *queue, struct dms_io_request *request)
{
	struct dms_error *error = NULL;

	if (queue->in_flight == queue->depth || !request->length_bytes)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a request of %u bytes, %u of %u in flight",
					request->length_bytes, queue->in_flight, queue->depth);
	dms_io_transfer_begin(request);
	if (queue->ring)
		error = put_rest(queue, request);
	else
		dms_io_threads_put(queue->threads, request);
	if (!error)
		queue->in_flight++;
	return error;
}

/*
 * Move one more request to those completed. Without any within the time, or when
 * a signal arrives, *none is set.
 */
static struct dms_error *reap_ring(struct dms_io_queue *queue, int timeout_ms, bool *none)
{
	struct dms_io_request *request;
	struct dms_error *error;
	int result, code = dms_io_ring_get(queue->ring, timeout_ms, &request, &result);

	*none = code < 0;
	if (code == -ETIME || code == -EINTR || code == -EAGAIN)
		return NULL;
	if (code < 0)
		return dms_error_create_os(-code, "waiting for the io_uring");
	if (dms_io_transfer_account(request, result)) {
		dms_io_list_push(&queue->completed, request);
		return NULL;
	}
	error = put_rest(queue, request);
	if (error) {
		/* The request is lost to the ring: it fails, and stays accounted for. */
		request->errnum = error->errnum ? error->errnum : EIO;
		dms_error_destroy(error);
		dms_io_list_push(&queue->completed, request);
	}
	return NULL;
}

static struct dms_error *reap(struct dms_io_queue *queue, int timeout_ms, bool *none)
{
	struct dms_io_request *request;

	if (queue->ring)
		return reap_ring(queue, timeout_ms, none);
	request = dms_io_threads_get(queue->threads, timeout_ms);
	*none = !request;
	if (request)
		dms_io_list_push(&queue->completed, request);
	return NULL;
}

struct dms_error *dms_io_queue_wait(struct dms_io_queue *queue, int timeout_ms,
				    struct dms_io_request **completed)
{
	bool none = false;

	*completed = NULL;
	while (queue->in_flight && !none) {
		struct dms_error *error;

		*completed = dms_io_list_pop(&queue->completed);
		if (*completed) {
			queue->in_flight--;
			return NULL;
		}
		error = reap(queue, timeout_ms, &none);
		if (error)
			return error;
	}
	return NULL;
}

struct dms_error *dms_io_queue_wait_for(struct dms_io_queue *queue, const void *context,
					struct dms_io_request **completed)
{
	bool none = false;

	*completed = NULL;
	while (queue->in_flight && !none) {
		struct dms_error *error;

		*completed = dms_io_list_pop_of(&queue->completed, context);
		if (*completed) {
			queue->in_flight--;
			return NULL;
		}
		error = reap(queue, -1, &none);
		if (error)
			return error;
	}
	return NULL;
}

void dms_io_queue_drain(struct dms_io_queue *queue)
{
	while (queue->in_flight) {
		struct dms_io_request *request;
		_cleanup_error_ struct dms_error *error = dms_io_queue_wait(queue, -1, &request);

		/* The kernel may write to buffers that who calls is about to free. */
		if (error)
			abort();
	}
}

struct dms_error *dms_io_request_error(const struct dms_io_request *request, const char *medium)
{
	uint64_t offset = request->offset_bytes + request->done_bytes;

	if (!request->errnum)
		return NULL;
	if (request->errnum == ENODATA && !request->write)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset,
					   "%s ends at %llu, inside a read of %u bytes", medium,
					   (unsigned long long)offset, request->length_bytes);
	return dms_error_create_os_at(request->errnum, offset, "%s %u bytes at %llu of %s",
				      request->write ? "writing" : "reading",
				      request->length_bytes - request->done_bytes,
				      (unsigned long long)offset, medium);
}

struct dms_error *dms_io_transfer(struct dms_io_request *request, const char *medium)
{
	dms_io_transfer_begin(request);
	dms_io_transfer_run(request);
	return dms_io_request_error(request, medium);
}

struct dms_error *dms_io_flush(int fd, const char *medium)
{
	ssize_t injected = dms_io_inject ? dms_io_inject(DMS_IO_FLUSH, fd, 0, 0) : 0;
	int result;

	if (injected < 0)
		return dms_error_create_os((int)-injected, "flushing %s", medium);
	do
		result = fdatasync(fd);
	while (result < 0 && errno == EINTR);
	return result < 0 ? dms_error_create_os(errno, "flushing %s", medium) : NULL;
}

void *dms_io_buffer(size_t length_bytes)
{
	size_t alignment = length_bytes < HUGE_PAGE_BYTES ? DMS_IO_ALIGNMENT : HUGE_PAGE_BYTES;
	size_t rounded = (length_bytes + alignment - 1) & ~(alignment - 1);
	void *buffer = aligned_alloc(alignment, rounded);

	/* Who touches a little of much of it would pay for zeroing all: see dms_io_huge_buffer(). */
	if (buffer && alignment == HUGE_PAGE_BYTES)
		madvise(buffer, rounded, MADV_NOHUGEPAGE);
	return buffer;
}

void *dms_io_huge_buffer(size_t length_bytes)
{
	void *buffer = dms_io_buffer(length_bytes);

	if (buffer && length_bytes >= HUGE_PAGE_BYTES)
		madvise(buffer, length_bytes, MADV_HUGEPAGE);
	return buffer;
}

uint64_t dms_io_clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t dms_io_clock_ms(void)
{
	return dms_io_clock_us() / 1000;
}
