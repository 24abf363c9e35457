/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop under dms_copy_apply() and dms_copy_roll_back(): runs are cut into
 * requests, read with several in flight, taken in order (so that zeroes can be
 * gathered), and written.
 */
#ifndef DMSNAP_SRC_COPY_LOOP_H
#define DMSNAP_SRC_COPY_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/copy.h>

#include "medium.h"

#define DMS_COPY_PAGE_BYTES 4096u
#define DMS_COPY_MAX_MEMORY_BYTES (64u << 20)
#define DMS_COPY_REQUEST_BYTES (1u << 20)
#define DMS_COPY_QUEUE_DEPTH 24u
#define DMS_COPY_MAX_REQUEST_BYTES (16u << 20)

struct dms_copy_run {
	uint64_t source_offset_bytes;
	uint64_t source_length_bytes; /* may be more than length_bytes: read, and not written */
	uint64_t destination_offset_bytes;
	uint64_t length_bytes;
};

/* The next run; false when there are no more. */
typedef bool (*dms_copy_next_run_fn)(void *context, struct dms_copy_run *run);

/* How requests are cut and how many are in flight: the options, checked, and what they leave open. */
struct dms_copy_sizes {
	uint32_t request_bytes;
	uint32_t depth;
	bool without_io_uring;
};

/* buffers: how many of request_bytes each request needs; multiple: what request_bytes is cut by. */
struct dms_error *dms_copy_choose_sizes(const struct dms_copy_options *options, uint32_t buffers,
					uint32_t multiple_bytes, struct dms_copy_sizes *sizes);

/* Both sides hold size_bytes, can be transferred to their ends, and differ; nothing is written. */
struct dms_error *dms_copy_check_sides(int source_fd, int destination_fd, uint64_t size_bytes,
				       struct dms_medium *source, struct dms_medium *destination);
/* Extents aligned outwards to granularity_bytes, and clamped to size_bytes. */
struct dms_error *dms_copy_choose_extents(const struct dms_extent_set *extents,
					  uint64_t size_bytes, uint64_t granularity_bytes,
					  struct dms_extent_set **chosen);

struct dms_copy_job {
	const struct dms_medium *source;
	const struct dms_medium *destination;
	dms_copy_next_run_fn next_run;
	void *context;
	bool zero_detection;
};

/* Copy every run and flush the destination. stats is written on success. */
struct dms_error *dms_copy_loop_run(const struct dms_copy_job *job,
				    const struct dms_copy_options *options,
				    struct dms_copy_stats *stats);

#endif
