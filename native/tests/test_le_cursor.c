// SPDX-License-Identifier: Apache-2.0
#include "../src/le_cursor.h"
#include "../src/text.h"
#include "test.h"

static void reads(void)
{
	static const uint8_t bytes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 };
	struct dms_le_cursor cursor = dms_le_cursor("thing", bytes, sizeof(bytes), 1000);
	const uint8_t *view;
	uint32_t word;
	uint64_t wide;
	uint8_t copy[4];

	CHECK_OK(dms_le_cursor_u32(&cursor, "word", &word));
	CHECK(word == 0x04030201);
	CHECK_OK(dms_le_cursor_u64(&cursor, "wide", &wide));
	CHECK(wide == 0x0c0b0a0908070605ull);
	CHECK(dms_le_cursor_tell(&cursor) == 1012);
	CHECK_MESSAGE(dms_le_cursor_u32(&cursor, "word", &word), DMS_ERR_OUT_OF_BOUNDS,
		      "thing: word takes 4 bytes, 1 are left");
	CHECK_MESSAGE(dms_le_cursor_u64(&cursor, "wide", &wide), DMS_ERR_OUT_OF_BOUNDS, "wide");
	CHECK_MESSAGE(dms_le_cursor_view(&cursor, "tail", SIZE_MAX, &view), DMS_ERR_OUT_OF_BOUNDS,
		      "tail");
	CHECK_ERROR(dms_le_cursor_bytes(&cursor, "tail", copy, 4), DMS_ERR_OUT_OF_BOUNDS);
	CHECK(word == 0x04030201 && cursor.position == 12); /* nothing changed */
	CHECK_OK(dms_le_cursor_skip(&cursor, "end", 1));
	CHECK_OK(dms_le_cursor_view(&cursor, "nothing", 0, &view));
	CHECK_ERROR(dms_le_cursor_skip(&cursor, "beyond", 1), DMS_ERR_OUT_OF_BOUNDS);
	CHECK_OK(dms_le_cursor_seek(&cursor, "start", 0));
	CHECK_ERROR(dms_le_cursor_seek(&cursor, "far", 14), DMS_ERR_OUT_OF_BOUNDS);
	CHECK_OK(dms_le_cursor_bytes(&cursor, "first", copy, 4));
	CHECK(!memcmp(copy, bytes, 4));
}

static void places(void)
{
	struct dms_le_cursor cursor = dms_le_cursor("thing", "abc", 3, 4096);
	struct dms_error *error;
	uint32_t word;

	CHECK_OK(dms_le_cursor_skip(&cursor, "a", 1));
	error = dms_le_cursor_u32(&cursor, "word", &word);
	CHECK(error && error->offset_bytes == 4097 && !error->errnum);
	dms_error_destroy(error);
	dms_error_destroy(NULL);
	error = dms_error_create(DMS_ERR_NO_MEMORY, "no memory for %d", 1);
	CHECK(error == dms_error_create(DMS_ERR_NO_MEMORY, "the same object"));
	dms_error_destroy(error);
	error = dms_error_create_os_at(5, 77, "read of %d", 3);
	CHECK(error->code == DMS_ERR_OS && error->errnum == 5 && error->offset_bytes == 77);
	CHECK(!strcmp(error->message, "read of 3"));
	dms_error_destroy(error);
	error = dms_error_create_os(2, "%0400d", 1); /* longer than a message can be */
	CHECK(strlen(error->message) == sizeof(error->message) - 1);
	dms_error_destroy(error);
}

static void texts(void)
{
	CHECK(dms_text_is_printable(""));
	CHECK(dms_text_is_printable("plain / text ~"));
	CHECK(dms_text_is_printable("Gr\xc3\xbc\xc3\x9f""e \xe2\x82\xac \xf0\x9f\x98\x80"));
	CHECK(!dms_text_is_printable("\x1b[2J"));
	CHECK(!dms_text_is_printable("a\nb"));
	CHECK(!dms_text_is_printable("\x7f"));
	CHECK(!dms_text_is_printable("\xc2\x9b")); /* a control character of two bytes */
	CHECK(!dms_text_is_printable("\xc3")); /* cut off */
	CHECK(!dms_text_is_printable("\xc0\xaf")); /* overlong */
	CHECK(!dms_text_is_printable("\xed\xa0\x80")); /* a surrogate */
	CHECK(!dms_text_is_printable("\xf4\x90\x80\x80")); /* beyond Unicode */
	CHECK(!dms_text_is_printable("\xff"));
	CHECK(!dms_text_is_printable("\xbf"));
}

int main(void)
{
	reads();
	places();
	texts();
	return 0;
}
