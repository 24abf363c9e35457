// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdlib.h>

#include "btree.h"
#include "cleanup.h"
#include "le_cursor.h"
#include "thin_mapping.h"

#define WHAT DMS_THIN_MAPPING_WHAT
/* unpack_block_time() of dm-thin-metadata.c */
#define TIME_BITS 24
#define FIRST_CAPACITY 256

struct dms_error *dms_thin_mappings_create(const struct dms_thin_metadata *metadata,
					   struct dms_thin_mappings **mappings)
{
	struct dms_thin_mappings *new = calloc(1, sizeof(*new));

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for mappings");
	new->block_bytes = dms_thin_block_bytes(metadata);
	new->data_nr_blocks = metadata->superblock.data_nr_blocks;
	*mappings = new;
	return NULL;
}

void dms_thin_mappings_destroy(struct dms_thin_mappings *mappings)
{
	if (!mappings)
		return;
	free(mappings->mappings);
	free(mappings);
}

/* Whether next goes on where mapping ends; then it becomes part of it. */
static bool join(struct dms_thin_mapping *mapping, const struct dms_thin_mapping *next)
{
	if (mapping->thin_block + mapping->nr_blocks != next->thin_block ||
	    mapping->data_block + mapping->nr_blocks != next->data_block ||
	    mapping->time != next->time)
		return false;
	mapping->nr_blocks += next->nr_blocks;
	return true;
}

static struct dms_error *append(struct dms_thin_mappings *mappings,
				const struct dms_thin_mapping *mapping)
{
	if (mappings->count && join(&mappings->mappings[mappings->count - 1], mapping))
		return NULL;
	if (mappings->count == mappings->capacity) {
		size_t capacity = mappings->capacity ? mappings->capacity * 2 : FIRST_CAPACITY;
		struct dms_thin_mapping *new =
			reallocarray(mappings->mappings, capacity, sizeof(*new));

		if (!new)
			return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu mappings",
						capacity);
		mappings->mappings = new;
		mappings->capacity = capacity;
	}
	mappings->mappings[mappings->count++] = *mapping;
	return NULL;
}

struct dms_error *dms_thin_mappings_add(void *context, uint64_t blocknr, uint64_t key,
					const uint8_t *value)
{
	struct dms_thin_mappings *mappings = context;
	uint64_t packed = dms_load_le64(value);
	struct dms_thin_mapping mapping = {
		.thin_block = key,
		.data_block = packed >> TIME_BITS,
		.nr_blocks = 1,
		.time = packed & ((1u << TIME_BITS) - 1),
	};

	if (key >= INT64_MAX / mappings->block_bytes)
		return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
					   WHAT " node %" PRIu64 ": thin block %" PRIu64
						" lies beyond 2^63 bytes",
					   blocknr, key);
	if (mapping.data_block >= mappings->data_nr_blocks)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, blocknr * DMS_BLOCK_BYTES,
					   WHAT " node %" PRIu64 ": data block %" PRIu64
						", the data device has %" PRIu64,
					   blocknr, mapping.data_block, mappings->data_nr_blocks);
	mappings->total_blocks++;
	return append(mappings, &mapping);
}

static int compare_mappings(const void *left, const void *right)
{
	uint64_t a = ((const struct dms_thin_mapping *)left)->thin_block;
	uint64_t b = ((const struct dms_thin_mapping *)right)->thin_block;

	return (a > b) - (a < b);
}

static bool is_ascending(const struct dms_thin_mappings *mappings)
{
	for (size_t i = 1; i < mappings->count; i++)
		if (mappings->mappings[i - 1].thin_block > mappings->mappings[i].thin_block)
			return false;
	return true;
}

/* Nodes are read in the order in which they lie on the medium, which often is that of the keys. */
void dms_thin_mappings_sort(struct dms_thin_mappings *mappings)
{
	size_t last = 0;

	if (mappings->count < 2 || is_ascending(mappings))
		return; /* append() has joined what can be joined */
	qsort(mappings->mappings, mappings->count, sizeof(*mappings->mappings), compare_mappings);
	for (size_t i = 1; i < mappings->count; i++)
		if (!join(&mappings->mappings[last], &mappings->mappings[i]))
			mappings->mappings[++last] = mappings->mappings[i];
	mappings->count = last + 1;
}

static struct dms_error *read_tree(const struct dms_thin_metadata *metadata,
				   const struct dms_thin_device *device,
				   struct dms_thin_mappings *mappings)
{
	_cleanup_metadata_walk_ struct dms_metadata_walk *walk = NULL;

	DMS_TRY(dms_metadata_walk_create_beside(metadata->trees, &walk));
	DMS_TRY(dms_btree_walk(walk, WHAT, device->mapping_root, DMS_THIN_MAPPING_BYTES,
			       dms_thin_mappings_add, mappings));
	if (mappings->total_blocks == device->mapped_blocks)
		return NULL;
	return dms_error_create_at(DMS_ERR_CORRUPT, device->mapping_root * DMS_BLOCK_BYTES,
				   WHAT ": device %u maps %" PRIu64
					" blocks, its details say %" PRIu64,
				   device->dev_id, mappings->total_blocks, device->mapped_blocks);
}

struct dms_error *dms_thin_mappings_read(const struct dms_thin_metadata *metadata, uint32_t dev_id,
					 struct dms_thin_mappings **mappings)
{
	_cleanup_thin_mappings_ struct dms_thin_mappings *new = NULL;
	const struct dms_thin_device *device;

	DMS_TRY(dms_thin_find_device(metadata, dev_id, &device));
	DMS_TRY(dms_thin_mappings_create(metadata, &new));
	DMS_TRY(dms_thin_distrust(metadata, read_tree(metadata, device, new)));
	dms_thin_mappings_sort(new);
	*mappings = dms_steal(new);
	return NULL;
}

size_t dms_thin_mappings_count(const struct dms_thin_mappings *mappings)
{
	return mappings->count;
}

const struct dms_thin_mapping *dms_thin_mappings_list(const struct dms_thin_mappings *mappings)
{
	return mappings->mappings;
}

struct dms_error *dms_thin_mappings_extents(const struct dms_thin_mappings *mappings,
					    struct dms_extent_set **set)
{
	_cleanup_extent_set_ struct dms_extent_set *new = NULL;

	DMS_TRY(dms_extent_set_create(&new));
	for (size_t i = 0; i < mappings->count; i++) {
		const struct dms_thin_mapping *mapping = &mappings->mappings[i];

		DMS_TRY(dms_extent_set_add(new, mapping->thin_block * mappings->block_bytes,
					   mapping->nr_blocks * mappings->block_bytes));
	}
	*set = dms_steal(new);
	return NULL;
}
