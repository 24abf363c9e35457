// SPDX-License-Identifier: Apache-2.0
/*
 * How era metadata is read: with and without io_uring and O_DIRECT, blocks in
 * any order on the medium, transfers that come short or fail, and a medium that
 * is written meanwhile.
 */
#define _GNU_SOURCE /* O_DIRECT, mkostemp */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <dmsnap/era.h>

#include "../src/io_queue.h"
#include "image.h"
#include "refuse_io_uring.h"
#include "test.h"

#define NR_BLOCKS 700000u
#define NR_METADATA_BLOCKS 2500u
#define BLOCK_SECTORS 8u
#define BLOCK_BYTES (BLOCK_SECTORS * 512u)
#define SINCE 6
#define CURRENT_ERA 8

struct world {
	struct image image;
	struct image_superblock superblock;
	uint8_t *bits; /* of era 7, archived */
	uint32_t *eras; /* in the array */
	int fd;
};

/* What the next transfers of a descriptor meet. */
static struct {
	int fd;
	ssize_t result; /* of those that touch block */
	uint64_t block; /* UINT64_MAX: of all */
	uint32_t countdown; /* before the transfer with this number, the superblock is written */
	const struct world *world;
	struct image_superblock superblock;
	uint32_t fired;
	pthread_mutex_t lock; /* of both counts: any thread reads */
} trap = { .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

static void overwrite(const struct world *world, uint64_t blocknr)
{
	int flags = fcntl(world->fd, F_GETFL);

	CHECK(!fcntl(world->fd, F_SETFL, flags & ~O_DIRECT));
	CHECK(pwrite(world->fd, image_block(&world->image, blocknr), IMAGE_BLOCK,
		     (off_t)(blocknr * IMAGE_BLOCK)) == IMAGE_BLOCK);
	CHECK(!fdatasync(world->fd));
	CHECK(!fcntl(world->fd, F_SETFL, flags));
}

ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	uint64_t at = trap.block * IMAGE_BLOCK;
	bool touched;

	if (kind != DMS_IO_READ || fd != trap.fd)
		return 0;
	pthread_mutex_lock(&trap.lock);
	if (trap.countdown && !--trap.countdown) {
		image_superblock(&trap.world->image, 0, &trap.superblock);
		overwrite(trap.world, 0);
	}
	touched = trap.block == UINT64_MAX ||
		  (at + IMAGE_BLOCK > offset_bytes && at < offset_bytes + length_bytes);
	trap.fired += touched && trap.result;
	pthread_mutex_unlock(&trap.lock);
	return touched ? trap.result : 0;
}

static void set_trap(const struct world *world, uint64_t block, ssize_t result)
{
	trap.fd = world->fd;
	trap.block = block;
	trap.result = result;
	trap.countdown = 0;
	trap.fired = 0;
}

/* The countdown-th read from now on finds superblock written in place of the world's. */
static void set_change(const struct world *world, uint32_t countdown,
		       const struct image_superblock *superblock)
{
	set_trap(world, UINT64_MAX, 0);
	trap.countdown = countdown;
	trap.world = world;
	trap.superblock = *superblock;
}

static void undo_change(struct world *world)
{
	trap.fd = -1;
	image_superblock(&world->image, 0, &world->superblock);
	overwrite(world, 0);
}

static int write_image(const struct image *image, int flags)
{
	const char *directory = getenv("TMPDIR");
	char path[4096];
	int plain, fd;

	snprintf(path, sizeof(path), "%s/dmsnap-test-XXXXXX", directory ? directory : "/tmp");
	plain = mkostemp(path, O_CLOEXEC);
	CHECK(plain >= 0);
	for (uint64_t i = 0; i < image->nr_blocks; i++)
		CHECK(write(plain, image_block(image, i), IMAGE_BLOCK) == IMAGE_BLOCK);
	CHECK(!fdatasync(plain));
	fd = open(path, O_RDWR | O_CLOEXEC | flags);
	if (fd < 0 && flags) /* a file system without O_DIRECT: the test still means something */
		fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	close(plain);
	unlink(path);
	return fd;
}

static void build(struct world *world, int flags, bool shuffled)
{
	struct random random = { 11 };
	struct image_writeset writeset = { 7, NR_BLOCKS, 0 };

	world->bits = calloc(NR_BLOCKS, 1);
	world->eras = calloc(NR_BLOCKS, sizeof(*world->eras));
	CHECK(world->bits && world->eras);
	for (uint32_t i = 0; i < NR_BLOCKS; i++)
		world->eras[i] = (uint32_t)(next_random(&random) % (i / 1000 % 3 ? 6 : 8));
	for (uint32_t i = 0; i < 500; i++)
		world->bits[next_random(&random) % NR_BLOCKS] = 1;
	image_init(&world->image, NR_METADATA_BLOCKS);
	if (shuffled)
		image_shuffle(&world->image, 99);
	writeset.root = image_bitset(&world->image, 20, NR_BLOCKS, world->bits);
	world->superblock = (struct image_superblock){
		.version = 1,
		.data_block_size = BLOCK_SECTORS,
		.metadata_block_size = 8,
		.nr_blocks = NR_BLOCKS,
		.current_era = CURRENT_ERA,
		.current_nr_bits = NR_BLOCKS,
		.writeset_tree_root = image_writeset_tree(&world->image, 20, 1, &writeset),
		.era_array_root = image_era_array(&world->image, 20, NR_BLOCKS, world->eras),
		.metadata_snap = image_take(&world->image),
	};
	image_superblock(&world->image, world->superblock.metadata_snap, &world->superblock);
	image_superblock(&world->image, 0, &world->superblock);
	world->fd = write_image(&world->image, flags);
}

