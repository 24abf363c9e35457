// SPDX-License-Identifier: Apache-2.0
/*
 * btrfs maps in two steps: the extent tree has what is used of a logical
 * address space, the chunk tree says where that lies on the device. What is in
 * neither (super blocks, the first MiB, what lies behind the file system's
 * end) is added by hand.
 */
#include <endian.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <stdlib.h>
#include <string.h>

#include <dmsnap/fs_map.h>

#include "cleanup.h"
#include "fs_ioctl.h"

#define BUFFER_BYTES (1u << 20)
#define RESERVED_BYTES (1u << 20) /* no chunk lies there, boot loaders do */
#define MIRROR_BYTES 65536u /* more than a super block */
#define ATTEMPTS 10

/*
 * Features that change neither the two trees nor where things lie. Of RAID56,
 * RAID1C34 and others that a single device could not have, none is here.
 */
#define INCOMPAT_KNOWN                                                                        \
	(BTRFS_FEATURE_INCOMPAT_MIXED_BACKREF | BTRFS_FEATURE_INCOMPAT_DEFAULT_SUBVOL |       \
	 BTRFS_FEATURE_INCOMPAT_MIXED_GROUPS | BTRFS_FEATURE_INCOMPAT_COMPRESS_LZO |          \
	 BTRFS_FEATURE_INCOMPAT_COMPRESS_ZSTD | BTRFS_FEATURE_INCOMPAT_BIG_METADATA |         \
	 BTRFS_FEATURE_INCOMPAT_EXTENDED_IREF | BTRFS_FEATURE_INCOMPAT_SKINNY_METADATA |      \
	 BTRFS_FEATURE_INCOMPAT_NO_HOLES | BTRFS_FEATURE_INCOMPAT_METADATA_UUID)
/* Free space tree, its validity, verity, block group tree. */
#define COMPAT_RO_KNOWN 0xfull

/* A chunk, and where its one or two copies begin on the device. */
struct chunk {
	uint64_t logical;
	uint64_t length_bytes;
	uint32_t copies;
	uint64_t physical[2];
};

struct mapping {
	int fd;
	uint64_t size_bytes;
	uint64_t devid;
	uint32_t nodesize;
	struct chunk *chunks; /* ascending by logical, as the tree has them */
	size_t nr_chunks;
	size_t room;
	size_t chunk; /* the one that the last extent lay in */
	bool has_changed; /* the chunks, since they were read */
	struct dms_extent_set *used;
};

typedef struct dms_error *(*item_fn)(struct mapping *mapping,
				     const struct btrfs_ioctl_search_header *header,
				     const void *item);

static struct dms_error *unsupported(const char *what)
{
	return dms_error_create(DMS_ERR_UNSUPPORTED, "btrfs with %s: not known where it is free",
				what);
}

static int compare(uint64_t one, uint64_t other)
{
	return one < other ? -1 : one > other;
}

/* Whether an item's key is no lower than the lowest that was asked for. */
static bool is_wanted(const struct btrfs_ioctl_search_key *key,
		      const struct btrfs_ioctl_search_header *item)
{
	int order = compare(item->objectid, key->min_objectid);

	if (!order)
		order = compare(item->type, key->min_type);
	if (!order)
		order = compare(item->offset, key->min_offset);
	return order >= 0;
}

/* The key behind that of an item; false: there is none. */
static bool advance(struct btrfs_ioctl_search_key *key,
		    const struct btrfs_ioctl_search_header *item)
{
	key->min_objectid = item->objectid;
	key->min_type = item->type;
	key->min_offset = item->offset + 1;
	if (key->min_offset)
		return true;
	if (++key->min_type <= UINT8_MAX)
		return true;
	key->min_type = 0;
	return ++key->min_objectid != 0;
}

/*
 * Hand out every item of one answer. The key is behind that of the last one
 * then, which is left in *item: what is in no ascending order would be gone
 * through for ever. *more: there can be others. Headers up to Linux 6.1 declare
 * the answer as 64-bit numbers, later ones as the bytes that it is.
 */
static struct dms_error *hand_out(struct mapping *mapping,
				  struct btrfs_ioctl_search_args_v2 *search, item_fn fn,
				  struct btrfs_ioctl_search_header *item, bool *more)
{
	const unsigned char *answer = (const unsigned char *)search->buf;
	uint32_t nr_items = search->key.nr_items;
	struct dms_error *error = NULL;
	size_t position = 0;
	uint32_t i;

	*more = nr_items > 0;
	for (i = 0; !error && i < nr_items; i++) {
		if (sizeof(*item) > BUFFER_BYTES - position)
			return unsupported("an answer that is cut off");
		memcpy(item, answer + position, sizeof(*item));
		position += sizeof(*item);
		if (item->len > BUFFER_BYTES - position)
			return unsupported("an answer that is cut off");
		if (!*more || !is_wanted(&search->key, item))
			return unsupported("items in no order");
		error = fn(mapping, item, answer + position);
		*more = advance(&search->key, item);
		position += item->len;
	}
	return error;
}

