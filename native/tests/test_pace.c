// SPDX-License-Identifier: Apache-2.0
/*
 * How much is in flight, and how fast, on media that are made of arithmetic: the clock is the
 * test's, and stands still but for what it waits for. So a bound is exact, on a busy machine, too.
 */
#define _GNU_SOURCE 1

#include <time.h>

#include "../src/pace.h"
#include "../src/progress.h"
#include "engine_test.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define MS 1000ull
#define SECOND (1000 * MS)
#define MAX_FLIGHTS 1024u
/* What the engine promises of a cancel is a second, the progress callback's tenth included. */
#define HALF_A_SECOND (500 * MS)

static uint64_t now_us = 1000 * SECOND;
static uint64_t slept_us;

/* In the place of libc's: the core reads its clock with it, */
int clock_gettime(clockid_t clock, struct timespec *time)
{
	(void)clock;
	time->tv_sec = (time_t)(now_us / SECOND);
	time->tv_nsec = (long)(now_us % SECOND * 1000);
	return 0;
}

/* and waits with this for what is not paid for yet. */
int nanosleep(const struct timespec *length, struct timespec *left)
{
	(void)left;
	CHECK(!length->tv_sec && length->tv_nsec > 0);
	slept_us = (uint64_t)length->tv_nsec / 1000;
	now_us += slept_us;
	return 0;
}

/* One transfer after the other, each answered so much later. */
struct medium {
	uint64_t bytes_per_second;
	uint64_t latency_us;
	uint64_t free_us;
	uint64_t last_us;
};

/* The engine's loop on a medium. */
struct work {
	struct dms_pace pace;
	struct medium medium;
	struct {
		uint64_t bytes;
		uint64_t done_us;
	} flights[MAX_FLIGHTS];
	uint32_t first;
	uint32_t count;
	uint64_t begun_bytes;
	uint64_t worst_us; /* that all in flight would have taken, at the worst moment */
};

static void work_start(struct work *work, const struct dms_copy_options *options,
		       uint64_t bytes_per_second, uint64_t latency_us)
{
	memset(work, 0, sizeof(*work));
	CHECK_OK(dms_pace_start(&work->pace, options, 1, DMS_COPY_PAGE_BYTES, GIB));
	CHECK(work->pace.nr_slots && work->pace.nr_slots <= MAX_FLIGHTS);
	work->medium.bytes_per_second = bytes_per_second;
	work->medium.latency_us = latency_us;
}

static bool may_start(const struct work *work)
{
	return work->count < work->pace.nr_slots && dms_pace_has_room(&work->pace);
}

static uint64_t done_at(struct medium *medium, uint64_t bytes)
{
	uint64_t begun = medium->free_us > now_us ? medium->free_us : now_us, done;

	medium->free_us = begun + bytes * SECOND / medium->bytes_per_second + 1;
	done = medium->free_us + medium->latency_us;
	if (done < medium->last_us)
		done = medium->last_us;
	return medium->last_us = done;
}

static void begin(struct work *work)
{
	uint64_t bytes = dms_pace_request_bytes(&work->pace), takes;
	uint32_t place = (work->first + work->count++) % MAX_FLIGHTS;

	CHECK(bytes && bytes <= work->pace.slot_bytes && bytes % DMS_COPY_PAGE_BYTES == 0);
	work->flights[place].bytes = bytes;
	work->flights[place].done_us = done_at(&work->medium, bytes);
	work->begun_bytes += bytes;
	dms_pace_begin(&work->pace, bytes);
	dms_pace_charge(&work->pace, bytes);
	CHECK(work->pace.in_flight_bytes <= DMS_COPY_MAX_MEMORY_BYTES);
	takes = work->flights[place].done_us - now_us;
	if (takes > work->worst_us)
		work->worst_us = takes;
}

/* By half or to the double at most, and inside of what buffers are made for. */
static void check_step(uint64_t before, uint64_t after)
{
	CHECK(after <= DMS_COPY_MAX_MEMORY_BYTES && after >= DMS_COPY_PAGE_BYTES);
	CHECK(after >= before / 2 && after <= before * 2);
}

static void complete(struct work *work)
{
	while (work->count && work->flights[work->first].done_us <= now_us) {
		uint64_t before = work->pace.limit_bytes;

		dms_pace_end(&work->pace, work->flights[work->first].bytes);
		check_step(before, work->pace.limit_bytes);
		work->first = (work->first + 1) % MAX_FLIGHTS;
		work->count--;
		/* With nothing in flight there is always room, or the work would never end. */
		CHECK(work->count || dms_pace_has_room(&work->pace));
	}
}

static void run_for(struct work *work, uint64_t length_us)
{
	const uint64_t end = now_us + length_us;

	while (now_us < end) {
		uint64_t next;

		complete(work);
		if (may_start(work) && dms_pace_is_paid(&work->pace)) {
			begin(work);
			continue;
		}
		next = now_us + (uint64_t)dms_pace_timeout_ms(&work->pace, may_start(work)) * MS;
		CHECK(next > now_us && next <= now_us + DMS_PROGRESS_INTERVAL_MS * MS);
		if (work->count && work->flights[work->first].done_us < next)
			next = work->flights[work->first].done_us;
		now_us = next < end ? next : end;
	}
}

