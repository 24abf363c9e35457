/* SPDX-License-Identifier: Apache-2.0 */
/* A list of requests, first in, first out. All zero is an empty one. */
#ifndef DMSNAP_SRC_IO_LIST_H
#define DMSNAP_SRC_IO_LIST_H

#include "io_queue.h"

struct dms_io_list {
	struct dms_io_request *first;
	struct dms_io_request *last;
};

static inline void dms_io_list_push(struct dms_io_list *list, struct dms_io_request *request)
{
	request->next = NULL;
	if (list->first)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

static inline struct dms_io_request *dms_io_list_pop(struct dms_io_list *list)
{
	struct dms_io_request *request = list->first;

	if (request)
		list->first = request->next;
	return request;
}

/* The first with this context; the others stay in their order. */
static inline struct dms_io_request *dms_io_list_pop_of(struct dms_io_list *list,
							const void *context)
{
	struct dms_io_request *previous = NULL, *request = list->first;

	while (request && request->context != context) {
		previous = request;
		request = request->next;
	}
	if (!request)
		return NULL;
	if (previous)
		previous->next = request->next;
	else
		list->first = request->next;
	if (list->last == request)
		list->last = previous;
	return request;
}

#endif
