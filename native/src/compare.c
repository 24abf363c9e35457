// SPDX-License-Identifier: Apache-2.0
/*
 * Both sides are read with several requests in flight and compared in
 * ascending order, so that what differs, and the undo store, are ascending too.
 */
#include <stdlib.h>
#include <string.h>

#include <dmsnap/copy.h>

#include "cleanup.h"
#include "copy_loop.h"
#include "exception_store_writer.h"
#include "io_queue.h"
#include "progress.h"

#define PAGE_BYTES DMS_COPY_PAGE_BYTES
#define SIDES 2u

struct slot {
	struct dms_io_request source;
	struct dms_io_request destination;
	uint32_t pending; /* of the two */
	struct slot *next; /* free, or behind in the order of comparing */
};

struct comparison {
	struct dms_copy_sizes sizes;
	uint64_t size_bytes;
	const struct dms_medium *source;
	const struct dms_medium *destination;
	char *memory;
	struct slot *slots;
	struct slot *free;
	struct slot *first; /* the oldest that is not compared */
	struct slot **last;
	struct dms_io_queue *queue;
	const struct dms_extent *extents;
	size_t nr_extents;
	size_t extent;
	uint64_t position; /* in the extent */
	struct dms_exception_store_writer *writer; /* NULL: no undo */
	uint32_t chunk_bytes; /* of the undo store */
	struct dms_extent_set *different;
	uint64_t bytes_compared;
	struct dms_progress progress;
};

static void comparison_destroy(struct comparison *comparison)
{
	/* The queue first: it waits for what is in flight in the buffers. */
	dms_io_queue_destroy(comparison->queue);
	dms_exception_store_writer_destroy(comparison->writer);
	dms_extent_set_destroy(comparison->different);
	free(comparison->slots);
	free(comparison->memory);
}

static struct dms_error *allocate(struct comparison *comparison)
{
	size_t request = comparison->sizes.request_bytes;
	char *buffer;
	uint32_t i;

	comparison->memory = dms_io_buffer(comparison->sizes.depth * SIDES * request);
	comparison->slots = calloc(comparison->sizes.depth, sizeof(*comparison->slots));
	if (!comparison->memory || !comparison->slots)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for compare buffers");
	buffer = comparison->memory;
	comparison->last = &comparison->first;
	for (i = 0; i < comparison->sizes.depth; i++, buffer += SIDES * request) {
		struct slot *slot = &comparison->slots[i];

		slot->source.context = slot;
		slot->destination.context = slot;
		slot->source.buffer = buffer;
		slot->destination.buffer = buffer + request;
		slot->next = comparison->free;
		comparison->free = slot;
	}
	return NULL;
}

static bool next_range(struct comparison *comparison, uint64_t *offset, uint32_t *length)
{
	const struct dms_extent *extent;
	uint64_t left;

	if (comparison->extent == comparison->nr_extents)
		return false;
	extent = &comparison->extents[comparison->extent];
	left = extent->length_bytes - comparison->position;
	*offset = extent->offset_bytes + comparison->position;
	*length = left < comparison->sizes.request_bytes ? (uint32_t)left :
							   comparison->sizes.request_bytes;
	comparison->position += *length;
	if (comparison->position == extent->length_bytes) {
		comparison->extent++;
		comparison->position = 0;
	}
	return true;
}

static struct dms_error *submit_read(struct comparison *comparison, struct dms_io_request *request,
				     int fd, uint64_t offset, uint32_t length)
{
	request->fd = fd;
	request->write = false;
	request->offset_bytes = offset;
	request->length_bytes = length;
	return dms_io_queue_submit(comparison->queue, request);
}

/* Whether one more pair of reads may be started now. */
static bool may_read(const struct comparison *comparison)
{
	return comparison->extent < comparison->nr_extents && comparison->free &&
	       dms_io_queue_has_room(comparison->queue);
}

static struct dms_error *start_reads(struct comparison *comparison)
{
	struct slot *slot = comparison->free;
	struct dms_error *error;
	uint64_t offset;
	uint32_t length;

