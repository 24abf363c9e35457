// SPDX-License-Identifier: Apache-2.0
/*
 * Exception stores: open, extents, and the arithmetic of their layout.
 * control: u32 where the store begins on the medium; u32 bytes of zeroes behind the input;
 * u64 exceptions that a store is to take. Each is used modulo its limit.
 */
#include <stdlib.h>

#include <dmsnap/exception_store.h>

#include "../src/exception_store_writer.h"
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"

#define HEADER_BYTES 16
#define PAIR_BYTES 16
/* Three areas of the smallest chunks. */
#define MAX_STORE_BYTES (40u * 1024)
#define MAX_PAIRS (MAX_STORE_BYTES / PAIR_BYTES)
#define MAX_OFFSET 20000
#define MAX_TAIL (1u << 20)

static bool is_header(const uint8_t *block) { return get_le32(block) == DMS_STORE_MAGIC; }
static void seal_header(uint8_t *block) { put_le32(block, DMS_STORE_MAGIC); }
static bool is_pair(const uint8_t *block) { return !is_header(block); }
static void leave_pair(uint8_t *block) { (void)block; }

static const struct fuzz_kind header_kind = {
	.is_sealed = is_header,
	.seal = seal_header,
	.fields = { { 0, 4 }, { 4, 4 }, { 8, 4 }, { 12, 4 } },
};

static const struct fuzz_kind pair_kind = {
	.is_sealed = is_pair,
	.seal = leave_pair,
	.fields = { { 0, 8 }, { 8, 8 } },
};

const struct fuzz_layout fuzz_layout = {
	.block_bytes = PAIR_BYTES,
	.max_blocks = MAX_PAIRS,
	.nr_kinds = 2,
	.kinds = { &pair_kind, &header_kind },
};

struct pair {
	uint64_t old_chunk;
	uint64_t new_chunk;
};

/* The pairs as the kernel's read_exceptions() takes them, up to the first without a new chunk. */
static size_t read_pairs(const uint8_t *store, uint64_t length, uint64_t chunk_bytes,
			 struct pair *pairs)
{
	uint64_t per_area = chunk_bytes / PAIR_BYTES;
	size_t count = 0;

	for (uint64_t area = 0;; area++) {
		uint64_t start = (1 + area * (per_area + 1)) * chunk_bytes;

		for (uint64_t i = 0; i < per_area; i++) {
			const uint8_t *pair = store + start + i * PAIR_BYTES;

			CHECK(start + (i + 1) * PAIR_BYTES <= length);
			if (!get_le64(pair + 8))
				return count;
			CHECK(count < MAX_PAIRS);
			pairs[count].old_chunk = get_le64(pair);
			pairs[count++].new_chunk = get_le64(pair + 8);
		}
	}
}

