// SPDX-License-Identifier: Apache-2.0
/* The extent set against an array of bytes, one per unit: slow, and obviously right. */
#include <stdbool.h>

#include <dmsnap/extent_set.h>

#include "test.h"

#define UNITS 160
#define ROUNDS 4000

struct model {
	uint8_t units[UNITS];
};

static void expect(const struct dms_extent_set *set, const struct model *model)
{
	const struct dms_extent *extents = dms_extent_set_extents(set);
	size_t count = dms_extent_set_count(set), next = 0;
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < UNITS;) {
		uint64_t start = i;

		while (i < UNITS && model->units[i] == model->units[start])
			i++;
		if (!model->units[start])
			continue;
		CHECK(next < count);
		CHECK(extents[next].offset_bytes == start);
		CHECK(extents[next].length_bytes == i - start);
		bytes += i - start;
		next++;
	}
	CHECK(next == count);
	CHECK(dms_extent_set_bytes(set) == bytes);
}

static void add(struct dms_extent_set *set, struct model *model, uint64_t offset, uint64_t length)
{
	CHECK_OK(dms_extent_set_add(set, offset, length));
	memset(model->units + offset, 1, length);
}

static void add_random(struct random *random, struct dms_extent_set *set, struct model *model)
{
	uint64_t offset = next_random(random) % UNITS;
	uint64_t room = UNITS - offset;

	add(set, model, offset, next_random(random) % (room < 12 ? room + 1 : 12));
}

static void fill(struct random *random, struct dms_extent_set *set, struct model *model)
{
	for (uint64_t n = next_random(random) % 20; n; n--)
		add_random(random, set, model);
}

static void align(struct model *model, uint64_t granularity)
{
	for (uint64_t i = 0; i < UNITS; i += granularity) {
		uint8_t any = 0;

		for (uint64_t j = i; j < i + granularity && j < UNITS; j++)
			any |= model->units[j];
		for (uint64_t j = i; j < i + granularity && j < UNITS; j++)
			model->units[j] = any;
	}
}

static void one_round(struct random *random)
{
	struct dms_extent_set *set, *other;
	struct model model = { { 0 } }, other_model = { { 0 } };
	uint64_t granularity = 1ull << next_random(random) % 4; /* divides UNITS */
	uint64_t size = next_random(random) % (UNITS + 20);

	CHECK_OK(dms_extent_set_create(&set));
	CHECK_OK(dms_extent_set_create(&other));
	fill(random, set, &model);
	if (next_random(random) % 2)
		expect(set, &model);
	fill(random, set, &model);
	fill(random, other, &other_model);
	switch (next_random(random) % 4) {
	case 0:
		CHECK_OK(dms_extent_set_align(set, granularity));
		align(&model, granularity);
		break;
	case 1:
		CHECK_OK(dms_extent_set_clamp(set, size));
		if (size < UNITS)
			memset(model.units + size, 0, UNITS - size);
		break;
	case 2:
		CHECK_OK(dms_extent_set_merge(set, other));
		for (int i = 0; i < UNITS; i++)
			model.units[i] |= other_model.units[i];
		break;
	case 3:
		CHECK_OK(dms_extent_set_subtract(set, other));
		for (int i = 0; i < UNITS; i++)
			model.units[i] &= !other_model.units[i];
		break;
	}
	expect(set, &model);
	expect(other, &other_model);
	fill(random, set, &model);
	expect(set, &model);
	dms_extent_set_destroy(set);
	dms_extent_set_destroy(other);
}

static void limits(void)
{
	struct dms_extent_set *set;

	CHECK_OK(dms_extent_set_create(&set));
	CHECK(!dms_extent_set_count(set) && !dms_extent_set_bytes(set));
	CHECK_OK(dms_extent_set_merge(set, set));
	CHECK_OK(dms_extent_set_add(set, UINT64_MAX, 0));
	CHECK(!dms_extent_set_count(set));
	CHECK_ERROR(dms_extent_set_add(set, 2, UINT64_MAX - 1), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_extent_set_add(set, UINT64_MAX, 1), DMS_ERR_INVALID_ARGUMENT);
	CHECK_OK(dms_extent_set_add(set, 1, UINT64_MAX - 1));
	CHECK(dms_extent_set_bytes(set) == UINT64_MAX - 1);
	CHECK_ERROR(dms_extent_set_align(set, 4096), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_extent_set_align(set, 0), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_extent_set_align(set, 24), DMS_ERR_INVALID_ARGUMENT);
	CHECK_OK(dms_extent_set_align(set, 1));
	CHECK(dms_extent_set_bytes(set) == UINT64_MAX - 1);
	CHECK_OK(dms_extent_set_subtract(set, set));
	CHECK(!dms_extent_set_count(set));
	CHECK_OK(dms_extent_set_clamp(set, 0));
	dms_extent_set_destroy(set);
	dms_extent_set_destroy(NULL);
}

