// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "metadata_walk.h"

#define WORD_BITS 64
#define FIRST_CAPACITY 256

static struct dms_error *prepare(struct dms_metadata_walk *walk, const struct dms_block_io *io)
{
	walk->nr_blocks = io->nr_blocks < DMS_METADATA_MAX_BLOCKS ? io->nr_blocks :
								    DMS_METADATA_MAX_BLOCKS;
	walk->visited = calloc(walk->nr_blocks / WORD_BITS + 1, sizeof(*walk->visited));
	if (!walk->visited)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a walk");
	return dms_block_reader_create(io, &walk->reader);
}

struct dms_error *dms_metadata_walk_create(const struct dms_block_io *io,
					   struct dms_metadata_walk **walk)
{
	struct dms_metadata_walk *new = calloc(1, sizeof(*new));
	struct dms_error *error;

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a walk");
	error = prepare(new, io);
	if (error) {
		dms_metadata_walk_destroy(new);
		return error;
	}
	*walk = new;
	return NULL;
}

struct dms_error *dms_metadata_walk_create_beside(const struct dms_metadata_walk *other,
						  struct dms_metadata_walk **walk)
{
	size_t size = (other->nr_blocks / WORD_BITS + 1) * sizeof(*other->visited);
	struct dms_metadata_walk *new = calloc(1, sizeof(*new));
	uint64_t *visited = malloc(size);

	if (!new || !visited) {
		free(new);
		free(visited);
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a walk");
	}
	memcpy(visited, other->visited, size);
	*new = (struct dms_metadata_walk){
		.reader = other->reader,
		.reader_is_others = true,
		.nr_blocks = other->nr_blocks,
		.visited = visited,
	};
	*walk = new;
	return NULL;
}

void dms_metadata_walk_destroy(struct dms_metadata_walk *walk)
{
	if (!walk->reader_is_others)
		dms_block_reader_destroy(walk->reader);
	free(walk->visited);
	free(walk);
}

struct dms_error *dms_metadata_walk_visit(struct dms_metadata_walk *walk, const char *what,
					  uint64_t blocknr, uint64_t parent)
{
	uint64_t *word, bit = 1ull << blocknr % WORD_BITS;

	/* Block 0 is the superblock, which no tree refers to. */
	if (!blocknr || blocknr >= walk->nr_blocks)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, parent * DMS_BLOCK_BYTES,
					   "%s block %" PRIu64 " (from block %" PRIu64
					   "): the metadata has %" PRIu64 " blocks",
					   what, blocknr, parent, walk->nr_blocks);
	word = &walk->visited[blocknr / WORD_BITS];
	if (*word & bit)
		return dms_error_create_at(DMS_ERR_CORRUPT, parent * DMS_BLOCK_BYTES,
					   "%s block %" PRIu64 " (from block %" PRIu64
					   ") was reached before",
					   what, blocknr, parent);
	*word |= bit;
	return NULL;
}

struct dms_error *dms_metadata_check_block(const char *what, uint64_t blocknr,
					   uint64_t stored_blocknr, uint32_t stored_csum,
					   uint32_t computed_csum)
{
	if (stored_csum != computed_csum)
		return dms_error_create_at(DMS_ERR_CHECKSUM, blocknr * DMS_BLOCK_BYTES,
					   "%s block %" PRIu64
					   ": checksum 0x%08x, computed 0x%08x",
					   what, blocknr, stored_csum, computed_csum);
	if (stored_blocknr != blocknr)
		return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
					   "%s block %" PRIu64 ": it says it is block %" PRIu64,
					   what, blocknr, stored_blocknr);
	return NULL;
}

struct dms_error *dms_block_list_add(struct dms_block_list *list, struct dms_block_ref ref)
{
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? list->capacity * 2 : FIRST_CAPACITY;
		struct dms_block_ref *refs = reallocarray(list->refs, capacity, sizeof(*refs));

		if (!refs)
			return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu blocks",
						capacity);
		list->refs = refs;
		list->capacity = capacity;
	}
	list->refs[list->count++] = ref;
	return NULL;
}
