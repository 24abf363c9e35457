/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that end the program where they fail; the sanitizers then show the stack. */
#ifndef DMSNAP_TESTS_TEST_H
#define DMSNAP_TESTS_TEST_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/error.h>

#define CHECK(condition)                                                                \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                        \
		}                                                                       \
	} while (0)

#define CHECK_OK(expression) check_error((expression), 0, NULL, __FILE__, __LINE__)
#define CHECK_ERROR(expression, code) check_error((expression), (code), NULL, __FILE__, __LINE__)
/* The message must contain part. */
#define CHECK_MESSAGE(expression, code, part) \
	check_error((expression), (code), (part), __FILE__, __LINE__)

static inline void check_error(struct dms_error *error, int code, const char *part,
			       const char *file, int line)
{
	if ((error ? (int)error->code : 0) != code ||
	    (part && !strstr(error->message, part))) {
		fprintf(stderr, "%s:%d: expected error %d (%s), got %d: %s\n", file, line, code,
			part ? part : "", error ? (int)error->code : 0,
			error ? error->message : "success");
		abort();
	}
	dms_error_destroy(error);
}

/* xorshift64*: the same numbers in every run. */
struct random {
	uint64_t state;
};

static inline uint64_t next_random(struct random *random)
{
	random->state ^= random->state >> 12;
	random->state ^= random->state << 25;
	random->state ^= random->state >> 27;
	return random->state * 0x2545f4914f6cdd1dull;
}

#endif
