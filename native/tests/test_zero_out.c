// SPDX-License-Identifier: Apache-2.0
/* Zeroes that are given away: the hole that is made, and what is done when a way is refused. */
#define _GNU_SOURCE 1

#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "../src/zero.h"
#include "copy_sides.h"

DEFINE_FAULTS;

#define KIB 1024ull
#define MIB (1024 * KIB)
#define PIECE (64 * KIB)
#define SIZE (8 * MIB)
/* What may be on its way to a medium that writes zeroes, so that a cancel comes through. */
#define WRITTEN_AT_ONCE (4 * MIB)

/* In the order in which they are to be tried; WRITES is what is left when all are refused. */
enum way { PUNCHES, ZEROES_OUT, ZEROES_RANGE, WRITES, NR_WAYS = WRITES };

static struct {
	int errnum; /* 0: the medium takes it */
	unsigned int interrupted; /* so often, before that */
	unsigned int calls;
	uint64_t most_bytes; /* at once */
} ways[NR_WAYS];

/* The kernel punches; what else it does here is what it has to do on any medium. */
static int take(enum way way, int fd, uint64_t offset, uint64_t length)
{
	static const char zeroes[4096];
	uint64_t done;

	ways[way].calls++;
	if (length > ways[way].most_bytes)
		ways[way].most_bytes = length;
	if (ways[way].interrupted || ways[way].errnum) {
		errno = ways[way].interrupted ? EINTR : ways[way].errnum;
		if (ways[way].interrupted)
			ways[way].interrupted--;
		return -1;
	}
	if (way == PUNCHES)
		return (int)syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    offset, length);
	for (done = 0; done < length; done += 512)
		CHECK(pwrite(fd, zeroes, 512, (off_t)(offset + done)) == 512);
	return 0;
}

/* In the place of libc's: the core zeroes with them. */
int fallocate(int fd, int mode, off_t offset, off_t length)
{
	/* Whatever is zeroed, the file keeps its size. */
	CHECK(mode & FALLOC_FL_KEEP_SIZE);
	CHECK(!(mode & FALLOC_FL_PUNCH_HOLE) != !(mode & FALLOC_FL_ZERO_RANGE));
	return take(mode & FALLOC_FL_PUNCH_HOLE ? PUNCHES : ZEROES_RANGE, fd, (uint64_t)offset,
		    (uint64_t)length);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	uint64_t *range;

	va_start(arguments, request);
	range = va_arg(arguments, uint64_t *);
	va_end(arguments);
	if (request != BLKZEROOUT)
		return (int)syscall(SYS_ioctl, fd, request, range);
	return take(ZEROES_OUT, fd, range[0], range[1]);
}

/* The medium takes this way, and refuses all before it. */
static void only_from(enum way way, int errnum)
{
	int i;

	memset(ways, 0, sizeof(ways));
	for (i = 0; i < NR_WAYS; i++)
		ways[i].errnum = i < (int)way ? errnum : 0;
}

/* A file of tmpfs, where every page that is not in a hole is allocated. */
static int full_file(uint64_t size)
{
	int fd = memfd_create("zeroed", MFD_CLOEXEC);
	char *data = malloc(size);

	CHECK(fd >= 0 && data);
	memset(data, 0x5a, size);
	CHECK(pwrite(fd, data, size, 0) == (ssize_t)size);
	free(data);
	return fd;
}

static uint64_t allocated(int fd)
{
	struct stat status;

	CHECK(!fstat(fd, &status));
	return (uint64_t)status.st_blocks * 512;
}

static void check_zero(int fd, uint64_t offset, uint64_t length, uint64_t size)
{
	char *all = contents(fd, 0, size);
	uint64_t i;

	for (i = 0; i < size; i++)
		CHECK(all[i] == (i >= offset && i < offset + length ? 0 : 0x5a));
	free(all);
}

static void add(struct dms_zero_out *zero_out, uint64_t offset, uint64_t length)
{
	uint64_t done;

	for (done = 0; done < length; done += PIECE)
		CHECK_OK(dms_zero_out_add(zero_out, offset + done, PIECE));
}

