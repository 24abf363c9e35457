// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <endian.h>
#include <sys/mman.h>

#include "../src/exception_store_writer.h"
#include "engine_test.h"

#define OFFSET 12288u
#define GUARD 65536u

/* What was written in which order: told before each transfer. */
static struct {
	bool kept;
	bool by_threads;
	int fd;
	uint32_t chunk_size;
	uint64_t count;
	uint64_t data_end; /* behind the last data that was written */
	uint64_t areas; /* that were written, a bit each */
	unsigned int headers;
	unsigned int flushes_since; /* the last write */
} order;

static void observe(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes);

ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&lock);
	if (order.kept && fd == order.fd)
		observe(kind, fd, offset_bytes, length_bytes);
	pthread_mutex_unlock(&lock);
	return fault_inject(kind, fd, offset_bytes, length_bytes);
}

/* What the kernel's read_exceptions() does, the slow and obvious way. */
static uint64_t read_as_kernel(const char *store, uint64_t store_bytes, uint32_t chunk_size,
			       uint64_t *old_chunks, uint64_t *new_chunks)
{
	const uint32_t *header = (const uint32_t *)store;
	uint64_t chunk_bytes = chunk_size * 512ull;
	uint64_t pairs = chunk_bytes / 16, area, count = 0;

	CHECK(le32toh(header[0]) == 0x70416e53 && le32toh(header[1]) == 1);
	CHECK(le32toh(header[2]) == 1 && le32toh(header[3]) == chunk_size);
	for (area = 0;; area++) {
		uint64_t place = (1 + area * (pairs + 1)) * chunk_bytes, i;
		const uint64_t *pair = (const uint64_t *)(store + place);

		CHECK(place + chunk_bytes <= store_bytes);
		for (i = 0; i < pairs; i++) {
			if (!pair[2 * i + 1])
				break;
			old_chunks[count] = le64toh(pair[2 * i]);
			new_chunks[count++] = le64toh(pair[2 * i + 1]);
		}
		if (i == pairs)
			continue;
		for (; i < pairs; i++)
			CHECK(!pair[2 * i] && !pair[2 * i + 1]);
		return count;
	}
}

static void write_store(int fd, uint64_t length, uint32_t chunk_size, uint64_t count,
			bool without_io_uring, uint64_t *used)
{
	struct dms_exception_store_writer *writer;
	char *chunk = malloc(chunk_size * 512);
	uint64_t i, nr_exceptions;

	CHECK_OK(dms_exception_store_writer_create_with(fd, OFFSET, length, chunk_size,
							without_io_uring, &writer));
	for (i = 0; i < count; i++) {
		fill_random(chunk, chunk_size * 512, i);
		CHECK_OK(dms_exception_store_writer_append(writer, i * 3 + 1, chunk));
	}
	CHECK_OK(dms_exception_store_writer_finish(writer, &nr_exceptions, used));
	CHECK(nr_exceptions == count);
	CHECK(*used == dms_exception_store_size(count, chunk_size));
	CHECK_ERROR(dms_exception_store_writer_append(writer, 0, chunk), DMS_ERR_INVALID_ARGUMENT);
	dms_exception_store_writer_destroy(writer);
	free(chunk);
}

static void check_store(int fd, uint32_t chunk_size, uint64_t count, uint64_t used)
{
	uint64_t *old_chunks = calloc(count + 1, 8), *new_chunks = calloc(count + 1, 8), i;
	char *all = contents(fd, 0, OFFSET + used + GUARD);
	char *chunk = malloc(chunk_size * 512);

	CHECK(read_as_kernel(all + OFFSET, used, chunk_size, old_chunks, new_chunks) == count);
	for (i = 0; i < count; i++) {
		uint64_t place = new_chunks[i] * chunk_size * 512;

		CHECK(old_chunks[i] == i * 3 + 1);
		CHECK(place + chunk_size * 512 <= used);
		fill_random(chunk, chunk_size * 512, i);
		CHECK(!memcmp(all + OFFSET + place, chunk, chunk_size * 512));
	}
	for (i = 0; i < OFFSET; i++)
		CHECK(all[i] == 0x5a);
	for (i = OFFSET + used; i < OFFSET + used + GUARD; i++)
		CHECK(all[i] == 0x5a);
	free(old_chunks);
	free(new_chunks);
	free(chunk);
	free(all);
}

/* A store of exactly count exceptions in a region of exactly its size, and not a byte more. */
static void test_exact(uint32_t chunk_size, uint64_t count, bool without_io_uring, int flags)
{
	uint64_t used, size = dms_exception_store_size(count, chunk_size);
	int fd = scratch_file(OFFSET + size + GUARD, 0x5a, flags);

	write_store(fd, size, chunk_size, count, without_io_uring, &used);
	check_store(fd, chunk_size, count, used);
	close(fd);
}

