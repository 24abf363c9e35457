// SPDX-License-Identifier: Apache-2.0
/*
 * Reader of dm-snapshot's persistent exception stores, as read_header() and
 * read_exceptions() of dm-snap-persistent.c. The kernel believes what it
 * reads; here every pair must make sense.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/exception_store.h>

#include "block_io.h"
#include "cleanup.h"
#include "exception_store_writer.h"
#include "le_cursor.h"

#define WHAT "exception store"
#define HEADER_BYTES 16
/* Chunks of a GiB: more than any tool makes, and still far from overflowing anything. */
#define MAX_CHUNK_SECTORS (1u << 21)
/* An area is read in pieces, so that memory does not grow with the chunk size. */
#define PIECE_BYTES (256u * 1024)
#define FIRST_CAPACITY 256

struct dms_exception_store {
	struct dms_exception_store_header header;
	struct dms_exception_run *runs;
	size_t nr_runs;
	size_t capacity;
	size_t count; /* of exceptions */
};

DMS_DEFINE_CLEANUP(cleanup_store, struct dms_exception_store, dms_exception_store_close);

struct exception {
	uint64_t old_chunk;
	uint64_t new_chunk;
};

struct reader {
	struct dms_exception_store *store;
	struct dms_block_io io;
	uint64_t offset_bytes; /* of the store on the medium */
	uint64_t chunk_bytes;
	uint64_t nr_chunks;
	uint64_t pairs; /* in an area */
	uint8_t *buffer;
};

/* The first of the chunks that repeat every stride: an area and the data behind it. */
static uint64_t area_chunk(const struct reader *reader, uint64_t area)
{
	return 1 + area * (reader->pairs + 1);
}

static struct dms_error *parse_header(const uint8_t *bytes, uint64_t offset_bytes,
				      struct dms_exception_store_header *header)
{
	struct dms_le_cursor cursor =
		dms_le_cursor(WHAT " header", bytes, HEADER_BYTES, offset_bytes);
	uint32_t magic;

	DMS_TRY(dms_le_cursor_u32(&cursor, "magic", &magic));
	if (magic != DMS_STORE_MAGIC)
		return dms_error_create_at(DMS_ERR_BAD_MAGIC, offset_bytes,
					   WHAT ": no magic number");
	DMS_TRY(dms_le_cursor_u32(&cursor, "valid", &header->valid));
	DMS_TRY(dms_le_cursor_u32(&cursor, "version", &header->version));
	return dms_le_cursor_u32(&cursor, "chunk_size", &header->chunk_size);
}

static struct dms_error *check_header(const struct dms_exception_store_header *header,
				      uint64_t offset_bytes, uint64_t length_bytes)
{
	uint32_t chunk_size = header->chunk_size;

	if (header->version != DMS_STORE_VERSION)
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, offset_bytes,
					   WHAT ": version %u, known is %u", header->version,
					   DMS_STORE_VERSION);
	if (!chunk_size || chunk_size & (chunk_size - 1) || chunk_size > MAX_CHUNK_SECTORS)
		return dms_error_create_at(DMS_ERR_CORRUPT, offset_bytes,
					   WHAT ": chunk size of %u sectors", chunk_size);
	if (length_bytes / DMS_STORE_SECTOR_BYTES / chunk_size < 2)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset_bytes,
					   WHAT ": %" PRIu64
						" bytes have no room for two chunks of %u sectors",
					   length_bytes, chunk_size);
	return NULL;
}

static struct dms_error *check_pair(const struct reader *reader, const struct exception *pair,
				    uint64_t offset_bytes)
{
	if (pair->new_chunk >= reader->nr_chunks)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset_bytes,
					   WHAT ": exception %zu lies in chunk %" PRIu64
						", the store has %" PRIu64,
					   reader->store->count, pair->new_chunk,
					   reader->nr_chunks);
	if ((pair->new_chunk - 1) % (reader->pairs + 1) == 0)
		return dms_error_create_at(DMS_ERR_CORRUPT, offset_bytes,
					   WHAT ": exception %zu lies in chunk %" PRIu64
						", which is a metadata area",
					   reader->store->count, pair->new_chunk);
	if (pair->old_chunk >= INT64_MAX / reader->chunk_bytes)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset_bytes,
					   WHAT ": exception %zu is of the origin's chunk %" PRIu64
						", beyond 2^63 bytes",
					   reader->store->count, pair->old_chunk);
	return NULL;
}

