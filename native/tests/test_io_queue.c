// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE 1

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine_test.h"
#include "refuse_io_uring.h"

DEFINE_FAULTS;

#define LENGTH 65536u
#define DEPTH 8u

static struct dms_io_request request_at(int fd, bool write, void *buffer, uint64_t offset)
{
	return (struct dms_io_request){
		.fd = fd,
		.write = write,
		.buffer = buffer,
		.offset_bytes = offset,
		.length_bytes = LENGTH,
	};
}

static struct dms_error *run_one(struct dms_io_queue *queue, struct dms_io_request *request)
{
	struct dms_io_request *completed = NULL;

	CHECK_OK(dms_io_queue_submit(queue, request));
	while (!completed)
		CHECK_OK(dms_io_queue_wait(queue, -1, &completed));
	CHECK(completed == request);
	CHECK(dms_io_queue_in_flight(queue) == 0);
	return dms_io_request_error(request, "a file");
}

/* memory: what is read into; NULL: some is made. */
static void test_transfers(struct dms_io_queue *queue, int flags, char *memory)
{
	int fd = scratch_file(64 * LENGTH, 0, flags);
	char *out = dms_io_buffer(64 * LENGTH);
	char *in = memory ? memory : dms_io_buffer(64 * LENGTH);
	struct dms_io_request requests[64];
	int direction;

	fill_random(out, 64 * LENGTH, 1);
	for (direction = 0; direction < 2; direction++) {
		unsigned int started = 0, finished = 0;

		while (finished < 64) {
			struct dms_io_request *completed;

			while (started < 64 && dms_io_queue_in_flight(queue) < DEPTH) {
				unsigned int place = started * 37 % 64;
				char *buffer = (direction ? in : out) + place * LENGTH;

				requests[place] = request_at(fd, !direction, buffer,
							     place * LENGTH);
				CHECK_OK(dms_io_queue_submit(queue, &requests[place]));
				started++;
			}
			CHECK_OK(dms_io_queue_wait(queue, 1000, &completed));
			if (!completed)
				continue;
			CHECK_OK(dms_io_request_error(completed, "a file"));
			finished++;
		}
	}
	CHECK(!memcmp(in, out, 64 * LENGTH));
	CHECK_OK(dms_io_flush(fd, "a file"));
	if (!memory)
		free(in);
	free(out);
	close(fd);
}

/* Every transfer is cut short, some are interrupted: the content must be whole all the same. */
static void test_short(struct dms_io_queue *queue)
{
	static const ssize_t results[] = { 512, 4096, 1000, -EINTR, -EAGAIN };
	char *out = dms_io_buffer(LENGTH);
	char *in = dms_io_buffer(LENGTH);
	size_t i;

	for (i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
		int fd = scratch_file(LENGTH, 0, O_DIRECT);
		struct dms_io_request write = request_at(fd, true, out, 0);
		struct dms_io_request read = request_at(fd, false, in, 0);
		bool positive = results[i] > 0;

		fill_random(out, LENGTH, i);
		memset(in, 0, LENGTH);
		if (results[i] == 1000) { /* O_DIRECT would refuse it */
			close(fd);
			fd = scratch_file(LENGTH, 0, 0);
			write.fd = read.fd = fd;
		}
		fault = (struct fault){ .countdown = 1, .fd = fd, .result = results[i],
					.repeat = positive };
		CHECK_OK(run_one(queue, &write));
		CHECK(fault.fired >= (positive ? (int)(LENGTH / 4096) : 1));
		fault.countdown = 1;
		CHECK_OK(run_one(queue, &read));
		CHECK(!memcmp(in, out, LENGTH));
		fault = (struct fault){ 0 };
		close(fd);
	}
	free(in);
	free(out);
}

