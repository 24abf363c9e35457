// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <dmsnap/window.h>

#include "cleanup.h"
#include "dm_control.h"
#include "window_counters.h"
#include "window_flush.h"
#include "window_guard.h"
#include "window_watchdog.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S 1e9
#define UUID_BYTES DM_UUID_LEN

_Static_assert(sizeof(((struct dms_window_step *)0)->uuid) == UUID_BYTES, "as in dm-ioctl.h");

struct window {
	struct dms_window_step *steps;
	size_t nr_steps;
	int control_fd;
	struct dm_ioctl *requests; /* one a step */
	struct dm_ioctl *undo; /* of the steps that suspend: the request that resumes */
	struct dms_dm_linear *instead; /* and what is loaded when its table refuses */
	size_t *resumed_by; /* of the steps that suspend: the step that resumes */
	bool *suspended; /* of the steps that suspend: perhaps now, by us */
	struct dms_watchdog watchdog;
	const struct dms_window_put_back *put_back;
	struct dms_window_counter *counters;
	size_t nr_counters;
	uint64_t deadline_ns;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static bool suspends(const struct dms_window_step *step)
{
	return step->action != DMS_WINDOW_RESUME;
}

static void window_destroy(struct window *window)
{
	dms_watchdog_dismiss(&window->watchdog);
	if (window->control_fd >= 0)
		close(window->control_fd);
	free(window->requests);
	free(window->undo);
	free(window->instead);
	free(window->resumed_by);
	free(window->suspended);
}

static struct dms_error *invalid(const struct dms_window_step *step, const char *what)
{
	return dms_error_create(DMS_ERR_INVALID_ARGUMENT, "%.*s %s", UUID_BYTES, step->uuid, what);
}

/* Whatever is suspended must be resumed by a later step, once, or be held by the caller. */
static struct dms_error *check_step(struct window *window, size_t index)
{
	const struct dms_window_step *step = &window->steps[index];
	size_t i, partner = window->nr_steps;

	if (!step->uuid[0] || strnlen(step->uuid, UUID_BYTES) == UUID_BYTES)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT, "step %zu has no UUID", index);
	if (step->action > DMS_WINDOW_HOLD)
		return invalid(step, "has an unknown action");
	for (i = 0; i < window->nr_steps; i++) {
		if (i == index || strcmp(window->steps[i].uuid, step->uuid) != 0)
			continue;
		if (suspends(&window->steps[i]) == suspends(step))
			return invalid(step, "is named twice for the same");
		partner = i;
	}
	if (!suspends(step))
		return NULL;
	if (step->action == DMS_WINDOW_HOLD) {
		window->resumed_by[index] = index; /* when it is undone */
		return partner == window->nr_steps ? NULL : invalid(step, "is held and resumed");
	}
	if (partner == window->nr_steps || partner < index)
		return invalid(step, "is suspended and not resumed after that");
	window->resumed_by[index] = partner;
	return NULL;
}

static struct dms_error *check_steps(struct window *window)
{
	struct dms_error *error = NULL;
	size_t i, nr_suspends = 0;

	for (i = 0; !error && i < window->nr_steps; i++) {
		error = check_step(window, i);
		nr_suspends += suspends(&window->steps[i]);
	}
	if (!error && !nr_suspends)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"a window in which nothing is suspended");
	return error;
}

/*
 * Of the resume behind a suspend. A device that the kernel has to suspend for a resume, as
 * somebody else has resumed it in that instant, is suspended in the same way.
 */
static uint32_t resume_flags(const struct dms_window_step *suspend)
{
	return suspend->action == DMS_WINDOW_SUSPEND ? 0 : DM_SKIP_LOCKFS_FLAG;
}

