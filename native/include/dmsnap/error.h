/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors are objects: NULL is success, anything else must be destroyed or
 * handed on. Results travel through out parameters, which are written only
 * on success.
 */
#ifndef DMSNAP_ERROR_H
#define DMSNAP_ERROR_H

#include <stdint.h>

/* cffi: begin */
enum dms_error_code {
	DMS_ERR_NO_MEMORY = 1,
	DMS_ERR_OS = 2, /* a system call failed: errnum says how */
	DMS_ERR_INVALID_ARGUMENT = 3, /* the caller is wrong, not the medium */
	DMS_ERR_OUT_OF_BOUNDS = 4, /* a structure reaches past its medium */
	DMS_ERR_BAD_MAGIC = 5, /* this is not the format that was asked for */
	DMS_ERR_CHECKSUM = 6,
	DMS_ERR_CORRUPT = 7, /* checksums hold, the structure does not */
	DMS_ERR_UNSUPPORTED = 8, /* a version or a feature that is not known */
	DMS_ERR_NO_METADATA_SNAPSHOT = 9,
	DMS_ERR_STORE_FULL = 10, /* an exception store has no room left */
	DMS_ERR_STORE_INVALID = 11, /* the kernel marked the store as overflowed or failed */
	DMS_ERR_CANCELLED = 12, /* the progress callback asked to stop */
	DMS_ERR_DEADLINE = 13, /* the window's deadline passed; everything was resumed */
	DMS_ERR_CHANGED = 14, /* the medium was written while it was read */
};

struct dms_error {
	enum dms_error_code code;
	int errnum; /* 0 unless code is DMS_ERR_OS */
	uint64_t offset_bytes; /* where on the medium; UINT64_MAX when it has no place */
	char message[256]; /* what was read or tried, without the device's name */
};

void dms_error_destroy(struct dms_error *error);
/* cffi: end */

#define DMS_NO_OFFSET UINT64_MAX

/*
 * The four constructors. They never return NULL: when memory is short they
 * return a static DMS_ERR_NO_MEMORY object, which dms_error_destroy() knows.
 */
struct dms_error *dms_error_create(enum dms_error_code code, const char *format, ...)
	__attribute__((format(printf, 2, 3), returns_nonnull));
struct dms_error *dms_error_create_at(enum dms_error_code code, uint64_t offset_bytes,
				      const char *format, ...)
	__attribute__((format(printf, 3, 4), returns_nonnull));
struct dms_error *dms_error_create_os(int errnum, const char *format, ...)
	__attribute__((format(printf, 2, 3), returns_nonnull));
struct dms_error *dms_error_create_os_at(int errnum, uint64_t offset_bytes, const char *format,
					 ...) __attribute__((format(printf, 3, 4), returns_nonnull));

#endif
