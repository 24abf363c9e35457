// SPDX-License-Identifier: Apache-2.0
/*
 * Data chunks are gathered into large buffers that are written while the next
 * ones fill. A metadata area is kept in memory until every data chunk it names
 * is on the medium, and is written then; the header comes last, after a flush.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "exception_store_writer.h"
#include "io_queue.h"
#include "store_seal.h"
#include "xxh3.h"

#define BUFFER_BYTES (1u << 20)
#define NR_BUFFERS 16u
#define NR_AREAS 16u

_Static_assert(NR_BUFFERS + NR_AREAS == DMS_STORE_QUEUE_DEPTH, "all of them can be in flight");

struct pair {
	uint64_t old_chunk; /* little-endian */
	uint64_t new_chunk; /* little-endian */
};

_Static_assert(sizeof(struct pair) == DMS_STORE_PAIR_BYTES, "as in dm-snap-persistent.c");

struct area {
	struct dms_io_request request;
	struct pair *pairs;
	uint32_t outstanding; /* buffers with its data that are not yet written */
	bool in_use;
	bool full; /* no more data will come */
};

struct buffer {
	struct dms_io_request request;
	struct area *area;
	bool in_use;
};

struct dms_exception_store_writer {
	int fd;
	uint64_t offset_bytes;
	uint32_t chunk_bytes;
	uint32_t pairs_per_area;
	uint64_t max_exceptions;
	uint64_t nr_exceptions;
	struct dms_io_queue *queue;
	struct dms_io_queue *own_queue; /* NULL: it is another's */
	uint32_t in_flight;
	char *memory; /* of all buffers and areas, and one chunk for the header */
	char *header;
	uint32_t buffer_bytes;
	struct buffer buffers[NR_BUFFERS];
	struct area areas[NR_AREAS];
	struct buffer *buffer; /* being filled; may be NULL */
	struct area *area; /* being filled; may be NULL */
	XXH3_state_t *pairs_state; /* of what the seal says of them */
	XXH3_state_t *data_state;
	const uint8_t *data_digest; /* of data that was adopted */
	bool failed;
};

static uint64_t area_chunk(const struct dms_exception_store_writer *writer, uint64_t area)
{
	return DMS_STORE_HEADER_CHUNKS + area * (writer->pairs_per_area + 1ull);
}

static uint64_t chunk_offset(const struct dms_exception_store_writer *writer, uint64_t chunk)
{
	return writer->offset_bytes + chunk * writer->chunk_bytes;
}

static struct dms_error *allocate(struct dms_exception_store_writer *writer)
{
	size_t areas = (size_t)NR_AREAS * writer->chunk_bytes;
	char *memory;
	uint32_t i;

	writer->buffer_bytes = writer->chunk_bytes > BUFFER_BYTES ? writer->chunk_bytes :
								    BUFFER_BYTES;
	memory = dms_io_huge_buffer((size_t)NR_BUFFERS * writer->buffer_bytes + areas +
				    writer->chunk_bytes);
	if (!memory)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for store buffers");
	writer->memory = memory;
	for (i = 0; i < NR_BUFFERS; i++, memory += writer->buffer_bytes)
		writer->buffers[i].request.buffer = memory;
	for (i = 0; i < NR_AREAS; i++, memory += writer->chunk_bytes)
		writer->areas[i].pairs = (struct pair *)memory;
	writer->header = memory;
	writer->pairs_state = XXH3_createState();
	writer->data_state = XXH3_createState();
	if (!writer->pairs_state || !writer->data_state ||
	    XXH3_128bits_reset(writer->pairs_state) == XXH_ERROR ||
	    XXH3_128bits_reset(writer->data_state) == XXH_ERROR)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for digests of a store");
	return NULL;
}

static struct dms_error *submit(struct dms_exception_store_writer *writer,
				struct dms_io_request *request)
{
	struct dms_error *error;

	request->context = writer;
	error = dms_io_queue_submit(writer->queue, request);
	if (!error)
		writer->in_flight++;
	return error;
}

