// SPDX-License-Identifier: Apache-2.0
/* Node format and checks as node_check() of dm-btree-spine.c, and what it takes for granted. */
#include <inttypes.h>

#include <dmsnap/checksum.h>

#include "btree.h"
#include "cleanup.h"
#include "le_cursor.h"

#define CSUM_XOR 121107
#define HEADER_BYTES 32
#define KEY_BYTES 8
#define CHILD_BYTES 8
#define FLAG_INTERNAL 1
#define FLAG_LEAF 2

struct node {
	uint64_t blocknr;
	bool internal;
	uint32_t nr_entries;
	uint32_t value_size;
	const uint8_t *keys;
	const uint8_t *values;
};

struct level {
	struct dms_metadata_walk *walk;
	const char *what;
	uint32_t value_size;
	dms_btree_fn fn;
	void *context;
	/* What the first node of a level is, all others must be. */
	bool known;
	bool internal;
	struct dms_block_list children;
};

static struct dms_error *corrupt(const struct level *level, uint64_t blocknr, const char *how,
				 uint64_t value)
{
	return dms_error_create_at(DMS_ERR_CORRUPT, blocknr * DMS_BLOCK_BYTES,
				   "%s node %" PRIu64 ": %s %" PRIu64, level->what, blocknr, how,
				   value);
}

static uint64_t key_at(const struct node *node, uint32_t i)
{
	return dms_load_le64(node->keys + (size_t)i * KEY_BYTES);
}

static struct dms_error *check_header(const struct level *level, const struct node *node,
				      uint32_t flags, uint32_t max_entries)
{
	uint32_t expected = node->internal ? CHILD_BYTES : level->value_size;

	if (flags != FLAG_INTERNAL && flags != FLAG_LEAF)
		return corrupt(level, node->blocknr, "flags", flags);
	if (level->known && level->internal != node->internal)
		return corrupt(level, node->blocknr, "a leaf among internal nodes, flags", flags);
	if (node->value_size != expected)
		return corrupt(level, node->blocknr, "value_size", node->value_size);
	if (max_entries > (DMS_BLOCK_BYTES - HEADER_BYTES) / (KEY_BYTES + expected))
		return corrupt(level, node->blocknr, "max_entries", max_entries);
	if (node->nr_entries > max_entries || (node->internal && !node->nr_entries))
		return corrupt(level, node->blocknr, "nr_entries", node->nr_entries);
	return NULL;
}

static struct dms_error *parse_node(const struct level *level, const struct dms_block_ref *ref,
				    const uint8_t *block, struct node *node)
{
	struct dms_le_cursor cursor = dms_le_cursor(level->what, block, DMS_BLOCK_BYTES,
						    ref->blocknr * DMS_BLOCK_BYTES);
	uint32_t csum, flags, max_entries;
	uint64_t blocknr;

	DMS_TRY(dms_le_cursor_u32(&cursor, "csum", &csum));
	DMS_TRY(dms_le_cursor_u32(&cursor, "flags", &flags));
	DMS_TRY(dms_le_cursor_u64(&cursor, "blocknr", &blocknr));
	DMS_TRY(dms_le_cursor_u32(&cursor, "nr_entries", &node->nr_entries));
	DMS_TRY(dms_le_cursor_u32(&cursor, "max_entries", &max_entries));
	DMS_TRY(dms_le_cursor_u32(&cursor, "value_size", &node->value_size));
	DMS_TRY(dms_le_cursor_skip(&cursor, "padding", 4));
	DMS_TRY(dms_metadata_check_block(level->what, ref->blocknr, blocknr, csum,
					 dms_bm_checksum(block + sizeof(csum),
							 DMS_BLOCK_BYTES - sizeof(csum),
							 CSUM_XOR)));
	node->blocknr = ref->blocknr;
	node->internal = flags & FLAG_INTERNAL;
	DMS_TRY(check_header(level, node, flags, max_entries));
	DMS_TRY(dms_le_cursor_view(&cursor, "keys", (size_t)max_entries * KEY_BYTES, &node->keys));
	return dms_le_cursor_view(&cursor, "values", (size_t)max_entries * node->value_size,
				  &node->values);
}