static void destroy(struct world *world)
{
	trap.fd = -1;
	close(world->fd);
	image_free(&world->image);
	free(world->bits);
	free(world->eras);
}

static struct dms_error *query(const struct world *world, bool from_snapshot,
			       struct dms_extent_set **set)
{
	struct dms_era_metadata *metadata;
	struct dms_error *error = dms_era_metadata_open(world->fd, &metadata);

	if (error)
		return error;
	error = dms_era_written_since(metadata, SINCE, from_snapshot, set);
	dms_era_metadata_close(metadata);
	return error;
}

static void expect_right(const struct world *world)
{
	const struct dms_extent *extents;
	struct dms_extent_set *set;
	size_t place = 0, count;

	CHECK_OK(query(world, false, &set));
	count = dms_extent_set_count(set);
	extents = dms_extent_set_extents(set);
	for (uint32_t i = 0; i < NR_BLOCKS; i++) {
		uint64_t at = (uint64_t)i * BLOCK_BYTES;
		bool dirty = world->eras[i] >= SINCE || world->bits[i];

		while (place < count && extents[place].offset_bytes + extents[place].length_bytes <= at)
			place++;
		CHECK(dirty == (place < count && extents[place].offset_bytes <= at));
	}
	dms_extent_set_destroy(set);
}

static void short_reads(const struct world *world)
{
	static const ssize_t results[] = { 4096, 512, 12288 };

	for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
		set_trap(world, UINT64_MAX, results[i]);
		expect_right(world);
		CHECK(trap.fired > NR_BLOCKS / 1018 / 4);
	}
	trap.fd = -1;
}

/* Which blocks nothing refers to: the image is larger than what is in it. */
static bool is_free(const struct world *world, uint64_t block)
{
	static const uint8_t zeroes[IMAGE_BLOCK];

	return !memcmp(image_block(&world->image, block), zeroes, IMAGE_BLOCK);
}

/* A block that cannot be read is an error where it is needed, and only there. */
static void bad_block(const struct world *world)
{
	struct dms_extent_set *set;
	struct dms_error *error;
	uint32_t nr_free = 0, nr_needed = 0;

	for (uint64_t block = 1; block < NR_METADATA_BLOCKS; block += 131) {
		set_trap(world, block, -EIO);
		if (is_free(world, block) || block == world->superblock.metadata_snap) {
			expect_right(world);
			nr_free += trap.fired;
			continue;
		}
		error = query(world, false, &set);
		CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
		CHECK(error->offset_bytes == block * IMAGE_BLOCK);
		dms_error_destroy(error);
		nr_needed++;
	}
	/* In a shuffled image free blocks lie in the gaps of what is read. */
	CHECK(nr_needed > 3 && (!world->image.order || nr_free));
	trap.fd = -1;
}

/* The medium ends inside what was found there when it was opened. */
static void cut_off(const struct world *world)
{
	struct dms_era_metadata *metadata;
	struct dms_extent_set *set;

	CHECK_OK(dms_era_metadata_open(world->fd, &metadata));
	CHECK(!ftruncate(world->fd, (off_t)(300ull * IMAGE_BLOCK)));
	CHECK_ERROR(dms_era_written_since(metadata, SINCE, false, &set), DMS_ERR_OUT_OF_BOUNDS);
	dms_era_metadata_close(metadata);
}

static void changes(struct world *world)
{
	struct image_superblock next = world->superblock;
	struct dms_extent_set *set;

	next.current_era++;
	set_change(world, 6, &next);
	CHECK_MESSAGE(query(world, false, &set), DMS_ERR_CHANGED, "current_era 8, now 9");
	/* A metadata snapshot stays what it is. */
	undo_change(world);
	set_change(world, 6, &next);
	CHECK_OK(query(world, true, &set));
	dms_extent_set_destroy(set);
	CHECK(!trap.countdown);
	undo_change(world);
	next.metadata_snap = 0;
	set_change(world, 6, &next);
	CHECK_MESSAGE(query(world, true, &set), DMS_ERR_CHANGED, "was dropped");
	undo_change(world);
	expect_right(world);
}

/* What looks like damage is none when the block was given to something else meanwhile. */
static void changes_to_damage(struct world *world)
{
	uint64_t victim = world->superblock.era_array_root;
	struct image_superblock next = world->superblock;
	struct dms_extent_set *set;

	image_block(&world->image, victim)[100] ^= 1;
	overwrite(world, victim);
	CHECK_ERROR(query(world, false, &set), DMS_ERR_CHECKSUM);
	next.era_array_root = 1;
	set_change(world, 4, &next);
	CHECK_MESSAGE(query(world, false, &set), DMS_ERR_CHANGED, "a metadata snapshot is needed");
	undo_change(world);
	image_block(&world->image, victim)[100] ^= 1;
	overwrite(world, victim);
	expect_right(world);
}

/* Of four worlds those from first on: on the page cache and past it, blocks in order and shuffled. */
static void all(unsigned int first)
{
	for (unsigned int i = first; i < 4; i++) {
		struct world world;

		build(&world, i & 1 ? O_DIRECT : 0, i & 2);
		expect_right(&world);
		short_reads(&world);
		bad_block(&world);
		changes(&world);
		changes_to_damage(&world);
		cut_off(&world);
		destroy(&world);
	}
}

int main(void)
{
	bool threads_alone = getenv("DMSNAP_WITHOUT_IO_URING") != NULL;
	struct dms_io_queue *queue;

	if (!threads_alone)
		all(0);
	refuse_io_uring();
	CHECK_OK(dms_io_queue_create(1, false, &queue));
	CHECK(!dms_io_queue_is_io_uring(queue));
	dms_io_queue_destroy(queue);
	/* Under TSan, which is slow, one world. */
	all(threads_alone ? 3 : 0);
	return 0;
}
