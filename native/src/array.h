/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The array of drivers/md/persistent-data: a btree from 0, 1, 2 … to blocks of
 * packed values, all full but the last.
 */
#ifndef DMSNAP_SRC_ARRAY_H
#define DMSNAP_SRC_ARRAY_H

#include <stdint.h>

#include <dmsnap/error.h>

#include "metadata_walk.h"

/* nr_entries values from index first on, in block blocknr. */
struct dms_array_run {
	uint64_t blocknr;
	uint64_t first;
	uint32_t nr_entries;
	const uint8_t *values;
};

typedef struct dms_error *(*dms_array_fn)(void *context, const struct dms_array_run *run);

/*
 * Hand every block to fn, of a large array several at the same time, in threads:
 * fn may change only what is one block's own, or what the processor changes as one.
 * An error is that of the first block on the medium that has one. nr_entries: how
 * many the array has; nothing is missing in between.
 */
struct dms_error *dms_array_walk(struct dms_metadata_walk *walk, const char *what, uint64_t root,
				 uint32_t value_size, dms_array_fn fn, void *context,
				 uint64_t *nr_entries);

#endif