static void check_calls(enum way taken, uint64_t length)
{
	int i;

	for (i = 0; i < NR_WAYS; i++) {
		if (i < (int)taken) /* once is enough to know */
			CHECK(ways[i].calls == 1);
		else if (i == (int)taken)
			CHECK(ways[i].calls >= 1 && ways[i].calls <= length / MIB);
		else
			CHECK(!ways[i].calls);
		if (i != PUNCHES || taken != PUNCHES)
			CHECK(ways[i].most_bytes <= WRITTEN_AT_ONCE);
	}
}

/* Each way in turn is the first that the medium takes. */
static void test_refusals(void)
{
	static const int refusals[] = { EOPNOTSUPP, ENOTTY, ENOSYS, EINVAL, ENODEV, EPERM };
	const uint64_t offset = MIB, length = SIZE - 2 * MIB;
	struct dms_medium medium;
	unsigned int i, taken;

	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		for (taken = PUNCHES; taken <= WRITES; taken++) {
			int fd = full_file(SIZE);
			struct dms_zero_out zero_out = { .medium = &medium };

			CHECK_OK(dms_medium_probe(fd, "a file", &medium));
			only_from(taken, refusals[i]);
			fault = (struct fault){ .fd = fd };
			add(&zero_out, offset, length);
			CHECK_OK(dms_zero_out_finish(&zero_out));
			CHECK(zero_out.bytes_zero == length);
			check_zero(fd, offset, length, SIZE);
			check_calls(taken, length);
			/* Asked for once before each try, and for every write there was. */
			CHECK((taken == WRITES) == (fault.seen >= (int)(length / MIB)));
			CHECK(allocated(fd) == (taken == PUNCHES ? SIZE - length : SIZE));
			close(fd);
		}
	}
	fault = (struct fault){ .fd = -1 };
}

/* An error that says nothing of what the medium can is one, and no other way hides it. */
static void test_errors(void)
{
	static const int errnums[] = { EIO, ENOSPC, EROFS, ENOMEM };
	struct dms_medium medium;
	unsigned int i, way;

	for (i = 0; i < sizeof(errnums) / sizeof(errnums[0]); i++) {
		for (way = PUNCHES; way < NR_WAYS; way++) {
			int fd = full_file(SIZE);
			struct dms_zero_out zero_out = { .medium = &medium };
			struct dms_error *error;

			CHECK_OK(dms_medium_probe(fd, "a file", &medium));
			only_from(way, EOPNOTSUPP);
			ways[way].errnum = errnums[i];
			add(&zero_out, 2 * PIECE, PIECE);
			error = dms_zero_out_finish(&zero_out);
			CHECK(error && error->code == DMS_ERR_OS && error->errnum == errnums[i]);
			CHECK(error->offset_bytes == 2 * PIECE);
			dms_error_destroy(error);
			CHECK(!zero_out.bytes_zero);
			CHECK(ways[way].calls == 1);
			CHECK(way + 1 == NR_WAYS || !ways[way + 1].calls);
			check_zero(fd, 0, 0, SIZE);
			close(fd);
		}
	}
}

/* A signal is no refusal. */
static void test_interrupted(void)
{
	struct dms_medium medium;
	unsigned int way;

	for (way = PUNCHES; way < NR_WAYS; way++) {
		int fd = full_file(SIZE);
		struct dms_zero_out zero_out = { .medium = &medium };

		CHECK_OK(dms_medium_probe(fd, "a file", &medium));
		only_from(way, EOPNOTSUPP);
		ways[way].interrupted = 3;
		add(&zero_out, 0, PIECE);
		CHECK_OK(dms_zero_out_finish(&zero_out));
		CHECK(ways[way].calls == 4);
		CHECK(way + 1 == NR_WAYS || !ways[way + 1].calls);
		check_zero(fd, 0, PIECE, SIZE);
		close(fd);
	}
}

