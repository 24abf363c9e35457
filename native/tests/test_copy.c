// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include "../src/zero.h"
#include "copy_sides.h"

DEFINE_FAULTS;

/* More than there is anywhere: no memory for it, which the sanitizers are to let pass. */
#define TOO_MUCH (1ull << 50)

const char *__asan_default_options(void);
const char *__tsan_default_options(void);

const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void)
{
	return "allocator_may_return_null=1";
}

/* The slow and obvious comparison. */
static void check_different(const struct sides *sides, const struct dms_extent_set *different,
			    uint64_t size)
{
	const struct dms_extent *extents = dms_extent_set_extents(different);
	size_t extent = 0;
	uint64_t page;

	for (page = 0; page < size; page += 4096) {
		uint64_t length = size - page < 4096 ? size - page : 4096;
		bool differs = memcmp(sides->new + page, sides->old + page, length) != 0;
		bool listed;

		while (extent < dms_extent_set_count(different) &&
		       extents[extent].offset_bytes + extents[extent].length_bytes <= page)
			extent++;
		listed = extent < dms_extent_set_count(different) &&
			 extents[extent].offset_bytes <= page;
		CHECK(listed == differs);
		CHECK(!listed || extents[extent].offset_bytes + extents[extent].length_bytes <=
					 size);
	}
}

/* Compare with undo, apply, roll back: the way of every sync, and back. */
static void test_round_trip(uint64_t size, unsigned int pages_changed, uint32_t chunk_size)
{
	uint64_t chunk_bytes = chunk_size * 512ull;
	uint64_t chunks = (size + chunk_bytes - 1) / chunk_bytes;
	uint64_t region = dms_exception_store_size(chunks, chunk_size), applied;
	struct dms_undo_store undo = { .fd = scratch_file(region + 4096, 0x5a, direct),
				       .offset_bytes = 4096, .length_bytes = region,
				       .chunk_size = chunk_size };
	struct dms_extent_set *all = whole(size), *different;
	struct dms_copy_stats stats;
	struct sides sides;
	int round;

	sides_open(&sides, size, pages_changed, size + pages_changed);
	CHECK_OK(dms_copy_compare(sides.source, sides.destination, size, all, &options, &undo,
				  &stats, &different));
	check_different(&sides, different, size);
	check_content(sides.destination, sides.old, size);
	CHECK(stats.bytes_compared == size);
	CHECK(stats.bytes_different == dms_extent_set_bytes(different));
	CHECK(stats.bytes_written == 0 && stats.bytes_zero == 0);
	CHECK(undo.used_bytes == dms_exception_store_size(undo.nr_exceptions, chunk_size));

	CHECK_OK(dms_copy_apply(sides.source, sides.destination, size, different, false, &options,
				&stats));
	applied = dms_extent_set_bytes(different);
	CHECK(stats.bytes_written == applied);
	check_content(sides.destination, sides.new, size);
	for (round = 0; round < 2; round++) { /* idempotent */
		CHECK_OK(dms_copy_roll_back(undo.fd, undo.offset_bytes, undo.length_bytes,
					    sides.destination, size, &options, &stats));
		CHECK(stats.bytes_written >= applied);
		check_content(sides.destination, sides.old, size);
	}
	dms_extent_set_destroy(different);
	dms_extent_set_destroy(all);
	sides_close(&sides);
	close(undo.fd);
}

/* Only what was asked for is compared and copied, grown to pages. */
static void test_extents(void)
{
	struct dms_extent_set *some, *different;
	struct dms_copy_stats stats;
	struct sides sides;

	sides_open(&sides, VOLUME, 0, 7);
	memset(sides.new, 1, VOLUME);
	put(sides.source, 0, sides.new, VOLUME);
	CHECK_OK(dms_extent_set_create(&some));
	CHECK_OK(dms_extent_set_add(some, 5000, 10));
	CHECK_OK(dms_extent_set_add(some, 1 << 20, 65536));
	CHECK_OK(dms_extent_set_add(some, VOLUME - 1, 1 << 20));
	CHECK_OK(dms_extent_set_add(some, UINT64_MAX - 10000, 10000));
	CHECK_OK(dms_copy_compare(sides.source, sides.destination, VOLUME, some, &options, NULL,
				  &stats, &different));
	CHECK(dms_extent_set_count(different) == 3);
	CHECK(stats.bytes_compared == 4096 + 65536 + 512 * 5);
	CHECK(stats.bytes_different == stats.bytes_compared);
	dms_extent_set_destroy(different);

	CHECK_OK(dms_copy_apply(sides.source, sides.destination, VOLUME, some, false, &options,
				&stats));
	CHECK(stats.bytes_written == 4096 + 65536 + 512 * 5);
	memset(sides.old + 4096, 1, 4096);
	memset(sides.old + (1 << 20), 1, 65536);
	memset(sides.old + VOLUME - 512 * 5, 1, 512 * 5);
	check_content(sides.destination, sides.old, VOLUME);
	dms_extent_set_destroy(some);
	sides_close(&sides);
}

