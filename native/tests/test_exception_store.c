// SPDX-License-Identifier: Apache-2.0
/* The reader of exception stores on stores built here; the kernel's own are in test_images. */
#define _GNU_SOURCE /* memfd_create */
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <dmsnap/exception_store.h>

#include "image.h"
#include "test.h"

#define OFFSET 12288u
#define GUARD 65536u
#define MAGIC 0x70416e53u

/*
 * What is read of the medium. While the log is kept, a read of a byte outside
 * the allowed places fails as a bad sector does.
 */
static struct {
	bool kept;
	const struct store *store;
	uint64_t areas_read; /* a bit each */
	bool header_read;
} reads;

static bool is_metadata(uint64_t offset_bytes, uint64_t length_bytes);

/* In the place of libc's: the core reads stores with it. */
ssize_t pread(int fd, void *buffer, size_t count, off_t offset)
{
	if (reads.kept && !is_metadata((uint64_t)offset, count)) {
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pread64, fd, buffer, count, offset);
}

/* A store of nr_chunks at OFFSET of a medium that goes on behind it. */
struct store {
	uint8_t *bytes;
	uint64_t chunk_bytes;
	uint64_t nr_chunks;
	uint64_t count;
};

static uint64_t length_of(const struct store *store)
{
	return store->nr_chunks * store->chunk_bytes;
}

static uint8_t *header_of(const struct store *store)
{
	return store->bytes + OFFSET;
}

static void store_init(struct store *store, uint32_t chunk_size, uint64_t nr_chunks)
{
	store->chunk_bytes = chunk_size * 512ull;
	store->nr_chunks = nr_chunks;
	store->count = 0;
	store->bytes = calloc(1, OFFSET + length_of(store) + GUARD);
	CHECK(store->bytes);
	memset(store->bytes, 0xa5, OFFSET);
	memset(store->bytes + OFFSET + length_of(store), 0xa5, GUARD);
	put_le32(header_of(store), MAGIC);
	put_le32(header_of(store) + 4, 1);
	put_le32(header_of(store) + 8, 1);
	put_le32(header_of(store) + 12, chunk_size);
}

static uint64_t pairs_of(const struct store *store)
{
	return store->chunk_bytes / 16;
}

/* The bytes of the i-th pair; outside the store when there is no room for it. */
static uint8_t *pair_at(const struct store *store, uint64_t i)
{
	uint64_t area = i / pairs_of(store);
	uint64_t chunk = 1 + area * (pairs_of(store) + 1);

	return store->bytes + OFFSET + chunk * store->chunk_bytes + i % pairs_of(store) * 16;
}

/* The chunk that the kernel gives to the i-th exception. */
static uint64_t data_chunk(const struct store *store, uint64_t i)
{
	return 2 + i + i / pairs_of(store);
}

static void append_pair(struct store *store, uint64_t old_chunk, uint64_t new_chunk)
{
	put_le64(pair_at(store, store->count), old_chunk);
	put_le64(pair_at(store, store->count) + 8, new_chunk);
	store->count++;
}

static void append(struct store *store, uint64_t old_chunk)
{
	append_pair(store, old_chunk, data_chunk(store, store->count));
}

static struct dms_error *open_cut(const struct store *store, uint64_t medium_bytes,
				  struct dms_exception_store **opened)
{
	int fd = memfd_create("store", MFD_CLOEXEC);
	struct dms_error *error;

	CHECK(fd >= 0 && pwrite(fd, store->bytes, medium_bytes, 0) == (ssize_t)medium_bytes);
	error = dms_exception_store_open(fd, OFFSET, length_of(store), opened);
	close(fd);
	return error;
}

static struct dms_error *open_store(const struct store *store, struct dms_exception_store **opened)
{
	return open_cut(store, OFFSET + length_of(store) + GUARD, opened);
}

/* The index-th exception. */
static uint64_t old_chunk_at(const struct dms_exception_store *opened, uint64_t index,
			     uint64_t *new_chunk)
{
	const struct dms_exception_run *run = dms_exception_store_runs(opened);

	for (; index >= run->count; run++)
		index -= run->count;
	*new_chunk = run->new_chunk + index;
	return run->old_chunk + index;
}

