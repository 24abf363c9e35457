/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the engine share: checks, scratch files, patterns, faults. */
#ifndef DMSNAP_TESTS_ENGINE_TEST_H
#define DMSNAP_TESTS_ENGINE_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dmsnap/error.h>

#include "../src/io_queue.h"

#define CHECK(condition)                                                                 \
	do {                                                                             \
		if (!(condition)) {                                                      \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
			abort();                                                         \
		}                                                                        \
	} while (0)

static inline void check_ok(struct dms_error *error, const char *file, int line)
{
	if (!error)
		return;
	fprintf(stderr, "%s:%d: error %d (errno %d): %s\n", file, line, (int)error->code,
		error->errnum, error->message);
	abort();
}

static inline void check_error(struct dms_error *error, enum dms_error_code code, const char *file,
			       int line)
{
	if (!error || error->code != code) {
		fprintf(stderr, "%s:%d: expected error %d, got %d: %s\n", file, line, (int)code,
			error ? (int)error->code : 0, error ? error->message : "success");
		abort();
	}
	dms_error_destroy(error);
}

#define CHECK_OK(call) check_ok((call), __FILE__, __LINE__)
#define CHECK_ERROR(call, code) check_error((call), (code), __FILE__, __LINE__)

/* An unlinked file of size_bytes, filled with one byte. */
static inline int scratch_file(uint64_t size_bytes, int fill, int flags)
{
	const char *directory = getenv("TMPDIR");
	char path[4096];
	char *buffer;
	uint64_t done;
	int fd, plain;

	snprintf(path, sizeof(path), "%s/dmsnap-test-XXXXXX", directory ? directory : "/tmp");
	plain = mkostemp(path, O_CLOEXEC);
	CHECK(plain >= 0);
	CHECK(ftruncate(plain, (off_t)size_bytes) == 0);
	buffer = malloc(1 << 20);
	CHECK(buffer);
	memset(buffer, fill, 1 << 20);
	for (done = 0; fill && done < size_bytes;) {
		uint64_t left = size_bytes - done;
		ssize_t written = pwrite(plain, buffer, left < (1 << 20) ? left : 1 << 20,
					 (off_t)done);

		CHECK(written > 0);
		done += (uint64_t)written;
	}
	free(buffer);
	fd = open(path, O_RDWR | O_CLOEXEC | flags);
	if (fd < 0 && flags & O_DIRECT) /* a file system without it: the test still means something */
		fd = open(path, O_RDWR | O_CLOEXEC | (flags & ~O_DIRECT));
	CHECK(fd >= 0);
	close(plain);
	unlink(path);
	return fd;
}

static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline void fill_random(void *data, size_t length, uint64_t seed)
{
	unsigned char *bytes = data;
	size_t i;

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	for (i = 0; i < length; i++)
		bytes[i] = (unsigned char)(next_random(&seed) >> 32);
}

/* Whole content, through aligned memory, so that O_DIRECT descriptors can be asked too. */
static inline char *contents(int fd, uint64_t offset, size_t length)
{
	char *data = dms_io_buffer(length + 8192);
	size_t rounded = (length + 4095) & ~(size_t)4095;
	size_t done = 0;

	CHECK(data);
	while (done < length) {
		ssize_t result = pread(fd, data + done, rounded - done, (off_t)(offset + done));

		CHECK(result > 0);
		done += (size_t)result;
	}
	return data;
}

static inline void put(int fd, uint64_t offset, const void *data, size_t length)
{
	int flags = fcntl(fd, F_GETFL);

	/* Not the descriptor's own flags: tests write single bytes. */
	CHECK(fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0);
	CHECK(pwrite(fd, data, length, (off_t)offset) == (ssize_t)length);
	CHECK(fdatasync(fd) == 0);
	CHECK(fcntl(fd, F_SETFL, flags) == 0);
}

/*
 * Faults: the countdown-th transfer of a kind to a descriptor (-1: any) gets
 * result; with repeat, all behind it too. Set while nothing is in flight.
 */
struct fault {
	int countdown; /* 0: none */
	int fd;
	int kinds; /* bits of enum dms_io_kind; 0: any */
	ssize_t result;
	bool repeat;
	bool lasting; /* what was hit stays bad: transfers of its kind that touch it fail, too */
	struct {
		enum dms_io_kind kind;
		int fd;
		uint64_t offset_bytes;
		uint64_t end_bytes;
	} bad;
	int fired;
	int seen;
};

static struct fault fault;

/* make tsan sets it: see there. */
static inline bool io_uring_is_left_out(void)
{
	return getenv("DMSNAP_WITHOUT_IO_URING") != NULL;
}

/* Or by the kernel, as in containers, or by what the test is linked with. */
static inline bool has_io_uring(void)
{
	struct dms_io_queue *queue;
	bool has;

	CHECK_OK(dms_io_queue_create(1, io_uring_is_left_out(), &queue));
	has = dms_io_queue_is_io_uring(queue);
	dms_io_queue_destroy(queue);
	return has;
}

static inline bool is_bad(enum dms_io_kind kind, int fd, uint64_t offset, uint32_t length)
{
	return fault.bad.kind == kind && fault.bad.fd == fd &&
	       offset < fault.bad.end_bytes && fault.bad.offset_bytes < offset + length;
}

static inline ssize_t fault_inject_locked(enum dms_io_kind kind, int fd, uint64_t offset,
					  uint32_t length)
{
	if (fault.fd >= 0 && fault.fd != fd)
		return 0;
	if (fault.kinds && !(fault.kinds & 1 << kind))
		return 0;
	fault.seen++;
	if (fault.lasting && fault.fired && is_bad(kind, fd, offset, length))
		return fault.result;
	if (!fault.countdown)
		return 0;
	if (fault.countdown > 1) {
		fault.countdown--;
		return 0;
	}
	if (!fault.repeat)
		fault.countdown = 0;
	fault.fired++;
	fault.bad.kind = kind;
	fault.bad.fd = fd;
	fault.bad.offset_bytes = offset;
	fault.bad.end_bytes = offset + length;
	return fault.result;
}

/* Called by the engine's threads, too. */
static inline ssize_t fault_inject(enum dms_io_kind kind, int fd, uint64_t offset, uint32_t length)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	ssize_t result;

	pthread_mutex_lock(&lock);
	result = fault_inject_locked(kind, fd, offset, length);
	pthread_mutex_unlock(&lock);
	return result;
}

#define DEFINE_FAULTS                                                                     \
	ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes,       \
			      uint32_t length_bytes)                                      \
	{                                                                                 \
		return fault_inject(kind, fd, offset_bytes, length_bytes);                \
	}                                                                                 \
	_Static_assert(1, "the caller's semicolon")

#endif
