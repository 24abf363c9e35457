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
};

/* A block to be read; the rest is for whoever asked. */
struct dms_block_ref {
	uint64_t blocknr;
	uint64_t key;
	uint64_t key_end;
};

typedef struct dms_error *(*dms_block_fn)(void *context, const struct dms_block_ref *ref,
					  const uint8_t *block);

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

/*
 * Hand every block of refs to fn, in ascending order of block numbers: refs
 * are sorted in place. Neighbours are read together, through small gaps, too.
 * A block that lies outside the medium is DMS_ERR_OUT_OF_BOUNDS.
 */
struct dms_error *dms_block_io_read_blocks(const struct dms_block_io *io, const char *what,
					   struct dms_block_ref *refs, size_t nr_refs,
					   dms_block_fn fn, void *context);

/* Write all of size bytes; everything aligned by the caller. */
struct dms_error *dms_write_at(int fd, const char *what, const void *buffer, size_t size,
			       uint64_t offset_bytes);

#endif
