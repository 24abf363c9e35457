// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "block_reader.h"
#include "io_queue.h"

/* All runs together stay in the processor's cache until they are checked. */
#define NR_RUNS 8
/* Below, handing a read to a thread of the kernel costs more than the copying does. */
#define MIN_ASIDE_BLOCKS 8

/* A run that was taken, on its way or here. */
struct slot {
	struct dms_io_request request;
	bool completed;
	struct dms_block_run run;
};

struct dms_block_reader {
	const struct dms_block_io *io;
	struct dms_io_queue *queue;
	uint8_t *buffers;
	struct slot slots[NR_RUNS];
};

/* What one call works on: the slots from first on, nr_slots of them, are in flight or have come. */
struct pass {
	struct dms_block_reader *reader;
	struct dms_block_source *source;
	dms_block_fn fn;
	uint32_t first;
	uint32_t nr_slots;
};

static struct dms_error *no_memory(void)
{
	return dms_error_create(DMS_ERR_NO_MEMORY, "no memory to read blocks with");
}

static struct dms_error *prepare(struct dms_block_reader *reader, const struct dms_block_io *io)
{
	reader->io = io;
	reader->buffers = dms_io_buffer((size_t)NR_RUNS * DMS_RUN_BLOCKS * DMS_BLOCK_BYTES);
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

const struct dms_block_io *dms_block_reader_io(const struct dms_block_reader *reader)
{
	return reader->io;
}

static struct dms_error *submit(struct pass *pass, struct slot *slot)
{
	struct dms_block_reader *reader = pass->reader;
	const struct dms_block_run *run = &slot->run;
	size_t index = (size_t)(slot - reader->slots);
	uint32_t nr_blocks = dms_block_run_place(run, run->nr_refs - 1) + 1;

	slot->completed = false;
	slot->request = (struct dms_io_request){
		.fd = reader->io->fd,
		.buffer = reader->buffers + index * DMS_RUN_BLOCKS * DMS_BLOCK_BYTES,
		.offset_bytes = run->refs[0].blocknr * DMS_BLOCK_BYTES,
		.length_bytes = nr_blocks * DMS_BLOCK_BYTES,
		.context = slot,
		/*
		 * Past the page cache it is asynchronous by itself, and where others read
		 * beside, the processors have enough to do.
		 */
		.aside = !reader->io->direct && !pass->source->shared &&
			 nr_blocks >= MIN_ASIDE_BLOCKS,
	};
	return dms_io_queue_submit(reader->queue, &slot->request);
}

/* Take in one completed run, if there is one within the time. */
static struct dms_error *complete(struct dms_block_reader *reader, int timeout_ms)
{
	struct dms_io_request *request;

	DMS_TRY(dms_io_queue_wait(reader->queue, timeout_ms, &request));
	if (request)
		((struct slot *)request->context)->completed = true;
	return NULL;
}

/*
 * Take a run and put it in flight. Whether it is here at once, as out of the page
 * cache, is asked where others read beside: it is then looked at before the next
 * one, while the processor has it in its cache.
 */
static struct dms_error *start(struct pass *pass, struct slot *slot)
{
	DMS_TRY(submit(pass, slot));
	pass->nr_slots++;
	return pass->source->shared ? complete(pass->reader, 0) : NULL;
}

/*
 * Put as much in flight as there is room for, or until one is here at once. What
 * cannot be put in flight comes behind what is: that is read still.
 */
static void fill(struct pass *pass)
{
	struct dms_block_reader *reader = pass->reader;
	uint32_t limit = dms_io_queue_is_io_uring(reader->queue) ? NR_RUNS : 1;
	bool at_once = false;

	while (!at_once && pass->nr_slots < limit) {
		struct slot *slot = &reader->slots[(pass->first + pass->nr_slots) % NR_RUNS];
		struct dms_error *error;

		if (!dms_block_source_take(pass->source, &slot->run))
			return;
		error = start(pass, slot);
		if (error)
			dms_block_source_fail(pass->source, slot->run.number, error);
		at_once = slot->completed;
	}
}

/* A read of several blocks failed: it may be a gap that did; if not, the block by itself says where. */
static struct dms_error *read_singly(const struct pass *pass, const struct slot *slot)
{
	const struct dms_block_source *source = pass->source;

	for (uint32_t i = 0; i < slot->run.nr_refs; i++) {
		const struct dms_block_ref *ref = &slot->run.refs[i];
		const uint8_t *block;

		DMS_TRY(dms_block_io_read_bytes(pass->reader->io, source->what,
						ref->blocknr * DMS_BLOCK_BYTES, DMS_BLOCK_BYTES,
						slot->request.buffer, &block));
		DMS_TRY(pass->fn(source->context, ref, block));
	}
	return NULL;
}

/* Wait for a run and hand its blocks on. */
static struct dms_error *consume(struct pass *pass, struct slot *slot)
{
	const struct dms_block_run *run = &slot->run;
	const uint8_t *blocks = slot->request.buffer;

	while (!slot->completed)
		DMS_TRY(complete(pass->reader, -1));
	if (slot->request.errnum)
		return read_singly(pass, slot);
	for (uint32_t i = 0; i < run->nr_refs; i++)
		DMS_TRY(pass->fn(pass->source->context, &run->refs[i],
				 blocks + (size_t)dms_block_run_place(run, i) * DMS_BLOCK_BYTES));
	return NULL;
}

/* The oldest run; false when there is no sense in going on: behind it lie only later ones. */
static bool consume_first(struct pass *pass)
{
	struct slot *slot = &pass->reader->slots[pass->first];
	struct dms_error *error;

	if (!dms_block_source_wants(pass->source, slot->run.number))
		return false;
	error = consume(pass, slot);
	if (error) {
		dms_block_source_fail(pass->source, slot->run.number, error);
		return false;
	}
	pass->first = (pass->first + 1) % NR_RUNS;
	pass->nr_slots--;
	return true;
}

void dms_block_reader_read(struct dms_block_reader *reader, struct dms_block_source *source,
			   dms_block_fn fn)
{
	struct pass pass = { .reader = reader, .source = source, .fn = fn };

	do
		fill(&pass);
	while (pass.nr_slots && consume_first(&pass));
	/* After an error runs may be in flight, whose places the next call needs. */
	dms_io_queue_drain(reader->queue);
}

struct dms_error *dms_block_reader_run(struct dms_block_reader *reader, const char *what,
				       dms_block_next_fn next, dms_block_fn fn, void *context)
{
	struct dms_block_source source;

	dms_block_source_init(&source, what, reader->io->nr_blocks, next, context);
	dms_block_reader_read(reader, &source, fn);
	return dms_block_source_finish(&source);
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
