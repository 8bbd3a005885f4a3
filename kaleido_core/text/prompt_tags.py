"""``@image1`` in a prompt: which reference is meant, put into the words a video model understands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError

TAG = re.compile(r"@@|(?<!\w)@(\w+)", re.ASCII)
WORDS = ("image", "subject", "face", "object", "scene")  # all mean the reference of that number
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

Template = Literal["names", "introduced"]
TEMPLATES: tuple[Template, ...] = ("names", "introduced")


@dataclass(frozen=True)
class Expansion:
    """The prompt for the text encoder, and what the user may want to know about it."""

    text: str
    warnings: tuple[str, ...] = ()


def expand_tags(text: str, names: Sequence[str], template: Template = "names") -> Expansion:
    """Put ``names[0]`` for ``@image1`` and so on; an empty name becomes "the first subject".

    ``names`` are one for each reference, such as "a girl in a red coat". The template ``introduced`` opens with a
    sentence that lists them; ``@@`` is a plain @. Raises ``ConfigError`` for a tag that means no reference.
    """
    mentioned: list[int] = []

    def name_of(match: re.Match[str]) -> str:
        if match[1] is None:
            return "@"
        number = _number(match[1], len(names))
        mentioned.append(number)
        name = names[number - 1].strip() or _nameless(number, len(names))
        first = mentioned.count(number) == 1 and template == "names"
        name = name if first else _again(name)
        return name[0].upper() + name[1:] if _opens_sentence(text, match.start()) else name

    body = TAG.sub(name_of, text)
    if template == "introduced" and mentioned:
        listed = [names[n - 1].strip() or _nameless(n, len(names)) for n in dict.fromkeys(mentioned)]
        body = f"The video shows {_enumerate(listed)}. {body}"
    return Expansion(body, tuple(_warnings(names, mentioned)))


def _number(tag: str, count: int) -> int:
    match = re.fullmatch(rf"({'|'.join(WORDS)})(\d+)", tag, re.IGNORECASE)
    if match and 1 <= int(match[2]) <= count:
        return int(match[2])
    known = ", ".join(f"@image{n + 1}" for n in range(count)) or "none, as there are no references"
    raise ConfigError(f"@{tag} means no reference; known tags are {known}. Correct the tag or connect the reference.")


def _nameless(number: int, count: int) -> str:
    return "the subject" if count == 1 else f"the {ORDINALS[number - 1] if number <= 8 else f'{number}th'} subject"


def _again(name: str) -> str:
    """A girl -> the girl."""
    return re.sub(r"^(an?|one)\s+", "the ", name, flags=re.IGNORECASE)


def _opens_sentence(text: str, place: int) -> bool:
    before = text[:place].rstrip(" \t")
    return not before or before[-1] in ".!?\n"


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _warnings(names: Sequence[str], mentioned: Sequence[int]) -> list[str]:
    unused = [n + 1 for n in range(len(names)) if n + 1 not in mentioned]
    doubled = sorted({n for n in mentioned if mentioned.count(n) > 1})
    lines = [f"Reference {n} is not mentioned; it may not appear. Write @image{n} where it acts." for n in unused]
    return lines + [f"@image{n} is in the text twice or more; if it appears twice, use a pronoun." for n in doubled]
