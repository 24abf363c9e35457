// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdlib.h>

#include "block_reader.h"
#include "io_queue.h"

/* All runs together stay in the processor's cache until they are checked. */
#define RUN_BLOCKS 64
#define NR_RUNS 8
/* Reading this many unwanted blocks costs less than another request. */
#define MAX_GAP_BLOCKS 8
/* Below, handing a read to a thread of the kernel costs more than the copying does. */
#define MIN_ASIDE_BLOCKS 8

/* Blocks that one read brings. */
struct run {
	struct dms_io_request request;
	bool completed;
	uint32_t nr_refs;
	struct dms_block_ref refs[RUN_BLOCKS];
};

struct dms_block_reader {
	const struct dms_block_io *io;
	struct dms_io_queue *queue;
	uint8_t *buffers;
	struct run runs[NR_RUNS];
};

/* What one call works on: the runs from first on, nr_runs of them, are in flight or have come. */
struct pass {
	struct dms_block_reader *reader;
	const char *what;
	dms_block_next_fn next;
	dms_block_fn fn;
	void *context;
	bool more; /* ahead is a block that is in no run yet */
	struct dms_block_ref ahead;
	uint32_t first;
	uint32_t nr_runs;
};

static struct dms_error *no_memory(void)
{
	return dms_error_create(DMS_ERR_NO_MEMORY, "no memory to read blocks with");
}

static struct dms_error *prepare(struct dms_block_reader *reader, const struct dms_block_io *io)
{
	reader->io = io;
	reader->buffers = dms_io_buffer((size_t)NR_RUNS * RUN_BLOCKS * DMS_BLOCK_BYTES);
	if (!reader->buffers)
		return no_memory();
	return dms_io_queue_create(NR_RUNS, io->without_io_uring, &reader->queue);
}

struct dms_error *dms_block_reader_create(const struct dms_block_io *io,
					  struct dms_block_reader **reader)
{
	struct dms_block_reader *new = calloc(1, sizeof(*new));
	struct dms_error *error;

	if (!new)
		return no_memory();
	error = prepare(new, io);
	if (error) {
		dms_block_reader_destroy(new);
		return error;
	}
	*reader = new;
	return NULL;
}

void dms_block_reader_destroy(struct dms_block_reader *reader)
{
	if (!reader)
		return;
	dms_io_queue_destroy(reader->queue);
	free(reader->buffers);
	free(reader);
}

static uint32_t place_of(const struct run *run, const struct dms_block_ref *ref)
{
	return (uint32_t)(ref->blocknr - run->refs[0].blocknr);
}

/* Fill run with as many blocks as one read takes, beginning with the one that is ahead. */
static struct dms_error *gather(struct pass *pass, struct run *run)
{
	run->nr_refs = 0;
	while (pass->more && run->nr_refs < RUN_BLOCKS) {
		const struct dms_block_ref *ref = &pass->ahead;

		if (ref->blocknr >= pass->reader->io->nr_blocks)
			return dms_error_create(DMS_ERR_OUT_OF_BOUNDS,
						"%s block %" PRIu64 ": the medium has %" PRIu64
						" blocks",
						pass->what, ref->blocknr,
						pass->reader->io->nr_blocks);
		if (run->nr_refs &&
		    (ref->blocknr - run->refs[run->nr_refs - 1].blocknr > MAX_GAP_BLOCKS + 1 ||
		     ref->blocknr - run->refs[0].blocknr >= RUN_BLOCKS))
			break;
		run->refs[run->nr_refs++] = *ref;
		pass->more = pass->next(pass->context, &pass->ahead);
	}
	return NULL;
}

static struct dms_error *submit(struct pass *pass, struct run *run)
{
	struct dms_block_reader *reader = pass->reader;
	size_t index = (size_t)(run - reader->runs);
	uint32_t nr_blocks = place_of(run, &run->refs[run->nr_refs - 1]) + 1;

	run->completed = false;
	run->request = (struct dms_io_request){
		.fd = reader->io->fd,
		.buffer = reader->buffers + index * RUN_BLOCKS * DMS_BLOCK_BYTES,
		.offset_bytes = run->refs[0].blocknr * DMS_BLOCK_BYTES,
		.length_bytes = nr_blocks * DMS_BLOCK_BYTES,
		.context = run,
		/* Past the page cache it is asynchronous by itself. */
		.aside = !reader->io->direct && nr_blocks >= MIN_ASIDE_BLOCKS,
	};
	return dms_io_queue_submit(reader->queue, &run->request);
}

