// SPDX-License-Identifier: Apache-2.0
/* How many chunks a store takes, and how many exceptions a region takes. */
#include "exception_store_writer.h"
#include "medium.h"

uint64_t dms_exception_store_size(uint64_t nr_exceptions, uint32_t chunk_size_sectors)
{
	uint64_t chunk_bytes = (uint64_t)chunk_size_sectors * DMS_STORE_SECTOR_BYTES;
	uint64_t pairs = chunk_bytes / DMS_STORE_PAIR_BYTES;
	uint64_t chunks, size;

	if (!pairs)
		return UINT64_MAX;
	if (__builtin_add_overflow(nr_exceptions, nr_exceptions / pairs + 1 + DMS_STORE_HEADER_CHUNKS,
				   &chunks) ||
	    __builtin_mul_overflow(chunks, chunk_bytes, &size))
		return UINT64_MAX;
	return size;
}

/* The most exceptions whose store fits into length_bytes. */
uint64_t dms_store_capacity(uint64_t length_bytes, uint32_t chunk_bytes)
{
	uint64_t pairs = chunk_bytes / DMS_STORE_PAIR_BYTES;
	uint64_t chunks = length_bytes / chunk_bytes - DMS_STORE_HEADER_CHUNKS;
	uint64_t strides = chunks / (pairs + 1);
	uint64_t rest = chunks % (pairs + 1);

	/* Without its terminating area a last area cannot be full. */
	return rest ? strides * pairs + rest - 1 : strides * pairs - 1;
}

uint64_t dms_store_data_chunk(uint64_t index, uint32_t chunk_bytes)
{
	uint64_t pairs = chunk_bytes / DMS_STORE_PAIR_BYTES;

	return DMS_STORE_HEADER_CHUNKS + index + index / pairs + 1;
}

struct dms_error *dms_store_check_region(int fd, uint64_t offset_bytes, uint64_t length_bytes,
					 uint32_t chunk_size)
{
	struct dms_medium medium;
	struct dms_error *error;

	if (chunk_size < DMS_STORE_MIN_CHUNK_SECTORS || chunk_size > DMS_STORE_MAX_CHUNK_SECTORS ||
	    chunk_size & (chunk_size - 1))
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a chunk of %u sectors is no power of two from %u to %u",
					chunk_size, DMS_STORE_MIN_CHUNK_SECTORS,
					DMS_STORE_MAX_CHUNK_SECTORS);
	if (length_bytes < dms_exception_store_size(0, chunk_size))
		return dms_error_create(DMS_ERR_STORE_FULL,
					"%llu bytes do not hold even an empty exception store",
					(unsigned long long)length_bytes);
	error = dms_medium_probe(fd, DMS_STORE_MEDIUM, &medium);
	if (error)
		return error;
	/* What does not fill a chunk at the end of the region is never used. */
	return dms_medium_check_range(&medium, offset_bytes,
				      length_bytes - length_bytes % (chunk_size * DMS_STORE_SECTOR_BYTES));
}