/* An empty set is no work, and a flush. */
static void test_nothing(void)
{
	struct dms_undo_store undo = { .fd = scratch_file(1 << 20, 0x5a, direct),
				       .length_bytes = 1 << 20, .chunk_size = 8 };
	struct dms_extent_set *none, *different;
	struct dms_copy_stats stats;
	struct sides sides;

	sides_open(&sides, VOLUME, 10, 8);
	CHECK_OK(dms_extent_set_create(&none));
	CHECK_OK(dms_copy_compare(sides.source, sides.destination, VOLUME, none, &options, &undo,
				  &stats, &different));
	CHECK(dms_extent_set_count(different) == 0 && stats.bytes_compared == 0);
	CHECK(undo.nr_exceptions == 0 && undo.used_bytes == 8192);
	CHECK_OK(dms_copy_apply(sides.source, sides.destination, VOLUME, different, true, NULL,
				&stats));
	CHECK(stats.bytes_written == 0);
	check_content(sides.destination, sides.old, VOLUME);
	dms_extent_set_destroy(different);
	dms_extent_set_destroy(none);
	sides_close(&sides);
	close(undo.fd);
}

static void test_zero_detection(void)
{
	static const struct { uint64_t offset, length; } zeroes[] = {
		{ 0, 300000 },		 { 500000, 65536 },	    { 700000, 20000 },
		{ 1 << 20, 1 << 19 }, { VOLUME - 200000, 200000 },
	};
	struct dms_extent_set *all = whole(VOLUME);
	struct dms_copy_stats stats;
	struct sides sides;
	size_t i;

	sides_open(&sides, VOLUME, 0, 9);
	for (i = 0; i < sizeof(zeroes) / sizeof(zeroes[0]); i++)
		memset(sides.new + zeroes[i].offset, 0, zeroes[i].length);
	put(sides.source, 0, sides.new, VOLUME);
	CHECK_OK(dms_copy_apply(sides.source, sides.destination, VOLUME, all, true, &options,
				&stats));
	check_content(sides.destination, sides.new, VOLUME);
	CHECK(stats.bytes_written == VOLUME);
	CHECK(stats.bytes_zero > 1000000 && stats.bytes_zero < VOLUME / 4 * 3);

	/* Without detection the same content comes out, all of it as data. */
	put(sides.destination, 0, sides.old, VOLUME);
	CHECK_OK(dms_copy_apply(sides.source, sides.destination, VOLUME, all, false, &options,
				&stats));
	CHECK(stats.bytes_zero == 0);
	check_content(sides.destination, sides.new, VOLUME);
	dms_extent_set_destroy(all);
	sides_close(&sides);
}

static void test_zero_runs(void)
{
	char *data = calloc(1, 1 << 20);
	bool zero;

	CHECK(dms_zero_next_run(data, 1 << 20, &zero) == 1 << 20 && zero);
	CHECK(dms_zero_next_run(data, 512, &zero) == 512 && zero);
	data[70000] = 1;
	CHECK(dms_zero_next_run(data, 1 << 20, &zero) == 69632 && zero);
	CHECK(dms_zero_next_run(data + 69632, 8192, &zero) == 8192 && !zero);
	CHECK(dms_zero_next_run(data + 69632, 200000, &zero) == 4096 && !zero);
	data[60000] = 1; /* too short a run at the beginning */
	CHECK(dms_zero_next_run(data, 65536 + 8192, &zero) == 65536 + 8192 && !zero);
	CHECK(!dms_is_zero(data, 60001) && dms_is_zero(data, 60000) && dms_is_zero(data, 0));
	free(data);
}