/* Put as much in flight as there is room for. */
static struct dms_error *fill(struct pass *pass)
{
	struct dms_block_reader *reader = pass->reader;
	uint32_t limit = dms_io_queue_is_io_uring(reader->queue) ? NR_RUNS : 1;

	while (pass->more && pass->nr_runs < limit) {
		struct run *run = &reader->runs[(pass->first + pass->nr_runs) % NR_RUNS];

		DMS_TRY(gather(pass, run));
		DMS_TRY(submit(pass, run));
		pass->nr_runs++;
	}
	return NULL;
}

static struct dms_error *await(struct dms_block_reader *reader, const struct run *run)
{
	while (!run->completed) {
		struct dms_io_request *request;

		DMS_TRY(dms_io_queue_wait(reader->queue, -1, &request));
		if (request)
			((struct run *)request->context)->completed = true;
	}
	return NULL;
}

/* A read of several blocks failed: it may be a gap that did; if not, the block by itself says where. */
static struct dms_error *read_singly(const struct pass *pass, const struct run *run)
{
	for (uint32_t i = 0; i < run->nr_refs; i++) {
		const uint8_t *block;

		DMS_TRY(dms_block_io_read_bytes(pass->reader->io, pass->what,
						run->refs[i].blocknr * DMS_BLOCK_BYTES,
						DMS_BLOCK_BYTES, run->request.buffer, &block));
		DMS_TRY(pass->fn(pass->context, &run->refs[i], block));
	}
	return NULL;
}

/* Wait for the oldest run and hand its blocks on. */
static struct dms_error *consume(struct pass *pass)
{
	struct run *run = &pass->reader->runs[pass->first];
	const uint8_t *blocks = run->request.buffer;

	DMS_TRY(await(pass->reader, run));
	pass->first = (pass->first + 1) % NR_RUNS;
	pass->nr_runs--;
	if (run->request.errnum)
		return read_singly(pass, run);
	for (uint32_t i = 0; i < run->nr_refs; i++)
		DMS_TRY(pass->fn(pass->context, &run->refs[i],
				 blocks + (size_t)place_of(run, &run->refs[i]) * DMS_BLOCK_BYTES));
	return NULL;
}

static struct dms_error *run_pass(struct pass *pass)
{
	pass->more = pass->next(pass->context, &pass->ahead);
	while (pass->more || pass->nr_runs) {
		DMS_TRY(fill(pass));
		DMS_TRY(consume(pass));
	}
	return NULL;
}

struct dms_error *dms_block_reader_run(struct dms_block_reader *reader, const char *what,
				       dms_block_next_fn next, dms_block_fn fn, void *context)
{
	struct pass pass = {
		.reader = reader, .what = what, .next = next, .fn = fn, .context = context,
	};
	struct dms_error *error = run_pass(&pass);

	/* After an error runs may be in flight, whose places the next call needs. */
	dms_io_queue_drain(reader->queue);
	return error;
}

/* A vector as a source, and where its blocks go. */
struct vector {
	const struct dms_block_ref *refs;
	size_t left;
	dms_block_fn fn;
	void *context;
};

static bool next_ref(void *context, struct dms_block_ref *ref)
{
	struct vector *vector = context;

	if (!vector->left)
		return false;
	vector->left--;
	*ref = *vector->refs++;
	return true;
}

static struct dms_error *hand_on(void *context, const struct dms_block_ref *ref,
				 const uint8_t *block)
{
	const struct vector *vector = context;

	return vector->fn(vector->context, ref, block);
}

static int compare_refs(const void *left, const void *right)
{
	uint64_t a = ((const struct dms_block_ref *)left)->blocknr;
	uint64_t b = ((const struct dms_block_ref *)right)->blocknr;

	return (a > b) - (a < b);
}

static void sort_refs(struct dms_block_ref *refs, size_t nr_refs)
{
	for (size_t i = 1; i < nr_refs; i++) {
		if (refs[i - 1].blocknr > refs[i].blocknr) {
			qsort(refs, nr_refs, sizeof(*refs), compare_refs);
			return;
		}
	}
}

struct dms_error *dms_block_reader_run_refs(struct dms_block_reader *reader, const char *what,
					    struct dms_block_ref *refs, size_t nr_refs,
					    dms_block_fn fn, void *context)
{
	struct vector vector = { .refs = refs, .left = nr_refs, .fn = fn, .context = context };

	sort_refs(refs, nr_refs);
	return dms_block_reader_run(reader, what, next_ref, hand_on, &vector);
}