/* old(i) for i < count; in any order, without repeats. */
static void round_trip(uint32_t chunk_size, uint64_t count, uint64_t factor)
{
	uint64_t size = dms_exception_store_size(count, chunk_size), i, new_chunk;
	struct dms_exception_store *opened;
	struct dms_extent_set *set;
	struct store store;

	store_init(&store, chunk_size, size / (chunk_size * 512ull));
	for (i = 0; i < count; i++)
		append(&store, i * factor % 100003);
	CHECK_OK(open_store(&store, &opened));
	CHECK(dms_exception_store_header(opened)->chunk_size == chunk_size);
	CHECK(dms_exception_store_header(opened)->valid == 1);
	CHECK(dms_exception_store_count(opened) == count);
	for (i = 0; i < count; i++) {
		CHECK(old_chunk_at(opened, i, &new_chunk) == i * factor % 100003);
		CHECK(new_chunk == data_chunk(&store, i));
	}
	CHECK_OK(dms_exception_store_extents(opened, &set));
	CHECK(dms_extent_set_bytes(set) == count * store.chunk_bytes);
	dms_extent_set_destroy(set);
	dms_exception_store_close(opened);
	/* One chunk less and the terminating area, or the last data chunk, is missing. */
	if (count) {
		store.nr_chunks--;
		CHECK_ERROR(open_store(&store, &opened), DMS_ERR_OUT_OF_BOUNDS);
	}
	free(store.bytes);
}

static void sizes(void)
{
	CHECK(dms_exception_store_size(0, 8) == 2 * 4096);
	CHECK(dms_exception_store_size(255, 8) == (2 + 255) * 4096);
	CHECK(dms_exception_store_size(256, 8) == (3 + 256) * 4096);
	CHECK(dms_exception_store_size(257, 8) == (3 + 257) * 4096);
	CHECK(dms_exception_store_size(1, 0) == UINT64_MAX);
	CHECK(dms_exception_store_size(UINT64_MAX / 2, 8) == UINT64_MAX);
	round_trip(8, 0, 1);
	round_trip(8, 1, 1);
	round_trip(8, 255, 1);
	round_trip(8, 256, 1);
	round_trip(8, 257, 1);
	round_trip(8, 1000, 7919);
	round_trip(1, 500, 7919);
	round_trip(16, 512, 31);
	round_trip(128, 3, 31);
	round_trip(2048, 2, 31); /* areas of several pieces */
}

static void rejects(struct store *store, int code, const char *part)
{
	struct dms_exception_store *opened;

	CHECK_MESSAGE(open_store(store, &opened), code, part);
	free(store->bytes);
}

static void headers(void)
{
	static const struct {
		unsigned int at;
		uint32_t value;
		int code;
		const char *part;
	} changes[] = {
		{ 0, 0, DMS_ERR_BAD_MAGIC, "no magic" },
		{ 8, 2, DMS_ERR_UNSUPPORTED, "version 2" },
		{ 8, 0, DMS_ERR_UNSUPPORTED, "version 0" },
		{ 12, 0, DMS_ERR_CORRUPT, "chunk size of 0" },
		{ 12, 24, DMS_ERR_CORRUPT, "chunk size of 24" },
		{ 12, 0x80000000, DMS_ERR_CORRUPT, "chunk size" },
		{ 12, 1 << 21, DMS_ERR_OUT_OF_BOUNDS, "two chunks" },
	};
	struct store store;

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		store_init(&store, 8, 40);
		put_le32(header_of(&store) + changes[i].at, changes[i].value);
		rejects(&store, changes[i].code, changes[i].part);
	}
	store_init(&store, 8, 1);
	rejects(&store, DMS_ERR_OUT_OF_BOUNDS, "two chunks");
	store_init(&store, 8, 0);
	rejects(&store, DMS_ERR_BAD_MAGIC, "no room");
}

static void pairs(void)
{
	struct store store;

	store_init(&store, 8, 600);
	append_pair(&store, 5, 600);
	rejects(&store, DMS_ERR_OUT_OF_BOUNDS, "chunk 600, the store has 600");
	store_init(&store, 8, 600);
	append_pair(&store, 5, UINT64_MAX);
	rejects(&store, DMS_ERR_OUT_OF_BOUNDS, "exception 0");
	store_init(&store, 8, 600);
	append_pair(&store, 5, 1);
	rejects(&store, DMS_ERR_CORRUPT, "metadata area");
	store_init(&store, 8, 600);
	append(&store, 4);
	append_pair(&store, 5, 1 + 257);
	rejects(&store, DMS_ERR_CORRUPT, "exception 1 lies in chunk 258");
	store_init(&store, 8, 600);
	append(&store, 1ull << 60);
	rejects(&store, DMS_ERR_OUT_OF_BOUNDS, "beyond 2^63");
	store_init(&store, 8, 600);
	append(&store, 9);
	append(&store, 4);
	append(&store, 9);
	rejects(&store, DMS_ERR_CORRUPT, "two exceptions for chunk 9 of the origin");
	store_init(&store, 8, 600); /* inside of a run */
	for (uint64_t i = 0; i < 20; i++)
		append(&store, 30 + i);
	append(&store, 7);
	append(&store, 44);
	append(&store, 9);
	rejects(&store, DMS_ERR_CORRUPT, "two exceptions for chunk 44 of the origin");
	store_init(&store, 8, 600);
	for (uint64_t i = 0; i < 20; i++)
		append(&store, 30 + i);
	append_pair(&store, 4, 11);
	rejects(&store, DMS_ERR_CORRUPT, "two exceptions for chunk 11 of the store");
	store_init(&store, 8, 600);
	append_pair(&store, 4, 3);
	append_pair(&store, 5, 3);
	rejects(&store, DMS_ERR_CORRUPT, "two exceptions for chunk 3 of the store");
	store_init(&store, 8, 258); /* a full area at the very end: nothing ends it */
	for (uint64_t i = 0; i < 256; i++)
		append(&store, i);
	rejects(&store, DMS_ERR_OUT_OF_BOUNDS, "area 1 would be chunk 258");
}

