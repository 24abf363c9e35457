/* SPDX-License-Identifier: Apache-2.0 */
/* The leaves of a device's mapping tree, gathered into runs of blocks. */
#ifndef DMSNAP_SRC_THIN_MAPPING_H
#define DMSNAP_SRC_THIN_MAPPING_H

#include <dmsnap/thin.h>

#include "thin.h"

#define DMS_THIN_MAPPING_WHAT "mapping tree"
#define DMS_THIN_MAPPING_BYTES 8

struct dms_thin_mappings {
	uint64_t block_bytes;
	uint64_t data_nr_blocks; /* what a mapping may point to lies below */
	uint64_t total_blocks;
	struct dms_thin_mapping *mappings;
	size_t count;
	size_t capacity;
};

struct dms_error *dms_thin_mappings_create(const struct dms_thin_metadata *metadata,
					   struct dms_thin_mappings **mappings);
DMS_DEFINE_CLEANUP(dms_cleanup_thin_mappings, struct dms_thin_mappings, dms_thin_mappings_destroy);
#define _cleanup_thin_mappings_ DMS_CLEANUP(dms_cleanup_thin_mappings)

/* A dms_btree_fn; context is the mappings. */
struct dms_error *dms_thin_mappings_add(void *context, uint64_t blocknr, uint64_t key,
					const uint8_t *value);
/* After the last add(): ascending, neighbours joined. */
void dms_thin_mappings_sort(struct dms_thin_mappings *mappings);

#endif
