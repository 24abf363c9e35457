// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE /* memfd_create */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dmsnap/checksum.h>

#include "image.h"
#include "test.h"

void image_init(struct image *image, uint64_t nr_blocks)
{
	image->bytes = calloc(nr_blocks, IMAGE_BLOCK);
	CHECK(image->bytes);
	image->nr_blocks = nr_blocks;
	image->next = 1;
	image->order = NULL;
}

void image_free(struct image *image)
{
	free(image->bytes);
	free(image->order);
}

void image_shuffle(struct image *image, uint64_t seed)
{
	struct random random = { seed };

	image->order = malloc(image->nr_blocks * sizeof(*image->order));
	CHECK(image->order);
	for (uint64_t i = 0; i < image->nr_blocks; i++)
		image->order[i] = i;
	for (uint64_t i = image->nr_blocks - 1; i > image->next; i--) {
		uint64_t other = image->next + next_random(&random) % (i - image->next + 1);
		uint64_t block = image->order[i];

		image->order[i] = image->order[other];
		image->order[other] = block;
	}
}

uint64_t image_take(struct image *image)
{
	uint64_t i = image->next++;

	CHECK(i < image->nr_blocks);
	return image->order ? image->order[i] : i;
}

int image_fd(const struct image *image, uint64_t size_bytes)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(size_bytes <= image->nr_blocks * IMAGE_BLOCK);
	for (uint64_t done = 0; done < size_bytes;) {
		ssize_t result = pwrite(fd, image->bytes + done, size_bytes - done, (off_t)done);

		CHECK(result > 0);
		done += (uint64_t)result;
	}
	return fd;
}

uint8_t *image_block(const struct image *image, uint64_t blocknr)
{
	CHECK(blocknr < image->nr_blocks);
	return image->bytes + blocknr * IMAGE_BLOCK;
}

void put_le32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

