/* Many pictures at another size by the mean of what each new pixel covers, and depth codes by their
 * median there.
 *
 * The sums are those of wdtrain/fields/resize.py, in its order and precision, so that the result is the
 * same to the bit: across in each line, then down; what weighs depth is whole numbers.
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