	if (!next_range(comparison, &offset, &length))
		return NULL;
	comparison->free = slot->next;
	slot->next = NULL;
	slot->pending = SIDES;
	*comparison->last = slot;
	comparison->last = &slot->next;
	error = submit_read(comparison, &slot->source, comparison->source->fd, offset, length);
	if (!error)
		error = submit_read(comparison, &slot->destination, comparison->destination->fd,
				    offset, length);
	return error;
}

static struct dms_error *keep_chunk(struct comparison *comparison, struct slot *slot,
				    uint32_t position)
{
	char *old = (char *)slot->destination.buffer + position;
	uint32_t left = slot->destination.length_bytes - position;

	if (!comparison->writer)
		return NULL;
	/* At the volume's end: the store's chunk is whole, what is behind the end is zero. */
	if (left < comparison->chunk_bytes)
		memset(old + left, 0, comparison->chunk_bytes - left);
	return dms_exception_store_writer_append(
		comparison->writer,
		(slot->destination.offset_bytes + position) / comparison->chunk_bytes, old);
}

/* Compare one chunk of the undo store (or one page, without undo) page by page. */
static struct dms_error *compare_chunk(struct comparison *comparison, struct slot *slot,
				       uint32_t position, uint32_t length)
{
	const char *new = (const char *)slot->source.buffer + position;
	const char *old = (const char *)slot->destination.buffer + position;
	struct dms_error *error = NULL;
	bool differs = false;
	uint32_t done, page;

	for (done = 0; !error && done < length; done += page) {
		page = length - done < PAGE_BYTES ? length - done : PAGE_BYTES;
		if (!memcmp(new + done, old + done, page))
			continue;
		differs = true;
		error = dms_extent_set_add(comparison->different,
					   slot->source.offset_bytes + position + done, page);
	}
	return error || !differs ? error : keep_chunk(comparison, slot, position);
}

static struct dms_error *compare_slot(struct comparison *comparison, struct slot *slot)
{
	uint32_t length = slot->source.length_bytes;
	uint32_t position, chunk;

	for (position = 0; position < length; position += chunk) {
		struct dms_error *error;

		chunk = length - position < comparison->chunk_bytes ? length - position :
								      comparison->chunk_bytes;
		error = compare_chunk(comparison, slot, position, chunk);
		if (error)
			return error;
	}
	comparison->bytes_compared += length;
	return NULL;
}

static struct dms_error *take_turns(struct comparison *comparison)
{
	while (comparison->first && !comparison->first->pending) {
		struct slot *slot = comparison->first;
		struct dms_error *error = compare_slot(comparison, slot);

		if (error)
			return error;
		comparison->first = slot->next;
		if (!comparison->first)
			comparison->last = &comparison->first;
		slot->next = comparison->free;
		comparison->free = slot;
	}
	return NULL;
}

static struct dms_error *complete(struct comparison *comparison,
				  const struct dms_io_request *request)
{
	struct slot *slot = request->context;
	const struct dms_medium *medium = request == &slot->source ? comparison->source :
								     comparison->destination;

	slot->pending--;
	return dms_io_request_error(request, medium->name);
}

static struct dms_error *step(struct comparison *comparison)
{
	struct dms_io_request *request;
	struct dms_error *error = may_read(comparison) ? start_reads(comparison) : NULL;
	/* Without waiting while more can be started: see the copy's loop. */
	int timeout_ms = may_read(comparison) ? 0 : DMS_PROGRESS_INTERVAL_MS;

	if (!error)
		error = dms_io_queue_wait(comparison->queue, timeout_ms, &request);
	if (!error && request)
		error = complete(comparison, request);
	if (!error)
		error = take_turns(comparison);
	if (!error)
		error = dms_progress_report(&comparison->progress, comparison->bytes_compared);
	return error;
}

static bool busy(const struct comparison *comparison)
{
	return comparison->extent < comparison->nr_extents || comparison->first;
}

