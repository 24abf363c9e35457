/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an image says, read the slow and obvious way: by recursion, from memory, one structure at a
 * time. Only for what the reader has accepted: whatever then makes no sense here, was accepted
 * wrongly, and ends the program.
 */
#ifndef DMSNAP_FUZZ_NAIVE_H
#define DMSNAP_FUZZ_NAIVE_H

#include <stddef.h>
#include <stdint.h>

struct naive_image {
	const uint8_t *bytes;
	uint64_t nr_blocks;
};

typedef void (*naive_fn)(void *context, uint64_t key, const uint8_t *value);

void naive_btree(const struct naive_image *image, uint64_t root, uint32_t value_size, naive_fn fn,
		 void *context);
/* fn gets the indices as keys; returns how many entries the array has. */
uint64_t naive_array(const struct naive_image *image, uint64_t root, uint32_t value_size,
		     naive_fn fn, void *context);
/* Set bits[i] for every bit i that is set among the first nr_bits and below nr_bytes. */
void naive_bitset(const struct naive_image *image, uint64_t root, uint64_t nr_bits, uint8_t *bits,
		  uint64_t nr_bytes);

#endif
