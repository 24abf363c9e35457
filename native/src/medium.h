/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine must know of a descriptor before it writes anything: how
 * large the device or file is, how its transfers must be aligned, and whether
 * two descriptors are the same bytes.
 */
#ifndef DMSNAP_SRC_MEDIUM_H
#define DMSNAP_SRC_MEDIUM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include <dmsnap/error.h>

struct dms_medium {
	int fd;
	const char *name; /* what it is to the caller, for errors: "the source" */
	struct stat status;
	uint64_t size_bytes;
	uint32_t block_bytes; /* every transfer's alignment: 1 without O_DIRECT */
};

struct dms_error *dms_medium_probe(int fd, const char *name, struct dms_medium *medium);
/*
 * DMS_ERR_OUT_OF_BOUNDS when [offset, offset + length) is not inside the medium,
 * DMS_ERR_INVALID_ARGUMENT when its ends cannot be transferred with O_DIRECT.
 */
struct dms_error *dms_medium_check_range(const struct dms_medium *medium, uint64_t offset_bytes,
					 uint64_t length_bytes);
bool dms_medium_is_same(const struct dms_medium *left, const struct dms_medium *right);

#endif
