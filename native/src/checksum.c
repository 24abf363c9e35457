// SPDX-License-Identifier: Apache-2.0
/*
 * CRC-32C (Castagnoli, reflected, 0x82f63b78): by the processor's instruction
 * where there is one, chosen at run time, else eight bytes at a time out of
 * tables.
 */
#include <dmsnap/checksum.h>

#include "crc32c.h"
#include "le_cursor.h"

/*
 * A table entry is linear in its index, so eight constants (the entries of
 * the indices with one bit set) give each table, and the compiler does the
 * rest.
 */
#define ENTRY(b, c0, c1, c2, c3, c4, c5, c6, c7)                                        \
	((((b) & 1) ? c0 : 0) ^ (((b) & 2) ? c1 : 0) ^ (((b) & 4) ? c2 : 0) ^            \
	 (((b) & 8) ? c3 : 0) ^ (((b) & 16) ? c4 : 0) ^ (((b) & 32) ? c5 : 0) ^          \
	 (((b) & 64) ? c6 : 0) ^ (((b) & 128) ? c7 : 0))
#define ENTRIES_4(b, ...)                                                               \
	ENTRY(b, __VA_ARGS__), ENTRY((b) + 1, __VA_ARGS__), ENTRY((b) + 2, __VA_ARGS__), \
		ENTRY((b) + 3, __VA_ARGS__)
#define ENTRIES_16(b, ...)                                                              \
	ENTRIES_4(b, __VA_ARGS__), ENTRIES_4((b) + 4, __VA_ARGS__),                      \
		ENTRIES_4((b) + 8, __VA_ARGS__), ENTRIES_4((b) + 12, __VA_ARGS__)
#define ENTRIES_64(b, ...)                                                              \
	ENTRIES_16(b, __VA_ARGS__), ENTRIES_16((b) + 16, __VA_ARGS__),                   \
		ENTRIES_16((b) + 32, __VA_ARGS__), ENTRIES_16((b) + 48, __VA_ARGS__)
#define TABLE(...)                                                                      \
	{                                                                               \
		ENTRIES_64(0, __VA_ARGS__), ENTRIES_64(64, __VA_ARGS__),                 \
			ENTRIES_64(128, __VA_ARGS__), ENTRIES_64(192, __VA_ARGS__),      \
	}

/* tables[k][b]: the checksum of byte b followed by k zero bytes. */
static const uint32_t tables[8][256] = {
	TABLE(0xf26b8303u, 0xe13b70f7u, 0xc79a971fu, 0x8ad958cfu, 0x105ec76fu, 0x20bd8edeu,
	      0x417b1dbcu, 0x82f63b78u),
	TABLE(0x13a29877u, 0x274530eeu, 0x4e8a61dcu, 0x9d14c3b8u, 0x3fc5f181u, 0x7f8be302u,
	      0xff17c604u, 0xfbc3faf9u),
	TABLE(0xa541927eu, 0x4f6f520du, 0x9edea41au, 0x38513ec5u, 0x70a27d8au, 0xe144fb14u,
	      0xc76580d9u, 0x8b277743u),
	TABLE(0xdd45aab8u, 0xbf672381u, 0x7b2231f3u, 0xf64463e6u, 0xe964b13du, 0xd725148bu,
	      0xaba65fe7u, 0x52a0c93fu),
	TABLE(0x38116facu, 0x7022df58u, 0xe045beb0u, 0xc5670b91u, 0x8f2261d3u, 0x1ba8b557u,
	      0x37516aaeu, 0x6ea2d55cu),
	TABLE(0xef306b19u, 0xdb8ca0c3u, 0xb2f53777u, 0x6006181fu, 0xc00c303eu, 0x85f4168du,
	      0x0e045bebu, 0x1c08b7d6u),
	TABLE(0x68032cc8u, 0xd0065990u, 0xa5e0c5d1u, 0x4e2dfd53u, 0x9c5bfaa6u, 0x3d5b83bdu,
	      0x7ab7077au, 0xf56e0ef4u),
	TABLE(0x493c7d27u, 0x9278fa4eu, 0x211d826du, 0x423b04dau, 0x847609b4u, 0x0d006599u,
	      0x1a00cb32u, 0x34019664u),
};

uint32_t dms_crc32c_portable(uint32_t crc, const void *data, size_t length)
{
	const uint8_t *bytes = data;

	for (; length >= 8; bytes += 8, length -= 8) {
		uint64_t word = dms_load_le64(bytes) ^ crc;

		crc = tables[7][word & 0xff] ^ tables[6][word >> 8 & 0xff] ^
		      tables[5][word >> 16 & 0xff] ^ tables[4][word >> 24 & 0xff] ^
		      tables[3][word >> 32 & 0xff] ^ tables[2][word >> 40 & 0xff] ^
		      tables[1][word >> 48 & 0xff] ^ tables[0][word >> 56];
	}
	for (; length; bytes++, length--)
		crc = crc >> 8 ^ tables[0][(crc ^ *bytes) & 0xff];
	return crc;
}

#ifdef __x86_64__
#include <nmmintrin.h>
#include <wmmintrin.h>

/*
 * The instruction has a latency of three cycles and a throughput of one, so
 * three stripes are summed at a time. Three of 1360 bytes fit the 4092
 * checksummed bytes of a metadata block.
 */
#define STRIPE_BYTES 1360
/* x^(8n - 33) modulo the polynomial, reflected: moves a checksum over n zero bytes. */
#define SHIFT_1_STRIPE 0x3f70cc6f
#define SHIFT_2_STRIPES 0x5aa1f3cf

__attribute__((target("sse4.2,pclmul"))) static uint32_t shift(uint32_t crc, uint32_t constant)
{
	__m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc),
					       _mm_cvtsi32_si128((int)constant), 0);

	return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t
three_stripes(uint32_t crc, const uint8_t *bytes)
{
	uint64_t first = crc, second = 0, third = 0;

	for (size_t i = 0; i < STRIPE_BYTES; i += 8) {
		first = _mm_crc32_u64(first, dms_load_le64(bytes + i));
		second = _mm_crc32_u64(second, dms_load_le64(bytes + STRIPE_BYTES + i));
		third = _mm_crc32_u64(third, dms_load_le64(bytes + 2 * STRIPE_BYTES + i));
	}
	return shift((uint32_t)first, SHIFT_2_STRIPES) ^ shift((uint32_t)second, SHIFT_1_STRIPE) ^
	       (uint32_t)third;
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t crc32c_sse42(uint32_t crc,
								       const uint8_t *bytes,
								       size_t length)
{
	for (; length >= 3 * STRIPE_BYTES; bytes += 3 * STRIPE_BYTES, length -= 3 * STRIPE_BYTES)
		crc = three_stripes(crc, bytes);
	for (; length >= 8; bytes += 8, length -= 8)
		crc = (uint32_t)_mm_crc32_u64(crc, dms_load_le64(bytes));
	for (; length; bytes++, length--)
		crc = _mm_crc32_u8(crc, *bytes);
	return crc;
}
#endif

uint32_t dms_crc32c(uint32_t crc, const void *data, size_t length)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
		return crc32c_sse42(crc, data, length);
#endif
	return dms_crc32c_portable(crc, data, length);
}

uint32_t dms_bm_checksum(const void *data, size_t length, uint32_t init_xor)
{
	return dms_crc32c(~(uint32_t)0, data, length) ^ init_xor;
}
