// SPDX-License-Identifier: Apache-2.0
/* The era reader on images built here: right ones against the eras they were made of, and hostile ones. */
#include <unistd.h>

#include <dmsnap/era.h>

#include "../src/era_superblock.h"
#include "image.h"
#include "test.h"

#define NR_BLOCKS 5000
#define BLOCK_SECTORS 128u
#define BLOCK_BYTES (BLOCK_SECTORS * 512u)
#define CURRENT_ERA 9

struct world {
	struct image image;
	struct image_superblock superblock;
	uint32_t eras[NR_BLOCKS]; /* of each block, whichever structure knows it */
	uint64_t array_blocks; /* the first array block of the era array */
};

static uint64_t add_writeset(struct world *world, struct random *random, uint32_t era,
			     uint32_t nr_bits)
{
	uint8_t bits[NR_BLOCKS] = { 0 };

	for (int i = 0; i < 60; i++) {
		uint64_t block = next_random(random) % nr_bits;

		bits[block] = 1;
		if (world->eras[block] < era)
			world->eras[block] = era;
	}
	return image_bitset(&world->image, 3, nr_bits, bits);
}

/*
 * Eras up to 5 digested, 6 to 8 archived (6 with fewer bits: the device has
 * grown since), 9 in the current writeset. With snapshot, a clone of the
 * superblock whose roots know nothing of era 9; else no clone.
 */
static void build(struct world *world, bool snapshot)
{
	struct random random = { 42 };
	struct image_writeset writesets[3];
	uint32_t array_eras[NR_BLOCKS];

	memset(world, 0, sizeof(*world));
	image_init(&world->image, 400);
	for (uint32_t i = 0; i < NR_BLOCKS; i++)
		world->eras[i] = i % 1000 < 30 ? 5 : (uint32_t)(next_random(&random) % 5);
	memcpy(array_eras, world->eras, sizeof(array_eras));
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t nr_bits = i ? NR_BLOCKS : 3001;

		writesets[i] = (struct image_writeset){ 6 + i, nr_bits, 0 };
		writesets[i].root = add_writeset(world, &random, 6 + i, nr_bits);
	}
	world->superblock = (struct image_superblock){
		.version = 1,
		.data_block_size = BLOCK_SECTORS,
		.metadata_block_size = 8,
		.nr_blocks = NR_BLOCKS,
		.current_era = CURRENT_ERA,
		.current_nr_bits = NR_BLOCKS,
	};
	/* Fan-outs of 2 and 3 make deep trees of few blocks. */
	world->superblock.writeset_tree_root =
		image_writeset_tree(&world->image, 2, 3, writesets);
	world->array_blocks = world->image.next;
	world->superblock.era_array_root =
		image_era_array(&world->image, 2, NR_BLOCKS, array_eras);
	if (snapshot) {
		world->superblock.metadata_snap = image_take(&world->image);
		image_superblock(&world->image, world->superblock.metadata_snap,
				 &world->superblock);
	} else {
		world->superblock.current_root =
			add_writeset(world, &random, CURRENT_ERA, NR_BLOCKS);
	}
	image_superblock(&world->image, 0, &world->superblock);
}

static struct dms_error *query_fd(int fd, uint32_t since, bool from_snapshot,
				  struct dms_extent_set **set)
{
	struct dms_era_metadata *metadata;
	struct dms_error *error = dms_era_metadata_open(fd, &metadata);

	if (!error) {
		error = dms_era_written_since(metadata, since, from_snapshot, set);
		dms_era_metadata_close(metadata);
	}
	return error;
}

static struct dms_error *query(const struct world *world, uint32_t since, bool from_snapshot,
			       struct dms_extent_set **set)
{
	int fd = image_fd(&world->image, world->image.nr_blocks * IMAGE_BLOCK);
	struct dms_error *error = query_fd(fd, since, from_snapshot, set);

	close(fd);
	return error;
}