/* Every item of a tree, in ascending order of keys (BTRFS_IOC_TREE_SEARCH_V2). */
static struct dms_error *for_each_item(struct mapping *mapping, uint64_t tree_id, item_fn fn)
{
	_cleanup_free_ struct btrfs_ioctl_search_args_v2 *search =
		calloc(1, sizeof(*search) + BUFFER_BYTES);
	struct btrfs_ioctl_search_header item;
	bool more;
	int result;

	if (!search)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory to search btrfs");
	search->key = (struct btrfs_ioctl_search_key){
		.tree_id = tree_id,
		.max_objectid = UINT64_MAX,
		.max_offset = UINT64_MAX,
		.max_transid = UINT64_MAX,
		.max_type = UINT8_MAX,
	};
	do {
		search->key.nr_items = UINT32_MAX;
		search->buf_size = BUFFER_BYTES;
		result = dms_fs_ioctl(mapping->fd, BTRFS_IOC_TREE_SEARCH_V2, search);
		if (dms_fs_is_unsupported(result))
			return unsupported("an old kernel");
		if (result)
			return dms_error_create_os(result, "searching a tree of btrfs");
		DMS_TRY(hand_out(mapping, search, fn, &item, &more));
	} while (more);
	return NULL;
}

static struct dms_error *grow(struct mapping *mapping)
{
	size_t room = mapping->room ? 2 * mapping->room : 64;
	struct chunk *chunks;

	if (mapping->nr_chunks < mapping->room)
		return NULL;
	chunks = reallocarray(mapping->chunks, room, sizeof(*chunks));
	if (!chunks)
		return dms_error_create(DMS_ERR_NO_MEMORY, "no memory for the chunks of btrfs");
	mapping->chunks = chunks;
	mapping->room = room;
	return NULL;
}

static bool is_simple(uint64_t type, uint32_t copies)
{
	uint64_t profile = type & BTRFS_BLOCK_GROUP_PROFILE_MASK;

	return profile ? profile == BTRFS_BLOCK_GROUP_DUP && copies == 2 : copies == 1;
}

static struct dms_error *take_chunk(struct mapping *mapping,
				    const struct btrfs_ioctl_search_header *header,
				    const void *item)
{
	struct btrfs_stripe stripes[2];
	struct btrfs_chunk chunk;
	struct chunk *new;
	uint32_t i, copies;

	if (header->type != BTRFS_CHUNK_ITEM_KEY)
		return NULL;
	if (header->len < sizeof(chunk))
		return unsupported("a chunk that is cut off");
	memcpy(&chunk, item, sizeof(chunk));
	copies = le16toh(chunk.num_stripes);
	if (!is_simple(le64toh(chunk.type), copies))
		return unsupported("chunks of another profile than single and DUP");
	if (header->len < sizeof(chunk) + (copies - 1) * sizeof(stripes[0]))
		return unsupported("a chunk that is cut off");
	memcpy(stripes, (const char *)item + offsetof(struct btrfs_chunk, stripe),
	       copies * sizeof(stripes[0]));
	DMS_TRY(grow(mapping));
	new = &mapping->chunks[mapping->nr_chunks++];
	*new = (struct chunk){ .logical = header->offset, .length_bytes = le64toh(chunk.length),
			       .copies = copies };
	for (i = 0; i < copies; i++) {
		new->physical[i] = le64toh(stripes[i].offset);
		if (le64toh(stripes[i].devid) != mapping->devid)
			return unsupported("chunks on another device");
		if (new->length_bytes > mapping->size_bytes ||
		    new->physical[i] > mapping->size_bytes - new->length_bytes)
			return unsupported("a chunk that reaches past the device");
	}
	return NULL;
}

/* The chunk that an extent lies in whole; extents come in ascending order. */
static const struct chunk *chunk_of(struct mapping *mapping, uint64_t logical,
				    uint64_t length_bytes)
{
	for (; mapping->chunk < mapping->nr_chunks; mapping->chunk++) {
		const struct chunk *chunk = &mapping->chunks[mapping->chunk];

		if (logical < chunk->logical)
			return NULL;
		if (logical - chunk->logical < chunk->length_bytes)
			return length_bytes <= chunk->length_bytes - (logical - chunk->logical) ?
				       chunk :
				       NULL;
	}
	return NULL;
}

