/* The inner loops of reading: where a block's members lie, and many rows of a batch filled at once.
 *
 * Plain C without Python's headers, called through ctypes, which releases the interpreter lock; one
 * call fills a thread's share of a batch, so that threads seldom meet at that lock.
 * Every function says by its result when it met something unusual; the caller then takes the
 * Python path, which decides what is wrong and names it. So nothing here reports an error.
 */
#include "_rows.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 512, NAME = 100, SIZE_AT = 124, TYPE_AT = 156, MAGIC_AT = 257, PREFIX_AT = 345 };
enum { STORED_MAX = 65535, STORED_HEADER = 5, PNG_BODY = 43, LINE = 64 };
enum { PNG_HEAD = 33, PNG_REST = 24, UP = 2 }; /* up to its IDAT, and around that and after it */

static const uint8_t ZEROS[NAME];

/* The octal number of 11 digits that a ustar header holds at `text`; -1 for anything else. */
static int64_t octal(const uint8_t *text) {
    int64_t value = 0;
    for (int i = 0; i < 11; i++) {
        if (text[i] < '0' || text[i] > '7') return -1;
        value = value * 8 + (text[i] - '0');
    }
    return value;
}

/* Whether a key has only the characters that packing takes: those of no path. */
static int is_key(const uint8_t *key, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++) {
        uint8_t letter = key[i] | 32;
        if (!((letter >= 'a' && letter <= 'z') || (key[i] >= '0' && key[i] <= '9') ||
              key[i] == '-' || key[i] == '_'))
            return 0;
    }
    return bytes > 0;
}

/* Whether the member named at `name` is `key` (key_bytes long) followed by `suffix`, and zeros. */
static int is_named(const uint8_t *name, const uint8_t *key, int64_t key_bytes, const char *suffix) {
    int64_t suffix_bytes = (int64_t)strlen(suffix);
    if (key_bytes + suffix_bytes > NAME) return 0;
    if (memcmp(name, key, key_bytes) || memcmp(name + key_bytes, suffix, suffix_bytes)) return 0;
    return !memcmp(name + key_bytes + suffix_bytes, ZEROS, NAME - key_bytes - suffix_bytes);
}

/* Starts and sizes [samples, columns] of the members of an inflated block whose samples are
 * `columns` adjacent ustar members KEY + suffixes[column]. Returns the number of samples, or -1
 * where the block is anything else or holds more than `max_samples`. */
int64_t wd_index(const uint8_t *data, int64_t bytes, const char *const *suffixes, int64_t columns,
                 int64_t max_samples, int64_t *starts, int64_t *sizes) {
    int64_t at = 0, member = 0, key_bytes = 0;
    const uint8_t *key = data;
    for (; at + BLOCK <= bytes && data[at]; member++) {
        const uint8_t *header = data + at;
        int64_t size = octal(header + SIZE_AT), column = member % columns;
        if (size < 0 || size > bytes || memcmp(header + MAGIC_AT, "ustar", 5) ||
            (header[TYPE_AT] != '0' && header[TYPE_AT] != 0) || header[PREFIX_AT] ||
            member >= max_samples * columns)
            return -1;
        if (column == 0) {
            int64_t name_bytes = (int64_t)strnlen((const char *)header, NAME);
            key = header;
            key_bytes = name_bytes - (int64_t)strlen(suffixes[0]);
            if (!is_key(key, key_bytes)) return -1;
        }
        if (!is_named(header, key, key_bytes, suffixes[column])) return -1;
        starts[member] = at + BLOCK;
        sizes[member] = size;
        at += BLOCK + wd_padded(size);
        if (at > bytes) return -1;
    }
    for (; at < bytes; at++)
        if (data[at]) return -1;
    return member % columns ? -1 : member / columns;
}

/* Whether all samples of an indexed block lie alike, `stride` apart, and begin alike: each member
 * up to its last payloads[column] bytes, if that is not -1. */
int64_t wd_alike(const uint8_t *data, int64_t samples, int64_t stride, int64_t columns,
                 const int64_t *starts, const int64_t *sizes, const int64_t *payloads) {
    for (int64_t column = 0; column < columns; column++) {
        int64_t head = payloads[column] < 0 ? 0 : sizes[column] - payloads[column];
        const uint8_t *first = data + starts[column];
        if (head < 0) return 0;
        for (int64_t sample = 1; sample < samples; sample++) {
            int64_t at = sample * columns + column;
            if (starts[at] != starts[column] + sample * stride || sizes[at] != sizes[column] ||
                memcmp(data + starts[at], first, head))
                return 0;
        }
    }
    return 1;
}

