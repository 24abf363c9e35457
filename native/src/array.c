// SPDX-License-Identifier: Apache-2.0
/* Block format and checks as array_block_check() of dm-array.c, and what it takes for granted. */
#include <inttypes.h>

#include <dmsnap/checksum.h>

#include "array.h"
#include "block_readers.h"
#include "btree.h"
#include "cleanup.h"
#include "le_cursor.h"

#define CSUM_XOR 595846735
#define HEADER_BYTES 24
#define CHILD_BYTES 8

/*
 * Blocks of metadata are fewer than 2^32, and so are an array's: four bytes
 * for each block of the medium say which of the array's it is, which is its
 * order on the medium, too. Pages of the map that no block falls in take no memory.
 */
_Static_assert(DMS_METADATA_MAX_BLOCKS < UINT32_MAX, "an index and one more fit 32 bits");

struct array {
	struct dms_metadata_walk *walk;
	const char *what;
	uint32_t value_size;
	uint32_t max_entries;
	dms_array_fn fn;
	void *context;
	uint32_t *indices; /* of the array's block at each metadata block, plus 1; 0: not the array's */
	uint64_t lowest; /* metadata block of the array, later the next one to look at */
	uint64_t highest;
	uint64_t nr_array_blocks;
	uint64_t last_index;
	uint32_t last_nr_entries; /* of the block with the last index */
};

static struct dms_error *collect(void *context, uint64_t blocknr, uint64_t key,
				 const uint8_t *value)
{
	struct array *array = context;
	uint64_t child = dms_load_le64(value);

	DMS_TRY(dms_metadata_walk_visit(array->walk, array->what, child, blocknr));
	array->nr_array_blocks++;
	/* What does not fit 32 bits is out of place, and refused by the last index. */
	if (key > array->last_index)
		array->last_index = key;
	array->indices[child] = (uint32_t)key + 1;
	if (child < array->lowest)
		array->lowest = child;
	if (child > array->highest)
		array->highest = child;
	return NULL;
}

static bool next_block(void *context, struct dms_block_ref *ref)
{
	struct array *array = context;

	while (array->lowest <= array->highest) {
		uint64_t blocknr = array->lowest++;

		if (!array->indices[blocknr])
			continue;
		*ref = (struct dms_block_ref){ blocknr, array->indices[blocknr] - 1, 0 };
		return true;
	}
	return false;
}

static struct dms_error *corrupt(const struct array *array, uint64_t blocknr, const char *field,
				 uint32_t value)
{
	return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
				   "%s block %" PRIu64 ": %s %u", array->what, blocknr, field,
				   value);
}

static struct dms_error *parse_block(const struct array *array, const struct dms_block_ref *ref,
				     const uint8_t *block, struct dms_array_run *run)
{
	struct dms_le_cursor cursor = dms_le_cursor(array->what, block, DMS_BLOCK_BYTES,
						    ref->blocknr * DMS_BLOCK_BYTES);
	uint32_t csum, max_entries, nr_entries, value_size;
	uint64_t blocknr;

	DMS_TRY(dms_le_cursor_u32(&cursor, "csum", &csum));
	DMS_TRY(dms_le_cursor_u32(&cursor, "max_entries", &max_entries));
	DMS_TRY(dms_le_cursor_u32(&cursor, "nr_entries", &nr_entries));
	DMS_TRY(dms_le_cursor_u32(&cursor, "value_size", &value_size));
	DMS_TRY(dms_le_cursor_u64(&cursor, "blocknr", &blocknr));
	DMS_TRY(dms_metadata_check_block(array->what, ref->blocknr, blocknr, csum,
					 dms_bm_checksum(block + sizeof(csum),
							 DMS_BLOCK_BYTES - sizeof(csum),
							 CSUM_XOR)));
	if (value_size != array->value_size)
		return corrupt(array, ref->blocknr, "value_size", value_size);
	if (max_entries != array->max_entries)
		return corrupt(array, ref->blocknr, "max_entries", max_entries);
	/* Only the last block has room left; an index would shift otherwise. */
	if (nr_entries > max_entries || (ref->key < array->last_index && nr_entries < max_entries))
		return corrupt(array, ref->blocknr, "nr_entries", nr_entries);
	run->blocknr = ref->blocknr;
	run->first = ref->key * max_entries;
	run->nr_entries = nr_entries;
	return dms_le_cursor_view(&cursor, "values", (size_t)nr_entries * value_size,
				  &run->values);
}

static struct dms_error *visit_block(void *context, const struct dms_block_ref *ref,
				     const uint8_t *block)
{
	struct array *array = context;
	struct dms_array_run run;

	DMS_TRY(parse_block(array, ref, block, &run));
	/* All others are full. One thread comes here: every index is one block's. */
	if (ref->key == array->last_index)
		array->last_nr_entries = run.nr_entries;
	/* cppcheck-suppress returnDanglingLifetime - an error keeps no pointer to what it is about */
	return array->fn(array->context, &run);
}

static struct dms_error *walk_array(struct array *array, uint64_t root)
{
	DMS_TRY(dms_btree_walk(array->walk, array->what, root, CHILD_BYTES, collect, array));
	/* Keys come once each, so the count and the largest tell whether one is missing. */
	if (array->nr_array_blocks && array->last_index != array->nr_array_blocks - 1)
		return dms_error_create_at(DMS_ERR_CORRUPT, root * DMS_BLOCK_BYTES,
					   "%s: %" PRIu64 " blocks, the last is number %" PRIu64,
					   array->what, array->nr_array_blocks, array->last_index);
	return dms_block_readers_run(array->walk->reader, array->nr_array_blocks, array->what,
				     next_block, visit_block, array);
}

struct dms_error *dms_array_walk(struct dms_metadata_walk *walk, const char *what, uint64_t root,
				 uint32_t value_size, dms_array_fn fn, void *context,
				 uint64_t *nr_entries)
{
	_cleanup_free_ uint32_t *indices = calloc(walk->nr_blocks, sizeof(*indices));
	struct array array = {
		.walk = walk,
		.what = what,
		.value_size = value_size,
		.max_entries = (DMS_BLOCK_BYTES - HEADER_BYTES) / value_size,
		.fn = fn,
		.context = context,
		.indices = indices,
		.lowest = walk->nr_blocks,
	};

	if (!indices)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for the map of an array");
	DMS_TRY(walk_array(&array, root));
	*nr_entries = array.last_index * array.max_entries + array.last_nr_entries;
	return NULL;
}
