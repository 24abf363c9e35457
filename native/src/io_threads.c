// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "io_list.h"
#include "io_threads.h"
#include "io_transfer.h"

#define NS_PER_S 1000000000L

struct dms_io_threads {
	pthread_mutex_t lock;
	pthread_cond_t work; /* something was put, or it is time to end */
	pthread_cond_t done; /* something completed */
	struct dms_io_list waiting;
	struct dms_io_list completed;
	bool ending;
	uint32_t count;
	pthread_t threads[];
};

static void *transfer_all(void *context)
{
	struct dms_io_threads *threads = context;
	struct dms_io_request *request;

	pthread_mutex_lock(&threads->lock);
	while (!threads->ending) {
		request = dms_io_list_pop(&threads->waiting);
		if (!request) {
			pthread_cond_wait(&threads->work, &threads->lock);
			continue;
		}
		pthread_mutex_unlock(&threads->lock);
		dms_io_transfer_run(request);
		pthread_mutex_lock(&threads->lock);
		dms_io_list_push(&threads->completed, request);
		pthread_cond_signal(&threads->done);
	}
	pthread_mutex_unlock(&threads->lock);
	return NULL;
}

/* Signals are for the thread that waits: it looks at them about ten times a second. */
static void start(struct dms_io_threads *threads, uint32_t count)
{
	sigset_t all, former;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	while (threads->count < count &&
	       !pthread_create(&threads->threads[threads->count], NULL, transfer_all, threads))
		threads->count++;
	pthread_sigmask(SIG_SETMASK, &former, NULL);
}

struct dms_io_threads *dms_io_threads_create(uint32_t count)
{
	struct dms_io_threads *threads = calloc(1, sizeof(*threads) + count * sizeof(pthread_t));
	pthread_condattr_t monotonic;

	if (!threads)
		return NULL;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&threads->lock, NULL);
	pthread_cond_init(&threads->work, NULL);
	pthread_cond_init(&threads->done, &monotonic);
	pthread_condattr_destroy(&monotonic);
	start(threads, count);
	return threads;
}

void dms_io_threads_destroy(struct dms_io_threads *threads)
{
	uint32_t i;

	if (!threads)
		return;
	pthread_mutex_lock(&threads->lock);
	threads->ending = true;
	pthread_cond_broadcast(&threads->work);
	pthread_mutex_unlock(&threads->lock);
	for (i = 0; i < threads->count; i++)
		pthread_join(threads->threads[i], NULL);
	pthread_cond_destroy(&threads->done);
	pthread_cond_destroy(&threads->work);
	pthread_mutex_destroy(&threads->lock);
	free(threads);
}

void dms_io_threads_put(struct dms_io_threads *threads, struct dms_io_request *request)
{
	if (!threads->count)
		dms_io_transfer_run(request);
	pthread_mutex_lock(&threads->lock);
	dms_io_list_push(threads->count ? &threads->waiting : &threads->completed, request);
	pthread_cond_signal(&threads->work);
	pthread_mutex_unlock(&threads->lock);
}

static struct timespec deadline_in(int timeout_ms)
{
	struct timespec deadline;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += timeout_ms / 1000;
	deadline.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (deadline.tv_nsec >= NS_PER_S) {
		deadline.tv_nsec -= NS_PER_S;
		deadline.tv_sec++;
	}
	return deadline;
}

struct dms_io_request *dms_io_threads_get(struct dms_io_threads *threads, int timeout_ms)
{
	const struct timespec deadline = deadline_in(timeout_ms < 0 ? 0 : timeout_ms);
	struct dms_io_request *request;
	int timed_out = 0;

	pthread_mutex_lock(&threads->lock);
	request = dms_io_list_pop(&threads->completed);
	while (!request && timeout_ms && !timed_out) {
		if (timeout_ms < 0)
			pthread_cond_wait(&threads->done, &threads->lock);
		else
			timed_out = pthread_cond_timedwait(&threads->done, &threads->lock,
							   &deadline);
		request = dms_io_list_pop(&threads->completed);
	}
	pthread_mutex_unlock(&threads->lock);
	return request;
}
