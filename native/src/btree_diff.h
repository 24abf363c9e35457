/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_BTREE_DIFF_H
#define DMSNAP_SRC_BTREE_DIFF_H

#include "btree.h"

/* One of two trees that may share nodes: each has a walk of its own over the same medium. */
struct dms_btree_side {
	struct dms_metadata_walk *walk;
	uint64_t root;
	dms_btree_fn fn;
	void *context;
};

/*
 * Hand the entries of both trees to their sides' fn, as dms_btree_walk() does,
 * but for nodes that both have at the same height for the same keys: these and
 * what is below them are the same on both sides, and are not read.
 */
struct dms_error *dms_btree_walk_unshared(const char *what, struct dms_btree_side *one,
					  struct dms_btree_side *other, uint32_t value_size);

#endif