/* Areas are as good as nothing beside their data. */
uint64_t dms_exception_store_writer_in_flight_bytes(const struct dms_exception_store_writer *writer)
{
	uint64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < NR_BUFFERS; i++)
		if (writer->buffers[i].in_use && &writer->buffers[i] != writer->buffer)
			bytes += writer->buffers[i].request.length_bytes;
	return bytes;
}

static struct dms_error *submit_area(struct dms_exception_store_writer *writer, struct area *area)
{
	area->request.buffer = area->pairs;
	return submit(writer, &area->request);
}

/* A completed request may let an area go. */
struct dms_error *dms_exception_store_writer_complete(struct dms_exception_store_writer *writer,
						      const struct dms_io_request *request)
{
	struct dms_error *error = dms_io_request_error(request, DMS_STORE_MEDIUM);
	struct area *area = NULL;
	uint32_t i;

	writer->in_flight--;
	for (i = 0; i < NR_BUFFERS; i++)
		if (request == &writer->buffers[i].request) {
			area = writer->buffers[i].area;
			area->outstanding--;
			writer->buffers[i].in_use = false;
		}
	for (i = 0; i < NR_AREAS; i++)
		if (request == &writer->areas[i].request)
			writer->areas[i].in_use = false;
	if (!error && area && area->full && !area->outstanding)
		error = submit_area(writer, area);
	return error;
}

/* Wait for one completion. The caller loops until it has what it wants. */
static struct dms_error *wait_one(struct dms_exception_store_writer *writer)
{
	struct dms_io_request *request;
	struct dms_error *error = dms_io_queue_wait_for(writer->queue, writer, &request);

	if (error || !request)
		return error;
	return dms_exception_store_writer_complete(writer, request);
}

static struct dms_error *wait_all(struct dms_exception_store_writer *writer)
{
	while (writer->in_flight) {
		struct dms_error *error = wait_one(writer);

		if (error)
			return error;
	}
	return NULL;
}

static struct dms_error *submit_buffer(struct dms_exception_store_writer *writer)
{
	struct buffer *buffer = writer->buffer;

	writer->buffer = NULL;
	if (!buffer)
		return NULL;
	buffer->area->outstanding++;
	return submit(writer, &buffer->request);
}

/* No data will be added to the current area: write it behind its data. */
static struct dms_error *close_area(struct dms_exception_store_writer *writer)
{
	struct area *area = writer->area;
	struct dms_error *error = submit_buffer(writer);

	if (error)
		return error;
	writer->area = NULL;
	area->full = true;
	return area->outstanding ? NULL : submit_area(writer, area);
}

static struct dms_error *open_area(struct dms_exception_store_writer *writer)
{
	uint64_t index = writer->nr_exceptions / writer->pairs_per_area;
	struct area *area = &writer->areas[index % NR_AREAS];

	while (area->in_use) {
		struct dms_error *error = wait_one(writer);

		if (error)
			return error;
	}
	memset(area->pairs, 0, writer->chunk_bytes);
	area->in_use = true;
	area->full = false;
	area->request = (struct dms_io_request){
		.fd = writer->fd,
		.write = true,
		.offset_bytes = chunk_offset(writer, area_chunk(writer, index)),
		.length_bytes = writer->chunk_bytes,
	};
	writer->area = area;
	return NULL;
}

static struct buffer *free_buffer(struct dms_exception_store_writer *writer)
{
	uint32_t i;

	for (i = 0; i < NR_BUFFERS; i++)
		if (!writer->buffers[i].in_use)
			return &writer->buffers[i];
	return NULL;
}

static struct dms_error *open_buffer(struct dms_exception_store_writer *writer, uint64_t new_chunk)
{
	struct buffer *buffer = free_buffer(writer);

	while (!buffer) {
		struct dms_error *error = wait_one(writer);

		if (error)
			return error;
		buffer = free_buffer(writer);
	}
	buffer->in_use = true;
	buffer->area = writer->area;
	buffer->request.fd = writer->fd;
	buffer->request.write = true;
	buffer->request.offset_bytes = chunk_offset(writer, new_chunk);
	buffer->request.length_bytes = 0;
	writer->buffer = buffer;
	return NULL;
}