static bool has_valid_header(int fd)
{
	char *header = contents(fd, OFFSET, 4096);
	uint32_t magic;

	memcpy(&magic, header, sizeof(magic));
	free(header);
	/* Zero is as bad: the kernel would make an empty store of it. */
	return le32toh(magic) == DMS_STORE_MAGIC || !magic;
}

/* Every chunk that an area names is on the medium, to be read back. */
static void check_data_of_area(int fd, uint64_t area)
{
	uint64_t chunk_bytes = order.chunk_size * 512ull, pairs = chunk_bytes / 16;
	char *expected = malloc(chunk_bytes);

	for (uint64_t i = area * pairs; i < order.count && i < (area + 1) * pairs; i++) {
		char *found = contents(fd, OFFSET + (2 + i + i / pairs) * chunk_bytes, chunk_bytes);

		fill_random(expected, chunk_bytes, i);
		CHECK(!memcmp(found, expected, chunk_bytes));
		free(found);
	}
	free(expected);
}

static uint64_t areas_of(uint64_t count, uint64_t pairs)
{
	return (2ull << count / pairs) - 1;
}

static void observe_header(void)
{
	order.headers++;
	if (order.headers == 1) {
		CHECK(!order.areas && order.data_end == OFFSET);
		return;
	}
	/* Everything else was flushed, and nothing comes behind it. */
	CHECK(order.flushes_since && order.headers == 2);
	CHECK(order.areas == areas_of(order.count, order.chunk_size * 32ull));
}

static void observe_write(int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	uint64_t chunk_bytes = order.chunk_size * 512ull, stride = chunk_bytes / 16 + 1;
	uint64_t chunk = (offset_bytes - OFFSET) / chunk_bytes;

	CHECK(order.headers < 2);
	if (!chunk)
		return observe_header();
	/* The old header is gone for good, before anything else is overwritten. */
	CHECK(order.headers == 1);
	if ((chunk - 1) % stride == 0) {
		/* In the order in which their data is done, which is that of the areas or nearly so. */
		CHECK(length_bytes == chunk_bytes);
		CHECK(!(order.areas & 1ull << (chunk - 1) / stride));
		order.areas |= 1ull << (chunk - 1) / stride;
		check_data_of_area(fd, (chunk - 1) / stride);
		return;
	}
	/* Threads may begin with what was submitted later. */
	if (!order.by_threads) {
		CHECK(offset_bytes >= order.data_end);
		CHECK(offset_bytes - order.data_end <= 2 * chunk_bytes);
	}
	if (offset_bytes + length_bytes > order.data_end)
		order.data_end = offset_bytes + length_bytes;
}

static void observe(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	if (kind == DMS_IO_FLUSH) {
		order.flushes_since++;
		return;
	}
	CHECK(kind == DMS_IO_WRITE);
	/* Only a flush says that the old header is gone. */
	CHECK(!order.headers || order.data_end > OFFSET || order.areas || order.flushes_since);
	observe_write(fd, offset_bytes, length_bytes);
	order.flushes_since = 0;
}

/* Data in ascending order, each area behind its data, a flush, the header, a flush. */
static void test_order(uint32_t chunk_size, uint64_t count, bool without_io_uring, int flags)
{
	uint64_t used, size = dms_exception_store_size(count, chunk_size);
	int fd = scratch_file(OFFSET + size, 0x5a, flags);

	memset(&order, 0, sizeof(order));
	order.fd = fd;
	order.by_threads = without_io_uring || !has_io_uring();
	order.chunk_size = chunk_size;
	order.count = count;
	order.data_end = OFFSET;
	order.kept = true;
	write_store(fd, size, chunk_size, count, without_io_uring, &used);
	order.kept = false;
	CHECK(order.headers == 2 && order.flushes_since);
	CHECK(order.areas == areas_of(count, chunk_size * 32ull));
	CHECK(used == size);
	close(fd);
}

/* By whichever way is tested: see main(). */
static bool by_threads_alone;

static struct dms_error *create(int fd, uint64_t offset, uint64_t length, uint32_t chunk_size,
				struct dms_exception_store_writer **writer)
{
	return dms_exception_store_writer_create_with(fd, offset, length, chunk_size,
						      by_threads_alone, writer);
}

