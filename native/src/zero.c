// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1 /* fallocate() */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "io_queue.h"
#include "zero.h"

#define PAGE_BYTES 4096u
#define PUNCH_BYTES (32ull << 20)
/* A medium that may have to write its zeroes must still let a copy be cancelled within a second. */
#define WRITE_BYTES (4ull << 20)
#define PATTERN_BYTES (256u << 10)

bool dms_is_zero(const void *data, size_t length_bytes)
{
	const unsigned char *bytes = data;

	/* Equal to itself shifted by one, and the first is zero: memcmp() is the fastest loop. */
	return !length_bytes || (!bytes[0] && !memcmp(bytes, bytes + 1, length_bytes - 1));
}

static size_t page_length(size_t length_bytes)
{
	return length_bytes < PAGE_BYTES ? length_bytes : PAGE_BYTES;
}

static size_t zero_pages(const char *data, size_t length_bytes)
{
	size_t position = 0;

	while (position < length_bytes) {
		size_t page = page_length(length_bytes - position);

		if (!dms_is_zero(data + position, page))
			break;
		position += page;
	}
	return position;
}

size_t dms_zero_next_run(const void *data, size_t length_bytes, bool *zero)
{
	size_t position = 0;

	while (position < length_bytes) {
		size_t run = zero_pages((const char *)data + position, length_bytes - position);

		if (run >= DMS_ZERO_RUN_BYTES || (run && run == length_bytes)) {
			*zero = position == 0;
			return position ? position : run;
		}
		position += run;
		if (position < length_bytes)
			position += page_length(length_bytes - position);
	}
	*zero = false;
	return position;
}

static int punch(int fd, uint64_t offset_bytes, uint64_t length_bytes)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset_bytes,
			 (off_t)length_bytes);
}

static int zero_range(int fd, uint64_t offset_bytes, uint64_t length_bytes)
{
	return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)offset_bytes,
			 (off_t)length_bytes);
}

static int block_zero_out(int fd, uint64_t offset_bytes, uint64_t length_bytes)
{
	uint64_t range[2] = { offset_bytes, length_bytes };

	return ioctl(fd, BLKZEROOUT, range);
}

/*
 * In the order they are tried. On a block device, punching deallocates and is
 * refused where the device cannot do that by itself; BLKZEROOUT then keeps the
 * blocks, and writes zeroes where nothing else is left.
 */
static int (*const ways[])(int fd, uint64_t offset_bytes, uint64_t length_bytes) = {
	punch,
	block_zero_out,
	zero_range,
};

#define NR_WAYS (sizeof(ways) / sizeof(ways[0]))

static struct dms_error *write_zeroes(const struct dms_medium *medium, uint64_t offset_bytes,
				      uint64_t length_bytes)
{
	_cleanup_free_ void *pattern = dms_io_buffer(PATTERN_BYTES);
	struct dms_error *error = NULL;

	if (!pattern)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for zeroes");
	memset(pattern, 0, PATTERN_BYTES);
	while (!error && length_bytes) {
		struct dms_io_request request = {
			.fd = medium->fd,
			.write = true,
			.buffer = pattern,
			.offset_bytes = offset_bytes,
			.length_bytes = length_bytes < PATTERN_BYTES ? (uint32_t)length_bytes :
								       PATTERN_BYTES,
		};

		error = dms_io_transfer(&request, medium->name);
		offset_bytes += request.length_bytes;
		length_bytes -= request.length_bytes;
	}
	return error;
}

/* "This medium, or this range, cannot": the next way may. Anything else is a failure. */
static bool is_refusal(int errnum)
{
	return errnum == EOPNOTSUPP || errnum == ENOTTY || errnum == ENOSYS || errnum == EINVAL ||
	       errnum == ENODEV || errnum == EPERM;
}

static struct dms_error *zero_out(struct dms_zero_out *zero_out)
{
	const struct dms_medium *medium = zero_out->medium;
	ssize_t injected = 0;

	if (dms_io_inject)
		injected = dms_io_inject(DMS_IO_WRITE, medium->fd, zero_out->offset_bytes,
					 (uint32_t)zero_out->length_bytes);
	if (injected < 0)
		return dms_error_create_os_at((int)-injected, zero_out->offset_bytes,
					      "zeroing %llu bytes of %s",
					      (unsigned long long)zero_out->length_bytes,
					      medium->name);
	while (zero_out->way < NR_WAYS) {
		int result = ways[zero_out->way](medium->fd, zero_out->offset_bytes,
						 zero_out->length_bytes);

		if (!result)
			return NULL;
		if (errno == EINTR)
			continue;
		if (!is_refusal(errno))
			return dms_error_create_os_at(errno, zero_out->offset_bytes,
						      "zeroing %llu bytes of %s",
						      (unsigned long long)zero_out->length_bytes,
						      medium->name);
		zero_out->way++;
	}
	return write_zeroes(medium, zero_out->offset_bytes, zero_out->length_bytes);
}

struct dms_error *dms_zero_out_finish(struct dms_zero_out *pending)
{
	struct dms_error *error = pending->length_bytes ? zero_out(pending) : NULL;

	if (!error)
		pending->bytes_zero += pending->length_bytes;
	if (!error && pending->length_bytes)
		pending->punches = !pending->way;
	pending->length_bytes = 0;
	return error;
}

struct dms_error *dms_zero_out_add(struct dms_zero_out *pending, uint64_t offset_bytes,
				   uint64_t length_bytes)
{
	bool touches = pending->offset_bytes + pending->length_bytes == offset_bytes;
	uint64_t most = pending->punches ? PUNCH_BYTES : WRITE_BYTES;

	if (pending->length_bytes && (!touches || pending->length_bytes + length_bytes > most)) {
		struct dms_error *error = dms_zero_out_finish(pending);

		if (error)
			return error;
	}
	if (!pending->length_bytes)
		pending->offset_bytes = offset_bytes;
	pending->length_bytes += length_bytes;
	return NULL;
}
