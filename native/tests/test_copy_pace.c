// SPDX-License-Identifier: Apache-2.0
/*
 * The whole engine on a slow disk and under a limit of bytes a second: a cancel comes through within
 * a second, and the limit is kept. What is measured is what the disk does, so that a busy machine,
 * on which everything takes longer, changes nothing.
 */
#define _GNU_SOURCE 1

#include <sys/mman.h>
#include <time.h>

#include <dmsnap/digest.h>

#include "copy_sides.h"

#define MIB (1024ull * 1024)
#define SIZE (32 * MIB)
#define STORE_BYTES (40 * MIB)
#define SLOW (8 * MIB) /* a second */
/* What was transferred when it is asked to stop; of zeroes, when they are being written. */
#define ASKED_AT (8 * MIB)
#define ASKED_OF_ZEROES_AT (SIZE + 4 * MIB)
#define SECOND 1000000ull
/* Of a limit of bytes a second: what is taken at once, and the piece that nothing comes behind. */
#define SLACK_US 160000ull
#define LIMITED (16 * MIB)

/* One disk for everything, which transfers one thing after the other. */
static struct {
	pthread_mutex_t lock;
	uint64_t bytes_per_second; /* 0: it takes no time */
	bool reads_are_free; /* they are another disk's, a fast one */
	uint64_t free_us;
	uint64_t bytes;
	uint64_t asked_at;
	bool asked; /* to stop */
	uint64_t bytes_when_asked;
	bool told; /* the engine, by the callback */
	unsigned int begun_after;
} disk = { .lock = PTHREAD_MUTEX_INITIALIZER };

static uint64_t take_place(uint32_t length)
{
	uint64_t now = dms_io_clock_us();

	disk.begun_after += disk.told;
	if (!disk.bytes_per_second)
		return now;
	if (disk.free_us < now)
		disk.free_us = now;
	disk.free_us += length * SECOND / disk.bytes_per_second;
	return disk.free_us;
}

static void count(uint32_t length)
{
	disk.bytes += length;
	if (!disk.asked && disk.bytes >= disk.asked_at) {
		disk.asked = true;
		disk.bytes_when_asked = disk.bytes;
	}
}

