// SPDX-License-Identifier: Apache-2.0
/*
 * era_image FILE NR_BLOCKS BLOCK_SECTORS NR_DIRTY: dm-era metadata of any size,
 * for measurements. NR_DIRTY blocks at random places were written in era 6, every
 * fourth block in eras 1 to 5, all digested. Nothing was written in era 7, whose
 * writeset is archived still: without one, era_invalidate 1.1 does not look at the
 * era array at all. A metadata snapshot is held.
 */
#include <fcntl.h>
#include <unistd.h>

#include "image.h"
#include "test.h"

static void write_image(const struct image *image, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	CHECK(fd >= 0);
	for (uint64_t done = 0; done < image->nr_blocks * IMAGE_BLOCK;) {
		ssize_t result = pwrite(fd, image->bytes + done,
					image->nr_blocks * IMAGE_BLOCK - done, (off_t)done);

		CHECK(result > 0);
		done += (uint64_t)result;
	}
	CHECK(!close(fd));
}

int main(int argc, char **argv)
{
	struct random random = { 20261122 };
	struct image_superblock superblock = {
		.version = 1, .metadata_block_size = 8, .current_era = 8,
	};
	struct image_writeset writeset = { .era = 7 };
	struct image image;
	uint32_t nr_blocks, *eras;
	uint8_t *bits;

	CHECK(argc == 5);
	nr_blocks = (uint32_t)strtoul(argv[2], NULL, 10);
	eras = calloc((size_t)nr_blocks + 1, sizeof(*eras));
	bits = calloc(nr_blocks, 1);
	CHECK(eras && bits && nr_blocks);
	for (uint32_t i = 0; i < nr_blocks; i += 4)
		eras[i] = i % 5 + 1;
	for (uint64_t i = strtoull(argv[4], NULL, 10); i; i--)
		eras[next_random(&random) % nr_blocks] = 6;
	/* The era array's blocks and the bitset's, the btrees over them, a few to spare. */
	image_init(&image, nr_blocks / 1000 + nr_blocks / 32000 + 1024);
	superblock.nr_blocks = superblock.current_nr_bits = nr_blocks;
	superblock.data_block_size = (uint32_t)strtoul(argv[3], NULL, 10);
	writeset.nr_bits = nr_blocks;
	writeset.root = image_bitset(&image, 252, nr_blocks, bits);
	superblock.writeset_tree_root = image_writeset_tree(&image, 201, 1, &writeset);
	superblock.era_array_root = image_era_array(&image, 252, nr_blocks, eras);
	superblock.metadata_snap = image.next++;
	image_superblock(&image, superblock.metadata_snap, &superblock);
	image_superblock(&image, 0, &superblock);
	write_image(&image, argv[1]);
	image_free(&image);
	free(eras);
	free(bits);
	return 0;
}