static void test_bad_arguments(void)
{
	struct dms_extent_set *all = whole(VOLUME), *different;
	struct dms_copy_options wrong = options;
	struct dms_copy_stats stats;
	struct sides sides;
	struct dms_undo_store undo = { .length_bytes = 1 << 20, .chunk_size = 8 };
	int smaller = scratch_file(VOLUME - 512, 0x5a, 0);

	sides_open(&sides, VOLUME, 10, 3);
	CHECK_ERROR(dms_copy_apply(sides.source, smaller, VOLUME, all, false, &options, &stats),
		    DMS_ERR_OUT_OF_BOUNDS);
	CHECK_ERROR(dms_copy_apply(smaller, sides.destination, VOLUME, all, false, &options,
				   &stats), DMS_ERR_OUT_OF_BOUNDS);
	CHECK_ERROR(dms_copy_compare(smaller, sides.destination, VOLUME, all, &options, NULL,
				     &stats, &different), DMS_ERR_OUT_OF_BOUNDS);
	CHECK_ERROR(dms_copy_compare(sides.source, sides.source, VOLUME, all, &options, NULL,
				     &stats, &different), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_copy_apply(sides.source, sides.destination, VOLUME - 100, all, false,
				   &options, &stats), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_copy_apply(-1, sides.destination, VOLUME, all, false, &options, &stats),
		    DMS_ERR_OS);
	wrong.request_bytes = 1000;
	CHECK_ERROR(dms_copy_apply(sides.source, sides.destination, VOLUME, all, false, &wrong,
				   &stats), DMS_ERR_INVALID_ARGUMENT);
	wrong.request_bytes = 1u << 30;
	CHECK_ERROR(dms_copy_apply(sides.source, sides.destination, VOLUME, all, false, &wrong,
				   &stats), DMS_ERR_INVALID_ARGUMENT);
	/* An undo store inside the replica would overwrite what it is to keep. */
	undo.fd = sides.destination;
	undo.offset_bytes = VOLUME / 4096 * 4096;
	CHECK_ERROR(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &options,
				     &undo, &stats, &different), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_copy_roll_back(sides.destination, 4096, 1 << 20, sides.destination,
				       VOLUME, &options, &stats), DMS_ERR_INVALID_ARGUMENT);
	check_content(sides.destination, sides.old, VOLUME);
	close(smaller);
	dms_extent_set_destroy(all);
	sides_close(&sides);
}

static void test_undo_full(void)
{
	struct dms_extent_set *all = whole(VOLUME), *different;
	struct dms_copy_stats stats;
	struct sides sides;
	struct dms_undo_store undo = { .offset_bytes = (VOLUME + 4095) / 4096 * 4096,
				       .chunk_size = 8 };

	sides_open(&sides, VOLUME, 2000, 4);
	undo.fd = sides.destination; /* behind the replica, as on a recovery volume */
	undo.length_bytes = dms_exception_store_size(100, 8);
	CHECK(undo.length_bytes < BEHIND - 4096);
	CHECK_ERROR(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &options,
				     &undo, &stats, &different), DMS_ERR_STORE_FULL);
	CHECK(!has_valid_header(undo.fd, undo.offset_bytes));
	CHECK_ERROR(dms_copy_roll_back(undo.fd, undo.offset_bytes, undo.length_bytes,
				       sides.destination, VOLUME, &options, &stats),
		    DMS_ERR_BAD_MAGIC);
	dms_extent_set_destroy(all);
	sides_close(&sides);
}

static int count_calls(void *context, uint64_t bytes_done)
{
	uint64_t *calls = context;

	CHECK(bytes_done <= VOLUME);
	return ++calls[0] >= calls[1];
}

static void test_progress(void)
{
	struct dms_extent_set *all = whole(VOLUME), *different;
	uint64_t calls[2] = { 0, 1000 };
	struct dms_copy_options with = options;
	struct dms_copy_stats stats;
	struct sides sides;
	struct dms_undo_store undo = { .fd = scratch_file(4 << 20, 0x5a, direct),
				       .length_bytes = 4 << 20, .chunk_size = 8 };

	with.progress = count_calls;
	with.progress_context = calls;
	sides_open(&sides, VOLUME, 20, 5);
	CHECK_OK(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &with, &undo,
				  &stats, &different));
	CHECK(calls[0] >= 1);
	dms_extent_set_destroy(different);
	calls[0] = 0;
	calls[1] = 1;
	CHECK_ERROR(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &with, &undo,
				     &stats, &different), DMS_ERR_CANCELLED);
	CHECK(!has_valid_header(undo.fd, 0));
	CHECK_ERROR(dms_copy_apply(sides.source, sides.destination, VOLUME, all, false, &with,
				   &stats), DMS_ERR_CANCELLED);
	close(undo.fd);
	dms_extent_set_destroy(all);
	sides_close(&sides);
}

