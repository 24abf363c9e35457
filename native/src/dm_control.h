/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bare ioctls on device-mapper's control node, for the window and for its
 * watchdog, which is a program of one file: nothing here allocates, and
 * results are negative errnos. Devices are addressed by UUID.
 */
#ifndef DMSNAP_SRC_DM_CONTROL_H
#define DMSNAP_SRC_DM_CONTROL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define DMS_DM_CONTROL "/dev/mapper/control"
/* How often an interrupted or raced resume is tried before it counts as failed. */
#define DMS_DM_RESUME_TRIES 64
/* libdm's DM_UDEV_FLAGS_SHIFT: below are the cookie's bits, above the flags for the udev rules. */
#define DMS_DM_UDEV_FLAGS_MASK 0xffff0000u

/* Only tests define this: it stands for the kernel. */
int dms_dm_inject(unsigned long command, struct dm_ioctl *request)
	__attribute__((weak, visibility("hidden")));

static inline int dms_dm_open(void)
{
	int fd = open(dms_dm_inject ? "/dev/null" : DMS_DM_CONTROL, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* 4.0.0 is the interface that every kernel with these commands takes. */
static inline void dms_dm_prepare(struct dm_ioctl *request, const char *uuid, uint32_t flags,
				  uint32_t event_nr)
{
	memset(request, 0, sizeof(*request));
	request->version[0] = DM_VERSION_MAJOR;
	request->data_size = sizeof(*request);
	request->flags = flags;
	request->event_nr = event_nr;
	memcpy(request->uuid, uuid, strnlen(uuid, sizeof(request->uuid) - 1));
}

/*
 * Run a command on a copy of the request, since the kernel writes the name
 * into its own, and refuses a request that has both a name and a UUID.
 */
static inline int dms_dm_ioctl(int fd, unsigned long command, const struct dm_ioctl *request,
			       struct dm_ioctl *answer)
{
	int result;

	*answer = *request;
	result = dms_dm_inject ? dms_dm_inject(command, answer) : ioctl(fd, command, answer);
	return result < 0 ? -errno : 0;
}

/*
 * Resume a device while it is suspended. One that is not is left alone, which is
 * success, and is not resumed just to be safe: with a table loaded the kernel would
 * suspend it for that, behind a suspend that is under way, without anybody whose
 * signal could end it, and then make the table live (do_resume() in dm-ioctl.c).
 * EINVAL is somebody else's resume that was faster (see dm_resume()): the state is
 * asked before each attempt.
 */
static inline int dms_dm_resume(int fd, const struct dm_ioctl *request, struct dm_ioctl *answer)
{
	int tries, result = 0;

	for (tries = 0; tries < DMS_DM_RESUME_TRIES; tries++) {
		result = dms_dm_ioctl(fd, DM_DEV_STATUS, request, answer);
		if (result || !(answer->flags & DM_SUSPEND_FLAG))
			break;
		result = dms_dm_ioctl(fd, DM_DEV_SUSPEND, request, answer);
		if (result != -EINTR && result != -EBUSY && result != -EINVAL &&
		    result != -EAGAIN && result != -ENOMEM)
			break;
	}
	return result;
}

/* What loads a device with a single linear target. */
struct dms_dm_linear {
	struct dm_ioctl request;
	struct dm_target_spec target; /* of length 0: there is none to be loaded */
	char parameters[48]; /* MAJOR:MINOR START */
};

static inline void dms_dm_prepare_linear(struct dms_dm_linear *linear, const char *uuid,
					 uint64_t sectors, uint32_t major, uint32_t minor,
					 uint64_t start_sectors)
{
	memset(linear, 0, sizeof(*linear));
	dms_dm_prepare(&linear->request, uuid, 0, 0);
	linear->request.data_size = sizeof(*linear);
	linear->request.data_start = offsetof(struct dms_dm_linear, target);
	linear->request.target_count = 1;
	linear->target.length = sectors;
	memcpy(linear->target.target_type, "linear", sizeof("linear"));
	snprintf(linear->parameters, sizeof(linear->parameters), "%u:%u %llu", major, minor,
		 (unsigned long long)start_sectors);
}

static inline bool dms_dm_refused(int result)
{
	return result && result != -ENXIO;
}

/*
 * Resume a device whose table refuses with another one, if there is one for it.
 * Where somebody else was faster, what was loaded must not go live with the next
 * resume that comes along.
 */
static inline int dms_dm_lead(int fd, const struct dm_ioctl *request,
			      const struct dms_dm_linear *instead, struct dm_ioctl *answer)
{
	struct dms_dm_linear load = *instead;
	struct dm_ioctl cleared;
	int result;

	if (!instead->target.length)
		return -EOPNOTSUPP;
	if ((dms_dm_inject ? dms_dm_inject(DM_TABLE_LOAD, &load.request) :
			     ioctl(fd, DM_TABLE_LOAD, &load)) < 0)
		return -errno;
	result = dms_dm_resume(fd, request, answer);
	if (!result && answer->flags & DM_INACTIVE_PRESENT_FLAG)
		dms_dm_ioctl(fd, DM_TABLE_CLEAR, request, &cleared);
	return result;
}

/* Resume, with the device's own table if it can be. The error is that of its own. */
static inline int dms_dm_resume_or_lead(int fd, const struct dm_ioctl *request,
					const struct dms_dm_linear *instead,
					struct dm_ioctl *answer)
{
	int result = dms_dm_resume(fd, request, answer);

	if (dms_dm_refused(result) && !dms_dm_lead(fd, request, instead, answer))
		return 0;
	return result;
}

#endif
