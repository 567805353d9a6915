/* Many pictures at another size by the mean of what each new pixel covers, and depth codes by their
 * median there.
 *
 * The sums are those of wdtrain/fields/resize.py, in its order and precision, so that the result is the
 * same to the bit: across in each line, then down; all but the means of pictures is whole numbers.
 */
#include "_rows.h"

#include <string.h>

/* Adding this to a float of 0 to 255 leaves its rounding, halves to even, in the lowest byte. */
static const float ROUND = 12582912.0f;

static uint8_t rounded(float value) {
    uint32_t bits;
    value += ROUND;
    memcpy(&bits, &value, sizeof bits);
    return (uint8_t)bits;
}

/* One line of `channels` interleaved colours: `from` to axis->size pixels at `to`. */
static inline void shrink_line(const float *from, const Axis *axis, int64_t taps, int64_t channels,
                               float *to) {
    for (int64_t x = 0; x < axis->size; x++)
        for (int64_t channel = 0; channel < channels; channel++) {
            const float *pixel = from + axis->first[x] * channels + channel;
            const float *weight = axis->weights + x * taps;
            float sum = pixel[0] * weight[0];
            for (int64_t tap = 1; tap < taps; tap++) sum += pixel[tap * channels] * weight[tap];
            *to++ = sum;
        }
}

/* The same with constants, which the compiler unrolls. */
static void shrink_across(const float *from, const Axis *axis, int64_t channels, float *to) {
    switch (channels << 3 | (axis->taps < 8 ? axis->taps : 0)) {
    case 1 << 3 | 2: shrink_line(from, axis, 2, 1, to); break;
    case 1 << 3 | 3: shrink_line(from, axis, 3, 1, to); break;
    case 1 << 3 | 4: shrink_line(from, axis, 4, 1, to); break;
    case 3 << 3 | 2: shrink_line(from, axis, 2, 3, to); break;
    case 3 << 3 | 3: shrink_line(from, axis, 3, 3, to); break;
    case 3 << 3 | 4: shrink_line(from, axis, 4, 3, to); break;
    default: shrink_line(from, axis, axis->taps, channels, to);
    }
}

/* `count` pictures uint8 [height, width, channels], one after the other, each to
 * [down->size, across->size, channels] at `target`. `room`: floats, the larger of width and
 * across->size, and height * across->size, times channels. */
void wd_shrink(const uint8_t *pictures, int64_t count, int64_t height, int64_t width,
               int64_t channels, const Axis *down, const Axis *across, float *room,
               uint8_t *target) {
    int64_t line_values = width * channels, new_values = across->size * channels;
    float *line = room, *lines = room + (line_values > new_values ? line_values : new_values);
    for (int64_t picture = 0; picture < count; picture++) {
        for (int64_t y = 0; y < height; y++, pictures += line_values) {
            for (int64_t i = 0; i < line_values; i++) line[i] = pictures[i];
            shrink_across(line, across, channels, lines + y * new_values);
        }
        for (int64_t y = 0; y < down->size; y++, target += new_values) {
            const float *from = lines + down->first[y] * new_values;
            const float *weight = down->weights + y * down->taps;
            for (int64_t i = 0; i < new_values; i++) line[i] = from[i] * weight[0];
            for (int64_t tap = 1; tap < down->taps; tap++)
                for (int64_t i = 0; i < new_values; i++)
                    line[i] += from[tap * new_values + i] * weight[tap];
            for (int64_t i = 0; i < new_values; i++) target[i] = rounded(line[i]);
        }
    }
}

/* The same for pictures of twice the height and width. */
void wd_halve(const uint8_t *pictures, int64_t count, int64_t new_height, int64_t new_width,
              int64_t channels, uint8_t *target) {
    int64_t line_bytes = 2 * new_width * channels;
    for (int64_t y = 0; y < count * new_height; y++, pictures += 2 * line_bytes)
        for (int64_t x = 0; x < new_width; x++)
            for (int64_t channel = 0; channel < channels; channel++) {
                const uint8_t *pixel = pictures + 2 * x * channels + channel;
                int sum = pixel[0] + pixel[channels] + pixel[line_bytes] +
                          pixel[line_bytes + channels];
                *target++ = (uint8_t)((sum + 1 + (sum >> 2 & 1)) >> 2);
            }
}

static void put_code(int32_t code, uint8_t *target, int64_t code_bytes) {
    uint16_t wide = (uint16_t)code;
    if (code_bytes == 1)
        *target = (uint8_t)code;
    else
        memcpy(target, &wide, sizeof wide);
}

