// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "io_queue.h"

#define SECTOR_BYTES 512u
#define MAX_RETRIES 1000u
#define SYNCHRONOUS_DEPTH 2u

struct dms_io_queue {
	struct io_uring ring;
	bool is_io_uring;
	uint32_t depth;
	uint32_t in_flight;
	/* completed, not yet handed out: all of them without io_uring, the injected ones with it */
	struct dms_io_request *first;
	struct dms_io_request **last;
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
	new->last = &new->first;
	/* Whatever the reason for a refusal, the other backend does the same work. */
	new->is_io_uring = !without_io_uring && io_uring_queue_init(depth, &new->ring, 0) == 0;
	*queue = new;
	return NULL;
}

void dms_io_queue_destroy(struct dms_io_queue *queue)
{
	if (!queue)
		return;
	dms_io_queue_drain(queue);
	if (queue->is_io_uring)
		io_uring_queue_exit(&queue->ring);
	free(queue);
}

bool dms_io_queue_is_io_uring(const struct dms_io_queue *queue)
{
	return queue->is_io_uring;
}

uint32_t dms_io_queue_in_flight(const struct dms_io_queue *queue)
{
	return queue->in_flight;
}

bool dms_io_queue_has_room(const struct dms_io_queue *queue)
{
	uint32_t limit = queue->is_io_uring || queue->depth < SYNCHRONOUS_DEPTH ?
				 queue->depth :
				 SYNCHRONOUS_DEPTH;

	return queue->in_flight < limit;
}

static void push_completed(struct dms_io_queue *queue, struct dms_io_request *request)
{
	request->next = NULL;
	*queue->last = request;
	queue->last = &request->next;
}

static struct dms_io_request *pop_completed(struct dms_io_queue *queue)
{
	struct dms_io_request *request = queue->first;

	if (!request)
		return NULL;
	queue->first = request->next;
	if (!queue->first)
		queue->last = &queue->first;
	return request;
}

/*
 * Take in the result of one transfer; true when the request is complete,
 * false when the rest of it has to be transferred. Only whole sectors count
 * as done, so that what is continued stays aligned for O_DIRECT.
 */
static bool account(struct dms_io_request *request, ssize_t result)
{
	uint32_t left = request->length_bytes - request->done_bytes;

	if (result == -EINTR || result == -EAGAIN) {
		request->errnum = request->retries++ < MAX_RETRIES ? 0 : (int)-result;
		return request->errnum != 0;
	}
	if (result < 0) {
		request->errnum = (int)-result;
		return true;
	}
	if ((uint32_t)result < left)
		result -= result % SECTOR_BYTES;
	if (result == 0) {
		request->errnum = request->write ? ENOSPC : ENODATA;
		return true;
	}
	request->done_bytes += (uint32_t)result;
	return request->done_bytes == request->length_bytes;
}

/* How much of what is left to transfer now; a negative value is an injected error. */
static ssize_t next_length(const struct dms_io_request *request)
{
	uint32_t left = request->length_bytes - request->done_bytes;
	ssize_t injected = 0;

	if (dms_io_inject)
		injected = dms_io_inject(request->write ? DMS_IO_WRITE : DMS_IO_READ, request->fd,
					 request->offset_bytes + request->done_bytes, left);
	if (injected < 0)
		return injected;
	return injected > 0 && injected < left ? injected : left;
}

static void transfer(struct dms_io_request *request)
{
	ssize_t result;

	do {
		char *buffer = (char *)request->buffer + request->done_bytes;
		off_t offset = (off_t)(request->offset_bytes + request->done_bytes);

		result = next_length(request);
		if (result < 0)
			continue;
		if (request->write)
			result = pwrite(request->fd, buffer, (size_t)result, offset);
		else
			result = pread(request->fd, buffer, (size_t)result, offset);
		if (result < 0)
			result = -errno;
	} while (!account(request, result));
}

static void prepare(struct io_uring_sqe *sqe, struct dms_io_request *request, uint32_t length)
{
	char *buffer = (char *)request->buffer + request->done_bytes;
	uint64_t offset = request->offset_bytes + request->done_bytes;

	if (request->write)
		io_uring_prep_write(sqe, request->fd, buffer, length, offset);
	else
		io_uring_prep_read(sqe, request->fd, buffer, length, offset);
	if (request->aside)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, request);
}

