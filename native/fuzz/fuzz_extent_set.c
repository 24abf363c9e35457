// SPDX-License-Identifier: Apache-2.0
/*
 * Two extent sets, each beside an array with a byte for every unit.
 * control: u32 shift of a unit's size, modulo MAX_SHIFT + 1; u32 odd: as far up as 64 bits allow;
 * u64 not used. Behind it operations of OPERATION_BYTES: u8 operation, u8 set, u16, u16.
 */
#include <dmsnap/extent_set.h>

#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"

#define UNITS 256
#define MAX_SHIFT 55
#define OPERATION_BYTES 6

/* No kinds: a string of operations, which libFuzzer mutates well enough. */
const struct fuzz_layout fuzz_layout = { .block_bytes = OPERATION_BYTES, .max_blocks = 64 };

struct world {
	struct dms_extent_set *sets[2];
	uint8_t units[2][UNITS];
	uint32_t shift;
	uint64_t base; /* of unit 0 */
};

static uint64_t bytes_of(const struct world *world, uint64_t units)
{
	return units << world->shift;
}

static void compare(const struct world *world, unsigned int which)
{
	const struct dms_extent *extents = dms_extent_set_extents(world->sets[which]);
	size_t count = dms_extent_set_count(world->sets[which]), next = 0;
	const uint8_t *units = world->units[which];

	fuzz_check_extents(world->sets[which], world->base + bytes_of(world, UNITS));
	for (uint64_t i = 0; i < UNITS;) {
		uint64_t start = i;

		while (i < UNITS && units[i] == units[start])
			i++;
		if (!units[start])
			continue;
		CHECK(next < count);
		CHECK(extents[next].offset_bytes == world->base + bytes_of(world, start));
		CHECK(extents[next].length_bytes == bytes_of(world, i - start));
		next++;
	}
	CHECK(next == count);
}

static void add(struct world *world, unsigned int which, uint64_t first, uint64_t nr)
{
	first %= UNITS;
	nr %= UNITS - first + 1;
	CHECK_OK(dms_extent_set_add(world->sets[which], world->base + bytes_of(world, first),
				    bytes_of(world, nr)));
	memset(world->units[which] + first, 1, nr);
}

static void align(struct world *world, unsigned int which, unsigned int shift)
{
	uint64_t granularity = 1ull << shift % 7;
	uint8_t *units = world->units[which];

	CHECK_OK(dms_extent_set_align(world->sets[which], bytes_of(world, granularity)));
	for (uint64_t i = 0; i < UNITS; i += granularity)
		if (memchr(units + i, 1, granularity))
			memset(units + i, 1, granularity);
}

static void clamp(struct world *world, unsigned int which, uint64_t end)
{
	end %= UNITS + 1;
	CHECK_OK(dms_extent_set_clamp(world->sets[which], world->base + bytes_of(world, end)));
	memset(world->units[which] + end, 0, UNITS - end);
}

static void merge(struct world *world, unsigned int which, unsigned int other)
{
	CHECK_OK(dms_extent_set_merge(world->sets[which], world->sets[other]));
	for (unsigned int i = 0; i < UNITS; i++)
		world->units[which][i] |= world->units[other][i];
}

static void subtract(struct world *world, unsigned int which, unsigned int other)
{
	CHECK_OK(dms_extent_set_subtract(world->sets[which], world->sets[other]));
	for (unsigned int i = 0; i < UNITS; i++)
		world->units[which][i] &= !world->units[other][i];
}

/* What must be refused, and must leave the set as it is. */
static void refuse(struct world *world, unsigned int which, uint64_t a, uint64_t b)
{
	CHECK_ERROR(dms_extent_set_add(world->sets[which], UINT64_MAX - a, a + b + 1),
		    DMS_ERR_INVALID_ARGUMENT);
	/* No power of two: an odd number above 1, or 0, shifted. */
	CHECK_ERROR(dms_extent_set_align(world->sets[which], b % 2 ? (2 * a + 3) << b % 40 : 0),
		    DMS_ERR_INVALID_ARGUMENT);
}

static void operate(struct world *world, const uint8_t *operation)
{
	unsigned int which = operation[1] & 1, other = operation[1] >> 1 & 1;
	uint64_t a = operation[2] | operation[3] << 8, b = operation[4] | operation[5] << 8;

	switch (operation[0] % 8) {
	case 0:
		align(world, which, (unsigned int)a);
		break;
	case 1:
		clamp(world, which, a);
		break;
	case 2:
		merge(world, which, other);
		break;
	case 3:
		subtract(world, which, other);
		break;
	case 4:
		compare(world, which);
		break;
	case 5:
		refuse(world, which, a, b);
		break;
	default:
		add(world, which, a, b % 16 ? b % 16 : b);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world world = { 0 };

	if (!fuzz_is_input(size))
		return 0;
	world.shift = get_le32(data) % (MAX_SHIFT + 1);
	if (data[4] & 1)
		world.base = 0 - 2 * bytes_of(&world, UNITS);
	for (int i = 0; i < 2; i++)
		CHECK_OK(dms_extent_set_create(&world.sets[i]));
	for (size_t at = FUZZ_CONTROL_BYTES; at + OPERATION_BYTES <= size; at += OPERATION_BYTES)
		operate(&world, data + at);
	for (unsigned int i = 0; i < 2; i++) {
		compare(&world, i);
		dms_extent_set_destroy(world.sets[i]);
	}
	return 0;
}
