"""Tasks in the words of the small tokenizer."""

import tl_truncate as tlt

#: Answers of several tokens, and of different lengths.
SEQUENCES = tlt.Task(
    "sequences",
    ["When Mary and John went to the store , John gave a drink to", "Mary gave a drink to"],
    [" Mary and Paris", " John"],
    [" the", " the store and a drink"],
    scoring="sequence",
)
