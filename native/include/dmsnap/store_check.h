/* SPDX-License-Identifier: Apache-2.0 */
/* Whether an exception store that dmsnap wrote still holds what was written. */
#ifndef DMSNAP_STORE_CHECK_H
#define DMSNAP_STORE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/copy.h>
#include <dmsnap/error.h>

/* cffi: begin */
/*
 * Read a store as dms_exception_store_open() does, and hold its pairs, and with
 * data all that they keep, against the digests that it was sealed with:
 * DMS_ERR_CHECKSUM where they differ. *sealed is false where it has none, as
 * those of the kernel and of earlier versions; then nothing is compared. The
 * store begins at a whole page, is valid, and the kernel has not merged any of it.
 */
struct dms_error *dms_exception_store_check(int fd, uint64_t offset_bytes, uint64_t length_bytes,
					    bool data, const struct dms_copy_options *options,
					    bool *sealed);
/* cffi: end */

#endif
