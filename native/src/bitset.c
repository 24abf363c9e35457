// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdlib.h>

#include "array.h"
#include "bitset.h"
#include "cleanup.h"
#include "le_cursor.h"

#define WORD_BYTES 8

struct dms_error *dms_bitmap_create(uint64_t nr_bits, struct dms_bitmap **bitmap)
{
	struct dms_bitmap *new = calloc(1, sizeof(*new));

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a bitmap");
	new->nr_bits = nr_bits;
	new->words = calloc(nr_bits / DMS_WORD_BITS + 1, sizeof(*new->words));
	if (!new->words) {
		free(new);
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %" PRIu64 " bits",
					nr_bits);
	}
	*bitmap = new;
	return NULL;
}

void dms_bitmap_destroy(struct dms_bitmap *bitmap)
{
	free(bitmap->words);
	free(bitmap);
}

/*
 * Where two blocks of an array meet in a word, two threads may come to it at the
 * same time. Most words are zero; a store would take memory for them.
 */
static inline void set_bits(uint64_t *word, uint64_t bits)
{
	if (bits)
		__atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
}

void dms_bitmap_merge(struct dms_bitmap *bitmap, uint64_t first, const uint64_t *words,
		      size_t nr_bits)
{
	uint64_t *at = bitmap->words + first / DMS_WORD_BITS;
	unsigned int shift = first % DMS_WORD_BITS;

	for (size_t i = 0; i * DMS_WORD_BITS < nr_bits; i++) {
		if (!words[i])
			continue;
		set_bits(&at[i], words[i] << shift);
		set_bits(&at[i + 1], words[i] >> (DMS_WORD_BITS - 1 - shift) >> 1);
	}
}

struct merge {
	struct dms_bitmap *bitmap;
	uint64_t nr_bits; /* the smaller of the two */
};

static struct dms_error *merge_run(void *context, const struct dms_array_run *run)
{
	struct merge *merge = context;

	for (uint32_t i = 0; i < run->nr_entries; i++) {
		uint64_t first_bit = (run->first + i) * DMS_WORD_BITS;
		uint64_t word = dms_load_le64(run->values + (size_t)i * WORD_BYTES);

		if (first_bit >= merge->nr_bits)
			break;
		if (merge->nr_bits - first_bit < DMS_WORD_BITS)
			word &= (1ull << (merge->nr_bits - first_bit)) - 1;
		set_bits(&merge->bitmap->words[first_bit / DMS_WORD_BITS], word);
	}
	return NULL;
}

struct dms_error *dms_bitset_merge(struct dms_metadata_walk *walk, const char *what, uint64_t root,
				   uint64_t nr_bits, struct dms_bitmap *bitmap)
{
	struct merge merge = {
		.bitmap = bitmap,
		.nr_bits = nr_bits < bitmap->nr_bits ? nr_bits : bitmap->nr_bits,
	};
	uint64_t nr_words;

	DMS_TRY(dms_array_walk(walk, what, root, WORD_BYTES, merge_run, &merge, &nr_words));
	if (nr_bits > nr_words * DMS_WORD_BITS)
		return dms_error_create_at(DMS_ERR_CORRUPT, root * DMS_BLOCK_BYTES,
					   "%s at block %" PRIu64 ": %" PRIu64
					   " bits, it has room for %" PRIu64,
					   what, root, nr_bits, nr_words * DMS_WORD_BITS);
	return NULL;
}
