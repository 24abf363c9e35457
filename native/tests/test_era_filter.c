// SPDX-License-Identifier: Apache-2.0
/* The filter of eras and the merging of what it finds, against one bit at a time. */
#include "../src/bitset.h"
#include "../src/era_filter.h"
#include "image.h"
#include "test.h"

#define MAX_NR 1018
#define NR_BITS 4096

typedef uint32_t (*filter_fn)(const uint8_t *values, size_t nr, uint32_t since, uint64_t *masks);

static const uint32_t edges[] = { 0, 1, 2, 0x7fffffff, 0x80000000, 0x80000001, UINT32_MAX - 1,
				  UINT32_MAX };
#define NR_EDGES (sizeof(edges) / sizeof(edges[0]))

static void check_filter(filter_fn filter, const uint8_t *values, size_t nr, uint32_t since)
{
	uint64_t masks[MAX_NR / 64 + 2];
	uint32_t latest = 0;

	memset(masks, 0xa5, sizeof(masks));
	CHECK(filter(values, nr, since, masks) <= UINT32_MAX);
	for (size_t i = 0; i < nr; i++) {
		uint32_t era = get_le32(values + 4 * i);

		latest = era > latest ? era : latest;
		CHECK((masks[i / 64] >> i % 64 & 1) == (era >= since));
	}
	CHECK(filter(values, nr, since, masks) == latest);
	for (size_t i = nr; i % 64; i++)
		CHECK(!(masks[i / 64] >> i % 64 & 1));
	/* Not a word more than was asked for. */
	CHECK(masks[(nr + 63) / 64] == 0xa5a5a5a5a5a5a5a5);
}

static void filters(filter_fn filter, struct random *random)
{
	for (size_t nr = 0; nr <= MAX_NR; nr += nr < 200 ? 1 : 37) {
		/* Exactly as long as it has to be, and at an odd address: the sanitizer sees what is read. */
		uint8_t *values = malloc(4 * nr + 1);

		CHECK(values);
		for (size_t i = 0; i < nr; i++) {
			uint64_t choice = next_random(random);

			put_le32(values + 1 + 4 * i, choice % 3 ? edges[choice / 3 % NR_EDGES] :
							      (uint32_t)(choice >> 32));
		}
		for (size_t i = 0; i < NR_EDGES; i++)
			check_filter(filter, values + 1, nr, edges[i]);
		free(values);
	}
}

static void merges(struct random *random)
{
	for (unsigned int round = 0; round < 2000; round++) {
		uint64_t words[17] = { 0 }, nr = next_random(random) % 1025;
		uint64_t first = next_random(random) % (NR_BITS - nr + 1);
		struct dms_bitmap *bitmap;
		uint8_t expected[NR_BITS] = { 0 };

		CHECK_OK(dms_bitmap_create(NR_BITS, &bitmap));
		for (uint64_t i = 0; i < nr; i++) {
			if (next_random(random) % (round % 5 + 1))
				continue;
			words[i / 64] |= 1ull << i % 64;
			expected[first + i] = 1;
		}
		bitmap->words[5] = 1ull << 40;
		expected[5 * 64 + 40] = 1;
		dms_bitmap_merge(bitmap, first, words, nr);
		for (uint64_t i = 0; i < NR_BITS; i++)
			CHECK((bitmap->words[i / 64] >> i % 64 & 1) == expected[i]);
		dms_bitmap_destroy(bitmap);
	}
}

int main(void)
{
	struct random random = { 20261123 };

	filters(dms_era_filter, &random);
	filters(dms_era_filter_portable, &random);
	merges(&random);
	return 0;
}
