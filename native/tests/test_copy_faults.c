// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include "copy_sides.h"

DEFINE_FAULTS;

struct fault_case {
	struct sides sides;
	struct dms_undo_store undo;
	struct dms_extent_set *all;
};

static struct dms_error *run_compare(struct fault_case *test)
{
	_cleanup_extent_set_ struct dms_extent_set *different = NULL;
	struct dms_copy_stats stats;

	return dms_copy_compare(test->sides.source, test->sides.destination, VOLUME, test->all,
				&options, &test->undo, &stats, &different);
}

static struct dms_error *run_apply(struct fault_case *test)
{
	struct dms_copy_stats stats;

	return dms_copy_apply(test->sides.source, test->sides.destination, VOLUME, test->all, true,
			      &options, &stats);
}

static struct dms_error *run_roll_back(struct fault_case *test)
{
	struct dms_copy_stats stats;

	return dms_copy_roll_back(test->undo.fd, 0, test->undo.length_bytes,
				  test->sides.destination, VOLUME, &options, &stats);
}

/* Every read, write and flush fails in turn: never a success, and the error says what happened. */
static void fail_each(struct fault_case *test, struct dms_error *(*run)(struct fault_case *),
		      bool undo_is_written)
{
	int i, total;

	fault = (struct fault){ .fd = -1 };
	CHECK_OK(run(test));
	total = fault.seen;
	CHECK(total >= 3);
	/* With hundreds of transfers: the first and the last ones, and some between. */
	for (i = 1; i <= total; i += total > 60 && i > 5 && i < total * 4 / 5 ? total / 5 : 1) {
		if (total > 60 && i > total * 4 / 5 && i < total - 5)
			i = total - 5;
		struct dms_error *error;
		struct fault met;

		fault = (struct fault){ .countdown = i, .fd = -1, .result = -EIO,
					.lasting = true };
		error = run(test);
		met = fault;
		fault = (struct fault){ .fd = -1 };
		/* How requests are cut depends on the time they take: this run had fewer. */
		if (!met.fired) {
			CHECK_OK(error);
			CHECK(i > 3 && met.seen < i);
			continue;
		}
		CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
		dms_error_destroy(error);
		CHECK(!undo_is_written || i == 1 || !has_valid_header(test->undo.fd, 0));
	}
}

static void test_faults(void)
{
	struct fault_case test = { .all = whole(VOLUME),
				   .undo = { .fd = scratch_file(8 << 20, 0x5a, direct),
					     .length_bytes = 8 << 20, .chunk_size = 8 } };

	sides_open(&test.sides, VOLUME, 600, 6);
	memset(test.sides.new + 100000, 0, 900000);
	put(test.sides.source, 0, test.sides.new, VOLUME);
	fail_each(&test, run_compare, true);
	check_content(test.sides.destination, test.sides.old, VOLUME);
	CHECK_OK(run_compare(&test));
	fail_each(&test, run_apply, false);
	CHECK_OK(run_apply(&test));
	check_content(test.sides.destination, test.sides.new, VOLUME);
	fail_each(&test, run_roll_back, false);
	CHECK_OK(run_roll_back(&test));
	check_content(test.sides.destination, test.sides.old, VOLUME);
	/* Short transfers everywhere change nothing. */
	fault = (struct fault){ .countdown = 1, .fd = -1, .result = 4096, .repeat = true,
				.kinds = 1 << DMS_IO_READ | 1 << DMS_IO_WRITE };
	CHECK_OK(run_compare(&test));
	CHECK_OK(run_apply(&test));
	fault = (struct fault){ .fd = -1 };
	check_content(test.sides.destination, test.sides.new, VOLUME);
	dms_extent_set_destroy(test.all);
	sides_close(&test.sides);
	close(test.undo.fd);
}

int main(void)
{
	static const struct dms_copy_options variants[] = {
		{ 0 },
		{ .without_io_uring = true },
		{ .queue_depth = 1, .request_bytes = 4096 },
	};
	size_t i;

	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		options = variants[i];
		options.without_io_uring |= io_uring_is_left_out();
		direct = i % 2 ? 0 : O_DIRECT;
		test_faults();
	}
	return 0;
}
