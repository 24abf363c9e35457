/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of positioned reads and writes, completed in any order. Under it is
 * an io_uring; where the kernel refuses it (too old, sysctl, seccomp, limits),
 * or when it is not wanted, threads that call pread and pwrite.
 */
#ifndef DMSNAP_SRC_IO_QUEUE_H
#define DMSNAP_SRC_IO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <dmsnap/error.h>

#include "cleanup.h"

/* Alignment of every buffer, and the grain of offsets and lengths inside a device. */
#define DMS_IO_ALIGNMENT 4096u

/*
 * One read or write of length bytes. It belongs to the queue from submit()
 * until wait() returns it. A short transfer is continued inside; what is left
 * here afterwards is either all of length done, or an error.
 */
struct dms_io_request {
	int fd;
	bool write;
	void *buffer;
	uint64_t offset_bytes;
	uint32_t length_bytes;
	bool aside; /* by a thread of the kernel, not in submit(): for what lies in the page cache */
	void *context; /* the caller's */

	uint32_t done_bytes;
	int errnum; /* 0: complete; ENODATA: the medium ended (a read of 0 bytes) */
	uint32_t retries;
	struct dms_io_request *next; /* in the list it is in */
};

struct dms_io_queue;

struct dms_error *dms_io_queue_create(uint32_t depth, bool without_io_uring,
				      struct dms_io_queue **queue);
/* Waits for what is in flight. */
void dms_io_queue_destroy(struct dms_io_queue *queue);
DMS_DEFINE_CLEANUP(dms_cleanup_io_queue, struct dms_io_queue, dms_io_queue_destroy);
#define _cleanup_io_queue_ DMS_CLEANUP(dms_cleanup_io_queue)

bool dms_io_queue_is_io_uring(const struct dms_io_queue *queue);
uint32_t dms_io_queue_in_flight(const struct dms_io_queue *queue);
uint32_t dms_io_queue_room(const struct dms_io_queue *queue);

/*
 * All buffers of a long work, as one region: the kernel pins them once where it
 * can. Whoever transfers little is better off without, since all of it is touched.
 */
void dms_io_queue_register(struct dms_io_queue *queue, void *memory, size_t length_bytes);

/*
 * At most depth requests at a time. An error means that the request was not
 * taken. Requests may be held back until a few are together, or the next wait
 * with a timeout.
 */
struct dms_error *dms_io_queue_submit(struct dms_io_queue *queue, struct dms_io_request *request);
/*
 * The next completed request, or NULL when none completed within timeout_ms, a
 * signal arrived, or none is in flight. Negative: wait without limit.
 */
struct dms_error *dms_io_queue_wait(struct dms_io_queue *queue, int timeout_ms,
				    struct dms_io_request **completed);
/* The same of requests with this context alone; others that complete wait for wait(). */
struct dms_error *dms_io_queue_wait_for(struct dms_io_queue *queue, const void *context,
					struct dms_io_request **completed);
/* Wait for everything in flight, without looking at results: before buffers are given back. */
void dms_io_queue_drain(struct dms_io_queue *queue);

/* NULL when the request is complete; medium says whose it was, for people. */
struct dms_error *dms_io_request_error(const struct dms_io_request *request, const char *medium);

/* One request, here and now; an error names it as dms_io_request_error() does. */
struct dms_error *dms_io_transfer(struct dms_io_request *request, const char *medium);
struct dms_error *dms_io_flush(int fd, const char *medium);
/* Memory aligned for O_DIRECT, with no content; free() gives it back. */
void *dms_io_buffer(size_t length_bytes);
/*
 * The same in huge pages, where there are some: a request is then one piece of
 * memory to the medium, and not one for every 4 KiB, which can be most of what a
 * virtual disk takes for it. They are zeroed as a whole when they are first
 * touched: what is used of it should lie close together, or be used again.
 */
void *dms_io_huge_buffer(size_t length_bytes);

/* Clocks that do not jump. */
uint64_t dms_io_clock_us(void);
uint64_t dms_io_clock_ms(void);

enum dms_io_kind {
	DMS_IO_READ = 0,
	DMS_IO_WRITE = 1,
	DMS_IO_FLUSH = 2,
};

/*
 * Only tests define this. Called before every transfer, by any thread: a negative
 * errno fails it, a positive value shortens it to that many bytes, 0 lets it pass.
 */
ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
	__attribute__((weak, visibility("hidden")));

#endif