/* memcpy that meanwhile fetches what lies at `next`, the source of the copy after this one: its
 * first bytes are seldom cached, and what fetches ahead by itself stops at the end of a page. */
static void copy_ahead(uint8_t *target, const uint8_t *source, int64_t bytes, const uint8_t *next) {
    int64_t at = 0;
    for (; at + LINE <= bytes; at += LINE) {
        __builtin_prefetch(next + at);
        memcpy(target + at, source + at, LINE);
    }
    memcpy(target + at, source + at, bytes - at);
}

/* As many bytes as a line of a small picture has, without a call of memcpy. */
static void copy_line(uint8_t *target, const uint8_t *source, int64_t bytes) {
    int64_t at = 0;
    for (; at + LINE <= bytes; at += LINE) memcpy(target + at, source + at, LINE);
    memcpy(target + at, source + at, bytes - at);
}

/* The pixels of one stored, unfiltered greyscale PNG that begins with `prefix` (43 bytes); 0 if
 * it is any other. A line may go on in the next stored part. */
static int slice_png(const uint8_t *png, int64_t png_bytes, const uint8_t *prefix, int64_t height,
                     int64_t line_bytes, uint8_t *target) {
    int64_t left = height * (line_bytes + 1);
    int64_t parts = left ? (left + STORED_MAX - 1) / STORED_MAX : 1, column = 0;
    if (png_bytes != PNG_BODY + parts * STORED_HEADER + left + 4 + 4 + 12) return 0;
    if (memcmp(png, prefix, PNG_BODY)) return 0;
    const uint8_t *from = png + PNG_BODY;
    while (left > 0) {
        int64_t count = left < STORED_MAX ? left : STORED_MAX;
        if (from[0] != (count == left) || (from[1] | from[2] << 8) != count) return 0;
        from += STORED_HEADER;
        left -= count;
        while (count > 0) {
            if (column == 0) {
                if (*from) return 0;
                from++, count--, column = 1;
                continue;
            }
            int64_t run = line_bytes + 1 - column < count ? line_bytes + 1 - column : count;
            copy_line(target, from, run);
            target += run, from += run, count -= run;
            column = (column + run) % (line_bytes + 1);
        }
    }
    return 1;
}

static const uint8_t IEND[12] = "\0\0\0\0IEND\xae\x42\x60\x82";

static int64_t big_endian(const uint8_t *from) {
    return (int64_t)from[0] << 24 | from[1] << 16 | from[2] << 8 | from[3];
}

/* The pixels of one greyscale PNG of one IDAT, of the geometry of `prefix`, all of whose lines are
 * filtered Up; 0 if it is any other. `room`: height lines with their filter bytes. */
static int unpack_png(const uint8_t *png, int64_t png_bytes, const uint8_t *prefix, int64_t height,
                      int64_t line_bytes, const Zlib *zlib, uint8_t *room, uint8_t *target) {
    unsigned long bytes = (unsigned long)(height * (line_bytes + 1)), wanted = bytes;
    if (png_bytes < PNG_HEAD + PNG_REST || memcmp(png, prefix, PNG_HEAD)) return 0;
    int64_t packed_bytes = big_endian(png + PNG_HEAD);
    const uint8_t *packed = png + PNG_HEAD + 8, *above = NULL;
    if (PNG_HEAD + PNG_REST + packed_bytes != png_bytes || memcmp(packed - 4, "IDAT", 4)) return 0;
    const uint8_t *end = packed + packed_bytes; /* which the decoder of Python looks at as well */
    if (memcmp(end + 4, IEND, sizeof IEND)) return 0;
    if (zlib->crc32(0, packed - 4, (unsigned)packed_bytes + 4) != (uint32_t)big_endian(end)) return 0;
    if (zlib->uncompress(room, &bytes, packed, (unsigned long)packed_bytes) || bytes != wanted)
        return 0;
    for (int64_t y = 0; y < height; y++, above = target, target += line_bytes) {
        const uint8_t *line = room + y * (line_bytes + 1);
        if (line[0] != UP) return 0;
        if (above)
            for (int64_t i = 0; i < line_bytes; i++) target[i] = above[i] + line[1 + i];
        else
            memcpy(target, line + 1, line_bytes);
    }
    return 1;
}

