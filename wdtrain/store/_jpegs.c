/* Many JPEGs decoded by one call, which holds no interpreter lock.
 *
 * Uses the libjpeg-turbo that another package has loaded (its version 6.2 interface, of which only
 * what is named here is used), so no header or library of it is needed to build. The library
 * itself checks version and size of the structure; the caller checks, at its first use, that the
 * pixels are those of the decoder that it would take otherwise. As in _rows.c, nothing is
 * reported: what is unusual is left to the path that names it.
 */
#include "_rows.h"

#include <setjmp.h>
#include <stddef.h>
#include <string.h>

enum { VERSION = 62, STRUCT_BYTES = 632, RGB = 2, HEADER_OK = 1, MAX_LINES = 16 };
enum { TABLES = 12, QUANTIZATIONS = 4, QUANTIZATION_BYTES = 128, HUFFMAN_BYTES = 17 };
enum { MARKER = 0xFF, END = 0xD9, AHEAD = 4096 };

/* The head of jpeg_error_mgr: five calls, then what only the library looks at. */
typedef struct {
    void (*error_exit)(void *);
    void (*emit_message)(void *, int);
    void (*output_message)(void *);
    void (*format_message)(void *, char *);
    void (*reset)(void *);
    uint8_t rest[256];
} Errors;

/* The head of jpeg_source_mgr: where the decoder is, and what is left from there on. */
typedef struct {
    const uint8_t *next;
    size_t left;
} Source;

/* The head of jpeg_decompress_struct, up to the last field that is used here. */
typedef struct {
    Errors *errors;
    void *memory, *progress, *client;
    int is_decompressor, state;
    Source *source;
    unsigned width, height;
    int components, stored_colours, colours;
    unsigned scale_num, scale_denom;
    double gamma;
    int buffered, raw, dct, fancy_upsampling, block_smoothing, quantize, dither, two_pass, num_colours;
    int one_pass, external, two_pass_too;
    unsigned output_width, output_height;
    int output_colours, output_components, lines_at_once, actual_colours;
    void *colour_map;
    unsigned line;
    int input_scan;
    unsigned input_row;
    int output_scan;
    unsigned output_row;
    void *coefficient_bits;
    void *tables[TABLES]; /* of quantization, and Huffman's for DC and AC */
    uint8_t rest[STRUCT_BYTES];
} Decoder;

/* What is called of the library, in the order in which the caller gives it. */
struct Calls {
    Errors *(*std_error)(Errors *);
    void (*create)(Decoder *, int, size_t);
    void (*read_from)(Decoder *, const uint8_t *, unsigned long);
    int (*read_header)(Decoder *, int);
    int (*start)(Decoder *);
    unsigned (*read_lines)(Decoder *, uint8_t **, unsigned);
    int (*finish)(Decoder *);
    void (*destroy)(Decoder *);
};

typedef struct {
    Errors errors;
    jmp_buf escape;
    int is_odd;
} Trouble;

static void on_error(void *decoder) { longjmp(((Trouble *)((Decoder *)decoder)->errors)->escape, 1); }

static void on_message(void *decoder, int level) {
    if (level < 0) ((Trouble *)((Decoder *)decoder)->errors)->is_odd = 1; /* a warning: damaged */
}

/* One JPEG of stored_height x stored_width in colour, at scale / 8 of it, to target; the decoder may
 * look at `room` bytes behind it, but none of them may belong to it. 0 if not so. */
