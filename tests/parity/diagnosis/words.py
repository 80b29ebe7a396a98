"""The words of a diagnosis, taken out of a note; and mistakes that differ in a number only."""

import re


def words_of(note):
    """The diagnosis in a note, without the place and the size of the error."""
    note = re.sub(r"^(layer|the gradient that|no gradient arrives) [^:]*: ", "", note)
    return note.partition(";")[0].partition(" (matches")[0]


FAMILIES = {
    r"(every|is) -?[\d.]+ (steps|times|more)": r"\1 n \2",
    r"through the \w+ gate": "through a gate",
    r"^it holds (?!the sum)\S+": "it holds another",
    r"in the order .*": "in another order",
    r"^(\w+) and (\w+) gates are": "two gates are",
    r"bfloat16|TF32, or float16|float32": "a lower precision",
    r"^[\w.]+ is applied to the keys, though.*": "a layer is applied to the keys",
}
"""Mistakes that differ in a number or a name only: one of each is asked for."""


def family(words):
    for pattern, one in FAMILIES.items():
        words = re.sub(pattern, one, words)
    return words
