// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE /* O_DIRECT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block_io.h"
#include "cleanup.h"

/* The largest read: small enough to stay in the processor's cache until it is checked. */
#define BATCH_BLOCKS 256
/* Reading this many unwanted blocks costs less than another request. */
#define MAX_GAP_BLOCKS 8

struct dms_error *dms_buffer_create(size_t size, uint8_t **buffer)
{
	size_t rounded = (size + DMS_BLOCK_BYTES - 1) & ~(size_t)(DMS_BLOCK_BYTES - 1);
	uint8_t *new = rounded < size ? NULL : aligned_alloc(DMS_BLOCK_BYTES, rounded);

	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a buffer of %zu bytes",
					size);
	*buffer = new;
	return NULL;
}

static struct dms_error *size_of(int fd, uint64_t *size_bytes)
{
	struct stat status;

	if (fstat(fd, &status))
		return dms_error_create_os(errno, "fstat");
	if (S_ISREG(status.st_mode)) {
		*size_bytes = (uint64_t)status.st_size;
		return NULL;
	}
	if (!S_ISBLK(status.st_mode))
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"neither a block device nor a regular file");
	if (ioctl(fd, BLKGETSIZE64, size_bytes))
		return dms_error_create_os(errno, "BLKGETSIZE64");
	return NULL;
}

struct dms_error *dms_block_io_init(struct dms_block_io *io, int fd)
{
	uint64_t size_bytes;
	struct dms_error *error;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return dms_error_create_os(errno, "fcntl");
	error = size_of(fd, &size_bytes);
	if (error)
		return error;
	*io = (struct dms_block_io){
		.fd = fd,
		.size_bytes = size_bytes,
		.nr_blocks = size_bytes / DMS_BLOCK_BYTES,
		.direct = flags & O_DIRECT,
	};
	return NULL;
}

/*
 * Read up to size bytes, at least needed. The two differ at the end of a
 * medium that is no whole number of blocks: O_DIRECT wants a whole block
 * asked for, and gives what there is.
 */
static struct dms_error *read_at(int fd, const char *what, uint8_t *buffer, size_t size,
				 size_t needed, uint64_t offset_bytes)
{
	size_t done = 0;

	while (done < needed) {
		ssize_t result = pread(fd, buffer + done, size - done,
				       (off_t)(offset_bytes + done));

		if (result < 0 && errno == EINTR)
			continue;
		if (result < 0)
			return dms_error_create_os_at(errno, offset_bytes + done, "%s: read", what);
		if (!result)
			return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset_bytes + done,
						   "%s: %zu bytes wanted, the medium ends after %zu",
						   what, needed, done);
		done += (size_t)result;
	}
	return NULL;
}

struct dms_error *dms_block_io_read_bytes(const struct dms_block_io *io, const char *what,
					  uint64_t offset_bytes, size_t length, uint8_t *buffer,
					  const uint8_t **bytes)
{
	size_t head = offset_bytes % DMS_BLOCK_BYTES;
	size_t size = (head + length + DMS_BLOCK_BYTES - 1) & ~(size_t)(DMS_BLOCK_BYTES - 1);
	struct dms_error *error;

	if (offset_bytes > io->size_bytes || length > io->size_bytes - offset_bytes)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, offset_bytes,
					   "%s: %zu bytes wanted, the medium ends at %" PRIu64,
					   what, length, io->size_bytes);
	error = read_at(io->fd, what, buffer, size, head + length, offset_bytes - head);
	if (!error)
		*bytes = buffer + head;
	return error;
}

static int compare_refs(const void *left, const void *right)
{
	uint64_t a = ((const struct dms_block_ref *)left)->blocknr;
	uint64_t b = ((const struct dms_block_ref *)right)->blocknr;

	return (a > b) - (a < b);
}

static void sort_refs(struct dms_block_ref *refs, size_t nr_refs)
{
	for (size_t i = 1; i < nr_refs; i++) {
		if (refs[i - 1].blocknr > refs[i].blocknr) {
			qsort(refs, nr_refs, sizeof(*refs), compare_refs);
			return;
		}
	}
}

