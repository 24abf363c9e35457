// SPDX-License-Identifier: Apache-2.0
/*
 * Each side has a thread that reads ahead, hashes piece after piece and leaves
 * the digests in a ring; the caller's thread compares what both have left. The
 * ring holds back the faster side, so that memory does not grow with the
 * volume. Only the caller's thread calls back and sees signals.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <xxhash.h>

#include <dmsnap/digest.h>

#include "cleanup.h"
#include "copy_loop.h"
#include "pace.h"
#include "progress.h"
#include "read_ahead.h"

#define SIDES 2
#define RING_PIECES 256u

struct pairing;

struct side {
	struct pairing *pairing;
	struct dms_medium medium;
	pthread_t thread;
	bool started;
	/* under the pairing's lock: */
	XXH128_hash_t digests[RING_PIECES];
	uint64_t produced;
	bool ended;
	struct dms_error *error;
};

struct pairing {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* any of what the lock protects */
	uint64_t consumed;
	bool stop;
	struct side sides[SIDES];
	/* not changed while the threads run: */
	struct dms_pace pace;
	struct dms_piece_cursor begin;
	/* the caller's thread's alone: */
	struct dms_piece_cursor cursor;
	struct dms_extent_set *suspects;
	uint64_t bytes_compared;
	struct dms_progress progress;
};

static void leave_digest(struct side *side, XXH128_hash_t digest)
{
	struct pairing *pairing = side->pairing;

	pthread_mutex_lock(&pairing->lock);
	while (!pairing->stop && side->produced - pairing->consumed == RING_PIECES)
		pthread_cond_wait(&pairing->changed, &pairing->lock);
	side->digests[side->produced % RING_PIECES] = digest;
	side->produced++;
	pthread_cond_broadcast(&pairing->changed);
	pthread_mutex_unlock(&pairing->lock);
}

static bool stopped(struct pairing *pairing)
{
	bool stop;

	pthread_mutex_lock(&pairing->lock);
	stop = pairing->stop;
	pthread_mutex_unlock(&pairing->lock);
	return stop;
}

static void end_side(struct side *side, struct dms_error *error)
{
	pthread_mutex_lock(&side->pairing->lock);
	side->error = error;
	side->ended = true;
	pthread_cond_broadcast(&side->pairing->changed);
	pthread_mutex_unlock(&side->pairing->lock);
}

/* The reader is made and ended here: an io_uring may be for the thread alone that made it. */
static struct dms_error *hash_all(struct side *side)
{
	const struct pairing *pairing = side->pairing;
	_cleanup_read_ahead_ struct dms_read_ahead *reader = NULL;
	enum dms_read_state read = DMS_READ_WAITING;
	struct dms_extent piece;
	const void *data;

	DMS_TRY(dms_read_ahead_create(&side->medium, &pairing->begin, &pairing->pace, &reader));
	while (read != DMS_READ_END && !stopped(side->pairing)) {
		DMS_TRY(dms_read_ahead_next(reader, &read, &piece, &data));
		if (read == DMS_READ_PIECE)
			leave_digest(side, XXH3_128bits(data, piece.length_bytes));
	}
	return NULL;
}

static void *hash_side(void *argument)
{
	struct side *side = argument;

	end_side(side, hash_all(side));
	return NULL;
}

static struct dms_error *start_side(struct side *side)
{
	sigset_t all, before;
	int result;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	result = pthread_create(&side->thread, NULL, hash_side, side);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	side->started = result == 0;
	return result ? dms_error_create_os(result, "starting a thread") : NULL;
}

