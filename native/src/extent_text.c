// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include <dmsnap/extent_text.h>

#define MAX_DIGITS 20 /* of UINT64_MAX */
#define OFFSET_COLUMN 20
#define LENGTH_COLUMN 16

_Static_assert(2 * MAX_DIGITS + sizeof("[,],") - 1 <= DMS_EXTENT_TEXT_BYTES, "JSON fits");
_Static_assert(2 * MAX_DIGITS + sizeof(" \n") - 1 <= DMS_EXTENT_TEXT_BYTES, "columns fit");

/* Write value in decimal, filled up with spaces on the left to width; returns its end. */
static char *put_number(char *at, uint64_t value, size_t width)
{
	char digits[MAX_DIGITS];
	size_t first = MAX_DIGITS, length;

	do {
		digits[--first] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	length = MAX_DIGITS - first;
	for (; width > length; width--)
		*at++ = ' ';
	memcpy(at, digits + first, length);
	return at + length;
}

static char *put_json(char *at, const struct dms_extent *extent)
{
	*at++ = '[';
	at = put_number(at, extent->offset_bytes, 0);
	*at++ = ',';
	at = put_number(at, extent->length_bytes, 0);
	*at++ = ']';
	return at;
}

static char *put_columns(char *at, const struct dms_extent *extent)
{
	at = put_number(at, extent->offset_bytes, OFFSET_COLUMN);
	*at++ = ' ';
	at = put_number(at, extent->length_bytes, LENGTH_COLUMN);
	*at++ = '\n';
	return at;
}

size_t dms_extent_text(const struct dms_extent *extents, size_t count, bool json, char *text)
{
	char *at = text;

	for (size_t i = 0; i < count; i++) {
		if (json && i)
			*at++ = ',';
		at = json ? put_json(at, &extents[i]) : put_columns(at, &extents[i]);
	}
	return (size_t)(at - text);
}
