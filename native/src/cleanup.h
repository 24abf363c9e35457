/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cleanup attributes: what a function allocates is given back on every way
 * out of it, unless dms_steal() hands it to the caller.
 */
#ifndef DMSNAP_SRC_CLEANUP_H
#define DMSNAP_SRC_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

#define DMS_CLEANUP(function) __attribute__((__cleanup__(function)))

/* Defines the cleanup function NAME for variables of TYPE *, which calls DESTROY when not NULL. */
#define DMS_DEFINE_CLEANUP(name, type, destroy)       \
	static inline void name(type **pointer)       \
	{                                             \
		if (*pointer)                         \
			destroy(*pointer);            \
	}                                             \
	/* the caller's semicolon ends this */        \
	_Static_assert(sizeof(type *) == sizeof(void *), #type)

/* The value of POINTER, which is left NULL: its cleanup then does nothing. */
#define dms_steal(pointer)                                    \
	__extension__({                                       \
		__typeof__(pointer) *dms_place = &(pointer);  \
		__typeof__(pointer) dms_value = *dms_place;   \
		*dms_place = NULL;                            \
		dms_value;                                    \
	})

/* Leave the function with the expression's error, if it has one. */
#define DMS_TRY(expression)                                 \
	do {                                                \
		struct dms_error *dms_error_ = (expression); \
		if (dms_error_)                             \
			return dms_error_;                  \
	} while (0)

static inline void dms_cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

static inline void dms_cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

DMS_DEFINE_CLEANUP(dms_cleanup_error, struct dms_error, dms_error_destroy);
DMS_DEFINE_CLEANUP(dms_cleanup_extent_set, struct dms_extent_set, dms_extent_set_destroy);

#define _cleanup_free_ DMS_CLEANUP(dms_cleanup_free)
#define _cleanup_close_ DMS_CLEANUP(dms_cleanup_close)
#define _cleanup_error_ DMS_CLEANUP(dms_cleanup_error)
#define _cleanup_extent_set_ DMS_CLEANUP(dms_cleanup_extent_set)

#endif
