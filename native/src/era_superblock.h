/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_ERA_SUPERBLOCK_H
#define DMSNAP_SRC_ERA_SUPERBLOCK_H

#include <dmsnap/era.h>

#include "block_io.h"

/*
 * Read and check the superblock at blocknr: 0 is the live one, any other is
 * the clone that a metadata snapshot is. csum is its checksum: another one
 * tells that the block was written.
 */
struct dms_error *dms_era_superblock_read(const struct dms_block_io *io, uint64_t blocknr,
					  struct dms_era_superblock *superblock, uint32_t *csum);
/* What holds for the live superblock only: in a clone just the two roots are valid. */
struct dms_error *dms_era_superblock_check_geometry(const struct dms_era_superblock *superblock,
						    const struct dms_block_io *io);

#endif
