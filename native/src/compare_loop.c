// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "compare_loop.h"
#include "copy_kept.h"
#include "copy_piece.h"
#include "exception_store_writer.h"
#include "io_queue.h"
#include "pace.h"
#include "progress.h"

#define PAGE_BYTES DMS_COPY_PAGE_BYTES
#define SIDES 2u
/* In flight to the undo store: as much as a slow disk writes in a second, and a fast one needs. */
#define STORE_BYTES (4ull << 20)

struct slot {
	struct dms_copy_piece piece;
	struct dms_io_request source;
	struct dms_io_request destination;
	uint32_t pending; /* of the two */
	struct slot *next; /* free, or behind in the order of comparing */
};

struct comparison {
	const struct dms_compare_job *job;
	struct dms_pace pace;
	char *memory;
	struct slot *slots;
	struct slot *free;
	struct slot *first; /* the oldest that is not compared */
	struct slot **last;
	struct dms_io_queue *queue;
	struct dms_extent_runs runs;
	struct dms_copy_cutter cutter;
	struct dms_exception_store_writer *writer; /* NULL: no undo */
	struct dms_extent_set *different;
	struct dms_copy_kept *kept; /* NULL: nothing is */
	uint64_t bytes_compared;
	uint64_t bytes_different; /* less than the set has, where that has grown coarser */
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

static size_t memory_bytes(const struct comparison *comparison)
{
	return (size_t)comparison->pace.nr_slots * SIDES * comparison->pace.slot_bytes;
}

static struct dms_error *allocate(struct comparison *comparison)
{
	char *buffer;
	uint32_t i;

	comparison->memory = dms_io_huge_buffer(memory_bytes(comparison));
	comparison->slots = calloc(comparison->pace.nr_slots, sizeof(*comparison->slots));
	if (!comparison->memory || !comparison->slots)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for compare buffers");
	buffer = comparison->memory;
	comparison->last = &comparison->first;
	for (i = 0; i < comparison->pace.nr_slots; i++) {
		struct slot *slot = &comparison->slots[i];

		slot->source.context = slot;
		slot->destination.context = slot;
		slot->source.buffer = buffer;
		slot->destination.buffer = buffer + comparison->pace.slot_bytes;
		slot->next = comparison->free;
		comparison->free = slot;
		buffer += (size_t)SIDES * comparison->pace.slot_bytes;
	}
	return NULL;
}

static struct dms_error *submit_read(struct comparison *comparison, struct slot *slot,
				     struct dms_io_request *request, int fd)
{
	request->fd = fd;
	request->write = false;
	request->offset_bytes = slot->piece.source_offset_bytes;
	request->length_bytes = slot->piece.length_bytes;
	return dms_io_queue_submit(comparison->queue, request);
}

/*
 * Whether the undo store's writes keep up. When they do not, reading more would
 * only make more of them, and all of them delay a cancel. The limit is of what is
 * read, and says late how slow another disk is that writes.
 */
static bool store_keeps_up(const struct comparison *comparison)
{
	uint64_t limit = comparison->pace.limit_bytes;

	return !comparison->writer ||
	       dms_exception_store_writer_in_flight_bytes(comparison->writer) <
		       (limit < STORE_BYTES ? limit : STORE_BYTES);
}

/* Whether one more pair of reads may be started now. */
static bool may_read(struct comparison *comparison)
{
	return comparison->free && store_keeps_up(comparison) && dms_pace_has_room(&comparison->pace) &&
	       dms_copy_cutter_has_more(&comparison->cutter);
}

static struct dms_error *start_reads(struct comparison *comparison)
{
	struct slot *slot = comparison->free;
	struct dms_error *error;

