// SPDX-License-Identifier: Apache-2.0
#include "copy_piece.h"
#include "io_queue.h"

struct dms_extent_runs dms_extent_runs_of(const struct dms_extent_set *set)
{
	return (struct dms_extent_runs){
		.extents = dms_extent_set_extents(set),
		.count = dms_extent_set_count(set),
	};
}

bool dms_extent_runs_next(void *context, struct dms_copy_run *run)
{
	struct dms_extent_runs *runs = context;
	const struct dms_extent *extent;

	if (runs->next == runs->count)
		return false;
	extent = &runs->extents[runs->next];
	*run = (struct dms_copy_run){
		.source_offset_bytes = extent->offset_bytes,
		.source_length_bytes = extent->length_bytes,
		.destination_offset_bytes = extent->offset_bytes,
		.length_bytes = extent->length_bytes,
	};
	runs->next++;
	return true;
}

bool dms_copy_cutter_has_more(struct dms_copy_cutter *cutter)
{
	struct dms_copy_run *run = &cutter->run;

	while (!run->source_length_bytes && !cutter->exhausted)
		cutter->exhausted = !cutter->next_run(cutter->context, run);
	return run->source_length_bytes != 0;
}

/* Move the front of the run, as much as fits, behind what the piece has. */
static void take(struct dms_copy_run *run, uint32_t room_bytes, struct dms_copy_piece *piece)
{
	uint64_t length = run->source_length_bytes < room_bytes ? run->source_length_bytes :
								  room_bytes;
	uint64_t wanted = run->length_bytes < length ? run->length_bytes : length;
	uint64_t begin = run->source_offset_bytes - piece->source_offset_bytes;

	piece->segments[piece->nr_segments++] = (struct dms_copy_segment){
		.buffer_offset_bytes = (uint32_t)begin,
		.length_bytes = (uint32_t)wanted,
		.destination_offset_bytes = run->destination_offset_bytes,
	};
	piece->length_bytes = (uint32_t)(begin + length);
	run->source_offset_bytes += length;
	run->source_length_bytes -= length;
	run->destination_offset_bytes += wanted;
	run->length_bytes -= wanted;
}

/* Whether the run begins close behind the piece, and within its room. */
static bool joins(const struct dms_copy_run *run, const struct dms_copy_piece *piece,
		  uint32_t length_bytes)
{
	uint64_t end = piece->source_offset_bytes + piece->length_bytes;
	uint64_t gap = run->source_offset_bytes - end;

	if (piece->nr_segments == DMS_COPY_MAX_SEGMENTS || !run->memory != !piece->memory)
		return false;
	return run->source_offset_bytes >= end && gap <= DMS_COPY_GAP_BYTES &&
	       piece->length_bytes + gap + run->source_length_bytes <= length_bytes;
}

void dms_copy_cutter_next(struct dms_copy_cutter *cutter, uint32_t length_bytes,
			  struct dms_copy_piece *piece)
{
	const struct dms_copy_run *run = &cutter->run;

	piece->source_offset_bytes = run->source_offset_bytes;
	piece->memory = run->memory ? run->memory + run->source_offset_bytes : NULL;
	piece->length_bytes = 0;
	piece->nr_segments = 0;
	do
		take(&cutter->run, length_bytes - piece->length_bytes, piece);
	while (dms_copy_cutter_has_more(cutter) && joins(run, piece, length_bytes));
}

/* Up to the next segment the buffer is the segment's: whole blocks can be read. */
static uint32_t readable(const struct dms_copy_piece *piece, uint32_t i)
{
	const struct dms_copy_segment *segment = &piece->segments[i];
	uint32_t whole = (segment->length_bytes + DMS_IO_ALIGNMENT - 1) & ~(DMS_IO_ALIGNMENT - 1);
	uint32_t end = i + 1 < piece->nr_segments ? segment[1].buffer_offset_bytes :
						    piece->length_bytes;
	uint32_t room = end - segment->buffer_offset_bytes;

	return whole < room ? whole : room;
}

struct dms_error *dms_copy_piece_read(const struct dms_copy_piece *piece,
				      const struct dms_medium *medium, char *buffer)
{
	uint32_t i;

	for (i = 0; i < piece->nr_segments; i++) {
		uint32_t begin = piece->segments[i].buffer_offset_bytes;
		struct dms_io_request request = {
			.fd = medium->fd,
			.buffer = buffer + begin,
			.offset_bytes = piece->source_offset_bytes + begin,
			.length_bytes = readable(piece, i),
		};
		struct dms_error *error = dms_io_transfer(&request, medium->name);

		if (error)
			return error;
	}
	return NULL;
}