/* Into the buffer that is being filled, behind what it has. */
static struct dms_error *gather(struct dms_exception_store_writer *writer, uint64_t new_chunk,
				const void *data)
{
	struct dms_error *error = writer->buffer ? NULL : open_buffer(writer, new_chunk);
	struct buffer *buffer = writer->buffer;

	if (error)
		return error;
	memcpy((char *)buffer->request.buffer + buffer->request.length_bytes, data,
	       writer->chunk_bytes);
	buffer->request.length_bytes += writer->chunk_bytes;
	XXH3_128bits_update(writer->data_state, data, writer->chunk_bytes);
	return NULL;
}

/* data NULL: it is in its place. */
static struct dms_error *append(struct dms_exception_store_writer *writer, uint64_t old_chunk,
				const void *data)
{
	uint32_t index = writer->nr_exceptions % writer->pairs_per_area;
	uint64_t new_chunk = dms_store_data_chunk(writer->nr_exceptions, writer->chunk_bytes);
	struct dms_error *error = writer->area ? NULL : open_area(writer);

	if (!error && data)
		error = gather(writer, new_chunk, data);
	if (error)
		return error;
	writer->area->pairs[index].old_chunk = htole64(old_chunk);
	writer->area->pairs[index].new_chunk = htole64(new_chunk);
	XXH3_128bits_update(writer->pairs_state, &writer->area->pairs[index],
			    sizeof(writer->area->pairs[index]));
	writer->nr_exceptions++;
	if (index + 1 == writer->pairs_per_area)
		return close_area(writer);
	if (writer->buffer && writer->buffer->request.length_bytes == writer->buffer_bytes)
		return submit_buffer(writer);
	return NULL;
}

static struct dms_error *add(struct dms_exception_store_writer *writer, uint64_t old_chunk,
			     const void *data)
{
	struct dms_error *error;

	if (writer->failed)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"the exception store has failed before");
	if (writer->nr_exceptions == writer->max_exceptions)
		error = dms_error_create_at(DMS_ERR_STORE_FULL, writer->offset_bytes,
					    "the exception store is full with %llu chunks of %u"
					    " bytes", (unsigned long long)writer->nr_exceptions,
					    writer->chunk_bytes);
	else
		error = append(writer, old_chunk, data);
	writer->failed = error != NULL;
	return error;
}

struct dms_error *dms_exception_store_writer_append(struct dms_exception_store_writer *writer,
						    uint64_t old_chunk, const void *data)
{
	return add(writer, old_chunk, data);
}

struct dms_error *dms_exception_store_writer_adopt(struct dms_exception_store_writer *writer,
						   uint64_t old_chunk)
{
	return add(writer, old_chunk, NULL);
}

void dms_exception_store_writer_adopt_digest(struct dms_exception_store_writer *writer,
					     const uint8_t *digest)
{
	writer->data_digest = digest;
}

/* Replace chunk 0 and flush, around which nothing else is in flight. */
static struct dms_error *write_header(struct dms_exception_store_writer *writer)
{
	struct dms_io_request request = {
		.fd = writer->fd,
		.write = true,
		.buffer = writer->header,
		.offset_bytes = writer->offset_bytes,
		.length_bytes = writer->chunk_bytes,
	};
	struct dms_error *error = dms_io_transfer(&request, DMS_STORE_MEDIUM);

	return error ? error : dms_io_flush(writer->fd, DMS_STORE_MEDIUM);
}

static struct dms_error *invalidate(struct dms_exception_store_writer *writer)
{
	memset(writer->header, 0, writer->chunk_bytes);
	memcpy(writer->header, DMS_STORE_UNFINISHED, sizeof(DMS_STORE_UNFINISHED));
	return write_header(writer);
}

static void seal(const struct dms_exception_store_writer *writer)
{
	struct dms_store_seal seal = { .nr_exceptions = writer->nr_exceptions };

	dms_xxh3_digest(writer->pairs_state, seal.pairs);
	dms_xxh3_digest(writer->data_state, seal.data);
	if (writer->data_digest)
		memcpy(seal.data, writer->data_digest, DMS_DIGEST_BYTES);
	dms_store_seal_pack(&seal, (uint8_t *)writer->header + DMS_STORE_SEAL_OFFSET_BYTES);
}