static void prepare_undo(struct window *window, size_t index)
{
	const struct dms_window_step *resume = &window->steps[window->resumed_by[index]];
	uint32_t flags = resume_flags(&window->steps[index]);

	dms_dm_prepare(&window->undo[index], resume->uuid, flags, resume->event_nr);
	dms_dm_prepare_linear(&window->instead[index], resume->uuid, resume->instead_sectors,
			      resume->instead_major, resume->instead_minor,
			      resume->instead_start_sectors);
	if (window->resumed_by[index] != index)
		window->requests[window->resumed_by[index]].flags = flags;
}

static void prepare_requests(struct window *window)
{
	static const uint32_t flags[] = {
		[DMS_WINDOW_SUSPEND] = DM_SUSPEND_FLAG,
		[DMS_WINDOW_SUSPEND_NO_FREEZE] = DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG,
		[DMS_WINDOW_RESUME] = 0,
		[DMS_WINDOW_HOLD] = DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG,
	};
	size_t i;

	for (i = 0; i < window->nr_steps; i++) {
		struct dms_window_step *step = &window->steps[i];

		step->seconds = 0;
		step->uevent_generated = false;
		dms_dm_prepare(&window->requests[i], step->uuid, flags[step->action],
			       step->event_nr);
	}
	for (i = 0; i < window->nr_steps; i++)
		if (suspends(&window->steps[i]))
			prepare_undo(window, i);
}

/*
 * Only the device's own state is asked for, which no target is asked for in
 * turn. Nothing may be asked of an era device once it is suspended.
 */
static struct dms_error *check_device(const struct window *window, size_t index)
{
	const struct dms_window_step *step = &window->steps[index];
	struct dm_ioctl request, answer;
	int result;

	dms_dm_prepare(&request, step->uuid, 0, 0);
	result = dms_dm_ioctl(window->control_fd, DM_DEV_STATUS, &request, &answer);
	if (result)
		return dms_error_create_os(-result, "looking for the device %s", step->uuid);
	if (suspends(step) && answer.flags & DM_SUSPEND_FLAG)
		return dms_error_create_os(EBUSY, "%s is suspended already", step->uuid);
	if (suspends(step) && !(answer.flags & DM_ACTIVE_PRESENT_FLAG))
		return invalid(step, "has no table to suspend");
	if (!suspends(step) &&
	    !(answer.flags & (DM_ACTIVE_PRESENT_FLAG | DM_INACTIVE_PRESENT_FLAG)))
		return invalid(step, "has no table to resume");
	return NULL;
}

static struct dms_error *check_devices(const struct window *window)
{
	struct dms_error *error = NULL;
	size_t i;

	for (i = 0; !error && i < window->nr_steps; i++)
		error = check_device(window, i);
	return error;
}

static struct dms_error *arm(struct window *window, const char *watchdog_path)
{
	_cleanup_free_ struct dms_watchdog_device *devices =
		calloc(window->nr_steps, sizeof(*devices));
	size_t i, count = 0;

	if (!devices)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for the watchdog");
	for (i = 0; i < window->nr_steps; i++) {
		const struct dms_window_step *resume = &window->steps[window->resumed_by[i]];

		if (suspends(&window->steps[i]))
			devices[count++] = (struct dms_watchdog_device){
				.uuid = resume->uuid,
				.event_nr = resume->event_nr,
				.instead_sectors = resume->instead_sectors,
				.instead_major = resume->instead_major,
				.instead_minor = resume->instead_minor,
				.instead_start_sectors = resume->instead_start_sectors,
				.without_freeze = resume_flags(&window->steps[i]) != 0,
			};
	}
	return dms_watchdog_arm(&window->watchdog, watchdog_path, devices, count);
}