static struct dms_error *pairing_init(struct pairing *pairing)
{
	pthread_condattr_t attributes;
	int i;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_mutex_init(&pairing->lock, NULL);
	pthread_cond_init(&pairing->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	for (i = 0; i < SIDES; i++)
		pairing->sides[i].pairing = pairing;
	return dms_extent_set_create(&pairing->suspects);
}

static void pairing_end(struct pairing *pairing)
{
	int i;

	pthread_mutex_lock(&pairing->lock);
	pairing->stop = true;
	pthread_cond_broadcast(&pairing->changed);
	pthread_mutex_unlock(&pairing->lock);
	for (i = 0; i < SIDES; i++) {
		struct side *side = &pairing->sides[i];

		if (side->started)
			pthread_join(side->thread, NULL);
		dms_error_destroy(side->error);
	}
	dms_extent_set_destroy(pairing->suspects);
	pthread_cond_destroy(&pairing->changed);
	pthread_mutex_destroy(&pairing->lock);
}

static uint64_t ready(const struct pairing *pairing)
{
	uint64_t left = pairing->sides[0].produced, right = pairing->sides[1].produced;

	return (left < right ? left : right) - pairing->consumed;
}

/* Whether there is nothing to wait for any more. */
static bool is_over(const struct pairing *pairing)
{
	const struct side *sides = pairing->sides;

	return sides[0].error || sides[1].error || (sides[0].ended && sides[1].ended);
}

/* Wait for digests of both sides, or the end, or the time for a progress report. */
static void await(struct pairing *pairing)
{
	struct timespec until;
	int result = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += DMS_PROGRESS_INTERVAL_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	while (!result && !ready(pairing) && !is_over(pairing))
		result = pthread_cond_timedwait(&pairing->changed, &pairing->lock, &until);
}

static struct dms_error *compare_ready(struct pairing *pairing)
{
	struct dms_error *error = NULL;
	struct dms_extent piece;
	uint64_t count;

	for (count = ready(pairing); !error && count; count--, pairing->consumed++) {
		uint32_t index = pairing->consumed % RING_PIECES;

		if (!dms_piece_cursor_next(&pairing->cursor, &piece))
			break;
		pairing->bytes_compared += piece.length_bytes;
		if (!XXH128_isEqual(pairing->sides[0].digests[index],
				    pairing->sides[1].digests[index]))
			error = dms_extent_set_add(pairing->suspects, piece.offset_bytes,
						   piece.length_bytes);
	}
	pthread_cond_broadcast(&pairing->changed);
	return error;
}

static struct dms_error *take_error(struct pairing *pairing)
{
	struct side *sides = pairing->sides;

	return sides[0].error ? dms_steal(sides[0].error) : dms_steal(sides[1].error);
}

/* One round; *done when both sides have ended and all is compared. */
static struct dms_error *step(struct pairing *pairing, bool *done)
{
	struct dms_error *error;

	pthread_mutex_lock(&pairing->lock);
	await(pairing);
	error = compare_ready(pairing);
	if (!error)
		error = take_error(pairing);
	*done = is_over(pairing) && !ready(pairing);
	pthread_mutex_unlock(&pairing->lock);
	return error ? error : dms_progress_report(&pairing->progress, pairing->bytes_compared);
}

static struct dms_error *compare_all(struct pairing *pairing)
{
	struct dms_error *error = start_side(&pairing->sides[0]);
	bool done = false;

	if (!error)
		error = start_side(&pairing->sides[1]);
	while (!error && !done)
		error = step(pairing, &done);
	return error ? error :
		       dms_progress_report_now(&pairing->progress, pairing->bytes_compared);
}

struct dms_error *dms_digest_compare(int source_fd, int destination_fd, uint64_t size_bytes,
				     const struct dms_extent_set *extents,
				     const struct dms_copy_options *options,
				     uint64_t *bytes_compared, struct dms_extent_set **suspects)
{
	_cleanup_extent_set_ struct dms_extent_set *chosen = NULL;
	DMS_CLEANUP(pairing_end) struct pairing pairing = { 0 };
	DMS_TRY(pairing_init(&pairing));
	DMS_TRY(dms_copy_check_sides(source_fd, destination_fd, size_bytes, options,
				     &pairing.sides[0].medium, &pairing.sides[1].medium));
	DMS_TRY(dms_pace_start(&pairing.pace, options, SIDES, DMS_COPY_PAGE_BYTES, size_bytes));
	DMS_TRY(dms_copy_choose_extents(extents, size_bytes, DMS_COPY_PAGE_BYTES, &chosen));
	dms_piece_cursor_init(&pairing.begin, chosen, dms_pace_piece_bytes(&pairing.pace));
	pairing.cursor = pairing.begin;
	dms_progress_start(&pairing.progress, options);
	DMS_TRY(compare_all(&pairing));
	*bytes_compared = pairing.bytes_compared;
	*suspects = dms_steal(pairing.suspects);
	return NULL;
}
