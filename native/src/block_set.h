/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_BLOCK_SET_H
#define DMSNAP_SRC_BLOCK_SET_H

#include <dmsnap/block_set.h>

#include "bitset.h"
#include "cleanup.h"

/* The bits of a block set are public inside the core: readers of metadata fill them. */
struct dms_block_set {
	struct dms_bitmap *bitmap;
	uint64_t block_bytes;
	uint64_t size_bytes; /* nothing reaches beyond; UINT64_MAX: as far as the bits do */
};

/* nr_blocks × block_bytes is below 2^64. */
struct dms_error *dms_block_set_create(uint64_t nr_blocks, uint64_t block_bytes,
				       struct dms_block_set **set);
DMS_DEFINE_CLEANUP(dms_cleanup_block_set, struct dms_block_set, dms_block_set_destroy);
#define _cleanup_block_set_ DMS_CLEANUP(dms_cleanup_block_set)

#endif