static int compare_chunks(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static void check_unique(uint64_t *chunks, size_t count)
{
	qsort(chunks, count, sizeof(*chunks), compare_chunks);
	for (size_t i = 1; i < count; i++)
		CHECK(chunks[i - 1] < chunks[i]);
}

static void check_pairs(const struct pair *pairs, size_t count, uint64_t nr_chunks,
			uint64_t per_area)
{
	static uint64_t old_chunks[MAX_PAIRS], new_chunks[MAX_PAIRS];

	for (size_t i = 0; i < count; i++) {
		CHECK(pairs[i].new_chunk > 1 && pairs[i].new_chunk < nr_chunks);
		CHECK(pairs[i].new_chunk % (per_area + 1) != 1);
		old_chunks[i] = pairs[i].old_chunk;
		new_chunks[i] = pairs[i].new_chunk;
	}
	check_unique(old_chunks, count);
	check_unique(new_chunks, count);
}

/* The runs are the pairs, in their order, and as long as they go. */
static void check_runs(const struct dms_exception_store *store, const struct pair *pairs,
		       size_t count)
{
	const struct dms_exception_run *runs = dms_exception_store_runs(store);
	size_t done = 0;

	for (size_t i = 0; i < dms_exception_store_nr_runs(store); i++) {
		CHECK(runs[i].count && runs[i].count <= count - done);
		for (uint64_t j = 0; j < runs[i].count; j++, done++) {
			CHECK(pairs[done].old_chunk == runs[i].old_chunk + j);
			CHECK(pairs[done].new_chunk == runs[i].new_chunk + j);
		}
		CHECK(done == count ||
		      pairs[done].old_chunk != runs[i].old_chunk + runs[i].count ||
		      pairs[done].new_chunk != runs[i].new_chunk + runs[i].count);
	}
	CHECK(done == count);
}

static void compare(const struct dms_exception_store *store, const uint8_t *bytes, uint64_t length)
{
	static struct pair pairs[MAX_PAIRS];
	uint64_t chunk_bytes = dms_exception_store_header(store)->chunk_size * 512ull;
	size_t count;

	CHECK(get_le32(bytes) == DMS_STORE_MAGIC);
	CHECK(get_le32(bytes + 4) && get_le32(bytes + 8) == 1);
	CHECK(get_le32(bytes + 12) * 512ull == chunk_bytes);
	count = read_pairs(bytes, length, chunk_bytes, pairs);
	CHECK(count == dms_exception_store_count(store));
	check_runs(store, pairs, count);
	check_pairs(pairs, count, length / chunk_bytes, chunk_bytes / PAIR_BYTES);
}

static void check_extents(const struct dms_exception_store *store)
{
	uint64_t chunk_bytes = dms_exception_store_header(store)->chunk_size * 512ull;
	const struct dms_exception_run *runs = dms_exception_store_runs(store);
	const struct dms_extent *extents;
	struct dms_extent_set *set;

	CHECK_OK(dms_exception_store_extents(store, &set));
	fuzz_check_extents(set, INT64_MAX);
	/* No chunk is there twice, so as many bytes that hold every chunk are the chunks. */
	CHECK(dms_extent_set_bytes(set) == dms_exception_store_count(store) * chunk_bytes);
	extents = dms_extent_set_extents(set);
	for (size_t i = 0; i < dms_exception_store_nr_runs(store); i++) {
		uint64_t at = runs[i].old_chunk * chunk_bytes;
		uint64_t end = at + runs[i].count * chunk_bytes;
		size_t j = 0;

		while (at >= extents[j].offset_bytes + extents[j].length_bytes)
			CHECK(++j < dms_extent_set_count(set));
		CHECK(at >= extents[j].offset_bytes);
		CHECK(end <= extents[j].offset_bytes + extents[j].length_bytes);
	}
	dms_extent_set_destroy(set);
}

static void open_store(int fd, const uint8_t *bytes, uint64_t offset, uint64_t length)
{
	struct dms_exception_store *store;
	struct dms_extent_set *set;
	struct dms_error *error = dms_exception_store_open(fd, offset, length, &store);

	if (error) {
		fuzz_refused(error);
		return;
	}
	if (dms_exception_store_header(store)->valid) {
		compare(store, bytes, length);
		check_extents(store);
	} else {
		CHECK(!dms_exception_store_count(store));
		CHECK_ERROR(dms_exception_store_extents(store, &set), DMS_ERR_STORE_INVALID);
	}
	dms_exception_store_close(store);
}

static void check_layout(uint64_t nr_exceptions, uint32_t shift)
{
	uint32_t chunk_size = 1u << shift % 22;
	uint64_t chunk_bytes = chunk_size * 512ull, pairs = chunk_bytes / PAIR_BYTES;
	unsigned __int128 size = ((unsigned __int128)nr_exceptions + nr_exceptions / pairs + 2) *
				 chunk_bytes;
	uint64_t found = dms_exception_store_size(nr_exceptions, chunk_size), capacity;

	CHECK(found == (size > UINT64_MAX ? UINT64_MAX : (uint64_t)size));
	/* A region that is one chunk too small for the store, and all that is asked of it. */
	if (found == UINT64_MAX || found < 3 * chunk_bytes)
		return;
	capacity = dms_store_capacity(found - 1, (uint32_t)chunk_bytes);
	CHECK(capacity < nr_exceptions);
	CHECK(dms_exception_store_size(capacity, chunk_size) <= found - 1);
	CHECK(dms_exception_store_size(capacity + 1, chunk_size) > found - 1);
	CHECK(dms_store_capacity(found, (uint32_t)chunk_bytes) >= nr_exceptions);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t offset, tail;
	uint64_t nr_exceptions;
	int fd;

	if (!fuzz_is_input(size))
		return 0;
	offset = get_le32(data) % MAX_OFFSET;
	tail = get_le32(data + 4) % MAX_TAIL;
	nr_exceptions = get_le64(data + 8);
	data += FUZZ_CONTROL_BYTES;
	size -= FUZZ_CONTROL_BYTES;
	fd = fuzz_medium(data, size, offset, offset + size + tail);
	open_store(fd, fuzz_medium_bytes() + offset, offset, size + tail);
	check_layout(nr_exceptions >> (nr_exceptions & 63), tail);
	return 0;
}