static void expect(const struct world *world, uint32_t since, bool from_snapshot,
		   uint32_t nr_blocks)
{
	struct dms_extent_set *set, *expected;

	CHECK_OK(query(world, since, from_snapshot, &set));
	CHECK_OK(dms_extent_set_create(&expected));
	for (uint32_t i = 0; i < nr_blocks; i++)
		if (world->eras[i] >= since)
			CHECK_OK(dms_extent_set_add(expected, (uint64_t)i * BLOCK_BYTES,
						    BLOCK_BYTES));
	CHECK(dms_extent_set_count(set) == dms_extent_set_count(expected));
	CHECK(!dms_extent_set_count(set) ||
	      !memcmp(dms_extent_set_extents(set), dms_extent_set_extents(expected),
		      dms_extent_set_count(set) * sizeof(struct dms_extent)));
	dms_extent_set_destroy(set);
	dms_extent_set_destroy(expected);
}

static void right(void)
{
	struct world world;

	for (uint32_t since = 0; since < CURRENT_ERA + 3; since++) {
		build(&world, false);
		expect(&world, since, false, NR_BLOCKS);
		CHECK_ERROR(query(&world, since, true, NULL), DMS_ERR_NO_METADATA_SNAPSHOT);
		image_free(&world.image);
		build(&world, true);
		expect(&world, since, true, NR_BLOCKS);
		expect(&world, since, false, NR_BLOCKS);
		image_free(&world.image);
	}
}

static void fields(void)
{
	struct dms_era_metadata *metadata;
	const struct dms_era_superblock *superblock;
	struct world world;
	int fd;

	build(&world, true);
	fd = image_fd(&world.image, world.image.nr_blocks * IMAGE_BLOCK);
	CHECK_OK(dms_era_metadata_open(fd, &metadata));
	superblock = dms_era_metadata_superblock(metadata);
	CHECK(superblock->version == 1 && superblock->blocknr == 0 && superblock->flags == 0);
	CHECK(superblock->data_block_size == BLOCK_SECTORS && superblock->nr_blocks == NR_BLOCKS);
	CHECK(superblock->metadata_block_size == 8 && superblock->current_era == CURRENT_ERA);
	CHECK(superblock->metadata_snap == world.superblock.metadata_snap);
	CHECK(superblock->current_writeset_nr_bits == NR_BLOCKS);
	CHECK(superblock->era_array_root == world.superblock.era_array_root);
	CHECK(superblock->writeset_tree_root == world.superblock.writeset_tree_root);
	dms_era_metadata_close(metadata);
	close(fd);
	image_free(&world.image);
}

/* The device shrank or grew after the snapshot was taken: the geometry is the live superblock's. */
static void resized(void)
{
	struct world world;

	build(&world, true);
	world.superblock.nr_blocks = 3500;
	image_superblock(&world.image, 0, &world.superblock);
	expect(&world, 4, true, 3500);
	world.superblock.nr_blocks = 3500 + 64 * 40;
	image_superblock(&world.image, 0, &world.superblock);
	expect(&world, 4, true, NR_BLOCKS);
	/* The live array, however, has an entry for each block. */
	CHECK_MESSAGE(query(&world, 4, false, NULL), DMS_ERR_CORRUPT, "5000 entries for 6060");
	image_free(&world.image);
}

static void empty(void)
{
	struct world world = { .superblock = { .version = 1, .data_block_size = 8,
					       .metadata_block_size = 8 } };
	struct dms_extent_set *set;

	image_init(&world.image, 4);
	world.superblock.writeset_tree_root = image_writeset_tree(&world.image, 201, 0, NULL);
	world.superblock.era_array_root = image_era_array(&world.image, 252, 0, NULL);
	image_superblock(&world.image, 0, &world.superblock);
	CHECK_OK(query(&world, 0, false, &set));
	CHECK(!dms_extent_set_count(set));
	dms_extent_set_destroy(set);
	image_free(&world.image);
}

/* Change the superblock, or a block that change() seals itself; the query must say why not. */
static void rejects(void (*change)(struct world *world), int code, const char *part)
{
	struct dms_extent_set *set;
	struct world world;

	build(&world, false);
	change(&world);
	CHECK_MESSAGE(query(&world, 1, false, &set), code, part);
	image_free(&world.image);
}

