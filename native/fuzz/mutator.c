// SPDX-License-Identifier: Apache-2.0
/*
 * Mutations that get past checksums: a block is changed where it hurts, then sealed again as what
 * it was, its own number put right if it moved. Now and then it is left broken, so that the checks
 * of checksum and number are met, too.
 */
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"

/* How much libFuzzer's own mutations get to see of a block at a time. */
#define WINDOW_BYTES 64

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t max_bytes(void)
{
	return FUZZ_CONTROL_BYTES + (size_t)fuzz_layout.max_blocks * fuzz_layout.block_bytes;
}

/* An input as the mutator sees it. */
struct subject {
	uint8_t *data;
	size_t size;
	size_t max_size;
	struct random random;
};

static uint64_t below(struct subject *subject, uint64_t limit)
{
	return next_random(&subject->random) % limit;
}

static bool one_in(struct subject *subject, uint64_t odds)
{
	return !below(subject, odds);
}

static size_t nr_blocks(const struct subject *subject)
{
	return (subject->size - FUZZ_CONTROL_BYTES) / fuzz_layout.block_bytes;
}

static uint8_t *block_at(const struct subject *subject, size_t index)
{
	return subject->data + FUZZ_CONTROL_BYTES + index * fuzz_layout.block_bytes;
}

static const struct fuzz_kind *kind_of(const uint8_t *block)
{
	for (uint32_t i = 0; i < fuzz_layout.nr_kinds; i++)
		if (fuzz_layout.kinds[i]->is_sealed(block))
			return fuzz_layout.kinds[i];
	return NULL;
}

static const struct fuzz_kind *any_kind(struct subject *subject)
{
	return fuzz_layout.kinds[below(subject, fuzz_layout.nr_kinds)];
}

static void repair(struct subject *subject, size_t index, const struct fuzz_kind *kind)
{
	uint8_t *block = block_at(subject, index);

	if (!kind || one_in(subject, 64))
		kind = any_kind(subject);
	if (one_in(subject, 32))
		return;
	if (kind->blocknr_at && !one_in(subject, 32))
		put_le64(block + kind->blocknr_at, index);
	kind->seal(block);
}

/* What counts, sizes, eras and block numbers are most surprised by. */
static uint64_t surprising(struct subject *subject, uint64_t old)
{
	static const uint64_t values[] = {
		0, 1, 2, 3, 63, 64, 65, 1017, 1018, 1019, 0x7fffffff, 0x80000000, UINT32_MAX,
		INT64_MAX, 1ull << 63, UINT64_MAX,
	};

	switch (below(subject, 7)) {
	case 0:
		return values[below(subject, sizeof(values) / sizeof(values[0]))];
	case 1:
		return old + 1;
	case 2:
		return old - 1;
	case 3:
		return old ^ 1ull << below(subject, 64);
	case 4:
		return next_random(&subject->random) >> below(subject, 64);
	case 5:
		/* What is a multiple of a block, and wraps when something is added to it. */
		return old - FUZZ_BLOCK_BYTES * (1 + below(subject, 1024));
	default:
		return below(subject, nr_blocks(subject) + 2);
	}
}

static void change_number(struct subject *subject, uint8_t *at, uint32_t size)
{
	if (size == 4)
		put_le32(at, (uint32_t)surprising(subject, get_le32(at)));
	else
		put_le64(at, surprising(subject, get_le64(at)));
}

static void change_field(struct subject *subject, uint8_t *block, const struct fuzz_kind *kind)
{
	uint32_t nr = 0;
	struct fuzz_field field;

	while (nr < FUZZ_MAX_FIELDS && kind->fields[nr].size)
		nr++;
	field = kind->fields[below(subject, nr)];
	change_number(subject, block + field.at, field.size);
}

/* Any word of the block, preferably one that is in use. */
static void change_word(struct subject *subject, uint8_t *block)
{
	uint32_t size = one_in(subject, 2) ? 4 : 8, at = 0;

	for (unsigned int tries = 0; tries < 8; tries++) {
		at = (uint32_t)below(subject, fuzz_layout.block_bytes / size) * size;
		if (get_le32(block + at))
			break;
	}
	change_number(subject, block + at, size);
}

static void change_bytes(struct subject *subject, uint8_t *block)
{
	size_t room = fuzz_layout.block_bytes, window = smaller(room, WINDOW_BYTES);
	size_t at = one_in(subject, 2) ? 0 : below(subject, room - window + 1);
	size_t done = LLVMFuzzerMutate(block + at, window, window);

	if (done < window)
		memset(block + at + done, 0, window - done);
}

static void change_block(struct subject *subject)
{
	size_t index = below(subject, nr_blocks(subject));
	uint8_t *block = block_at(subject, index);
	const struct fuzz_kind *kind = kind_of(block), *as = kind ? kind : any_kind(subject);

	do {
		switch (below(subject, 4)) {
		case 0:
			change_bytes(subject, block);
			break;
		case 1:
			change_word(subject, block);
			break;
		default:
			change_field(subject, block, as);
		}
	} while (one_in(subject, 3));
	repair(subject, index, kind);
}

