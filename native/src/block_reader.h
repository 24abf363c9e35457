/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many metadata blocks, read in the order in which they lie on the medium:
 * neighbours together, several reads in flight while what has come is worked
 * on. Without io_uring one read at a time, otherwise the same.
 */
#ifndef DMSNAP_SRC_BLOCK_READER_H
#define DMSNAP_SRC_BLOCK_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

#include "block_io.h"
#include "block_source.h"

typedef struct dms_error *(*dms_block_fn)(void *context, const struct dms_block_ref *ref,
					  const uint8_t *block);

struct dms_block_reader;

/* io stays the caller's, and outlives the reader. */
struct dms_error *dms_block_reader_create(const struct dms_block_io *io,
					  struct dms_block_reader **reader);
void dms_block_reader_destroy(struct dms_block_reader *reader);
const struct dms_block_io *dms_block_reader_io(const struct dms_block_reader *reader);

/*
 * Read runs of the source until there are none, hand their blocks to fn in that
 * order, with the source's context, and tell the source of an error.
 */
void dms_block_reader_read(struct dms_block_reader *reader, struct dms_block_source *source,
			   dms_block_fn fn);

/*
 * Hand every block that next() names to fn, in that order; both get context.
 * Neighbours are read together, through small gaps, too, whose errors do not
 * matter. A block that lies outside the medium is DMS_ERR_OUT_OF_BOUNDS.
 */
struct dms_error *dms_block_reader_run(struct dms_block_reader *reader, const char *what,
				       dms_block_next_fn next, dms_block_fn fn, void *context);
/* The same for a vector, which is sorted in place. */
struct dms_error *dms_block_reader_run_refs(struct dms_block_reader *reader, const char *what,
					    struct dms_block_ref *refs, size_t nr_refs,
					    dms_block_fn fn, void *context);

#endif
