// SPDX-License-Identifier: Apache-2.0
/* Seals of exception stores: whatever is changed behind the writer's back is found. */
#define _GNU_SOURCE 1

#include <dmsnap/store_check.h>

#include "../src/exception_store_writer.h"
#include "../src/store_seal.h"
#include "engine_test.h"

#define OFFSET 12288u
#define VOLUME_BYTES (64u << 20)

#define CHECK_ERROR_SAYS(expression, wanted, part)                                       \
	do {                                                                             \
		struct dms_error *error_ = (expression);                                 \
		CHECK(error_ && error_->code == (wanted));                               \
		CHECK(strstr(error_->message, part));                                    \
		dms_error_destroy(error_);                                               \
	} while (0)

ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	return fault_inject(kind, fd, offset_bytes, length_bytes);
}

struct store {
	int fd;
	uint64_t offset_bytes;
	uint64_t length_bytes;
	uint64_t used_bytes;
	uint32_t chunk_bytes;
	uint64_t count;
};

/* Of every third chunk of the origin. */
static void write_at(struct store *store, uint64_t seed)
{
	struct dms_exception_store_writer *writer;
	char *chunk = malloc(store->chunk_bytes);
	uint64_t i, count;

	CHECK_OK(dms_exception_store_writer_create(store->fd, store->offset_bytes,
						   store->length_bytes, store->chunk_bytes / 512,
						   &writer));
	for (i = 0; i < store->count; i++) {
		fill_random(chunk, store->chunk_bytes, seed + i);
		CHECK_OK(dms_exception_store_writer_append(writer, i * 3 + 1, chunk));
	}
	CHECK_OK(dms_exception_store_writer_finish(writer, &count, &store->used_bytes));
	dms_exception_store_writer_destroy(writer);
	free(chunk);
}

static struct store written(uint32_t chunk_bytes, uint64_t count)
{
	struct store store = {
		.offset_bytes = OFFSET,
		.length_bytes = dms_exception_store_size(count, chunk_bytes / 512),
		.chunk_bytes = chunk_bytes,
		.count = count,
	};

	store.fd = scratch_file(OFFSET + store.length_bytes, 0x5a, 0);
	write_at(&store, 0);
	return store;
}

static struct dms_error *check(const struct store *store, bool data, bool *sealed)
{
	return dms_exception_store_check(store->fd, store->offset_bytes, store->length_bytes, data,
					 NULL, sealed);
}

static void flip(const struct store *store, uint64_t at, uint8_t bits)
{
	uint8_t byte;

	CHECK(pread(store->fd, &byte, 1, (off_t)(store->offset_bytes + at)) == 1);
	byte ^= bits;
	CHECK(pwrite(store->fd, &byte, 1, (off_t)(store->offset_bytes + at)) == 1);
}

static void check_whole(const struct store *store)
{
	bool sealed = false;

	CHECK_OK(check(store, false, &sealed));
	CHECK(sealed);
	CHECK_OK(check(store, true, &sealed));
	CHECK(sealed);
}

static uint64_t area_of(const struct store *store, uint64_t index)
{
	uint64_t pairs = store->chunk_bytes / 16;

	return (1 + index / pairs * (pairs + 1)) * store->chunk_bytes + index % pairs * 16;
}

static uint64_t data_of(const struct store *store, uint64_t index)
{
	return dms_store_data_chunk(index, store->chunk_bytes) * store->chunk_bytes;
}

/* Nothing but reading the data finds this. */
static void check_data_damage(const struct store *store, uint64_t at)
{
	bool sealed;

	flip(store, at, 0x10);
	CHECK_OK(check(store, false, &sealed));
	CHECK_ERROR_SAYS(check(store, true, &sealed), DMS_ERR_CHECKSUM,
		      "exception store: its data are not what was written");
	flip(store, at, 0x10);
	check_whole(store);
}

/* A chunk that lies elsewhere on the origin makes as good a store as any. */
static void check_pair_damage(const struct store *store, uint64_t index)
{
	bool sealed;

	flip(store, area_of(store, index) + 3, 1);
	CHECK_ERROR_SAYS(check(store, false, &sealed), DMS_ERR_CHECKSUM,
		      "exception store: its pairs are not what was written");
	flip(store, area_of(store, index) + 3, 1);
	check_whole(store);
}

static void test_damage(uint32_t chunk_bytes, uint64_t count)
{
	struct store store = written(chunk_bytes, count);

	check_whole(&store);
	for (uint64_t i = 0; i < count; i += count / 3 + 1) {
		check_data_damage(&store, data_of(&store, i) + chunk_bytes - 1);
		check_pair_damage(&store, i);
	}
	if (count) {
		check_data_damage(&store, data_of(&store, count - 1));
		check_pair_damage(&store, count - 1);
	}
	close(store.fd);
}

