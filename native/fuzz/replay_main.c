// SPDX-License-Identifier: Apache-2.0
/*
 * replay_NAME DIRECTORY ROUNDS: a harness without libFuzzer, so with any compiler. Every file of
 * the directory, then each ROUNDS times mutated, the same in every run.
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

/* In memory that ends where the input does. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	CHECK(copy);
	if (size)
		memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static void replay(const char *path, unsigned int rounds)
{
	uint8_t *data = malloc(FUZZ_MAX_BYTES), *mutated = malloc(FUZZ_MAX_BYTES);
	FILE *file = fopen(path, "rb");
	size_t size;

	CHECK(data && mutated && file);
	size = fread(data, 1, FUZZ_MAX_BYTES, file);
	fclose(file);
	run(data, size);
	for (unsigned int round = 0; round < rounds; round++) {
		memcpy(mutated, data, size);
		run(mutated, LLVMFuzzerCustomMutator(mutated, size, FUZZ_MAX_BYTES, round));
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
	return 0;
}
