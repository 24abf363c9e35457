// SPDX-License-Identifier: Apache-2.0
/* Layout and checks as sb_check() and prepare_superblock() of dm-era-target.c. */
#include <inttypes.h>

#include <dmsnap/checksum.h>

#include "cleanup.h"
#include "era_superblock.h"
#include "le_cursor.h"
#include "metadata_walk.h"

#define WHAT "era superblock"
#define MAGIC 2126579579
#define CSUM_XOR 146538381
#define VERSION 1
#define UUID_BYTES 16
#define SPACE_MAP_ROOT_BYTES 128
#define METADATA_BLOCK_SECTORS 8
#define MIN_BLOCK_SECTORS 8
#define SECTOR_BYTES 512
/* Entries that one block of the era array holds. */
#define ERAS_PER_BLOCK 1018

struct preamble {
	uint32_t csum;
	uint64_t magic;
};

static struct dms_error *parse(struct dms_le_cursor *cursor, struct preamble *preamble,
			       struct dms_era_superblock *superblock)
{
	DMS_TRY(dms_le_cursor_u32(cursor, "csum", &preamble->csum));
	DMS_TRY(dms_le_cursor_u32(cursor, "flags", &superblock->flags));
	DMS_TRY(dms_le_cursor_u64(cursor, "blocknr", &superblock->blocknr));
	DMS_TRY(dms_le_cursor_skip(cursor, "uuid", UUID_BYTES));
	DMS_TRY(dms_le_cursor_u64(cursor, "magic", &preamble->magic));
	DMS_TRY(dms_le_cursor_u32(cursor, "version", &superblock->version));
	DMS_TRY(dms_le_cursor_u64(cursor, "metadata_space_map_root.nr_blocks",
				  &superblock->metadata_nr_blocks));
	DMS_TRY(dms_le_cursor_u64(cursor, "metadata_space_map_root.nr_allocated",
				  &superblock->metadata_nr_allocated));
	DMS_TRY(dms_le_cursor_skip(cursor, "metadata_space_map_root",
				   SPACE_MAP_ROOT_BYTES - 2 * sizeof(uint64_t)));
	DMS_TRY(dms_le_cursor_u32(cursor, "data_block_size", &superblock->data_block_size));
	DMS_TRY(dms_le_cursor_u32(cursor, "metadata_block_size",
				  &superblock->metadata_block_size));
	DMS_TRY(dms_le_cursor_u32(cursor, "nr_blocks", &superblock->nr_blocks));
	DMS_TRY(dms_le_cursor_u32(cursor, "current_era", &superblock->current_era));
	DMS_TRY(dms_le_cursor_u32(cursor, "current_writeset.nr_bits",
				  &superblock->current_writeset_nr_bits));
	DMS_TRY(dms_le_cursor_u64(cursor, "current_writeset.root",
				  &superblock->current_writeset_root));
	DMS_TRY(dms_le_cursor_u64(cursor, "writeset_tree_root", &superblock->writeset_tree_root));
	DMS_TRY(dms_le_cursor_u64(cursor, "era_array_root", &superblock->era_array_root));
	return dms_le_cursor_u64(cursor, "metadata_snap", &superblock->metadata_snap);
}

struct dms_error *dms_era_superblock_read(const struct dms_block_io *io, uint64_t blocknr,
					  struct dms_era_superblock *superblock, uint32_t *csum)
{
	_cleanup_free_ uint8_t *buffer = NULL;
	struct dms_era_superblock found = { 0 };
	struct preamble preamble;
	struct dms_le_cursor cursor;
	const uint8_t *block;

	DMS_TRY(dms_buffer_create(3 * DMS_BLOCK_BYTES, &buffer));
	DMS_TRY(dms_block_io_read_bytes(io, WHAT, blocknr * DMS_BLOCK_BYTES, DMS_BLOCK_BYTES,
					buffer, &block));
	cursor = dms_le_cursor(WHAT, block, DMS_BLOCK_BYTES, blocknr * DMS_BLOCK_BYTES);
	DMS_TRY(parse(&cursor, &preamble, &found));
	if (preamble.magic != MAGIC)
		return dms_error_create_at(blocknr ? DMS_ERR_CORRUPT : DMS_ERR_BAD_MAGIC,
					   blocknr * DMS_BLOCK_BYTES,
					   WHAT " block %" PRIu64 ": no magic number", blocknr);
	DMS_TRY(dms_metadata_check_block(WHAT, blocknr, found.blocknr, preamble.csum,
					 dms_bm_checksum(block + sizeof(preamble.csum),
							 DMS_BLOCK_BYTES - sizeof(preamble.csum),
							 CSUM_XOR)));
	if (found.version != VERSION)
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, blocknr * DMS_BLOCK_BYTES,
					   WHAT ": version %u, known is %d", found.version,
					   VERSION);
	*superblock = found;
	*csum = preamble.csum;
	return NULL;
}

static struct dms_error *corrupt(const char *field, uint64_t value)
{
	return dms_error_create_at(DMS_ERR_CORRUPT, 0, WHAT ": %s %" PRIu64, field, value);
}

struct dms_error *dms_era_superblock_check_geometry(const struct dms_era_superblock *superblock,
						    const struct dms_block_io *io)
{
	if (!superblock->data_block_size || superblock->data_block_size % MIN_BLOCK_SECTORS)
		return corrupt("data_block_size", superblock->data_block_size);
	if (superblock->metadata_block_size != METADATA_BLOCK_SECTORS)
		return corrupt("metadata_block_size", superblock->metadata_block_size);
	/* Each block has an entry in the array: memory is taken only for what the medium can hold. */
	if (superblock->nr_blocks / ERAS_PER_BLOCK >= io->nr_blocks)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, 0,
					   WHAT ": nr_blocks %u, the medium has %" PRIu64
						" blocks for %d eras each",
					   superblock->nr_blocks, io->nr_blocks, ERAS_PER_BLOCK);
	if (superblock->nr_blocks >
	    INT64_MAX / SECTOR_BYTES / (uint64_t)superblock->data_block_size)
		return corrupt("beyond 2^63 bytes: nr_blocks", superblock->nr_blocks);
	if (superblock->metadata_snap >= io->nr_blocks)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, 0,
					   WHAT ": metadata_snap %" PRIu64
						", the medium has %" PRIu64 " blocks",
					   superblock->metadata_snap, io->nr_blocks);
	return NULL;
}
