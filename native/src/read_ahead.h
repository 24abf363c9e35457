/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading extents in ascending order, piece by piece, with the next pieces
 * already under way: what takes a piece works while the medium does.
 */
#ifndef DMSNAP_SRC_READ_AHEAD_H
#define DMSNAP_SRC_READ_AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

#include "cleanup.h"
#include "medium.h"
#include "pace.h"

/* Where the next piece begins: extents are cut from their starts, no piece spans two of them. */
struct dms_piece_cursor {
	const struct dms_extent *extents;
	size_t nr_extents;
	uint32_t piece_bytes; /* the longest piece */
	size_t extent;
	uint64_t position; /* in the extent */
};

/* Of a set that is neither changed nor destroyed meanwhile. */
void dms_piece_cursor_init(struct dms_piece_cursor *cursor, const struct dms_extent_set *extents,
			   uint32_t piece_bytes);
/* False when there are no more. */
bool dms_piece_cursor_next(struct dms_piece_cursor *cursor, struct dms_extent *piece);

struct dms_read_ahead;

/* pace: as it was started. The reader goes on with a copy of it. */
struct dms_error *dms_read_ahead_create(const struct dms_medium *medium,
					const struct dms_piece_cursor *cursor,
					const struct dms_pace *pace,
					struct dms_read_ahead **reader);
/* Waits for what is in flight. */
void dms_read_ahead_destroy(struct dms_read_ahead *reader);
DMS_DEFINE_CLEANUP(dms_cleanup_read_ahead, struct dms_read_ahead, dms_read_ahead_destroy);
#define _cleanup_read_ahead_ DMS_CLEANUP(dms_cleanup_read_ahead)

enum dms_read_state {
	DMS_READ_PIECE, /* here is one */
	DMS_READ_WAITING, /* none within DMS_PROGRESS_INTERVAL_MS: ask again */
	DMS_READ_END,
};

/* The next piece: its data stays until the next call. */
struct dms_error *dms_read_ahead_next(struct dms_read_ahead *reader, enum dms_read_state *state,
				      struct dms_extent *piece, const void **data);

#endif
