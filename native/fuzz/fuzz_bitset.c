// SPDX-License-Identifier: Apache-2.0
/*
 * A bitset on its own, merged into the bitmap of a block set, and that as extents.
 * control: u64 root; u32 nr_bits of the bitset; u32 nr_bits of the bitmap, modulo MAX_BITS.
 */
#include <stdlib.h>

#include "../src/bitset.h"
#include "../src/block_set.h"
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"
#include "naive.h"

#define MAX_BITS (FUZZ_MAX_BLOCKS * FUZZ_BLOCK_BYTES * 8)
#define BLOCK_BYTES 65536ull

const struct fuzz_layout fuzz_layout = {
	.block_bytes = FUZZ_BLOCK_BYTES,
	.max_blocks = FUZZ_MAX_BLOCKS,
	.nr_kinds = 2,
	.kinds = { &fuzz_node_kind, &fuzz_array_kind },
};

static void check_extents(const struct dms_block_set *blocks, const uint8_t *bits)
{
	_cleanup_extent_set_ struct dms_extent_set *set = NULL;
	uint64_t bit = 0, nr_bits = blocks->bitmap->nr_bits;
	const struct dms_extent *extents;

	CHECK_OK(dms_block_set_extents(blocks, &set));
	fuzz_check_extents(set, nr_bits * BLOCK_BYTES);
	CHECK(dms_block_set_count(blocks) == dms_extent_set_count(set));
	CHECK(dms_block_set_bytes(blocks) == dms_extent_set_bytes(set));
	extents = dms_extent_set_extents(set);
	for (size_t i = 0; i < dms_extent_set_count(set); i++) {
		while (bit < extents[i].offset_bytes / BLOCK_BYTES)
			CHECK(!bits[bit++]);
		for (uint64_t n = extents[i].length_bytes / BLOCK_BYTES; n; n--)
			CHECK(bits[bit++]);
	}
	while (bit < nr_bits)
		CHECK(!bits[bit++]);
}

/* What a clamp leaves, in pieces of a few extents. */
static void check_clamped(struct dms_block_set *blocks, const uint8_t *bits, uint64_t size_bytes)
{
	struct dms_extent extents[3];
	uint64_t position = 0, bytes = 0, expected = 0, nr_extents = 0;
	size_t count;

	for (uint64_t bit = 0; bit < blocks->bitmap->nr_bits; bit++)
		if (bits[bit] && bit * BLOCK_BYTES < size_bytes)
			expected += size_bytes - bit * BLOCK_BYTES < BLOCK_BYTES ?
					    size_bytes - bit * BLOCK_BYTES :
					    BLOCK_BYTES;
	dms_block_set_clamp(blocks, size_bytes);
	while ((count = dms_block_set_next(blocks, &position, extents, 3))) {
		CHECK(count <= 3);
		for (size_t i = 0; i < count; i++)
			bytes += extents[i].length_bytes;
		CHECK(extents[count - 1].offset_bytes + extents[count - 1].length_bytes <=
		      size_bytes);
		nr_extents += count;
	}
	CHECK(bytes == expected && dms_block_set_bytes(blocks) == expected);
	CHECK(dms_block_set_count(blocks) == nr_extents);
}

static struct dms_error *merge(int fd, uint64_t root, uint64_t nr_bits, struct dms_bitmap *bitmap)
{
	_cleanup_metadata_walk_ struct dms_metadata_walk *walk = NULL;
	struct dms_block_io io;

	CHECK_OK(dms_block_io_init(&io, fd));
	CHECK_OK(dms_metadata_walk_create(&io, &walk));
	return dms_bitset_merge(walk, "bitset", root, nr_bits, bitmap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_block_set_ struct dms_block_set *blocks = NULL;
	static uint8_t bits[MAX_BITS];
	struct naive_image image;
	struct dms_error *error;
	uint64_t root;
	uint32_t nr_bits;

	if (!fuzz_is_input(size))
		return 0;
	root = get_le64(data);
	nr_bits = get_le32(data + 8);
	CHECK_OK(dms_block_set_create(get_le32(data + 12) % MAX_BITS, BLOCK_BYTES, &blocks));
	size -= FUZZ_CONTROL_BYTES;
	image = (struct naive_image){ data + FUZZ_CONTROL_BYTES, size / IMAGE_BLOCK };
	error = merge(fuzz_medium(image.bytes, size, 0, size), root, nr_bits, blocks->bitmap);
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	memset(bits, 0, blocks->bitmap->nr_bits);
	naive_bitset(&image, root, nr_bits, bits, blocks->bitmap->nr_bits);
	check_extents(blocks, bits);
	check_clamped(blocks, bits, get_le32(data + 8) * (uint64_t)get_le32(data + 12) % (1ull << 36));
	return 0;
}
