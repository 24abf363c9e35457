// SPDX-License-Identifier: Apache-2.0
#include <dmsnap/checksum.h>

#include "../tests/image.h"
#include "../tests/test.h"
#include "naive.h"

#define MAX_DEPTH 24

static const uint8_t *block_of(const struct naive_image *image, uint64_t blocknr, uint32_t salt,
			       uint32_t blocknr_at)
{
	const uint8_t *block;

	CHECK(blocknr && blocknr < image->nr_blocks);
	block = image->bytes + blocknr * IMAGE_BLOCK;
	CHECK(get_le32(block) == dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, salt));
	CHECK(get_le64(block + blocknr_at) == blocknr);
	return block;
}

static void walk_node(const struct naive_image *image, uint64_t blocknr, uint32_t value_size,
		      unsigned int depth, naive_fn fn, void *context)
{
	const uint8_t *node = block_of(image, blocknr, NODE_SALT, 8), *values;
	bool internal = get_le32(node + 4) == 1;
	uint64_t nr_entries = get_le32(node + 16), max_entries = get_le32(node + 20);
	uint64_t size = get_le32(node + 24);

	CHECK(depth < MAX_DEPTH);
	CHECK(internal || get_le32(node + 4) == 2);
	CHECK(size == (internal ? 8 : value_size));
	CHECK(nr_entries <= max_entries && 32 + max_entries * (8 + size) <= IMAGE_BLOCK);
	values = node + 32 + max_entries * 8;
	for (uint64_t i = 0; i < nr_entries; i++) {
		CHECK(!i || get_le64(node + 32 + i * 8) > get_le64(node + 24 + i * 8));
		if (internal)
			walk_node(image, get_le64(values + i * 8), value_size, depth + 1, fn,
				  context);
		else
			fn(context, get_le64(node + 32 + i * 8), values + i * size);
	}
}

void naive_btree(const struct naive_image *image, uint64_t root, uint32_t value_size, naive_fn fn,
		 void *context)
{
	walk_node(image, root, value_size, 0, fn, context);
}

struct array {
	const struct naive_image *image;
	uint32_t value_size;
	naive_fn fn;
	void *context;
	uint64_t nr_entries;
};

/* The btree hands out array blocks in ascending order, so entries only have to be counted. */
static void walk_array_block(void *context, uint64_t key, const uint8_t *value)
{
	struct array *array = context;
	const uint8_t *block = block_of(array->image, get_le64(value), ARRAY_SALT, 16);
	uint64_t max_entries = get_le32(block + 4), nr_entries = get_le32(block + 8);

	CHECK(get_le32(block + 12) == array->value_size);
	CHECK(max_entries == (IMAGE_BLOCK - 24) / array->value_size && nr_entries <= max_entries);
	CHECK(array->nr_entries == key * max_entries);
	for (uint64_t i = 0; i < nr_entries; i++)
		array->fn(array->context, array->nr_entries++,
			  block + 24 + i * array->value_size);
}

uint64_t naive_array(const struct naive_image *image, uint64_t root, uint32_t value_size,
		     naive_fn fn, void *context)
{
	struct array array = { image, value_size, fn, context, 0 };

	naive_btree(image, root, 8, walk_array_block, &array);
	return array.nr_entries;
}

struct bits {
	uint64_t nr_bits;
	uint8_t *bits;
	uint64_t nr_bytes;
};

static void add_word(void *context, uint64_t index, const uint8_t *word)
{
	const struct bits *bits = context;

	for (uint64_t i = 0; get_le64(word) && i < 64; i++) {
		uint64_t bit = index * 64 + i;

		if (bit < bits->nr_bits && bit < bits->nr_bytes && word[i / 8] >> i % 8 & 1)
			bits->bits[bit] = 1;
	}
}

void naive_bitset(const struct naive_image *image, uint64_t root, uint64_t nr_bits, uint8_t *bits,
		  uint64_t nr_bytes)
{
	struct bits context = { nr_bits, bits, nr_bytes };

	CHECK(nr_bits <= naive_array(image, root, 8, add_word, &context) * 64);
}