/* What is kept is not read again, and everything else is. */
static void test_kept(uint64_t limit_bytes)
{
	struct dms_extent_set *all = whole(VOLUME), *different, *none;
	struct dms_copy_options with = options;
	struct dms_copy_stats stats;
	struct sides sides;
	struct dms_undo_store undo = { .fd = scratch_file(4 << 20, 0x5a, direct),
				       .length_bytes = 4 << 20, .chunk_size = 16 };

	CHECK_OK(dms_copy_kept_create(limit_bytes, &with.kept));
	CHECK_OK(dms_extent_set_create(&none));
	sides_open(&sides, VOLUME, 200, 11);
	sides.new[VOLUME - 1] ^= 1; /* the page that is none */
	put(sides.source, 0, sides.new, VOLUME);
	CHECK_OK(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &with, &undo,
				  &stats, &different));
	if (limit_bytes == VOLUME)
		CHECK(dms_copy_kept_bytes(with.kept) == stats.bytes_different);
	else
		CHECK(dms_copy_kept_bytes(with.kept) ==
		      (limit_bytes == TOO_MUCH ? 0 : limit_bytes / 4096 * 4096));
	if (dms_copy_kept_bytes(with.kept)) {
		CHECK_ERROR(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &with,
					     NULL, &stats, &none), DMS_ERR_INVALID_ARGUMENT);
		CHECK_ERROR(dms_copy_apply(sides.source, sides.destination, VOLUME, none, false,
					   &with, &stats), DMS_ERR_INVALID_ARGUMENT);
		check_content(sides.destination, sides.old, VOLUME);
	}
	fault = (struct fault){ .fd = sides.source };
	CHECK_OK(dms_copy_apply(sides.source, sides.destination, VOLUME, different, false, &with,
				&stats));
	CHECK((fault.seen == 0) == (limit_bytes == VOLUME));
	fault = (struct fault){ .fd = -1 };
	CHECK(stats.bytes_written == dms_extent_set_bytes(different));
	check_content(sides.destination, sides.new, VOLUME);
	CHECK_OK(dms_copy_roll_back(undo.fd, 0, undo.length_bytes, sides.destination, VOLUME,
				    &options, &stats));
	check_content(sides.destination, sides.old, VOLUME);
	dms_copy_kept_destroy(with.kept);
	dms_extent_set_destroy(different);
	dms_extent_set_destroy(none);
	dms_extent_set_destroy(all);
	sides_close(&sides);
	close(undo.fd);
}

#define GAPPED 6u
#define GAPPED_BYTES (GAPPED * 8192u)

/* From now on, reading any of length bytes at offset fails. */
static void spoil(int fd, uint64_t offset, uint64_t length)
{
	fault = (struct fault){ .fd = fd, .lasting = true, .fired = 1, .result = -EIO,
				.bad = { DMS_IO_READ, fd, offset, offset + length } };
}

static void check_gapped(struct sides *sides, const struct dms_extent_set *some)
{
	struct dms_extent_set *different;
	struct dms_copy_stats stats;
	char *expected = malloc(VOLUME);
	unsigned int i;

	memcpy(expected, sides->old, VOLUME);
	for (i = 0; i < GAPPED; i++)
		memcpy(expected + i * 8192, sides->new + i * 8192, 4096);
	CHECK_OK(dms_copy_compare(sides->source, sides->destination, VOLUME, some, &options, NULL,
				  &stats, &different));
	CHECK(stats.bytes_compared == GAPPED * 4096 && stats.bytes_different == GAPPED * 4096);
	CHECK(dms_extent_set_count(different) == GAPPED);
	CHECK_OK(dms_copy_apply(sides->source, sides->destination, VOLUME, some, false, &options,
				&stats));
	CHECK(stats.bytes_written == GAPPED * 4096);
	fault = (struct fault){ .fd = -1 };
	check_content(sides->destination, expected, VOLUME);
	put(sides->destination, 0, sides->old, VOLUME);
	dms_extent_set_destroy(different);
	free(expected);
}

