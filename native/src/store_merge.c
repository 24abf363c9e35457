// SPDX-License-Identifier: Apache-2.0
/*
 * Several undo stores into one. Each leads one step further back than the one
 * before it: of a chunk that several have, the last one's content is what the
 * oldest point holds, and of a chunk that only one has, that one's.
 *
 * The stores' exceptions are gone through in ascending order three times: to
 * count, to copy data, and to write the areas behind it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/digest.h>
#include <dmsnap/store_check.h>

#include "cleanup.h"
#include "copy_loop.h"
#include "exception_store_writer.h"
#include "medium.h"
#include "pace.h"

/* One store, as far as it was gone through. */
struct lane {
	struct dms_exception_store *store;
	struct dms_exception_run *sorted; /* where the store itself is in another order */
	const struct dms_exception_run *runs; /* ascending by old_chunk */
	size_t nr_runs;
	uint64_t offset_bytes; /* of the store */
	uint64_t chunk_bytes;
	uint64_t parts; /* chunks of the merged store in one of this one */
	size_t next; /* run */
	uint64_t chunk; /* of that */
	uint64_t part; /* of that */
};

/* A chunk of the merged store. */
struct chunk {
	uint64_t old_chunk;
	uint64_t source_offset_bytes;
};

struct merge {
	struct lane *lanes; /* newest first */
	size_t nr_lanes;
	uint32_t chunk_bytes;
	uint64_t nr_chunks; /* of the volume; of a larger chunk at its end the rest is cut off */
	uint64_t destination_offset_bytes;
	uint64_t index; /* of the chunk at hand */
	struct chunk chunk;
	bool has_chunk;
};

static void merge_destroy(struct merge *merge)
{
	for (size_t i = 0; i < merge->nr_lanes; i++) {
		if (merge->lanes[i].store)
			dms_exception_store_close(merge->lanes[i].store);
		free(merge->lanes[i].sorted);
	}
	free(merge->lanes);
}

static uint64_t old_chunk_of(const struct lane *lane)
{
	return (lane->runs[lane->next].old_chunk + lane->chunk) * lane->parts + lane->part;
}

static void step(struct lane *lane)
{
	if (++lane->part < lane->parts)
		return;
	lane->part = 0;
	if (++lane->chunk < lane->runs[lane->next].count)
		return;
	lane->chunk = 0;
	lane->next++;
}

/* The lowest chunk that any lane is at, of the last lane that has it; all of them pass it. */
static void advance(struct merge *merge)
{
	struct lane *chosen = NULL;
	uint64_t lowest = merge->nr_chunks;

	for (size_t i = 0; i < merge->nr_lanes; i++) {
		struct lane *lane = &merge->lanes[i];

		if (lane->next < lane->nr_runs && old_chunk_of(lane) < merge->nr_chunks &&
		    old_chunk_of(lane) <= lowest) {
			lowest = old_chunk_of(lane);
			chosen = lane;
		}
	}
	merge->has_chunk = chosen != NULL;
	if (!chosen)
		return;
	merge->chunk.old_chunk = lowest;
	merge->chunk.source_offset_bytes =
		chosen->offset_bytes +
		(chosen->runs[chosen->next].new_chunk + chosen->chunk) * chosen->chunk_bytes +
		chosen->part * merge->chunk_bytes;
	for (size_t i = 0; i < merge->nr_lanes; i++) {
		struct lane *lane = &merge->lanes[i];

		if (lane->next < lane->nr_runs && old_chunk_of(lane) == lowest)
			step(lane);
	}
}

static void begin(struct merge *merge)
{
	for (size_t i = 0; i < merge->nr_lanes; i++) {
		merge->lanes[i].next = 0;
		merge->lanes[i].chunk = 0;
		merge->lanes[i].part = 0;
	}
	merge->index = 0;
	advance(merge);
}

static uint64_t destination_of(const struct merge *merge)
{
	return merge->destination_offset_bytes +
	       dms_store_data_chunk(merge->index, merge->chunk_bytes) * merge->chunk_bytes;
}

