/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which blocks are to be read, cut into runs that one read each brings. Several
 * readers may take runs of one source, each in a thread of its own: no run is
 * given twice, and of all errors the one is kept that a single reader would have
 * met first.
 */
#ifndef DMSNAP_SRC_BLOCK_SOURCE_H
#define DMSNAP_SRC_BLOCK_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <dmsnap/error.h>

#define DMS_RUN_BLOCKS 64

/* A block to be read; the rest is for whoever asked. */
struct dms_block_ref {
	uint64_t blocknr;
	uint64_t key;
	uint64_t key_end;
};

/* The next block to be read, never below the one before it. False: there is none. */
typedef bool (*dms_block_next_fn)(void *context, struct dms_block_ref *ref);

/* Blocks that one read brings, small gaps between them included. */
struct dms_block_run {
	uint64_t number; /* ascending, as the blocks are */
	uint32_t nr_refs;
	struct dms_block_ref refs[DMS_RUN_BLOCKS];
};

struct dms_block_source {
	const char *what;
	uint64_t nr_blocks; /* of the medium */
	dms_block_next_fn next;
	void *context;
	bool shared; /* several readers take from it */

	pthread_mutex_t lock; /* of what follows, and of next() */
	bool more; /* ahead is a block that is in no run yet */
	struct dms_block_ref ahead;
	uint64_t nr_runs; /* that were taken */
	uint64_t failed; /* the number of the first run that failed; UINT64_MAX: none did */
	struct dms_error *error; /* of that run */
};

/* next() is called with the lock held, by whoever takes a run. */
void dms_block_source_init(struct dms_block_source *source, const char *what, uint64_t nr_blocks,
			   dms_block_next_fn next, void *context);
/* The error of the first run that failed, or NULL: nobody takes runs any more. */
struct dms_error *dms_block_source_finish(struct dms_block_source *source);

/*
 * The next run. False when there is none, or one failed. A block that lies outside
 * the medium fails the run that it would be in, with DMS_ERR_OUT_OF_BOUNDS.
 */
bool dms_block_source_take(struct dms_block_source *source, struct dms_block_run *run);
/* Whether a run that was taken counts still: none before it has failed. */
bool dms_block_source_wants(struct dms_block_source *source, uint64_t number);
/* A run that was taken failed; takes the error over. */
void dms_block_source_fail(struct dms_block_source *source, uint64_t number,
			   struct dms_error *error);

static inline uint32_t dms_block_run_place(const struct dms_block_run *run, uint32_t i)
{
	return (uint32_t)(run->refs[i].blocknr - run->refs[0].blocknr);
}

#endif
