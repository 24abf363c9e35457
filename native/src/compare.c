// SPDX-License-Identifier: Apache-2.0
#include <dmsnap/copy.h>

#include "cleanup.h"
#include "compare_loop.h"
#include "copy_loop.h"
#include "exception_store_writer.h"
#include "pace.h"

/* The store may lie behind the replica on the same device, and must not lie in it. */
static struct dms_error *check_undo(const struct dms_compare_job *job, uint64_t size_bytes)
{
	const struct dms_undo_store *undo = job->undo;
	struct dms_medium store;
	struct dms_error *error = dms_store_check_region(undo->fd, undo->offset_bytes,
							 undo->length_bytes, undo->chunk_size);

	if (!error)
		error = dms_medium_probe(undo->fd, DMS_STORE_MEDIUM, &store);
	if (error)
		return error;
	if ((dms_medium_is_same(&store, job->destination) ||
	     dms_medium_is_same(&store, job->source)) &&
	    undo->offset_bytes < size_bytes)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"the exception store at %llu lies inside the volume of"
					" %llu bytes", (unsigned long long)undo->offset_bytes,
					(unsigned long long)size_bytes);
	return NULL;
}

/* What differs is kept in the order it is found, which only an empty place can take. */
static struct dms_error *check_kept(const struct dms_copy_options *options)
{
	if (options && options->kept && dms_copy_kept_bytes(options->kept))
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"what an earlier comparison found is kept there");
	return NULL;
}

struct dms_error *dms_copy_compare(int source_fd, int destination_fd, uint64_t size_bytes,
				   const struct dms_extent_set *extents,
				   const struct dms_copy_options *options,
				   struct dms_undo_store *undo, struct dms_copy_stats *stats,
				   struct dms_extent_set **different)
{
	_cleanup_extent_set_ struct dms_extent_set *chosen = NULL;
	struct dms_medium source, destination;
	struct dms_compare_job job = {
		.source = &source,
		.destination = &destination,
		.chunk_bytes = undo ? undo->chunk_size * DMS_STORE_SECTOR_BYTES :
				      DMS_COPY_PAGE_BYTES,
		.undo = undo,
	};
	struct dms_error *error = dms_copy_check_sides(source_fd, destination_fd, size_bytes,
						       options, &source, &destination);

	if (!error)
		error = check_kept(options);
	if (!error && undo)
		error = check_undo(&job, size_bytes);
	/* Whole chunks are compared, since whole chunks are kept. */
	if (!error)
		error = dms_copy_choose_extents(extents, size_bytes, job.chunk_bytes, &chosen);
	job.extents = chosen;
	if (!error)
		error = dms_compare_loop_run(&job, options, stats, different);
	/* Grown coarser, it may reach beyond the end. */
	return error ? error : dms_extent_set_clamp(*different, size_bytes);
}
