/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dm-era metadata (drivers/md/dm-era-target.c): which blocks were written
 * since an era. Field names are the kernel's.
 */
#ifndef DMSNAP_ERA_H
#define DMSNAP_ERA_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/block_set.h>
#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
struct dms_era_superblock {
	uint32_t flags;
	uint64_t blocknr;
	uint32_t version;
	uint64_t metadata_nr_blocks; /* as of the last commit, and not checked */
	uint64_t metadata_nr_allocated;
	uint32_t data_block_size; /* sectors */
	uint32_t metadata_block_size; /* sectors, always 8 */
	uint32_t nr_blocks; /* data blocks */
	uint32_t current_era;
	uint32_t current_writeset_nr_bits;
	uint64_t current_writeset_root; /* metadata block; 0: none */
	uint64_t writeset_tree_root; /* metadata block */
	uint64_t era_array_root; /* metadata block */
	uint64_t metadata_snap; /* metadata block; 0: none held */
};

struct dms_era_metadata;

/*
 * fd: a dm-era metadata device or an image of one, opened for reading and
 * kept open by the caller; O_DIRECT is used as the descriptor has it (it must
 * have it on a device in use, whose page cache the kernel does not update).
 * Validates the live superblock in full.
 */
struct dms_error *dms_era_metadata_open(int fd, struct dms_era_metadata **metadata);
void dms_era_metadata_close(struct dms_era_metadata *metadata);
const struct dms_era_superblock *dms_era_metadata_superblock(const struct dms_era_metadata *metadata);

/*
 * Every block whose era is since or later, out of the archived writesets, the
 * current writeset and the era array. With from_snapshot the roots are those of
 * the metadata snapshot (DMS_ERR_NO_METADATA_SNAPSHOT when none is held), the
 * geometry always that of the live superblock. The last block may reach beyond
 * a device whose size is no multiple of the block size, so clamp. The kernel's
 * first era is 1, and 0 in the era array says never written: since 0 gives
 * every block. DMS_ERR_CHANGED when the superblock was written while the
 * metadata was read, or the metadata snapshot dropped: nothing of what was read
 * can be trusted then.
 */
struct dms_error *dms_era_written_blocks(struct dms_era_metadata *metadata, uint32_t since,
					 bool from_snapshot, struct dms_block_set **set);
/* The same as extents, in bytes of the data device. */
struct dms_error *dms_era_written_since(struct dms_era_metadata *metadata, uint32_t since,
					bool from_snapshot, struct dms_extent_set **set);
/* cffi: end */

#endif