/* 0 or a negative errno; -ETIME when the deadline passed, before or while the step ran. */
static int run_step(struct window *window, size_t index)
{
	struct dms_window_step *step = &window->steps[index];
	uint64_t begin = now_ns(), end = begin;
	struct dm_ioctl answer;
	int result = -EINTR;

	while (result == -EINTR && end < window->deadline_ns) {
		/* Before the fact: the undo asks the kernel whether it is so. */
		if (suspends(step))
			window->suspended[index] = true;
		result = dms_dm_ioctl(window->control_fd, DM_DEV_SUSPEND,
				      &window->requests[index], &answer);
		end = now_ns();
	}
	step->seconds = (double)(end - begin) / NS_PER_S;
	if (!result && !suspends(step))
		step->uevent_generated = answer.flags & DM_UEVENT_GENERATED_FLAG;
	return result == -EINTR ? -ETIME : result;
}

static void note_resumed(struct window *window, size_t index)
{
	size_t i;

	for (i = 0; i < index; i++)
		if (suspends(&window->steps[i]) && window->resumed_by[i] == index)
			window->suspended[i] = false;
}

/* What went wrong, kept without memory until everything is resumed. */
struct failure {
	size_t step;
	int result; /* of the step */
	size_t undo_step;
	int undo_result; /* of the first resume that failed while undoing */
};

static void run_steps(struct window *window, struct failure *failure)
{
	bool counted = false;
	size_t i;

	for (i = 0; i < window->nr_steps; i++) {
		failure->step = i;
		if (!counted && !suspends(&window->steps[i])) {
			dms_window_count(window->counters, window->nr_counters);
			counted = true;
		}
		failure->result = run_step(window, i);
		if (failure->result)
			break;
		note_resumed(window, i);
	}
	if (!failure->result && !counted) /* all is held */
		dms_window_count(window->counters, window->nr_counters);
}

/*
 * Resume a device, if it is suspended, whatever it takes: who refuses is first put back by the
 * caller, and leads elsewhere where that is no help.
 */
static int resume(const struct window *window, size_t index, struct dm_ioctl *answer)
{
	const struct dm_ioctl *request = &window->undo[index];
	int result = dms_dm_resume(window->control_fd, request, answer), again;

	if (dms_dm_refused(result) && window->put_back) {
		window->put_back->call(window->put_back->context);
		again = dms_dm_resume(window->control_fd, request, answer);
		if (!dms_dm_refused(again))
			return again;
	}
	if (dms_dm_refused(result) &&
	    !dms_dm_lead(window->control_fd, request, &window->instead[index], answer))
		return 0;
	return result;
}

/* Resume what is still suspended, in reverse order of suspension. */
static void undo(struct window *window, struct failure *failure)
{
	struct dm_ioctl answer;
	size_t i;

	for (i = window->nr_steps; i-- > 0;) {
		int result;

		if (!suspends(&window->steps[i]) || !window->suspended[i])
			continue;
		result = resume(window, i, &answer);
		if (dms_dm_refused(result) && !failure->undo_result) {
			failure->undo_step = i;
			failure->undo_result = result;
		} else if (!result && answer.flags & DM_UEVENT_GENERATED_FLAG) {
			window->steps[window->resumed_by[i]].uevent_generated = true;
		}
	}
}

static struct dms_error *describe(const struct window *window, const struct failure *failure)
{
	const struct dms_window_step *step = &window->steps[failure->step];
	const char *action = suspends(step) ? "the suspend" : "the resume";

	if (!failure->result)
		return NULL;
	if (failure->undo_result)
		return dms_error_create_os(-failure->undo_result,
					   "resuming %s after step %zu had failed with errno %d:"
					   " it may be suspended still, and the watchdog goes on",
					   window->steps[failure->undo_step].uuid,
					   failure->step + 1, -failure->result);
	if (failure->result == -ETIME)
		return dms_error_create(DMS_ERR_DEADLINE,
					"the deadline passed at step %zu, %s of %s; everything was"
					" resumed", failure->step + 1, action, step->uuid);
	return dms_error_create_os(-failure->result, "step %zu, %s of %s; everything was resumed",
				   failure->step + 1, action, step->uuid);
}

