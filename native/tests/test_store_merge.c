// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <dmsnap/copy.h>

#include "../src/exception_store_writer.h"
#include "engine_test.h"

DEFINE_FAULTS;

#define KIB 1024u
#define MIB (1024u * KIB)
#define SIZE (4 * MIB - 3 * KIB) /* ends inside a chunk */
#define STORE_BYTES (6 * MIB)
#define MAX_STORES 4u
#define MERGED (SIZE + 3 * KIB + MAX_STORES * STORE_BYTES)
#define MERGED_BYTES (5 * MIB)
#define DEVICE_BYTES (MERGED + MERGED_BYTES + MIB)

static struct dms_copy_options options;

/* A replica with its stores behind it, and what each step back must show. */
struct history {
	int fd;
	size_t nr_stores;
	struct dms_store_region stores[MAX_STORES];
	struct dms_merged_store merged;
	char *content; /* as far back as the stores lead */
};

static bool is_kept(uint64_t chunk, uint32_t percent, uint64_t *seed)
{
	return chunk == 0 || next_random(seed) % 100 < percent;
}

/* One step further back: some chunks hold something else there. */
static void add_store(struct history *history, uint32_t chunk_size, uint32_t percent)
{
	uint64_t chunk_bytes = chunk_size * 512ull, seed = 7 + history->nr_stores, nr, used;
	struct dms_store_region *region = &history->stores[history->nr_stores];
	struct dms_exception_store_writer *writer;
	char *chunk = malloc(chunk_bytes);

	region->offset_bytes = SIZE + 3 * KIB + history->nr_stores * STORE_BYTES;
	region->length_bytes = STORE_BYTES;
	CHECK_OK(dms_exception_store_writer_create_with(history->fd, region->offset_bytes,
							STORE_BYTES, chunk_size,
							options.without_io_uring, &writer));
	for (uint64_t i = 0; i * chunk_bytes < SIZE; i++) {
		uint64_t left = SIZE - i * chunk_bytes;

		if (!is_kept(i, percent, &seed))
			continue;
		fill_random(chunk, chunk_bytes, i * 100 + history->nr_stores);
		memcpy(history->content + i * chunk_bytes, chunk,
		       left < chunk_bytes ? left : chunk_bytes);
		CHECK_OK(dms_exception_store_writer_append(writer, i, chunk));
	}
	CHECK_OK(dms_exception_store_writer_finish(writer, &nr, &used));
	dms_exception_store_writer_destroy(writer);
	free(chunk);
	history->nr_stores++;
}

static void history_open(struct history *history, int flags)
{
	*history = (struct history){ .fd = scratch_file(DEVICE_BYTES, 0x5a, flags) };
	history->merged.offset_bytes = MERGED;
	history->merged.length_bytes = MERGED_BYTES;
	history->content = malloc(SIZE);
	fill_random(history->content, SIZE, 99);
	put(history->fd, 0, history->content, SIZE);
}

static void history_close(struct history *history)
{
	free(history->content);
	close(history->fd);
}

static struct dms_error *merge(struct history *history)
{
	struct dms_copy_stats stats;

	return dms_store_merge(history->fd, SIZE, history->stores, history->nr_stores, &options,
			       &history->merged, &stats);
}

static bool has_header(const struct history *history)
{
	char *header = contents(history->fd, MERGED, 4096);
	uint32_t magic;

	memcpy(&magic, header, sizeof(magic));
	free(header);
	return magic == DMS_STORE_MAGIC || !magic;
}

/* The engine's own way back, with the merged store alone. */
static void check_way_back(struct history *history)
{
	struct dms_copy_stats stats;
	char *shown;

	CHECK_OK(dms_copy_roll_back(history->fd, MERGED, history->merged.used_bytes, history->fd,
				    SIZE, &options, &stats));
	shown = contents(history->fd, 0, SIZE);
	CHECK(!memcmp(shown, history->content, SIZE));
	free(shown);
}

static void check_untouched(const struct history *history, const char *before)
{
	char *after = contents(history->fd, 0, DEVICE_BYTES);
	uint64_t end = MERGED + history->merged.used_bytes;

	CHECK(!memcmp(after, before, MERGED));
	CHECK(!memcmp(after + end, before + end, DEVICE_BYTES - end));
	free(after);
}

static void test_sizes(const uint32_t *chunk_sizes, size_t nr_stores, uint32_t percent, int flags)
{
	struct dms_merged_store measured;
	struct history history;
	char *before;

	history_open(&history, flags);
	for (size_t i = 0; i < nr_stores; i++)
		add_store(&history, chunk_sizes[i], percent);
	before = contents(history.fd, 0, DEVICE_BYTES);
	CHECK_OK(dms_store_merge_measure(history.fd, SIZE, history.stores, nr_stores, &measured));
	CHECK_OK(merge(&history));
	CHECK(measured.used_bytes == history.merged.used_bytes);
	CHECK(measured.nr_exceptions == history.merged.nr_exceptions);
	CHECK(measured.chunk_size == history.merged.chunk_size);
	check_untouched(&history, before);
	check_way_back(&history);
	free(before);
	history_close(&history);
}

