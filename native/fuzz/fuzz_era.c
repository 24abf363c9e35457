// SPDX-License-Identifier: Apache-2.0
/*
 * dm-era metadata as a whole: what was written since an era, live and out of the metadata snapshot.
 * control: u32 since; u32 not used; u64 not used.
 */
#include <stdlib.h>

#include <dmsnap/era.h>

#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"
#include "naive.h"

const struct fuzz_layout fuzz_layout = {
	.block_bytes = FUZZ_BLOCK_BYTES,
	.max_blocks = FUZZ_MAX_BLOCKS,
	.nr_kinds = 3,
	.kinds = { &fuzz_node_kind, &fuzz_array_kind, &fuzz_era_superblock_kind },
};

struct answer {
	const struct naive_image *image;
	uint32_t since;
	uint64_t nr_blocks;
	uint8_t *blocks;
};

static void add_era(void *context, uint64_t index, const uint8_t *value)
{
	const struct answer *answer = context;

	if (index < answer->nr_blocks && get_le32(value) >= answer->since)
		answer->blocks[index] = 1;
}

static void add_writeset(void *context, uint64_t era, const uint8_t *value)
{
	const struct answer *answer = context;

	if (era >= answer->since)
		naive_bitset(answer->image, get_le64(value + 4), get_le32(value), answer->blocks,
			     answer->nr_blocks);
}

static void ask_naively(struct answer *answer, bool from_snapshot)
{
	const uint8_t *live = answer->image->bytes, *roots = live;

	if (from_snapshot)
		roots += get_le64(live + 216) * IMAGE_BLOCK;
	naive_btree(answer->image, get_le64(roots + 200), 12, add_writeset, answer);
	naive_array(answer->image, get_le64(roots + 208), 4, add_era, answer);
	if (!from_snapshot && get_le64(live + 192) && get_le32(live + 184) >= answer->since)
		naive_bitset(answer->image, get_le64(live + 192), get_le32(live + 188),
			     answer->blocks, answer->nr_blocks);
}

static void compare(const struct dms_extent_set *set, const struct answer *answer,
		    uint64_t block_bytes)
{
	const struct dms_extent *extents = dms_extent_set_extents(set);
	uint64_t block = 0;

	fuzz_check_extents(set, answer->nr_blocks * block_bytes);
	for (size_t i = 0; i < dms_extent_set_count(set); i++) {
		uint64_t first = extents[i].offset_bytes / block_bytes;
		uint64_t end = first + extents[i].length_bytes / block_bytes;

		CHECK(extents[i].offset_bytes % block_bytes == 0);
		CHECK(extents[i].length_bytes % block_bytes == 0);
		while (block < first)
			CHECK(!answer->blocks[block++]);
		while (block < end)
			CHECK(answer->blocks[block++]);
	}
	while (block < answer->nr_blocks)
		CHECK(!answer->blocks[block++]);
}

static void ask(struct dms_era_metadata *metadata, const struct naive_image *image, uint32_t since,
		bool from_snapshot)
{
	const struct dms_era_superblock *superblock = dms_era_metadata_superblock(metadata);
	struct answer answer = { image, since, superblock->nr_blocks, NULL };
	struct dms_extent_set *set;
	struct dms_error *error = dms_era_written_since(metadata, since, from_snapshot, &set);

	if (error && error->code == DMS_ERR_NO_METADATA_SNAPSHOT) {
		CHECK(from_snapshot && !superblock->metadata_snap);
		dms_error_destroy(error);
	} else if (error) {
		fuzz_refused(error);
	} else {
		answer.blocks = calloc(answer.nr_blocks + 1, 1);
		CHECK(answer.blocks);
		ask_naively(&answer, from_snapshot);
		compare(set, &answer, superblock->data_block_size * 512ull);
		free(answer.blocks);
		dms_extent_set_destroy(set);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dms_era_metadata *metadata;
	struct naive_image image;
	struct dms_error *error;
	uint32_t since;

	if (!fuzz_is_input(size))
		return 0;
	since = get_le32(data);
	size -= FUZZ_CONTROL_BYTES;
	image = (struct naive_image){ data + FUZZ_CONTROL_BYTES, size / IMAGE_BLOCK };
	error = dms_era_metadata_open(fuzz_medium(image.bytes, size, 0, size), &metadata);
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	ask(metadata, &image, since, false);
	ask(metadata, &image, since, true);
	dms_era_metadata_close(metadata);
	return 0;
}
