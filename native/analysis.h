/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Put before every source by `make analyze`. Neither gcc's analyzer (12 and 14) nor clang's (14)
 * knows returns_nonnull, so each takes every error for success, and what was not read for garbage
 * that is used. Here they are told where an error is made.
 */
#ifndef DMSNAP_ANALYSIS_H
#define DMSNAP_ANALYSIS_H

/* This is the first header of all, so what a source defines itself comes too late. */
#define _GNU_SOURCE 1
#include <dmsnap/error.h>
#undef _GNU_SOURCE

#define DMS_NONNULL(expression)                          \
	__extension__({                                  \
		struct dms_error *dms_made_ = (expression); \
		if (!dms_made_)                          \
			__builtin_unreachable();         \
		dms_made_;                               \
	})

#define dms_error_create(...) DMS_NONNULL(dms_error_create(__VA_ARGS__))
#define dms_error_create_at(...) DMS_NONNULL(dms_error_create_at(__VA_ARGS__))
#define dms_error_create_os(...) DMS_NONNULL(dms_error_create_os(__VA_ARGS__))
#define dms_error_create_os_at(...) DMS_NONNULL(dms_error_create_os_at(__VA_ARGS__))

#endif