/* The store may lie behind the replica on the same device, and must not lie in it. */
static struct dms_error *check_undo(const struct comparison *comparison,
				    const struct dms_undo_store *undo)
{
	struct dms_medium store;
	struct dms_error *error = dms_store_check_region(undo->fd, undo->offset_bytes,
							 undo->length_bytes, undo->chunk_size);

	if (!error)
		error = dms_medium_probe(undo->fd, DMS_STORE_MEDIUM, &store);
	if (error)
		return error;
	if ((dms_medium_is_same(&store, comparison->destination) ||
	     dms_medium_is_same(&store, comparison->source)) &&
	    undo->offset_bytes < comparison->size_bytes)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"the exception store at %llu lies inside the volume of"
					" %llu bytes", (unsigned long long)undo->offset_bytes,
					(unsigned long long)comparison->size_bytes);
	return NULL;
}

static struct dms_error *prepare(struct comparison *comparison,
				 const struct dms_copy_options *options,
				 const struct dms_undo_store *undo)
{
	struct dms_error *error = undo ? check_undo(comparison, undo) : NULL;

	if (error)
		return error;
	comparison->chunk_bytes = undo ? undo->chunk_size * DMS_STORE_SECTOR_BYTES : PAGE_BYTES;
	error = dms_copy_choose_sizes(options, SIDES, comparison->chunk_bytes, &comparison->sizes);
	if (!error)
		error = allocate(comparison);
	if (!error)
		error = dms_io_queue_create(SIDES * comparison->sizes.depth,
					    comparison->sizes.without_io_uring,
					    &comparison->queue);
	if (!error)
		error = dms_extent_set_create(&comparison->different);
	if (!error && undo)
		error = dms_exception_store_writer_create_with(
			undo->fd, undo->offset_bytes, undo->length_bytes, undo->chunk_size,
			comparison->sizes.without_io_uring, &comparison->writer);
	dms_progress_start(&comparison->progress, options);
	return error;
}

static struct dms_error *compare_all(struct comparison *comparison,
				     const struct dms_extent_set *chosen,
				     struct dms_undo_store *undo)
{
	struct dms_error *error = NULL;

	comparison->extents = dms_extent_set_extents(chosen);
	comparison->nr_extents = dms_extent_set_count(chosen);
	while (!error && busy(comparison))
		error = step(comparison);
	/* The last chance to cancel: a finished store must not be followed by a failure. */
	if (!error)
		error = dms_progress_report_now(&comparison->progress,
						comparison->bytes_compared);
	if (!error && undo)
		error = dms_exception_store_writer_finish(comparison->writer,
							  &undo->nr_exceptions,
							  &undo->used_bytes);
	return error;
}

struct dms_error *dms_copy_compare(int source_fd, int destination_fd, uint64_t size_bytes,
				   const struct dms_extent_set *extents,
				   const struct dms_copy_options *options,
				   struct dms_undo_store *undo, struct dms_copy_stats *stats,
				   struct dms_extent_set **different)
{
	__attribute__((__cleanup__(comparison_destroy))) struct comparison comparison = {
		.size_bytes = size_bytes,
	};
	_cleanup_extent_set_ struct dms_extent_set *chosen = NULL;
	struct dms_medium source, destination;
	struct dms_error *error = dms_copy_check_sides(source_fd, destination_fd, size_bytes,
						       &source, &destination);

	if (error)
		return error;
	comparison.source = &source;
	comparison.destination = &destination;
	error = prepare(&comparison, options, undo);
	/* Whole chunks are compared, since whole chunks are kept. */
	if (!error)
		error = dms_copy_choose_extents(extents, size_bytes, comparison.chunk_bytes,
						&chosen);
	if (!error)
		error = compare_all(&comparison, chosen, undo);
	if (error)
		return error;
	*stats = (struct dms_copy_stats){
		.bytes_compared = comparison.bytes_compared,
		.bytes_different = dms_extent_set_bytes(comparison.different),
	};
	*different = dms_steal(comparison.different);
	return NULL;
}