/* Chunks that follow each other on both sides are one run; areas come between them. */
static bool next_run(void *context, struct dms_copy_run *run)
{
	struct merge *merge = context;

	if (!merge->has_chunk)
		return false;
	*run = (struct dms_copy_run){
		.source_offset_bytes = merge->chunk.source_offset_bytes,
		.destination_offset_bytes = destination_of(merge),
	};
	do {
		run->length_bytes += merge->chunk_bytes;
		merge->index++;
		advance(merge);
	} while (merge->has_chunk &&
		 merge->chunk.source_offset_bytes == run->source_offset_bytes + run->length_bytes &&
		 destination_of(merge) == run->destination_offset_bytes + run->length_bytes);
	run->source_length_bytes = run->length_bytes;
	return true;
}

static int compare_runs(const void *left, const void *right)
{
	uint64_t a = ((const struct dms_exception_run *)left)->old_chunk;
	uint64_t b = ((const struct dms_exception_run *)right)->old_chunk;

	return (a > b) - (a < b);
}

/* dmsnap writes them in order; the kernel, in that in which chunks were written to. */
static struct dms_error *sort(struct lane *lane)
{
	_cleanup_free_ struct dms_exception_run *sorted = NULL;
	size_t i = 1;

	while (i < lane->nr_runs && lane->runs[i - 1].old_chunk < lane->runs[i].old_chunk)
		i++;
	if (i >= lane->nr_runs)
		return NULL;
	sorted = reallocarray(NULL, lane->nr_runs, sizeof(*sorted));
	if (!sorted)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu runs of exceptions",
					lane->nr_runs);
	memcpy(sorted, lane->runs, lane->nr_runs * sizeof(*sorted));
	qsort(sorted, lane->nr_runs, sizeof(*sorted), compare_runs);
	lane->sorted = dms_steal(sorted);
	lane->runs = lane->sorted;
	return NULL;
}

static struct dms_error *check_end(const struct lane *lane, uint64_t size_bytes)
{
	uint64_t nr_chunks = size_bytes / lane->chunk_bytes + (size_bytes % lane->chunk_bytes != 0);
	const struct dms_exception_run *last;

	if (!lane->nr_runs)
		return NULL;
	last = &lane->runs[lane->nr_runs - 1];
	if (last->old_chunk + last->count > nr_chunks)
		return dms_error_create_at(DMS_ERR_CORRUPT, lane->offset_bytes,
					   "the exception store keeps chunk %" PRIu64
					   " of a volume that has %" PRIu64,
					   last->old_chunk + last->count - 1, nr_chunks);
	return NULL;
}

static struct dms_error *open_lane(int fd, uint64_t size_bytes,
				   const struct dms_store_region *region, struct lane *lane)
{
	DMS_TRY(dms_exception_store_open(fd, region->offset_bytes, region->length_bytes,
					 &lane->store));
	if (!dms_exception_store_header(lane->store)->valid)
		return dms_error_create_at(DMS_ERR_STORE_INVALID, region->offset_bytes,
					   "the exception store overflowed or failed");
	lane->offset_bytes = region->offset_bytes;
	lane->chunk_bytes = (uint64_t)dms_exception_store_header(lane->store)->chunk_size *
			    DMS_STORE_SECTOR_BYTES;
	lane->runs = dms_exception_store_runs(lane->store);
	lane->nr_runs = dms_exception_store_nr_runs(lane->store);
	DMS_TRY(sort(lane));
	return check_end(lane, size_bytes);
}

/* Every larger chunk is a whole number of the smallest: all are powers of two. */
static struct dms_error *choose_chunks(struct merge *merge, uint64_t size_bytes)
{
	uint64_t smallest = UINT64_MAX;