static void test_errors(struct dms_io_queue *queue)
{
	int fd = scratch_file(4 * LENGTH, 1, 0);
	char *buffer = dms_io_buffer(LENGTH);
	struct dms_io_request request = request_at(fd, false, buffer, LENGTH);
	struct dms_error *error;

	/* The second transfer fails: the error names the place behind the first. */
	fault = (struct fault){ .countdown = 1, .fd = fd, .result = 8192 };
	CHECK_OK(run_one(queue, &request));
	fault = (struct fault){ .countdown = 2, .fd = fd, .result = -EIO };
	CHECK_OK(run_one(queue, &request));
	error = run_one(queue, &request);
	CHECK(error && error->code == DMS_ERR_OS && error->errnum == EIO);
	CHECK(error->offset_bytes == LENGTH && strstr(error->message, "a file"));
	dms_error_destroy(error);

	fault = (struct fault){ .countdown = 1, .fd = fd, .result = -ENOSPC };
	request.write = true;
	error = run_one(queue, &request);
	CHECK(error && error->errnum == ENOSPC);
	dms_error_destroy(error);

	/* An EAGAIN that never ends is an error in the end, not a hang. */
	fault = (struct fault){ .countdown = 1, .fd = fd, .result = -EAGAIN, .repeat = true };
	error = run_one(queue, &request);
	CHECK(error && error->errnum == EAGAIN);
	dms_error_destroy(error);
	fault = (struct fault){ 0 };

	/* Half of the read is behind the end. */
	request = request_at(fd, false, buffer, 4 * LENGTH - LENGTH / 2);
	error = run_one(queue, &request);
	CHECK(error && error->code == DMS_ERR_OUT_OF_BOUNDS);
	CHECK(error->offset_bytes == 4 * LENGTH);
	dms_error_destroy(error);

	request = request_at(-1, false, buffer, 0);
	error = run_one(queue, &request);
	CHECK(error && error->errnum == EBADF);
	dms_error_destroy(error);
	free(buffer);
	close(fd);
}

static void test_limits(bool without_io_uring)
{
	int fd = scratch_file(4 * LENGTH, 1, 0);
	char *buffer = dms_io_buffer(4 * LENGTH);
	struct dms_io_request requests[3];
	struct dms_io_request *completed;
	struct dms_io_queue *queue;
	unsigned int i;

	CHECK_ERROR(dms_io_queue_create(0, without_io_uring, &queue), DMS_ERR_INVALID_ARGUMENT);
	CHECK_OK(dms_io_queue_create(2, without_io_uring, &queue));
	CHECK_OK(dms_io_queue_wait(queue, -1, &completed));
	CHECK(!completed);
	for (i = 0; i < 3; i++)
		requests[i] = request_at(fd, false, buffer + i * LENGTH, i * LENGTH);
	CHECK_OK(dms_io_queue_submit(queue, &requests[0]));
	CHECK_OK(dms_io_queue_submit(queue, &requests[1]));
	CHECK(dms_io_queue_room(queue) == 0);
	CHECK_ERROR(dms_io_queue_submit(queue, &requests[2]), DMS_ERR_INVALID_ARGUMENT);
	dms_io_queue_drain(queue);
	CHECK(dms_io_queue_in_flight(queue) == 0);
	requests[2].length_bytes = 0;
	CHECK_ERROR(dms_io_queue_submit(queue, &requests[2]), DMS_ERR_INVALID_ARGUMENT);
	/* destroy() waits for this one: ASan would see a write into freed memory. */
	CHECK_OK(dms_io_queue_submit(queue, &requests[0]));
	dms_io_queue_destroy(queue);
	free(buffer);
	close(fd);
}

/* What the kernel says of one of our descriptors: how many buffers it has pinned for that ring. */
static int pinned_by(const char *descriptor)
{
	char path[64], line[256], target[64] = "";
	int pinned = 0;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fd/%.16s", descriptor);
	if (readlink(path, target, sizeof(target) - 1) < 0 || strcmp(target, "anon_inode:[io_uring]"))
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%.16s", descriptor);
	info = fopen(path, "r");
	CHECK(info);
	while (fgets(line, sizeof(line), info))
		if (!strncmp(line, "UserBufs:", 9))
			pinned = atoi(line + 9);
	fclose(info);
	return pinned;
}

static int nr_pinned(void)
{
	const struct dirent *entry;
	int pinned = 0;
	DIR *directory = opendir("/proc/self/fd");

	CHECK(directory);
	while ((entry = readdir(directory)))
		pinned += pinned_by(entry->d_name);
	closedir(directory);
	return pinned;
}