	comparison->free = slot->next;
	slot->next = NULL;
	slot->pending = SIDES;
	*comparison->last = slot;
	comparison->last = &slot->next;
	dms_copy_cutter_next(&comparison->cutter, dms_pace_request_bytes(&comparison->pace),
			     &slot->piece);
	dms_pace_begin(&comparison->pace, SIDES * slot->piece.length_bytes);
	dms_pace_charge(&comparison->pace, slot->piece.length_bytes);
	error = submit_read(comparison, slot, &slot->source, comparison->job->source->fd);
	if (!error)
		error = submit_read(comparison, slot, &slot->destination,
				    comparison->job->destination->fd);
	return error;
}

static struct dms_error *keep_chunk(struct comparison *comparison, struct slot *slot,
				    uint32_t position, uint32_t length)
{
	char *old = (char *)slot->destination.buffer + position;

	if (!comparison->writer)
		return NULL;
	/* At the volume's end: the store's chunk is whole, what is behind the end is zero. */
	if (length < comparison->job->chunk_bytes)
		memset(old + length, 0, comparison->job->chunk_bytes - length);
	dms_pace_charge(&comparison->pace, comparison->job->chunk_bytes);
	return dms_exception_store_writer_append(
		comparison->writer,
		(slot->piece.source_offset_bytes + position) / comparison->job->chunk_bytes, old);
}

static struct dms_error *add_page(struct comparison *comparison, uint64_t offset, const char *new,
				  uint32_t length)
{
	struct dms_error *error = dms_extent_set_add(comparison->different, offset, length);

	comparison->bytes_different += length;
	if (!error && comparison->kept)
		error = dms_copy_kept_add(comparison->kept, offset, new, length);
	return error;
}

/* Compare one chunk of the undo store (or one page, without undo) page by page. */
static struct dms_error *compare_chunk(struct comparison *comparison, struct slot *slot,
				       uint32_t position, uint32_t length)
{
	const char *new = (const char *)slot->source.buffer + position;
	const char *old = (const char *)slot->destination.buffer + position;
	uint64_t offset = slot->piece.source_offset_bytes + position;
	struct dms_error *error = NULL;
	bool differs = false;
	uint32_t done, page;

	for (done = 0; !error && done < length; done += page) {
		page = length - done < PAGE_BYTES ? length - done : PAGE_BYTES;
		if (!memcmp(new + done, old + done, page))
			continue;
		differs = true;
		error = add_page(comparison, offset + done, new + done, page);
	}
	return error || !differs ? error : keep_chunk(comparison, slot, position, length);
}

static struct dms_error *compare_segment(struct comparison *comparison, struct slot *slot,
					 const struct dms_copy_segment *segment)
{
	uint32_t position, chunk;

	for (position = 0; position < segment->length_bytes; position += chunk) {
		uint32_t left = segment->length_bytes - position;
		struct dms_error *error;

		chunk = left < comparison->job->chunk_bytes ? left : comparison->job->chunk_bytes;
		error = compare_chunk(comparison, slot, segment->buffer_offset_bytes + position,
				      chunk);
		if (error)
			return error;
	}
	comparison->bytes_compared += segment->length_bytes;
	return NULL;
}

static struct dms_error *compare_slot(struct comparison *comparison, struct slot *slot)
{
	uint32_t i;

	for (i = 0; i < slot->piece.nr_segments; i++) {
		struct dms_error *error = compare_segment(comparison, slot,
							  &slot->piece.segments[i]);

		if (error)
			return error;
	}
	return NULL;
}

static struct dms_error *take_turns(struct comparison *comparison)
{
	while (comparison->first && !comparison->first->pending) {
		struct slot *slot = comparison->first;
		struct dms_error *error = compare_slot(comparison, slot);

		if (error)
			return error;
		dms_pace_end(&comparison->pace, SIDES * slot->piece.length_bytes);
		comparison->first = slot->next;
		if (!comparison->first)
			comparison->last = &comparison->first;
		slot->next = comparison->free;
		comparison->free = slot;
	}
	return NULL;
}

static struct dms_error *complete_read(struct comparison *comparison,
				       const struct dms_io_request *request)
{
	struct slot *slot = request->context;
	const struct dms_medium *medium = request == &slot->source ? comparison->job->source :
								     comparison->job->destination;
	struct dms_error *error = dms_io_request_error(request, medium->name);

	slot->pending--;
	if (error && slot->piece.nr_segments > 1) {
		dms_error_destroy(error);
		error = dms_copy_piece_read(&slot->piece, medium, request->buffer);
	}
	return error;
}

static struct dms_error *complete(struct comparison *comparison,
				  const struct dms_io_request *request)
{
	if (request->context == comparison->writer)
		return dms_exception_store_writer_complete(comparison->writer, request);
	return complete_read(comparison, request);
}

static struct dms_error *step(struct comparison *comparison)
{
	struct dms_io_request *request;
	struct dms_error *error = NULL;
	int timeout_ms;