/* Codes as they are compared: the smaller key is the nearer, from `least` on, and code 0, unknown, is
 * the largest of all: -1 - least. flip: one more than the largest code, where of two codes the larger
 * is the nearer; else 0. */
static inline int32_t key_of(int32_t code, int32_t flip, int32_t least) {
    return code ? (flip ? flip - code : code) - 1 + least : -1 - least;
}

static inline int32_t code_of(int32_t key, int32_t flip, int32_t least) {
    int32_t rank = key - least + 1;
    return key == -1 - least ? 0 : flip ? flip - rank : rank;
}

#define KEY int8_t
#define LEAST INT8_MIN
#define NAMED(name) name##_8
#include "_medians.h"
#undef KEY
#undef LEAST
#undef NAMED
#define KEY int16_t
#define LEAST INT16_MIN
#define NAMED(name) name##_16
#include "_medians.h"
#undef KEY
#undef NAMED
#define KEY int32_t
#define NAMED(name) name##_32
#include "_medians.h"

/* `count` arrays of codes [height, width], each of `code_bytes`, to [down->size, across->size] at
 * `target`: the weighted median of what each covers. flip: see key_of. All of a pixel
 * weighs less than 2^30. room, for pointers: down->taps, and for int32: width, and across->size
 * times (6 + across->taps * (down->taps + 1)). */
void wd_median(const uint8_t *codes, int64_t count, int64_t height, int64_t width,
               int64_t code_bytes, int32_t flip, const Cover *down, const Cover *across,
               void *room, uint8_t *target) {
    int64_t total = down->total * across->total; /* it has to fit, as a code has */
    int fits = code_bytes == 1 && total < 1 << 7 ? 8 : total < 1 << 15 ? 16 : 32;
    int64_t source_bytes = height * width * code_bytes;
    int64_t target_bytes = down->size * across->size * code_bytes;
    for (int64_t i = 0; i < count; i++, codes += source_bytes, target += target_bytes)
        (fits == 8 ? medians_8 : fits == 16 ? medians_16 : medians_32)(
            codes, width, code_bytes, flip, down, across, room, target);
}

static inline int32_t smaller(int32_t one, int32_t other) { return one < other ? one : other; }
static inline int32_t larger(int32_t one, int32_t other) { return one > other ? one : other; }

/* The same for codes of twice the height and width; room: int32, 3 * width. */
void wd_median_of_four(const uint8_t *codes, int64_t count, int64_t new_height, int64_t new_width,
                       int64_t code_bytes, int32_t flip, int32_t *room, uint8_t *target) {
    int64_t width = 2 * new_width;
    int32_t *line = room + 2 * width;
    for (int64_t y = 0; y < count * new_height; y++, codes += 2 * width * code_bytes) {
        for (int64_t x = 0; x < 2 * width; x++)
            room[x] = key_of(code_bytes == 1 ? codes[x] : ((const uint16_t *)codes)[x], flip,
                             LEAST);
        for (int64_t x = 0; x < new_width; x++) {
            const int32_t *above = room + 2 * x, *below = above + width;
            int32_t low = smaller(above[0], above[1]), high = larger(above[0], above[1]);
            int32_t low_too = smaller(below[0], below[1]), high_too = larger(below[0], below[1]);
            int32_t inner = larger(low, low_too), inner_too = smaller(high, high_too);
            int32_t second = smaller(inner, inner_too), third = larger(inner, inner_too);
            int32_t key = third == -1 - LEAST && second != -1 - LEAST ? smaller(low, low_too) : second;
            line[x] = code_of(key, flip, LEAST);
        }
        for (int64_t x = 0; x < new_width; x++, target += code_bytes)
            put_code(line[x], target, code_bytes);
    }
}

/* The mean of what is known, halves to even; `unknown`, which is 1, is no mean. */
static uint8_t mean_of(int64_t sum, int64_t known, int64_t total, uint8_t unknown) {
    if (2 * known < total) return unknown;
    int64_t whole = sum / known, rest = sum % known;
    int64_t mean = whole + (2 * rest + (whole & 1) > known);
    return mean != unknown ? (uint8_t)mean : sum > known ? 2 : 0;
}

/* `count` alphas [height, width] to [down->size, across->size] at `target`: the mean of what is not
 * `unknown` of what each pixel covers; unknown where more than half is. room: int32, 2 * width. */
