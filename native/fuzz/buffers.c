// SPDX-License-Identifier: Apache-2.0
/*
 * Large buffers, in the fuzzers only, are kept for the next input (linked with --wrap): AddressSanitizer
 * maps and unmaps each of them otherwise, which took four fifths of the time. What is not in use is
 * poisoned, and a buffer that an input leaves behind is a finding.
 */
#include <sanitizer/asan_interface.h>
#include <stdlib.h>

#include "../tests/test.h"
#include "fuzz.h"

#define MIN_BYTES (64u * 1024)
#define MAX_BUFFERS 32

void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *pointer);
void __wrap_free(void *pointer);

static struct buffer {
	void *bytes;
	size_t alignment;
	size_t size;
	bool in_use;
} buffers[MAX_BUFFERS];

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	struct buffer *buffer = buffers;

	if (size < MIN_BYTES)
		return __real_aligned_alloc(alignment, size);
	while (buffer->bytes && (buffer->in_use || buffer->size != size ||
				 buffer->alignment != alignment))
		CHECK(++buffer < buffers + MAX_BUFFERS);
	if (!buffer->bytes)
		*buffer = (struct buffer){ __real_aligned_alloc(alignment, size), alignment, size,
					   false };
	CHECK(buffer->bytes);
	buffer->in_use = true;
	ASAN_UNPOISON_MEMORY_REGION(buffer->bytes, size);
	return buffer->bytes;
}

void __wrap_free(void *pointer)
{
	for (struct buffer *buffer = buffers; pointer && buffer->bytes; buffer++) {
		if (buffer->bytes != pointer)
			continue;
		CHECK(buffer->in_use);
		buffer->in_use = false;
		ASAN_POISON_MEMORY_REGION(pointer, buffer->size);
		return;
	}
	__real_free(pointer);
}

void fuzz_check_buffers(void)
{
	for (const struct buffer *buffer = buffers; buffer->bytes; buffer++)
		CHECK(!buffer->in_use);
}
