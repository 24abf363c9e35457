// SPDX-License-Identifier: Apache-2.0
/*
 * Undo stores merged into one, which is then read without the core.
 * control: u32 how many stores the input is divided into, newest first; u32 sectors of the volume
 * before them; u32 bytes of room behind them; u32 sectors between them and the room. Each is used
 * modulo its limit. Stores and room begin at whole pages, as a label has them.
 */
#include <dmsnap/copy.h>
#include <dmsnap/exception_store.h>
#include <dmsnap/store_check.h>

#include "../src/exception_store_writer.h"
#include "../src/store_seal.h"
#include "../tests/image.h"
#include "../tests/test.h"
#include "fuzz.h"

#define SECTOR 512u
#define PAIR_BYTES 16u
#define MAX_STORES 4u
#define MAX_STORE_BYTES (FUZZ_MAX_BLOCKS * FUZZ_BLOCK_BYTES)
#define MAX_VOLUME_SECTORS 256u
#define MAX_ROOM (160u * 1024)
#define MAX_GAP_SECTORS 16u
#define MIN_CHUNK_BYTES (DMS_STORE_MIN_CHUNK_SECTORS * SECTOR)
#define MAX_CHUNKS (MAX_VOLUME_SECTORS * SECTOR / MIN_CHUNK_BYTES)
#define UNTOUCHED 0xa5
#define PAGE_BYTES 4096ull

static bool is_header(const uint8_t *block) { return get_le32(block) == DMS_STORE_MAGIC; }
static void seal_header(uint8_t *block) { put_le32(block, DMS_STORE_MAGIC); }
static bool is_pair(const uint8_t *block) { return !is_header(block); }
static void leave_pair(uint8_t *block) { (void)block; }

static const struct fuzz_kind header_kind = {
	.is_sealed = is_header,
	.seal = seal_header,
	.fields = { { 0, 4 }, { 4, 4 }, { 8, 4 }, { 12, 4 } },
};

static const struct fuzz_kind pair_kind = {
	.is_sealed = is_pair,
	.seal = leave_pair,
	.fields = { { 0, 8 }, { 8, 8 } },
};

const struct fuzz_layout fuzz_layout = {
	.block_bytes = PAIR_BYTES,
	.max_blocks = MAX_STORE_BYTES / PAIR_BYTES,
	.nr_kinds = 2,
	.kinds = { &pair_kind, &header_kind },
};

/* What lies behind the volume: stores, a gap, and the room. Only the stores differ. */
static uint8_t behind[PAGE_BYTES + MAX_STORE_BYTES + MAX_STORES * PAGE_BYTES +
		      MAX_GAP_SECTORS * SECTOR + PAGE_BYTES + MAX_ROOM];

struct question {
	int fd;
	uint64_t size_bytes;
	struct dms_store_region stores[MAX_STORES];
	size_t nr_stores;
	struct dms_merged_store merged;
};