/* The last pair taken away is a store, of one exception less. */
static void test_shortened(void)
{
	struct store store = written(4096, 300);
	uint8_t nothing[16] = { 0 };
	bool sealed;

	CHECK(pwrite(store.fd, nothing, 16, (off_t)(OFFSET + area_of(&store, 299))) == 16);
	CHECK_ERROR_SAYS(check(&store, false, &sealed), DMS_ERR_CHECKSUM,
		      "exception store: it has 299 exceptions, 300 were written");
	close(store.fd);
}

static void test_every_byte_of_the_seal(void)
{
	struct store store = written(4096, 3);
	bool sealed;

	for (uint64_t i = 0; i < DMS_STORE_SEAL_BYTES; i++) {
		flip(&store, DMS_STORE_SEAL_OFFSET_BYTES + i, 0x40);
		CHECK_ERROR(check(&store, false, &sealed), DMS_ERR_CHECKSUM);
		flip(&store, DMS_STORE_SEAL_OFFSET_BYTES + i, 0x40);
	}
	check_whole(&store);
	close(store.fd);
}

/* As the kernel writes a header, and as earlier versions did. */
static void test_without_a_seal(void)
{
	struct store store = written(4096, 3);
	uint8_t nothing[DMS_STORE_SEAL_BYTES] = { 0 };
	bool sealed = true;

	CHECK(pwrite(store.fd, nothing, sizeof(nothing),
		     OFFSET + DMS_STORE_SEAL_OFFSET_BYTES) == sizeof(nothing));
	flip(&store, data_of(&store, 1), 1);
	CHECK_OK(check(&store, true, &sealed));
	CHECK(!sealed);
	flip(&store, 4, 1);
	CHECK_ERROR(check(&store, false, &sealed), DMS_ERR_STORE_INVALID);
	close(store.fd);
}

/* Two stores behind a volume of zeroes, newest first, and room for what they make. */
static int two_stores(struct dms_store_region *regions, struct dms_merged_store *merged)
{
	uint64_t bytes = dms_exception_store_size(300, 8);
	int fd = scratch_file(VOLUME_BYTES + 4 * bytes, 0, 0);

	for (uint64_t i = 0; i < 2; i++) {
		struct store store = {
			.fd = fd,
			.offset_bytes = VOLUME_BYTES + i * bytes,
			.length_bytes = bytes,
			.chunk_bytes = 4096,
			.count = 300 - 50 * i,
		};

		write_at(&store, 1000 * i);
		regions[i] = (struct dms_store_region){ store.offset_bytes, bytes };
	}
	*merged = (struct dms_merged_store){ .offset_bytes = VOLUME_BYTES + 2 * bytes,
					     .length_bytes = 2 * bytes };
	return fd;
}

static void test_what_is_merged_is_checked_and_sealed(void)
{
	struct dms_store_region regions[2];
	struct dms_merged_store merged;
	struct dms_copy_stats stats;
	int fd = two_stores(regions, &merged);
	struct store store = { .fd = fd, .offset_bytes = merged.offset_bytes, .chunk_bytes = 4096,
			       .length_bytes = merged.length_bytes, .count = 300 };
	struct store second = { .fd = fd, .offset_bytes = regions[1].offset_bytes,
				.chunk_bytes = 4096, .length_bytes = regions[1].length_bytes };
	bool sealed;

	CHECK_OK(dms_store_merge(fd, VOLUME_BYTES, regions, 2, NULL, &merged, &stats));
	CHECK(merged.nr_exceptions == 300);
	check_whole(&store);
	check_data_damage(&store, data_of(&store, 299));

	flip(&second, data_of(&second, 249), 2);
	merged.length_bytes = store.length_bytes;
	CHECK_ERROR_SAYS(dms_store_merge(fd, VOLUME_BYTES, regions, 2, NULL, &merged, &stats),
		      DMS_ERR_CHECKSUM, "exception store: its data are not what was written");
	/* The room was not even begun with. */
	CHECK_OK(check(&store, true, &sealed));
	close(fd);
}

int main(void)
{
	static const uint32_t chunks[] = { 4096, 16384, 1 << 20 };

	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
		test_damage(chunks[i], 0);
		test_damage(chunks[i], 1);
		test_damage(chunks[i], 5);
	}
	test_damage(4096, 256);
	test_damage(4096, 1000);
	test_shortened();
	test_every_byte_of_the_seal();
	test_without_a_seal();
	test_what_is_merged_is_checked_and_sealed();
	return 0;
}
