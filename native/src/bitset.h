/* SPDX-License-Identifier: Apache-2.0 */
/* The bitset of drivers/md/persistent-data (an array of 64-bit words), and one in memory. */
#ifndef DMSNAP_SRC_BITSET_H
#define DMSNAP_SRC_BITSET_H

#include <stdint.h>

#include <dmsnap/error.h>

#include "metadata_walk.h"

#define DMS_WORD_BITS 64

/* In memory; pages of it that no bit was set in take no memory. */
struct dms_bitmap {
	uint64_t nr_bits;
	uint64_t *words;
};

struct dms_error *dms_bitmap_create(uint64_t nr_bits, struct dms_bitmap **bitmap);
void dms_bitmap_destroy(struct dms_bitmap *bitmap);
DMS_DEFINE_CLEANUP(dms_cleanup_bitmap, struct dms_bitmap, dms_bitmap_destroy);
#define _cleanup_bitmap_ DMS_CLEANUP(dms_cleanup_bitmap)

/*
 * Set in bitmap the bits from first on that are set among the nr in words, the lowest bit first.
 * Those behind nr are 0, and all of them lie within bitmap. Several threads may do so at once.
 */
void dms_bitmap_merge(struct dms_bitmap *bitmap, uint64_t first, const uint64_t *words,
		      size_t nr_bits);

/*
 * Set in bitmap what is set among the first nr_bits of the bitset at root.
 * The two may differ in size: what lies behind bitmap's end is dropped.
 */
struct dms_error *dms_bitset_merge(struct dms_metadata_walk *walk, const char *what, uint64_t root,
				   uint64_t nr_bits, struct dms_bitmap *bitmap);

#endif
