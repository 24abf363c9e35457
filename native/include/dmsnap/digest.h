/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Digests (xxh3-128, of libxxhash) of extents of a device. Descriptors are
 * opened by the caller, as for copy.h; nothing is written.
 */
#ifndef DMSNAP_DIGEST_H
#define DMSNAP_DIGEST_H

#include <stdint.h>

#include <dmsnap/copy.h>
#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
#define DMS_DIGEST_BYTES 16

/*
 * The digest of the bytes of all extents in ascending order, grown to 4 KiB
 * pages and cut at size_bytes, in the canonical form (big-endian) that
 * `xxhsum -H2` prints. Reads are queued ahead of the hashing.
 */
struct dms_error *dms_digest_extents(int fd, uint64_t size_bytes,
				     const struct dms_extent_set *extents,
				     const struct dms_copy_options *options, uint8_t *digest);

/*
 * Compare extents of two devices by digests of pieces, each device read and
 * hashed by a thread of its own. suspects are the pieces that differ, which
 * dms_copy_compare() then looks at byte by byte.
 */
struct dms_error *dms_digest_compare(int source_fd, int destination_fd, uint64_t size_bytes,
				     const struct dms_extent_set *extents,
				     const struct dms_copy_options *options,
				     uint64_t *bytes_compared, struct dms_extent_set **suspects);
/* cffi: end */

#endif
