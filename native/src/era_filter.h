/* SPDX-License-Identifier: Apache-2.0 */
/* Which of many eras are recent, without a branch for each. */
#ifndef DMSNAP_SRC_ERA_FILTER_H
#define DMSNAP_SRC_ERA_FILTER_H

#include <stddef.h>
#include <stdint.h>

#define DMS_ERA_BYTES 4
#define DMS_ERA_GROUP 64

/*
 * Bit i of masks[i / 64] says whether the era at values + 4 × i, little-endian,
 * is since or later; bits behind nr are 0. masks has room for nr bits in whole
 * words. Returns the latest era of all.
 */
uint32_t dms_era_filter(const uint8_t *values, size_t nr, uint32_t since, uint64_t *masks);

/* The fallback, by name, so that tests reach it on every processor. */
uint32_t dms_era_filter_portable(const uint8_t *values, size_t nr, uint32_t since,
				 uint64_t *masks);

#endif
