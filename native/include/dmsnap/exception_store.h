/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dm-snapshot's persistent exception store (drivers/md/dm-snap-persistent.c),
 * read and written. Chunk 0 is the header; area a of chunk_size/16 pairs lies
 * at chunk 1 + a * (chunk_size/16 + 1), its data chunks behind it.
 */
#ifndef DMSNAP_EXCEPTION_STORE_H
#define DMSNAP_EXCEPTION_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
struct dms_exception_store_header {
	uint32_t valid; /* 0: overflowed or failed, what follows cannot be trusted */
	uint32_t version;
	uint32_t chunk_size; /* sectors */
};

/* Exceptions of chunks that follow each other, on the origin and in the store. */
struct dms_exception_run {
	uint64_t old_chunk; /* the first one's, on the origin */
	uint64_t new_chunk; /* and in the store */
	uint64_t count;
};

struct dms_exception_store;

/*
 * A store of length_bytes at offset_bytes of fd. Reads the header and every
 * metadata area, never data. Takes memory by the run: for a store in ascending
 * order 24 bytes an area, and for one in the worst 48 an exception. Refuses a store whose pairs point outside it or
 * name one chunk twice. A store that the kernel marked invalid opens; only
 * its header may be used.
 */
struct dms_error *dms_exception_store_open(int fd, uint64_t offset_bytes, uint64_t length_bytes,
					   struct dms_exception_store **store);
void dms_exception_store_close(struct dms_exception_store *store);
const struct dms_exception_store_header *
dms_exception_store_header(const struct dms_exception_store *store);
/* Of exceptions. */
size_t dms_exception_store_count(const struct dms_exception_store *store);
/* All exceptions in the order they were made, in runs that are as long as they go. */
size_t dms_exception_store_nr_runs(const struct dms_exception_store *store);
const struct dms_exception_run *dms_exception_store_runs(const struct dms_exception_store *store);
/* The bytes of the origin that the store has exceptions for; clamp to the origin's size. */
struct dms_error *dms_exception_store_extents(const struct dms_exception_store *store,
					      struct dms_extent_set **set);

/*
 * Bytes that a store with nr_exceptions takes: header, areas, data, and the
 * terminating area when the last one is full, without which the kernel would
 * read on into what lies behind.
 */
uint64_t dms_exception_store_size(uint64_t nr_exceptions, uint32_t chunk_size_sectors);
/* cffi: end */

/*
 * Sequential writer, used by the copy engine. Until finish() wrote the
 * header, the region holds no valid store: create() wipes the old header.
 */
struct dms_exception_store_writer;

struct dms_error *
dms_exception_store_writer_create(int fd, uint64_t offset_bytes, uint64_t length_bytes,
				  uint32_t chunk_size_sectors,
				  struct dms_exception_store_writer **writer);
void dms_exception_store_writer_destroy(struct dms_exception_store_writer *writer);
/* DMS_ERR_STORE_FULL when the chunk does not fit; data is chunk_size bytes. */
struct dms_error *dms_exception_store_writer_append(struct dms_exception_store_writer *writer,
						    uint64_t old_chunk, const void *data);
/* Areas, flush, header, flush. used_bytes: what the store occupies. */
struct dms_error *dms_exception_store_writer_finish(struct dms_exception_store_writer *writer,
						    uint64_t *nr_exceptions, uint64_t *used_bytes);

#endif