static struct dms_error *validate(struct dms_exception_store_writer *writer)
{
	const uint32_t fields[4] = {
		htole32(DMS_STORE_MAGIC),
		htole32(1), /* valid */
		htole32(DMS_STORE_VERSION),
		htole32(writer->chunk_bytes / DMS_STORE_SECTOR_BYTES),
	};

	memset(writer->header, 0, writer->chunk_bytes);
	memcpy(writer->header, fields, sizeof(fields));
	seal(writer);
	return write_header(writer);
}

struct dms_error *
dms_exception_store_writer_create_on(struct dms_io_queue *queue, int fd, uint64_t offset_bytes,
				     uint64_t length_bytes, uint32_t chunk_size_sectors,
				     struct dms_exception_store_writer **writer)
{
	_cleanup_store_writer_ struct dms_exception_store_writer *new = NULL;
	struct dms_error *error = dms_store_check_region(fd, offset_bytes, length_bytes,
							 chunk_size_sectors);

	if (error)
		return error;
	new = calloc(1, sizeof(*new));
	if (!new)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for a store writer");
	new->queue = queue;
	new->fd = fd;
	new->offset_bytes = offset_bytes;
	new->chunk_bytes = chunk_size_sectors * DMS_STORE_SECTOR_BYTES;
	new->pairs_per_area = new->chunk_bytes / DMS_STORE_PAIR_BYTES;
	new->max_exceptions = dms_store_capacity(length_bytes, new->chunk_bytes);
	error = allocate(new);
	if (!error)
		error = invalidate(new);
	if (!error)
		*writer = dms_steal(new);
	return error;
}

struct dms_error *
dms_exception_store_writer_create_with(int fd, uint64_t offset_bytes, uint64_t length_bytes,
				       uint32_t chunk_size_sectors, bool without_io_uring,
				       struct dms_exception_store_writer **writer)
{
	_cleanup_io_queue_ struct dms_io_queue *queue = NULL;
	struct dms_error *error = dms_io_queue_create(DMS_STORE_QUEUE_DEPTH, without_io_uring,
						      &queue);

	if (!error)
		error = dms_exception_store_writer_create_on(queue, fd, offset_bytes, length_bytes,
							     chunk_size_sectors, writer);
	if (!error)
		(*writer)->own_queue = dms_steal(queue);
	return error;
}

struct dms_error *
dms_exception_store_writer_create(int fd, uint64_t offset_bytes, uint64_t length_bytes,
				  uint32_t chunk_size_sectors,
				  struct dms_exception_store_writer **writer)
{
	return dms_exception_store_writer_create_with(fd, offset_bytes, length_bytes,
						      chunk_size_sectors, false, writer);
}

void dms_exception_store_writer_destroy(struct dms_exception_store_writer *writer)
{
	if (!writer)
		return;
	/* The queue first: its requests are in the buffers. */
	dms_io_queue_destroy(writer->own_queue);
	XXH3_freeState(writer->pairs_state);
	XXH3_freeState(writer->data_state);
	free(writer->memory);
	free(writer);
}

/* The partial area, or an empty one behind a full one, ends what the kernel reads. */
static struct dms_error *write_last_area(struct dms_exception_store_writer *writer)
{
	struct dms_error *error = writer->area ? NULL : open_area(writer);

	if (!error)
		error = close_area(writer);
	if (!error)
		error = wait_all(writer);
	return error ? error : dms_io_flush(writer->fd, DMS_STORE_MEDIUM);
}

struct dms_error *dms_exception_store_writer_finish(struct dms_exception_store_writer *writer,
						    uint64_t *nr_exceptions, uint64_t *used_bytes)
{
	struct dms_error *error;

	if (writer->failed)
		return dms_error_create(DMS_ERR_INVALID_ARGUMENT,
					"the exception store has failed before");
	writer->failed = true; /* whatever comes: nothing can be appended behind this */
	error = write_last_area(writer);
	if (error)
		return error;
	error = validate(writer);
	if (error) {
		/* It may have reached the medium all the same. */
		dms_error_destroy(invalidate(writer));
		return error;
	}
	*nr_exceptions = writer->nr_exceptions;
	*used_bytes = dms_exception_store_size(writer->nr_exceptions,
					       writer->chunk_bytes / DMS_STORE_SECTOR_BYTES);
	return NULL;
}
