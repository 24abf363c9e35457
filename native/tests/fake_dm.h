/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel made of shared memory: devices that are suspended and resumed,
 * some of them badly. The file they live in is named in every UUID, so that
 * another process finds it.
 */
#ifndef DMSNAP_TESTS_FAKE_DM_H
#define DMSNAP_TESTS_FAKE_DM_H

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#include "../src/dm_control.h"
#include "engine_test.h"

#define MAX_DEVICES 8
#define MAX_CALLS 4096
#define FRONT 0
#define ORIGIN 1
#define SNAPSHOT 2
#define OTHER 3 /* the front of another volume */
#define STUCK_MS 60000

/* What a device does when it is suspended. */
enum behaviour {
	PLAIN,
	FAIL, /* with EIO */
	FAIL_RESUME, /* with EIO, the first time */
	REFUSE, /* to be resumed, with EIO, until it has another table */
	HANG, /* until a signal comes, as dm_wait_for_completion() */
	SLOW, /* 300 ms that no signal ends, as freezing a file system; then it succeeds */
	SHORT_SLOW, /* a few ms */
	SIGNAL, /* SIGINT to ourselves, then a plain success */
	/* As dm-era, whose postsuspend and preresume do I/O that no signal ends: until FRONT goes on. */
	STUCK,
	STUCK_RESUME,
};

struct fake_device {
	char name[16];
	_Atomic bool active;
	_Atomic bool inactive;
	_Atomic bool suspended;
	_Atomic bool locked; /* suspend_lock, while a target of it waits for I/O */
	enum behaviour behaviour;
	int resumes;
	_Atomic int swaps; /* of its table by the one that was loaded */
	char loaded[64]; /* the parameters of the target that was loaded */
};

struct call {
	int device;
	uint32_t flags;
	uint32_t event_nr;
	pid_t pid;
};

struct kernel {
	struct fake_device devices[MAX_DEVICES];
	struct call calls[MAX_CALLS];
	volatile int nr_calls;
	bool without_pidfd;
};

static struct kernel *kernel;
static char path[64];
/* Of a device that each suspend and each resume writes a sector to, and discards ten; or none. */
static int stat_fd = -1;

static void count_call(int nr_calls)
{
	static const char form[] = "      11        0       88       0      5        6 %8d        0 %8d"
				   "      10        9        0        0 %8d        0        3        1\n";
	char text[256];
	int length = snprintf(text, sizeof(text), form, nr_calls, nr_calls > 2, 10 * nr_calls);

	if (stat_fd >= 0)
		CHECK(pwrite(stat_fd, text, (size_t)length, 0) == length);
}

