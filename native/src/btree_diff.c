// SPDX-License-Identifier: Apache-2.0
/*
 * Nodes are never changed in place: what two trees share, one got from the
 * other or both from a third. The trees are gone down in step, counted from the
 * leaves, since the root of one may have been split after they parted.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "btree_diff.h"
#include "cleanup.h"

struct tree {
	struct dms_btree_side *side;
	unsigned int height; /* of the nodes in refs; leaves have 0 */
	struct dms_block_list refs; /* visited, not yet read */
};

static struct dms_error *forget(void *context, uint64_t blocknr, uint64_t key,
				const uint8_t *value)
{
	(void)context, (void)blocknr, (void)key, (void)value;
	return NULL;
}

static void cleanup_tree(struct tree *tree)
{
	dms_cleanup_block_list(&tree->refs);
}

static struct dms_error *uneven(const char *what, uint64_t root)
{
	return dms_error_create_at(DMS_ERR_CORRUPT, root * DMS_BLOCK_BYTES,
				   "%s node %" PRIu64 ": its tree has leaves at several levels",
				   what, root);
}

/* Down the lowest keys; the walk for it ends with it, as all of this is read again. */
static struct dms_error *measure_height(const char *what, const struct dms_btree_side *side,
					uint32_t value_size, unsigned int *height)
{
	_cleanup_metadata_walk_ struct dms_metadata_walk *walk = NULL;
	_cleanup_block_list_ struct dms_block_list refs = { 0 };
	bool internal = true;

	DMS_TRY(dms_metadata_walk_create_beside(side->walk, &walk));
	DMS_TRY(dms_metadata_walk_visit(walk, what, side->root, 0));
	DMS_TRY(dms_block_list_add(&refs, (struct dms_block_ref){ side->root, 0, UINT64_MAX }));
	for (*height = 0;; ++*height) {
		DMS_TRY(dms_btree_read_level(walk, what, &refs, value_size, forget, NULL,
					     &internal));
		if (!internal)
			return NULL;
		if (*height == DMS_BTREE_MAX_DEPTH)
			return dms_error_create_at(DMS_ERR_CORRUPT, side->root * DMS_BLOCK_BYTES,
						   "%s node %" PRIu64 ": deeper than levels: %d",
						   what, side->root, DMS_BTREE_MAX_DEPTH);
		refs.count = 1; /* of one node's children, in the order of their keys */
	}
}

static struct dms_error *tree_init(const char *what, struct dms_btree_side *side,
				   uint32_t value_size, struct tree *tree)
{
	tree->side = side;
	DMS_TRY(measure_height(what, side, value_size, &tree->height));
	DMS_TRY(dms_metadata_walk_visit(side->walk, what, side->root, 0));
	return dms_block_list_add(&tree->refs,
				  (struct dms_block_ref){ side->root, 0, UINT64_MAX });
}

static int compare_refs(const void *left, const void *right)
{
	uint64_t a = ((const struct dms_block_ref *)left)->blocknr;
	uint64_t b = ((const struct dms_block_ref *)right)->blocknr;

	return (a > b) - (a < b);
}

static void sort_refs(struct dms_block_list *list)
{
	if (list->count)
		qsort(list->refs, list->count, sizeof(*list->refs), compare_refs);
}

/*
 * A node whose keys could end elsewhere on the other side is read on both, so
 * that each is held against its own parent: there are few at the borders of
 * what was changed.
 */
static bool is_same(const struct dms_block_ref *a, const struct dms_block_ref *b)
{
	return a->blocknr == b->blocknr && a->key == b->key && a->key_end == b->key_end;
}

/* Each side has a block once at most: the walks see to that. */
static void drop_shared(struct dms_block_list *one, struct dms_block_list *other)
{
	size_t i = 0, j = 0, kept_one = 0, kept_other = 0;

	sort_refs(one);
	sort_refs(other);
	while (i < one->count && j < other->count) {
		if (is_same(&one->refs[i], &other->refs[j])) {
			i++;
			j++;
		} else if (one->refs[i].blocknr < other->refs[j].blocknr) {
			one->refs[kept_one++] = one->refs[i++];
		} else {
			other->refs[kept_other++] = other->refs[j++];
		}
	}
	while (i < one->count)
		one->refs[kept_one++] = one->refs[i++];
	while (j < other->count)
		other->refs[kept_other++] = other->refs[j++];
	one->count = kept_one;
	other->count = kept_other;
}

static struct dms_error *read_tree(const char *what, struct tree *tree, uint32_t value_size)
{
	struct dms_btree_side *side = tree->side;
	bool internal;

	if (!tree->refs.count)
		return NULL;
	DMS_TRY(dms_btree_read_level(side->walk, what, &tree->refs, value_size, side->fn,
				     side->context, &internal));
	return internal == (tree->height > 0) ? NULL : uneven(what, side->root);
}

struct dms_error *dms_btree_walk_unshared(const char *what, struct dms_btree_side *one,
					  struct dms_btree_side *other, uint32_t value_size)
{
	DMS_CLEANUP(cleanup_tree) struct tree a = { 0 };
	DMS_CLEANUP(cleanup_tree) struct tree b = { 0 };
	unsigned int height;

	if (one->root == other->root)
		return NULL;
	DMS_TRY(tree_init(what, one, value_size, &a));
	DMS_TRY(tree_init(what, other, value_size, &b));
	for (height = a.height > b.height ? a.height : b.height;; height--) {
		bool read_a = a.height == height, read_b = b.height == height;

		if (read_a && read_b)
			drop_shared(&a.refs, &b.refs);
		if (read_a)
			DMS_TRY(read_tree(what, &a, value_size));
		if (read_b)
			DMS_TRY(read_tree(what, &b, value_size));
		if (!height)
			return NULL;
		a.height -= read_a;
		b.height -= read_b;
	}
}
