// SPDX-License-Identifier: Apache-2.0
/* Layout and checks as sb_check() and __check_incompat_features() of dm-thin-metadata.c. */
#include <inttypes.h>

#include <dmsnap/checksum.h>

#include "cleanup.h"
#include "le_cursor.h"
#include "metadata_walk.h"
#include "thin_superblock.h"

#define WHAT "thin superblock"
#define MAGIC 27022010
#define CSUM_XOR 160774
/* 1 has the same layout; what comes after 2 are others' formats with other block sizes. */
#define MIN_VERSION 1
#define MAX_VERSION 2
#define UUID_BYTES 16
#define SPACE_MAP_ROOT_BYTES 128
#define METADATA_BLOCK_SECTORS 8
/* DATA_DEV_BLOCK_SIZE_MIN_SECTORS and DATA_DEV_BLOCK_SIZE_MAX_SECTORS of dm-thin.c */
#define MIN_BLOCK_SECTORS 128
#define MAX_BLOCK_SECTORS 2097152
#define SECTOR_BYTES 512

/* struct disk_sm_root: of the data device's space map only its size is of interest. */
static struct dms_error *parse_data_space_map(struct dms_le_cursor *cursor,
					      struct dms_thin_superblock *superblock)
{
	size_t start = cursor->position;

	DMS_TRY(dms_le_cursor_u64(cursor, "data_space_map_root.nr_blocks",
				  &superblock->data_nr_blocks));
	DMS_TRY(dms_le_cursor_u64(cursor, "data_space_map_root.nr_allocated",
				  &superblock->data_nr_allocated));
	return dms_le_cursor_seek(cursor, "metadata_space_map_root", start + SPACE_MAP_ROOT_BYTES);
}

static struct dms_error *parse(struct dms_le_cursor *cursor, uint64_t *magic,
			       struct dms_thin_superblock *superblock)
{
	DMS_TRY(dms_le_cursor_u32(cursor, "csum", &superblock->csum));
	DMS_TRY(dms_le_cursor_u32(cursor, "flags", &superblock->flags));
	DMS_TRY(dms_le_cursor_u64(cursor, "blocknr", &superblock->blocknr));
	DMS_TRY(dms_le_cursor_skip(cursor, "uuid", UUID_BYTES));
	DMS_TRY(dms_le_cursor_u64(cursor, "magic", magic));
	DMS_TRY(dms_le_cursor_u32(cursor, "version", &superblock->version));
	DMS_TRY(dms_le_cursor_u32(cursor, "time", &superblock->time));
	DMS_TRY(dms_le_cursor_u64(cursor, "trans_id", &superblock->trans_id));
	DMS_TRY(dms_le_cursor_u64(cursor, "held_root", &superblock->held_root));
	DMS_TRY(parse_data_space_map(cursor, superblock));
	DMS_TRY(dms_le_cursor_skip(cursor, "metadata_space_map_root", SPACE_MAP_ROOT_BYTES));
	DMS_TRY(dms_le_cursor_u64(cursor, "data_mapping_root", &superblock->data_mapping_root));
	DMS_TRY(dms_le_cursor_u64(cursor, "device_details_root",
				  &superblock->device_details_root));
	DMS_TRY(dms_le_cursor_u32(cursor, "data_block_size", &superblock->data_block_size));
	DMS_TRY(dms_le_cursor_u32(cursor, "metadata_block_size",
				  &superblock->metadata_block_size));
	DMS_TRY(dms_le_cursor_u64(cursor, "metadata_nr_blocks", &superblock->metadata_nr_blocks));
	/* Neither compat_flags nor compat_ro_flags keep anybody from reading. */
	DMS_TRY(dms_le_cursor_skip(cursor, "compat_flags", 2 * sizeof(uint32_t)));
	return dms_le_cursor_u32(cursor, "incompat_flags", &superblock->incompat_flags);
}

