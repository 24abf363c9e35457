// SPDX-License-Identifier: Apache-2.0
#include "btree_diff.h"
#include "cleanup.h"
#include "thin_mapping.h"

/* What is left of the mappings of one device while both are gone through. */
struct rest {
	const struct dms_thin_mapping *next;
	const struct dms_thin_mapping *end;
	uint64_t done; /* blocks of next */
};

static struct rest rest_of(const struct dms_thin_mappings *mappings)
{
	struct rest rest = { .next = mappings->mappings, .end = mappings->mappings };

	/* Without any it is NULL, which not even 0 may be added to. */
	if (mappings->count)
		rest.end += mappings->count;
	return rest;
}

/* UINT64_MAX, where no block is, when nothing is left. */
static uint64_t thin_block(const struct rest *rest)
{
	return rest->next == rest->end ? UINT64_MAX : rest->next->thin_block + rest->done;
}

static uint64_t blocks_left(const struct rest *rest)
{
	return rest->next == rest->end ? UINT64_MAX : rest->next->nr_blocks - rest->done;
}

static void advance(struct rest *rest, uint64_t nr_blocks)
{
	rest->done += nr_blocks;
	if (rest->done == rest->next->nr_blocks) {
		rest->next++;
		rest->done = 0;
	}
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Blocks from the lower of the two places up to where anything changes. */
static struct dms_error *step(struct rest *from, struct rest *to, uint64_t block_bytes,
			      const struct dms_thin_difference *difference)
{
	uint64_t old = thin_block(from), new = thin_block(to), nr_blocks;
	struct dms_extent_set *set;

	if (old < new) {
		nr_blocks = smaller(blocks_left(from), new - old);
		set = difference->removed;
	} else if (new < old) {
		nr_blocks = smaller(blocks_left(to), old - new);
		set = difference->added;
	} else {
		nr_blocks = smaller(blocks_left(from), blocks_left(to));
		set = from->next->data_block + from->done == to->next->data_block + to->done ?
			      NULL :
			      difference->changed;
	}
	if (set)
		DMS_TRY(dms_extent_set_add(set, smaller(old, new) * block_bytes,
					   nr_blocks * block_bytes));
	if (old <= new)
		advance(from, nr_blocks);
	if (new <= old)
		advance(to, nr_blocks);
	return NULL;
}

static struct dms_error *compare(const struct dms_thin_mappings *from_mappings,
				 const struct dms_thin_mappings *to_mappings,
				 const struct dms_thin_difference *difference)
{
	struct rest from = rest_of(from_mappings), to = rest_of(to_mappings);

	while (from.next != from.end || to.next != to.end)
		DMS_TRY(step(&from, &to, from_mappings->block_bytes, difference));
	return NULL;
}

/* What the two map outside the subtrees that they share. */
static struct dms_error *read_unshared(const struct dms_thin_metadata *metadata,
				       const struct dms_thin_device *from,
				       const struct dms_thin_device *to,
				       struct dms_thin_mappings *from_mappings,
				       struct dms_thin_mappings *to_mappings)
{
	_cleanup_metadata_walk_ struct dms_metadata_walk *from_walk = NULL;
	_cleanup_metadata_walk_ struct dms_metadata_walk *to_walk = NULL;
	struct dms_btree_side one, other;

	DMS_TRY(dms_metadata_walk_create_beside(metadata->trees, &from_walk));
	DMS_TRY(dms_metadata_walk_create_beside(metadata->trees, &to_walk));
	one = (struct dms_btree_side){ from_walk, from->mapping_root, dms_thin_mappings_add,
				       from_mappings };
	other = (struct dms_btree_side){ to_walk, to->mapping_root, dms_thin_mappings_add,
					 to_mappings };
	DMS_TRY(dms_btree_walk_unshared(DMS_THIN_MAPPING_WHAT, &one, &other,
					DMS_THIN_MAPPING_BYTES));
	dms_thin_mappings_sort(from_mappings);
	dms_thin_mappings_sort(to_mappings);
	return NULL;
}

struct dms_error *dms_thin_difference(const struct dms_thin_metadata *metadata, uint32_t from,
				      uint32_t to, struct dms_thin_difference *difference)
{
	_cleanup_thin_mappings_ struct dms_thin_mappings *from_mappings = NULL;
	_cleanup_thin_mappings_ struct dms_thin_mappings *to_mappings = NULL;
	_cleanup_extent_set_ struct dms_extent_set *added = NULL;
	_cleanup_extent_set_ struct dms_extent_set *removed = NULL;
	_cleanup_extent_set_ struct dms_extent_set *changed = NULL;
	const struct dms_thin_device *from_device, *to_device;
	struct dms_thin_difference new;

	DMS_TRY(dms_thin_find_device(metadata, from, &from_device));
	DMS_TRY(dms_thin_find_device(metadata, to, &to_device));
	DMS_TRY(dms_thin_mappings_create(metadata, &from_mappings));
	DMS_TRY(dms_thin_mappings_create(metadata, &to_mappings));
	DMS_TRY(dms_extent_set_create(&added));
	DMS_TRY(dms_extent_set_create(&removed));
	DMS_TRY(dms_extent_set_create(&changed));
	DMS_TRY(dms_thin_distrust(metadata, read_unshared(metadata, from_device, to_device,
							  from_mappings, to_mappings)));
	new = (struct dms_thin_difference){ added, removed, changed };
	DMS_TRY(compare(from_mappings, to_mappings, &new));
	*difference = new;
	added = removed = changed = NULL;
	return NULL;
}
