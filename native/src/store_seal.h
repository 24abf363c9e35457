/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a finished exception store holds, as digests in the second sector of
 * its first chunk. The kernel reads the first sixteen bytes of that chunk, and
 * writes the rest of it as zeroes when it marks a store invalid.
 */
#ifndef DMSNAP_SRC_STORE_SEAL_H
#define DMSNAP_SRC_STORE_SEAL_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/digest.h>
#include <dmsnap/error.h>

#define DMS_STORE_SEAL_OFFSET_BYTES 512u
#define DMS_STORE_SEAL_BYTES 512u

struct dms_store_seal {
	uint64_t nr_exceptions;
	uint8_t pairs[DMS_DIGEST_BYTES]; /* xxh3-128 of all pairs, as they are on the medium */
	uint8_t data[DMS_DIGEST_BYTES]; /* and of all data chunks, in the order of the pairs */
};

void dms_store_seal_pack(const struct dms_store_seal *seal, uint8_t *bytes);
/* *known: whether there is one at all; one that is damaged is an error. */
struct dms_error *dms_store_seal_parse(const uint8_t *bytes, uint64_t offset_bytes,
				       struct dms_store_seal *seal, bool *known);

#endif