#define SUPERBLOCK(name, statement)                            \
	static void name(struct world *world)                  \
	{                                                      \
		struct image_superblock *s = &world->superblock; \
		statement;                                     \
		image_superblock(&world->image, 0, s);         \
	}                                                      \
	_Static_assert(1, "the caller's semicolon")

SUPERBLOCK(version_2, s->version = 2);
SUPERBLOCK(no_block_size, s->data_block_size = 0);
SUPERBLOCK(odd_block_size, s->data_block_size = 12);
SUPERBLOCK(metadata_block_size, s->metadata_block_size = 16);
SUPERBLOCK(many_blocks, s->nr_blocks = UINT32_MAX);
SUPERBLOCK(snap_outside, s->metadata_snap = 400);
SUPERBLOCK(tree_outside, s->writeset_tree_root = 400);
SUPERBLOCK(tree_far, s->writeset_tree_root = UINT64_MAX);
SUPERBLOCK(tree_nowhere, s->writeset_tree_root = 0);
SUPERBLOCK(array_nowhere, s->era_array_root = 0);
SUPERBLOCK(array_is_tree, s->era_array_root = s->writeset_tree_root);
SUPERBLOCK(tree_is_array, s->writeset_tree_root = s->era_array_root; s->era_array_root = 1);
SUPERBLOCK(array_is_array_block, s->era_array_root = world->array_blocks);
SUPERBLOCK(old_era, s->current_era = 7);
SUPERBLOCK(older_era, s->current_era = 3; s->writeset_tree_root = image_writeset_tree(
					     &world->image, 2, 0, NULL));
SUPERBLOCK(wide_writeset, s->current_nr_bits = NR_BLOCKS + 64);
SUPERBLOCK(more_blocks, s->nr_blocks += 1);

static uint8_t *root_of_array(struct world *world)
{
	return image_block(&world->image, world->superblock.era_array_root);
}

static void seal_root(struct world *world)
{
	image_seal(&world->image, world->superblock.era_array_root, NODE_SALT);
}

/* The root's second child is the root: a cycle. */
static void cycle(struct world *world)
{
	put_le64(root_of_array(world) + 32 + 2 * 8 + 8, world->superblock.era_array_root);
	seal_root(world);
}

static void shared_child(struct world *world)
{
	uint8_t *root = root_of_array(world);

	put_le64(root + 32 + 2 * 8 + 8, get_le64(root + 32 + 2 * 8));
	seal_root(world);
}

static void keys_fall(struct world *world)
{
	put_le64(root_of_array(world) + 32 + 8, 0);
	seal_root(world);
}

static void key_outside(struct world *world)
{
	put_le64(root_of_array(world) + 32 + 8, get_le64(root_of_array(world) + 32 + 8) + 1);
	seal_root(world);
}

static void bare_internal(struct world *world)
{
	put_le32(root_of_array(world) + 16, 0);
	seal_root(world);
}

static void both_flags(struct world *world)
{
	put_le32(root_of_array(world) + 4, 3);
	seal_root(world);
}

static void too_many_entries(struct world *world)
{
	put_le32(root_of_array(world) + 16, 3);
	seal_root(world);
}

static void too_many_slots(struct world *world)
{
	put_le32(root_of_array(world) + 20, 0x80000000);
	seal_root(world);
}

static void value_size(struct world *world)
{
	put_le32(root_of_array(world) + 24, 12);
	seal_root(world);
}

static void wrong_place(struct world *world)
{
	put_le64(root_of_array(world) + 8, 7);
	seal_root(world);
}

static void bit_flip(struct world *world)
{
	root_of_array(world)[4000] ^= 1;
}

static void lost_child(struct world *world)
{
	put_le32(root_of_array(world) + 16, 1);
	seal_root(world);
}

static void change_array_block(struct world *world, unsigned int at, uint32_t value)
{
	put_le32(image_block(&world->image, world->array_blocks) + at, value);
	image_seal(&world->image, world->array_blocks, ARRAY_SALT);
}