	if (may_read(comparison) && dms_pace_is_paid(&comparison->pace))
		error = start_reads(comparison);
	/* Without waiting while more can be started: see the copy's loop. */
	timeout_ms = dms_pace_timeout_ms(&comparison->pace, may_read(comparison));
	if (!error)
		error = dms_io_queue_wait(comparison->queue, timeout_ms, &request);
	if (!error && request)
		error = complete(comparison, request);
	else if (!error && !dms_io_queue_in_flight(comparison->queue))
		dms_pace_sleep(&comparison->pace);
	if (!error)
		error = take_turns(comparison);
	if (!error)
		error = dms_progress_report(&comparison->progress, comparison->bytes_compared);
	return error;
}

static bool busy(struct comparison *comparison)
{
	return comparison->first || dms_copy_cutter_has_more(&comparison->cutter);
}

static struct dms_error *create_queue(struct comparison *comparison)
{
	uint64_t bytes = SIDES * dms_extent_set_bytes(comparison->job->extents);
	struct dms_error *error = dms_io_queue_create(
		SIDES * comparison->pace.nr_slots + DMS_STORE_QUEUE_DEPTH,
		comparison->pace.without_io_uring, &comparison->queue);

	if (error)
		return error;
	if (bytes >= DMS_PACE_REGISTER_TIMES * memory_bytes(comparison))
		dms_io_queue_register(comparison->queue, comparison->memory,
				      memory_bytes(comparison));
	return NULL;
}

static struct dms_error *prepare(struct comparison *comparison,
				 const struct dms_copy_options *options)
{
	const struct dms_compare_job *job = comparison->job;
	const struct dms_undo_store *undo = job->undo;
	size_t count = dms_extent_set_count(job->extents);
	struct dms_error *error = dms_pace_start(
		&comparison->pace, options, SIDES, job->chunk_bytes,
		count ? dms_extent_set_bytes(job->extents) / count : 0);

	comparison->kept = options ? options->kept : NULL;
	comparison->runs = dms_extent_runs_of(job->extents);
	comparison->cutter.next_run = dms_extent_runs_next;
	comparison->cutter.context = &comparison->runs;
	if (!error)
		error = allocate(comparison);
	if (!error)
		error = create_queue(comparison);
	if (!error)
		error = dms_extent_set_create(&comparison->different);
	if (!error && options && options->most_extents)
		error = dms_extent_set_bound(comparison->different, options->most_extents);
	if (!error && undo)
		error = dms_exception_store_writer_create_on(
			comparison->queue, undo->fd, undo->offset_bytes, undo->length_bytes,
			undo->chunk_size, &comparison->writer);
	dms_progress_start(&comparison->progress, options);
	return error;
}

struct dms_error *dms_compare_loop_run(const struct dms_compare_job *job,
				       const struct dms_copy_options *options,
				       struct dms_copy_stats *stats,
				       struct dms_extent_set **different)
{
	__attribute__((__cleanup__(comparison_destroy))) struct comparison comparison = {
		.job = job,
	};
	struct dms_error *error = prepare(&comparison, options);

	while (!error && busy(&comparison))
		error = step(&comparison);
	/* The last chance to cancel: a finished store must not be followed by a failure. */
	if (!error)
		error = dms_progress_report_now(&comparison.progress, comparison.bytes_compared);
	if (!error && job->undo)
		error = dms_exception_store_writer_finish(comparison.writer,
							  &job->undo->nr_exceptions,
							  &job->undo->used_bytes);
	if (error)
		return error;
	*stats = (struct dms_copy_stats){
		.bytes_compared = comparison.bytes_compared,
		.bytes_different = comparison.bytes_different,
	};
	*different = dms_steal(comparison.different);
	return NULL;
}