static struct dms_error *take_extent(struct mapping *mapping,
				     const struct btrfs_ioctl_search_header *header,
				     const void *item)
{
	struct dms_error *error = NULL;
	const struct chunk *chunk;
	uint64_t length_bytes;
	uint32_t i;

	(void)item;
	if (header->type == BTRFS_EXTENT_ITEM_KEY)
		length_bytes = header->offset;
	else if (header->type == BTRFS_METADATA_ITEM_KEY)
		length_bytes = mapping->nodesize;
	else
		return NULL;
	chunk = chunk_of(mapping, header->objectid, length_bytes);
	/* A chunk made while the trees were read, by a balance for one. */
	if (!chunk) {
		mapping->has_changed = true;
		return unsupported("chunks that come and go");
	}
	for (i = 0; !error && i < chunk->copies; i++)
		error = dms_extent_set_add(mapping->used,
					   chunk->physical[i] + header->objectid - chunk->logical,
					   length_bytes);
	return error;
}

static struct dms_error *check_features(const struct mapping *mapping)
{
	struct btrfs_ioctl_feature_flags flags = { 0 };
	int result = dms_fs_ioctl(mapping->fd, BTRFS_IOC_GET_FEATURES, &flags);

	if (result)
		return dms_error_create_os(result, "asking for the features of btrfs");
	if (flags.incompat_flags & ~INCOMPAT_KNOWN || flags.compat_ro_flags & ~COMPAT_RO_KNOWN)
		return unsupported("features that are not known");
	return NULL;
}

/* The only device, and what lies behind the file system's end on it. */
static struct dms_error *check_device(struct mapping *mapping)
{
	struct btrfs_ioctl_fs_info_args fs = { 0 };
	struct btrfs_ioctl_dev_info_args device = { 0 };
	int result = dms_fs_ioctl(mapping->fd, BTRFS_IOC_FS_INFO, &fs);

	if (dms_fs_is_unsupported(result))
		return unsupported("an old kernel");
	if (result)
		return dms_error_create_os(result, "asking for the devices of btrfs");
	if (fs.num_devices != 1)
		return unsupported("several devices");
	mapping->nodesize = fs.nodesize;
	mapping->devid = fs.max_id;
	device.devid = fs.max_id;
	result = dms_fs_ioctl(mapping->fd, BTRFS_IOC_DEV_INFO, &device);
	if (result)
		return dms_error_create_os(result, "asking for device %llu of btrfs",
					   (unsigned long long)fs.max_id);
	if (device.total_bytes > mapping->size_bytes)
		return unsupported("a device that is larger than the volume");
	return dms_extent_set_add(mapping->used, device.total_bytes,
				  mapping->size_bytes - device.total_bytes);
}

/* The super blocks lie at 64 KiB, 64 MiB and 256 GiB, whatever is there besides. */
static struct dms_error *add_fixed_places(struct mapping *mapping)
{
	struct dms_error *error = dms_extent_set_add(mapping->used, 0, RESERVED_BYTES);

	if (!error)
		error = dms_extent_set_add(mapping->used, 64ull << 20, MIRROR_BYTES);
	if (!error)
		error = dms_extent_set_add(mapping->used, 256ull << 30, MIRROR_BYTES);
	return error;
}

static struct dms_error *map_all(struct mapping *mapping)
{
	DMS_TRY(check_features(mapping));
	DMS_TRY(check_device(mapping));
	DMS_TRY(add_fixed_places(mapping));
	DMS_TRY(for_each_item(mapping, BTRFS_CHUNK_TREE_OBJECTID, take_chunk));
	return for_each_item(mapping, BTRFS_EXTENT_TREE_OBJECTID, take_extent);
}

/* What is used, by one look at both trees. */
static struct dms_error *map_once(int fd, uint64_t size_bytes, bool *has_changed,
				  struct dms_extent_set **used)
{
	_cleanup_extent_set_ struct dms_extent_set *set = NULL;
	struct mapping mapping = { .fd = fd, .size_bytes = size_bytes };
	struct dms_error *error;

	DMS_TRY(dms_extent_set_create(&set));
	mapping.used = set;
	error = map_all(&mapping);
	free(mapping.chunks);
	*has_changed = mapping.has_changed;
	if (!error)
		*used = dms_steal(set);
	return error;
}

struct dms_error *dms_btrfs_map_unused(int fd, uint64_t size_bytes,
				       struct dms_extent_set **unused)
{
	_cleanup_extent_set_ struct dms_extent_set *used = NULL, *set = NULL;
	bool has_changed = true;
	int attempt;

	/* A file system that fills has a new chunk now and then: that one is there the next time. */
	for (attempt = 1; !used; attempt++) {
		struct dms_error *error = map_once(fd, size_bytes, &has_changed, &used);

		if (error && (!has_changed || attempt == ATTEMPTS))
			return error;
		dms_error_destroy(error);
	}
	DMS_TRY(dms_extent_set_create(&set));
	DMS_TRY(dms_extent_set_add(set, 0, size_bytes));
	DMS_TRY(dms_extent_set_subtract(set, used));
	*unused = dms_steal(set);
	return NULL;
}
