// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include <dmsnap/copy.h>

#include "cleanup.h"
#include "copy_loop.h"
#include "medium.h"

#define SECTOR_BYTES 512u

DMS_DEFINE_CLEANUP(cleanup_store, struct dms_exception_store, dms_exception_store_close);

struct store_runs {
	const struct dms_exception_run *runs;
	size_t nr_runs;
	size_t next;
	uint64_t offset_bytes; /* of the store */
	uint64_t chunk_bytes;
	uint64_t size_bytes; /* of the replica */
};

static bool next_exceptions(void *context, struct dms_copy_run *run)
{
	struct store_runs *runs = context;
	const struct dms_exception_run *next;
	uint64_t left;

	if (runs->next == runs->nr_runs)
		return false;
	next = &runs->runs[runs->next++];
	run->memory = NULL;
	run->source_offset_bytes = runs->offset_bytes + next->new_chunk * runs->chunk_bytes;
	run->source_length_bytes = next->count * runs->chunk_bytes;
	run->destination_offset_bytes = next->old_chunk * runs->chunk_bytes;
	/* The store keeps the last chunk whole; on the replica it ends with the volume. */
	left = runs->size_bytes - run->destination_offset_bytes;
	run->length_bytes = run->source_length_bytes < left ? run->source_length_bytes : left;
	return true;
}

static struct dms_error *check_exceptions(const struct store_runs *runs)
{
	uint64_t nr_chunks = runs->size_bytes / runs->chunk_bytes +
			     (runs->size_bytes % runs->chunk_bytes != 0);
	size_t i;

	for (i = 0; i < runs->nr_runs; i++) {
		const struct dms_exception_run *run = &runs->runs[i];

		if (run->old_chunk + run->count > nr_chunks)
			return dms_error_create_at(DMS_ERR_CORRUPT, runs->offset_bytes,
						   "the exception store keeps chunk %llu of a"
						   " volume that has %llu",
						   (unsigned long long)(run->old_chunk +
									run->count - 1),
						   (unsigned long long)nr_chunks);
	}
	return NULL;
}

static struct dms_error *check_media(struct dms_medium *store, struct dms_medium *destination,
				     int store_fd, uint64_t offset_bytes, uint64_t length_bytes,
				     int destination_fd, uint64_t size_bytes)
{
	struct dms_error *error = NULL;

	if (size_bytes % SECTOR_BYTES)
		error = dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					 "a volume of %llu bytes is no whole number of sectors",
					 (unsigned long long)size_bytes);
	if (!error)
		error = dms_medium_probe(store_fd, "the exception store", store);
	if (!error)
		error = dms_medium_probe(destination_fd, "the destination", destination);
	if (!error)
		error = dms_medium_check_range(destination, 0, size_bytes);
	if (!error && offset_bytes % store->block_bytes)
		error = dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					 "the exception store begins at %llu, inside a block of %u"
					 " bytes", (unsigned long long)offset_bytes,
					 store->block_bytes);
	if (!error && length_bytes && dms_medium_is_same(store, destination) &&
	    offset_bytes < size_bytes)
		error = dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					 "the exception store at %llu lies inside the volume of"
					 " %llu bytes", (unsigned long long)offset_bytes,
					 (unsigned long long)size_bytes);
	return error;
}

struct dms_error *dms_copy_roll_back(int store_fd, uint64_t offset_bytes, uint64_t length_bytes,
				     int destination_fd, uint64_t size_bytes,
				     const struct dms_copy_options *options,
				     struct dms_copy_stats *stats)
{
	DMS_CLEANUP(cleanup_store) struct dms_exception_store *store = NULL;
	struct store_runs runs = { .offset_bytes = offset_bytes, .size_bytes = size_bytes };
	struct dms_medium source, destination;
	struct dms_copy_job job = {
		.source = &source,
		.destination = &destination,
		.next_run = next_exceptions,
		.context = &runs,
	};
	struct dms_error *error = check_media(&source, &destination, store_fd, offset_bytes,
					      length_bytes, destination_fd, size_bytes);

	if (!error)
		error = dms_exception_store_open(store_fd, offset_bytes, length_bytes, &store);
	if (error)
		return error;
	if (!dms_exception_store_header(store)->valid)
		return dms_error_create_at(DMS_ERR_STORE_INVALID, offset_bytes,
					   "the exception store overflowed or failed");
	runs.chunk_bytes = (uint64_t)dms_exception_store_header(store)->chunk_size * SECTOR_BYTES;
	runs.runs = dms_exception_store_runs(store);
	runs.nr_runs = dms_exception_store_nr_runs(store);
	/* The store is read from its beginning to its end. */
	job.bytes = dms_exception_store_count(store) * runs.chunk_bytes;
	job.nr_runs = 1;
	error = check_exceptions(&runs);
	return error ? error : dms_copy_loop_run(&job, options, stats);
}