/* The last way is written, and fails as writes do. */
static void test_failed_writes(void)
{
	int fd = full_file(SIZE), i, total;
	struct dms_medium medium;

	CHECK_OK(dms_medium_probe(fd, "a file", &medium));
	for (i = 0, total = 1; i <= total; i++) {
		struct dms_zero_out zero_out = { .medium = &medium };
		struct dms_error *error;

		only_from(WRITES, EOPNOTSUPP);
		fault = (struct fault){ .fd = fd, .countdown = i, .result = -EIO };
		add(&zero_out, 0, 2 * MIB);
		error = dms_zero_out_finish(&zero_out);
		if (i) {
			CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
			CHECK(error->offset_bytes < 2 * MIB && !zero_out.bytes_zero);
		} else {
			CHECK(!error);
			total = fault.seen;
			CHECK(total > 2);
		}
		dms_error_destroy(error);
	}
	fault = (struct fault){ .fd = -1 };
	close(fd);
}

/* An empty volume takes few calls, where they cost nothing; what does not touch is apart. */
static void test_gathering(void)
{
	const uint64_t size = 64 * MIB;
	int fd = memfd_create("empty", MFD_CLOEXEC);
	struct dms_zero_out zero_out = { 0 };
	struct dms_medium medium;

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
	CHECK_OK(dms_medium_probe(fd, "a file", &medium));
	zero_out.medium = &medium;
	only_from(PUNCHES, 0);
	add(&zero_out, 0, size);
	CHECK_OK(dms_zero_out_finish(&zero_out));
	CHECK(ways[PUNCHES].calls <= 4);
	ways[PUNCHES].calls = 0;
	ways[PUNCHES].most_bytes = 0;
	add(&zero_out, 0, PIECE);
	add(&zero_out, 2 * PIECE, PIECE);
	add(&zero_out, 3 * PIECE, PIECE);
	add(&zero_out, PIECE, PIECE);
	CHECK_OK(dms_zero_out_finish(&zero_out));
	CHECK(ways[PUNCHES].calls == 3 && ways[PUNCHES].most_bytes == 2 * PIECE);
	CHECK_OK(dms_zero_out_finish(&zero_out));
	CHECK(ways[PUNCHES].calls == 3);
	CHECK(zero_out.bytes_zero == size + 4 * PIECE);
	close(fd);
}

/* By the whole engine: the same content by every way, and holes where they can be made. */
static void test_apply(enum way taken)
{
	const uint64_t zeroes = 3 * MIB;
	struct dms_extent_set *all = whole(SIZE);
	int source = scratch_file(SIZE, 0, direct), destination = full_file(SIZE + BEHIND);
	struct dms_copy_stats stats;
	char *new = malloc(SIZE);

	CHECK(new);
	fill_random(new, SIZE, 3);
	memset(new + MIB, 0, MIB);
	memset(new + 4 * MIB, 0, 2 * MIB);
	/* Too short to be worth it: it is written. */
	memset(new + 7 * MIB, 0, 8 * KIB);
	put(source, 0, new, SIZE);
	only_from(taken, EOPNOTSUPP);
	CHECK_OK(dms_copy_apply(source, destination, SIZE, all, true, &options, &stats));
	CHECK(stats.bytes_written == SIZE);
	/* Requests may be cut where a run of zeroes is. */
	CHECK(stats.bytes_zero <= zeroes && stats.bytes_zero >= zeroes - 8 * PIECE);
	check_content(destination, new, SIZE);
	CHECK(allocated(destination) ==
	      SIZE + BEHIND - (taken == PUNCHES ? stats.bytes_zero : 0));
	dms_extent_set_destroy(all);
	close(source);
	close(destination);
	free(new);
}

int main(void)
{
	static const struct dms_copy_options variants[] = {
		{ 0 },
		{ .without_io_uring = true },
		{ .queue_depth = 3, .request_bytes = 256 * KIB },
	};
	unsigned int i, taken;

	fault.fd = -1;
	test_refusals();
	test_errors();
	test_interrupted();
	test_failed_writes();
	test_gathering();
	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		options = variants[i];
		direct = i % 2 ? 0 : O_DIRECT;
		for (taken = PUNCHES; taken <= WRITES; taken++)
			test_apply(taken);
	}
	return 0;
}
