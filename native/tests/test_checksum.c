// SPDX-License-Identifier: Apache-2.0
#include <dmsnap/checksum.h>

#include "../src/crc32c.h"
#include "test.h"

#define MAX_BYTES 20000

/* One bit after the other, as the definition says. */
static uint32_t slow(uint32_t crc, const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
	}
	return crc;
}

static void compare(struct random *random, const uint8_t *bytes, size_t length)
{
	uint32_t seed = (uint32_t)next_random(random);
	uint32_t expected = slow(seed, bytes, length);

	CHECK(dms_crc32c(seed, bytes, length) == expected);
	CHECK(dms_crc32c_portable(seed, bytes, length) == expected);
}

int main(void)
{
	static uint8_t bytes[MAX_BYTES];
	struct random random = { 7 };

	/* The check value of CRC-32C, RFC 3720. */
	CHECK((dms_crc32c(~0u, "123456789", 9) ^ ~0u) == 0xe3069283u);
	CHECK(dms_bm_checksum("123456789", 9, 0x12345678) == (~0xe3069283u ^ 0x12345678));
	for (size_t i = 0; i < MAX_BYTES; i++)
		bytes[i] = (uint8_t)next_random(&random);
	for (size_t length = 0; length < 100; length++)
		for (size_t start = 0; start < 9; start++)
			compare(&random, bytes + start, length);
	/* Around the three stripes, and several times them. */
	for (size_t length = 4070; length < 4110; length++)
		compare(&random, bytes + length % 8, length);
	for (int i = 0; i < 200; i++) {
		size_t start = next_random(&random) % 64;

		compare(&random, bytes + start, next_random(&random) % (MAX_BYTES - 64));
	}
	return 0;
}