/* Ascending, and within what the parent says lies here: [key, key_end]. */
static struct dms_error *check_keys(const struct level *level, const struct dms_block_ref *ref,
				    const struct node *node)
{
	for (uint32_t i = 0; i < node->nr_entries; i++) {
		uint64_t key = key_at(node, i);

		if (key < ref->key || key > ref->key_end)
			return corrupt(level, node->blocknr, "outside its parent's range: key",
				       key);
		if (i && key <= key_at(node, i - 1))
			return corrupt(level, node->blocknr, "out of order: key", key);
	}
	return NULL;
}

static struct dms_error *add_children(struct level *level, const struct dms_block_ref *ref,
				      const struct node *node)
{
	for (uint32_t i = 0; i < node->nr_entries; i++) {
		struct dms_block_ref child = {
			.blocknr = dms_load_le64(node->values + (size_t)i * CHILD_BYTES),
			.key = key_at(node, i),
			.key_end = i + 1 < node->nr_entries ? key_at(node, i + 1) - 1 :
							      ref->key_end,
		};

		DMS_TRY(dms_metadata_walk_visit(level->walk, level->what, child.blocknr,
						node->blocknr));
		DMS_TRY(dms_block_list_add(&level->children, child));
	}
	return NULL;
}

static struct dms_error *visit_node(void *context, const struct dms_block_ref *ref,
				    const uint8_t *block)
{
	struct level *level = context;
	struct node node;

	DMS_TRY(parse_node(level, ref, block, &node));
	DMS_TRY(check_keys(level, ref, &node));
	level->known = true;
	level->internal = node.internal;
	if (node.internal)
		return add_children(level, ref, &node);
	for (uint32_t i = 0; i < node.nr_entries; i++)
		DMS_TRY(level->fn(level->context, node.blocknr, key_at(&node, i),
				  node.values + (size_t)i * node.value_size));
	return NULL;
}

/* Read one level; what it refers to replaces it in refs. */
static struct dms_error *walk_level(struct level *level, struct dms_block_list *refs)
{
	struct dms_block_list done;
	struct dms_error *error;

	level->known = false;
	level->children = (struct dms_block_list){ 0 };
	error = dms_block_reader_run_refs(level->walk->reader, level->what, refs->refs, refs->count,
					  visit_node, level);
	done = *refs;
	*refs = level->children;
	dms_cleanup_block_list(&done);
	return error;
}

struct dms_error *dms_btree_walk(struct dms_metadata_walk *walk, const char *what, uint64_t root,
				 uint32_t value_size, dms_btree_fn fn, void *context)
{
	_cleanup_block_list_ struct dms_block_list refs = { 0 };
	struct level level = {
		.walk = walk, .what = what, .value_size = value_size, .fn = fn, .context = context,
	};

	DMS_TRY(dms_metadata_walk_visit(walk, what, root, 0));
	DMS_TRY(dms_block_list_add(&refs, (struct dms_block_ref){ root, 0, UINT64_MAX }));
	for (unsigned int depth = 0; refs.count; depth++) {
		if (depth == DMS_BTREE_MAX_DEPTH)
			return corrupt(&level, root, "deeper than levels:",
				       DMS_BTREE_MAX_DEPTH);
		DMS_TRY(walk_level(&level, &refs));
	}
	return NULL;
}

struct dms_error *dms_btree_read_level(struct dms_metadata_walk *walk, const char *what,
				       struct dms_block_list *refs, uint32_t value_size,
				       dms_btree_fn fn, void *context, bool *internal)
{
	struct level level = {
		.walk = walk, .what = what, .value_size = value_size, .fn = fn, .context = context,
	};

	DMS_TRY(walk_level(&level, refs));
	*internal = level.internal;
	return NULL;
}
