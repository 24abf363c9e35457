// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "copy_loop.h"
#include "io_queue.h"
#include "pace.h"
#include "progress.h"
#include "zero.h"

/* Writes in flight: as many as reads are, and small ones in great number. */
#define NR_WRITES 128u

/*
 * A slot is free, then reads its piece, then waits for its turn, then hands
 * out writes; it is free again when all of them are done.
 */
struct slot {
	struct dms_copy_piece piece;
	struct dms_io_request request; /* the read */
	char *buffer;
	const char *content; /* NULL: not read yet */
	uint32_t segment; /* the first not handed out in full */
	uint32_t position; /* in it */
	uint32_t nr_writes; /* in flight */
	bool handed_out;
	struct slot *next; /* free, or behind in the order of reading */
};

struct write {
	struct dms_io_request request;
	struct slot *slot;
	struct write *next; /* free */
};

struct loop {
	const struct dms_copy_job *job;
	struct dms_pace pace;
	char *memory;
	struct slot *slots;
	struct write *writes;
	struct dms_io_queue *queue;
	struct slot *free_slots;
	struct write *free_writes;
	struct slot *first; /* the oldest read that is not handed out */
	struct slot **last;
	struct dms_copy_cutter cutter;
	struct dms_zero_out zero_out;
	uint64_t bytes_data;
	struct dms_progress progress;
};

static struct dms_error *allocate(struct loop *loop)
{
	uint32_t i;

	loop->memory = dms_io_huge_buffer((size_t)loop->pace.nr_slots * loop->pace.slot_bytes);
	loop->slots = calloc(loop->pace.nr_slots, sizeof(*loop->slots));
	loop->writes = calloc(NR_WRITES, sizeof(*loop->writes));
	if (!loop->memory || !loop->slots || !loop->writes)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for copy buffers");
	for (i = 0; i < loop->pace.nr_slots; i++) {
		loop->slots[i].buffer = loop->memory + (size_t)i * loop->pace.slot_bytes;
		loop->slots[i].next = loop->free_slots;
		loop->free_slots = &loop->slots[i];
	}
	for (i = 0; i < NR_WRITES; i++) {
		loop->writes[i].next = loop->free_writes;
		loop->free_writes = &loop->writes[i];
	}
	return NULL;
}

static struct dms_error *loop_create(const struct dms_copy_job *job,
				     const struct dms_copy_options *options, struct loop *loop)
{
	uint64_t usual_bytes = job->nr_runs ? job->bytes / job->nr_runs : 0;
	struct dms_error *error = dms_pace_start(&loop->pace, options, 1, DMS_COPY_PAGE_BYTES,
						 usual_bytes);
	size_t memory_bytes;

	if (error)
		return error;
	memory_bytes = (size_t)loop->pace.nr_slots * loop->pace.slot_bytes;
	loop->job = job;
	loop->last = &loop->first;
	loop->cutter.next_run = job->next_run;
	loop->cutter.context = job->context;
	loop->zero_out.medium = job->destination;
	error = allocate(loop);
	if (!error)
		error = dms_io_queue_create(loop->pace.nr_slots + NR_WRITES,
					    loop->pace.without_io_uring, &loop->queue);
	if (!error && job->bytes >= DMS_PACE_REGISTER_TIMES * memory_bytes)
		dms_io_queue_register(loop->queue, loop->memory, memory_bytes);
	dms_progress_start(&loop->progress, options);
	return error;
}

static void loop_destroy(struct loop *loop)
{
	/* The queue first: it waits for what is in flight in the buffers. */
	dms_io_queue_destroy(loop->queue);
	free(loop->writes);
	free(loop->slots);
	free(loop->memory);
}

/* Whether one more piece may be started now. */
static bool may_start(struct loop *loop)
{
	return loop->free_slots && dms_pace_has_room(&loop->pace) &&
	       dms_copy_cutter_has_more(&loop->cutter);
}

static struct dms_error *start_piece(struct loop *loop)
{
	struct slot *slot = loop->free_slots;

	loop->free_slots = slot->next;
	slot->next = NULL;
	*loop->last = slot;
	loop->last = &slot->next;
	dms_copy_cutter_next(&loop->cutter, dms_pace_request_bytes(&loop->pace), &slot->piece);
	dms_pace_begin(&loop->pace, slot->piece.length_bytes);
	dms_pace_charge(&loop->pace, slot->piece.length_bytes);
	slot->segment = 0;
	slot->position = 0;
	slot->handed_out = false;
	slot->content = slot->piece.memory;
	if (slot->content)
		return NULL;
	slot->request = (struct dms_io_request){
		.fd = loop->job->source->fd,
		.buffer = slot->buffer,
		.offset_bytes = slot->piece.source_offset_bytes,
		.length_bytes = slot->piece.length_bytes,
		.context = slot,
	};
	return dms_io_queue_submit(loop->queue, &slot->request);
}