void wd_known_area(const uint8_t *alpha, int64_t count, int64_t height, int64_t width,
                   uint8_t unknown, const Cover *down, const Cover *across, int32_t *room,
                   uint8_t *target) {
    int32_t *restrict known = room, *restrict sums = room + width;
    int64_t total = down->total * across->total;
    for (int64_t picture = 0; picture < count; picture++, alpha += height * width)
        for (int64_t y = 0; y < down->size; y++) {
            memset(room, 0, 2 * (size_t)width * sizeof *room);
            for (int64_t tap = 0; tap < down->taps; tap++) {
                const uint8_t *restrict line = alpha + (down->first[y] + tap) * width;
                int32_t share = down->shares[y * down->taps + tap];
                for (int64_t x = 0; x < width; x++) {
                    int32_t weight = line[x] != unknown ? share : 0;
                    known[x] += weight, sums[x] += weight * line[x];
                }
            }
            for (int64_t x = 0; x < across->size; x++) {
                const int32_t *share = across->shares + x * across->taps;
                int64_t at = across->first[x], of_known = 0, sum = 0;
                for (int64_t tap = 0; tap < across->taps; tap++, at++) {
                    of_known += (int64_t)known[at] * share[tap];
                    sum += (int64_t)sums[at] * share[tap];
                }
                *target++ = mean_of(sum, of_known, total, unknown);
            }
        }
}

/* Ids by the area that they have of one pixel, and which there are. */
typedef struct {
    int64_t *area;
    int32_t *seen;
    int64_t num_seen;
} Ids;

/* The id with the largest area, of several the smallest; `ignore` where that has more than half.
 * Nothing is left of the areas. */
static int32_t most_of(Ids *ids, int32_t ignore, int64_t total) {
    int64_t most = 0, ignored = 0;
    int32_t found = ignore;
    for (int64_t i = 0; i < ids->num_seen; i++) {
        int32_t id = ids->seen[i];
        int64_t area = ids->area[id];
        ids->area[id] = 0;
        if (id == ignore)
            ignored = area;
        else if (area > most || (area == most && id < found))
            most = area, found = id;
    }
    ids->num_seen = 0;
    return 2 * ignored > total ? ignore : found;
}

static void add_area(Ids *ids, int32_t id, int64_t area) {
    if (!area) return;
    if (!ids->area[id]) ids->seen[ids->num_seen++] = id;
    ids->area[id] += area;
}

/* One line of a pixel's window: its ids with their areas, those in a row at once. */
static inline void add_line(Ids *ids, const uint8_t *line, int64_t id_bytes, const int32_t *shares,
                            int64_t taps, int64_t times) {
    int32_t last = -1;
    int64_t area = 0;
    for (int64_t tap = 0; tap < taps; tap++) {
        int32_t id = id_bytes == 1 ? line[tap] : ((const uint16_t *)line)[tap];
        if (id != last && last >= 0) add_area(ids, last, area * times), area = 0;
        last = id, area += shares[tap];
    }
    add_area(ids, last, area * times);
}

static inline void majorities(const uint8_t *pixels, int64_t width, int64_t id_bytes, int32_t ignore,
                              const Cover *down, const Cover *across, Ids *ids, uint8_t *target) {
    int64_t total = down->total * across->total;
    for (int64_t y = 0; y < down->size; y++)
        for (int64_t x = 0; x < across->size; x++, target += id_bytes) {
            const uint8_t *line = pixels + (down->first[y] * width + across->first[x]) * id_bytes;
            for (int64_t tap = 0; tap < down->taps; tap++, line += width * id_bytes)
                add_line(ids, line, id_bytes, across->shares + x * across->taps, across->taps,
                         down->shares[y * down->taps + tap]);
            put_code(most_of(ids, ignore, total), target, id_bytes);
        }
}

/* `count` arrays of class ids [height, width], each of `id_bytes`, to [down->size, across->size] at
 * `target`: of what each pixel covers, the id that has most of it. room: an int64 for each id that
 * there may be, and an int32 for each pixel that one covers. */
void wd_majority(const uint8_t *pixels, int64_t count, int64_t height, int64_t width,
                 int64_t id_bytes, int32_t ignore, const Cover *down, const Cover *across,
                 int64_t *room, uint8_t *target) {
    int64_t num_ids = (int64_t)1 << 8 * id_bytes;
    Ids ids = {room, (int32_t *)(room + num_ids), 0};
    memset(room, 0, (size_t)num_ids * sizeof *room);
    for (int64_t i = 0; i < count; i++) {
        if (id_bytes == 1) /* with constants, which the compiler folds */
            majorities(pixels, width, 1, ignore, down, across, &ids, target);
        else
            majorities(pixels, width, 2, ignore, down, across, &ids, target);
        pixels += height * width * id_bytes;
        target += down->size * across->size * id_bytes;
    }
}
