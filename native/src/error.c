// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/error.h>

/* Given out when there is no memory left for an error; never written to, never freed. */
static const struct dms_error no_memory = {
	.code = DMS_ERR_NO_MEMORY,
	.offset_bytes = DMS_NO_OFFSET,
	.message = "out of memory",
};

static struct dms_error *create(enum dms_error_code code, int errnum, uint64_t offset_bytes,
				const char *format, va_list arguments)
	__attribute__((format(printf, 4, 0)));

static struct dms_error *create(enum dms_error_code code, int errnum, uint64_t offset_bytes,
				const char *format, va_list arguments)
{
	struct dms_error *error;

	if (code == DMS_ERR_NO_MEMORY)
		return (struct dms_error *)&no_memory;
	error = calloc(1, sizeof(*error));
	if (!error)
		return (struct dms_error *)&no_memory;
	error->code = code;
	error->errnum = errnum;
	error->offset_bytes = offset_bytes;
	vsnprintf(error->message, sizeof(error->message), format, arguments);
	return error;
}

struct dms_error *dms_error_create(enum dms_error_code code, const char *format, ...)
{
	struct dms_error *error;
	va_list arguments;

	va_start(arguments, format);
	error = create(code, 0, DMS_NO_OFFSET, format, arguments);
	va_end(arguments);
	return error;
}

struct dms_error *dms_error_create_at(enum dms_error_code code, uint64_t offset_bytes,
				      const char *format, ...)
{
	struct dms_error *error;
	va_list arguments;

	va_start(arguments, format);
	error = create(code, 0, offset_bytes, format, arguments);
	va_end(arguments);
	return error;
}

struct dms_error *dms_error_create_os(int errnum, const char *format, ...)
{
	struct dms_error *error;
	va_list arguments;

	va_start(arguments, format);
	error = create(DMS_ERR_OS, errnum, DMS_NO_OFFSET, format, arguments);
	va_end(arguments);
	return error;
}

struct dms_error *dms_error_create_os_at(int errnum, uint64_t offset_bytes, const char *format, ...)
{
	struct dms_error *error;
	va_list arguments;

	va_start(arguments, format);
	error = create(DMS_ERR_OS, errnum, offset_bytes, format, arguments);
	va_end(arguments);
	return error;
}

void dms_error_destroy(struct dms_error *error)
{
	if (error != &no_memory)
		free(error);
}
