// SPDX-License-Identifier: Apache-2.0
/* The I/O priority of a thread, and of what it begins. */
#define _GNU_SOURCE 1

#include <pthread.h>

#include <dmsnap/io_priority.h>

#include "test.h"

static const struct dms_io_priority none = { DMS_IO_CLASS_NONE, 0 };
static const struct dms_io_priority idle = { DMS_IO_CLASS_IDLE, 0 };
static const struct dms_io_priority low = { DMS_IO_CLASS_BEST_EFFORT, 7 };

static struct dms_io_priority current(void)
{
	struct dms_io_priority priority;

	CHECK_OK(dms_io_priority_get(&priority));
	return priority;
}

static void set(struct dms_io_priority priority)
{
	struct dms_io_priority found;

	CHECK_OK(dms_io_priority_set(&priority));
	found = current();
	CHECK(found.io_class == priority.io_class && found.level == priority.level);
}

static void *inherit(void *begun)
{
	struct dms_io_priority *before = begun;

	*before = current();
	set(low);
	return NULL;
}

static void test_of_the_thread_and_those_it_begins(void)
{
	struct dms_io_priority of_thread;
	pthread_t thread;

	set(idle);
	CHECK(!pthread_create(&thread, NULL, inherit, &of_thread));
	CHECK(!pthread_join(thread, NULL));
	CHECK(of_thread.io_class == DMS_IO_CLASS_IDLE);
	CHECK(current().io_class == DMS_IO_CLASS_IDLE);
}

static void test_what_is_got_can_be_set(void)
{
	struct dms_io_priority before;

	CHECK_OK(dms_io_priority_set(&none));
	before = current();
	set(low);
	CHECK_OK(dms_io_priority_set(&before));
	before = current();
	/* Some kernels make a class of the nice value when they are asked. */
	CHECK(before.io_class == DMS_IO_CLASS_NONE || before.io_class == DMS_IO_CLASS_BEST_EFFORT);
}

static void test_what_is_none_is_refused(void)
{
	const struct dms_io_priority wrong[] = {
		{ DMS_IO_CLASS_BEST_EFFORT, DMS_IO_LEVELS },
		{ DMS_IO_CLASS_IDLE, 1 },
		{ DMS_IO_CLASS_NONE, 4 },
		{ (enum dms_io_class)4, 0 },
	};
	size_t i;

	for (i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		CHECK_MESSAGE(dms_io_priority_set(&wrong[i]), DMS_ERR_INVALID_ARGUMENT,
			      "there is no I/O priority");
}

int main(void)
{
	test_of_the_thread_and_those_it_begins();
	test_what_is_got_can_be_set();
	test_what_is_none_is_refused();
	return 0;
}
