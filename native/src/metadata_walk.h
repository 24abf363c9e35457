/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk over the blocks of drivers/md/persistent-data structures. Every block
 * may be reached once: that ends cycles and shared subtrees, and bounds the
 * time by the size of the medium. (Sharing is between a live tree and its
 * metadata snapshot and between thin devices; a walk is over one of them.)
 */
#ifndef DMSNAP_SRC_METADATA_WALK_H
#define DMSNAP_SRC_METADATA_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

#include "block_reader.h"
#include "cleanup.h"

/* DM_SM_METADATA_MAX_BLOCKS: the kernel's space map reaches no further. */
#define DMS_METADATA_MAX_BLOCKS (255ull * 16320)

struct dms_metadata_walk {
	struct dms_block_reader *reader;
	bool reader_is_others;
	uint64_t nr_blocks;
	uint64_t *visited; /* a bit per block */
};

/* io stays the caller's, and outlives the walk. */
struct dms_error *dms_metadata_walk_create(const struct dms_block_io *io,
					   struct dms_metadata_walk **walk);
void dms_metadata_walk_destroy(struct dms_metadata_walk *walk);
DMS_DEFINE_CLEANUP(dms_cleanup_metadata_walk, struct dms_metadata_walk, dms_metadata_walk_destroy);
#define _cleanup_metadata_walk_ DMS_CLEANUP(dms_cleanup_metadata_walk)

/*
 * Reach blocknr, which block parent refers to (0: the superblock). An error
 * when it cannot be a block of the metadata, or was reached before.
 */
struct dms_error *dms_metadata_walk_visit(struct dms_metadata_walk *walk, const char *what,
					  uint64_t blocknr, uint64_t parent);

/*
 * A walk beside another one, which outlives it: over the same medium, with the
 * same reader. It must not reach what the other one has reached up to now.
 */
struct dms_error *dms_metadata_walk_create_beside(const struct dms_metadata_walk *other,
						  struct dms_metadata_walk **walk);

/* The header that all kinds of blocks have in some form, checked against where the block lies. */
struct dms_error *dms_metadata_check_block(const char *what, uint64_t blocknr,
					   uint64_t stored_blocknr, uint32_t stored_csum,
					   uint32_t computed_csum);

/* A vector of block references that are to be read. */
struct dms_block_list {
	struct dms_block_ref *refs;
	size_t count;
	size_t capacity;
};

struct dms_error *dms_block_list_add(struct dms_block_list *list, struct dms_block_ref ref);
static inline void dms_cleanup_block_list(struct dms_block_list *list)
{
	free(list->refs);
}
#define _cleanup_block_list_ DMS_CLEANUP(dms_cleanup_block_list)

#endif