static bool continues(const struct dms_exception_store *store, const struct exception *pair)
{
	const struct dms_exception_run *last;

	if (!store->nr_runs)
		return false;
	last = &store->runs[store->nr_runs - 1];
	return pair->old_chunk == last->old_chunk + last->count &&
	       pair->new_chunk == last->new_chunk + last->count;
}

/* What our own engine writes ascends, so that memory is taken by the area, not by the chunk. */
static struct dms_error *append(struct dms_exception_store *store, struct exception pair)
{
	store->count++;
	if (continues(store, &pair)) {
		store->runs[store->nr_runs - 1].count++;
		return NULL;
	}
	if (store->nr_runs == store->capacity) {
		size_t capacity = store->capacity ? store->capacity * 2 : FIRST_CAPACITY;
		struct dms_exception_run *runs =
			reallocarray(store->runs, capacity, sizeof(*runs));

		if (!runs)
			return dms_error_create(DMS_ERR_NO_MEMORY,
						"no memory for %zu runs of exceptions", capacity);
		store->runs = runs;
		store->capacity = capacity;
	}
	store->runs[store->nr_runs++] = (struct dms_exception_run){
		.old_chunk = pair.old_chunk,
		.new_chunk = pair.new_chunk,
		.count = 1,
	};
	return NULL;
}

/* Part of an area. *end: a pair without a new chunk came, which ends the store. */
static struct dms_error *read_piece(struct reader *reader, uint64_t offset_bytes, size_t size,
				    bool *end)
{
	struct dms_le_cursor cursor;
	const uint8_t *bytes;

	DMS_TRY(dms_block_io_read_bytes(&reader->io, WHAT, offset_bytes, size, reader->buffer,
					&bytes));
	cursor = dms_le_cursor(WHAT " area", bytes, size, offset_bytes);
	while (cursor.position < size) {
		uint64_t pair_bytes = dms_le_cursor_tell(&cursor);
		struct exception pair;

		DMS_TRY(dms_le_cursor_u64(&cursor, "old_chunk", &pair.old_chunk));
		DMS_TRY(dms_le_cursor_u64(&cursor, "new_chunk", &pair.new_chunk));
		if (!pair.new_chunk) {
			*end = true;
			return NULL;
		}
		DMS_TRY(check_pair(reader, &pair, pair_bytes));
		DMS_TRY(append(reader->store, pair));
	}
	return NULL;
}

static struct dms_error *read_area(struct reader *reader, uint64_t area, bool *end)
{
	uint64_t chunk = area_chunk(reader, area);
	uint64_t start = reader->offset_bytes + chunk * reader->chunk_bytes;

	if (chunk >= reader->nr_chunks)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, start,
					   WHAT ": area %" PRIu64 " would be chunk %" PRIu64
						", the store has %" PRIu64,
					   area, chunk, reader->nr_chunks);
	for (uint64_t done = 0; !*end && done < reader->chunk_bytes; done += PIECE_BYTES) {
		uint64_t left = reader->chunk_bytes - done;

		DMS_TRY(read_piece(reader, start + done,
				   (size_t)(left < PIECE_BYTES ? left : PIECE_BYTES), end));
	}
	return NULL;
}

