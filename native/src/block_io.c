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
#include "io_queue.h"

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

/* One pread(), or what a test has in its place; a negative errno. */
static ssize_t transfer(int fd, uint8_t *buffer, size_t size, uint64_t offset_bytes)
{
	ssize_t injected = 0, result;

	if (dms_io_inject)
		injected = dms_io_inject(DMS_IO_READ, fd, offset_bytes, (uint32_t)size);
	if (injected < 0)
		return injected;
	if (injected > 0 && (size_t)injected < size)
		size = (size_t)injected;
	result = pread(fd, buffer, size, (off_t)offset_bytes);
	return result < 0 ? -errno : result;
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
		ssize_t result = transfer(fd, buffer + done, size - done, offset_bytes + done);

		if (result == -EINTR)
			continue;
		if (result < 0)
			return dms_error_create_os_at((int)-result, offset_bytes + done, "%s: read", what);
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
