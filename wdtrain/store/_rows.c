/* The inner loops of reading a block: where its members lie, and many rows copied at once.
 *
 * Plain C without Python's headers, called through ctypes, which releases the interpreter lock.
 * Every function says by its result when it met something unusual; the caller then takes the
 * Python path, which decides what is wrong and names it. So nothing here reports an error.
 */
#include <stdint.h>
#include <string.h>

enum { BLOCK = 512, NAME = 100, SIZE_AT = 124, TYPE_AT = 156, MAGIC_AT = 257, PREFIX_AT = 345 };
enum { STORED_MAX = 65535, STORED_HEADER = 5, PNG_BODY = 43 };

/* The octal number of 11 digits that a ustar header holds at `text`; -1 for anything else. */
static int64_t octal(const uint8_t *text) {
    int64_t value = 0;
    for (int i = 0; i < 11; i++) {
        if (text[i] < '0' || text[i] > '7') return -1;
        value = value * 8 + (text[i] - '0');
    }
    return value;
}

/* Whether the member named at `name` is `key` (key_bytes long) followed by `suffix`. */
static int is_named(const uint8_t *name, const uint8_t *key, int64_t key_bytes, const char *suffix) {
    int64_t suffix_bytes = (int64_t)strlen(suffix);
    if (key_bytes + suffix_bytes > NAME) return 0;
    if (memcmp(name, key, key_bytes) || memcmp(name + key_bytes, suffix, suffix_bytes)) return 0;
    return key_bytes + suffix_bytes == NAME || name[key_bytes + suffix_bytes] == 0;
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
            if (key_bytes < 1) return -1;
        }
        if (!is_named(header, key, key_bytes, suffixes[column])) return -1;
        starts[member] = at + BLOCK;
        sizes[member] = size;
        at += BLOCK + (size + BLOCK - 1) / BLOCK * BLOCK;
        if (at > bytes) return -1;
    }
    for (; at < bytes; at++)
        if (data[at]) return -1;
    return member % columns ? -1 : member / columns;
}

/* For each column, `rows` runs of row_bytes[column], each from its own address, one after the
 * other to targets[column]. `sources` is [columns, rows], `stride` addresses from column to column. */
void wd_copy(const uint8_t *const *sources, int64_t stride, int64_t columns, int64_t rows,
             const int64_t *row_bytes, uint8_t *const *targets) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            memcpy(targets[column] + row * row_bytes[column], sources[column * stride + row],
                   row_bytes[column]);
}

/* The pixels of one stored, unfiltered greyscale PNG that begins with `prefix` (43 bytes); 0 if
 * it is any other. `line_bytes` are those of one line's pixels, without its filter byte. */
static int slice_png(const uint8_t *png, int64_t png_bytes, const uint8_t *prefix, int64_t height,
                     int64_t line_bytes, uint8_t *target) {
    int64_t left = height * (line_bytes + 1), column = 0;
    int64_t parts = left ? (left + STORED_MAX - 1) / STORED_MAX : 1;
    if (png_bytes != PNG_BODY + parts * STORED_HEADER + left + 4 + 4 + 12) return 0;
    if (memcmp(png, prefix, PNG_BODY)) return 0;
    const uint8_t *from = png + PNG_BODY;
    while (left > 0) {
        int64_t count = left < STORED_MAX ? left : STORED_MAX;
        if (from[0] != (count == left) || (from[1] | from[2] << 8) != count) return 0;
        from += STORED_HEADER;
        left -= count;
        while (count > 0) { /* lines may go on in the next stored part */
            if (column == 0) {
                if (*from) return 0;
                from++, count--, column = 1;
                continue;
            }
            int64_t run = line_bytes + 1 - column < count ? line_bytes + 1 - column : count;
            memcpy(target, from, run);
            target += run, from += run, count -= run;
            column = (column + run) % (line_bytes + 1);
        }
    }
    return 1;
}

/* The pixels of `rows` stored PNGs, one after the other to `target`. Returns the rows done: fewer
 * where one is unusual. */
int64_t wd_slice_pngs(const uint8_t *const *pngs, const int64_t *png_bytes, int64_t rows,
                      const uint8_t *prefix, int64_t height, int64_t line_bytes, uint8_t *target) {
    for (int64_t row = 0; row < rows; row++)
        if (!slice_png(pngs[row], png_bytes[row], prefix, height, line_bytes,
                       target + row * height * line_bytes))
            return row;
    return rows;
}
