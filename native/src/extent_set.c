// SPDX-License-Identifier: Apache-2.0
/*
 * A vector of extents. Ranges added in ascending order keep it normal
 * (ascending, disjoint, not touching); any other addition makes it dirty, and
 * the next reader sorts it in place, which needs no memory and cannot fail.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/extent_set.h>

#include "cleanup.h"

#define FIRST_CAPACITY 64
#define FINEST_BYTES 4096

struct dms_extent_set {
	struct dms_extent *extents;
	size_t count;
	size_t capacity;
	size_t most; /* 0: as many as there are */
	uint64_t granularity_bytes; /* to which a bound set has grown coarser */
	bool dirty;
};

static uint64_t end_of(const struct dms_extent *extent)
{
	return extent->offset_bytes + extent->length_bytes;
}

static struct dms_error *no_memory(size_t capacity)
{
	return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %zu extents", capacity);
}

struct dms_error *dms_extent_set_create(struct dms_extent_set **set)
{
	struct dms_extent_set *new = calloc(1, sizeof(*new));

	if (!new)
		return no_memory(0);
	*set = new;
	return NULL;
}

void dms_extent_set_destroy(struct dms_extent_set *set)
{
	if (!set)
		return;
	free(set->extents);
	free(set);
}

static int compare_extents(const void *left, const void *right)
{
	uint64_t a = ((const struct dms_extent *)left)->offset_bytes;
	uint64_t b = ((const struct dms_extent *)right)->offset_bytes;

	return (a > b) - (a < b);
}

/* Append to a normal vector what does not begin before its last extent does. */
static size_t append_merged(struct dms_extent *extents, size_t count, struct dms_extent extent)
{
	struct dms_extent *last = count ? &extents[count - 1] : NULL;

	if (!last || extent.offset_bytes > end_of(last)) {
		extents[count] = extent;
		return count + 1;
	}
	if (end_of(&extent) > end_of(last))
		last->length_bytes = end_of(&extent) - last->offset_bytes;
	return count;
}

/* Join what overlaps or touches in a vector that is ascending. */
static void join(struct dms_extent_set *set)
{
	size_t count = 0;

	for (size_t i = 0; i < set->count; i++)
		count = append_merged(set->extents, count, set->extents[i]);
	set->count = count;
}

static void normalise(struct dms_extent_set *set)
{
	if (!set->dirty)
		return;
	qsort(set->extents, set->count, sizeof(*set->extents), compare_extents);
	join(set);
	set->dirty = false;
}

/* The set reads the same before and after: const for all but its owner. */
static const struct dms_extent_set *normal(const struct dms_extent_set *set)
{
	normalise((struct dms_extent_set *)set);
	return set;
}

struct dms_error *dms_extent_set_reserve(struct dms_extent_set *set, size_t count)
{
	struct dms_extent *extents;

	if (set->most && count > set->most)
		count = set->most;
	if (count <= set->capacity)
		return NULL;
	extents = reallocarray(set->extents, count, sizeof(*extents));
	if (!extents)
		return no_memory(count);
	set->extents = extents;
	set->capacity = count;
	return NULL;
}

/* To half of what it may have, so that there is room for many until it is coarser still. */
static struct dms_error *grow_coarser(struct dms_extent_set *set)
{
	/* What came since is as fine as it was added: as coarse as the rest it may be few enough. */
	uint64_t granularity_bytes = set->granularity_bytes;

	normalise(set);
	for (; set->count > set->most / 2; granularity_bytes *= 2) {
		DMS_TRY(dms_extent_set_align(set, granularity_bytes));
		set->granularity_bytes = granularity_bytes;
	}
	return NULL;
}

static struct dms_error *hold_bound(struct dms_extent_set *set)
{
	return set->most && set->count > set->most ? grow_coarser(set) : NULL;
}

struct dms_error *dms_extent_set_bound(struct dms_extent_set *set, size_t most)
{
	if (most < 2)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a set of at most %zu extents cannot grow coarser", most);
	normalise(set);
	set->most = most;
	set->granularity_bytes = FINEST_BYTES;
	return hold_bound(set);
}

static struct dms_error *make_room(struct dms_extent_set *set, size_t count)
{
	size_t capacity = set->capacity ? set->capacity : FIRST_CAPACITY;

	if (set->most && count > set->most)
		return grow_coarser(set); /* and there is room */
	if (count <= set->capacity)
		return NULL;
	/* Duplicates added in any order must not grow the vector without end. */
	if (set->dirty && set->count == set->capacity) {
		normalise(set);
		if (set->count <= set->capacity / 2)
			return NULL;
	}
	while (capacity < count)
		capacity *= 2;
	return dms_extent_set_reserve(set, capacity);
}

