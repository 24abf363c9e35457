/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_THIN_SUPERBLOCK_H
#define DMSNAP_SRC_THIN_SUPERBLOCK_H

#include <dmsnap/thin.h>

#include "block_io.h"

/* The live superblock (block 0) or its clone: magic, checksum, place, version. */
struct dms_error *dms_thin_superblock_read(const struct dms_block_io *io, uint64_t blocknr,
					   struct dms_thin_superblock *superblock);
/* What only the live superblock says, against the medium. */
struct dms_error *dms_thin_superblock_check_geometry(const struct dms_thin_superblock *superblock,
						     const struct dms_block_io *io);

#endif