static struct dms_error *check_block(const uint8_t *block, uint64_t blocknr, uint64_t magic,
				     const struct dms_thin_superblock *found)
{
	if (magic != MAGIC)
		return dms_error_create_at(blocknr ? DMS_ERR_CORRUPT : DMS_ERR_BAD_MAGIC,
					   blocknr * DMS_BLOCK_BYTES,
					   WHAT " block %" PRIu64 ": no magic number", blocknr);
	DMS_TRY(dms_metadata_check_block(WHAT, blocknr, found->blocknr, found->csum,
					 dms_bm_checksum(block + sizeof(found->csum),
							 DMS_BLOCK_BYTES - sizeof(found->csum),
							 CSUM_XOR)));
	if (found->version < MIN_VERSION || found->version > MAX_VERSION)
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, blocknr * DMS_BLOCK_BYTES,
					   WHAT ": version %u, known are %d to %d",
					   found->version, MIN_VERSION, MAX_VERSION);
	if (found->incompat_flags)
		return dms_error_create_at(DMS_ERR_UNSUPPORTED, blocknr * DMS_BLOCK_BYTES,
					   WHAT ": incompatible features 0x%x, none is known",
					   found->incompat_flags);
	return NULL;
}

struct dms_error *dms_thin_superblock_read(const struct dms_block_io *io, uint64_t blocknr,
					   struct dms_thin_superblock *superblock)
{
	_cleanup_free_ uint8_t *buffer = NULL;
	struct dms_thin_superblock found = { 0 };
	struct dms_le_cursor cursor;
	const uint8_t *block;
	uint64_t magic;

	DMS_TRY(dms_buffer_create(3 * DMS_BLOCK_BYTES, &buffer));
	DMS_TRY(dms_block_io_read_bytes(io, WHAT, blocknr * DMS_BLOCK_BYTES, DMS_BLOCK_BYTES,
					buffer, &block));
	cursor = dms_le_cursor(WHAT, block, DMS_BLOCK_BYTES, blocknr * DMS_BLOCK_BYTES);
	DMS_TRY(parse(&cursor, &magic, &found));
	DMS_TRY(check_block(block, blocknr, magic, &found));
	*superblock = found;
	return NULL;
}

static struct dms_error *corrupt(const char *field, uint64_t value)
{
	return dms_error_create_at(DMS_ERR_CORRUPT, 0, WHAT ": %s %" PRIu64, field, value);
}

static struct dms_error *check_reach(const char *field, uint64_t value, uint64_t limit,
				     uint64_t nr_blocks)
{
	if (value < limit)
		return NULL;
	return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, 0,
				   WHAT ": %s %" PRIu64 ", the medium has %" PRIu64 " blocks",
				   field, value, nr_blocks);
}

struct dms_error *dms_thin_superblock_check_geometry(const struct dms_thin_superblock *superblock,
						     const struct dms_block_io *io)
{
	uint32_t data_block_size = superblock->data_block_size;

	if (data_block_size < MIN_BLOCK_SECTORS || data_block_size > MAX_BLOCK_SECTORS ||
	    data_block_size % MIN_BLOCK_SECTORS)
		return corrupt("data_block_size", data_block_size);
	if (superblock->metadata_block_size != METADATA_BLOCK_SECTORS)
		return corrupt("metadata_block_size", superblock->metadata_block_size);
	if (superblock->data_nr_blocks > INT64_MAX / SECTOR_BYTES / (uint64_t)data_block_size)
		return corrupt("beyond 2^63 bytes: data_space_map_root.nr_blocks",
			       superblock->data_nr_blocks);
	if (superblock->data_nr_allocated > superblock->data_nr_blocks)
		return corrupt("more than nr_blocks: data_space_map_root.nr_allocated",
			       superblock->data_nr_allocated);
	DMS_TRY(check_reach("metadata_nr_blocks", superblock->metadata_nr_blocks,
			    io->nr_blocks + 1, io->nr_blocks));
	return check_reach("held_root", superblock->held_root, io->nr_blocks, io->nr_blocks);
}