static void invalid(void)
{
	struct dms_exception_store *opened;
	struct dms_extent_set *set;
	struct store store;

	store_init(&store, 8, 600);
	append_pair(&store, 5, UINT64_MAX); /* not even looked at */
	put_le32(header_of(&store) + 4, 0);
	CHECK_OK(open_store(&store, &opened));
	CHECK(!dms_exception_store_header(opened)->valid);
	CHECK(!dms_exception_store_count(opened));
	CHECK_ERROR(dms_exception_store_extents(opened, &set), DMS_ERR_STORE_INVALID);
	dms_exception_store_close(opened);
	free(store.bytes);
}

/* The header's chunk, or an area: whole blocks are read, for the sake of O_DIRECT. */
static bool is_metadata(uint64_t offset_bytes, uint64_t length_bytes)
{
	const struct store *store = reads.store;
	uint64_t first = (offset_bytes - OFFSET) / store->chunk_bytes;
	uint64_t last = (offset_bytes - OFFSET + length_bytes - 1) / store->chunk_bytes;

	if (offset_bytes < OFFSET || first != last)
		return false;
	if (!first)
		reads.header_read = true;
	else if ((first - 1) % (pairs_of(store) + 1))
		return false;
	else
		reads.areas_read |= 1ull << (first - 1) / (pairs_of(store) + 1);
	return true;
}

/* Every data chunk is a bad sector: the store is read all the same, and every area of it was. */
static void only_metadata_is_read(uint32_t chunk_size, uint64_t count)
{
	struct dms_exception_store *opened;
	struct dms_extent_set *set;
	struct store store;
	uint64_t nr_areas;
	char byte;

	store_init(&store, chunk_size,
		   dms_exception_store_size(count, chunk_size) / (chunk_size * 512ull));
	nr_areas = count / pairs_of(&store) + 1;
	for (uint64_t i = 0; i < count; i++)
		append(&store, i * 5);
	reads.store = &store;
	reads.header_read = false;
	reads.areas_read = 0;
	reads.kept = true;
	CHECK(count == 0 || pread(0, &byte, 1, (off_t)(OFFSET + 2 * store.chunk_bytes)) < 0);
	CHECK_OK(open_store(&store, &opened));
	CHECK(dms_exception_store_count(opened) == count);
	CHECK_OK(dms_exception_store_extents(opened, &set));
	reads.kept = false;
	CHECK(reads.header_read && reads.areas_read == (2ull << (nr_areas - 1)) - 1);
	dms_extent_set_destroy(set);
	dms_exception_store_close(opened);
	free(store.bytes);
}

static void reading(void)
{
	only_metadata_is_read(8, 0);
	only_metadata_is_read(8, 100);
	only_metadata_is_read(8, 256);
	only_metadata_is_read(8, 2000);
	only_metadata_is_read(16, 600);
	only_metadata_is_read(128, 4097);
	only_metadata_is_read(2048, 3);
}

static void put_sparse(int fd, const void *bytes, size_t size, uint64_t offset)
{
	CHECK(pwrite(fd, bytes, size, (off_t)offset) == (ssize_t)size);
}

/*
 * On a medium as large as there can be, 2^63 bytes: chunks of both sides that
 * lie at its end, and one behind it.
 */
