/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the harnesses share. An input is FUZZ_CONTROL_BYTES that say what is asked, and behind them
 * what lies on the medium; `tail -c +17` makes an image of it. A harness is fuzz_NAME.c with a
 * fuzz_layout and LLVMFuzzerTestOneInput(), which may trust nothing in the input, and must CHECK
 * what comes back: a wrong answer is as much a finding as a crash.
 */
#ifndef DMSNAP_FUZZ_FUZZ_H
#define DMSNAP_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

#define FUZZ_CONTROL_BYTES 16
#define FUZZ_MAX_BLOCKS 16
#define FUZZ_BLOCK_BYTES 4096
#define FUZZ_MAX_BYTES (FUZZ_CONTROL_BYTES + FUZZ_MAX_BLOCKS * FUZZ_BLOCK_BYTES)

/* A number in a block that is worth changing. */
struct fuzz_field {
	uint32_t at;
	uint32_t size; /* 4 or 8 */
};

#define FUZZ_MAX_FIELDS 32

/* A kind of block that the mutator knows: it puts the checksum right again. */
struct fuzz_kind {
	bool (*is_sealed)(const uint8_t *block);
	void (*seal)(uint8_t *block);
	uint32_t blocknr_at; /* of the block's own number, 64 bits; 0: it has none */
	struct fuzz_field fields[FUZZ_MAX_FIELDS]; /* ends with a size of 0 */
};

/* What the mutator takes an input for. Without kinds it is a string of bytes. */
struct fuzz_layout {
	uint32_t block_bytes;
	uint32_t max_blocks; /* a larger input is slower, and reaches nothing more */
	uint32_t nr_kinds;
	const struct fuzz_kind *kinds[4];
};

extern const struct fuzz_layout fuzz_layout;

/* Whether the input is one at all: it has its control, and is no larger than it may be. */
bool fuzz_is_input(size_t size);

/* persistent_data_kinds.c */
extern const struct fuzz_kind fuzz_node_kind, fuzz_array_kind, fuzz_era_superblock_kind;

#define FUZZ_MAX_MEDIUM_BYTES (4u << 20)

/*
 * A memory file of size bytes, zeroes but for data at offset; what is beyond its end is left out.
 * It is always the same one: valid until the next call, not to be closed, and what a harness
 * writes to it itself must lie where data did.
 */
int fuzz_medium(const uint8_t *data, size_t data_size, size_t offset, size_t size);
/* What lies on it now. */
const uint8_t *fuzz_medium_bytes(void);

/* buffers.c, linked where there is libFuzzer: every large buffer has been given back. */
void fuzz_check_buffers(void) __attribute__((weak));

/*
 * Destroy an error that the medium's bytes are the reason for. Any other would say that the reader
 * was called wrongly, or asked for more memory than there is.
 */
void fuzz_refused(struct dms_error *error);
/* How often one of them was a wrong checksum: behind it the input was not looked at. */
extern uint64_t fuzz_nr_wrong_checksums;
/* Ascending, not touching, not empty, and ending by end_bytes. */
void fuzz_check_extents(const struct dms_extent_set *set, uint64_t end_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *first, size_t first_size, const uint8_t *second,
				 size_t second_size, uint8_t *out, size_t max_size,
				 unsigned int seed);
/* libFuzzer's own mutations of size bytes; replay_main.c has a stand-in. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#endif
