/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop under dms_copy_apply() and dms_copy_roll_back(): pieces are read
 * with several in flight, taken in order (so that zeroes can be gathered), and
 * their segments written.
 */
#ifndef DMSNAP_SRC_COPY_LOOP_H
#define DMSNAP_SRC_COPY_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/copy.h>

#include "copy_piece.h"
#include "medium.h"

/* Both sides hold size_bytes, can be transferred to their ends, and differ; nothing is written. */
struct dms_error *dms_copy_check_sides(int source_fd, int destination_fd, uint64_t size_bytes,
				       const struct dms_copy_options *options,
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
	uint64_t bytes; /* of all runs that are read, about: what preparations are worth it */
	uint64_t nr_runs; /* that are read, about */
	bool zero_detection;
};

/* Copy every run and flush the destination. stats is written on success. */
struct dms_error *dms_copy_loop_run(const struct dms_copy_job *job,
				    const struct dms_copy_options *options,
				    struct dms_copy_stats *stats);

#endif
