/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop under dms_copy_compare(): both sides are read with several requests
 * in flight and compared in ascending order, so that what differs, and the undo
 * store, are ascending too.
 */
#ifndef DMSNAP_SRC_COMPARE_LOOP_H
#define DMSNAP_SRC_COMPARE_LOOP_H

#include <dmsnap/copy.h>

#include "medium.h"

struct dms_compare_job {
	const struct dms_medium *source;
	const struct dms_medium *destination;
	const struct dms_extent_set *extents; /* whole chunks, but at the volume's end */
	uint32_t chunk_bytes; /* of the undo store; without one, a page */
	struct dms_undo_store *undo; /* NULL: none */
};

/* Results are written on success. */
struct dms_error *dms_compare_loop_run(const struct dms_compare_job *job,
				       const struct dms_copy_options *options,
				       struct dms_copy_stats *stats,
				       struct dms_extent_set **different);

#endif