static void largest(uint32_t chunk_size)
{
	uint64_t chunk_bytes = chunk_size * 512ull, length = INT64_MAX - INT64_MAX % chunk_bytes;
	uint64_t nr_chunks = length / chunk_bytes, last = nr_chunks - 1;
	struct dms_exception_store *opened;
	struct dms_extent_set *set;
	uint8_t header[16], pair[16];
	int fd = memfd_create("store", MFD_CLOEXEC);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)length));
	put_le32(header, MAGIC);
	put_le32(header + 4, 1);
	put_le32(header + 8, 1);
	put_le32(header + 12, chunk_size);
	put_sparse(fd, header, sizeof(header), 0);
	/* The last chunk is an area for some chunk sizes; what lies before it then is data. */
	if ((last - 1) % (chunk_bytes / 16 + 1) == 0)
		last--;
	put_le64(pair, nr_chunks - 2);
	put_le64(pair + 8, last);
	put_sparse(fd, pair, sizeof(pair), chunk_bytes);
	CHECK_OK(dms_exception_store_open(fd, 0, length, &opened));
	CHECK(dms_exception_store_count(opened) == 1);
	CHECK(dms_exception_store_runs(opened)[0].new_chunk == last);
	CHECK_OK(dms_exception_store_extents(opened, &set));
	CHECK(dms_extent_set_extents(set)[0].offset_bytes == (nr_chunks - 2) * chunk_bytes);
	CHECK(dms_extent_set_extents(set)[0].length_bytes == chunk_bytes);
	dms_extent_set_destroy(set);
	dms_exception_store_close(opened);

	put_le64(pair + 8, nr_chunks);
	put_sparse(fd, pair, sizeof(pair), chunk_bytes);
	CHECK_MESSAGE(dms_exception_store_open(fd, 0, length, &opened), DMS_ERR_OUT_OF_BOUNDS,
		      "exception 0 lies in chunk");
	/* The kernel would take the highest byte for a count of neighbours. */
	put_le64(pair + 8, 2 | 1ull << 56);
	put_sparse(fd, pair, sizeof(pair), chunk_bytes);
	CHECK_MESSAGE(dms_exception_store_open(fd, 0, length, &opened), DMS_ERR_OUT_OF_BOUNDS,
		      "exception 0 lies in chunk 72057594037927938");
	put_le64(pair, nr_chunks);
	put_le64(pair + 8, 2);
	put_sparse(fd, pair, sizeof(pair), chunk_bytes);
	CHECK_MESSAGE(dms_exception_store_open(fd, 0, length, &opened), DMS_ERR_OUT_OF_BOUNDS,
		      "beyond 2^63 bytes");
	close(fd);
}

/* A million chunks in ascending order, as our own engine keeps them: a run for each area of them. */
static void many(void)
{
	const uint64_t nr_areas = 4096, pairs = 256, stride = pairs + 1;
	uint64_t length = (1 + (nr_areas + 1) * stride) * 4096;
	int fd = memfd_create("store", MFD_CLOEXEC);
	struct dms_exception_store *opened;
	uint8_t header[16], area[4096];
	struct dms_extent_set *set;

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)length));
	put_le32(header, MAGIC);
	put_le32(header + 4, 1);
	put_le32(header + 8, 1);
	put_le32(header + 12, 8);
	put_sparse(fd, header, sizeof(header), 0);
	for (uint64_t i = 0; i < nr_areas; i++) {
		for (uint64_t j = 0; j < pairs; j++) {
			put_le64(area + j * 16, i * pairs + j);
			put_le64(area + j * 16 + 8, 2 + i * stride + j);
		}
		put_sparse(fd, area, sizeof(area), (1 + i * stride) * 4096);
	}
	CHECK_OK(dms_exception_store_open(fd, 0, length, &opened));
	CHECK(dms_exception_store_count(opened) == nr_areas * pairs);
	CHECK(dms_exception_store_nr_runs(opened) == nr_areas);
	CHECK_OK(dms_exception_store_extents(opened, &set));
	CHECK(dms_extent_set_count(set) == 1);
	CHECK(dms_extent_set_bytes(set) == nr_areas * pairs * 4096);
	dms_extent_set_destroy(set);
	dms_exception_store_close(opened);
	close(fd);
}

/* The medium ends anywhere: an error, or what the metadata says; never less. */
static void cut(void)
{
	struct dms_exception_store *opened;
	struct store store;

	store_init(&store, 8, 600);
	for (uint64_t i = 0; i < 300; i++)
		append(&store, i);
	for (uint64_t at = 0; at < OFFSET + length_of(&store); at += 517)
		CHECK_ERROR(open_cut(&store, at, &opened), DMS_ERR_OUT_OF_BOUNDS);
	CHECK_OK(open_cut(&store, OFFSET + length_of(&store), &opened));
	dms_exception_store_close(opened);
	CHECK_ERROR(dms_exception_store_open(-1, 0, 4096, &opened), DMS_ERR_OS);
	free(store.bytes);
}

int main(void)
{
	sizes();
	headers();
	pairs();
	invalid();
	cut();
	many();
	reading();
	for (uint32_t chunk_size = 1; chunk_size <= 2048; chunk_size *= 2)
		largest(chunk_size);
	return 0;
}
