// SPDX-License-Identifier: Apache-2.0
/*
 * The copy engine as a program, for measurements:
 *	copy_engine copy|zero SOURCE DESTINATION	all of it; zero: with zero detection
 *	copy_engine compare SOURCE DESTINATION [LIST]	says how much differs
 *	copy_engine sync SOURCE DESTINATION LIST UNDO	compare, keep the old in UNDO (-: do not),
 *							apply; says what both took
 *	copy_engine blind SOURCE DESTINATION LIST	what sync is held against, below
 * LIST has a line "OFFSET LENGTH" for each extent, in bytes. Everything is O_DIRECT where the
 * medium takes it. DMSNAP_QUEUE_DEPTH, DMSNAP_REQUEST_BYTES, DMSNAP_WITHOUT_IO_URING and
 * DMSNAP_KEEP_MIB (32) set options.
 */
#define _GNU_SOURCE 1 /* O_DIRECT */
#include <fcntl.h>
#include <liburing.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include <dmsnap/copy.h>

#include "../src/io_queue.h"
#include "test.h"

#define BLIND_DEPTH 32u
#define BLIND_BYTES (1u << 20)

static int open_direct(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_DIRECT);

	if (fd < 0)
		fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		perror(path);
	CHECK(fd >= 0);
	return fd;
}

static uint64_t size_of(int fd)
{
	struct stat status;
	uint64_t size;

	CHECK(!fstat(fd, &status));
	if (S_ISREG(status.st_mode))
		return (uint64_t)status.st_size;
	CHECK(!ioctl(fd, BLKGETSIZE64, &size));
	return size;
}

static uint32_t setting(const char *name, uint32_t otherwise)
{
	const char *value = getenv(name);

	return value ? (uint32_t)strtoul(value, NULL, 10) : otherwise;
}

static struct dms_extent_set *read_list(const char *path)
{
	struct dms_extent_set *set;
	uint64_t offset, length;
	FILE *file = fopen(path, "re");

	CHECK(file);
	CHECK_OK(dms_extent_set_create(&set));
	while (fscanf(file, "%" SCNu64 " %" SCNu64, &offset, &length) == 2)
		CHECK_OK(dms_extent_set_add(set, offset, length));
	fclose(file);
	return set;
}

static struct dms_extent_set *whole(uint64_t size)
{
	struct dms_extent_set *set;

	CHECK_OK(dms_extent_set_create(&set));
	CHECK_OK(dms_extent_set_add(set, 0, size));
	return set;
}

/*
 * The loop to be held against: what a plain program does that trusts the list, io_uring and O_DIRECT
 * with many requests in flight, and one flush at the end. It keeps nothing of what it overwrites.
 */
struct transfer {
	char *buffer;
	uint64_t offset;
	uint32_t length;
	bool write;
};

static void blind_submit(struct io_uring *ring, const int *fds, struct transfer *transfer)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	CHECK(sqe);
	if (transfer->write)
		io_uring_prep_write(sqe, fds[1], transfer->buffer, transfer->length,
				    transfer->offset);
	else
		io_uring_prep_read(sqe, fds[0], transfer->buffer, transfer->length,
				   transfer->offset);
	io_uring_sqe_set_data(sqe, transfer);
}

static bool blind_next(const struct dms_extent *extents, size_t count, size_t *extent,
		       uint64_t *position, struct transfer *transfer)
{
	uint64_t left;

	if (*extent == count)
		return false;
	left = extents[*extent].length_bytes - *position;
	transfer->offset = extents[*extent].offset_bytes + *position;
	transfer->length = left < BLIND_BYTES ? (uint32_t)left : BLIND_BYTES;
	transfer->write = false;
	*position += transfer->length;
	if (*position == extents[*extent].length_bytes) {
		(*extent)++;
		*position = 0;
	}
	return true;
}

