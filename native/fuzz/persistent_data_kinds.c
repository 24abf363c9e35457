// SPDX-License-Identifier: Apache-2.0
/* The blocks of drivers/md/persistent-data, and dm-era's superblock, as the mutator sees them. */
#include <dmsnap/checksum.h>

#include "../tests/image.h"
#include "fuzz.h"

static bool is_sealed(const uint8_t *block, uint32_t salt)
{
	return get_le32(block) == dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, salt);
}

static void seal(uint8_t *block, uint32_t salt)
{
	put_le32(block, dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, salt));
}

static bool is_node(const uint8_t *block) { return is_sealed(block, NODE_SALT); }
static void seal_node(uint8_t *block) { seal(block, NODE_SALT); }
static bool is_array(const uint8_t *block) { return is_sealed(block, ARRAY_SALT); }
static void seal_array(uint8_t *block) { seal(block, ARRAY_SALT); }
static bool is_era_superblock(const uint8_t *block) { return is_sealed(block, SUPERBLOCK_SALT); }
static void seal_era_superblock(uint8_t *block) { seal(block, SUPERBLOCK_SALT); }

const struct fuzz_kind fuzz_node_kind = {
	.is_sealed = is_node,
	.seal = seal_node,
	.blocknr_at = 8,
	/* flags, blocknr, nr_entries, max_entries, value_size, the first keys */
	.fields = { { 4, 4 }, { 8, 8 }, { 16, 4 }, { 20, 4 }, { 24, 4 }, { 32, 8 }, { 40, 8 },
		    { 48, 8 } },
};

const struct fuzz_kind fuzz_array_kind = {
	.is_sealed = is_array,
	.seal = seal_array,
	.blocknr_at = 16,
	/* max_entries, nr_entries, value_size, blocknr, the first values */
	.fields = { { 4, 4 }, { 8, 4 }, { 12, 4 }, { 16, 8 }, { 24, 4 }, { 28, 4 }, { 32, 8 } },
};

const struct fuzz_kind fuzz_era_superblock_kind = {
	.is_sealed = is_era_superblock,
	.seal = seal_era_superblock,
	.blocknr_at = 8,
	/* flags, blocknr, magic, version; sizes, eras; roots */
	.fields = { { 4, 4 }, { 8, 8 }, { 32, 8 }, { 40, 4 }, { 172, 4 }, { 176, 4 }, { 180, 4 },
		    { 184, 4 }, { 188, 4 }, { 192, 8 }, { 200, 8 }, { 208, 8 }, { 216, 8 } },
};