	for (size_t i = 0; i < merge->nr_lanes; i++)
		if (merge->lanes[i].chunk_bytes < smallest)
			smallest = merge->lanes[i].chunk_bytes;
	if (smallest > (uint64_t)DMS_STORE_MAX_CHUNK_SECTORS * DMS_STORE_SECTOR_BYTES ||
	    smallest < (uint64_t)DMS_STORE_MIN_CHUNK_SECTORS * DMS_STORE_SECTOR_BYTES)
		return dms_error_create(DMS_ERR_UNSUPPORTED,
					"exception stores in chunks of %" PRIu64
					" bytes cannot be merged",
					smallest);
	merge->chunk_bytes = (uint32_t)smallest;
	merge->nr_chunks = size_bytes / smallest + (size_bytes % smallest != 0);
	for (size_t i = 0; i < merge->nr_lanes; i++)
		merge->lanes[i].parts = merge->lanes[i].chunk_bytes / smallest;
	return NULL;
}

static struct dms_error *open_all(struct merge *merge, int fd, uint64_t size_bytes,
				  const struct dms_store_region *stores, size_t nr_stores)
{
	if (!nr_stores || size_bytes % DMS_STORE_SECTOR_BYTES || size_bytes > INT64_MAX)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"%zu exception stores of a volume of %" PRIu64
					" bytes cannot be merged",
					nr_stores, size_bytes);
	merge->lanes = calloc(nr_stores, sizeof(*merge->lanes));
	if (!merge->lanes)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu stores", nr_stores);
	merge->nr_lanes = nr_stores;
	for (size_t i = 0; i < nr_stores; i++)
		DMS_TRY(open_lane(fd, size_bytes, &stores[i], &merge->lanes[i]));
	return choose_chunks(merge, size_bytes);
}

/* nr_runs: of what is read at once. */
static void measure(struct merge *merge, struct dms_merged_store *merged, uint64_t *nr_runs)
{
	struct dms_copy_run run;

	merged->chunk_size = merge->chunk_bytes / DMS_STORE_SECTOR_BYTES;
	begin(merge);
	for (*nr_runs = 0; next_run(merge, &run);)
		++*nr_runs;
	merged->nr_exceptions = merge->index;
	merged->used_bytes = dms_exception_store_size(merge->index, merged->chunk_size);
}

struct dms_error *dms_store_merge_measure(int fd, uint64_t size_bytes,
					  const struct dms_store_region *stores,
					  size_t nr_stores, struct dms_merged_store *merged)
{
	DMS_CLEANUP(merge_destroy) struct merge merge = { 0 };
	uint64_t nr_runs;

	DMS_TRY(open_all(&merge, fd, size_bytes, stores, nr_stores));
	measure(&merge, merged, &nr_runs);
	return NULL;
}

/* Or else what one of them was damaged to would be sealed as what was kept. */
static struct dms_error *check_all(int fd, const struct dms_store_region *stores, size_t nr_stores,
				   const struct dms_copy_options *options)
{
	bool sealed;

	for (size_t i = 0; i < nr_stores; i++)
		DMS_TRY(dms_exception_store_check(fd, stores[i].offset_bytes,
						  stores[i].length_bytes, true, options, &sealed));
	return NULL;
}

static bool overlap(const struct dms_store_region *region, const struct dms_merged_store *merged)
{
	return region->offset_bytes < merged->offset_bytes + merged->length_bytes &&
	       merged->offset_bytes < region->offset_bytes + region->length_bytes;
}

static struct dms_error *check_place(const struct dms_merged_store *merged, uint64_t size_bytes,
				     const struct dms_store_region *stores, size_t nr_stores)
{
	if (merged->offset_bytes % DMS_COPY_PAGE_BYTES)
		return dms_error_create_at(DMS_ERR_INVALID_ARGUMENT, merged->offset_bytes,
					   "a merged exception store would begin inside of a page");
	if (merged->length_bytes > UINT64_MAX - merged->offset_bytes ||
	    merged->offset_bytes < size_bytes)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a merged exception store at %" PRIu64
					" would lie inside the volume of %" PRIu64 " bytes",
					merged->offset_bytes, size_bytes);
	for (size_t i = 0; i < nr_stores; i++)
		if (overlap(&stores[i], merged))
			return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
						"a merged exception store at %" PRIu64
						" would lie over the one at %" PRIu64,
						merged->offset_bytes, stores[i].offset_bytes);
	return NULL;
}

