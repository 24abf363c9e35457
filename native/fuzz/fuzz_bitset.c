// SPDX-License-Identifier: Apache-2.0
/*
 * A bitset on its own, merged into a bitmap, and the bitmap as extents.
 * control: u64 root; u32 nr_bits of the bitset; u32 nr_bits of the bitmap, modulo MAX_BITS.
 */
#include <stdlib.h>

#include "../src/bitset.h"
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

static void check_extents(const struct dms_bitmap *bitmap, const uint8_t *bits)
{
	_cleanup_extent_set_ struct dms_extent_set *set = NULL;
	const struct dms_extent *extents;
	uint64_t bit = 0;

	CHECK_OK(dms_extent_set_create(&set));
	CHECK_OK(dms_bitmap_extents(bitmap, BLOCK_BYTES, set));
	fuzz_check_extents(set, bitmap->nr_bits * BLOCK_BYTES);
	extents = dms_extent_set_extents(set);
	for (size_t i = 0; i < dms_extent_set_count(set); i++) {
		while (bit < extents[i].offset_bytes / BLOCK_BYTES)
			CHECK(!bits[bit++]);
		for (uint64_t n = extents[i].length_bytes / BLOCK_BYTES; n; n--)
			CHECK(bits[bit++]);
	}
	while (bit < bitmap->nr_bits)
		CHECK(!bits[bit++]);
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
	_cleanup_bitmap_ struct dms_bitmap *bitmap = NULL;
	static uint8_t bits[MAX_BITS];
	struct naive_image image;
	struct dms_error *error;
	uint64_t root;
	uint32_t nr_bits;

	if (!fuzz_is_input(size))
		return 0;
	root = get_le64(data);
	nr_bits = get_le32(data + 8);
	CHECK_OK(dms_bitmap_create(get_le32(data + 12) % MAX_BITS, &bitmap));
	size -= FUZZ_CONTROL_BYTES;
	image = (struct naive_image){ data + FUZZ_CONTROL_BYTES, size / IMAGE_BLOCK };
	error = merge(fuzz_medium(image.bytes, size, 0, size), root, nr_bits, bitmap);
	if (error) {
		fuzz_refused(error);
		return 0;
	}
	memset(bits, 0, bitmap->nr_bits);
	naive_bitset(&image, root, nr_bits, bits, bitmap->nr_bits);
	check_extents(bitmap, bits);
	return 0;
}
