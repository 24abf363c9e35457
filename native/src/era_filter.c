// SPDX-License-Identifier: Apache-2.0
/* By AVX2 where the processor has it, chosen at run time, else in plain C. */
#include "era_filter.h"
#include "le_cursor.h"

uint32_t dms_era_filter_portable(const uint8_t *values, size_t nr, uint32_t since, uint64_t *masks)
{
	uint32_t latest = 0;

	for (size_t first = 0; first < nr; first += DMS_ERA_GROUP) {
		size_t end = nr - first < DMS_ERA_GROUP ? nr - first : DMS_ERA_GROUP;
		uint64_t mask = 0;

		for (size_t i = 0; i < end; i++) {
			uint32_t era = dms_load_le32(values + (first + i) * DMS_ERA_BYTES);

			mask |= (uint64_t)(era >= since) << i;
			latest = era > latest ? era : latest;
		}
		masks[first / DMS_ERA_GROUP] = mask;
	}
	return latest;
}

#ifdef __x86_64__
#include <immintrin.h>

#define LANES 8
#define AVX2 __attribute__((target("avx2")))

/* All bits of a lane are set where its era is not below its limit: there is no unsigned comparison. */
AVX2 static inline __m256i not_below(__m256i eras, __m256i limit)
{
	return _mm256_cmpeq_epi32(_mm256_max_epu32(eras, limit), eras);
}

/* A bit for each of 32 eras. */
AVX2 static inline uint32_t filter_32(const uint8_t *values, __m256i limit, __m256i *latest)
{
	/* Packing takes 128 bits of each operand in turn; this puts groups of four back in order. */
	const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	__m256i eras[4], recent;

	for (size_t i = 0; i < 4; i++) {
		eras[i] = _mm256_loadu_si256((const __m256i *)(values + i * LANES * DMS_ERA_BYTES));
		*latest = _mm256_max_epu32(*latest, eras[i]);
	}
	recent = _mm256_packs_epi16(
		_mm256_packs_epi32(not_below(eras[0], limit), not_below(eras[1], limit)),
		_mm256_packs_epi32(not_below(eras[2], limit), not_below(eras[3], limit)));
	return (uint32_t)_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(recent, order));
}

AVX2 static uint32_t filter_avx2(const uint8_t *values, size_t nr, uint32_t since, uint64_t *masks)
{
	const __m256i limit = _mm256_set1_epi32((int)since);
	__m256i latest = _mm256_setzero_si256();
	uint32_t lanes[LANES], last = 0;
	size_t i = 0;

	for (; nr - i >= DMS_ERA_GROUP; i += DMS_ERA_GROUP) {
		const uint8_t *at = values + i * DMS_ERA_BYTES;
		uint64_t low = filter_32(at, limit, &latest);
		uint64_t high = filter_32(at + 32 * DMS_ERA_BYTES, limit, &latest);

		masks[i / DMS_ERA_GROUP] = low | high << 32;
	}
	last = dms_era_filter_portable(values + i * DMS_ERA_BYTES, nr - i, since,
				       masks + i / DMS_ERA_GROUP);
	_mm256_storeu_si256((__m256i *)lanes, latest);
	for (i = 0; i < LANES; i++)
		last = lanes[i] > last ? lanes[i] : last;
	return last;
}
#endif

uint32_t dms_era_filter(const uint8_t *values, size_t nr, uint32_t since, uint64_t *masks)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return filter_avx2(values, nr, since, masks);
#endif
	return dms_era_filter_portable(values, nr, since, masks);
}
