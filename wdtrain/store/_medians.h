/* Medians of depth codes, included once for each width of KEY: all of a line side by side.
 *
 * Codes are compared as keys (see key_of). A line's keys lie as [down->taps][across->taps][across->size], so that every loop below runs over
 * neighbours and the compiler makes vectors of it.
 */

#define UNKNOWN (-1 - LEAST)

/* One line of codes as keys [across->taps][across->size]. */
static void NAMED(spread)(const uint8_t *codes, int64_t width, int64_t code_bytes, int32_t flip,
                          const Cover *across, KEY *line, KEY *keys) {
    for (int64_t x = 0; x < width; x++) {
        line[x] = (KEY)key_of(code_bytes == 1 ? codes[x] : ((const uint16_t *)codes)[x], flip,
                              LEAST);
    }
    for (int64_t tap = 0; tap < across->taps; tap++, keys += across->size)
        for (int64_t x = 0; x < across->size; x++) keys[x] = line[across->first[x] + tap];
}

/* weight[x]: of the keys of all lines, how much is at most limit[x]. */
static void NAMED(weigh)(const KEY *const *lines, const int32_t *down, int64_t lines_count,
                         const KEY *across, int64_t taps, int64_t size,
                         const KEY *restrict limit, KEY *restrict part,
                         KEY *restrict weight) {
    memset(weight, 0, (size_t)size * sizeof *weight);
    for (int64_t i = 0; i < lines_count; i++) {
        if (!down[i]) continue;
        memset(part, 0, (size_t)size * sizeof *part);
        for (int64_t tap = 0; tap < taps; tap++) {
            const KEY *restrict keys = lines[i] + tap * size, *restrict share = across + tap * size;
            for (int64_t x = 0; x < size; x++) part[x] += share[x] & -(KEY)(keys[x] <= limit[x]);
        }
        KEY times = (KEY)down[i];
        for (int64_t x = 0; x < size; x++) weight[x] += part[x] * times;
    }
}

/* low, high: the least and the greatest known key of each column; UNKNOWN and LEAST where none is.
 * Returns whether all are known. */
static int NAMED(range)(const KEY *const *lines, int64_t lines_count, int64_t values, int64_t size,
                         KEY *restrict low, KEY *restrict high) {
    KEY most = LEAST;
    for (int64_t x = 0; x < size; x++) low[x] = UNKNOWN, high[x] = LEAST;
    for (int64_t i = 0; i < lines_count; i++)
        for (int64_t at = 0; at < values; at += size) {
            const KEY *restrict keys = lines[i] + at;
            for (int64_t x = 0; x < size; x++) {
                KEY key = keys[x], seen = key == UNKNOWN ? LEAST : key;
                low[x] = key < low[x] ? key : low[x];
                high[x] = seen > high[x] ? seen : high[x];
                most = key > most ? key : most;
            }
        }
    return most < UNKNOWN;
}

/* One line of medians to low: the least key with half of the known weight, by bisection; UNKNOWN
 * where less than half of `total` is known. vectors: room for 5 more lines. */
static void NAMED(bisect)(const KEY *const *lines, const int32_t *down, int64_t lines_count,
                          const KEY *across, int64_t taps, int64_t size, int32_t total,
                          KEY *restrict low, KEY *vectors) {
    KEY *restrict high = vectors, *restrict middle = high + size, *restrict known = middle + size;
    KEY *restrict part = known + size, *restrict weight = part + size;
    uint16_t most = 0;
    int all_known = NAMED(range)(lines, lines_count, taps * size, size, low, high);
    for (int64_t x = 0; x < size; x++) {
        uint16_t width = low[x] < high[x] ? (uint16_t)(high[x] - low[x]) : 0;
        most = width > most ? width : most;
        middle[x] = UNKNOWN - 1;
        known[x] = (KEY)total;
    }
    if (!all_known)
        NAMED(weigh)(lines, down, lines_count, across, taps, size, middle, part, known);
    for (; most > 0; most /= 2) {
        for (int64_t x = 0; x < size; x++) middle[x] = (low[x] & high[x]) + ((low[x] ^ high[x]) >> 1);
        NAMED(weigh)(lines, down, lines_count, across, taps, size, middle, part, weight);
        for (int64_t x = 0; x < size; x++) {
            KEY above = known[x] - weight[x], next = middle[x] + 1;
            KEY is_enough = (weight[x] >= above) | (low[x] >= high[x]);
            high[x] = is_enough ? middle[x] : high[x];
            low[x] = is_enough ? low[x] : next;
        }
    }
    for (int64_t x = 0; x < size; x++) low[x] = 2 * known[x] < total ? UNKNOWN : low[x];
}

/* One array of codes; room as of wd_median. */
static void NAMED(medians)(const uint8_t *codes, int64_t width, int64_t code_bytes, int32_t flip,
                           const Cover *down, const Cover *across, void *room, uint8_t *target) {
    int64_t taps = across->taps, size = across->size, values = taps * size, spread = 0;
    const KEY **lines = room;
    KEY *shares = (KEY *)(lines + down->taps), *line = shares + values, *low = line + width;
    KEY *vectors = low + size, *keys = vectors + 5 * size;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t x = 0; x < size; x++)
            shares[tap * size + x] = (KEY)across->shares[x * taps + tap];
    for (int64_t y = 0; y < down->size; y++) {
        for (; spread < down->first[y] + down->taps; spread++)
            NAMED(spread)(codes + spread * width * code_bytes, width, code_bytes, flip, across, line,
                          keys + spread % down->taps * values);
        for (int64_t i = 0; i < down->taps; i++)
            lines[i] = keys + (down->first[y] + i) % down->taps * values;
        NAMED(bisect)(lines, down->shares + y * down->taps, down->taps, shares, taps, size,
                      (int32_t)(down->total * across->total), low, vectors);
        for (int64_t x = 0; x < size; x++, target += code_bytes)
            put_code(code_of(low[x], flip, LEAST), target, code_bytes);
    }
}

#undef UNKNOWN