static void blind(const int *fds, const struct dms_extent_set *list)
{
	static struct transfer transfers[BLIND_DEPTH];
	const struct dms_extent *extents = dms_extent_set_extents(list);
	size_t count = dms_extent_set_count(list), extent = 0;
	uint64_t position = 0;
	uint32_t in_flight = 0, i;
	struct io_uring_cqe *cqe;
	struct io_uring ring;

	CHECK(!io_uring_queue_init(BLIND_DEPTH, &ring, 0));
	for (i = 0; i < BLIND_DEPTH; i++) {
		transfers[i].buffer = aligned_alloc(4096, BLIND_BYTES);
		CHECK(transfers[i].buffer);
		if (blind_next(extents, count, &extent, &position, &transfers[i])) {
			blind_submit(&ring, fds, &transfers[i]);
			in_flight++;
		}
	}
	while (in_flight) {
		CHECK(io_uring_submit_and_wait(&ring, 1) >= 0);
		while (!io_uring_peek_cqe(&ring, &cqe)) {
			struct transfer *transfer = io_uring_cqe_get_data(cqe);

			CHECK(cqe->res == (int)transfer->length);
			io_uring_cqe_seen(&ring, cqe);
			transfer->write = !transfer->write;
			if (transfer->write ||
			    blind_next(extents, count, &extent, &position, transfer))
				blind_submit(&ring, fds, transfer);
			else
				in_flight--;
		}
	}
	CHECK(!fdatasync(fds[1]));
	io_uring_queue_exit(&ring);
}

static void sync_list(const int *fds, uint64_t size, const struct dms_extent_set *list,
		      const char *undo_path, struct dms_copy_options *options)
{
	bool with_undo = strcmp(undo_path, "-") != 0;
	struct dms_undo_store undo = { .fd = with_undo ? open_direct(undo_path, O_RDWR) : -1,
				       .chunk_size = 8 };
	struct dms_extent_set *different;
	struct dms_copy_stats stats;
	uint64_t begun = dms_io_clock_us(), compared;

	CHECK_OK(dms_copy_kept_create((uint64_t)setting("DMSNAP_KEEP_MIB", 32) << 20,
				      &options->kept));
	undo.length_bytes = with_undo ? size_of(undo.fd) : 0;
	CHECK_OK(dms_copy_compare(fds[0], fds[1], size, list, options, with_undo ? &undo : NULL,
				  &stats, &different));
	compared = dms_io_clock_us();
	CHECK_OK(dms_copy_apply(fds[0], fds[1], size, different, false, options, &stats));
	printf("%.6f s to compare and keep, %.6f s to apply\n", (double)(compared - begun) / 1e6,
	       (double)(dms_io_clock_us() - compared) / 1e6);
	dms_copy_kept_destroy(options->kept);
	dms_extent_set_destroy(different);
	if (with_undo)
		close(undo.fd);
}

int main(int argc, char **argv)
{
	struct dms_copy_options options = {
		.queue_depth = setting("DMSNAP_QUEUE_DEPTH", 0),
		.request_bytes = setting("DMSNAP_REQUEST_BYTES", 0),
		.without_io_uring = setting("DMSNAP_WITHOUT_IO_URING", 0) != 0,
	};
	struct dms_extent_set *list, *different;
	struct dms_copy_stats stats = { 0 };
	uint64_t size;
	int fds[2];

	CHECK(argc >= 4);
	fds[0] = open_direct(argv[2], O_RDONLY);
	fds[1] = open_direct(argv[3], O_RDWR);
	size = size_of(fds[0]);
	list = argc > 4 ? read_list(argv[4]) : whole(size);
	if (!strcmp(argv[1], "compare")) {
		CHECK_OK(dms_copy_compare(fds[0], fds[1], size, list, &options, NULL, &stats,
					  &different));
		printf("%" PRIu64 " bytes differ\n", stats.bytes_different);
		dms_extent_set_destroy(different);
	} else if (!strcmp(argv[1], "sync")) {
		CHECK(argc == 6);
		sync_list(fds, size, list, argv[5], &options);
	} else if (!strcmp(argv[1], "blind")) {
		blind(fds, list);
	} else {
		CHECK_OK(dms_copy_apply(fds[0], fds[1], size, list, !strcmp(argv[1], "zero"),
					&options, &stats));
	}
	dms_extent_set_destroy(list);
	return 0;
}
