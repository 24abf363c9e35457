// SPDX-License-Identifier: Apache-2.0
/* dm-era's superblock: what is accepted, is what its bytes say, and has a geometry. */
#include <dmsnap/era.h>

#include "../src/era_superblock.h"
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"

/* control: u64 blocknr that is read; u64 size of the medium that the geometry is held against. */
const struct fuzz_layout fuzz_layout = {
	.block_bytes = FUZZ_BLOCK_BYTES,
	.max_blocks = 2,
	.nr_kinds = 1,
	.kinds = { &fuzz_era_superblock_kind },
};

static void compare(const struct dms_era_superblock *superblock, const uint8_t *block)
{
	CHECK(get_le64(block + 32) == 2126579579);
	CHECK(superblock->flags == get_le32(block + 4));
	CHECK(superblock->blocknr == get_le64(block + 8));
	CHECK(superblock->version == 1 && get_le32(block + 40) == 1);
	CHECK(superblock->data_block_size == get_le32(block + 172));
	CHECK(superblock->metadata_block_size == get_le32(block + 176));
	CHECK(superblock->nr_blocks == get_le32(block + 180));
	CHECK(superblock->current_era == get_le32(block + 184));
	CHECK(superblock->current_writeset_nr_bits == get_le32(block + 188));
	CHECK(superblock->current_writeset_root == get_le64(block + 192));
	CHECK(superblock->writeset_tree_root == get_le64(block + 200));
	CHECK(superblock->era_array_root == get_le64(block + 208));
	CHECK(superblock->metadata_snap == get_le64(block + 216));
}

static void check_geometry(const struct dms_era_superblock *superblock, uint64_t size_bytes)
{
	struct dms_block_io io = { .fd = -1, .size_bytes = size_bytes,
				   .nr_blocks = size_bytes / DMS_BLOCK_BYTES };
	struct dms_error *error = dms_era_superblock_check_geometry(superblock, &io);
	uint64_t bytes;

	if (error) {
		fuzz_refused(error);
		return;
	}
	CHECK(superblock->data_block_size && superblock->data_block_size % 8 == 0);
	CHECK(!__builtin_mul_overflow(superblock->data_block_size * 512ull, superblock->nr_blocks,
				      &bytes) &&
	      bytes <= INT64_MAX);
	CHECK(superblock->metadata_snap < io.nr_blocks);
	CHECK((superblock->nr_blocks + 1017ull) / 1018 <= io.nr_blocks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dms_era_superblock superblock;
	struct dms_block_io io;
	struct dms_error *error;
	uint64_t blocknr;
	uint32_t csum;

	if (!fuzz_is_input(size))
		return 0;
	blocknr = get_le64(data);
	size -= FUZZ_CONTROL_BYTES;
	CHECK_OK(dms_block_io_init(&io, fuzz_medium(data + FUZZ_CONTROL_BYTES, size, 0, size)));
	/* The live superblock is 0; a clone's number was held against the medium's size. */
	if (blocknr >= io.nr_blocks)
		blocknr = 0;
	error = dms_era_superblock_read(&io, blocknr, &superblock, &csum);
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	compare(&superblock, data + FUZZ_CONTROL_BYTES + blocknr * DMS_BLOCK_BYTES);
	CHECK(superblock.blocknr == blocknr);
	CHECK(csum == get_le32(data + FUZZ_CONTROL_BYTES + blocknr * DMS_BLOCK_BYTES));
	check_geometry(&superblock, get_le64(data + 8));
	return 0;
}
