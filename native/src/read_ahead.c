// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "io_queue.h"
#include "progress.h"
#include "read_ahead.h"

/* A slot is free, then reading, then read and waits for its turn, then the caller's. */
struct slot {
	struct dms_io_request request;
	bool read;
	struct slot *next; /* free, or behind in the order of reading */
};

struct dms_read_ahead {
	struct dms_medium medium;
	struct dms_piece_cursor cursor;
	struct dms_pace pace;
	bool exhausted;
	char *memory;
	struct slot *slots;
	struct slot *free;
	struct slot *first; /* the oldest that the caller has not had */
	struct slot **last;
	struct slot *lent; /* the caller's, until it asks for the next one */
	struct dms_io_queue *queue;
};

void dms_piece_cursor_init(struct dms_piece_cursor *cursor, const struct dms_extent_set *extents,
			   uint32_t piece_bytes)
{
	*cursor = (struct dms_piece_cursor){
		.extents = dms_extent_set_extents(extents),
		.nr_extents = dms_extent_set_count(extents),
		.piece_bytes = piece_bytes,
	};
}

bool dms_piece_cursor_next(struct dms_piece_cursor *cursor, struct dms_extent *piece)
{
	const struct dms_extent *extent;
	uint64_t left;

	if (cursor->extent == cursor->nr_extents)
		return false;
	extent = &cursor->extents[cursor->extent];
	left = extent->length_bytes - cursor->position;
	piece->offset_bytes = extent->offset_bytes + cursor->position;
	piece->length_bytes = left < cursor->piece_bytes ? left : cursor->piece_bytes;
	cursor->position += piece->length_bytes;
	if (cursor->position == extent->length_bytes) {
		cursor->extent++;
		cursor->position = 0;
	}
	return true;
}

static struct dms_error *allocate(struct dms_read_ahead *reader, uint32_t depth)
{
	size_t piece_bytes = reader->cursor.piece_bytes;
	uint32_t i;

	reader->memory = dms_io_buffer(depth * piece_bytes);
	reader->slots = calloc(depth, sizeof(*reader->slots));
	if (!reader->memory || !reader->slots)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for read buffers");
	reader->last = &reader->first;
	for (i = 0; i < depth; i++) {
		reader->slots[i].request.buffer = reader->memory + i * piece_bytes;
		reader->slots[i].next = reader->free;
		reader->free = &reader->slots[i];
	}
	return NULL;
}

struct dms_error *dms_read_ahead_create(const struct dms_medium *medium,
					const struct dms_piece_cursor *cursor,
					const struct dms_pace *pace,
					struct dms_read_ahead **reader)
{
	_cleanup_read_ahead_ struct dms_read_ahead *new = calloc(1, sizeof(*new));
	struct dms_error *error;

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for reading ahead");
	new->medium = *medium;
	new->cursor = *cursor;
	new->pace = *pace;
	error = allocate(new, pace->nr_slots);
	if (!error)
		error = dms_io_queue_create(pace->nr_slots, pace->without_io_uring, &new->queue);
	if (!error)
		*reader = dms_steal(new);
	return error;
}

void dms_read_ahead_destroy(struct dms_read_ahead *reader)
{
	if (!reader)
		return;
	/* The queue first: it waits for what is in flight in the buffers. */
	dms_io_queue_destroy(reader->queue);
	free(reader->slots);
	free(reader->memory);
	free(reader);
}

static void give_back(struct dms_read_ahead *reader)
{
	if (!reader->lent)
		return;
	reader->lent->next = reader->free;
	reader->free = reader->lent;
	reader->lent = NULL;
}

static struct dms_error *start_read(struct dms_read_ahead *reader)
{
	struct slot *slot = reader->free;
	struct dms_extent piece;

	if (!dms_piece_cursor_next(&reader->cursor, &piece)) {
		reader->exhausted = true;
		return NULL;
	}
	reader->free = slot->next;
	slot->next = NULL;
	slot->read = false;
	slot->request = (struct dms_io_request){
		.fd = reader->medium.fd,
		.buffer = slot->request.buffer,
		.offset_bytes = piece.offset_bytes,
		.length_bytes = (uint32_t)piece.length_bytes,
		.context = slot,
	};
	*reader->last = slot;
	reader->last = &slot->next;
	dms_pace_begin(&reader->pace, piece.length_bytes);
	dms_pace_charge(&reader->pace, piece.length_bytes);
	return dms_io_queue_submit(reader->queue, &slot->request);
}

static struct dms_error *start_reads(struct dms_read_ahead *reader)
{
	struct dms_error *error = NULL;

	while (!error && !reader->exhausted && reader->free &&
	       dms_io_queue_room(reader->queue) && dms_pace_has_room(&reader->pace) &&
	       dms_pace_is_paid(&reader->pace))
		error = start_read(reader);
	return error;
}

/* Take in completed reads until the oldest is among them, or nothing came in time. */
static struct dms_error *await_first(struct dms_read_ahead *reader)
{
	struct dms_io_request *request;
	struct slot *slot;

	while (!reader->first->read) {
		struct dms_error *error = dms_io_queue_wait(reader->queue,
							    DMS_PROGRESS_INTERVAL_MS, &request);

		if (error || !request)
			return error;
		error = dms_io_request_error(request, reader->medium.name);
		if (error)
			return error;
		dms_pace_end(&reader->pace, request->length_bytes);
		slot = request->context;
		slot->read = true;
	}
	return NULL;
}

struct dms_error *dms_read_ahead_next(struct dms_read_ahead *reader, enum dms_read_state *state,
				      struct dms_extent *piece, const void **data)
{
	struct slot *slot;
	struct dms_error *error;

	give_back(reader);
	error = start_reads(reader);
	if (!error && reader->first)
		error = await_first(reader);
	else if (!error && !reader->exhausted)
		dms_pace_sleep(&reader->pace);
	if (error)
		return error;
	slot = reader->first;
	if (slot)
		*state = slot->read ? DMS_READ_PIECE : DMS_READ_WAITING;
	else
		*state = reader->exhausted ? DMS_READ_END : DMS_READ_WAITING;
	if (*state != DMS_READ_PIECE)
		return NULL;
	reader->first = slot->next;
	if (!reader->first)
		reader->last = &reader->first;
	reader->lent = slot;
	piece->offset_bytes = slot->request.offset_bytes;
	piece->length_bytes = slot->request.length_bytes;
	*data = slot->request.buffer;
	return NULL;
}