/* Others than root may have no more than a limit. */
static bool may_pin(size_t bytes)
{
	struct rlimit limit;

	CHECK(!getrlimit(RLIMIT_MEMLOCK, &limit));
	return !geteuid() || limit.rlim_cur >= bytes;
}

/* Memory that is registered, and a file opened in both ways, give the same bytes. */
static void test_registered(bool without_io_uring)
{
	char *memory = dms_io_buffer(4 << 20);
	struct dms_io_queue *queue;

	CHECK_OK(dms_io_queue_create(DEPTH, without_io_uring, &queue));
	dms_io_queue_register(queue, memory, 4 << 20);
	if (dms_io_queue_is_io_uring(queue) && may_pin(8 << 20))
		CHECK(nr_pinned() == 1);
	test_transfers(queue, 0, memory);
	test_transfers(queue, O_DIRECT, memory);
	test_transfers(queue, O_DIRECT, NULL);
	dms_io_queue_destroy(queue);
	free(memory);
}

/* Who waits for its own requests alone leaves the others for later. */
static void test_wait_for(bool without_io_uring)
{
	int fd = scratch_file(DEPTH * LENGTH, 1, 0), owners[2];
	char *buffer = dms_io_buffer(DEPTH * LENGTH);
	struct dms_io_request requests[DEPTH], *completed;
	struct dms_io_queue *queue;
	unsigned int i, owner;

	CHECK_OK(dms_io_queue_create(DEPTH, without_io_uring, &queue));
	for (i = 0; i < DEPTH; i++) {
		requests[i] = request_at(fd, false, buffer + i * LENGTH, i * LENGTH);
		requests[i].context = &owners[i % 2];
		CHECK_OK(dms_io_queue_submit(queue, &requests[i]));
	}
	for (owner = 2; owner--;) {
		for (i = 0; i < DEPTH / 2; i++) {
			do
				CHECK_OK(dms_io_queue_wait_for(queue, &owners[owner], &completed));
			while (!completed);
			CHECK(completed->context == &owners[owner]);
			CHECK_OK(dms_io_request_error(completed, "a file"));
		}
	}
	CHECK(dms_io_queue_in_flight(queue) == 0);
	dms_io_queue_destroy(queue);
	free(buffer);
	close(fd);
}

static void test_flush(void)
{
	int fd = scratch_file(LENGTH, 0, 0);

	fault = (struct fault){ .countdown = 1, .fd = fd, .result = -EIO };
	CHECK_ERROR(dms_io_flush(fd, "a file"), DMS_ERR_OS);
	fault = (struct fault){ 0 };
	CHECK_OK(dms_io_flush(fd, "a file"));
	CHECK_ERROR(dms_io_flush(-1, "a file"), DMS_ERR_OS);
	close(fd);
}

/* The last: what is refused stays refused. */
static void test_old_kernel(void)
{
	struct dms_io_queue *queue;

	refuse_io_uring_probe();
	CHECK_OK(dms_io_queue_create(DEPTH, false, &queue));
	CHECK(!dms_io_queue_is_io_uring(queue));
	test_transfers(queue, 0, NULL);
	dms_io_queue_destroy(queue);
}

int main(void)
{
	int without_io_uring;

	fault.fd = -1;
	for (without_io_uring = io_uring_is_left_out(); without_io_uring < 2; without_io_uring++) {
		struct dms_io_queue *queue;

		CHECK_OK(dms_io_queue_create(DEPTH, without_io_uring, &queue));
		CHECK(!without_io_uring || !dms_io_queue_is_io_uring(queue));
		if (!without_io_uring && !dms_io_queue_is_io_uring(queue))
			fprintf(stderr, "io_uring is refused here: tested without it\n");
		test_transfers(queue, 0, NULL);
		test_transfers(queue, O_DIRECT, NULL);
		test_short(queue);
		test_errors(queue);
		dms_io_queue_destroy(queue);
		test_limits(without_io_uring);
		test_registered(without_io_uring);
		test_wait_for(without_io_uring);
	}
	test_flush();
	test_old_kernel();
	return 0;
}