/*
 * Give the rest of a request to the ring. An injected error completes it at
 * once. The ring has room: it holds depth entries and all of them are
 * submitted immediately.
 */
static struct dms_error *submit_rest(struct dms_io_queue *queue, struct dms_io_request *request)
{
	struct io_uring_sqe *sqe;
	ssize_t length = next_length(request);
	int result;

	while (length < 0) {
		if (account(request, length)) {
			push_completed(queue, request);
			return NULL;
		}
		length = next_length(request);
	}
	sqe = io_uring_get_sqe(&queue->ring);
	if (!sqe)
		return dms_error_create_os(EBUSY, "the io_uring has no free entry");
	prepare(sqe, request, (uint32_t)length);
	do
		result = io_uring_submit(&queue->ring);
	while (result == -EINTR || result == -EAGAIN || result == -EBUSY);
	if (result < 0)
		return dms_error_create_os(-result, "io_uring_submit()");
	return NULL;
}

struct dms_error *dms_io_queue_submit(struct dms_io_queue *queue, struct dms_io_request *request)
{
	struct dms_error *error;

	if (queue->in_flight == queue->depth || !request->length_bytes)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a request of %u bytes, %u of %u in flight",
					request->length_bytes, queue->in_flight, queue->depth);
	request->done_bytes = 0;
	request->errnum = 0;
	request->retries = 0;
	if (queue->is_io_uring) {
		error = submit_rest(queue, request);
		if (error)
			return error;
	} else {
		transfer(request);
		push_completed(queue, request);
	}
	queue->in_flight++;
	return NULL;
}

/* 0 with *cqe set, or a negative errno: -ETIME, -EINTR and -EAGAIN are harmless. */
static int wait_cqe(struct dms_io_queue *queue, int timeout_ms, struct io_uring_cqe **cqe)
{
	struct __kernel_timespec timeout = {
		.tv_sec = timeout_ms / 1000,
		.tv_nsec = (long long)(timeout_ms % 1000) * 1000000,
	};

	if (timeout_ms < 0)
		return io_uring_wait_cqe(&queue->ring, cqe);
	if (!timeout_ms)
		return io_uring_peek_cqe(&queue->ring, cqe);
	return io_uring_wait_cqe_timeout(&queue->ring, cqe, &timeout);
}

struct dms_error *dms_io_queue_wait(struct dms_io_queue *queue, int timeout_ms,
				    struct dms_io_request **completed)
{
	struct dms_io_request *request = pop_completed(queue);
	struct io_uring_cqe *cqe;
	int result;

	*completed = NULL;
	while (!request && queue->is_io_uring && queue->in_flight) {
		struct dms_error *error;
		struct dms_io_request *transferred;

		result = wait_cqe(queue, timeout_ms, &cqe);
		if (result == -ETIME || result == -EINTR || result == -EAGAIN)
			return NULL;
		if (result < 0)
			return dms_error_create_os(-result, "waiting for the io_uring");
		transferred = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&queue->ring, cqe);
		if (account(transferred, result)) {
			request = transferred;
			break;
		}
		error = submit_rest(queue, transferred);
		if (error) {
			/* The request is lost to the ring: it fails, and stays accounted for. */
			transferred->errnum = error->errnum ? error->errnum : EIO;
			dms_error_destroy(error);
			request = transferred;
			break;
		}
		request = pop_completed(queue);
	}
	if (request)
		queue->in_flight--;
	*completed = request;
	return NULL;
}

void dms_io_queue_drain(struct dms_io_queue *queue)
{
	while (queue->in_flight) {
		struct dms_io_request *request;
		_cleanup_error_ struct dms_error *error = dms_io_queue_wait(queue, -1, &request);

		if (error)
			break;
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
	size_t rounded = (length_bytes + DMS_IO_ALIGNMENT - 1) & ~(size_t)(DMS_IO_ALIGNMENT - 1);

	return aligned_alloc(DMS_IO_ALIGNMENT, rounded);
}

uint64_t dms_io_clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
