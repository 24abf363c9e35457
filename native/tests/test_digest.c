// SPDX-License-Identifier: Apache-2.0
/* Digests of extents, and comparing by them: every difference is found, every fault is named. */
#define _GNU_SOURCE 1

#include <limits.h>
#include <xxhash.h>

#include <dmsnap/digest.h>

#include "../src/cleanup.h"
#include "engine_test.h"

DEFINE_FAULTS;

#define SIZE ((3u << 20) + 512u * 3) /* ends inside a page; more pages than a ring has places */

static struct dms_copy_options options;
static int direct;

struct pair {
	int left;
	int right;
	char *data;
};

static void pair_open(struct pair *pair, uint64_t seed)
{
	pair->left = scratch_file(SIZE, 0, direct);
	pair->right = scratch_file(SIZE + 4096, 0, direct);
	pair->data = malloc(SIZE);
	CHECK(pair->data);
	fill_random(pair->data, SIZE, seed);
	put(pair->left, 0, pair->data, SIZE);
	put(pair->right, 0, pair->data, SIZE);
}

static void pair_close(struct pair *pair)
{
	close(pair->left);
	close(pair->right);
	free(pair->data);
}

static struct dms_extent_set *set_of(const struct dms_extent *extents, size_t count)
{
	struct dms_extent_set *set;

	CHECK_OK(dms_extent_set_create(&set));
	while (count--)
		CHECK_OK(dms_extent_set_add(set, extents[count].offset_bytes,
					    extents[count].length_bytes));
	return set;
}

static struct dms_extent_set *whole(void)
{
	return set_of(&(struct dms_extent){ 0, SIZE }, 1);
}

static bool covers(const struct dms_extent_set *set, uint64_t offset)
{
	const struct dms_extent *extents = dms_extent_set_extents(set);
	size_t i;

	for (i = 0; i < dms_extent_set_count(set); i++)
		if (offset - extents[i].offset_bytes < extents[i].length_bytes)
			return true;
	return false;
}

static void test_digest_of_extents(void)
{
	/* Whole pages, out of order; the last one is cut at the end. */
	static const struct dms_extent extents[] = {
		{ 2u << 20, 8192 }, { 4096, 12288 }, { 1u << 20, 1u << 20 }, { SIZE - 512, 512 },
	};
	_cleanup_extent_set_ struct dms_extent_set *all = whole();
	_cleanup_extent_set_ struct dms_extent_set *some = set_of(extents, 4);
	const uint32_t tail = SIZE % 4096;
	uint8_t digest[DMS_DIGEST_BYTES];
	XXH128_canonical_t expected;
	struct pair pair;
	char *joined;

	pair_open(&pair, 1);
	CHECK_OK(dms_digest_extents(pair.left, SIZE, all, &options, digest));
	XXH128_canonicalFromHash(&expected, XXH3_128bits(pair.data, SIZE));
	CHECK(!memcmp(digest, expected.digest, sizeof(digest)));
	joined = malloc(SIZE);
	CHECK(joined);
	memcpy(joined, pair.data + 4096, 12288);
	memcpy(joined + 12288, pair.data + (1u << 20), (1u << 20) + 8192);
	memcpy(joined + 20480 + (1u << 20), pair.data + SIZE - tail, tail);
	CHECK_OK(dms_digest_extents(pair.left, SIZE, some, &options, digest));
	XXH128_canonicalFromHash(&expected, XXH3_128bits(joined, 20480 + (1u << 20) + tail));
	CHECK(!memcmp(digest, expected.digest, sizeof(digest)));
	free(joined);
	pair_close(&pair);
}

static void check_suspects(struct pair *pair, const uint64_t *places, size_t count)
{
	_cleanup_extent_set_ struct dms_extent_set *suspects = NULL;
	_cleanup_extent_set_ struct dms_extent_set *all = whole();
	const uint32_t piece = options.request_bytes ? options.request_bytes : 1u << 20;
	uint64_t bytes_compared;
	size_t i;

	CHECK_OK(dms_digest_compare(pair->left, pair->right, SIZE, all, &options, &bytes_compared,
				    &suspects));
	CHECK(bytes_compared == SIZE);
	CHECK(dms_extent_set_bytes(suspects) <= count * piece);
	for (i = 0; i < count; i++)
		CHECK(covers(suspects, places[i]));
}

static void test_differences(void)
{
	static const uint64_t places[] = { 0, 4095, 777777, 1u << 20, SIZE - 513, SIZE - 1 };
	struct pair pair;
	size_t i;

	pair_open(&pair, 2);
	check_suspects(&pair, NULL, 0);
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char wrong = pair.data[places[i]] ^ 1;

		put(i % 2 ? pair.left : pair.right, places[i], &wrong, 1);
		check_suspects(&pair, places, i + 1);
	}
	pair_close(&pair);
}

/* What is not asked for is not looked at. */
static void test_other_places(void)
{
	static const struct dms_extent extents[] = { { 0, 4096 }, { 12288, 65536 } };
	_cleanup_extent_set_ struct dms_extent_set *suspects = NULL;
	_cleanup_extent_set_ struct dms_extent_set *some = set_of(extents, 2);
	uint64_t bytes_compared;
	struct pair pair;

	pair_open(&pair, 3);
	put(pair.right, 8192, "wrong", 5);
	put(pair.right, 12288 + 65536, "wrong", 5);
	CHECK_OK(dms_digest_compare(pair.left, pair.right, SIZE, some, &options, &bytes_compared,
				    &suspects));
	CHECK(bytes_compared == 4096 + 65536);
	CHECK(!dms_extent_set_count(suspects));
	pair_close(&pair);
}

