/* SPDX-License-Identifier: Apache-2.0 */
/* Extents as text: a million of them take Python longer than reading them does. */
#ifndef DMSNAP_EXTENT_TEXT_H
#define DMSNAP_EXTENT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include <dmsnap/extent_set.h>

/* cffi: begin */
#define DMS_EXTENT_TEXT_BYTES 48

/*
 * The members of a JSON array, "[offset,length],[offset,length]", or lines of
 * two columns for people. text has room for DMS_EXTENT_TEXT_BYTES each; returns
 * how many bytes were written, with no NUL behind them.
 */
size_t dms_extent_text(const struct dms_extent *extents, size_t count, bool json, char *text);
/* cffi: end */

#endif
