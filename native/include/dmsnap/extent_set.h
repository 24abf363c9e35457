/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set of byte ranges, kept ascending, disjoint and merged: touching ranges
 * become one.
 */
#ifndef DMSNAP_EXTENT_SET_H
#define DMSNAP_EXTENT_SET_H

#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

/* cffi: begin */
struct dms_extent {
	uint64_t offset_bytes;
	uint64_t length_bytes;
};

struct dms_extent_set;

struct dms_error *dms_extent_set_create(struct dms_extent_set **set);
void dms_extent_set_destroy(struct dms_extent_set *set);

/*
 * From now on the set has no more extents than most, 2 or more: where adding
 * or merging would make more it grows coarser. All are grown outwards to a
 * power of two, from 4 KiB on the smallest that leaves half as many. So it may
 * have bytes that were not added, also behind the last one: clamp it.
 */
struct dms_error *dms_extent_set_bound(struct dms_extent_set *set, size_t most);
/* Room for count extents in all, and for no more than that; of a bound set for no more than it may have. */
struct dms_error *dms_extent_set_reserve(struct dms_extent_set *set, size_t count);
/* Amortised O(1) when added in ascending order, otherwise sorted at the next read. */
struct dms_error *dms_extent_set_add(struct dms_extent_set *set, uint64_t offset_bytes,
				     uint64_t length_bytes);
/* Grow every extent outwards to a multiple of granularity_bytes (a power of two). */
struct dms_error *dms_extent_set_align(struct dms_extent_set *set, uint64_t granularity_bytes);
/* Drop what lies at or beyond size_bytes. */
struct dms_error *dms_extent_set_clamp(struct dms_extent_set *set, uint64_t size_bytes);
/* Add every extent of other. */
struct dms_error *dms_extent_set_merge(struct dms_extent_set *set,
				       const struct dms_extent_set *other);
/* Remove every byte that is in other. */
struct dms_error *dms_extent_set_subtract(struct dms_extent_set *set,
					  const struct dms_extent_set *other);

size_t dms_extent_set_count(const struct dms_extent_set *set);
uint64_t dms_extent_set_bytes(const struct dms_extent_set *set);
/* Valid until the set is changed or destroyed. */
const struct dms_extent *dms_extent_set_extents(const struct dms_extent_set *set);
/* cffi: end */

#endif
