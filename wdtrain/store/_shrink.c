/* Many pictures made smaller by the mean of what each new pixel covers, and codes by their nearest.
 *
 * The sums are those of OpenCV's INTER_AREA, in its order and precision, so that the result is the
 * same to the bit: across in each line, then down. The caller checks that it is.
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
 * [down->size, across->size, channels] at `target`. `room`: floats, width + height * across->size,
 * times channels. */
void wd_shrink(const uint8_t *pictures, int64_t count, int64_t height, int64_t width,
               int64_t channels, const Axis *down, const Axis *across, float *room,
               uint8_t *target) {
    int64_t line_values = width * channels, new_values = across->size * channels;
    float *line = room, *lines = room + line_values;
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

/* The same for pictures of twice the height and width, whose sum OpenCV rounds up at halves. */
void wd_halve(const uint8_t *pictures, int64_t count, int64_t new_height, int64_t new_width,
              int64_t channels, uint8_t *target) {
    int64_t line_bytes = 2 * new_width * channels;
    for (int64_t y = 0; y < count * new_height; y++, pictures += 2 * line_bytes)
        for (int64_t x = 0; x < new_width; x++)
            for (int64_t channel = 0; channel < channels; channel++) {
                const uint8_t *pixel = pictures + 2 * x * channels + channel;
                int sum = pixel[0] + pixel[channels] + pixel[line_bytes] +
                          pixel[line_bytes + channels];
                *target++ = (uint8_t)((sum + 2) >> 2);
            }
}

/* `count` arrays of codes [height, width], each of `code_bytes`, to those at rows[y], columns[x]. */
void wd_pick(const uint8_t *codes, int64_t count, int64_t height, int64_t width, int64_t code_bytes,
             const int32_t *rows, int64_t new_height, const int32_t *columns, int64_t new_width,
             uint8_t *target) {
    for (int64_t array = 0; array < count; array++, codes += height * width * code_bytes)
        for (int64_t y = 0; y < new_height; y++) {
            const uint8_t *line = codes + rows[y] * width * code_bytes;
            if (code_bytes == 1)
                for (int64_t x = 0; x < new_width; x++) *target++ = line[columns[x]];
            else
                for (int64_t x = 0; x < new_width; x++, target += code_bytes)
                    memcpy(target, line + columns[x] * code_bytes, code_bytes);
        }
}
