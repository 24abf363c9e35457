/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is read at once. Runs are what somebody wants copied or compared; a
 * piece is cut out of one, or joins several that lie close together, where
 * reading through the gaps is cheaper than more requests. Only reading crosses
 * a gap: the segments of a piece are what was wanted, and nothing else.
 */
#ifndef DMSNAP_SRC_COPY_PIECE_H
#define DMSNAP_SRC_COPY_PIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

#include "medium.h"

/*
 * With many requests in flight one of 4 KiB costs about as much as reading 12 KiB
 * more: with gaps of 8 KiB joining took 0.6 of the time, with 16 KiB 1.6 times as
 * long, and the same of the processor.
 */
#define DMS_COPY_GAP_BYTES (8u << 10)
#define DMS_COPY_MAX_SEGMENTS 64u

struct dms_copy_run {
	const char *memory; /* the content, where it is known already: nothing is read */
	uint64_t source_offset_bytes; /* with memory: in it */
	uint64_t source_length_bytes; /* may be more than length_bytes: read, and not written */
	uint64_t destination_offset_bytes;
	uint64_t length_bytes;
};

/* The next run; false when there are no more. */
typedef bool (*dms_copy_next_run_fn)(void *context, struct dms_copy_run *run);

/* Runs from extents, in their order, with the same offsets on both sides. */
struct dms_extent_runs {
	const struct dms_extent *extents;
	size_t count;
	size_t next;
};

struct dms_extent_runs dms_extent_runs_of(const struct dms_extent_set *set);
bool dms_extent_runs_next(void *context, struct dms_copy_run *run);

struct dms_copy_cutter {
	dms_copy_next_run_fn next_run;
	void *context;
	struct dms_copy_run run; /* what is left of it */
	bool exhausted; /* the run left is the last */
};

struct dms_copy_segment {
	uint32_t buffer_offset_bytes;
	uint32_t length_bytes;
	uint64_t destination_offset_bytes;
};

struct dms_copy_piece {
	const char *memory; /* of its first byte; NULL: to be read */
	uint64_t source_offset_bytes;
	uint32_t length_bytes; /* from the first segment to the end of the last, gaps included */
	uint32_t nr_segments;
	struct dms_copy_segment segments[DMS_COPY_MAX_SEGMENTS];
};

/* Whether there is another piece. */
bool dms_copy_cutter_has_more(struct dms_copy_cutter *cutter);
/* The next one, of at most length_bytes. Only when there is more. */
void dms_copy_cutter_next(struct dms_copy_cutter *cutter, uint32_t length_bytes,
			  struct dms_copy_piece *piece);

/*
 * Read only the segments of a piece, one after the other, here and now: what
 * failed may lie in a gap.
 */
struct dms_error *dms_copy_piece_read(const struct dms_copy_piece *piece,
				      const struct dms_medium *medium, char *buffer);

#endif