/* At the very end of a medium of 2^63 bytes, where an offset that overflows is negative. */
static void test_far_out(uint32_t chunk_size, uint64_t count)
{
	uint64_t size = dms_exception_store_size(count, chunk_size), used, i, nr_exceptions;
	uint64_t end = INT64_MAX - INT64_MAX % 4096, offset = end - size;
	int fd = memfd_create("store", MFD_CLOEXEC);
	struct dms_exception_store_writer *writer;
	struct dms_exception_store *store;
	char *chunk = malloc(chunk_size * 512);

	CHECK(fd >= 0 && chunk && ftruncate(fd, (off_t)end) == 0);
	CHECK_ERROR(create(fd, offset + chunk_size * 512, size, chunk_size, &writer),
		    DMS_ERR_OUT_OF_BOUNDS);
	CHECK_OK(create(fd, offset, size, chunk_size, &writer));
	for (i = 0; i < count; i++) {
		fill_random(chunk, chunk_size * 512, i);
		CHECK_OK(dms_exception_store_writer_append(writer, end / chunk_size / 512 - 1 - i,
							   chunk));
	}
	CHECK_ERROR(dms_exception_store_writer_append(writer, 0, chunk), DMS_ERR_STORE_FULL);
	dms_exception_store_writer_destroy(writer);
	CHECK_OK(create(fd, offset, size, chunk_size, &writer));
	for (i = 0; i < count; i++)
		CHECK_OK(dms_exception_store_writer_append(writer, end / chunk_size / 512 - 1 - i,
							   chunk));
	CHECK_OK(dms_exception_store_writer_finish(writer, &nr_exceptions, &used));
	dms_exception_store_writer_destroy(writer);
	CHECK(nr_exceptions == count && used == size);
	CHECK_OK(dms_exception_store_open(fd, offset, size, &store));
	CHECK(dms_exception_store_count(store) == count);
	dms_exception_store_close(store);
	free(chunk);
	close(fd);
}

static void test_full(uint32_t chunk_size, uint64_t count, uint64_t slack)
{
	uint64_t size = dms_exception_store_size(count, chunk_size) + slack, i, used;
	int fd = scratch_file(OFFSET + size + GUARD, 0x5a, O_DIRECT);
	struct dms_exception_store_writer *writer;
	char *chunk = calloc(1, chunk_size * 512);

	/* A valid store was there before: it must be gone. */
	write_store(fd, size, chunk_size, count, by_threads_alone, &used);
	CHECK(has_valid_header(fd));
	CHECK_OK(create(fd, OFFSET, size, chunk_size, &writer));
	CHECK(!has_valid_header(fd));
	for (i = 0; i < count; i++)
		CHECK_OK(dms_exception_store_writer_append(writer, i, chunk));
	CHECK_ERROR(dms_exception_store_writer_append(writer, i, chunk), DMS_ERR_STORE_FULL);
	CHECK_ERROR(dms_exception_store_writer_finish(writer, &i, &used),
		    DMS_ERR_INVALID_ARGUMENT);
	dms_exception_store_writer_destroy(writer);
	CHECK(!has_valid_header(fd));
	free(chunk);
	close(fd);
}

static void test_sizes(void)
{
	uint64_t count;

	CHECK(dms_exception_store_size(0, 8) == 2 * 4096);
	CHECK(dms_exception_store_size(1, 8) == 3 * 4096);
	CHECK(dms_exception_store_size(255, 8) == 257 * 4096);
	CHECK(dms_exception_store_size(256, 8) == 259 * 4096); /* and the terminating area */
	CHECK(dms_exception_store_size(257, 8) == 260 * 4096);
	CHECK(dms_exception_store_size(1, 0) == UINT64_MAX);
	CHECK(dms_exception_store_size(UINT64_MAX, 8) == UINT64_MAX);
	CHECK(dms_exception_store_size(UINT64_MAX / 4096, 8) == UINT64_MAX);
	/* On the largest medium, no chunk number reaches what the kernel keeps beside it. */
	for (uint32_t chunk_size = 8; chunk_size <= 2048; chunk_size *= 2) {
		uint64_t most = dms_store_capacity(INT64_MAX, chunk_size * 512);

		CHECK(dms_exception_store_size(most, chunk_size) <= INT64_MAX);
		CHECK(dms_exception_store_size(most + 1, chunk_size) > INT64_MAX);
		CHECK(dms_exception_store_size(most, chunk_size) / (chunk_size * 512) < 1ull << 56);
	}
	for (count = 0; count < 2000; count++) {
		uint64_t size = dms_exception_store_size(count, 8);
		uint64_t next = dms_exception_store_size(count + 1, 8);

		CHECK(dms_store_capacity(size, 4096) == count);
		CHECK(dms_store_capacity(next - 1, 4096) == count);
	}
}

