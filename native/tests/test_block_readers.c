// SPDX-License-Identifier: Apache-2.0
/*
 * Blocks read by several threads: each is handed on once, whoever reads it, and
 * the error is the one that a single reader would have met. The same with fewer
 * processors, without io_uring, and where no thread can be made.
 */
#define _GNU_SOURCE /* memfd_create, sched_setaffinity */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/array.h"
#include "../src/bitset.h"
#include "../src/block_readers.h"
#include "../src/era_filter.h"
#include "../src/io_queue.h"
#include "image.h"
#include "refuse_io_uring.h"
#include "test.h"

#define NR_BLOCKS 2048u
#define ROUNDS 12u
#define NONE UINT64_MAX
#define NR_ERAS 600000u
#define SINCE 6

/* DMSNAP_FEWER: under valgrind, where one thread runs at a time and slowly. */
static uint32_t nr_rounds(void)
{
	return getenv("DMSNAP_FEWER") ? 2 : ROUNDS;
}

/* What is wanted, what is wrong with it, and what came. */
struct world {
	struct dms_block_io io;
	uint8_t wanted[NR_BLOCKS + 1]; /* the last one lies outside the medium */
	uint8_t spoilt[NR_BLOCKS]; /* the visitor refuses it */
	uint8_t seen[NR_BLOCKS];
	uint64_t next;
	uint64_t last; /* that was seen, where one thread sees all */
	uint32_t others; /* visits by other threads than the first */
	pthread_t first;
	bool in_order;
};

/* Blocks of the medium that cannot be read. */
static uint8_t unreadable[NR_BLOCKS];
static int unreadable_fd = -1;

ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	uint64_t end = (offset_bytes + length_bytes) / DMS_BLOCK_BYTES;

	if (kind != DMS_IO_READ || fd != unreadable_fd)
		return 0;
	for (uint64_t block = offset_bytes / DMS_BLOCK_BYTES; block < end; block++)
		if (unreadable[block])
			return -EIO;
	return 0;
}

static bool next_wanted(void *context, struct dms_block_ref *ref)
{
	struct world *world = context;

	while (world->next <= NR_BLOCKS) {
		uint64_t block = world->next++;

		if (!world->wanted[block])
			continue;
		*ref = (struct dms_block_ref){ block, block * 3, block * 5 };
		return true;
	}
	return false;
}

static struct dms_error *visit(void *context, const struct dms_block_ref *ref,
			       const uint8_t *block)
{
	struct world *world = context;

	CHECK(world->wanted[ref->blocknr] && ref->key == ref->blocknr * 3 &&
	      ref->key_end == ref->blocknr * 5);
	CHECK(get_le64(block) == ref->blocknr &&
	      get_le64(block + DMS_BLOCK_BYTES - 8) == ~ref->blocknr);
	CHECK(!__atomic_fetch_add(&world->seen[ref->blocknr], 1, __ATOMIC_RELAXED));
	if (!pthread_equal(pthread_self(), world->first))
		__atomic_fetch_add(&world->others, 1, __ATOMIC_RELAXED);
	if (world->in_order) {
		CHECK(world->last == NONE || world->last < ref->blocknr);
		world->last = ref->blocknr;
	}
	/* Now and then somebody else is faster. */
	if (ref->blocknr % 197 == 0)
		usleep(300);
	if (world->spoilt[ref->blocknr])
		return dms_error_create_at(DMS_ERR_CORRUPT, ref->blocknr * DMS_BLOCK_BYTES,
					   "block %" PRIu64 " is spoilt", ref->blocknr);
	return NULL;
}

static int medium(void)
{
	int fd = memfd_create("blocks", MFD_CLOEXEC);
	uint8_t block[DMS_BLOCK_BYTES] = { 0 };

	CHECK(fd >= 0);
	for (uint64_t i = 0; i < NR_BLOCKS; i++) {
		put_le64(block, i);
		put_le64(block + sizeof(block) - 8, ~i);
		CHECK(write(fd, block, sizeof(block)) == sizeof(block));
	}
	return fd;
}

static void reset(struct world *world)
{
	struct dms_block_io io = world->io;

	memset(unreadable, 0, sizeof(unreadable));
	*world = (struct world){ .io = io, .last = NONE, .first = pthread_self() };
}

static struct dms_error *run(struct world *world)
{
	struct dms_block_reader *reader;
	struct dms_error *error;

	CHECK_OK(dms_block_reader_create(&world->io, &reader));
	error = dms_block_readers_run(reader, NR_BLOCKS, "test", next_wanted, visit, world);
	dms_block_reader_destroy(reader);
	return error;
}

/* Of those that are wanted, the first that cannot be read or is refused. */
static uint64_t first_bad(const struct world *world)
{
	for (uint64_t block = 0; block < NR_BLOCKS; block++)
		if (world->wanted[block] && (world->spoilt[block] || unreadable[block]))
			return block;
	return NONE;
}

static void expect(struct world *world)
{
	uint64_t bad = first_bad(world);
	struct dms_error *error = run(world);

	if (bad == NONE && world->wanted[NR_BLOCKS]) {
		CHECK_MESSAGE(error, DMS_ERR_OUT_OF_BOUNDS, "test block 2048: the medium has 2048");
		return;
	}
	for (uint64_t block = 0; block < NR_BLOCKS && block < bad; block++)
		CHECK(world->seen[block] == world->wanted[block]);
	if (bad == NONE) {
		CHECK_OK(error);
		return;
	}
	CHECK(error && error->offset_bytes == bad * DMS_BLOCK_BYTES);
	CHECK(error->code == (unreadable[bad] ? DMS_ERR_OS : DMS_ERR_CORRUPT));
	dms_error_destroy(error);
}

