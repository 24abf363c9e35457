// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "block_set.h"
#include "cleanup.h"

#define BATCH 512

struct dms_error *dms_block_set_create(uint64_t nr_blocks, uint64_t block_bytes,
				       struct dms_block_set **set)
{
	struct dms_block_set *new = calloc(1, sizeof(*new));
	struct dms_error *error;

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a set of blocks");
	new->block_bytes = block_bytes;
	new->size_bytes = UINT64_MAX;
	error = dms_bitmap_create(nr_blocks, &new->bitmap);
	if (error) {
		free(new);
		return error;
	}
	*set = new;
	return NULL;
}

void dms_block_set_destroy(struct dms_block_set *set)
{
	if (!set)
		return;
	dms_bitmap_destroy(set->bitmap);
	free(set);
}

void dms_block_set_clamp(struct dms_block_set *set, uint64_t size_bytes)
{
	if (size_bytes < set->size_bytes)
		set->size_bytes = size_bytes;
}

/* The first block that lies at or beyond the end. */
static uint64_t end_of(const struct dms_block_set *set)
{
	uint64_t whole = set->size_bytes / set->block_bytes;
	uint64_t end = whole + (set->size_bytes % set->block_bytes != 0);

	return end < set->bitmap->nr_bits ? end : set->bitmap->nr_bits;
}

/* The first block from block on, below end, whose bit is set (flip 0) or is not (flip ~0); else end. */
static uint64_t find(const struct dms_block_set *set, uint64_t block, uint64_t end, uint64_t flip)
{
	const uint64_t *words = set->bitmap->words;
	uint64_t i = block / DMS_WORD_BITS, word;

	if (block >= end)
		return end;
	word = (words[i] ^ flip) & ~0ull << block % DMS_WORD_BITS;
	while (!word && ++i * DMS_WORD_BITS < end)
		word = words[i] ^ flip;
	if (!word)
		return end;
	block = i * DMS_WORD_BITS + (uint64_t)__builtin_ctzll(word);
	return block < end ? block : end;
}

size_t dms_block_set_next(const struct dms_block_set *set, uint64_t *position,
			  struct dms_extent *extents, size_t capacity)
{
	uint64_t end = end_of(set);
	size_t count = 0;

	while (count < capacity) {
		uint64_t first = find(set, *position, end, 0), length;

		*position = first;
		if (first == end)
			break;
		*position = find(set, first, end, ~0ull);
		length = (*position - first) * set->block_bytes;
		if (length > set->size_bytes - first * set->block_bytes)
			length = set->size_bytes - first * set->block_bytes;
		extents[count++] = (struct dms_extent){ first * set->block_bytes, length };
	}
	return count;
}

uint64_t dms_block_set_bytes(const struct dms_block_set *set)
{
	struct dms_extent extents[BATCH];
	uint64_t bytes = 0, position = 0;
	size_t count;

	while ((count = dms_block_set_next(set, &position, extents, BATCH)))
		for (size_t i = 0; i < count; i++)
			bytes += extents[i].length_bytes;
	return bytes;
}

uint64_t dms_block_set_count(const struct dms_block_set *set)
{
	struct dms_extent extents[BATCH];
	uint64_t total = 0, position = 0;
	size_t count;

	while ((count = dms_block_set_next(set, &position, extents, BATCH)))
		total += count;
	return total;
}

struct dms_error *dms_block_set_add_to(const struct dms_block_set *set,
				       struct dms_extent_set *extents)
{
	struct dms_extent batch[BATCH];
	uint64_t position = 0;
	size_t count;

	DMS_TRY(dms_extent_set_reserve(extents, dms_extent_set_count(extents) +
							dms_block_set_count(set)));
	while ((count = dms_block_set_next(set, &position, batch, BATCH)))
		for (size_t i = 0; i < count; i++)
			DMS_TRY(dms_extent_set_add(extents, batch[i].offset_bytes,
						   batch[i].length_bytes));
	return NULL;
}

struct dms_error *dms_block_set_extents(const struct dms_block_set *set,
					struct dms_extent_set **extents)
{
	_cleanup_extent_set_ struct dms_extent_set *new = NULL;

	DMS_TRY(dms_extent_set_create(&new));
	DMS_TRY(dms_block_set_add_to(set, new));
	*extents = dms_steal(new);
	return NULL;
}