/* How much began to be transferred in the time, a second. */
static uint64_t speed(struct work *work, uint64_t length_us)
{
	uint64_t before = work->begun_bytes;

	run_for(work, length_us);
	return (work->begun_bytes - before) * SECOND / length_us;
}

static void test_fast(void)
{
	uint64_t first;
	struct work work;

	work_start(&work, NULL, GIB, 0);
	first = work.pace.limit_bytes;
	run_for(&work, SECOND);
	CHECK(work.pace.limit_bytes >= 4 * first);
	/* More would not be faster, and would keep others waiting. */
	work_start(&work, NULL, 200 * MIB, 0);
	run_for(&work, SECOND);
	CHECK(work.worst_us < 100 * MS);
	CHECK(speed(&work, SECOND) >= 190 * MIB);
	work_start(&work, NULL, 100 * GIB, 0);
	run_for(&work, SECOND);
	CHECK(work.pace.limit_bytes == DMS_COPY_MAX_MEMORY_BYTES);
	CHECK(dms_pace_request_bytes(&work.pace) == work.pace.slot_bytes);
}

/* What is in flight has to be waited for when a copy is cancelled. */
static void test_slow(void)
{
	static const uint64_t speeds[] = { 256 * KIB, MIB, 2 * MIB, 5 * MIB, 20 * MIB, 60 * MIB };
	uint64_t first;
	struct work work;
	size_t i;

	for (i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++) {
		work_start(&work, NULL, speeds[i], 0);
		first = work.pace.limit_bytes;
		/* Until the first answers, nobody knows. */
		run_for(&work, 2 * first * SECOND / speeds[i] + SECOND);
		if (speeds[i] <= 2 * MIB)
			CHECK(work.pace.limit_bytes < first);
		work.worst_us = 0;
		/* Little in flight, and the medium has something to do all the time. */
		CHECK(speed(&work, 20 * SECOND) >= speeds[i] / 100 * 95);
		CHECK(work.worst_us <= HALF_A_SECOND);
	}
}

/* As slow as a medium can be that is not dead: there is a bound below, and the work goes on. */
static void test_hardly_alive(void)
{
	struct work work;

	work_start(&work, NULL, 4 * KIB, 0);
	run_for(&work, 3000 * SECOND);
	CHECK(work.begun_bytes > 3000 * 4 * KIB);
	CHECK(work.pace.limit_bytes >= DMS_COPY_PAGE_BYTES && work.pace.limit_bytes < MIB);
}

static void test_a_medium_that_changes(void)
{
	struct work work;

	work_start(&work, NULL, GIB, 0);
	run_for(&work, SECOND);
	work.medium.bytes_per_second = 4 * MIB;
	run_for(&work, 10 * SECOND);
	work.worst_us = 0;
	run_for(&work, 10 * SECOND);
	CHECK(work.worst_us <= HALF_A_SECOND);
	work.medium.bytes_per_second = GIB;
	run_for(&work, 2 * SECOND);
	CHECK(work.pace.limit_bytes >= 8 * MIB);
	CHECK(speed(&work, SECOND) >= GIB / 100 * 95);
}

/* Far away and wide: the time for an answer is no reason to have less in flight. */
static void test_far(void)
{
	uint64_t first;
	struct work work;

	work_start(&work, NULL, GIB, 100 * MS);
	first = work.pace.limit_bytes;
	run_for(&work, 10 * SECOND);
	CHECK(work.pace.limit_bytes > 2 * first);
	CHECK(work.worst_us <= HALF_A_SECOND);
}

/* The caller's numbers are the caller's, whatever the medium does. */
static void check_fixed(struct dms_copy_options options, uint32_t request_bytes)
{
	static const uint64_t speeds[] = { MIB, 100 * GIB };
	struct work work;
	size_t i;

	for (i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++) {
		work_start(&work, &options, speeds[i], 0);
		CHECK(!options.queue_depth || work.pace.nr_slots == options.queue_depth);
		run_for(&work, 100 * MS);
		CHECK(work.count == work.pace.nr_slots);
		run_for(&work, 100 * SECOND / (i ? 100 : 1));
		CHECK(work.count == work.pace.nr_slots && dms_pace_has_room(&work.pace));
		CHECK(dms_pace_request_bytes(&work.pace) == work.pace.slot_bytes);
		CHECK(!request_bytes || work.pace.slot_bytes == request_bytes);
		CHECK(work.pace.in_flight_bytes ==
		      (uint64_t)work.pace.nr_slots * work.pace.slot_bytes);
	}
}

