// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>

#include "block_source.h"

/* Reading this many unwanted blocks costs less than another request. */
#define MAX_GAP_BLOCKS 8

void dms_block_source_init(struct dms_block_source *source, const char *what, uint64_t nr_blocks,
			   dms_block_next_fn next, void *context)
{
	*source = (struct dms_block_source){
		.what = what,
		.nr_blocks = nr_blocks,
		.next = next,
		.context = context,
		.failed = UINT64_MAX,
	};
	pthread_mutex_init(&source->lock, NULL);
	source->more = next(context, &source->ahead);
}

struct dms_error *dms_block_source_finish(struct dms_block_source *source)
{
	pthread_mutex_destroy(&source->lock);
	return source->error;
}

/* Keep the error, unless a run before it has failed: with what lies behind it nobody need go on. */
static void fail(struct dms_block_source *source, uint64_t number, struct dms_error *error)
{
	source->more = false;
	if (number >= source->failed) {
		dms_error_destroy(error);
		return;
	}
	dms_error_destroy(source->error);
	source->error = error;
	source->failed = number;
}

static bool fits(const struct dms_block_run *run, uint64_t blocknr)
{
	if (!run->nr_refs)
		return true;
	return blocknr - run->refs[run->nr_refs - 1].blocknr <= MAX_GAP_BLOCKS + 1 &&
	       blocknr - run->refs[0].blocknr < DMS_RUN_BLOCKS;
}

/* As many blocks as one read takes, beginning with the one that is ahead. */
static struct dms_error *gather(struct dms_block_source *source, struct dms_block_run *run)
{
	while (source->more && run->nr_refs < DMS_RUN_BLOCKS) {
		const struct dms_block_ref *ref = &source->ahead;

		if (ref->blocknr >= source->nr_blocks)
			return dms_error_create(DMS_ERR_OUT_OF_BOUNDS,
						"%s block %" PRIu64 ": the medium has %" PRIu64
						" blocks",
						source->what, ref->blocknr, source->nr_blocks);
		if (!fits(run, ref->blocknr))
			break;
		run->refs[run->nr_refs++] = *ref;
		source->more = source->next(source->context, &source->ahead);
	}
	return NULL;
}

bool dms_block_source_take(struct dms_block_source *source, struct dms_block_run *run)
{
	struct dms_error *error;
	bool taken;

	pthread_mutex_lock(&source->lock);
	run->nr_refs = 0;
	run->number = source->nr_runs;
	error = gather(source, run);
	if (error)
		fail(source, run->number, error);
	taken = !error && run->nr_refs;
	source->nr_runs += taken;
	pthread_mutex_unlock(&source->lock);
	return taken;
}

bool dms_block_source_wants(struct dms_block_source *source, uint64_t number)
{
	bool wanted;

	pthread_mutex_lock(&source->lock);
	wanted = number < source->failed;
	pthread_mutex_unlock(&source->lock);
	return wanted;
}

void dms_block_source_fail(struct dms_block_source *source, uint64_t number,
			   struct dms_error *error)
{
	pthread_mutex_lock(&source->lock);
	fail(source, number, error);
	pthread_mutex_unlock(&source->lock);
}