/* Pixels of two bytes from a PNG's order to this machine's, which is little-endian. */
static void swap_bytes(uint8_t *pixels, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 2) {
        uint8_t high = pixels[at];
        pixels[at] = pixels[at + 1], pixels[at + 1] = high;
    }
}

/* The rows of a piece whose samples are pixels as they are: nothing in them can be unusual. */
static void copy_rows(const Form *form, const Piece *piece, uint8_t *const *targets) {
    int64_t pixels = form->height * form->width;
    const int64_t bytes[COLUMNS] = {NAME, 3 * pixels, pixels, form->depth_bytes * pixels};
    for (int64_t row = 0; row < piece->rows; row++)
        for (int column = 0; column < COLUMNS; column++) {
            const uint8_t *const *source = piece->addresses + column * piece->stride + row;
            copy_ahead(targets[column] + (piece->at + row) * bytes[column], source[0],
                       bytes[column], source[row + 1 < piece->rows]);
        }
}

/* The names, masks and depths of a piece of encoded samples; 0 where one is unusual. `room` is for
 * deflated PNGs alone. */
static int gather_rows(const Form *form, const Piece *piece, uint8_t *const *targets,
                       uint8_t *room) {
    const int64_t pixel_bytes[2] = {1, form->depth_bytes};
    const uint8_t *const prefixes[2] = {form->mask_prefix, form->depth_prefix};
    for (int64_t row = 0; row < piece->rows; row++) {
        int64_t at = piece->at + row;
        memcpy(targets[0] + at * NAME, piece->addresses[row] - BLOCK, NAME);
        for (int kind = 0; kind < 2; kind++) {
            int64_t place = (kind + 1) * piece->stride + row;
            int64_t line_bytes = form->width * pixel_bytes[kind];
            int64_t plane_bytes = form->height * line_bytes;
            uint8_t *target = targets[kind + 2] + at * plane_bytes;
            const uint8_t *png = piece->addresses[place];
            if (!(room ? unpack_png(png, piece->sizes[place], prefixes[kind], form->height,
                                    line_bytes, form->zlib, room, target)
                       : slice_png(png, piece->sizes[place], prefixes[kind], form->height,
                                   line_bytes, target)))
                return 0;
            if (pixel_bytes[kind] == 2) swap_bytes(target, plane_bytes);
        }
    }
    return 1;
}

double wd_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int fill(const Form *form, const Piece *piece, uint8_t *const *targets, uint8_t *room,
                double *seconds) {
    const int64_t size[2] = {form->height, form->width};
    double start = wd_now();
    int is_usual = 1;
    if (form->calls)
        is_usual = gather_rows(form, piece, targets, room);
    else
        copy_rows(form, piece, targets);
    double gathered = wd_now();
    seconds[0] += gathered - start;
    if (!is_usual || !form->calls) return is_usual;
    uint8_t *overlays = targets[1] + piece->at * form->decoded[0] * form->decoded[1] * 3;
    const int64_t *behind = piece->sizes + piece->stride; /* the mask follows its overlay */
    int64_t decoded = wd_decode_jpegs(form->calls, piece->addresses, piece->sizes, behind,
                                      piece->rows, size, form->scale, form->decoded, overlays);
    seconds[1] += wd_now() - gathered;
    return decoded == piece->rows;
}

/* Fills `pieces` in turn: names, overlays, masks, depths to the arrays at `targets`. Returns the
 * pieces done: fewer where a row of the next one is unusual. Adds to `seconds` those of gathering
 * and of decoding JPEGs. */
int64_t wd_fill(const Form *form, const Piece *pieces, int64_t count, uint8_t *const *targets,
                double *seconds) {
    uint8_t *room = NULL;
    int64_t done = 0;
    if (form->zlib) {
        room = malloc((size_t)(form->height * (form->width * form->depth_bytes + 1)));
        if (!room) return 0;
    }
    while (done < count && fill(form, pieces + done, targets, room, seconds)) done++;
    free(room);
    return done;
}
