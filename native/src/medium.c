// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1 /* O_DIRECT */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "io_queue.h"
#include "medium.h"

#define SECTOR_BYTES 512u

static struct dms_error *probe_block_device(struct dms_medium *medium)
{
	int block_bytes;

	if (ioctl(medium->fd, BLKGETSIZE64, &medium->size_bytes) < 0)
		return dms_error_create_os(errno, "asking for the size of %s", medium->name);
	if (ioctl(medium->fd, BLKSSZGET, &block_bytes) < 0)
		return dms_error_create_os(errno, "asking for the block size of %s", medium->name);
	medium->block_bytes = (uint32_t)block_bytes;
	return NULL;
}

/*
 * A file system says what O_DIRECT needs only since statx() of Linux 6.1, so
 * ask the file itself: the smallest read that goes through is the block.
 * Where nothing can be read (write-only, empty), 4096 is right everywhere.
 */
static uint32_t probe_file(const struct dms_medium *medium)
{
	_cleanup_free_ void *buffer = dms_io_buffer(DMS_IO_ALIGNMENT);
	uint32_t block_bytes;

	if (!buffer || !medium->size_bytes)
		return DMS_IO_ALIGNMENT;
	for (block_bytes = SECTOR_BYTES; block_bytes < DMS_IO_ALIGNMENT; block_bytes *= 2)
		if (pread(medium->fd, buffer, block_bytes, 0) > 0)
			return block_bytes;
	return DMS_IO_ALIGNMENT;
}

struct dms_error *dms_medium_probe(int fd, const char *name, struct dms_medium *medium)
{
	int flags = fcntl(fd, F_GETFL);
	struct dms_error *error;

	*medium = (struct dms_medium){ .fd = fd, .name = name, .block_bytes = 1 };
	if (flags < 0 || fstat(fd, &medium->status) < 0)
		return dms_error_create_os(errno, "looking at %s", name);
	if (S_ISBLK(medium->status.st_mode)) {
		error = probe_block_device(medium);
		if (error)
			return error;
	} else if (S_ISREG(medium->status.st_mode)) {
		medium->size_bytes = (uint64_t)medium->status.st_size;
		medium->block_bytes = flags & O_DIRECT ? probe_file(medium) : 1;
	} else {
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"%s is neither a block device nor a file", name);
	}
	if (!(flags & O_DIRECT))
		medium->block_bytes = 1;
	return NULL;
}

struct dms_error *dms_medium_check_range(const struct dms_medium *medium, uint64_t offset_bytes,
					 uint64_t length_bytes)
{
	if (length_bytes > medium->size_bytes || offset_bytes > medium->size_bytes - length_bytes)
		return dms_error_create_at(DMS_ERR_OUT_OF_BOUNDS, medium->size_bytes,
					   "%s has %llu bytes, %llu bytes at %llu reach past it",
					   medium->name, (unsigned long long)medium->size_bytes,
					   (unsigned long long)length_bytes,
					   (unsigned long long)offset_bytes);
	if (offset_bytes % medium->block_bytes || length_bytes % medium->block_bytes)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"%s has blocks of %u bytes: %llu bytes at %llu are no whole"
					" number of them, which O_DIRECT needs",
					medium->name, medium->block_bytes,
					(unsigned long long)length_bytes,
					(unsigned long long)offset_bytes);
	return NULL;
}

bool dms_medium_is_same(const struct dms_medium *left, const struct dms_medium *right)
{
	if (S_ISBLK(left->status.st_mode) != S_ISBLK(right->status.st_mode))
		return false;
	if (S_ISBLK(left->status.st_mode))
		return left->status.st_rdev == right->status.st_rdev;
	return left->status.st_dev == right->status.st_dev &&
	       left->status.st_ino == right->status.st_ino;
}
