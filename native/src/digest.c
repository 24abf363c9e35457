// SPDX-License-Identifier: Apache-2.0
#include <dmsnap/digest.h>

#include "cleanup.h"
#include "copy_loop.h"
#include "pace.h"
#include "progress.h"
#include "read_ahead.h"
#include "xxh3.h"

DMS_DEFINE_CLEANUP(cleanup_state, XXH3_state_t, XXH3_freeState);

static struct dms_error *check_medium(int fd, uint64_t size_bytes, struct dms_medium *medium)
{
	struct dms_error *error = dms_medium_probe(fd, "the device", medium);

	return error ? error : dms_medium_check_range(medium, 0, size_bytes);
}

static struct dms_error *hash_all(struct dms_read_ahead *reader, struct dms_progress *progress,
				  XXH3_state_t *state)
{
	enum dms_read_state read = DMS_READ_WAITING;
	struct dms_error *error = NULL;
	uint64_t bytes_done = 0;
	struct dms_extent piece;
	const void *data;

	while (!error && read != DMS_READ_END) {
		error = dms_read_ahead_next(reader, &read, &piece, &data);
		if (!error && read == DMS_READ_PIECE) {
			XXH3_128bits_update(state, data, piece.length_bytes);
			bytes_done += piece.length_bytes;
		}
		if (!error)
			error = dms_progress_report(progress, bytes_done);
	}
	return error ? error : dms_progress_report_now(progress, bytes_done);
}

struct dms_error *dms_digest_extents(int fd, uint64_t size_bytes,
				     const struct dms_extent_set *extents,
				     const struct dms_copy_options *options, uint8_t *digest)
{
	_cleanup_extent_set_ struct dms_extent_set *chosen = NULL;
	_cleanup_read_ahead_ struct dms_read_ahead *reader = NULL;
	DMS_CLEANUP(cleanup_state) XXH3_state_t *state = XXH3_createState();
	struct dms_piece_cursor cursor;
	struct dms_pace pace;
	struct dms_progress progress;
	struct dms_medium medium;
	struct dms_error *error;

	if (!state || XXH3_128bits_reset(state) == XXH_ERROR)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a digest");
	DMS_TRY(check_medium(fd, size_bytes, &medium));
	DMS_TRY(dms_pace_start(&pace, options, 1, DMS_COPY_PAGE_BYTES, size_bytes));
	DMS_TRY(dms_copy_choose_extents(extents, size_bytes, DMS_COPY_PAGE_BYTES, &chosen));
	dms_piece_cursor_init(&cursor, chosen, dms_pace_piece_bytes(&pace));
	DMS_TRY(dms_read_ahead_create(&medium, &cursor, &pace, &reader));
	dms_progress_start(&progress, options);
	error = hash_all(reader, &progress, state);
	if (error)
		return error;
	dms_xxh3_digest(state, digest);
	return NULL;
}
