/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded cursor over little-endian bytes. Whatever comes from a disk is
 * read through it; what would reach past the end becomes an error that names
 * the field. Offsets in errors are those on the medium.
 */
#ifndef DMSNAP_SRC_LE_CURSOR_H
#define DMSNAP_SRC_LE_CURSOR_H

#include <endian.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <dmsnap/error.h>

struct dms_le_cursor {
	const uint8_t *data;
	size_t size;
	size_t position; /* never above size */
	uint64_t offset_bytes; /* of data on the medium */
	const char *what; /* the structure, as errors name it */
};

static inline struct dms_le_cursor dms_le_cursor(const char *what, const void *data, size_t size,
						 uint64_t offset_bytes)
{
	return (struct dms_le_cursor){
		.data = data, .size = size, .offset_bytes = offset_bytes, .what = what,
	};
}

/* Where the next byte lies on the medium. */
static inline uint64_t dms_le_cursor_tell(const struct dms_le_cursor *cursor)
{
	return cursor->offset_bytes + cursor->position;
}

/* The next size bytes, which are then behind the cursor; view points into the data. */
static inline struct dms_error *dms_le_cursor_view(struct dms_le_cursor *cursor, const char *field,
						   size_t size, const uint8_t **view)
{
	if (size > cursor->size - cursor->position)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, dms_le_cursor_tell(cursor),
					   "%s: %s takes %zu bytes, %zu are left", cursor->what,
					   field, size, cursor->size - cursor->position);
	*view = cursor->data + cursor->position;
	cursor->position += size;
	return NULL;
}

static inline struct dms_error *dms_le_cursor_skip(struct dms_le_cursor *cursor, const char *field,
						   size_t size)
{
	const uint8_t *view;

	return dms_le_cursor_view(cursor, field, size, &view);
}

/* Go to position bytes behind the structure's first byte. */
static inline struct dms_error *dms_le_cursor_seek(struct dms_le_cursor *cursor, const char *field,
						   size_t position)
{
	if (position > cursor->size)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, cursor->offset_bytes,
					   "%s: %s lies at byte %zu of %zu", cursor->what, field,
					   position, cursor->size);
	cursor->position = position;
	return NULL;
}

static inline struct dms_error *dms_le_cursor_bytes(struct dms_le_cursor *cursor, const char *field,
						    void *bytes, size_t size)
{
	const uint8_t *view;
	struct dms_error *error = dms_le_cursor_view(cursor, field, size, &view);

	if (!error)
		memcpy(bytes, view, size);
	return error;
}

/* Loads from a view that was bounded before, for loops over many entries. */
static inline uint32_t dms_load_le32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return le32toh(value);
}

static inline uint64_t dms_load_le64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return le64toh(value);
}

static inline struct dms_error *dms_le_cursor_u32(struct dms_le_cursor *cursor, const char *field,
						  uint32_t *value)
{
	const uint8_t *view;
	struct dms_error *error = dms_le_cursor_view(cursor, field, sizeof(*value), &view);

	if (!error)
		*value = dms_load_le32(view);
	return error;
}

static inline struct dms_error *dms_le_cursor_u64(struct dms_le_cursor *cursor, const char *field,
						  uint64_t *value)
{
	const uint8_t *view;
	struct dms_error *error = dms_le_cursor_view(cursor, field, sizeof(*value), &view);

	if (!error)
		*value = dms_load_le64(view);
	return error;
}

/* The counterpart for encoders: bytes is bounded by the caller's fixed layout. */
static inline void dms_store_le32(uint8_t *bytes, uint32_t value)
{
	value = htole32(value);
	memcpy(bytes, &value, sizeof(value));
}

static inline void dms_store_le64(uint8_t *bytes, uint64_t value)
{
	value = htole64(value);
	memcpy(bytes, &value, sizeof(value));
}

#endif