/* Over another block, or behind the last one. */
static void copy_block(struct subject *subject)
{
	size_t nr = nr_blocks(subject), from = below(subject, nr), to = below(subject, nr + 1);
	const struct fuzz_kind *kind = kind_of(block_at(subject, from));

	if (to == nr) {
		if (subject->size + fuzz_layout.block_bytes > subject->max_size)
			to = from;
		else
			subject->size += fuzz_layout.block_bytes;
	}
	memmove(block_at(subject, to), block_at(subject, from), fuzz_layout.block_bytes);
	repair(subject, to, kind);
}

static void swap_blocks(struct subject *subject)
{
	uint8_t copy[FUZZ_BLOCK_BYTES];
	size_t nr = nr_blocks(subject), a = below(subject, nr), b = below(subject, nr);
	const struct fuzz_kind *kind_a = kind_of(block_at(subject, a));
	const struct fuzz_kind *kind_b = kind_of(block_at(subject, b));

	memcpy(copy, block_at(subject, a), fuzz_layout.block_bytes);
	memmove(block_at(subject, a), block_at(subject, b), fuzz_layout.block_bytes);
	memcpy(block_at(subject, b), copy, fuzz_layout.block_bytes);
	repair(subject, a, kind_b);
	repair(subject, b, kind_a);
}

/* The medium ends early, at a block or inside one. */
static void cut(struct subject *subject)
{
	size_t medium = subject->size - FUZZ_CONTROL_BYTES;

	if (one_in(subject, 4))
		subject->size = FUZZ_CONTROL_BYTES + below(subject, medium);
	else
		subject->size -= fuzz_layout.block_bytes;
}

static void change_control(struct subject *subject)
{
	uint32_t size = one_in(subject, 2) ? 4 : 8;

	change_number(subject, subject->data + below(subject, FUZZ_CONTROL_BYTES / size) * size,
		      size);
}

static void mutate_once(struct subject *subject)
{
	uint64_t choice = below(subject, 64);

	if (choice < 4 || !nr_blocks(subject))
		change_control(subject);
	else if (choice < 6)
		copy_block(subject);
	else if (choice < 7)
		swap_blocks(subject);
	else if (choice < 8)
		cut(subject);
	else
		change_block(subject);
}

bool fuzz_is_input(size_t size)
{
	return size >= FUZZ_CONTROL_BYTES && size <= max_bytes();
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	struct subject subject = { data, size, smaller(max_size, max_bytes()), { seed * 2ull + 1 } };

	if (subject.size > subject.max_size)
		subject.size = subject.max_size;
	if (!fuzz_layout.nr_kinds || max_size < FUZZ_CONTROL_BYTES)
		return LLVMFuzzerMutate(data, subject.size, subject.max_size);
	if (subject.size < FUZZ_CONTROL_BYTES) {
		memset(data + subject.size, 0, FUZZ_CONTROL_BYTES - subject.size);
		subject.size = FUZZ_CONTROL_BYTES;
	}
	for (int i = 0; i < 4; i++)
		next_random(&subject.random);
	do {
		mutate_once(&subject);
	} while (one_in(&subject, 3));
	return subject.size;
}

/* The beginning of the first input, the end of the second. */
static size_t splice(struct subject *subject, const uint8_t *second, size_t second_size)
{
	size_t at = below(subject, subject->size + 1);

	if (second_size <= at)
		return subject->size;
	second_size = smaller(second_size, subject->max_size);
	memcpy(subject->data + at, second + at, second_size - at);
	return second_size;
}

/* The first input, with a block of the second in the place of one of its own. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *first, size_t first_size, const uint8_t *second,
				 size_t second_size, uint8_t *out, size_t max_size,
				 unsigned int seed)
{
	struct subject subject = { out, first_size, max_size, { seed * 2ull + 1 } };
	struct subject other = { (uint8_t *)second, second_size, 0, { 1 } };
	const struct fuzz_kind *kind;
	size_t from, to;

	if (first_size > max_size)
		return 0;
	memcpy(out, first, first_size);
	if (!fuzz_layout.nr_kinds)
		return splice(&subject, second, second_size);
	if (first_size < FUZZ_CONTROL_BYTES + fuzz_layout.block_bytes ||
	    second_size < FUZZ_CONTROL_BYTES + fuzz_layout.block_bytes)
		return first_size;
	from = below(&subject, nr_blocks(&other));
	to = below(&subject, nr_blocks(&subject));
	kind = kind_of(block_at(&other, from));
	memcpy(block_at(&subject, to), block_at(&other, from), fuzz_layout.block_bytes);
	repair(&subject, to, kind);
	return subject.size;
}