static void test_nothing(void)
{
	_cleanup_extent_set_ struct dms_extent_set *suspects = NULL;
	_cleanup_extent_set_ struct dms_extent_set *none = set_of(NULL, 0);
	uint8_t digest[DMS_DIGEST_BYTES];
	XXH128_canonical_t expected;
	uint64_t bytes_compared;
	struct pair pair;

	pair_open(&pair, 4);
	CHECK_OK(dms_digest_compare(pair.left, pair.right, SIZE, none, &options, &bytes_compared,
				    &suspects));
	CHECK(!bytes_compared && !dms_extent_set_count(suspects));
	CHECK_OK(dms_digest_extents(pair.left, SIZE, none, &options, digest));
	XXH128_canonicalFromHash(&expected, XXH3_128bits("", 0));
	CHECK(!memcmp(digest, expected.digest, sizeof(digest)));
	pair_close(&pair);
}

/* Each read of either side fails in turn, and short reads change nothing. */
static void test_faults(void)
{
	_cleanup_extent_set_ struct dms_extent_set *all = whole();
	struct dms_extent_set *suspects = NULL;
	uint8_t digest[DMS_DIGEST_BYTES];
	uint64_t bytes_compared;
	struct pair pair;
	int side, i, total;

	pair_open(&pair, 5);
	for (side = 0; side < 2; side++) {
		int fd = side ? pair.right : pair.left;

		fault = (struct fault){ .fd = fd };
		check_suspects(&pair, NULL, 0);
		total = fault.seen;
		CHECK(total >= 3);
		for (i = 1; i <= total; i += total > 60 ? 97 : 1) {
			fault = (struct fault){ .countdown = i, .fd = fd, .result = -EIO };
			CHECK_ERROR(dms_digest_compare(pair.left, pair.right, SIZE, all, &options,
						       &bytes_compared, &suspects), DMS_ERR_OS);
			CHECK(fault.fired == 1);
		}
		fault = (struct fault){ .countdown = 1, .fd = fd, .result = 512, .repeat = true };
		check_suspects(&pair, NULL, 0);
	}
	fault = (struct fault){ .countdown = 2, .fd = pair.left, .result = -EIO };
	CHECK_ERROR(dms_digest_extents(pair.left, SIZE, all, &options, digest), DMS_ERR_OS);
	fault = (struct fault){ .fd = INT_MAX };
	pair_close(&pair);
}

static int stop_after(void *context, uint64_t bytes_done)
{
	int *calls = context;

	CHECK(bytes_done <= SIZE);
	return --*calls == 0;
}

static void test_cancel(void)
{
	_cleanup_extent_set_ struct dms_extent_set *all = whole();
	struct dms_copy_options cancelled = options;
	struct dms_extent_set *suspects = NULL;
	uint8_t digest[DMS_DIGEST_BYTES];
	uint64_t bytes_compared;
	struct pair pair;
	int calls = 1;

	pair_open(&pair, 6);
	cancelled.progress = stop_after;
	cancelled.progress_context = &calls;
	CHECK_ERROR(dms_digest_compare(pair.left, pair.right, SIZE, all, &cancelled,
				       &bytes_compared, &suspects), DMS_ERR_CANCELLED);
	calls = 1;
	CHECK_ERROR(dms_digest_extents(pair.left, SIZE, all, &cancelled, digest),
		    DMS_ERR_CANCELLED);
	pair_close(&pair);
}

static void test_bad_arguments(void)
{
	_cleanup_extent_set_ struct dms_extent_set *all = whole();
	struct dms_extent_set *suspects = NULL;
	uint8_t digest[DMS_DIGEST_BYTES];
	uint64_t bytes_compared;
	struct pair pair;

	pair_open(&pair, 7);
	CHECK_ERROR(dms_digest_compare(pair.left, pair.right, SIZE + 512, all, &options,
				       &bytes_compared, &suspects), DMS_ERR_OUT_OF_BOUNDS);
	CHECK_ERROR(dms_digest_compare(pair.left, pair.left, SIZE, all, &options,
				       &bytes_compared, &suspects), DMS_ERR_INVALID_ARGUMENT);
	CHECK_ERROR(dms_digest_extents(pair.left, SIZE + 512, all, &options, digest),
		    DMS_ERR_OUT_OF_BOUNDS);
	pair_close(&pair);
}

int main(void)
{
	static const struct dms_copy_options variants[] = {
		{ 0 },
		{ .without_io_uring = true },
		{ .queue_depth = 1, .request_bytes = 4096 },
		{ .queue_depth = 5, .request_bytes = 20480 },
	};
	size_t i;

	fault.fd = INT_MAX; /* no descriptor has it: two threads must not count */
	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		options = variants[i];
		options.without_io_uring |= io_uring_is_left_out();
		direct = i % 2 ? 0 : O_DIRECT;
		test_digest_of_extents();
		test_differences();
		test_other_places();
		test_nothing();
		test_faults();
		test_cancel();
		test_bad_arguments();
	}
	return 0;
}
