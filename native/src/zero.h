/* SPDX-License-Identifier: Apache-2.0 */
/* Zeroes: finding them in a buffer, and giving them to a medium without sending them. */
#ifndef DMSNAP_SRC_ZERO_H
#define DMSNAP_SRC_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

#include "medium.h"

bool dms_is_zero(const void *data, size_t length_bytes);

/*
 * The run at the beginning of data: its length, and whether it is of zeroes.
 * A run of zeroes shorter than DMS_ZERO_RUN_BYTES counts as data, unless it is
 * all there is.
 */
#define DMS_ZERO_RUN_BYTES 65536u
size_t dms_zero_next_run(const void *data, size_t length_bytes, bool *zero);

/* Ranges that touch are gathered, so that an empty volume takes few system calls. */
struct dms_zero_out {
	const struct dms_medium *medium;
	uint64_t offset_bytes;
	uint64_t length_bytes;
	unsigned int way; /* the first of the ways to zero that the medium has not refused */
	bool punches; /* so far: in an instant, however much it is */
	uint64_t bytes_zero;
};

struct dms_error *dms_zero_out_add(struct dms_zero_out *zero_out, uint64_t offset_bytes,
				   uint64_t length_bytes);
/* What was gathered goes to the medium now. */
struct dms_error *dms_zero_out_finish(struct dms_zero_out *zero_out);

#endif
