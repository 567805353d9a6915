/* Blocks of compressed shards, read, inflated, checked and indexed by one call.
 *
 * Uses the zstd that another package brings, through functions of its stable interface. As in
 * _rows.c nothing is reported: what cannot be read, is damaged or unusual is left to the path that
 * names it.
 */
#include "_rows.h"

#include <errno.h>
#include <unistd.h>

enum { CHECKSUM = 4, VERIFIED = -1 };
enum { IGNORE_CHECKSUM = 1002 }; /* ZSTD_d_forceIgnoreChecksum; a zstd without it verifies again */

struct Zstd {
    size_t (*set)(void *, int, int);
    size_t (*decompress)(void *, void *, size_t, const void *, size_t);
    unsigned (*is_error)(size_t);
    size_t (*frame_bytes)(const void *, size_t);
};

static int read_whole(int file, uint8_t *target, int64_t bytes, int64_t offset) {
    while (bytes > 0) {
        ssize_t count = pread(file, target, (size_t)bytes, (off_t)offset);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return 0;
        target += count, bytes -= count, offset += count;
    }
    return 1;
}

/* The frame's own checksum: its last bytes. */
static int64_t checksum_of(const Block *block) {
    const uint8_t *last = block->packed + block->packed_bytes - CHECKSUM;
    return block->packed_bytes < CHECKSUM
               ? VERIFIED
               : last[0] | last[1] << 8 | last[2] << 16 | (int64_t)last[3] << 24;
}

/* What was not verified before must have the checksum of the seek table, and fit it. */
static int inflate(const Zstd *zstd, void *context, const Block *block) {
    int is_verified = block->checksum == VERIFIED;
    if (!is_verified && checksum_of(block) != block->checksum) return 0;
    if (!is_verified && /* one frame, not several */
        zstd->frame_bytes(block->packed, (size_t)block->packed_bytes) != (size_t)block->packed_bytes)
        return 0;
    zstd->set(context, IGNORE_CHECKSUM, is_verified);
    size_t bytes = zstd->decompress(context, block->data, (size_t)block->bytes, block->packed,
                                    (size_t)block->packed_bytes);
    return !zstd->is_error(bytes) && (int64_t)bytes == block->bytes;
}

static int index_block(const Members *members, const Block *block) {
    int64_t samples = wd_index(block->data, block->bytes, members->suffixes, members->columns,
                               block->samples, block->starts, block->sizes);
    if (samples != block->samples) return 0;
    if (!members->payloads) return 1;
    int64_t last = samples * members->columns - 1;
    if (last < 0 || wd_padded(block->starts[last] + block->sizes[last]) != block->bytes) return 0;
    return wd_alike(block->data, samples, block->bytes / samples, members->columns, block->starts,
                    block->sizes, members->payloads);
}

/* Loads `blocks` in turn, with a decompression context that no other thread uses meanwhile. Returns
 * how many: fewer where something is wrong with the next one.
 * Adds to `seconds` those of reading, inflating and indexing. */
int64_t wd_load(const Zstd *zstd, void *context, const Members *members, const Block *blocks,
                int64_t count, double *seconds) {
    int64_t done = 0;
    for (int is_whole = 1; is_whole && done < count; done += is_whole) {
        const Block *block = blocks + done;
        double start = wd_now();
        is_whole = block->file < 0 || read_whole((int)block->file, block->packed,
                                                 block->packed_bytes, block->offset);
        double was_read = wd_now();
        is_whole = is_whole && inflate(zstd, context, block);
        double was_inflated = wd_now();
        is_whole = is_whole && index_block(members, block);
        seconds[0] += was_read - start;
        seconds[1] += was_inflated - was_read;
        seconds[2] += wd_now() - was_inflated;
    }
    return done;
}
