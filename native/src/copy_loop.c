// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "copy_loop.h"
#include "io_queue.h"
#include "progress.h"
#include "zero.h"

/*
 * A slot is free, then reading, then waits for its turn, then writes its runs
 * of data one after the other, then is free again.
 */
struct slot {
	struct dms_io_request request;
	char *buffer;
	uint64_t destination_offset_bytes;
	uint32_t length_bytes; /* to write */
	uint32_t written_bytes; /* written, or given as zeroes, from the beginning */
	bool read;
	struct slot *next; /* free, or behind in the order of reading */
};

struct loop {
	const struct dms_copy_job *job;
	struct dms_copy_sizes sizes;
	char *memory;
	struct slot *slots;
	struct dms_io_queue *queue;
	struct slot *free;
	struct slot *first; /* the oldest read whose turn has not come */
	struct slot **last;
	struct dms_copy_run run; /* what is left of it */
	bool exhausted;
	struct dms_zero_out zero_out;
	uint64_t bytes_data;
	struct dms_progress progress;
};

struct dms_error *dms_copy_choose_sizes(const struct dms_copy_options *options, uint32_t buffers,
					uint32_t multiple_bytes, struct dms_copy_sizes *sizes)
{
	uint32_t request = options ? options->request_bytes : 0;
	uint32_t depth = options ? options->queue_depth : 0;
	uint32_t most;

	if (request % DMS_COPY_PAGE_BYTES || request > DMS_COPY_MAX_REQUEST_BYTES)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"requests of %u bytes are no multiple of %u up to %u",
					request, DMS_COPY_PAGE_BYTES, DMS_COPY_MAX_REQUEST_BYTES);
	request = request ? request : DMS_COPY_REQUEST_BYTES;
	request = request < multiple_bytes ? multiple_bytes : request - request % multiple_bytes;
	most = DMS_COPY_MAX_MEMORY_BYTES / (buffers * request);
	depth = depth ? depth : DMS_COPY_QUEUE_DEPTH / buffers;
	sizes->request_bytes = request;
	sizes->depth = depth < most ? depth : most;
	sizes->without_io_uring = options && options->without_io_uring;
	return NULL;
}

static struct dms_error *loop_create(const struct dms_copy_job *job,
				     const struct dms_copy_options *options, struct loop *loop)
{
	struct dms_error *error = dms_copy_choose_sizes(options, 1, DMS_COPY_PAGE_BYTES,
							&loop->sizes);
	uint32_t i;

	if (error)
		return error;
	loop->job = job;
	loop->last = &loop->first;
	loop->zero_out.medium = job->destination;
	loop->memory = dms_io_buffer((size_t)loop->sizes.depth * loop->sizes.request_bytes);
	loop->slots = calloc(loop->sizes.depth, sizeof(*loop->slots));
	if (!loop->memory || !loop->slots)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for copy buffers");
	for (i = 0; i < loop->sizes.depth; i++) {
		loop->slots[i].buffer = loop->memory + (size_t)i * loop->sizes.request_bytes;
		loop->slots[i].next = loop->free;
		loop->free = &loop->slots[i];
	}
	dms_progress_start(&loop->progress, options);
	return dms_io_queue_create(loop->sizes.depth, loop->sizes.without_io_uring, &loop->queue);
}

static void loop_destroy(struct loop *loop)
{
	/* The queue first: it waits for what is in flight in the buffers. */
	dms_io_queue_destroy(loop->queue);
	free(loop->slots);
	free(loop->memory);
}

/* The next piece of the current run, or of the next one; false at the end. */
static bool next_piece(struct loop *loop, struct dms_copy_run *piece)
{
	struct dms_copy_run *run = &loop->run;
	uint64_t length;

	while (!run->length_bytes) {
		if (loop->exhausted || !loop->job->next_run(loop->job->context, run)) {
			loop->exhausted = true;
			return false;
		}
	}
	*piece = *run;
	length = loop->sizes.request_bytes;
	if (piece->length_bytes > length)
		piece->length_bytes = length;
	if (piece->source_length_bytes > length)
		piece->source_length_bytes = length;
	run->source_offset_bytes += piece->length_bytes;
	run->source_length_bytes -= piece->length_bytes;
	run->destination_offset_bytes += piece->length_bytes;
	run->length_bytes -= piece->length_bytes;
	return true;
}

/* Whether one more read may be started now. */
static bool may_read(const struct loop *loop)
{
	return !loop->exhausted && loop->free && dms_io_queue_has_room(loop->queue);
}

static struct dms_error *start_read(struct loop *loop)
{
	struct slot *slot = loop->free;
	struct dms_copy_run piece;