static int compare(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static int compare_old(const void *left, const void *right)
{
	return compare(((const struct dms_exception_run *)left)->old_chunk,
		       ((const struct dms_exception_run *)right)->old_chunk);
}

static int compare_new(const void *left, const void *right)
{
	return compare(((const struct dms_exception_run *)left)->new_chunk,
		       ((const struct dms_exception_run *)right)->new_chunk);
}

/* Of the origin, or of the store. */
static uint64_t first_chunk(const struct dms_exception_run *run, bool of_store)
{
	return of_store ? run->new_chunk : run->old_chunk;
}

/* The first run that does not begin behind the one before it; nr_runs: all do. */
static size_t find_overlap(const struct dms_exception_run *runs, size_t nr_runs, bool of_store)
{
	size_t i = 1;

	while (i < nr_runs && first_chunk(&runs[i - 1], of_store) + runs[i - 1].count <=
				      first_chunk(&runs[i], of_store))
		i++;
	return i < nr_runs ? i : nr_runs;
}

/* sorted: of as many runs, used where they are in another order. */
static struct dms_error *check_unique(const struct dms_exception_store *store, bool of_store,
				      struct dms_exception_run **sorted)
{
	size_t nr_runs = store->nr_runs, at = find_overlap(store->runs, nr_runs, of_store);

	if (at == nr_runs)
		return NULL;
	if (!*sorted) {
		*sorted = reallocarray(NULL, nr_runs, sizeof(**sorted));
		if (!*sorted)
			return dms_error_create(DMS_ERR_NO_MEMORY,
						"no memory for %zu runs of exceptions", nr_runs);
		memcpy(*sorted, store->runs, nr_runs * sizeof(**sorted));
	}
	qsort(*sorted, nr_runs, sizeof(**sorted), of_store ? compare_new : compare_old);
	at = find_overlap(*sorted, nr_runs, of_store);
	if (at == nr_runs)
		return NULL;
	return dms_error_create(DMS_ERR_CORRUPT,
				WHAT ": two exceptions for chunk %" PRIu64 " of %s",
				first_chunk(&(*sorted)[at], of_store),
				of_store ? "the store" : "the origin");
}

static struct dms_error *check_duplicates(const struct dms_exception_store *store)
{
	_cleanup_free_ struct dms_exception_run *sorted = NULL;

	DMS_TRY(check_unique(store, false, &sorted));
	return check_unique(store, true, &sorted);
}

static struct dms_error *read_store(struct reader *reader, uint64_t length_bytes)
{
	struct dms_exception_store_header *header = &reader->store->header;
	const uint8_t *bytes;
	bool end = false;

	DMS_TRY(dms_block_io_read_bytes(&reader->io, WHAT, reader->offset_bytes, HEADER_BYTES,
					reader->buffer, &bytes));
	DMS_TRY(parse_header(bytes, reader->offset_bytes, header));
	DMS_TRY(check_header(header, reader->offset_bytes, length_bytes));
	reader->chunk_bytes = (uint64_t)header->chunk_size * DMS_STORE_SECTOR_BYTES;
	reader->nr_chunks = length_bytes / reader->chunk_bytes;
	reader->pairs = reader->chunk_bytes / DMS_STORE_PAIR_BYTES;
	if (!header->valid)
		return NULL;
	for (uint64_t area = 0; !end; area++)
		DMS_TRY(read_area(reader, area, &end));
	return check_duplicates(reader->store);
}

struct dms_error *dms_exception_store_open(int fd, uint64_t offset_bytes, uint64_t length_bytes,
					   struct dms_exception_store **store)
{
	DMS_CLEANUP(cleanup_store) struct dms_exception_store *new = NULL;
	_cleanup_free_ uint8_t *buffer = NULL;
	struct reader reader = { .offset_bytes = offset_bytes };

	DMS_TRY(dms_block_io_init(&reader.io, fd));
	if (offset_bytes > reader.io.size_bytes ||
	    length_bytes > reader.io.size_bytes - offset_bytes)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset_bytes,
					   WHAT ": %" PRIu64 " bytes, the medium ends at %" PRIu64,
					   length_bytes, reader.io.size_bytes);
	if (length_bytes < HEADER_BYTES)
		return dms_error_create_at(DMS_ERR_BAD_MAGIC, offset_bytes,
					   WHAT ": %" PRIu64 " bytes have no room for one",
					   length_bytes);
	DMS_TRY(dms_buffer_create(PIECE_BYTES + 2 * DMS_BLOCK_BYTES, &buffer));
	new = calloc(1, sizeof(*new));
	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a store");
	reader.store = new;
	reader.buffer = buffer;
	DMS_TRY(read_store(&reader, length_bytes));
	*store = dms_steal(new);
	return NULL;
}

void dms_exception_store_close(struct dms_exception_store *store)
{
	if (!store)
		return;
	free(store->runs);
	free(store);
}

const struct dms_exception_store_header *
dms_exception_store_header(const struct dms_exception_store *store)
{
	return &store->header;
}

size_t dms_exception_store_count(const struct dms_exception_store *store)
{
	return store->count;
}

size_t dms_exception_store_nr_runs(const struct dms_exception_store *store)
{
	return store->nr_runs;
}

const struct dms_exception_run *dms_exception_store_runs(const struct dms_exception_store *store)
{
	return store->runs;
}

struct dms_error *dms_exception_store_extents(const struct dms_exception_store *store,
					      struct dms_extent_set **set)
{
	uint64_t chunk_bytes = (uint64_t)store->header.chunk_size * DMS_STORE_SECTOR_BYTES;
	_cleanup_extent_set_ struct dms_extent_set *new = NULL;

	if (!store->header.valid)
		return dms_error_create(DMS_ERR_STORE_INVALID,
					WHAT ": the kernel marked it invalid, it overflowed or failed");
	DMS_TRY(dms_extent_set_create(&new));
	for (size_t i = 0; i < store->nr_runs; i++)
		DMS_TRY(dms_extent_set_add(new, store->runs[i].old_chunk * chunk_bytes,
					   store->runs[i].count * chunk_bytes));
	*set = dms_steal(new);
	return NULL;
}