/* The same few ranges, added in falling order without end, must not take memory without end. */
static void duplicates(void)
{
	struct dms_extent_set *set;

	CHECK_OK(dms_extent_set_create(&set));
	for (uint64_t i = 0; i < 3000000; i++)
		CHECK_OK(dms_extent_set_add(set, (100 - i % 100) * 10, 5));
	CHECK(dms_extent_set_count(set) == 100);
	dms_extent_set_destroy(set);
}

/* What it has is all that was added, and only what lies beside it in units of its granularity. */
static void expect_around(const struct dms_extent_set *set, const struct dms_extent_set *exact,
			  uint64_t granularity)
{
	struct dms_extent_set *missing, *around, *beyond;

	CHECK_OK(dms_extent_set_create(&missing));
	CHECK_OK(dms_extent_set_merge(missing, exact));
	CHECK_OK(dms_extent_set_subtract(missing, set));
	CHECK(!dms_extent_set_count(missing));
	CHECK_OK(dms_extent_set_create(&around));
	CHECK_OK(dms_extent_set_merge(around, exact));
	CHECK_OK(dms_extent_set_align(around, granularity));
	CHECK_OK(dms_extent_set_create(&beyond));
	CHECK_OK(dms_extent_set_merge(beyond, set));
	CHECK_OK(dms_extent_set_subtract(beyond, around));
	CHECK(!dms_extent_set_count(beyond));
	dms_extent_set_destroy(missing);
	dms_extent_set_destroy(around);
	dms_extent_set_destroy(beyond);
}

/* A part of every other page, ascending or in any order: it grows coarser again and again. */
static void bound(struct random *random, size_t most, bool ascending)
{
	struct dms_extent_set *set, *exact;

	CHECK_OK(dms_extent_set_create(&set));
	CHECK_OK(dms_extent_set_bound(set, most));
	CHECK_OK(dms_extent_set_create(&exact));
	for (uint64_t i = 0; i < 8 * most; i++) {
		uint64_t page = 2 * (ascending ? i : next_random(random) % (8 * most));

		CHECK_OK(dms_extent_set_add(set, page * 4096 + 512, 1024));
		CHECK_OK(dms_extent_set_add(exact, page * 4096 + 512, 1024));
		CHECK(dms_extent_set_count(set) <= most);
		if (ascending && i < most)
			CHECK(dms_extent_set_bytes(set) == dms_extent_set_bytes(exact));
	}
	/* All lie in 64 KiB × most: of units of 256 KiB no more than half as many as may be. */
	expect_around(set, exact, 256 * 1024);
	dms_extent_set_destroy(set);
	dms_extent_set_destroy(exact);
}

static void bounds(struct random *random)
{
	struct dms_extent_set *set, *other;

	for (size_t most = 2; most < 40; most++)
		for (int order = 0; order < 2; order++)
			bound(random, most, order);
	CHECK_OK(dms_extent_set_create(&set));
	CHECK_ERROR(dms_extent_set_bound(set, 1), DMS_ERR_INVALID_ARGUMENT);
	for (uint64_t i = 0; i < 100; i++)
		CHECK_OK(dms_extent_set_add(set, i * 8192, 4096));
	CHECK_OK(dms_extent_set_create(&other));
	CHECK_OK(dms_extent_set_merge(other, set));
	CHECK_OK(dms_extent_set_bound(set, 10));
	CHECK(dms_extent_set_count(set) <= 10);
	expect_around(set, other, 256 * 1024);
	CHECK_OK(dms_extent_set_clamp(set, 0));
	CHECK_OK(dms_extent_set_merge(set, other));
	CHECK(dms_extent_set_count(set) <= 10);
	/* Refused where it cannot grow: what was there stays. */
	CHECK_OK(dms_extent_set_clamp(set, 0));
	for (uint64_t i = 0; i < 9; i++)
		CHECK_OK(dms_extent_set_add(set, i << 20, 4096));
	CHECK_OK(dms_extent_set_add(set, UINT64_MAX - 1, 1));
	CHECK_ERROR(dms_extent_set_add(set, 100 << 20, 1), DMS_ERR_INVALID_ARGUMENT);
	CHECK(dms_extent_set_count(set) == 10);
	dms_extent_set_destroy(set);
	dms_extent_set_destroy(other);
}

int main(void)
{
	struct random random = { 1 };

	limits();
	duplicates();
	bounds(&random);
	for (int i = 0; i < ROUNDS; i++)
		one_round(&random);
	return 0;
}
