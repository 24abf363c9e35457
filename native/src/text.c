// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>
#include <stdint.h>

#include "text.h"

/*
 * The code point that begins at text and the bytes it takes; 0 when it is
 * not well-formed: cut off, overlong, a surrogate or beyond Unicode.
 */
static size_t decode(const uint8_t *text, uint32_t *code_point)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length = *text < 0x80 ? 1 : *text >> 5 == 6 ? 2 : *text >> 4 == 14 ? 3 :
			*text >> 3 == 30 ? 4 : 0;
	uint32_t value = length == 1 ? *text : *text & (0x7fu >> length);

	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (text[i] & 0x3f);
	}
	if (!length || value < smallest[length] || value > 0x10ffff ||
	    (value >= 0xd800 && value < 0xe000))
		return 0;
	*code_point = value;
	return length;
}

bool dms_text_is_printable(const char *text)
{
	const uint8_t *at = (const uint8_t *)text;

	while (*at) {
		uint32_t code_point;
		size_t length = decode(at, &code_point);

		if (!length || code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0))
			return false;
		at += length;
	}
	return true;
}
