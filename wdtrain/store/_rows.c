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

/* The pixels of one stored, unfiltered PNG that begins with `prefix` (43 bytes); 0 if
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

/* The pixels of one PNG of one IDAT, of the geometry of `prefix`, all of whose lines are
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

/* The pixels of one `.npy` array that begins with `prefix`; 0 if it is any other. */
static int copy_npy(const uint8_t *npy, int64_t npy_bytes, const Column *column, int64_t plane_bytes,
                    uint8_t *target) {
    if (npy_bytes != column->prefix_bytes + plane_bytes) return 0;
    if (memcmp(npy, column->prefix, column->prefix_bytes)) return 0;
    memcpy(target, npy + column->prefix_bytes, plane_bytes);
    return 1;
}

/* The rows of a piece whose samples are pixels as they are: nothing in them can be unusual. */
static void copy_rows(const Form *form, const Piece *piece, uint8_t *const *targets) {
    for (int64_t row = 0; row < piece->rows; row++)
        for (int64_t place = 0; place <= form->count; place++) {
            if (!targets[place]) continue;
            const uint8_t *const *source = piece->addresses + place * piece->stride + row;
            int64_t bytes = place ? form->height * form->columns[place - 1].line_bytes : NAME;
            copy_ahead(targets[place] + (piece->at + row) * bytes, source[0], bytes,
                       source[row + 1 < piece->rows]);
        }
}

/* The pixels of one member that is no JPEG; 0 where it is unusual. `room` is for deflated PNGs. */
static int gather(const Form *form, const Column *column, const uint8_t *member, int64_t bytes,
                  uint8_t *room, uint8_t *target) {
    int64_t line_bytes = column->line_bytes, plane_bytes = form->height * line_bytes;
    if (column->codec == NPY) return copy_npy(member, bytes, column, plane_bytes, target);
    if (!(form->zlib ? unpack_png(member, bytes, column->prefix, form->height, line_bytes,
                                  form->zlib, room, target)
                     : slice_png(member, bytes, column->prefix, form->height, line_bytes, target)))
        return 0;
    if (column->value_bytes == 2) swap_bytes(target, plane_bytes);
    return 1;
}

/* The names of a piece of encoded samples, and all of their members that are no JPEGs; 0 where one is
 * unusual. */
static int gather_rows(const Form *form, const Piece *piece, uint8_t *const *targets,
                       uint8_t *room) {
    for (int64_t row = 0; row < piece->rows; row++) {
        int64_t at = piece->at + row;
        memcpy(targets[0] + at * NAME, piece->addresses[row] - BLOCK, NAME);
        for (int64_t i = 0; i < form->count; i++) {
            const Column *column = form->columns + i;
            if (column->codec == NONE || column->codec == JPEG) continue;
            int64_t place = i * piece->stride + row;
            uint8_t *target = targets[i + 1] + at * form->height * column->line_bytes;
            if (!gather(form, column, piece->addresses[place], piece->sizes[place], room, target))
                return 0;
        }
    }
    return 1;
}

/* The JPEGs of a piece, column by column; 0 where one is unusual. */
static int decode_rows(const Form *form, const Piece *piece, uint8_t *const *targets) {
    const int64_t size[2] = {form->height, form->width};
    for (int64_t i = 0; i < form->count; i++) {
        const Column *column = form->columns + i;
        if (column->codec != JPEG) continue;
        const int64_t *bytes = piece->sizes + i * piece->stride;
        const int64_t *behind = bytes + piece->stride; /* the member that follows */
        uint8_t *target = targets[i + 1] + piece->at * column->decoded[0] * column->decoded[1] * 3;
        if (wd_decode_jpegs(form->calls, piece->addresses + i * piece->stride, bytes, behind,
                            piece->rows, size, column->scale, column->decoded, target) != piece->rows)
            return 0;
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
    double start = wd_now();
    int is_usual = 1;
    if (form->is_raw)
        copy_rows(form, piece, targets);
    else
        is_usual = gather_rows(form, piece, targets, room);
    double gathered = wd_now();
    seconds[0] += gathered - start;
    if (!is_usual || !form->calls) return is_usual;
    is_usual = decode_rows(form, piece, targets);
    seconds[1] += wd_now() - gathered;
    return is_usual;
}

/* Fills `pieces` in turn: names, and the pixels of each column, to the arrays at `targets`; a NULL
 * is passed over, as is a column without a codec. Returns the pieces done: fewer where a row of the
 * next one is unusual. Adds to `seconds` those of gathering and of decoding JPEGs. */
int64_t wd_fill(const Form *form, const Piece *pieces, int64_t count, uint8_t *const *targets,
                double *seconds) {
    uint8_t *room = NULL;
    int64_t done = 0, most = 0;
    for (int64_t i = 0; i < form->count; i++)
        if (form->columns[i].line_bytes > most) most = form->columns[i].line_bytes;
    if (form->zlib) {
        room = malloc((size_t)(form->height * (most + 1)));
        if (!room) return 0;
    }
    while (done < count && fill(form, pieces + done, targets, room, seconds)) done++;
    free(room);
    return done;
}
