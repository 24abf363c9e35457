// SPDX-License-Identifier: Apache-2.0
/*
 * Blocks written since an era. What was written in an era lies in that era's
 * writeset until the kernel has digested it into the era array; digesting goes
 * on in the background, so only all of them together tell everything.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/era.h>

#include "array.h"
#include "bitset.h"
#include "block_set.h"
#include "btree.h"
#include "cleanup.h"
#include "era_filter.h"
#include "era_superblock.h"
#include "le_cursor.h"
#include "metadata_walk.h"

#define SECTOR_BYTES 512
#define WRITESET_BYTES 12

struct dms_era_metadata {
	struct dms_block_io io;
	struct dms_era_superblock superblock;
	uint32_t csum; /* the superblock's */
};

/* Where a query begins: in the live superblock, or in its clone. */
struct roots {
	struct dms_era_superblock superblock;
	uint64_t blocknr;
	uint32_t csum;
};

/* An archived writeset that counts. */
struct writeset {
	uint32_t nr_bits;
	uint64_t root;
};

struct query {
	struct dms_metadata_walk *walk;
	struct dms_bitmap *bitmap; /* the result: a bit per data block */
	uint32_t since;
	uint32_t current_era;
	struct writeset *writesets;
	size_t nr_writesets;
	size_t capacity;
};

static struct dms_error *open_metadata(int fd, struct dms_era_metadata *metadata)
{
	DMS_TRY(dms_block_io_init(&metadata->io, fd));
	if (!metadata->io.nr_blocks)
		return dms_error_create(DMS_ERR_BAD_MAGIC,
					"era superblock: the medium has %" PRIu64 " bytes",
					metadata->io.size_bytes);
	DMS_TRY(dms_era_superblock_read(&metadata->io, 0, &metadata->superblock, &metadata->csum));
	return dms_era_superblock_check_geometry(&metadata->superblock, &metadata->io);
}

struct dms_error *dms_era_metadata_open(int fd, struct dms_era_metadata **metadata)
{
	_cleanup_free_ struct dms_era_metadata *new = calloc(1, sizeof(*new));

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for era metadata");
	DMS_TRY(open_metadata(fd, new));
	*metadata = dms_steal(new);
	return NULL;
}

void dms_era_metadata_close(struct dms_era_metadata *metadata)
{
	free(metadata);
}

const struct dms_era_superblock *dms_era_metadata_superblock(const struct dms_era_metadata *metadata)
{
	return &metadata->superblock;
}

static struct dms_error *from_the_future(const char *what, uint64_t blocknr, uint64_t era,
					 const struct query *query)
{
	return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
				   "%s block %" PRIu64 ": era %" PRIu64 ", current is %u", what,
				   blocknr, era, query->current_era);
}

static struct dms_error *collect_writeset(void *context, uint64_t blocknr, uint64_t key,
					  const uint8_t *value)
{
	struct query *query = context;

	if (key > query->current_era)
		return from_the_future("writeset tree", blocknr, key, query);
	if (key < query->since)
		return NULL;
	if (query->nr_writesets == query->capacity) {
		size_t capacity = query->capacity ? query->capacity * 2 : 16;
		struct writeset *writesets =
			reallocarray(query->writesets, capacity, sizeof(*writesets));

		if (!writesets)
			return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu writesets",
						capacity);
		query->writesets = writesets;
		query->capacity = capacity;
	}
	query->writesets[query->nr_writesets++] = (struct writeset){
		.nr_bits = dms_load_le32(value),
		.root = dms_load_le64(value + sizeof(uint32_t)),
	};
	return NULL;
}

static struct dms_error *merge_archived(struct query *query, uint64_t writeset_tree_root)
{
	DMS_TRY(dms_btree_walk(query->walk, "writeset tree", writeset_tree_root, WRITESET_BYTES,
			       collect_writeset, query));
	for (size_t i = 0; i < query->nr_writesets; i++)
		DMS_TRY(dms_bitset_merge(query->walk, "writeset", query->writesets[i].root,
					 query->writesets[i].nr_bits, query->bitmap));
	return NULL;
}

static struct dms_error *filter_eras(void *context, const struct dms_array_run *run)
{
	struct query *query = context;
	uint64_t nr_blocks = query->bitmap->nr_bits;
	uint64_t masks[DMS_BLOCK_BYTES / DMS_ERA_BYTES / DMS_WORD_BITS];
	uint32_t nr = run->nr_entries, latest;

	/* After the device shrank, a metadata snapshot's array is longer than the device. */
	if (run->first >= nr_blocks)
		return NULL;
	if (nr > nr_blocks - run->first)
		nr = (uint32_t)(nr_blocks - run->first);
	latest = dms_era_filter(run->values, nr, query->since, masks);
	if (latest > query->current_era)
		return from_the_future("era array", run->blocknr, latest, query);
	dms_bitmap_merge(query->bitmap, run->first, masks, nr);
	return NULL;
}

static struct dms_error *merge_array(struct query *query, uint64_t era_array_root,
				     bool from_snapshot)
{
	uint64_t nr_entries;

	DMS_TRY(dms_array_walk(query->walk, "era array", era_array_root, DMS_ERA_BYTES, filter_eras,
			       query, &nr_entries));
	/* A snapshot's array is shorter when the device has grown since it was taken. */
	if (!from_snapshot && nr_entries < query->bitmap->nr_bits)
		return dms_error_create_at(DMS_ERR_CORRUPT, era_array_root * DMS_BLOCK_BYTES,
					   "era array: %" PRIu64 " entries for %" PRIu64
					   " blocks",
					   nr_entries, query->bitmap->nr_bits);
	return NULL;
}