static void test_room(void)
{
	struct history history;
	uint64_t used;

	history_open(&history, 0);
	add_store(&history, 8, 50);
	add_store(&history, 8, 50);
	CHECK_OK(merge(&history));
	used = history.merged.used_bytes;
	history.merged.length_bytes = used - 1;
	CHECK_ERROR(merge(&history), DMS_ERR_STORE_FULL);
	CHECK(has_header(&history)); /* what was there: nothing was written */
	history.merged.length_bytes = used;
	CHECK_OK(merge(&history));
	check_way_back(&history);
	history_close(&history);
}

static void test_refusals(void)
{
	struct history history;

	history_open(&history, 0);
	add_store(&history, 8, 50);
	add_store(&history, 16, 50);
	history.merged.offset_bytes = history.stores[1].offset_bytes + STORE_BYTES - 4096;
	CHECK_ERROR(merge(&history), DMS_ERR_INVALID_ARGUMENT);
	history.merged.offset_bytes = SIZE - 1;
	CHECK_ERROR(merge(&history), DMS_ERR_INVALID_ARGUMENT);
	history.merged.offset_bytes = UINT64_MAX - 5;
	CHECK_ERROR(merge(&history), DMS_ERR_INVALID_ARGUMENT);
	history.merged.offset_bytes = MERGED;
	history.nr_stores = 0;
	CHECK_ERROR(merge(&history), DMS_ERR_INVALID_ARGUMENT);
	history.nr_stores = 2;
	/* A store of a larger volume. */
	CHECK_ERROR(dms_store_merge_measure(history.fd, MIB, history.stores, 2, &history.merged),
		    DMS_ERR_CORRUPT);
	/* The kernel marked it invalid. */
	put(history.fd, history.stores[1].offset_bytes + 4, "\0\0\0\0", 4);
	CHECK_ERROR(merge(&history), DMS_ERR_STORE_INVALID);
	put(history.fd, history.stores[1].offset_bytes, "none", 4);
	CHECK_ERROR(merge(&history), DMS_ERR_BAD_MAGIC);
	history_close(&history);
}

/* Whatever fails, there is no header; what was merged stays whole. */
static void test_faults(void)
{
	struct history history;
	int total;

	history_open(&history, 0);
	add_store(&history, 8, 60);
	add_store(&history, 8, 60);
	options.without_io_uring = true;
	fault = (struct fault){ .fd = -1 };
	CHECK_OK(merge(&history));
	total = fault.seen;
	CHECK(total > 10);
	for (int i = 1; i <= total; i += i > 20 && i < total - 20 ? total / 10 + 1 : 1) {
		struct dms_error *error;

		put(history.fd, MERGED, "none", 4);
		fault = (struct fault){ .countdown = i, .fd = -1, .result = -EIO, .lasting = true };
		error = merge(&history);
		if (!fault.fired) {
			CHECK_OK(error);
			continue;
		}
		CHECK_ERROR(error, DMS_ERR_OS);
		fault = (struct fault){ .fd = -1 };
		CHECK(!has_header(&history));
	}
	options.without_io_uring = io_uring_is_left_out();
	CHECK_OK(merge(&history));
	check_way_back(&history);
	history_close(&history);
}

static int stop(void *context, uint64_t bytes_done)
{
	(void)context;
	(void)bytes_done;
	return 1;
}

static void test_cancelled(void)
{
	struct history history;

	history_open(&history, 0);
	add_store(&history, 8, 60);
	options.progress = stop;
	CHECK_ERROR(merge(&history), DMS_ERR_CANCELLED);
	options.progress = NULL;
	CHECK(!has_header(&history));
	history_close(&history);
}

int main(void)
{
	static const uint32_t equal[] = { 8, 8, 8, 8 }, mixed[] = { 8, 64, 16, 8 },
			      large[] = { 128, 32 }, small_last[] = { 2048, 8 };

	options.without_io_uring = io_uring_is_left_out();
	test_sizes(equal, 1, 50, 0);
	test_sizes(equal, 2, 0, 0);
	test_sizes(equal, 2, 50, 0);
	test_sizes(equal, 2, 100, O_DIRECT);
	test_sizes(equal, 4, 30, O_DIRECT);
	test_sizes(mixed, 4, 20, 0);
	test_sizes(mixed, 2, 60, O_DIRECT);
	test_sizes(large, 2, 50, 0);
	test_sizes(small_last, 2, 50, O_DIRECT);
	options.without_io_uring = true;
	test_sizes(equal, 2, 50, O_DIRECT);
	options.without_io_uring = io_uring_is_left_out();
	test_room();
	test_refusals();
	test_faults();
	test_cancelled();
	return 0;
}
