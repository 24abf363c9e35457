/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set of blocks of one size, a bit for each block of the device: what
 * metadata of many blocks gives, however they are scattered.
 */
#ifndef DMSNAP_BLOCK_SET_H
#define DMSNAP_BLOCK_SET_H

#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
struct dms_block_set;

void dms_block_set_destroy(struct dms_block_set *set);
/* Drop what lies at or beyond size_bytes. */
void dms_block_set_clamp(struct dms_block_set *set, uint64_t size_bytes);
uint64_t dms_block_set_bytes(const struct dms_block_set *set);
/* How many extents the blocks make: those that touch are one. */
uint64_t dms_block_set_count(const struct dms_block_set *set);
/*
 * The extents from block *position on, at most capacity of them, ascending;
 * *position is then where the next call goes on. Returns how many; 0 at the end.
 */
size_t dms_block_set_next(const struct dms_block_set *set, uint64_t *position,
			  struct dms_extent *extents, size_t capacity);
/* Add all of them to extents, which may be bound. */
struct dms_error *dms_block_set_add_to(const struct dms_block_set *set,
				       struct dms_extent_set *extents);
/* All of them, 16 bytes each. */
struct dms_error *dms_block_set_extents(const struct dms_block_set *set,
					struct dms_extent_set **extents);
/* cffi: end */

#endif
