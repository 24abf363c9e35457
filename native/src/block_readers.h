/* SPDX-License-Identifier: Apache-2.0 */
/* One source of blocks for several readers, each in a thread of its own. */
#ifndef DMSNAP_SRC_BLOCK_READERS_H
#define DMSNAP_SRC_BLOCK_READERS_H

#include <stdint.h>

#include <dmsnap/error.h>

#include "block_reader.h"

/* More would wait for memory, or for one disk. */
#define DMS_MAX_READERS 4

/*
 * As dms_block_reader_run(), but that blocks come to fn in no order, and several
 * at the same time: fn may change only what is one block's own, or what the
 * processor changes as one. The error is the one that a single reader would have
 * met first. nr_blocks is about how many there will be: it takes many to be
 * worth a thread. Where none can be made, reader does it alone.
 */
struct dms_error *dms_block_readers_run(struct dms_block_reader *reader, uint64_t nr_blocks,
					const char *what, dms_block_next_fn next, dms_block_fn fn,
					void *context);

#endif
