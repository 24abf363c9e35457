/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_THIN_H
#define DMSNAP_SRC_THIN_H

#include <dmsnap/thin.h>

#include "metadata_walk.h"

struct dms_thin_metadata {
	struct dms_block_io io;
	struct dms_thin_superblock superblock; /* the live one */
	struct dms_thin_superblock roots; /* the same, or its clone in the metadata snapshot */
	bool from_snapshot;
	/*
	 * Beside it go the walks of single devices: these may share blocks, but reach none of
	 * superblocks, details tree and tree of devices.
	 */
	struct dms_metadata_walk *trees;
	struct dms_thin_device *devices;
	size_t nr_devices;
	size_t capacity;
};

uint64_t dms_thin_block_bytes(const struct dms_thin_metadata *metadata);
struct dms_error *dms_thin_find_device(const struct dms_thin_metadata *metadata, uint32_t dev_id,
				       const struct dms_thin_device **device);
/*
 * At the end of every query: what is made of its success, or of an error that
 * the medium's content gave. When the metadata was written meanwhile, both mean
 * nothing. Takes error over.
 */
struct dms_error *dms_thin_distrust(const struct dms_thin_metadata *metadata,
				    struct dms_error *error);

#endif
