// SPDX-License-Identifier: Apache-2.0
#include <time.h>

#include "io_queue.h"
#include "pace.h"
#include "progress.h"

#define FIRST_LIMIT_BYTES (2u << 20)
#define MIN_LIMIT_BYTES (64u << 10)
#define MIN_REQUEST_BYTES (64u << 10)
/* So many requests of the largest size fit into the limit. */
#define REQUESTS_IN_LIMIT 4u
/* How long what is in flight should take, and the longest that it may. */
#define LATENCY_US 20000u
#define MAX_LATENCY_US 250000u
/* For extents of up to half of it, a slot is as small as these. */
#define SMALLEST_SLOT_BYTES (128u << 10)
#define SMALL_SLOT_BYTES (256u << 10)
/* No more than a medium takes at once: memory costs something when it is first touched. */
#define MAX_BUFFERS 128u
/* A measurement takes so many times the limit. */
#define WINDOW_LIMITS 2u
#define NS_PER_MS 1000000L
#define MS_PER_S 1000u

static uint32_t cut(uint64_t bytes, uint32_t multiple_bytes)
{
	return bytes < multiple_bytes ? multiple_bytes : (uint32_t)(bytes - bytes % multiple_bytes);
}

static uint32_t slot_bytes_for(uint64_t usual_bytes)
{
	if (usual_bytes <= SMALLEST_SLOT_BYTES / 2)
		return SMALLEST_SLOT_BYTES;
	return usual_bytes <= SMALL_SLOT_BYTES / 2 ? SMALL_SLOT_BYTES : DMS_COPY_REQUEST_BYTES;
}

static uint32_t most_slots(uint32_t buffers, uint32_t slot_bytes)
{
	uint32_t most = DMS_COPY_MAX_MEMORY_BYTES / slot_bytes;

	return (most < MAX_BUFFERS ? most : MAX_BUFFERS) / buffers;
}

struct dms_error *dms_pace_start(struct dms_pace *pace, const struct dms_copy_options *options,
				 uint32_t buffers, uint32_t multiple_bytes, uint64_t usual_bytes)
{
	uint32_t request = options ? options->request_bytes : 0;
	uint32_t depth = options ? options->queue_depth : 0;
	uint32_t most;

	if (request % DMS_COPY_PAGE_BYTES || request > DMS_COPY_MAX_REQUEST_BYTES)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"requests of %u bytes are no multiple of %u up to %u",
					request, DMS_COPY_PAGE_BYTES, DMS_COPY_MAX_REQUEST_BYTES);
	*pace = (struct dms_pace){
		.fixed = request || depth,
		.multiple_bytes = multiple_bytes,
		.slot_bytes = cut(request ? request : slot_bytes_for(usual_bytes), multiple_bytes),
		.without_io_uring = options && options->without_io_uring,
		.limit_bytes = FIRST_LIMIT_BYTES,
		.begun_us = dms_io_clock_us(),
	};
	most = most_slots(buffers, pace->slot_bytes);
	pace->nr_slots = depth && depth < most ? depth : most;
	dms_rate_start(&pace->rate, options ? options->bytes_per_second : 0);
	return NULL;
}

/* A request of so many bytes, or as many as can be paid for within a moment. */
static uint32_t payable(const struct dms_pace *pace, uint64_t request)
{
	uint64_t paid = pace->rate.bytes_per_second * DMS_RATE_PIECE_MS / MS_PER_S;

	if (pace->rate.bytes_per_second && request > paid)
		request = paid;
	if (request > pace->slot_bytes)
		request = pace->slot_bytes;
	return cut(request, pace->multiple_bytes);
}

uint32_t dms_pace_request_bytes(const struct dms_pace *pace)
{
	uint64_t request = pace->fixed ? pace->slot_bytes : pace->limit_bytes / REQUESTS_IN_LIMIT;

	if (request < MIN_REQUEST_BYTES && !pace->fixed)
		request = MIN_REQUEST_BYTES;
	return payable(pace, request);
}

uint32_t dms_pace_piece_bytes(const struct dms_pace *pace)
{
	return payable(pace, pace->slot_bytes);
}

bool dms_pace_has_room(const struct dms_pace *pace)
{
	return pace->fixed || pace->in_flight_bytes < pace->limit_bytes;
}

bool dms_pace_is_paid(const struct dms_pace *pace)
{
	return !dms_rate_wait_ms(&pace->rate);
}

int dms_pace_timeout_ms(const struct dms_pace *pace, bool may_start)
{
	uint64_t wait_ms = may_start ? dms_rate_wait_ms(&pace->rate) : DMS_PROGRESS_INTERVAL_MS;

	return wait_ms < DMS_PROGRESS_INTERVAL_MS ? (int)wait_ms : DMS_PROGRESS_INTERVAL_MS;
}

void dms_pace_sleep(const struct dms_pace *pace)
{
	const struct timespec length = {
		.tv_nsec = (long)dms_pace_timeout_ms(pace, true) * NS_PER_MS,
	};

	/* A signal may end it early: the caller looks again in any case. */
	if (length.tv_nsec)
		nanosleep(&length, NULL);
}

void dms_pace_charge(struct dms_pace *pace, uint64_t bytes)
{
	dms_rate_take(&pace->rate, bytes);
}

void dms_pace_begin(struct dms_pace *pace, uint64_t bytes)
{
	pace->in_flight_bytes += bytes;
}

static uint64_t wanted_us(const struct dms_pace *pace)
{
	uint64_t wanted = 2 * pace->least_us;

	if (wanted < LATENCY_US)
		return LATENCY_US;
	return wanted < MAX_LATENCY_US ? wanted : MAX_LATENCY_US;
}

/* By half or to the double at most: one measurement may be of an odd moment. */
static void judge(struct dms_pace *pace, uint64_t elapsed_us)
{
	uint64_t took_us = pace->limit_bytes * elapsed_us / pace->finished_bytes;

	if (!pace->least_us || took_us < pace->least_us)
		pace->least_us = took_us;
	if (took_us > wanted_us(pace) + wanted_us(pace) / 2)
		pace->limit_bytes /= 2;
	/* Where a limit of bytes a second holds back, that is what was measured, and not the media. */
	else if (took_us < wanted_us(pace) && (pace->held_back || !pace->rate.bytes_per_second))
		pace->limit_bytes *= 2;
	if (pace->limit_bytes < MIN_LIMIT_BYTES)
		pace->limit_bytes = MIN_LIMIT_BYTES;
	if (pace->limit_bytes > DMS_COPY_MAX_MEMORY_BYTES)
		pace->limit_bytes = DMS_COPY_MAX_MEMORY_BYTES;
}

void dms_pace_end(struct dms_pace *pace, uint64_t bytes)
{
	uint64_t now;

	pace->held_back |= !dms_pace_has_room(pace) && dms_pace_is_paid(pace);
	pace->in_flight_bytes -= bytes;
	pace->finished_bytes += bytes;
	if (pace->fixed)
		return;
	now = dms_io_clock_us();
	if (pace->finished_bytes < WINDOW_LIMITS * pace->limit_bytes &&
	    now < pace->begun_us + MAX_LATENCY_US)
		return;
	if (pace->finished_bytes)
		judge(pace, now - pace->begun_us);
	pace->begun_us = now;
	pace->finished_bytes = 0;
	pace->held_back = false;
}
