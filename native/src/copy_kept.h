/* SPDX-License-Identifier: Apache-2.0 */
/* The source's content of what differs, from dms_copy_compare() to dms_copy_apply(). */
#ifndef DMSNAP_SRC_COPY_KEPT_H
#define DMSNAP_SRC_COPY_KEPT_H

#include <dmsnap/copy.h>

/* In ascending order; too much is not kept, and no error. */
struct dms_error *dms_copy_kept_add(struct dms_copy_kept *kept, uint64_t offset_bytes,
				    const void *content, uint32_t length_bytes);
const struct dms_extent_set *dms_copy_kept_extents(const struct dms_copy_kept *kept);
/* Of the extents, one behind the other, aligned as requests have to be; NULL when none is kept. */
const char *dms_copy_kept_content(const struct dms_copy_kept *kept);

#endif
