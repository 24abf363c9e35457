/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dm-era metadata, built byte by byte: slow, obvious, and by design without a
 * line in common with the reader but the checksum (which has a test of its own).
 */
#ifndef DMSNAP_TESTS_IMAGE_H
#define DMSNAP_TESTS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_BLOCK 4096
#define SUPERBLOCK_SALT 146538381u
#define NODE_SALT 121107u
#define ARRAY_SALT 595846735u
#define THIN_SUPERBLOCK_SALT 160774u

struct image {
	uint8_t *bytes;
	uint64_t nr_blocks;
	uint64_t next; /* the first block that is free */
	uint64_t *order; /* NULL, or which block is taken instead of the i-th */
};

void image_init(struct image *image, uint64_t nr_blocks);
void image_free(struct image *image);
/* Hand blocks out at random from now on, as old metadata has them: seed is not 0. */
void image_shuffle(struct image *image, uint64_t seed);
/* The next free block. */
uint64_t image_take(struct image *image);
/* A memory file with the image's first size_bytes. */
int image_fd(const struct image *image, uint64_t size_bytes);

uint8_t *image_block(const struct image *image, uint64_t blocknr);
void put_le32(uint8_t *at, uint32_t value);
void put_le64(uint8_t *at, uint64_t value);
uint32_t get_le32(const uint8_t *at);
uint64_t get_le64(const uint8_t *at);

/* Recompute the checksum of a block for the given salt. */
void image_seal(const struct image *image, uint64_t blocknr, uint32_t salt);

/* A node of nr entries; returns its block. fan_out is its max_entries. */
uint64_t image_node(struct image *image, bool leaf, uint32_t value_size, uint32_t fan_out,
		    uint32_t nr, const uint64_t *keys, const uint8_t *values);
/* A whole tree, bottom up; returns its root. */
uint64_t image_btree(struct image *image, uint32_t value_size, uint32_t fan_out, uint64_t nr,
		     const uint64_t *keys, const uint8_t *values);
uint64_t image_array_block(struct image *image, uint32_t value_size, uint32_t nr,
			   const uint8_t *values);
uint64_t image_array(struct image *image, uint32_t value_size, uint32_t fan_out, uint64_t nr,
		     const uint8_t *values);
/* The era array, from eras in the processor's byte order. */
uint64_t image_era_array(struct image *image, uint32_t fan_out, uint32_t nr_blocks,
			 const uint32_t *eras);
/* bits[i] is nonzero when bit i is set. */
uint64_t image_bitset(struct image *image, uint32_t fan_out, uint32_t nr_bits,
		      const uint8_t *bits);

struct image_writeset {
	uint32_t era;
	uint32_t nr_bits;
	uint64_t root;
};

uint64_t image_writeset_tree(struct image *image, uint32_t fan_out, uint32_t nr,
			     const struct image_writeset *writesets);

struct image_superblock {
	uint32_t version;
	uint32_t data_block_size;
	uint32_t metadata_block_size;
	uint32_t nr_blocks;
	uint32_t current_era;
	uint32_t current_nr_bits;
	uint64_t current_root;
	uint64_t writeset_tree_root;
	uint64_t era_array_root;
	uint64_t metadata_snap;
};

void image_superblock(const struct image *image, uint64_t blocknr,
		      const struct image_superblock *superblock);

#endif
