// SPDX-License-Identifier: Apache-2.0
/* Sets of blocks against one bit at a time, and extents as text against printf. */
#include <dmsnap/extent_text.h>

#include "../src/block_set.h"
#include "test.h"

#define MAX_BLOCKS 700
#define BLOCK_BYTES 12288ull

static void set_bit(struct dms_block_set *set, uint64_t block)
{
	set->bitmap->words[block / DMS_WORD_BITS] |= 1ull << block % DMS_WORD_BITS;
}

/* What is expected of bits, byte ranges below size_bytes; returns how many. */
static size_t model(const uint8_t *bits, uint64_t nr_blocks, uint64_t size_bytes,
		    struct dms_extent *extents)
{
	size_t count = 0;

	for (uint64_t i = 0; i < nr_blocks; i++) {
		uint64_t offset = i * BLOCK_BYTES, end = offset + BLOCK_BYTES;

		if (!bits[i] || offset >= size_bytes)
			continue;
		if (end > size_bytes)
			end = size_bytes;
		if (i && bits[i - 1])
			extents[count - 1].length_bytes += end - offset;
		else
			extents[count++] = (struct dms_extent){ offset, end - offset };
	}
	return count;
}

static void check(const struct dms_block_set *set, const struct dms_extent *expected, size_t count,
		  size_t capacity)
{
	struct dms_extent extents[MAX_BLOCKS + 1];
	uint64_t position = 0, bytes = 0;
	struct dms_extent_set *all;
	size_t done = 0, got;

	while ((got = dms_block_set_next(set, &position, extents, capacity))) {
		CHECK(got <= capacity && done + got <= count);
		CHECK(!memcmp(extents, expected + done, got * sizeof(*extents)));
		done += got;
		CHECK(got == capacity || done == count);
	}
	CHECK(done == count && dms_block_set_count(set) == count);
	CHECK_OK(dms_block_set_extents(set, &all));
	CHECK(dms_extent_set_count(all) == count);
	CHECK(!count || !memcmp(dms_extent_set_extents(all), expected, count * sizeof(*expected)));
	dms_extent_set_destroy(all);
	for (size_t i = 0; i < count; i++)
		bytes += expected[i].length_bytes;
	CHECK(dms_block_set_bytes(set) == bytes);
}

static void random_sets(void)
{
	struct random random = { 20261124 };

	for (unsigned int round = 0; round < 3000; round++) {
		uint64_t nr_blocks = next_random(&random) % (MAX_BLOCKS + 1), size = UINT64_MAX;
		uint8_t bits[MAX_BLOCKS + 1] = { 0 };
		struct dms_extent expected[MAX_BLOCKS + 1];
		struct dms_block_set *set;
		size_t count;

		CHECK_OK(dms_block_set_create(nr_blocks, BLOCK_BYTES, &set));
		for (uint64_t i = 0; i < nr_blocks; i++) {
			bool same = i && next_random(&random) % (round % 40 + 1);

			bits[i] = same ? bits[i - 1] : next_random(&random) % 2;
			if (bits[i])
				set_bit(set, i);
		}
		if (round % 2) {
			size = next_random(&random) % (MAX_BLOCKS * BLOCK_BYTES);
			size -= round % 4 == 1 ? size % BLOCK_BYTES : 0;
			dms_block_set_clamp(set, size);
			dms_block_set_clamp(set, size + 1); /* never grows back */
		}
		count = model(bits, nr_blocks, size, expected);
		check(set, expected, count, 1 + next_random(&random) % 9);
		check(set, expected, count, MAX_BLOCKS);
		dms_block_set_destroy(set);
	}
}

/* More extents than one of the core's own batches. */
static void many(void)
{
	struct dms_extent_set *extents;
	struct dms_block_set *set;

	CHECK_OK(dms_block_set_create(100000, 512, &set));
	for (uint64_t i = 0; i < 100000; i += 2)
		set_bit(set, i);
	CHECK(dms_block_set_count(set) == 50000 && dms_block_set_bytes(set) == 50000 * 512);
	CHECK_OK(dms_block_set_extents(set, &extents));
	CHECK(dms_extent_set_count(extents) == 50000);
	CHECK(dms_extent_set_extents(extents)[49999].offset_bytes == 99998 * 512);
	dms_extent_set_destroy(extents);
	/* Of at most 100: every other sector makes one in units of 4 KiB, but for the last ones. */
	CHECK_OK(dms_extent_set_create(&extents));
	CHECK_OK(dms_extent_set_bound(extents, 100));
	CHECK_OK(dms_block_set_add_to(set, extents));
	CHECK(dms_extent_set_count(extents) <= 100);
	CHECK(dms_extent_set_bytes(extents) >= (100000 - 300) * 512);
	CHECK(dms_extent_set_bytes(extents) <= 100000 * 512 + 4096);
	dms_extent_set_destroy(extents);
	dms_block_set_destroy(set);
	dms_block_set_destroy(NULL);
}

static void texts(void)
{
	static const uint64_t numbers[] = { 0, 9, 10, 12345, UINT32_MAX, 1ull << 63, UINT64_MAX };
	enum { NR = sizeof(numbers) / sizeof(numbers[0]) };
	struct dms_extent extents[NR * NR];
	char expected[NR * NR * 64];

	for (size_t i = 0; i < NR * NR; i++)
		extents[i] = (struct dms_extent){ numbers[i / NR], numbers[i % NR] };
	for (unsigned int json = 0; json < 2; json++) {
		for (size_t count = 0; count <= NR * NR; count += 7) {
			char *text = malloc(count * DMS_EXTENT_TEXT_BYTES + 1), *at = expected;
			size_t length = dms_extent_text(extents, count, json, text);

			CHECK(text);
			for (size_t i = 0; i < count; i++)
				at += sprintf(at, json ? "%s[%" PRIu64 ",%" PRIu64 "]" :
							 "%.0s%20" PRIu64 " %16" PRIu64 "\n",
					      i ? "," : "", extents[i].offset_bytes,
					      extents[i].length_bytes);
			CHECK(length == (size_t)(at - expected) && !memcmp(text, expected, length));
			free(text);
		}
	}
}

int main(void)
{
	random_sets();
	many();
	texts();
	return 0;
}
