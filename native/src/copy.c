// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include <dmsnap/copy.h>

#include "cleanup.h"
#include "copy_loop.h"
#include "medium.h"

#define SECTOR_BYTES 512u

static struct dms_error *check_size(uint64_t size_bytes)
{
	if (size_bytes % SECTOR_BYTES || size_bytes > INT64_MAX)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a volume of %llu bytes is no whole number of sectors",
					(unsigned long long)size_bytes);
	return NULL;
}

struct dms_error *dms_copy_check_sides(int source_fd, int destination_fd, uint64_t size_bytes,
				       struct dms_medium *source, struct dms_medium *destination)
{
	struct dms_error *error = check_size(size_bytes);

	if (!error)
		error = dms_medium_probe(source_fd, "the source", source);
	if (!error)
		error = dms_medium_probe(destination_fd, "the destination", destination);
	if (!error)
		error = dms_medium_check_range(source, 0, size_bytes);
	if (!error)
		error = dms_medium_check_range(destination, 0, size_bytes);
	if (!error && dms_medium_is_same(source, destination))
		error = dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					 "the source and the destination are the same");
	return error;
}

struct dms_error *dms_copy_choose_extents(const struct dms_extent_set *extents,
					  uint64_t size_bytes, uint64_t granularity_bytes,
					  struct dms_extent_set **chosen)
{
	_cleanup_extent_set_ struct dms_extent_set *set = NULL;
	struct dms_error *error = dms_extent_set_create(&set);

	if (!error)
		error = dms_extent_set_merge(set, extents);
	/* Before aligning: what lies near the end of the number range would overflow. */
	if (!error)
		error = dms_extent_set_clamp(set, size_bytes);
	if (!error)
		error = dms_extent_set_align(set, granularity_bytes);
	if (!error)
		error = dms_extent_set_clamp(set, size_bytes);
	if (!error)
		*chosen = dms_steal(set);
	return error;
}

struct extent_runs {
	const struct dms_extent *extents;
	size_t count;
	size_t next;
};

static bool next_extent(void *context, struct dms_copy_run *run)
{
	struct extent_runs *runs = context;

	if (runs->next == runs->count)
		return false;
	run->source_offset_bytes = runs->extents[runs->next].offset_bytes;
	run->source_length_bytes = runs->extents[runs->next].length_bytes;
	run->destination_offset_bytes = run->source_offset_bytes;
	run->length_bytes = run->source_length_bytes;
	runs->next++;
	return true;
}

struct dms_error *dms_copy_apply(int source_fd, int destination_fd, uint64_t size_bytes,
				 const struct dms_extent_set *extents, bool zero_detection,
				 const struct dms_copy_options *options,
				 struct dms_copy_stats *stats)
{
	_cleanup_extent_set_ struct dms_extent_set *chosen = NULL;
	struct dms_medium source, destination;
	struct extent_runs runs = { 0 };
	const struct dms_copy_job job = {
		.source = &source,
		.destination = &destination,
		.next_run = next_extent,
		.context = &runs,
		.zero_detection = zero_detection,
	};
	struct dms_error *error = dms_copy_check_sides(source_fd, destination_fd, size_bytes,
						       &source, &destination);

	if (!error)
		error = dms_copy_choose_extents(extents, size_bytes, DMS_COPY_PAGE_BYTES, &chosen);
	if (error)
		return error;
	runs.extents = dms_extent_set_extents(chosen);
	runs.count = dms_extent_set_count(chosen);
	return dms_copy_loop_run(&job, options, stats);
}