	if (!next_piece(loop, &piece))
		return NULL;
	loop->free = slot->next;
	slot->next = NULL;
	slot->read = false;
	slot->written_bytes = 0;
	slot->length_bytes = (uint32_t)piece.length_bytes;
	slot->destination_offset_bytes = piece.destination_offset_bytes;
	slot->request = (struct dms_io_request){
		.fd = loop->job->source->fd,
		.buffer = slot->buffer,
		.offset_bytes = piece.source_offset_bytes,
		.length_bytes = (uint32_t)piece.source_length_bytes,
		.context = slot,
	};
	*loop->last = slot;
	loop->last = &slot->next;
	return dms_io_queue_submit(loop->queue, &slot->request);
}

static struct dms_error *write_run(struct loop *loop, struct slot *slot, uint32_t length)
{
	slot->request = (struct dms_io_request){
		.fd = loop->job->destination->fd,
		.write = true,
		.buffer = slot->buffer + slot->written_bytes,
		.offset_bytes = slot->destination_offset_bytes + slot->written_bytes,
		.length_bytes = length,
		.context = slot,
	};
	return dms_io_queue_submit(loop->queue, &slot->request);
}

/* Give zeroes away and write the next run of data; without any left the slot is free. */
static struct dms_error *advance(struct loop *loop, struct slot *slot)
{
	while (slot->written_bytes < slot->length_bytes) {
		uint32_t length = slot->length_bytes - slot->written_bytes;
		bool zero = false;
		struct dms_error *error;

		if (loop->job->zero_detection)
			length = (uint32_t)dms_zero_next_run(slot->buffer + slot->written_bytes,
							     length, &zero);
		if (!zero)
			return write_run(loop, slot, length);
		error = dms_zero_out_add(&loop->zero_out,
					 slot->destination_offset_bytes + slot->written_bytes,
					 length);
		if (error)
			return error;
		slot->written_bytes += length;
	}
	slot->next = loop->free;
	loop->free = slot;
	return NULL;
}

static struct dms_error *take_turns(struct loop *loop)
{
	while (loop->first && loop->first->read) {
		struct slot *slot = loop->first;
		struct dms_error *error;

		loop->first = slot->next;
		if (!loop->first)
			loop->last = &loop->first;
		error = advance(loop, slot);
		if (error)
			return error;
	}
	return NULL;
}

static struct dms_error *complete(struct loop *loop, struct dms_io_request *request)
{
	struct slot *slot = request->context;
	const struct dms_medium *medium = request->write ? loop->job->destination :
							   loop->job->source;
	struct dms_error *error = dms_io_request_error(request, medium->name);

	if (error)
		return error;
	if (request->write) {
		loop->bytes_data += request->length_bytes;
		slot->written_bytes += request->length_bytes;
		return advance(loop, slot);
	}
	slot->read = true;
	return NULL;
}

static uint64_t bytes_done(const struct loop *loop)
{
	return loop->bytes_data + loop->zero_out.bytes_zero;
}

/*
 * One more read, then one completion, waited for only when nothing more can be
 * started: a medium that answers at once (page cache, tmpfs) is written from
 * a buffer that is still in the processor's cache.
 */
static struct dms_error *step(struct loop *loop)
{
	struct dms_io_request *request;
	struct dms_error *error = may_read(loop) ? start_read(loop) : NULL;
	int timeout_ms = may_read(loop) ? 0 : DMS_PROGRESS_INTERVAL_MS;

	if (!error)
		error = dms_io_queue_wait(loop->queue, timeout_ms, &request);
	if (!error && request)
		error = complete(loop, request);
	if (!error)
		error = take_turns(loop);
	return error ? error : dms_progress_report(&loop->progress, bytes_done(loop));
}

static bool busy(const struct loop *loop)
{
	return !loop->exhausted || dms_io_queue_in_flight(loop->queue);
}

struct dms_error *dms_copy_loop_run(const struct dms_copy_job *job,
				    const struct dms_copy_options *options,
				    struct dms_copy_stats *stats)
{
	__attribute__((__cleanup__(loop_destroy))) struct loop loop = { 0 };
	struct dms_error *error = loop_create(job, options, &loop);

	while (!error && busy(&loop))
		error = step(&loop);
	if (!error)
		error = dms_zero_out_finish(&loop.zero_out);
	/* The last chance to cancel: what follows says that all of it is written. */
	if (!error)
		error = dms_progress_report_now(&loop.progress, bytes_done(&loop));
	if (!error)
		error = dms_io_flush(job->destination->fd, job->destination->name);
	if (error)
		return error;
	*stats = (struct dms_copy_stats){
		.bytes_written = bytes_done(&loop),
		.bytes_zero = loop.zero_out.bytes_zero,
	};
	return NULL;
}