static void release_if_done(struct loop *loop, struct slot *slot)
{
	if (!slot->handed_out || slot->nr_writes)
		return;
	dms_pace_end(&loop->pace, slot->piece.length_bytes);
	slot->next = loop->free_slots;
	loop->free_slots = slot;
}

static struct dms_error *submit_write(struct loop *loop, struct slot *slot, const char *content,
				      uint64_t offset, uint32_t length)
{
	struct write *write = loop->free_writes;

	loop->free_writes = write->next;
	write->slot = slot;
	write->request = (struct dms_io_request){
		.fd = loop->job->destination->fd,
		.write = true,
		.buffer = (void *)content,
		.offset_bytes = offset,
		.length_bytes = length,
		.context = write,
	};
	slot->nr_writes++;
	return dms_io_queue_submit(loop->queue, &write->request);
}

/* One more run of a slot's data is written, or of zeroes given away. */
static struct dms_error *hand_out_run(struct loop *loop, struct slot *slot)
{
	const struct dms_copy_segment *segment = &slot->piece.segments[slot->segment];
	const char *content = slot->content + segment->buffer_offset_bytes + slot->position;
	uint64_t offset = segment->destination_offset_bytes + slot->position;
	uint32_t length = segment->length_bytes - slot->position;
	bool zero = false;

	if (loop->job->zero_detection && length)
		length = (uint32_t)dms_zero_next_run(content, length, &zero);
	slot->position += length;
	if (slot->position == segment->length_bytes) {
		slot->segment++;
		slot->position = 0;
	}
	if (!length) /* read for its alignment alone */
		return NULL;
	if (zero)
		return dms_zero_out_add(&loop->zero_out, offset, length);
	return submit_write(loop, slot, content, offset, length);
}

static struct dms_error *take_turns(struct loop *loop)
{
	while (loop->first && loop->first->content) {
		struct slot *slot = loop->first;

		while (slot->segment < slot->piece.nr_segments) {
			struct dms_error *error;

			if (!loop->free_writes)
				return NULL;
			error = hand_out_run(loop, slot);
			if (error)
				return error;
		}
		loop->first = slot->next;
		if (!loop->first)
			loop->last = &loop->first;
		slot->handed_out = true;
		release_if_done(loop, slot);
	}
	return NULL;
}

static struct dms_error *complete_write(struct loop *loop, struct write *write)
{
	struct dms_error *error = dms_io_request_error(&write->request,
						       loop->job->destination->name);

	write->slot->nr_writes--;
	write->next = loop->free_writes;
	loop->free_writes = write;
	if (error)
		return error;
	loop->bytes_data += write->request.length_bytes;
	release_if_done(loop, write->slot);
	return NULL;
}

static struct dms_error *complete_read(struct loop *loop, struct slot *slot)
{
	const struct dms_medium *source = loop->job->source;
	struct dms_error *error = dms_io_request_error(&slot->request, source->name);

	if (error && slot->piece.nr_segments > 1) {
		dms_error_destroy(error);
		error = dms_copy_piece_read(&slot->piece, source, slot->buffer);
	}
	slot->content = slot->buffer;
	return error;
}

static struct dms_error *complete(struct loop *loop, struct dms_io_request *request)
{
	return request->write ? complete_write(loop, request->context) :
				complete_read(loop, request->context);
}

static uint64_t bytes_done(const struct loop *loop)
{
	return loop->bytes_data + loop->zero_out.bytes_zero;
}

/*
 * One more piece, then one completion, waited for only when nothing more can be
 * started: a medium that answers at once (page cache, tmpfs) is written from
 * a buffer that is still in the processor's cache.
 */
static struct dms_error *step(struct loop *loop)
{
	struct dms_io_request *request;
	struct dms_error *error = NULL;
	int timeout_ms;

	if (may_start(loop) && dms_pace_is_paid(&loop->pace))
		error = start_piece(loop);
	if (!error)
		error = take_turns(loop);
	timeout_ms = dms_pace_timeout_ms(&loop->pace, may_start(loop));
	if (!error)
		error = dms_io_queue_wait(loop->queue, timeout_ms, &request);
	if (!error && request)
		error = complete(loop, request);
	else if (!error && !dms_io_queue_in_flight(loop->queue))
		dms_pace_sleep(&loop->pace);
	return error ? error : dms_progress_report(&loop->progress, bytes_done(loop));
}

static bool busy(struct loop *loop)
{
	return loop->first || dms_io_queue_in_flight(loop->queue) ||
	       dms_copy_cutter_has_more(&loop->cutter);
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