/* Reading goes through a gap; what differs or cannot be read in it does not matter. */
static void test_gaps(void)
{
	struct dms_copy_options named = options;
	struct dms_copy_stats stats;
	struct dms_extent_set *some;
	struct dms_error *error;
	struct sides sides;
	unsigned int i;

	named.source_name = "/dev/named";
	sides_open(&sides, VOLUME, 0, 12);
	memset(sides.new, 1, GAPPED_BYTES);
	put(sides.source, 0, sides.new, VOLUME);
	CHECK_OK(dms_extent_set_create(&some));
	for (i = 0; i < GAPPED; i++)
		CHECK_OK(dms_extent_set_add(some, i * 8192, 4096));
	check_gapped(&sides, some);
	spoil(sides.source, 2 * 8192 + 4096, 4096);
	check_gapped(&sides, some);
	spoil(sides.destination, 2 * 8192 + 4096, 4096);
	check_gapped(&sides, some);
	/* In what is wanted it is an error, which names the place. */
	spoil(sides.source, 8192, 512);
	error = dms_copy_apply(sides.source, sides.destination, VOLUME, some, false, &named,
			       &stats);
	CHECK(error && error->errnum == EIO && error->offset_bytes == 8192);
	CHECK(strstr(error->message, "8192 of /dev/named"));
	dms_error_destroy(error);
	fault = (struct fault){ .fd = -1 };
	dms_extent_set_destroy(some);
	sides_close(&sides);
}

/* Under a limit of bytes a second it is the same copy, and cancelled. test_copy_pace.c has the speed. */
static void test_rate(void)
{
	struct dms_extent_set *all = whole(VOLUME), *different;
	struct dms_copy_options with = options;
	uint64_t calls[2] = { 0, 3 }, begun;
	struct dms_copy_stats stats;
	struct sides sides;

	sides_open(&sides, VOLUME, 20, 14);
	with.bytes_per_second = 8 << 20;
	CHECK_OK(dms_copy_apply(sides.source, sides.destination, VOLUME, all, false, &with,
				&stats));
	check_content(sides.destination, sides.new, VOLUME);
	with.bytes_per_second = 1000; /* hours */
	with.progress = count_calls;
	with.progress_context = calls;
	begun = dms_io_clock_ms();
	CHECK_ERROR(dms_copy_apply(sides.source, sides.destination, VOLUME, all, false, &with,
				   &stats), DMS_ERR_CANCELLED);
	calls[0] = 0;
	CHECK_ERROR(dms_copy_compare(sides.source, sides.destination, VOLUME, all, &with, NULL,
				     &stats, &different), DMS_ERR_CANCELLED);
	CHECK(dms_io_clock_ms() - begun < 60000);
	dms_extent_set_destroy(all);
	sides_close(&sides);
}

static void test_all(size_t nr_chunk_sizes)
{
	static const uint32_t chunk_sizes[] = { 8, 16, 128, 2048 };
	size_t i;

	for (i = 0; i < nr_chunk_sizes; i++) {
		test_round_trip(VOLUME, 0, chunk_sizes[i]);
		test_round_trip(VOLUME, 1, chunk_sizes[i]);
		test_round_trip(VOLUME, 300, chunk_sizes[i]);
		test_round_trip(VOLUME, 5000, chunk_sizes[i]);
		test_round_trip(1 << 20, 40, chunk_sizes[i]);
		test_round_trip(512, 1, chunk_sizes[i]);
	}
	test_extents();
	test_nothing();
	test_zero_detection();
	test_undo_full();
	test_progress();
	test_kept(0);
	test_kept(3 * 4096 + 100);
	test_kept(VOLUME);
	test_kept(TOO_MUCH);
	test_gaps();
	test_rate();
}

int main(void)
{
	static const struct dms_copy_options variants[] = {
		{ 0 },
		{ .without_io_uring = true },
		{ .queue_depth = 1, .request_bytes = 4096 },
		{ .queue_depth = 3, .request_bytes = 20480 },
	};
	size_t i;

	fault.fd = -1;
	test_zero_runs();
	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		options = variants[i];
		options.without_io_uring |= io_uring_is_left_out();
		direct = i % 2 ? 0 : O_DIRECT;
		test_all(i < 2 ? 4 : 1);
	}
	options = variants[1];
	direct = O_DIRECT;
	test_all(1);
	options.without_io_uring = io_uring_is_left_out();
	test_bad_arguments();
	return 0;
}