struct dms_error *dms_extent_set_add(struct dms_extent_set *set, uint64_t offset_bytes,
				     uint64_t length_bytes)
{
	struct dms_extent extent = { offset_bytes, length_bytes };
	struct dms_error *error;

	if (!length_bytes)
		return NULL;
	if (length_bytes > UINT64_MAX - offset_bytes)
		return dms_error_create_at(DMS_ERR_INVALID_ARGUMENT, offset_bytes,
					   "an extent of %llu bytes ends beyond 2^64",
					   (unsigned long long)length_bytes);
	error = make_room(set, set->count + 1);
	if (error)
		return error;
	if (!set->dirty && set->count && offset_bytes < set->extents[set->count - 1].offset_bytes)
		set->dirty = true;
	if (set->dirty)
		set->extents[set->count++] = extent;
	else
		set->count = append_merged(set->extents, set->count, extent);
	return NULL;
}

struct dms_error *dms_extent_set_align(struct dms_extent_set *set, uint64_t granularity_bytes)
{
	uint64_t mask = granularity_bytes - 1;

	if (!granularity_bytes || granularity_bytes & mask)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a granularity of %llu bytes is no power of two",
					(unsigned long long)granularity_bytes);
	normalise(set);
	if (set->count && end_of(&set->extents[set->count - 1]) > UINT64_MAX - mask)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"the last extent aligned to %llu bytes ends beyond 2^64",
					(unsigned long long)granularity_bytes);
	for (size_t i = 0; i < set->count; i++) {
		struct dms_extent *extent = &set->extents[i];
		uint64_t end = (end_of(extent) + mask) & ~mask;

		extent->offset_bytes &= ~mask;
		extent->length_bytes = end - extent->offset_bytes;
	}
	join(set);
	return NULL;
}

struct dms_error *dms_extent_set_clamp(struct dms_extent_set *set, uint64_t size_bytes)
{
	normalise(set);
	while (set->count && set->extents[set->count - 1].offset_bytes >= size_bytes)
		set->count--;
	if (set->count) {
		struct dms_extent *last = &set->extents[set->count - 1];

		if (end_of(last) > size_bytes)
			last->length_bytes = size_bytes - last->offset_bytes;
	}
	return NULL;
}

/* Hand the set a normal vector in place of its own. */
static void replace(struct dms_extent_set *set, struct dms_extent *extents, size_t count,
		    size_t capacity)
{
	free(set->extents);
	set->extents = extents;
	set->count = count;
	set->capacity = capacity;
}

struct dms_error *dms_extent_set_merge(struct dms_extent_set *set,
				       const struct dms_extent_set *other)
{
	struct dms_extent *merged;
	size_t capacity, count = 0, i = 0, j = 0;

	normalise(set);
	normal(other);
	if (set == other || !other->count)
		return NULL;
	capacity = set->count + other->count;
	merged = reallocarray(NULL, capacity, sizeof(*merged));
	if (!merged)
		return no_memory(capacity);
	while (i < set->count || j < other->count) {
		bool mine = j == other->count ||
			    (i < set->count &&
			     set->extents[i].offset_bytes <= other->extents[j].offset_bytes);

		count = append_merged(merged, count,
				      mine ? set->extents[i++] : other->extents[j++]);
	}
	replace(set, merged, count, capacity);
	return hold_bound(set);
}

/*
 * Append to rest what other leaves of extent. *next is the first extent of
 * other that may reach beyond everything handled so far.
 */
static size_t subtract_one(struct dms_extent *rest, size_t count, struct dms_extent extent,
			   const struct dms_extent_set *other, size_t *next)
{
	uint64_t start = extent.offset_bytes, end = end_of(&extent);

	while (*next < other->count && end_of(&other->extents[*next]) <= start)
		(*next)++;
	while (*next < other->count && other->extents[*next].offset_bytes < end) {
		const struct dms_extent *hole = &other->extents[*next];

		if (hole->offset_bytes > start)
			rest[count++] = (struct dms_extent){ start, hole->offset_bytes - start };
		start = end_of(hole);
		if (start >= end)
			return count; /* the hole may reach into the next extent, too */
		(*next)++;
	}
	rest[count++] = (struct dms_extent){ start, end - start };
	return count;
}

struct dms_error *dms_extent_set_subtract(struct dms_extent_set *set,
					  const struct dms_extent_set *other)
{
	struct dms_extent *rest;
	size_t capacity, count = 0, next = 0;

	normalise(set);
	normal(other);
	if (!set->count || !other->count)
		return NULL;
	/* Every extent taken away splits at most one of ours in two. */
	capacity = set->count + other->count;
	rest = reallocarray(NULL, capacity, sizeof(*rest));
	if (!rest)
		return no_memory(capacity);
	for (size_t i = 0; i < set->count; i++)
		count = subtract_one(rest, count, set->extents[i], other, &next);
	replace(set, rest, count, capacity);
	return NULL;
}

size_t dms_extent_set_count(const struct dms_extent_set *set)
{
	return normal(set)->count;
}

uint64_t dms_extent_set_bytes(const struct dms_extent_set *set)
{
	uint64_t bytes = 0;

	normal(set);
	for (size_t i = 0; i < set->count; i++)
		bytes += set->extents[i].length_bytes;
	return bytes;
}

const struct dms_extent *dms_extent_set_extents(const struct dms_extent_set *set)
{
	return normal(set)->extents;
}
