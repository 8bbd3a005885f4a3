"""Prompts for clips: who does what, and where, in many shapes of sentence."""

import re
from collections.abc import Iterator, Sequence

from .motion import Phrase

ORDINALS = ("first", "second", "third")
_COLOUR_WORDS = re.compile(r"\b(red|orange|yellow|green|blue|light blue|purple|pink|brown|grey|white|black)\b ?")

# {a} {b} {c}: subjects; {does1} "spins", {doing1} "spinning"; {place} "on a plain teal background"; {scene} its noun.
ONE = (
    "{a} {does1} {place}.",
    "{a} {doing1} {place}",
    "{place}, {a} {does1}.",
    "a clip of {a} {doing1} {place}",
    "a short video in which {a} {does1} {place}",
    "{a} {does1}. the background is {scene}.",
    "we see {a} {doing1} {place}.",
    "there is {a} {place}, {doing1}.",
    "{a}, {doing1}, {place}",
    "{scene}. {a} {does1}.",
    "a little animation: {a} {does1} {place}.",
    "look at {a} as it {does1} {place}.",
    "{a} {place}. it {does1}.",
    "an animation of {a} that {does1}, with {scene} behind it",
    "the camera is still while {a} {does1} {place}.",
)
TWO = (
    "{a} {does1} and {b} {does2} {place}.",
    "{a} {does1} while {b} {does2} {place}.",
    "{place}, {a} {does1} and {b} {does2}.",
    "{a} {doing1} and {b} {doing2} {place}",
    "{a} and {b} {place}. the first {does1}, the second {does2}.",
    "a clip of {a} {doing1} beside {b} {doing2} {place}",
    "{scene}. {a} {does1}, and {b} {does2}.",
    "{a} {does1}; {b} {does2}. the background is {scene}.",
    "a short video with {a} {doing1} and {b} {doing2}, {place}",
    "we see {a}, which {does1}, and {b}, which {does2}, {place}.",
)
CROSSING = (
    "{a} and {b} cross paths {place}.",
    "{a} {does1} and {b} {does2}, crossing paths {place}.",
    "{place}, {a} and {b} pass each other.",
    "{a} {does1}, passing {b} {place}.",
    "{scene}. {a} and {b} cross paths, the first {doing1}.",
    "{a} {doing1} crosses paths with {b} {doing2} {place}",
)
THREE = (
    "{a} {does1}, {b} {does2} and {c} {does3} {place}.",
    "{place}, {a} {does1}, {b} {does2} and {c} {does3}.",
    "{a} {doing1}, {b} {doing2}, {c} {doing3}, {place}",
    "{a}, {b} and {c} {place}. the first {does1}, the second {does2}, the third {does3}.",
    "{scene}. {a} {does1}, {b} {does2}, and {c} {does3}.",
    "a clip of {a} {doing1}, {b} {doing2} and {c} {doing3} {place}",
    "{a} {does1} while {b} {does2} and {c} {does3}. the background is {scene}.",
)
SHAPES = {1: ONE, 2: TWO, 3: THREE}


def without_colour(name: str) -> str:
    """A name that stays true when the subject is recoloured: "red apple" -> "apple"."""
    return _COLOUR_WORDS.sub("", name).strip() or name


def with_article(name: str, number: int) -> str:
    """ "a dog", "the dog" or "dog", as ``number`` says; plurals stay bare or take "the"."""
    is_plural = name.endswith("s") and not name.endswith(("ss", "us", "is"))
    sounds_open = name[0] in "aeiou" and not name.startswith(("uni", "eu", "one "))
    article = "" if is_plural else "an " if sounds_open else "a "
    return (article + name, article + name, f"the {name}", name)[number % 4]


def unnamed(position: int, subjects: int) -> str:
    """Words that only a reference image can explain: "the subject", "the second subject"."""
    return "the subject" if subjects == 1 else f"the {ORDINALS[position]} subject"


def compose(
    subjects: Sequence[str],
    acts: Sequence[Sequence[Phrase]],
    crossing: bool,
    place: tuple[str, str],
    dice: Iterator[int],
) -> str:
    """One caption. ``subjects`` in the order of the references, the wordings of what each does, preposition and place;
    ``dice`` yields random numbers."""
    shapes = CROSSING if crossing else SHAPES[len(subjects)]
    words = {"place": " ".join(place), "scene": place[1]}
    for letter, number, subject, phrases in zip("abc", "123", subjects, acts, strict=False):
        words[letter] = subject
        words[f"does{number}"], words[f"doing{number}"] = phrases[next(dice) % len(phrases)]
    text = shapes[next(dice) % len(shapes)].format(**words)
    return text[0].upper() + text[1:] if next(dice) % 2 else text