static struct dms_error *check_room(const struct dms_merged_store *merged)
{
	if (merged->used_bytes > merged->length_bytes)
		return dms_error_create_at(DMS_ERR_STORE_FULL, merged->offset_bytes,
					   "the merged exception store takes %" PRIu64
					   " bytes, there is room for %" PRIu64,
					   merged->used_bytes, merged->length_bytes);
	return NULL;
}

/* Of what was copied, read back: what is sealed is what the medium has. */
static struct dms_error *hash_data(int fd, const struct dms_merged_store *merged,
				   const struct dms_copy_options *options, uint8_t *digest)
{
	uint32_t chunk_bytes = merged->chunk_size * DMS_STORE_SECTOR_BYTES;
	uint64_t pairs = chunk_bytes / DMS_STORE_PAIR_BYTES;
	_cleanup_extent_set_ struct dms_extent_set *data = NULL;
	uint64_t end = merged->offset_bytes + merged->used_bytes;

	DMS_TRY(dms_extent_set_create(&data));
	for (uint64_t i = 0; i < merged->nr_exceptions; i += pairs) {
		uint64_t left = merged->nr_exceptions - i, count = left < pairs ? left : pairs;

		DMS_TRY(dms_extent_set_add(data, merged->offset_bytes +
					   dms_store_data_chunk(i, chunk_bytes) * chunk_bytes,
					   count * chunk_bytes));
	}
	return dms_digest_extents(fd, end, data, options, digest);
}

static struct dms_error *write_areas(struct merge *merge, struct dms_exception_store_writer *writer,
				     struct dms_merged_store *merged)
{
	for (begin(merge); merge->has_chunk; advance(merge))
		DMS_TRY(dms_exception_store_writer_adopt(writer, merge->chunk.old_chunk));
	return dms_exception_store_writer_finish(writer, &merged->nr_exceptions,
						 &merged->used_bytes);
}

static struct dms_error *write_store(struct merge *merge, int fd, uint64_t nr_runs,
				     const struct dms_copy_options *options,
				     struct dms_merged_store *merged, struct dms_copy_stats *stats)
{
	_cleanup_store_writer_ struct dms_exception_store_writer *writer = NULL;
	uint8_t digest[DMS_DIGEST_BYTES];
	struct dms_medium medium;
	struct dms_copy_job job = {
		.source = &medium,
		.destination = &medium,
		.next_run = next_run,
		.context = merge,
		.bytes = merged->nr_exceptions * merge->chunk_bytes,
		.nr_runs = nr_runs,
	};

	DMS_TRY(dms_medium_probe(fd, DMS_STORE_MEDIUM, &medium));
	/* It takes the old header away: there is none until finish(). */
	DMS_TRY(dms_exception_store_writer_create_with(fd, merged->offset_bytes,
						       merged->length_bytes, merged->chunk_size,
						       options && options->without_io_uring,
						       &writer));
	begin(merge);
	DMS_TRY(dms_copy_loop_run(&job, options, stats));
	if (merged->nr_exceptions) {
		DMS_TRY(hash_data(fd, merged, options, digest));
		dms_exception_store_writer_adopt_digest(writer, digest);
	}
	return write_areas(merge, writer, merged);
}

struct dms_error *dms_store_merge(int fd, uint64_t size_bytes,
				  const struct dms_store_region *stores, size_t nr_stores,
				  const struct dms_copy_options *options,
				  struct dms_merged_store *merged, struct dms_copy_stats *stats)
{
	DMS_CLEANUP(merge_destroy) struct merge merge = { 0 };
	uint64_t nr_runs;

	DMS_TRY(check_place(merged, size_bytes, stores, nr_stores));
	DMS_TRY(open_all(&merge, fd, size_bytes, stores, nr_stores));
	measure(&merge, merged, &nr_runs);
	DMS_TRY(check_room(merged));
	DMS_TRY(check_all(fd, stores, nr_stores, options));
	merge.destination_offset_bytes = merged->offset_bytes;
	return write_store(&merge, fd, nr_runs, options, merged, stats);
}
