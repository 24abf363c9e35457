// SPDX-License-Identifier: Apache-2.0
#include <endian.h>
#include <inttypes.h>
#include <string.h>

#include <dmsnap/digest.h>
#include <dmsnap/store_check.h>

#include "block_io.h"
#include "cleanup.h"
#include "exception_store_writer.h"
#include "pace.h"
#include "store_seal.h"
#include "xxh3.h"

#define WHAT "exception store"
/* So many pairs are hashed at once. */
#define BATCH 256u

DMS_DEFINE_CLEANUP(cleanup_store, struct dms_exception_store, dms_exception_store_close);
DMS_DEFINE_CLEANUP(cleanup_state, XXH3_state_t, XXH3_freeState);

static struct dms_error *read_seal(int fd, uint64_t offset_bytes, struct dms_store_seal *seal,
				   bool *sealed)
{
	_cleanup_free_ uint8_t *buffer = NULL;
	uint64_t place = offset_bytes + DMS_STORE_SEAL_OFFSET_BYTES;
	struct dms_block_io io;
	const uint8_t *bytes;

	DMS_TRY(dms_block_io_init(&io, fd));
	DMS_TRY(dms_buffer_create(3 * DMS_BLOCK_BYTES, &buffer));
	DMS_TRY(dms_block_io_read_bytes(&io, WHAT " seal", place, DMS_STORE_SEAL_BYTES, buffer,
					&bytes));
	return dms_store_seal_parse(bytes, place, seal, sealed);
}

static void hash_run(XXH3_state_t *state, const struct dms_exception_run *run)
{
	uint64_t pairs[2 * BATCH];

	for (uint64_t done = 0; done < run->count;) {
		uint64_t left = run->count - done, count = left < BATCH ? left : BATCH;

		for (uint64_t i = 0; i < count; i++, done++) {
			pairs[2 * i] = htole64(run->old_chunk + done);
			pairs[2 * i + 1] = htole64(run->new_chunk + done);
		}
		XXH3_128bits_update(state, pairs, count * DMS_STORE_PAIR_BYTES);
	}
}

static struct dms_error *hash_pairs(const struct dms_exception_store *store, uint8_t *digest)
{
	DMS_CLEANUP(cleanup_state) XXH3_state_t *state = XXH3_createState();
	const struct dms_exception_run *runs = dms_exception_store_runs(store);

	if (!state || XXH3_128bits_reset(state) == XXH_ERROR)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a digest");
	for (size_t i = 0; i < dms_exception_store_nr_runs(store); i++)
		hash_run(state, &runs[i]);
	dms_xxh3_digest(state, digest);
	return NULL;
}

/* What was sealed ascends in the store, so its data is in the order of its pairs. */
static struct dms_error *hash_data(int fd, uint64_t offset_bytes,
				   const struct dms_exception_store *store,
				   const struct dms_copy_options *options, uint8_t *digest)
{
	uint64_t chunk_bytes = (uint64_t)dms_exception_store_header(store)->chunk_size *
			       DMS_STORE_SECTOR_BYTES;
	const struct dms_exception_run *runs = dms_exception_store_runs(store);
	_cleanup_extent_set_ struct dms_extent_set *data = NULL;
	uint64_t end = offset_bytes;

	DMS_TRY(dms_extent_set_create(&data));
	for (size_t i = 0; i < dms_exception_store_nr_runs(store); i++) {
		uint64_t begin = offset_bytes + runs[i].new_chunk * chunk_bytes;
		uint64_t length = runs[i].count * chunk_bytes;

		DMS_TRY(dms_extent_set_add(data, begin, length));
		end = begin + length > end ? begin + length : end;
	}
	return dms_digest_extents(fd, end, data, options, digest);
}

static struct dms_error *require_same(const uint8_t *found, const uint8_t *sealed,
				      uint64_t offset_bytes, const char *what)
{
	if (!memcmp(found, sealed, DMS_DIGEST_BYTES))
		return NULL;
	return dms_error_create_at(DMS_ERR_CHECKSUM, offset_bytes,
				   WHAT ": its %s are not what was written", what);
}

struct dms_error *dms_exception_store_check(int fd, uint64_t offset_bytes, uint64_t length_bytes,
					    bool data, const struct dms_copy_options *options,
					    bool *sealed)
{
	DMS_CLEANUP(cleanup_store) struct dms_exception_store *store = NULL;
	uint8_t digest[DMS_DIGEST_BYTES];
	struct dms_store_seal seal;

	*sealed = false;
	if (offset_bytes % DMS_COPY_PAGE_BYTES)
		return dms_error_create_at(DMS_ERR_INVALID_ARGUMENT, offset_bytes,
					   WHAT ": it begins inside of a page");
	DMS_TRY(dms_exception_store_open(fd, offset_bytes, length_bytes, &store));
	if (!dms_exception_store_header(store)->valid)
		return dms_error_create_at(DMS_ERR_STORE_INVALID, offset_bytes,
					   WHAT ": it overflowed or failed");
	if (dms_exception_store_header(store)->chunk_size < DMS_STORE_MIN_CHUNK_SECTORS)
		return NULL;
	DMS_TRY(read_seal(fd, offset_bytes, &seal, sealed));
	if (!*sealed)
		return NULL;
	if (seal.nr_exceptions != dms_exception_store_count(store))
		return dms_error_create_at(DMS_ERR_CHECKSUM, offset_bytes,
					   WHAT ": it has %zu exceptions, %" PRIu64
						" were written",
					   dms_exception_store_count(store), seal.nr_exceptions);
	DMS_TRY(hash_pairs(store, digest));
	DMS_TRY(require_same(digest, seal.pairs, offset_bytes, "pairs"));
	if (!data || !seal.nr_exceptions)
		return NULL;
	DMS_TRY(hash_data(fd, offset_bytes, store, options, digest));
	return require_same(digest, seal.data, offset_bytes, "data");
}