static void test_fixed(void)
{
	check_fixed((struct dms_copy_options){ .queue_depth = 3, .request_bytes = 20480 }, 20480);
	check_fixed((struct dms_copy_options){ .queue_depth = 7 }, 0);
	check_fixed((struct dms_copy_options){ .request_bytes = MIB }, MIB);
}

/* Never more than the limit lets begin, a tenth of a second and a piece aside; and not less. */
static void check_rate(uint64_t bytes_per_second, uint64_t latency_us)
{
	const struct dms_copy_options options = { .bytes_per_second = bytes_per_second };
	uint64_t begun = now_us;
	struct work work;
	int i;

	work_start(&work, &options, GIB, latency_us);
	for (i = 0; i < 100; i++) {
		uint64_t paid, piece;

		run_for(&work, 70 * MS);
		paid = bytes_per_second * (now_us - begun) / SECOND;
		piece = bytes_per_second * DMS_RATE_PIECE_MS / 1000 + DMS_COPY_PAGE_BYTES;
		CHECK(work.begun_bytes <= paid + bytes_per_second / 10 + piece);
		CHECK(work.begun_bytes + piece + bytes_per_second / 100 >= paid);
	}
	/* What was not used is not saved up: after an hour the same holds. */
	now_us += 3600 * SECOND;
	complete(&work);
	CHECK(speed(&work, SECOND) <= bytes_per_second / 100 * 120 + DMS_COPY_PAGE_BYTES);
}

static void test_rate(void)
{
	check_rate(100 * KIB, 0);
	check_rate(MIB, 0);
	check_rate(4 * MIB, 20 * MS);
	check_rate(64 * MIB, 5 * MS);
	check_rate(300 * MIB, MS);
}

/* While nothing may begin, it sleeps until it is paid for, and never over a look at signals. */
static void test_sleep(void)
{
	const struct dms_copy_options options = { .bytes_per_second = MIB };
	struct dms_pace pace;

	CHECK_OK(dms_pace_start(&pace, &options, 1, DMS_COPY_PAGE_BYTES, GIB));
	CHECK(dms_pace_is_paid(&pace) && dms_pace_timeout_ms(&pace, true) == 0);
	CHECK(dms_pace_timeout_ms(&pace, false) == DMS_PROGRESS_INTERVAL_MS);
	slept_us = 0;
	dms_pace_sleep(&pace);
	CHECK(!slept_us);
	dms_pace_charge(&pace, MIB / 25);
	CHECK(!dms_pace_is_paid(&pace));
	dms_pace_sleep(&pace);
	CHECK(slept_us == 40 * MS && dms_pace_is_paid(&pace));
	dms_pace_charge(&pace, 10 * MIB);
	dms_pace_sleep(&pace);
	CHECK(slept_us == DMS_PROGRESS_INTERVAL_MS * MS && !dms_pace_is_paid(&pace));
}

/*
 * The time that is waited for payment says nothing about the medium: it is as fast as it may be
 * all the time, also after a moment when the medium itself was slow.
 */
static void test_rate_and_a_slow_moment(void)
{
	const struct dms_copy_options options = { .bytes_per_second = 64 * MIB };
	struct work work;

	work_start(&work, &options, GIB, 5 * MS);
	CHECK(speed(&work, 10 * SECOND) >= 60 * MIB);
	work.medium.bytes_per_second = MIB;
	run_for(&work, 10 * SECOND);
	work.worst_us = 0;
	run_for(&work, 10 * SECOND);
	CHECK(work.worst_us <= HALF_A_SECOND);
	work.medium.bytes_per_second = GIB;
	run_for(&work, 2 * SECOND);
	CHECK(speed(&work, 10 * SECOND) >= 60 * MIB);
}

static void test_arguments(void)
{
	struct dms_copy_options options = { .request_bytes = 1000 };
	struct dms_pace pace;

	CHECK_ERROR(dms_pace_start(&pace, &options, 1, DMS_COPY_PAGE_BYTES, GIB),
		    DMS_ERR_INVALID_ARGUMENT);
	options.request_bytes = DMS_COPY_MAX_REQUEST_BYTES + DMS_COPY_PAGE_BYTES;
	CHECK_ERROR(dms_pace_start(&pace, &options, 1, DMS_COPY_PAGE_BYTES, GIB),
		    DMS_ERR_INVALID_ARGUMENT);
	/* However much is asked for, the buffers stay inside their bound. */
	options.request_bytes = DMS_COPY_MAX_REQUEST_BYTES;
	options.queue_depth = 1000;
	CHECK_OK(dms_pace_start(&pace, &options, 2, DMS_COPY_PAGE_BYTES, GIB));
	CHECK(pace.nr_slots && 2ull * pace.nr_slots * pace.slot_bytes <= DMS_COPY_MAX_MEMORY_BYTES);
}

int main(void)
{
	test_fast();
	test_slow();
	test_hardly_alive();
	test_a_medium_that_changes();
	test_far();
	test_fixed();
	test_rate();
	test_sleep();
	test_rate_and_a_slow_moment();
	test_arguments();
	return 0;
}
