// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "copy_kept.h"
#include "io_queue.h"

DMS_DEFINE_CLEANUP(cleanup_kept, struct dms_copy_kept, dms_copy_kept_destroy);

struct dms_copy_kept {
	struct dms_extent_set *extents;
	char *content; /* of the extents, one behind the other; made by the first that is kept */
	uint64_t limit_bytes;
	uint64_t used_bytes;
};

struct dms_error *dms_copy_kept_create(uint64_t limit_bytes, struct dms_copy_kept **kept)
{
	DMS_CLEANUP(cleanup_kept) struct dms_copy_kept *new = calloc(1, sizeof(*new));
	struct dms_error *error;

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory to keep what differs");
	new->limit_bytes = limit_bytes;
	error = dms_extent_set_create(&new->extents);
	if (!error)
		*kept = dms_steal(new);
	return error;
}

void dms_copy_kept_destroy(struct dms_copy_kept *kept)
{
	if (!kept)
		return;
	dms_extent_set_destroy(kept->extents);
	free(kept->content);
	free(kept);
}

uint64_t dms_copy_kept_bytes(const struct dms_copy_kept *kept)
{
	return kept->used_bytes;
}

const struct dms_extent_set *dms_copy_kept_extents(const struct dms_copy_kept *kept)
{
	return kept->extents;
}

const char *dms_copy_kept_content(const struct dms_copy_kept *kept)
{
	return kept->content;
}

/* What is kept is the beginning of what differs: after the first that has no room, nothing more. */
struct dms_error *dms_copy_kept_add(struct dms_copy_kept *kept, uint64_t offset_bytes,
				    const void *content, uint32_t length_bytes)
{
	struct dms_error *error;

	if (length_bytes > kept->limit_bytes - kept->used_bytes) {
		kept->limit_bytes = kept->used_bytes;
		return NULL;
	}
	if (!kept->content)
		kept->content = dms_io_huge_buffer(kept->limit_bytes);
	/* It is read again, then. */
	if (!kept->content) {
		kept->limit_bytes = 0;
		return NULL;
	}
	error = dms_extent_set_add(kept->extents, offset_bytes, length_bytes);
	if (error)
		return error;
	memcpy(kept->content + kept->used_bytes, content, length_bytes);
	kept->used_bytes += length_bytes;
	return NULL;
}