static void array_short(struct world *world) { change_array_block(world, 8, 1017); }
static void array_long(struct world *world) { change_array_block(world, 8, 1019); }
static void array_slots(struct world *world) { change_array_block(world, 4, 900); }
static void array_values(struct world *world) { change_array_block(world, 12, 8); }
static void array_place(struct world *world) { change_array_block(world, 16, 9); }
static void array_future(struct world *world) { change_array_block(world, 24, 10); }

static void array_flip(struct world *world)
{
	image_block(&world->image, world->array_blocks)[100] ^= 4;
}

/* One leaf, whose keys leave a hole, or that has the same block twice. */
static void array_hole(struct world *world)
{
	uint64_t keys[] = { 0, 2 };
	uint8_t blocks[16];

	put_le64(blocks, world->array_blocks);
	put_le64(blocks + 8, world->array_blocks + 1);
	world->superblock.era_array_root = image_btree(&world->image, 8, 252, 2, keys, blocks);
	image_superblock(&world->image, 0, &world->superblock);
}

static void array_twice(struct world *world)
{
	uint64_t keys[] = { 0, 1 };
	uint8_t blocks[16];

	put_le64(blocks, world->array_blocks);
	put_le64(blocks + 8, world->array_blocks);
	world->superblock.era_array_root = image_btree(&world->image, 8, 252, 2, keys, blocks);
	image_superblock(&world->image, 0, &world->superblock);
}

static void hostile(void)
{
	rejects(version_2, DMS_ERR_UNSUPPORTED, "version 2");
	rejects(no_block_size, DMS_ERR_CORRUPT, "data_block_size 0");
	rejects(odd_block_size, DMS_ERR_CORRUPT, "data_block_size 12");
	rejects(metadata_block_size, DMS_ERR_CORRUPT, "metadata_block_size 16");
	rejects(many_blocks, DMS_ERR_OUT_OF_BOUNDS, "nr_blocks 4294967295");
	rejects(snap_outside, DMS_ERR_OUT_OF_BOUNDS, "metadata_snap 400");
	rejects(tree_outside, DMS_ERR_OUT_OF_BOUNDS, "writeset tree block 400");
	rejects(tree_far, DMS_ERR_OUT_OF_BOUNDS, "writeset tree block");
	rejects(tree_nowhere, DMS_ERR_OUT_OF_BOUNDS, "writeset tree block 0");
	rejects(array_nowhere, DMS_ERR_OUT_OF_BOUNDS, "era array block 0");
	rejects(array_is_tree, DMS_ERR_CORRUPT, "reached before");
	rejects(tree_is_array, DMS_ERR_CORRUPT, "value_size");
	rejects(array_is_array_block, DMS_ERR_CHECKSUM, "era array block");
	rejects(old_era, DMS_ERR_CORRUPT, "writeset tree block");
	rejects(older_era, DMS_ERR_CORRUPT, "era array block");
	rejects(wide_writeset, DMS_ERR_CORRUPT, "current writeset");
	rejects(more_blocks, DMS_ERR_CORRUPT, "5000 entries for 5001 blocks");
	rejects(cycle, DMS_ERR_CORRUPT, "reached before");
	rejects(shared_child, DMS_ERR_CORRUPT, "reached before");
	rejects(keys_fall, DMS_ERR_CORRUPT, "out of order");
	rejects(key_outside, DMS_ERR_CORRUPT, "outside its parent's range");
	rejects(bare_internal, DMS_ERR_CORRUPT, "nr_entries 0");
	rejects(both_flags, DMS_ERR_CORRUPT, "flags 3");
	rejects(too_many_entries, DMS_ERR_CORRUPT, "nr_entries 3");
	rejects(too_many_slots, DMS_ERR_CORRUPT, "max_entries");
	rejects(value_size, DMS_ERR_CORRUPT, "value_size 12");
	rejects(wrong_place, DMS_ERR_CORRUPT, "says it is block 7");
	rejects(bit_flip, DMS_ERR_CHECKSUM, "era array block");
	rejects(lost_child, DMS_ERR_CORRUPT, "entries for 5000");
	rejects(array_short, DMS_ERR_CORRUPT, "nr_entries 1017");
	rejects(array_long, DMS_ERR_CORRUPT, "nr_entries 1019");
	rejects(array_slots, DMS_ERR_CORRUPT, "max_entries 900");
	rejects(array_values, DMS_ERR_CORRUPT, "value_size 8");
	rejects(array_place, DMS_ERR_CORRUPT, "says it is block 9");
	rejects(array_future, DMS_ERR_CORRUPT, "era 10, current is 9");
	rejects(array_flip, DMS_ERR_CHECKSUM, "era array block");
	rejects(array_hole, DMS_ERR_CORRUPT, "2 blocks, the last is number 2");
	rejects(array_twice, DMS_ERR_CORRUPT, "reached before");
}

