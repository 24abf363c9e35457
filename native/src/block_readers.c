// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE /* sched_getaffinity */
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "block_readers.h"

/* So many blocks are read and checked in the time that it takes to start a thread and its reader. */
#define MIN_BLOCKS 256

/* What the threads share. */
struct beside {
	const struct dms_block_io *io;
	struct dms_block_source *source;
	dms_block_fn fn;
};

/* A reader belongs to the thread that makes it: an io_uring takes requests from one thread alone. */
static void *read_beside(void *context)
{
	const struct beside *beside = context;
	struct dms_block_reader *reader;
	struct dms_error *error = dms_block_reader_create(beside->io, &reader);

	/* No run was taken: the others read them all. */
	if (error) {
		dms_error_destroy(error);
		return NULL;
	}
	dms_block_reader_read(reader, beside->source, beside->fn);
	dms_block_reader_destroy(reader);
	return NULL;
}

/* The processors that this process may use, as far as there is work for them. */
static uint32_t count_readers(const struct dms_block_io *io, uint64_t nr_blocks)
{
	uint64_t worthwhile = nr_blocks / MIN_BLOCKS;
	uint32_t limit = io->nr_readers;
	cpu_set_t processors;

	if (!limit)
		limit = sched_getaffinity(0, sizeof(processors), &processors) ?
				1 :
				(uint32_t)CPU_COUNT(&processors);
	if (limit > DMS_MAX_READERS)
		limit = DMS_MAX_READERS;
	return limit > worthwhile ? (uint32_t)worthwhile : limit;
}

/* Signals are for the threads that were there before. Returns how many could be made. */
static uint32_t start(pthread_t *threads, uint32_t nr_wanted, struct beside *beside)
{
	uint32_t nr_threads = 0;
	sigset_t all, former;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	while (nr_threads < nr_wanted &&
	       !pthread_create(&threads[nr_threads], NULL, read_beside, beside))
		nr_threads++;
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	return nr_threads;
}

struct dms_error *dms_block_readers_run(struct dms_block_reader *reader, uint64_t nr_blocks,
					const char *what, dms_block_next_fn next, dms_block_fn fn,
					void *context)
{
	const struct dms_block_io *io = dms_block_reader_io(reader);
	uint32_t nr_readers = count_readers(io, nr_blocks), nr_threads = 0, i;
	struct dms_block_source source;
	struct beside beside = { .io = io, .source = &source, .fn = fn };
	pthread_t threads[DMS_MAX_READERS - 1];

	dms_block_source_init(&source, what, io->nr_blocks, next, context);
	source.shared = nr_readers > 1;
	if (source.shared)
		nr_threads = start(threads, nr_readers - 1, &beside);
	dms_block_reader_read(reader, &source, fn);
	for (i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	return dms_block_source_finish(&source);
}
