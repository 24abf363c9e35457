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
 * Resume. A device that is not suspended is left alone by the kernel, which
 * calls that success; EINVAL is somebody else's resume that was faster (see
 * dm_resume()), so that asking again tells.
 */
static inline int dms_dm_resume(int fd, const struct dm_ioctl *request, struct dm_ioctl *answer)
{
	int tries, result = 0;

	for (tries = 0; tries < DMS_DM_RESUME_TRIES; tries++) {
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
	char parameters[32]; /* MAJOR:MINOR 0 */
};

static inline void dms_dm_prepare_linear(struct dms_dm_linear *linear, const char *uuid,
					 uint64_t sectors, uint32_t major, uint32_t minor)
{
	memset(linear, 0, sizeof(*linear));
	dms_dm_prepare(&linear->request, uuid, 0, 0);
	linear->request.data_size = sizeof(*linear);
	linear->request.data_start = offsetof(struct dms_dm_linear, target);
	linear->request.target_count = 1;
	linear->target.length = sectors;
	memcpy(linear->target.target_type, "linear", sizeof("linear"));
	snprintf(linear->parameters, sizeof(linear->parameters), "%u:%u 0", major, minor);
}

/*
 * Resume. Where the table itself refuses, the device is given another one, if
 * there is one for it: only a target's preresume fails with anything else than
 * dms_dm_resume() tries again at.
 */
static inline int dms_dm_resume_or_lead(int fd, const struct dm_ioctl *request,
					const struct dms_dm_linear *instead,
					struct dm_ioctl *answer)
{
	struct dms_dm_linear load = *instead;
	int result = dms_dm_resume(fd, request, answer);

	if (!instead->target.length || !result || result == -ENXIO || result == -EINTR ||
	    result == -EBUSY || result == -EINVAL || result == -EAGAIN || result == -ENOMEM)
		return result;
	if ((dms_dm_inject ? dms_dm_inject(DM_TABLE_LOAD, &load.request) :
			     ioctl(fd, DM_TABLE_LOAD, &load)) < 0)
		return result;
	return dms_dm_resume(fd, request, answer);
}

#endif