static int decode(const Calls *calls, Decoder *decoder, const uint8_t *jpeg, int64_t bytes,
                  int64_t room, const int64_t *stored, int64_t scale, const int64_t *size, uint8_t *target) {
    calls->read_from(decoder, jpeg, (unsigned long)(bytes + room));
    if (calls->read_header(decoder, 1) != HEADER_OK || decoder->height != stored[0] ||
        decoder->width != stored[1] || decoder->components != 3)
        return 0;
    decoder->colours = RGB;
    decoder->scale_num = (unsigned)scale;
    decoder->scale_denom = 8;
    if (!calls->start(decoder) || decoder->output_height != size[0] ||
        decoder->output_width != size[1] || decoder->output_components != 3)
        return 0;
    while (decoder->line < decoder->output_height) {
        uint8_t *lines[MAX_LINES];
        for (int i = 0; i < MAX_LINES; i++) lines[i] = target + (decoder->line + i) * size[1] * 3;
        unsigned left = decoder->output_height - decoder->line;
        if (!calls->read_lines(decoder, lines, left < MAX_LINES ? left : MAX_LINES)) return 0;
    }
    return calls->finish(decoder) && (int64_t)decoder->source->left >= room;
}

/* The library keeps tables for pictures that define none, whatever the picture before was. So they
 * are emptied (which costs less than a new decoder), and whoever left one empty is_short of it. */
static void empty_tables(Decoder *decoder) {
    for (int i = 0; i < TABLES; i++)
        if (decoder->tables[i])
            memset(decoder->tables[i], 0, i < QUANTIZATIONS ? QUANTIZATION_BYTES : HUFFMAN_BYTES);
}

static int is_short(const Decoder *decoder) {
    static const uint8_t empty[HUFFMAN_BYTES];
    for (int i = 0; i < TABLES; i++)
        if (decoder->tables[i] && !memcmp(decoder->tables[i], empty, i < QUANTIZATIONS ? 2 : HUFFMAN_BYTES))
            return 1;
    return 0;
}

/* How far beyond a JPEG the decoder may look: its fast loop wants 3 kB in front of it, and goes no
 * further than the marker that ends a picture, if that is where it should be. */
static int64_t room_behind(const uint8_t *jpeg, int64_t bytes, int64_t behind) {
    if (bytes < 2 || jpeg[bytes - 2] != MARKER || jpeg[bytes - 1] != END) return 0;
    return behind < AHEAD ? behind : AHEAD;
}

/* `rows` JPEGs of stored [height, width], at scale / 8, which gives size [height, width], one
 * after the other to `target`; `behind`: readable bytes behind each, or NULL. Returns the rows done:
 * fewer where one is unusual. */
int64_t wd_decode_jpegs(const Calls *calls, const uint8_t *const *jpegs, const int64_t *bytes,
                        const int64_t *behind, int64_t rows, const int64_t *stored, int64_t scale, const int64_t *size,
                        uint8_t *target) {
    Decoder decoder;
    Trouble trouble;
    volatile int64_t row = 0;
    decoder.errors = calls->std_error(&trouble.errors);
    trouble.errors.error_exit = on_error;
    trouble.errors.emit_message = on_message;
    trouble.is_odd = 0;
    if (setjmp(trouble.escape)) {
        if (row >= 0) calls->destroy(&decoder);
        return row < 0 ? 0 : row;
    }
    row = -1; /* nothing to destroy if the library refuses the structure */
    calls->create(&decoder, VERSION, STRUCT_BYTES);
    for (row = 0; row < rows; row++) {
        const uint8_t *jpeg = jpegs[row];
        uint8_t *to = target + row * size[0] * size[1] * 3;
        int64_t room = room_behind(jpeg, bytes[row], behind ? behind[row] : 0);
        empty_tables(&decoder);
        int is_done = decode(calls, &decoder, jpeg, bytes[row], room, stored, scale, size, to);
        if (is_short(&decoder)) { /* perhaps of one that it does not use */
            calls->destroy(&decoder);
            calls->create(&decoder, VERSION, STRUCT_BYTES);
            trouble.is_odd = 0;
            is_done = decode(calls, &decoder, jpeg, bytes[row], room, stored, scale, size, to);
        }
        if (!is_done || trouble.is_odd) break;
    }
    calls->destroy(&decoder);
    return row;
}
