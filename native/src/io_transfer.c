// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <unistd.h>

#include "io_transfer.h"

#define SECTOR_BYTES 512u
#define MAX_RETRIES 1000u

void dms_io_transfer_begin(struct dms_io_request *request)
{
	request->done_bytes = 0;
	request->errnum = 0;
	request->retries = 0;
}

ssize_t dms_io_transfer_length(const struct dms_io_request *request)
{
	uint32_t left = request->length_bytes - request->done_bytes;
	ssize_t injected = 0;

	if (dms_io_inject)
		injected = dms_io_inject(request->write ? DMS_IO_WRITE : DMS_IO_READ, request->fd,
					 request->offset_bytes + request->done_bytes, left);
	if (injected < 0)
		return injected;
	return injected > 0 && injected < left ? injected : left;
}

/* Only whole sectors count as done, so that what is continued stays aligned for O_DIRECT. */
bool dms_io_transfer_account(struct dms_io_request *request, ssize_t result)
{
	uint32_t left = request->length_bytes - request->done_bytes;

	if (result == -EINTR || result == -EAGAIN) {
		request->errnum = request->retries++ < MAX_RETRIES ? 0 : (int)-result;
		return request->errnum != 0;
	}
	if (result < 0) {
		request->errnum = (int)-result;
		return true;
	}
	if ((uint32_t)result < left)
		result -= result % SECTOR_BYTES;
	if (result == 0) {
		request->errnum = request->write ? ENOSPC : ENODATA;
		return true;
	}
	request->done_bytes += (uint32_t)result;
	return request->done_bytes == request->length_bytes;
}

void dms_io_transfer_run(struct dms_io_request *request)
{
	ssize_t result;

	do {
		char *buffer = (char *)request->buffer + request->done_bytes;
		off_t offset = (off_t)(request->offset_bytes + request->done_bytes);

		result = dms_io_transfer_length(request);
		if (result < 0)
			continue;
		if (request->write)
			result = pwrite(request->fd, buffer, (size_t)result, offset);
		else
			result = pread(request->fd, buffer, (size_t)result, offset);
		if (result < 0)
			result = -errno;
	} while (!dms_io_transfer_account(request, result));
}
