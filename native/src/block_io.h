/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of a device or an image, in aligned pieces that suit O_DIRECT on any
 * sector size up to 4 KiB.
 */
#ifndef DMSNAP_SRC_BLOCK_IO_H
#define DMSNAP_SRC_BLOCK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>

#define DMS_BLOCK_BYTES 4096

/* fd belongs to the caller. */
struct dms_block_io {
	int fd;
	uint64_t size_bytes;
	uint64_t nr_blocks; /* whole ones */
	bool direct;
	bool without_io_uring; /* tests set it */
	uint32_t nr_readers; /* 0: as many as there are processors; tests set it */
};

/* A buffer that O_DIRECT takes; free() it. size is rounded up to whole blocks. */
struct dms_error *dms_buffer_create(size_t size, uint8_t **buffer);

/* The medium's size: BLKGETSIZE64 of a block device, the length of a regular file. */
struct dms_error *dms_block_io_init(struct dms_block_io *io, int fd);

/*
 * Read length bytes at offset_bytes, whatever their alignment, into buffer,
 * which must have room for length + 2 blocks; *bytes is where they begin.
 * what names them in errors.
 */
struct dms_error *dms_block_io_read_bytes(const struct dms_block_io *io, const char *what,
					  uint64_t offset_bytes, size_t length, uint8_t *buffer,
					  const uint8_t **bytes);

/* Write all of size bytes; everything aligned by the caller. */
struct dms_error *dms_write_at(int fd, const char *what, const void *buffer, size_t size,
			       uint64_t offset_bytes);

#endif
