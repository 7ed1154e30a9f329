"""Word features of docrisk. The twin of actors/src/inference/features.rs: both must give the same ids.

A word is a run of ASCII letters, digits and bytes above 0x7f. Apostrophes inside it are skipped, letters are
lowered, every digit becomes "0", and bytes after the first WORD_BYTES_MAX are ignored. Each word gives one id
(FNV-1a folded to 15 bits), each pair of neighbours inside a window one more.
"""

BUCKETS = 1 << 15
PADDING = BUCKETS  # the row of zeros after the last bucket
WORD_BYTES_MAX = 24
WINDOW_WORDS = 64
WINDOW_STRIDE = 48
SMOOTHING = 16  # added to the count under each mean, so that two words cannot be as sure as twenty

FNV_OFFSET = 0x811C9DC5
FNV_PRIME = 0x01000193
MASK = 0xFFFFFFFF


def fnv(state, data):
    for byte in data:
        state = ((state ^ byte) * FNV_PRIME) & MASK
    return state


def fold(state):
    return (state ^ (state >> 15)) & (BUCKETS - 1)


def words(text):
    """The folded words of a text, as bytes."""
    found, word, inside = [], bytearray(), False
    for byte in text.encode("utf-8"):
        if 0x41 <= byte <= 0x5A:
            byte += 0x20
        elif 0x30 <= byte <= 0x39:
            byte = 0x30
        elif byte == 0x27 and inside:
            continue
        elif not (0x61 <= byte <= 0x7A or byte >= 0x80):
            if inside:
                found.append(bytes(word))
                word, inside = bytearray(), False
            continue
        inside = True
        if len(word) < WORD_BYTES_MAX:
            word.append(byte)
    if inside:
        found.append(bytes(word))
    return found


def window_ids(window):
    """Ids of one window: its words in order, then its pairs in order."""
    single = [fold(fnv(FNV_OFFSET, word)) for word in window]
    pairs = [fold(fnv(fnv(fnv(FNV_OFFSET, a), b" "), b)) for a, b in zip(window, window[1:])]
    return single + pairs


def windows(text):
    """Feature ids of every window of a text: WINDOW_WORDS words, a new one each WINDOW_STRIDE."""
    all_words = words(text)
    found, start = [], 0
    while True:
        found.append(window_ids(all_words[start : start + WINDOW_WORDS]))
        if start + WINDOW_WORDS >= len(all_words):
            return found
        start += WINDOW_STRIDE