static void sleep_until(uint64_t until_us)
{
	const struct timespec until = {
		.tv_sec = (time_t)(until_us / SECOND),
		.tv_nsec = (long)(until_us % SECOND * 1000),
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
		;
}

ssize_t dms_io_inject(enum dms_io_kind kind, int fd, uint64_t offset_bytes, uint32_t length_bytes)
{
	uint64_t until_us;

	(void)fd;
	(void)offset_bytes;
	if (kind == DMS_IO_READ && disk.reads_are_free)
		return 0;
	pthread_mutex_lock(&disk.lock);
	until_us = take_place(length_bytes);
	pthread_mutex_unlock(&disk.lock);
	sleep_until(until_us);
	pthread_mutex_lock(&disk.lock);
	count(length_bytes);
	pthread_mutex_unlock(&disk.lock);
	return 0;
}

/* In the place of libc's: zeroes have to be written, which is the slow way. */
int fallocate(int fd, int mode, off_t offset, off_t length)
{
	(void)fd;
	(void)mode;
	(void)offset;
	(void)length;
	errno = EOPNOTSUPP;
	return -1;
}

/* As a signal is noticed. */
static int stop_when_asked(void *context, uint64_t bytes_done)
{
	int stop;

	(void)context;
	(void)bytes_done;
	pthread_mutex_lock(&disk.lock);
	stop = disk.asked;
	disk.told |= stop;
	pthread_mutex_unlock(&disk.lock);
	return stop;
}

static void disk_start(uint64_t bytes_per_second, bool reads_are_free, uint64_t asked_at)
{
	pthread_mutex_lock(&disk.lock);
	disk.reads_are_free = reads_are_free;
	disk.bytes_per_second = bytes_per_second;
	disk.free_us = 0;
	disk.bytes = 0;
	disk.asked_at = asked_at;
	disk.asked = disk.told = false;
	disk.bytes_when_asked = 0;
	disk.begun_after = 0;
	pthread_mutex_unlock(&disk.lock);
}

static struct sides_on_disk {
	int source; /* other content */
	int twin; /* the destination's */
	int empty; /* zeroes */
	int destination;
	int store;
	uint64_t store_bytes;
	struct dms_extent_set *extents;
} media;

static int file_of(uint64_t size, int fill)
{
	int fd = memfd_create("medium", MFD_CLOEXEC);
	char *data = malloc(MIB);
	uint64_t done;

	CHECK(fd >= 0 && data && !ftruncate(fd, (off_t)size));
	memset(data, fill, MIB);
	for (done = 0; fill && done < size; done += MIB)
		CHECK(pwrite(fd, data, MIB, (off_t)done) == (ssize_t)MIB);
	free(data);
	return fd;
}

static struct dms_error *compare(void)
{
	_cleanup_extent_set_ struct dms_extent_set *different = NULL;
	struct dms_undo_store undo = { .fd = media.store, .length_bytes = STORE_BYTES,
				       .chunk_size = 8 };
	struct dms_copy_stats stats;
	struct dms_error *error = dms_copy_compare(media.source, media.destination, SIZE,
						   media.extents, &options, &undo, &stats,
						   &different);

	media.store_bytes = undo.used_bytes;
	return error;
}

static struct dms_error *compare_equal(void)
{
	_cleanup_extent_set_ struct dms_extent_set *different = NULL;
	struct dms_copy_stats stats;

	return dms_copy_compare(media.twin, media.destination, SIZE, media.extents, &options, NULL,
				&stats, &different);
}

static struct dms_error *apply_from(int source, bool zero_detection)
{
	struct dms_copy_stats stats;

	return dms_copy_apply(source, media.destination, SIZE, media.extents, zero_detection,
			      &options, &stats);
}

static struct dms_error *apply(void)
{
	return apply_from(media.twin, false);
}

static struct dms_error *apply_zeroes(void)
{
	return apply_from(media.empty, true);
}

static struct dms_error *roll_back(void)
{
	struct dms_copy_stats stats;

	return dms_copy_roll_back(media.store, 0, STORE_BYTES, media.destination, SIZE, &options,
				  &stats);
}

static struct dms_error *compare_digests(void)
{
	_cleanup_extent_set_ struct dms_extent_set *suspects = NULL;
	uint64_t compared;

	return dms_digest_compare(media.twin, media.destination, SIZE, media.extents, &options,
				  &compared, &suspects);
}

static struct dms_error *digest(void)
{
	uint8_t found[DMS_DIGEST_BYTES];

	return dms_digest_extents(media.twin, SIZE, media.extents, &options, found);
}

static const struct work {
	const char *name;
	struct dms_error *(*run)(void);
	unsigned int charged; /* what counts against a limit, in LIMITED */
	bool writes;
	bool on_two_disks; /* each by a thread that the cancel is passed on to */
	uint64_t asked_at;
} works[] = {
	/* First: it fills the store that is rolled back. */
	{ "compare", compare, 2, true, false, ASKED_AT }, /* what differs is written behind it */
	{ "compare equal", compare_equal, 1, false, false, ASKED_AT },
	{ "roll back", roll_back, SIZE / LIMITED, true, false, ASKED_AT }, /* all that the store has */
	{ "apply", apply, 1, true, false, ASKED_AT },
	{ "digest", digest, 1, false, false, ASKED_AT },
	{ "compare digests", compare_digests, 1, false, true, ASKED_AT },
	{ "apply zeroes", apply_zeroes, 1, false, false, ASKED_OF_ZEROES_AT },
};

#define NR_WORKS (sizeof(works) / sizeof(works[0]))

static void media_open(void)
{
	media.source = file_of(SIZE, 0x11);
	media.twin = file_of(SIZE, 0x5a);
	media.empty = file_of(SIZE, 0);
	media.destination = file_of(SIZE + BEHIND, 0x5a);
	media.store = file_of(STORE_BYTES, 0x33);
	media.extents = whole(SIZE);
	CHECK_OK(compare());
}

static void media_close(void)
{
	close(media.source);
	close(media.twin);
	close(media.empty);
	close(media.destination);
	close(media.store);
	dms_extent_set_destroy(media.extents);
}

/*
 * The hard case: the engine chooses how much is in flight, and the disk is slow. From the moment
 * when it is asked to stop, the disk may do what it does in a second, and then it is let go.
 * Where reads are free, it is asked at once: nothing has shown yet how slow writes are.
 */
static void test_slow_disk(const struct work *work, bool reads_are_free)
{
	const struct dms_copy_options before = options;
	uint64_t after;

	options.progress = stop_when_asked;
	disk_start(SLOW, reads_are_free, reads_are_free ? MIB : work->asked_at);
	CHECK_ERROR(work->run(), DMS_ERR_CANCELLED);
	after = disk.bytes - disk.bytes_when_asked;
	if (after > SLOW)
		fprintf(stderr, "%s: %llu KiB after the cancel%s\n", work->name,
			(unsigned long long)after / 1024, reads_are_free ? ", all writes" : "");
	CHECK(disk.told && after <= SLOW);
	options = before;
	disk_start(0, false, 0);
}

/* A ring's transfers begin when they are submitted: none does once the callback said stop. */
static void test_nothing_begins(const struct work *work)
{
	const struct dms_copy_options before = options;

	options.progress = stop_when_asked;
	options.bytes_per_second = 32 * MIB;
	disk_start(0, false, work->asked_at);
	CHECK_ERROR(work->run(), DMS_ERR_CANCELLED);
	CHECK(disk.told && !disk.begun_after);
	options = before;
	disk_start(0, false, 0);
}

static void test_rate(const struct work *work)
{
	const struct dms_copy_options before = options;
	const uint64_t bytes = work->charged * LIMITED;
	struct dms_extent_set *all = media.extents;
	uint64_t begun, took;

	options.bytes_per_second = bytes; /* in a second */
	media.extents = whole(LIMITED);
	begun = dms_io_clock_us();
	CHECK_OK(work->run());
	took = dms_io_clock_us() - begun;
	if (took < SECOND - SLACK_US)
		fprintf(stderr, "%s: %llu us for a second's bytes\n", work->name,
			(unsigned long long)took);
	CHECK(took >= SECOND - SLACK_US);
	dms_extent_set_destroy(media.extents);
	media.extents = all;
	options = before;
}

int main(void)
{
	const bool ring = has_io_uring();
	size_t i;

	media_open();
	for (i = 0; i < NR_WORKS; i++) {
		if (ring && !works[i].on_two_disks)
			test_nothing_begins(&works[i]);
		if (ring)
			test_rate(&works[i]);
		options.without_io_uring = true;
		test_slow_disk(&works[i], false);
		if (works[i].writes)
			test_slow_disk(&works[i], true);
		if (!i) /* what was cancelled left no store */
			CHECK_OK(compare());
		test_rate(&works[i]);
		if (!i)
			CHECK_OK(compare());
		options.without_io_uring = false;
	}
	media_close();
	return 0;
}