static struct dms_error *merge_all(struct query *query, const struct dms_era_superblock *roots,
				   bool from_snapshot)
{
	DMS_TRY(merge_archived(query, roots->writeset_tree_root));
	if (!from_snapshot && roots->current_writeset_root && query->current_era >= query->since)
		DMS_TRY(dms_bitset_merge(query->walk, "current writeset",
					 roots->current_writeset_root,
					 roots->current_writeset_nr_bits, query->bitmap));
	return merge_array(query, roots->era_array_root, from_snapshot);
}

static struct dms_error *find_roots(const struct dms_era_metadata *metadata, bool from_snapshot,
				    struct roots *roots)
{
	if (!from_snapshot) {
		*roots = (struct roots){ metadata->superblock, 0, metadata->csum };
		return NULL;
	}
	roots->blocknr = metadata->superblock.metadata_snap;
	if (!roots->blocknr)
		return dms_error_create(DMS_ERR_NO_METADATA_SNAPSHOT,
					"no metadata snapshot is held");
	return dms_era_superblock_read(&metadata->io, roots->blocknr, &roots->superblock,
				       &roots->csum);
}

/*
 * Whether what the roots lead to is still what was read. The kernel writes what
 * changes in a block to another place, and the superblock last: as long as that
 * is the same (or holds the same metadata snapshot), no block that it leads to
 * was used for something else. Two commits could bring the same bytes again;
 * this finds who forgot that the metadata is in use, and replaces no snapshot.
 */
static struct dms_error *check_unchanged(const struct dms_era_metadata *metadata,
					 const struct roots *roots)
{
	struct dms_era_superblock live, clone;
	uint32_t csum;

	DMS_TRY(dms_era_superblock_read(&metadata->io, 0, &live, &csum));
	if (!roots->blocknr) {
		if (csum == roots->csum)
			return NULL;
		return dms_error_create_at(DMS_ERR_CHANGED, 0,
					   "era metadata was written while it was read (current_era "
					   "%u, now %u): it is in use, and a metadata snapshot is "
					   "needed",
					   metadata->superblock.current_era, live.current_era);
	}
	if (live.metadata_snap == roots->blocknr) {
		DMS_TRY(dms_era_superblock_read(&metadata->io, roots->blocknr, &clone, &csum));
		if (csum == roots->csum)
			return NULL;
	}
	return dms_error_create_at(DMS_ERR_CHANGED, 0,
				   "the metadata snapshot at block %" PRIu64
				   " was dropped while it was read", roots->blocknr);
}

/*
 * What is made of a result, or of an error that the medium's content gave:
 * when the metadata was written meanwhile, both mean nothing.
 */
static struct dms_error *distrust(const struct dms_era_metadata *metadata,
				  const struct roots *roots, struct dms_error *error)
{
	struct dms_error *change;

	if (error && (error->code == DMS_ERR_OS || error->code == DMS_ERR_NO_MEMORY ||
		      error->code == DMS_ERR_NO_METADATA_SNAPSHOT))
		return error;
	change = check_unchanged(metadata, roots);
	if (error && change && change->code != DMS_ERR_CHANGED) {
		dms_error_destroy(change);
		return error;
	}
	if (!change)
		return error;
	dms_error_destroy(error);
	return change;
}

static struct dms_error *run_query(const struct dms_era_metadata *metadata, struct query *query,
				   bool from_snapshot)
{
	struct roots roots = { .blocknr = 0 };
	struct dms_error *error = find_roots(metadata, from_snapshot, &roots);

	if (!error)
		error = merge_all(query, &roots.superblock, from_snapshot);
	return distrust(metadata, &roots, error);
}

struct dms_error *dms_era_written_blocks(struct dms_era_metadata *metadata, uint32_t since,
					 bool from_snapshot, struct dms_block_set **set)
{
	const struct dms_era_superblock *superblock = &metadata->superblock;
	_cleanup_metadata_walk_ struct dms_metadata_walk *walk = NULL;
	_cleanup_block_set_ struct dms_block_set *new = NULL;
	struct query query = { .since = since, .current_era = superblock->current_era };
	struct dms_error *error;

	DMS_TRY(dms_metadata_walk_create(&metadata->io, &walk));
	DMS_TRY(dms_block_set_create(superblock->nr_blocks,
				     (uint64_t)superblock->data_block_size * SECTOR_BYTES, &new));
	query.walk = walk;
	query.bitmap = new->bitmap;
	error = run_query(metadata, &query, from_snapshot);
	free(query.writesets);
	if (error)
		return error;
	*set = dms_steal(new);
	return NULL;
}

struct dms_error *dms_era_written_since(struct dms_era_metadata *metadata, uint32_t since,
					bool from_snapshot, struct dms_extent_set **set)
{
	_cleanup_block_set_ struct dms_block_set *blocks = NULL;

	DMS_TRY(dms_era_written_blocks(metadata, since, from_snapshot, &blocks));
	return dms_block_set_extents(blocks, set);
}