static void kernel_map(const char *file)
{
	int fd = open(file, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	kernel = mmap(NULL, sizeof(*kernel), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(kernel != MAP_FAILED);
	close(fd);
}

static int pause_ms(int ms, bool interruptible)
{
	struct timespec left = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l };

	while (nanosleep(&left, &left) < 0)
		if (interruptible)
			return -1;
	return 0;
}

/* The I/O of a device comes back when FRONT is not suspended, if ever. */
static void wait_for_front(struct fake_device *device)
{
	int ms;

	device->locked = true;
	for (ms = 0; ms < STUCK_MS && kernel->devices[FRONT].suspended; ms++)
		pause_ms(1, false);
	device->locked = false;
}

static int do_suspend(struct fake_device *device)
{
	if (device->suspended)
		return 0;
	if (device->behaviour == STUCK) {
		device->suspended = true; /* __dm_suspend() is through, postsuspend follows */
		wait_for_front(device);
		return 0;
	}
	switch (device->behaviour) {
	case FAIL:
		errno = EIO;
		return -1;
	case HANG:
		if (pause_ms(20000, true) < 0) {
			errno = EINTR;
			return -1;
		}
		break;
	case SLOW:
		pause_ms(300, false);
		break;
	case SHORT_SLOW:
		pause_ms(2, false);
		break;
	case SIGNAL:
		kill(getpid(), SIGINT);
		kill(getpid(), SIGTERM);
		break;
	default:
		break;
	}
	device->suspended = true;
	return 0;
}

/* A table that was loaded is taken first, and where the device is not suspended, it is for that. */
static int do_resume(struct fake_device *device, struct dm_ioctl *request)
{
	bool taken = atomic_exchange(&device->inactive, false);

	if (taken && device->active && !device->suspended && do_suspend(device) < 0) {
		errno = EINVAL;
		return -1;
	}
	device->swaps += taken;
	while (device->suspended && device->locked)
		pause_ms(1, false);
	if (device->suspended && device->behaviour == STUCK_RESUME)
		wait_for_front(device);
	if (device->behaviour == FAIL_RESUME && !device->resumes++) {
		errno = EIO;
		return -1;
	}
	if (device->behaviour == REFUSE && !device->loaded[0]) {
		device->resumes++;
		errno = EIO;
		return -1;
	}
	if (taken || device->suspended)
		request->flags |= DM_UEVENT_GENERATED_FLAG;
	device->active = true;
	device->suspended = false;
	return 0;
}

static int do_load(struct fake_device *device, const struct dm_ioctl *request)
{
	const struct dm_target_spec *target =
		(const void *)((const char *)request + request->data_start);

	CHECK(request->data_size == sizeof(struct dms_dm_linear) && request->target_count == 1);
	CHECK(!strcmp(target->target_type, "linear") && !target->sector_start);
	snprintf(device->loaded, sizeof(device->loaded), "%llu %.40s",
		 (unsigned long long)target->length, (const char *)(target + 1));
	device->inactive = true;
	return 0;
}

int dms_dm_inject(unsigned long command, struct dm_ioctl *request)
{
	char *name = strrchr(request->uuid, ':');
	struct call *call;
	int i;

	CHECK(request->version[0] == 4);
	CHECK(command == DM_TABLE_LOAD || request->data_size == sizeof(*request));
	CHECK(kernel && !request->name[0] && name);
	for (i = 0; i < MAX_DEVICES && strcmp(kernel->devices[i].name, name + 1) != 0; i++)
		;
	if (i == MAX_DEVICES) {
		errno = ENXIO;
		return -1;
	}
	strcpy(request->name, name + 1); /* as the kernel does */
	if (command == DM_DEV_STATUS) {
		request->flags = (kernel->devices[i].suspended ? DM_SUSPEND_FLAG : 0) |
				 (kernel->devices[i].active ? DM_ACTIVE_PRESENT_FLAG : 0) |
				 (kernel->devices[i].inactive ? DM_INACTIVE_PRESENT_FLAG : 0);
		return 0;
	}
	if (command == DM_TABLE_LOAD)
		return do_load(&kernel->devices[i], request);
	if (command == DM_TABLE_CLEAR) {
		kernel->devices[i].inactive = false;
		return 0;
	}
	CHECK(command == DM_DEV_SUSPEND);
	call = &kernel->calls[__atomic_fetch_add(&kernel->nr_calls, 1, __ATOMIC_SEQ_CST) %
			      MAX_CALLS];
	*call = (struct call){ .device = i, .flags = request->flags,
			       .event_nr = request->event_nr, .pid = getpid() };
	count_call(kernel->nr_calls);
	if (request->flags & DM_SUSPEND_FLAG)
		return do_suspend(&kernel->devices[i]);
	return do_resume(&kernel->devices[i], request);
}

static void kernel_reset(void)
{
	static const char *const names[] = { "front", "origin", "snapshot", "other" };
	size_t i;

	memset(kernel, 0, sizeof(*kernel));
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		strcpy(kernel->devices[i].name, names[i]);
		kernel->devices[i].active = i != SNAPSHOT;
		kernel->devices[i].inactive = i == SNAPSHOT;
	}
}

#endif