static void not_metadata(void)
{
	struct dms_era_metadata *metadata;
	struct world world;
	int fd;

	build(&world, false);
	fd = image_fd(&world.image, 4095);
	CHECK_ERROR(dms_era_metadata_open(fd, &metadata), DMS_ERR_BAD_MAGIC);
	close(fd);
	image_block(&world.image, 0)[8] = 1;
	image_seal(&world.image, 0, SUPERBLOCK_SALT);
	fd = image_fd(&world.image, world.image.nr_blocks * IMAGE_BLOCK);
	CHECK_MESSAGE(dms_era_metadata_open(fd, &metadata), DMS_ERR_CORRUPT, "says it is block 1");
	close(fd);
	memset(image_block(&world.image, 0), 0, IMAGE_BLOCK);
	fd = image_fd(&world.image, world.image.nr_blocks * IMAGE_BLOCK);
	CHECK_ERROR(dms_era_metadata_open(fd, &metadata), DMS_ERR_BAD_MAGIC);
	close(fd);
	CHECK_ERROR(dms_era_metadata_open(-1, &metadata), DMS_ERR_OS);
	image_free(&world.image);
}

/* Sizes that only a large medium lets through. */
static void geometry(void)
{
	struct dms_block_io io = { .size_bytes = 1ull << 34, .nr_blocks = 1ull << 22 };
	struct dms_era_superblock superblock = {
		.data_block_size = 0xfffffff8, .metadata_block_size = 8, .nr_blocks = 1u << 22,
	};

	CHECK_OK(dms_era_superblock_check_geometry(&superblock, &io));
	superblock.nr_blocks++;
	CHECK_MESSAGE(dms_era_superblock_check_geometry(&superblock, &io), DMS_ERR_CORRUPT,
		      "beyond 2^63 bytes");
	superblock.data_block_size = 128;
	superblock.nr_blocks = UINT32_MAX;
	io.nr_blocks = UINT32_MAX / 1018;
	CHECK_ERROR(dms_era_superblock_check_geometry(&superblock, &io), DMS_ERR_OUT_OF_BOUNDS);
	io.nr_blocks++;
	CHECK_OK(dms_era_superblock_check_geometry(&superblock, &io));
}

/* A chain of single-child nodes, deeper than any tree can be. */
static void deep(void)
{
	struct world world;
	uint64_t key = 0, node;
	uint8_t child[8];
	struct dms_extent_set *set;

	build(&world, false);
	node = image_btree(&world.image, 12, 2, 0, NULL, NULL);
	for (int i = 0; i < 30; i++) {
		put_le64(child, node);
		node = image_node(&world.image, false, 8, 2, 1, &key, child);
	}
	world.superblock.writeset_tree_root = node;
	image_superblock(&world.image, 0, &world.superblock);
	CHECK_MESSAGE(query(&world, 1, false, &set), DMS_ERR_CORRUPT, "deeper");
	image_free(&world.image);
}

int main(void)
{
	right();
	fields();
	resized();
	empty();
	hostile();
	not_metadata();
	geometry();
	deep();
	return 0;
}
