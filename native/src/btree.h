/* SPDX-License-Identifier: Apache-2.0 */
/* The btree of drivers/md/persistent-data: 64-bit keys, values of one size. */
#ifndef DMSNAP_SRC_BTREE_H
#define DMSNAP_SRC_BTREE_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/error.h>

#include "metadata_walk.h"

/* A node of the smallest fan-out that the kernel makes still covers 2^64 keys in fewer levels. */
#define DMS_BTREE_MAX_DEPTH 24

/* value is value_size bytes; blocknr is the leaf's, for errors. */
typedef struct dms_error *(*dms_btree_fn)(void *context, uint64_t blocknr, uint64_t key,
					  const uint8_t *value);

/*
 * Hand every entry to fn, each key once, in no order: nodes are read level by
 * level in the order in which they lie on the medium. Every node is checked:
 * checksum, place, header, ascending keys, and keys within the parent's range.
 */
struct dms_error *dms_btree_walk(struct dms_metadata_walk *walk, const char *what, uint64_t root,
				 uint32_t value_size, dms_btree_fn fn, void *context);

/*
 * One level, for walks that choose what they read. refs are nodes of it, which
 * were visited. Of internal nodes the children, then visited, take their
 * place; of leaves nothing does, and the entries are handed to fn.
 */
struct dms_error *dms_btree_read_level(struct dms_metadata_walk *walk, const char *what,
				       struct dms_block_list *refs, uint32_t value_size,
				       dms_btree_fn fn, void *context, bool *internal);

#endif