void put_le64(uint8_t *at, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

uint32_t get_le32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t get_le64(const uint8_t *at)
{
	return get_le32(at) | (uint64_t)get_le32(at + 4) << 32;
}

void image_seal(const struct image *image, uint64_t blocknr, uint32_t salt)
{
	uint8_t *block = image_block(image, blocknr);

	put_le32(block, dms_bm_checksum(block + 4, IMAGE_BLOCK - 4, salt));
}

uint64_t image_node(struct image *image, bool leaf, uint32_t value_size, uint32_t fan_out,
		    uint32_t nr, const uint64_t *keys, const uint8_t *values)
{
	uint64_t blocknr = image_take(image);
	uint8_t *block = image_block(image, blocknr);

	CHECK(nr <= fan_out && 32 + (uint64_t)fan_out * (8 + value_size) <= IMAGE_BLOCK);
	put_le32(block + 4, leaf ? 2 : 1);
	put_le64(block + 8, blocknr);
	put_le32(block + 16, nr);
	put_le32(block + 20, fan_out);
	put_le32(block + 24, value_size);
	for (uint32_t i = 0; i < nr; i++)
		put_le64(block + 32 + 8 * i, keys[i]);
	if (nr)
		memcpy(block + 32 + 8 * fan_out, values, (size_t)nr * value_size);
	image_seal(image, blocknr, NODE_SALT);
	return blocknr;
}

/*
 * Nodes over nr entries, which they share evenly: thin-provisioning-tools take
 * a node that is less than a third full for damage. The nodes' lowest keys and
 * block numbers replace keys and fill children.
 */
static uint64_t one_level(struct image *image, bool leaf, uint32_t value_size, uint32_t fan_out,
			  uint64_t nr, uint64_t *keys, const uint8_t *values, uint8_t *children)
{
	uint64_t nr_nodes = (nr + fan_out - 1) / fan_out, first = 0;

	for (uint64_t i = 0; i < nr_nodes; i++) {
		uint64_t end = nr * (i + 1) / nr_nodes;
		uint64_t blocknr = image_node(image, leaf, value_size, fan_out,
					      (uint32_t)(end - first), keys + first,
					      values + first * value_size);

		keys[i] = keys[first];
		put_le64(children + 8 * i, blocknr);
		first = end;
	}
	return nr_nodes;
}

uint64_t image_btree(struct image *image, uint32_t value_size, uint32_t fan_out, uint64_t nr,
		     const uint64_t *keys, const uint8_t *values)
{
	uint64_t *lowest, root;
	uint8_t *children;

	if (!nr)
		return image_node(image, true, value_size, fan_out, 0, NULL, NULL);
	lowest = malloc(nr * sizeof(*lowest));
	children = malloc(nr * 8);
	CHECK(lowest && children);
	memcpy(lowest, keys, nr * sizeof(*lowest));
	nr = one_level(image, true, value_size, fan_out, nr, lowest, values, children);
	while (nr > 1)
		nr = one_level(image, false, 8, fan_out, nr, lowest, children, children);
	root = get_le64(children);
	free(lowest);
	free(children);
	return root;
}

uint64_t image_array_block(struct image *image, uint32_t value_size, uint32_t nr,
			   const uint8_t *values)
{
	uint64_t blocknr = image_take(image);
	uint8_t *block = image_block(image, blocknr);

	put_le32(block + 4, (IMAGE_BLOCK - 24) / value_size);
	put_le32(block + 8, nr);
	put_le32(block + 12, value_size);
	put_le64(block + 16, blocknr);
	memcpy(block + 24, values, (size_t)nr * value_size);
	image_seal(image, blocknr, ARRAY_SALT);
	return blocknr;
}

uint64_t image_array(struct image *image, uint32_t value_size, uint32_t fan_out, uint64_t nr,
		     const uint8_t *values)
{
	uint32_t per_block = (IMAGE_BLOCK - 24) / value_size;
	uint64_t nr_array_blocks = (nr + per_block - 1) / per_block, root;
	uint64_t *keys = malloc((nr_array_blocks + 1) * sizeof(*keys));
	uint8_t *blocks = malloc((nr_array_blocks + 1) * 8);

	CHECK(keys && blocks);
	for (uint64_t i = 0; i < nr_array_blocks; i++) {
		uint64_t left = nr - i * per_block;
		uint64_t blocknr = image_array_block(image, value_size,
						     (uint32_t)(left < per_block ? left : per_block),
						     values + i * per_block * value_size);

		keys[i] = i;
		put_le64(blocks + 8 * i, blocknr);
	}
	root = image_btree(image, 8, fan_out, nr_array_blocks, keys, blocks);
	free(keys);
	free(blocks);
	return root;
}

uint64_t image_era_array(struct image *image, uint32_t fan_out, uint32_t nr_blocks,
			 const uint32_t *eras)
{
	uint8_t *values = malloc((size_t)nr_blocks * 4 + 1);
	uint64_t root;

	CHECK(values);
	for (uint32_t i = 0; i < nr_blocks; i++)
		put_le32(values + (size_t)4 * i, eras[i]);
	root = image_array(image, 4, fan_out, nr_blocks, values);
	free(values);
	return root;
}

uint64_t image_bitset(struct image *image, uint32_t fan_out, uint32_t nr_bits, const uint8_t *bits)
{
	uint64_t nr_words = ((uint64_t)nr_bits + 63) / 64, root;
	uint8_t *words = calloc(nr_words + 1, 8);

	CHECK(words);
	for (uint32_t i = 0; i < nr_bits; i++)
		if (bits[i])
			words[i / 8] |= (uint8_t)(1 << i % 8);
	root = image_array(image, 8, fan_out, nr_words, words);
	free(words);
	return root;
}

uint64_t image_writeset_tree(struct image *image, uint32_t fan_out, uint32_t nr,
			     const struct image_writeset *writesets)
{
	uint64_t *keys = malloc((nr + 1) * sizeof(*keys)), root;
	uint8_t *values = malloc((nr + 1) * 12);

	CHECK(keys && values);
	for (uint32_t i = 0; i < nr; i++) {
		keys[i] = writesets[i].era;
		put_le32(values + 12 * i, writesets[i].nr_bits);
		put_le64(values + 12 * i + 4, writesets[i].root);
	}
	root = image_btree(image, 12, fan_out, nr, keys, values);
	free(keys);
	free(values);
	return root;
}

void image_superblock(const struct image *image, uint64_t blocknr,
		      const struct image_superblock *superblock)
{
	uint8_t *block = image_block(image, blocknr);

	memset(block, 0, IMAGE_BLOCK);
	put_le64(block + 8, blocknr);
	put_le64(block + 32, 2126579579);
	put_le32(block + 40, superblock->version);
	put_le32(block + 172, superblock->data_block_size);
	put_le32(block + 176, superblock->metadata_block_size);
	put_le32(block + 180, superblock->nr_blocks);
	put_le32(block + 184, superblock->current_era);
	put_le32(block + 188, superblock->current_nr_bits);
	put_le64(block + 192, superblock->current_root);
	put_le64(block + 200, superblock->writeset_tree_root);
	put_le64(block + 208, superblock->era_array_root);
	put_le64(block + 216, superblock->metadata_snap);
	image_seal(image, blocknr, SUPERBLOCK_SALT);
}
