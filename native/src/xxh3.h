/* SPDX-License-Identifier: Apache-2.0 */
/* The state of an xxh3-128 (libxxhash), and the digest in the form that xxhsum prints. */
#ifndef DMSNAP_SRC_XXH3_H
#define DMSNAP_SRC_XXH3_H

#include <string.h>
#include <xxhash.h>

#include <dmsnap/digest.h>

static inline void dms_xxh3_digest(const XXH3_state_t *state, uint8_t *digest)
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(digest, canonical.digest, DMS_DIGEST_BYTES);
}

#endif
