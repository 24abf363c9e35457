// SPDX-License-Identifier: Apache-2.0
/*
 * era_image FILE NR_BLOCKS BLOCK_SECTORS NR_DIRTY [SEED]: dm-era metadata of any size,
 * for measurements. NR_DIRTY blocks at random places were written in era 6, every
 * fourth block in eras 1 to 5, all digested. Nothing was written in era 7, whose
 * writeset is archived still: without one, era_invalidate 1.1 does not look at the
 * era array at all. A metadata snapshot is held. With SEED, blocks lie in random
 * order on the medium, as old metadata has them.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image.h"
#include "test.h"

#define FAN_OUT 252
#define ERAS_PER_BLOCK 1018
#define WORDS_PER_BLOCK 509

struct dirty {
	uint64_t nr_blocks;
	uint64_t *words;
};

static struct dirty make_dirty(uint64_t nr_blocks, uint64_t nr_dirty)
{
	struct random random = { 20261122 };
	struct dirty dirty = { nr_blocks, calloc(nr_blocks / 64 + 1, sizeof(*dirty.words)) };

	CHECK(dirty.words);
	for (; nr_dirty; nr_dirty--) {
		uint64_t block = next_random(&random) % nr_blocks;

		dirty.words[block / 64] |= 1ull << block % 64;
	}
	return dirty;
}

static uint32_t era_of(const struct dirty *dirty, uint64_t block)
{
	if (dirty->words[block / 64] >> block % 64 & 1)
		return 6;
	return block % 4 ? 0 : (uint32_t)(block % 5 + 1);
}

static void era_block(uint8_t *values, uint64_t first, uint32_t nr, const void *context)
{
	for (uint32_t i = 0; i < nr; i++)
		put_le32(values + (size_t)4 * i, era_of(context, first + i));
}

static void no_bits(uint8_t *values, uint64_t first, uint32_t nr, const void *context)
{
	(void)first;
	(void)context;
	memset(values, 0, (size_t)8 * nr);
}

/* An array made block by block: no copy of it is ever in memory. */
static uint64_t array(struct image *image, uint32_t value_size, uint32_t per_block, uint64_t nr,
		      void (*fill)(uint8_t *values, uint64_t first, uint32_t nr, const void *context),
		      const void *context)
{
	uint64_t nr_array_blocks = (nr + per_block - 1) / per_block, root;
	uint64_t *keys = malloc(nr_array_blocks * sizeof(*keys));
	uint8_t *blocks = malloc(nr_array_blocks * 8), values[IMAGE_BLOCK];

	CHECK(keys && blocks);
	for (uint64_t i = 0; i < nr_array_blocks; i++) {
		uint64_t left = nr - i * per_block;
		uint32_t here = left < per_block ? (uint32_t)left : per_block;

		fill(values, i * per_block, here, context);
		keys[i] = i;
		put_le64(blocks + 8 * i, image_array_block(image, value_size, here, values));
	}
	root = image_btree(image, 8, FAN_OUT, nr_array_blocks, keys, blocks);
	free(keys);
	free(blocks);
	return root;
}

static void open_image(struct image *image, const char *path, uint64_t nr_blocks)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)(nr_blocks * IMAGE_BLOCK)));
	*image = (struct image){ .nr_blocks = nr_blocks, .next = 1 };
	image->bytes = mmap(NULL, nr_blocks * IMAGE_BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(image->bytes != MAP_FAILED);
	CHECK(!close(fd));
}

int main(int argc, char **argv)
{
	struct image_superblock superblock = {
		.version = 1, .metadata_block_size = 8, .current_era = 8,
	};
	struct image_writeset writeset = { .era = 7 };
	struct dirty dirty;
	struct image image;
	uint32_t nr_blocks;

	CHECK(argc == 5 || argc == 6);
	nr_blocks = (uint32_t)strtoul(argv[2], NULL, 10);
	CHECK(nr_blocks);
	dirty = make_dirty(nr_blocks, strtoull(argv[4], NULL, 10));
	/* The era array's blocks and the bitset's, the btrees over them, a few to spare. */
	open_image(&image, argv[1], nr_blocks / 1000 + nr_blocks / 32000 + 1024);
	if (argc == 6)
		image_shuffle(&image, strtoull(argv[5], NULL, 10));
	superblock.nr_blocks = superblock.current_nr_bits = nr_blocks;
	superblock.data_block_size = (uint32_t)strtoul(argv[3], NULL, 10);
	writeset.nr_bits = nr_blocks;
	writeset.root = array(&image, 8, WORDS_PER_BLOCK, (nr_blocks + 63ull) / 64, no_bits, NULL);
	superblock.writeset_tree_root = image_writeset_tree(&image, 201, 1, &writeset);
	superblock.era_array_root = array(&image, 4, ERAS_PER_BLOCK, nr_blocks, era_block, &dirty);
	superblock.metadata_snap = image_take(&image);
	image_superblock(&image, superblock.metadata_snap, &superblock);
	image_superblock(&image, 0, &superblock);
	CHECK(!munmap(image.bytes, image.nr_blocks * IMAGE_BLOCK));
	free(image.order);
	free(dirty.words);
	return 0;
}