/* The first error tells what happened; a deadline behind it tells the same or more. */
static struct dms_error *merge_errors(struct dms_error *first, struct dms_error *second)
{
	if (!first)
		return second;
	dms_error_destroy(second);
	return first;
}

/*
 * The devices were free when the window was prepared, and somebody else may have suspended one
 * while file systems were written back: a suspend of it succeeds, too, and would be taken for ours.
 * What remains undone stays the watchdog's, which is not told that the window is over.
 */
static struct dms_error *run_guarded(struct window *window, uint32_t deadline_ms, double *seconds)
{
	struct failure failure = { 0 };
	uint64_t begin = now_ns();
	struct dms_error *error = check_devices(window);

	if (error)
		return error;
	window->deadline_ns = begin + deadline_ms * NS_PER_MS;
	error = dms_watchdog_start(&window->watchdog, window->deadline_ns);
	if (error)
		return error;
	run_steps(window, &failure);
	if (failure.result)
		undo(window, &failure);
	*seconds = (double)(now_ns() - begin) / NS_PER_S;
	if (failure.undo_result) {
		dms_watchdog_leave(&window->watchdog);
		return describe(window, &failure);
	}
	error = dms_watchdog_finish(&window->watchdog);
	return merge_errors(describe(window, &failure), error);
}

static struct dms_error *flush(const int *file_systems, size_t nr_file_systems,
			       struct dms_window_result *taken)
{
	uint64_t begin = now_ns();
	struct dms_error *error = dms_window_flush(file_systems, nr_file_systems,
						   &taken->nr_flushes);

	taken->flush_seconds = (double)(now_ns() - begin) / NS_PER_S;
	return error;
}

static struct dms_error *prepare(struct window *window, const char *watchdog_path)
{
	struct dms_error *error = NULL;

	window->requests = calloc(window->nr_steps + 1, sizeof(*window->requests));
	window->undo = calloc(window->nr_steps + 1, sizeof(*window->undo));
	window->instead = calloc(window->nr_steps + 1, sizeof(*window->instead));
	window->resumed_by = calloc(window->nr_steps + 1, sizeof(*window->resumed_by));
	window->suspended = calloc(window->nr_steps + 1, sizeof(*window->suspended));
	if (!window->requests || !window->undo || !window->instead || !window->resumed_by ||
	    !window->suspended)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for the window's requests");
	error = check_steps(window);
	if (error)
		return error;
	prepare_requests(window);
	window->control_fd = dms_dm_open();
	if (window->control_fd < 0)
		return dms_error_create_os(-window->control_fd,
					   "opening " DMS_DM_CONTROL ", which device-mapper needs");
	error = check_devices(window);
	return error ? error : arm(window, watchdog_path);
}

struct dms_error *dms_window_run(struct dms_window_step *steps, size_t nr_steps,
				 const int *file_systems, size_t nr_file_systems,
				 uint32_t deadline_ms, const char *watchdog_path,
				 const struct dms_window_put_back *put_back,
				 struct dms_window_counter *counters, size_t nr_counters,
				 struct dms_window_result *result)
{
	__attribute__((__cleanup__(window_destroy))) struct window window = {
		.steps = steps,
		.nr_steps = nr_steps,
		.control_fd = -1,
		.watchdog = { .fd = -1 },
		.put_back = put_back,
		.counters = counters,
		.nr_counters = nr_counters,
	};
	struct dms_error *error = prepare(&window, watchdog_path);
	struct dms_window_result taken = { 0 };
	struct dms_window_guard guard = { 0 };

	if (!error)
		error = dms_window_guard_begin(&guard);
	if (error)
		return error;
	dms_window_count(counters, nr_counters); /* so that the next time allocates nothing */
	error = flush(file_systems, nr_file_systems, &taken);
	if (!error)
		error = run_guarded(&window, deadline_ms, &taken.seconds);
	dms_window_guard_end(&guard);
	if (!error)
		*result = taken;
	return error;
}
