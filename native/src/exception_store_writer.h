/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DMSNAP_SRC_EXCEPTION_STORE_WRITER_H
#define DMSNAP_SRC_EXCEPTION_STORE_WRITER_H

#include <dmsnap/exception_store.h>

#include "cleanup.h"

#define DMS_STORE_MAGIC 0x70416e53u /* SNAP_MAGIC of drivers/md/dm-snap-persistent.c */
#define DMS_STORE_VERSION 1u
#define DMS_STORE_SECTOR_BYTES 512u
#define DMS_STORE_PAIR_BYTES 16u
#define DMS_STORE_HEADER_CHUNKS 1u
#define DMS_STORE_MEDIUM "the exception store"
#define DMS_STORE_MIN_CHUNK_SECTORS 8u
#define DMS_STORE_MAX_CHUNK_SECTORS 2048u

/*
 * What stands in the header's place while a store is not finished. Not zeroes:
 * the kernel takes a zeroed header for an empty store that it may initialise,
 * and would show the origin unchanged. This it refuses.
 */
#define DMS_STORE_UNFINISHED "dmsnap: unfinished exception store"

/* The most exceptions whose store fits into length_bytes, which holds at least an empty one. */
uint64_t dms_store_capacity(uint64_t length_bytes, uint32_t chunk_bytes);
/* The chunk that the index-th exception's data goes to. */
uint64_t dms_store_data_chunk(uint64_t index, uint32_t chunk_bytes);
/* Whether a store can be written there at all: chunk size, room, ends of the medium. */
struct dms_error *dms_store_check_region(int fd, uint64_t offset_bytes, uint64_t length_bytes,
					 uint32_t chunk_size);

struct dms_error *
dms_exception_store_writer_create_with(int fd, uint64_t offset_bytes, uint64_t length_bytes,
				       uint32_t chunk_size_sectors, bool without_io_uring,
				       struct dms_exception_store_writer **writer);

/*
 * As append(), for data that is on the medium, at its place and flushed. A
 * writer is given all of its data in this way or none.
 */
struct dms_error *dms_exception_store_writer_adopt(struct dms_exception_store_writer *writer,
						   uint64_t old_chunk);
/* Of all that is adopted, for the seal; it stays the caller's, until finish(). */
void dms_exception_store_writer_adopt_digest(struct dms_exception_store_writer *writer,
					     const uint8_t *digest);

/* The most requests that a writer has in flight. */
#define DMS_STORE_QUEUE_DEPTH 32u

struct dms_io_queue;
struct dms_io_request;

/*
 * A writer whose requests share a queue with others. Their context is the
 * writer: whoever waits for the queue gives them to complete(). The queue is
 * destroyed before the writer, whose buffers they are in.
 */
struct dms_error *
dms_exception_store_writer_create_on(struct dms_io_queue *queue, int fd, uint64_t offset_bytes,
				     uint64_t length_bytes, uint32_t chunk_size_sectors,
				     struct dms_exception_store_writer **writer);
uint64_t dms_exception_store_writer_in_flight_bytes(const struct dms_exception_store_writer *writer);
struct dms_error *dms_exception_store_writer_complete(struct dms_exception_store_writer *writer,
						      const struct dms_io_request *request);
DMS_DEFINE_CLEANUP(dms_cleanup_store_writer, struct dms_exception_store_writer,
		   dms_exception_store_writer_destroy);
#define _cleanup_store_writer_ DMS_CLEANUP(dms_cleanup_store_writer)

#endif