static void test_arguments(void)
{
	static const uint32_t wrong[] = { 0, 1, 4, 7, 12, 4096 };
	int fd = scratch_file(1 << 20, 0x5a, 0);
	struct dms_exception_store_writer *writer;
	size_t i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK_ERROR(create(fd, 0, 1 << 20, wrong[i], &writer),
			    DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(create(fd, 0, 8191, 8, &writer),
		    DMS_ERR_STORE_FULL);
	CHECK_ERROR(create(fd, 4096, 1 << 20, 8, &writer),
		    DMS_ERR_OUT_OF_BOUNDS);
	CHECK_ERROR(create(fd, UINT64_MAX - 4095, 1 << 20, 8, &writer),
		    DMS_ERR_OUT_OF_BOUNDS);
	CHECK_ERROR(create(-1, 0, 1 << 20, 8, &writer), DMS_ERR_OS);
	close(fd);
	fd = scratch_file(1 << 20, 0x5a, O_DIRECT);
	if (fcntl(fd, F_GETFL) & O_DIRECT)
		CHECK_ERROR(create(fd, 100, 1 << 19, 8, &writer),
			    DMS_ERR_INVALID_ARGUMENT);
	close(fd);
}

static struct dms_error *write_faulty(int fd, uint64_t size)
{
	_cleanup_store_writer_ struct dms_exception_store_writer *writer = NULL;
	_cleanup_free_ char *chunk = calloc(1, 4096);
	struct dms_error *error = create(fd, OFFSET, size, 8, &writer);
	uint64_t i, used;

	for (i = 0; !error && i < 1000; i++)
		error = dms_exception_store_writer_append(writer, i, chunk);
	return error ? error : dms_exception_store_writer_finish(writer, &i, &used);
}

/* Each transfer and each flush fails in turn: never a success, never a valid header. */
static void test_faults(void)
{
	static const int errnums[] = { EIO, ENOSPC };
	uint64_t size = dms_exception_store_size(1000, 8);
	int fd = scratch_file(OFFSET + size, 0x5a, 0);
	int i, total;

	fault = (struct fault){ .fd = fd };
	CHECK_OK(write_faulty(fd, size));
	total = fault.seen;
	CHECK(total > 8);
	for (i = 1; i <= total; i++) {
		struct dms_error *error;

		fault = (struct fault){ .countdown = i, .fd = fd,
					.result = -errnums[i % 2] };
		error = write_faulty(fd, size);
		CHECK(fault.fired == 1);
		CHECK(error && error->code == DMS_ERR_OS && error->errnum == errnums[i % 2]);
		dms_error_destroy(error);
		fault = (struct fault){ .fd = fd };
		/* The first transfer would have invalidated the store before; it was told to fail. */
		CHECK(i == 1 || !has_valid_header(fd));
	}
	fault = (struct fault){ .fd = -1 };
	close(fd);
}

int main(void)
{
	const int first = io_uring_is_left_out(); /* every other is by threads */
	uint32_t chunk_size;
	int variant;

	fault.fd = -1;
	test_sizes();
	test_arguments();
	for (variant = first; variant < 4; variant += 1 + first) {
		bool without_io_uring = variant & 1;
		int flags = variant & 2 ? O_DIRECT : 0;
		static const uint64_t counts[] = { 0, 1, 255, 256, 257, 511, 512, 513, 3000 };
		size_t i;

		for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
			test_exact(8, counts[i], without_io_uring, flags);
		for (chunk_size = 16; chunk_size <= 2048; chunk_size *= 2) {
			test_exact(chunk_size, 0, without_io_uring, flags);
			test_exact(chunk_size, 5, without_io_uring, flags);
		}
		test_exact(16, 512, without_io_uring, flags);
		test_exact(32, 1024, without_io_uring, flags);
		test_exact(32, 1025, without_io_uring, flags);
	}
	for (variant = first; variant < 4; variant += 1 + first) {
		bool without_io_uring = variant & 1;
		int flags = variant & 2 ? O_DIRECT : 0;

		for (chunk_size = 8; chunk_size <= 2048; chunk_size *= 2) {
			test_order(chunk_size, 0, without_io_uring, flags);
			test_order(chunk_size, 7, without_io_uring, flags);
		}
		test_order(8, 256, without_io_uring, flags);
		test_order(8, 2000, without_io_uring, flags);
		test_order(16, 512, without_io_uring, flags);
		test_order(32, 1025, without_io_uring, flags);
	}
	for (variant = first; variant < 2; variant++) {
		by_threads_alone = variant;
		for (chunk_size = 8; chunk_size <= 2048; chunk_size *= 2)
			test_far_out(chunk_size, 3);
		test_far_out(8, 256);
		test_full(8, 255, 0);
		test_full(8, 256, 0);
		test_full(8, 256, 4095);
		test_full(8, 600, 1000);
		test_full(64, 3, 5);
		test_faults();
	}
	return 0;
}