/* How many of the refs one read takes. */
static size_t run_length(const struct dms_block_ref *refs, size_t nr_refs)
{
	size_t i = 1;

	while (i < nr_refs && refs[i].blocknr - refs[i - 1].blocknr <= MAX_GAP_BLOCKS + 1 &&
	       refs[i].blocknr - refs[0].blocknr < BATCH_BLOCKS)
		i++;
	return i;
}

static size_t run_bytes(const struct dms_block_ref *refs, size_t nr_refs)
{
	return (size_t)(refs[nr_refs - 1].blocknr - refs[0].blocknr + 1) * DMS_BLOCK_BYTES;
}

static struct dms_error *read_run(const struct dms_block_io *io, const char *what,
				  const struct dms_block_ref *refs, size_t nr_refs, uint8_t *buffer,
				  dms_block_fn fn, void *context)
{
	size_t size = run_bytes(refs, nr_refs);
	struct dms_error *error = read_at(io->fd, what, buffer, size, size,
					  refs[0].blocknr * DMS_BLOCK_BYTES);

	if (error && nr_refs > 1) {
		/* What failed may lie in a gap; if not, the block by itself says where. */
		dms_error_destroy(error);
		for (size_t i = 0; i < nr_refs; i++) {
			error = read_run(io, what, &refs[i], 1, buffer, fn, context);
			if (error)
				return error;
		}
		return NULL;
	}
	for (size_t i = 0; !error && i < nr_refs; i++)
		error = fn(context, &refs[i],
			   buffer + (refs[i].blocknr - refs[0].blocknr) * DMS_BLOCK_BYTES);
	return error;
}

/* Let the kernel begin with the next read while this one is worked on. */
static void announce(const struct dms_block_io *io, const struct dms_block_ref *refs,
		     size_t nr_refs)
{
	if (nr_refs && !io->direct)
		posix_fadvise(io->fd, (off_t)(refs[0].blocknr * DMS_BLOCK_BYTES),
			      (off_t)run_bytes(refs, run_length(refs, nr_refs)),
			      POSIX_FADV_WILLNEED);
}

struct dms_error *dms_block_io_read_blocks(const struct dms_block_io *io, const char *what,
					   struct dms_block_ref *refs, size_t nr_refs,
					   dms_block_fn fn, void *context)
{
	_cleanup_free_ uint8_t *buffer = NULL;
	struct dms_error *error;
	size_t run;

	if (!nr_refs)
		return NULL;
	sort_refs(refs, nr_refs);
	if (refs[nr_refs - 1].blocknr >= io->nr_blocks)
		return dms_error_create(DMS_ERR_OUT_OF_BOUNDS,
					"%s block %" PRIu64 ": the medium has %" PRIu64 " blocks",
					what, refs[nr_refs - 1].blocknr, io->nr_blocks);
	error = dms_buffer_create(nr_refs > 1 ? BATCH_BLOCKS * DMS_BLOCK_BYTES : DMS_BLOCK_BYTES,
				  &buffer);
	if (error)
		return error;
	for (; nr_refs; refs += run, nr_refs -= run) {
		run = run_length(refs, nr_refs);
		announce(io, refs + run, nr_refs - run);
		error = read_run(io, what, refs, run, buffer, fn, context);
		if (error)
			return error;
	}
	return NULL;
}

struct dms_error *dms_write_at(int fd, const char *what, const void *buffer, size_t size,
			       uint64_t offset_bytes)
{
	size_t done = 0;

	while (done < size) {
		ssize_t result = pwrite(fd, (const uint8_t *)buffer + done, size - done,
					(off_t)(offset_bytes + done));

		if (result < 0 && errno == EINTR)
			continue;
		if (result < 0)
			return dms_error_create_os_at(errno, offset_bytes + done, "%s: write",
						      what);
		if (!result)
			return dms_error_create_os_at(EIO, offset_bytes + done, "%s: write", what);
		done += (size_t)result;
	}
	return NULL;
}