static uint64_t page_up(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static void ask(struct question *question, const uint8_t *control, size_t size)
{
	uint64_t part, first, room = get_le32(control + 8) % MAX_ROOM;

	question->nr_stores = get_le32(control) % MAX_STORES + 1;
	question->size_bytes = (get_le32(control + 4) % MAX_VOLUME_SECTORS + 1ull) * SECTOR;
	part = size / question->nr_stores / SECTOR * SECTOR;
	first = page_up(question->size_bytes);
	for (size_t i = 0; i < question->nr_stores; i++)
		question->stores[i] =
			(struct dms_store_region){ first + i * page_up(part), part };
	question->merged.offset_bytes =
		page_up(first + question->nr_stores * page_up(part) +
			(uint64_t)(get_le32(control + 12) % MAX_GAP_SECTORS) * SECTOR);
	question->merged.length_bytes = room;
	memset(behind, UNTOUCHED, question->merged.offset_bytes + room - question->size_bytes);
	for (size_t i = 0; i < question->nr_stores; i++)
		memcpy(behind + question->stores[i].offset_bytes - question->size_bytes,
		       control + FUZZ_CONTROL_BYTES + i * part, part);
	question->fd = fuzz_medium(behind, question->merged.offset_bytes + room - question->size_bytes,
				   question->size_bytes, question->merged.offset_bytes + room);
}

/* The content of each chunk of the volume that a store has; a later store's takes its place. */
static void show(const struct question *question, uint64_t chunk_bytes, const uint8_t **chunks)
{
	uint64_t nr_chunks = (question->size_bytes + chunk_bytes - 1) / chunk_bytes;

	for (size_t i = 0; i < question->nr_stores; i++) {
		const uint8_t *store = behind + question->stores[i].offset_bytes - question->size_bytes;
		uint64_t larger = get_le32(store + 12) * (uint64_t)SECTOR;
		uint64_t per_area = larger / PAIR_BYTES;

		for (uint64_t nr = 0;; nr++) {
			uint64_t area = 1 + nr / per_area * (per_area + 1);
			const uint8_t *pair = store + area * larger + nr % per_area * PAIR_BYTES;
			uint64_t first = get_le64(pair) * (larger / chunk_bytes);

			if (!get_le64(pair + 8))
				break;
			for (uint64_t j = 0; j < larger / chunk_bytes && first + j < nr_chunks; j++)
				chunks[first + j] =
					store + get_le64(pair + 8) * larger + j * chunk_bytes;
		}
	}
}

static void check_all(const uint8_t *bytes, const uint8_t *end, uint8_t value)
{
	CHECK(bytes <= end);
	CHECK(bytes == end ||
	      (*bytes == value && !memcmp(bytes, bytes + 1, (size_t)(end - bytes) - 1)));
}

/* The merged store, as dm-snapshot goes through it, has these chunks in their order and no more. */
static void check_store(const struct dms_merged_store *merged, const uint8_t *store,
			const uint8_t *const *chunks)
{
	uint64_t chunk_bytes = merged->chunk_size * (uint64_t)SECTOR, nr = 0, per_area, area = 1;

	per_area = chunk_bytes / PAIR_BYTES;
	CHECK(get_le32(store) == DMS_STORE_MAGIC && get_le32(store + 4) == 1);
	CHECK(get_le32(store + 8) == 1 && get_le32(store + 12) == merged->chunk_size);
	check_all(store + 16, store + DMS_STORE_SEAL_OFFSET_BYTES, 0);
	check_all(store + DMS_STORE_SEAL_OFFSET_BYTES + DMS_STORE_SEAL_BYTES, store + chunk_bytes,
		  0);
	/* The volume is too small for a second area. */
	CHECK(MAX_CHUNKS < per_area);
	for (uint64_t chunk = 0; chunk < MAX_CHUNKS; chunk++) {
		const uint8_t *pair = store + area * chunk_bytes + nr * PAIR_BYTES;

		if (!chunks[chunk])
			continue;
		CHECK(get_le64(pair) == chunk && get_le64(pair + 8) == area + 1 + nr);
		CHECK(!memcmp(store + (area + 1 + nr) * chunk_bytes, chunks[chunk], chunk_bytes));
		nr++;
	}
	check_all(store + area * chunk_bytes + nr * PAIR_BYTES, store + (area + 1) * chunk_bytes, 0);
	CHECK(merged->nr_exceptions == nr);
	CHECK(merged->used_bytes == (nr + 2) * chunk_bytes);
}

static void check_merged(const struct question *question)
{
	const uint8_t *chunks[MAX_CHUNKS] = { NULL };
	const struct dms_merged_store *merged = &question->merged;
	const uint8_t *store = fuzz_medium_bytes() + merged->offset_bytes;
	bool sealed;

	CHECK(merged->chunk_size >= DMS_STORE_MIN_CHUNK_SECTORS);
	show(question, merged->chunk_size * (uint64_t)SECTOR, chunks);
	check_store(merged, store, chunks);
	CHECK_OK(dms_exception_store_check(question->fd, merged->offset_bytes,
					   merged->length_bytes, true, NULL, &sealed));
	CHECK(sealed);
	check_all(store + merged->used_bytes, store + merged->length_bytes, UNTOUCHED);
}

/* Whether a store has something where its seal would be: the input's bytes are hardly ever one. */
static bool has_seal(const struct question *question)
{
	for (size_t i = 0; i < question->nr_stores; i++) {
		const uint8_t *bytes = behind + question->stores[i].offset_bytes -
				       question->size_bytes + DMS_STORE_SEAL_OFFSET_BYTES;

		for (size_t j = 0; j < DMS_STORE_SEAL_BYTES; j++)
			if (bytes[j])
				return true;
	}
	return false;
}

/* The volume and what was merged are as they were, whatever came of it. */
static void check_rest(const struct question *question)
{
	const uint8_t *medium = fuzz_medium_bytes();

	check_all(medium, medium + question->size_bytes, 0);
	CHECK(!memcmp(medium + question->size_bytes, behind,
		      question->merged.offset_bytes - question->size_bytes));
}

static void merge(struct question *question)
{
	struct dms_merged_store measured = { 0 }, *merged = &question->merged;
	struct dms_copy_stats stats;
	struct dms_error *refusal, *error;

	refusal = dms_store_merge_measure(question->fd, question->size_bytes, question->stores,
					  question->nr_stores, &measured);
	error = dms_store_merge(question->fd, question->size_bytes, question->stores,
				question->nr_stores, NULL, merged, &stats);
	check_rest(question);
	if (refusal) {
		CHECK(error && error->code == refusal->code);
		fuzz_refused(refusal);
		fuzz_refused(error);
	} else {
		CHECK(measured.used_bytes == merged->used_bytes);
		CHECK(measured.nr_exceptions == merged->nr_exceptions);
		CHECK(measured.chunk_size == merged->chunk_size);
		CHECK(error || merged->used_bytes <= merged->length_bytes);
		if (!error) {
			check_merged(question);
			return;
		}
		if (merged->used_bytes > merged->length_bytes) {
			CHECK_ERROR(error, DMS_ERR_STORE_FULL);
		} else {
			CHECK(has_seal(question));
			fuzz_refused(error);
		}
	}
	check_all(fuzz_medium_bytes() + merged->offset_bytes,
		  fuzz_medium_bytes() + merged->offset_bytes + merged->length_bytes, UNTOUCHED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct question question = { 0 };

	if (!fuzz_is_input(size))
		return 0;
	ask(&question, data, size - FUZZ_CONTROL_BYTES);
	merge(&question);
	return 0;
}