/* Dense and sparse requests, none to many errors. */
static void random_rounds(struct world *world, struct random *random)
{
	for (uint32_t round = 0; round < nr_rounds(); round++) {
		uint64_t every = 1 + next_random(random) % 12;
		uint64_t nr_bad = round % 3 * (next_random(random) % 20);

		reset(world);
		for (uint64_t block = 0; block < NR_BLOCKS; block++)
			world->wanted[block] = next_random(random) % every == 0;
		for (; nr_bad; nr_bad--) {
			world->spoilt[next_random(random) % NR_BLOCKS] = 1;
			unreadable[next_random(random) % NR_BLOCKS] = 1;
		}
		world->wanted[NR_BLOCKS] = round % 4 == 3;
		expect(world);
	}
}

/* The last run fails at once, the first one late: the first one counts. */
static void first_of_two(struct world *world)
{
	for (uint32_t round = 0; round < nr_rounds(); round++) {
		reset(world);
		memset(world->wanted, 1, NR_BLOCKS);
		world->spoilt[DMS_RUN_BLOCKS / 2 + 197 * (round % 5)] = 1;
		memset(world->spoilt + 1100, 1, NR_BLOCKS - 1100);
		expect(world);
	}
}

/* One thread does it, in order. */
static void alone(struct world *world)
{
	reset(world);
	world->in_order = true;
	memset(world->wanted, 1, NR_BLOCKS);
	expect(world);
	CHECK(!world->others);
}

static void one_processor(struct world *world)
{
	cpu_set_t before, one;

	CHECK(!sched_getaffinity(0, sizeof(before), &before));
	CPU_ZERO(&one);
	for (int processor = 0; !CPU_COUNT(&one); processor++)
		if (CPU_ISSET(processor, &before))
			CPU_SET(processor, &one);
	CHECK(!sched_setaffinity(0, sizeof(one), &one));
	world->io.nr_readers = 0;
	alone(world);
	CHECK(!sched_setaffinity(0, sizeof(before), &before));
}

/* In a process of its own: AddressSanitizer needs a thread at the end of this one. */
static void without_threads(struct world *world)
{
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (!child) {
		refuse_threads();
		world->io.nr_readers = 4;
		alone(world);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && !status);
}

/* All readers read: 2,048 blocks, at which each of them sleeps, are not one's alone. */
static void several(struct world *world)
{
	uint32_t others = 0;

	for (uint32_t round = 0; round < 100 && !others; round++) {
		reset(world);
		world->io.nr_readers = 2;
		memset(world->wanted, 1, NR_BLOCKS);
		expect(world);
		others = world->others;
	}
	CHECK(others);
}

/* Bits of an era array whose blocks are no whole words: neighbours meet in a word. */
struct found {
	struct dms_bitmap *bitmap;
};

static struct dms_error *filter(void *context, const struct dms_array_run *run)
{
	const struct found *found = context;
	uint64_t masks[DMS_BLOCK_BYTES / DMS_ERA_BYTES / DMS_WORD_BITS];

	dms_era_filter(run->values, run->nr_entries, SINCE, masks);
	dms_bitmap_merge(found->bitmap, run->first, masks, run->nr_entries);
	return NULL;
}

static void bits_of_an_array(struct world *world, const struct image *image, uint64_t root,
			     const uint32_t *eras)
{
	int fd = image_fd(image, image->nr_blocks * IMAGE_BLOCK);
	struct dms_metadata_walk *walk;
	struct dms_block_io io;
	struct found found;
	uint64_t nr;

	CHECK_OK(dms_block_io_init(&io, fd));
	io.nr_readers = world->io.nr_readers;
	io.without_io_uring = world->io.without_io_uring;
	CHECK_OK(dms_bitmap_create(NR_ERAS, &found.bitmap));
	CHECK_OK(dms_metadata_walk_create(&io, &walk));
	CHECK_OK(dms_array_walk(walk, "array", root, DMS_ERA_BYTES, filter, &found, &nr));
	CHECK(nr == NR_ERAS);
	for (uint32_t i = 0; i < NR_ERAS; i++)
		CHECK((found.bitmap->words[i / DMS_WORD_BITS] >> i % DMS_WORD_BITS & 1) ==
		      (eras[i] >= SINCE));
	dms_metadata_walk_destroy(walk);
	dms_bitmap_destroy(found.bitmap);
	close(fd);
}

static void all(struct world *world)
{
	struct random random = { 20261129 };
	uint32_t *eras = malloc(NR_ERAS * sizeof(*eras));
	struct image image;
	uint64_t root;

	CHECK(eras);
	for (uint32_t i = 0; i < NR_ERAS; i++)
		eras[i] = (uint32_t)(next_random(&random) % 8);
	image_init(&image, NR_ERAS / 1018 + 64);
	image_shuffle(&image, 5);
	root = image_era_array(&image, 252, NR_ERAS, eras);
	for (uint32_t nr_readers = 1; nr_readers <= DMS_MAX_READERS + 1;
	     nr_readers += getenv("DMSNAP_FEWER") ? 2 : 1) {
		world->io.nr_readers = nr_readers;
		random_rounds(world, &random);
		first_of_two(world);
		bits_of_an_array(world, &image, root, eras);
	}
	world->io.nr_readers = 1;
	alone(world);
	one_processor(world);
	image_free(&image);
	free(eras);
}

int main(void)
{
	static struct world world;
	int fd = medium();

	CHECK_OK(dms_block_io_init(&world.io, fd));
	unreadable_fd = fd;
	if (!getenv("DMSNAP_WITHOUT_IO_URING")) {
		all(&world);
		several(&world);
	}
	world.io.without_io_uring = true;
	all(&world);
	several(&world);
	without_threads(&world);
	close(fd);
	return 0;
}
