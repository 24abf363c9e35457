/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy engine: compare, copy, undo and roll back extents between two
 * devices. Every descriptor is opened by the caller, O_DIRECT where the medium
 * takes it (the engine's buffers, offsets and lengths are aligned to 4 KiB, or
 * to the logical block at a device's end), O_EXCL where it is written.
 */
#ifndef DMSNAP_COPY_H
#define DMSNAP_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dmsnap/error.h>
#include <dmsnap/exception_store.h>
#include <dmsnap/extent_set.h>

/* cffi: begin */
/* Called about ten times a second with the bytes done so far; nonzero cancels. */
typedef int (*dms_progress_fn)(void *context, uint64_t bytes_done);

/*
 * The source's content of what differs, from a comparison to the apply behind
 * it, which then need not read it again. Without room for all, the beginning.
 */
struct dms_copy_kept;

struct dms_error *dms_copy_kept_create(uint64_t limit_bytes, struct dms_copy_kept **kept);
void dms_copy_kept_destroy(struct dms_copy_kept *kept);
uint64_t dms_copy_kept_bytes(const struct dms_copy_kept *kept);

struct dms_copy_options {
	dms_progress_fn progress; /* may be NULL */
	void *progress_context;
	uint32_t queue_depth; /* requests read at the same time; 0: as many as make it faster */
	uint32_t request_bytes; /* the largest request; 0: the engine chooses */
	bool without_io_uring; /* use pread and pwrite, also chosen when io_uring is refused */
	uint64_t bytes_per_second; /* read from the source, or written behind it; 0: no limit */
	struct dms_copy_kept *kept; /* filled by compare, used by apply; may be NULL */
	const char *source_name; /* for errors; NULL: "the source" */
	size_t most_extents; /* of what differs: more grow coarser, see dms_extent_set_bound(); 0: all */
};

struct dms_copy_stats {
	uint64_t bytes_compared; /* read from both sides and compared */
	uint64_t bytes_different; /* in whole 4 KiB pages (less at the volume's end) */
	uint64_t bytes_written; /* to the destination, zeroes that were deallocated included */
	uint64_t bytes_zero; /* of bytes_written: given as zeroes, without data */
};

/*
 * Where the old content goes before it is overwritten. length_bytes bounds
 * the store; used_bytes and nr_exceptions are results.
 */
struct dms_undo_store {
	int fd;
	uint64_t offset_bytes;
	uint64_t length_bytes;
	uint32_t chunk_size; /* sectors; 8 is the comparison's grain and the usual choice */
	uint64_t nr_exceptions;
	uint64_t used_bytes;
};

/*
 * Compare extents of source and destination and collect what differs, in
 * multiples of 4 KiB (aligned outwards, clamped to size_bytes). Nothing is
 * written to the destination. With undo (may be NULL), the destination's
 * content of every differing chunk goes to the store, which is complete and
 * flushed on success, and holds no valid header on any failure.
 */
struct dms_error *dms_copy_compare(int source_fd, int destination_fd, uint64_t size_bytes,
				   const struct dms_extent_set *extents,
				   const struct dms_copy_options *options,
				   struct dms_undo_store *undo, struct dms_copy_stats *stats,
				   struct dms_extent_set **different);

/*
 * Copy extents from source to destination and flush the destination. What is
 * kept must be among them. With
 * zero_detection, runs of zeroes are given to the destination as zeroes (BLKZEROOUT, which deallocates where the device can and reads as zeroes
 * everywhere; fallocate on a file).
 */
struct dms_error *dms_copy_apply(int source_fd, int destination_fd, uint64_t size_bytes,
				 const struct dms_extent_set *extents, bool zero_detection,
				 const struct dms_copy_options *options,
				 struct dms_copy_stats *stats);

/*
 * Write the chunks of an exception store back to the device they came from,
 * and flush it. Idempotent. size_bytes is the replica's: the last chunk is cut
 * there.
 */
struct dms_error *dms_copy_roll_back(int store_fd, uint64_t offset_bytes, uint64_t length_bytes,
				     int destination_fd, uint64_t size_bytes,
				     const struct dms_copy_options *options,
				     struct dms_copy_stats *stats);

/* Where an undo store of a history lies. */
struct dms_store_region {
	uint64_t offset_bytes;
	uint64_t length_bytes;
};

/* Where a merged store goes, and what it is: the last three are results. */
struct dms_merged_store {
	uint64_t offset_bytes;
	uint64_t length_bytes;
	uint32_t chunk_size; /* sectors; the smallest of those that are merged */
	uint64_t nr_exceptions;
	uint64_t used_bytes;
};

/*
 * The store that leads back as far as several do one after the other, given
 * newest first: it has every chunk that any of them has, with the content that
 * the last one has of it. size_bytes is the replica's; all stores lie behind
 * it. merge_measure() reads metadata alone and says what the store will take.
 * merge() writes it to a region that begins at a whole page and overlaps none
 * of the others, which are checked against their seals (store_check.h) and stay
 * as they are: on success it is complete and flushed, on any failure it has no
 * valid header. DMS_ERR_STORE_FULL, before anything is written: no room.
 */
struct dms_error *dms_store_merge_measure(int fd, uint64_t size_bytes,
					  const struct dms_store_region *stores,
					  size_t nr_stores, struct dms_merged_store *merged);
struct dms_error *dms_store_merge(int fd, uint64_t size_bytes,
				  const struct dms_store_region *stores, size_t nr_stores,
				  const struct dms_copy_options *options,
				  struct dms_merged_store *merged, struct dms_copy_stats *stats);
/* cffi: end */

#endif
