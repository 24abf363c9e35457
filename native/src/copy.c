// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include <dmsnap/copy.h>

#include "cleanup.h"
#include "copy_kept.h"
#include "copy_loop.h"
#include "medium.h"
#include "pace.h"

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
				       const struct dms_copy_options *options,
				       struct dms_medium *source, struct dms_medium *destination)
{
	const char *name = options && options->source_name ? options->source_name : "the source";
	struct dms_error *error = check_size(size_bytes);

	if (!error)
		error = dms_medium_probe(source_fd, name, source);
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

/* What is kept comes from memory, and then the rest from the source. */
struct apply_runs {
	struct dms_extent_runs kept;
	uint64_t kept_bytes; /* handed out */
	const char *content;
	struct dms_extent_runs rest;
};

static bool next_apply_run(void *context, struct dms_copy_run *run)
{
	struct apply_runs *runs = context;

	if (!dms_extent_runs_next(&runs->kept, run))
		return dms_extent_runs_next(&runs->rest, run);
	run->memory = runs->content;
	run->source_offset_bytes = runs->kept_bytes;
	runs->kept_bytes += run->length_bytes;
	return true;
}

/* Split chosen: what is kept stays out of it. */
static struct dms_error *take_kept(struct dms_extent_set *chosen, const struct dms_copy_kept *kept,
				   struct apply_runs *runs)
{
	const struct dms_extent_set *extents = dms_copy_kept_extents(kept);
	uint64_t bytes = dms_extent_set_bytes(chosen);
	struct dms_error *error = dms_extent_set_subtract(chosen, extents);

	if (!error && bytes - dms_extent_set_bytes(chosen) != dms_extent_set_bytes(extents))
		error = dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					 "what was kept of a comparison is not all to be copied");
	runs->kept = dms_extent_runs_of(extents);
	runs->content = dms_copy_kept_content(kept);
	return error;
}

struct dms_error *dms_copy_apply(int source_fd, int destination_fd, uint64_t size_bytes,
				 const struct dms_extent_set *extents, bool zero_detection,
				 const struct dms_copy_options *options,
				 struct dms_copy_stats *stats)
{
	_cleanup_extent_set_ struct dms_extent_set *chosen = NULL;
	struct dms_medium source, destination;
	struct apply_runs runs = { 0 };
	struct dms_copy_job job = {
		.source = &source,
		.destination = &destination,
		.next_run = next_apply_run,
		.context = &runs,
		.zero_detection = zero_detection,
	};
	struct dms_error *error = dms_copy_check_sides(source_fd, destination_fd, size_bytes,
						       options, &source, &destination);

	if (!error)
		error = dms_copy_choose_extents(extents, size_bytes, DMS_COPY_PAGE_BYTES, &chosen);
	if (!error && options && options->kept)
		error = take_kept(chosen, options->kept, &runs);
	if (error)
		return error;
	runs.rest = dms_extent_runs_of(chosen);
	job.bytes = dms_extent_set_bytes(chosen);
	job.nr_runs = dms_extent_set_count(chosen);
	return dms_copy_loop_run(&job, options, stats);
}
