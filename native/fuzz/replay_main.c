// SPDX-License-Identifier: Apache-2.0
/*
 * replay_NAME DIRECTORY ROUNDS: a harness without libFuzzer, so with any compiler. Every file of
 * the directory, then each ROUNDS times mutated, the same in every run. A mutator whose seals are
 * wrong would attack nothing but the check of the checksum: that is found here.
 */
#include <dirent.h>

#include "../tests/test.h"
#include "fuzz.h"

static struct random stand_in = { 20261122 };

/* libFuzzer's mutations know what the harness compared; these flip bits. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
	if (size < max_size && next_random(&stand_in) % 8 == 0)
		data[size++] = (uint8_t)next_random(&stand_in);
	if (size)
		data[next_random(&stand_in) % size] ^= (uint8_t)(1 << next_random(&stand_in) % 8);
	return size;
}

/* At most so many percent of the mutations may fail by a checksum that was right before. */
#define MAX_WRONG_PERCENT 10

static struct {
	uint64_t nr_mutated, nr_wrong;
	bool seen[4]; /* of each kind, whether an input has a block that it knows */
} tally;

/* A block that a kind knows is changed where no reader looks first, and sealed: it knows it again. */
static bool is_resealed(const struct fuzz_kind *kind, const uint8_t *block)
{
	uint8_t copy[FUZZ_BLOCK_BYTES];

	if (!kind->is_sealed(block))
		return false;
	memcpy(copy, block, fuzz_layout.block_bytes);
	copy[fuzz_layout.block_bytes - 1] ^= 1;
	kind->seal(copy);
	CHECK(kind->is_sealed(copy));
	return true;
}

static void look_for_kinds(const uint8_t *data, size_t size)
{
	for (uint32_t kind = 0; kind < fuzz_layout.nr_kinds; kind++)
		for (size_t at = FUZZ_CONTROL_BYTES; at + fuzz_layout.block_bytes <= size;
		     at += fuzz_layout.block_bytes)
			tally.seen[kind] |= is_resealed(fuzz_layout.kinds[kind], data + at);
}

static void check_seals(void)
{
	for (uint32_t kind = 0; kind < fuzz_layout.nr_kinds; kind++)
		CHECK(tally.seen[kind]);
	if (tally.nr_wrong * 100 > tally.nr_mutated * MAX_WRONG_PERCENT) {
		fprintf(stderr, "%" PRIu64 " of %" PRIu64 " mutations have a wrong checksum\n",
			tally.nr_wrong, tally.nr_mutated);
		exit(1);
	}
}

/* In memory that ends where the input does; returns how many checksums were wrong. */
static uint64_t run(const uint8_t *data, size_t size)
{
	uint64_t before = fuzz_nr_wrong_checksums;
	uint8_t *copy = malloc(size ? size : 1);

	CHECK(copy);
	if (size)
		memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
	return fuzz_nr_wrong_checksums - before;
}

static void replay(const char *path, unsigned int rounds)
{
	uint8_t *data = malloc(FUZZ_MAX_BYTES), *mutated = malloc(FUZZ_MAX_BYTES);
	FILE *file = fopen(path, "rb");
	uint64_t wrong;
	size_t size;

	CHECK(data && mutated && file);
	size = fread(data, 1, FUZZ_MAX_BYTES, file);
	fclose(file);
	look_for_kinds(data, size);
	wrong = run(data, size);
	for (unsigned int round = 0; round < rounds; round++) {
		memcpy(mutated, data, size);
		tally.nr_wrong += run(mutated, LLVMFuzzerCustomMutator(mutated, size, FUZZ_MAX_BYTES,
								       round)) > wrong;
		tally.nr_mutated++;
	}
	free(data);
	free(mutated);
}

int main(int argc, char **argv)
{
	const struct dirent *entry;
	unsigned int nr_files = 0;
	char path[4096];
	DIR *directory;

	CHECK(argc == 3);
	directory = opendir(argv[1]);
	CHECK(directory);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
		replay(path, (unsigned int)strtoul(argv[2], NULL, 10));
		nr_files++;
	}
	closedir(directory);
	CHECK(nr_files);
	check_seals();
	return 0;
}
