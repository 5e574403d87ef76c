"""The words of the sticker world: noun phrases, question wordings, and every sentence pattern once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.stickers.colours import COLOURS
from unipixel.stickers.things import KINDS, THINGS, USES, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

PLACES: dict[tuple[int, int], str] = {
    (-1, -1): "at the top left",
    (0, -1): "at the top",
    (1, -1): "at the top right",
    (-1, 0): "on the left",
    (0, 0): "in the middle",
    (1, 0): "on the right",
    (-1, 1): "at the bottom left",
    (0, 1): "at the bottom",
    (1, 1): "at the bottom right",
}
"""(column, row), each -1, 0 or 1 -> where that is."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Relation -> its direction along x and y."""

MOTIONS: dict[str, str] = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "still": "that stays still",
    "turn": "that turns",
    "grow": "that gets bigger",
    "shrink": "that gets smaller",
    "leave": "that leaves",
    "enter": "that comes in",
    "return": "that leaves and comes back",
    "hide": "that gets hidden",
}
"""What an object of a video does -> how it is said after "the thing"."""

SEGMENT = (
    "Please segment the {} in this image.",
    "Can you segment the {} in this image?",
    "Segment the {}.",
    "Please segment the {}.",
    "Find the {} in this image.",
    "Where is the {} in this image? Please respond with the segmentation mask.",
    "What is the {}? Please output the segmentation mask.",
)
"""Wordings that ask for the mask of "the {}"; the first one is the wording of evaluation."""

SEGMENT_SEVERAL = tuple(wording for wording in SEGMENT if " is the " not in wording)
"""Those that also fit several things, or one with a plural name."""

POINT_AT = ("Please segment {}.", "Can you segment {}?", "Segment {}.", "Please segment {} in this image.")
"""Wordings that ask for the mask of what a prompt shows."""

CHOOSE = "Please only give the best option."
LOCALIZE = "Please localize the relevant objects with IDs."

_PHOTOGRAPHED = """
    dog cat mouse bear cow sheep horse elephant giraffe zebra duck chicken apple banana carrot broccoli pizza
    hotdog donut cake car bus truck taxi bicycle motorcycle train airplane sailboat ship skateboard racket
    football baseball kite chair couch bed toilet television laptop keyboard phone book clock scissors teddy
    toothbrush knife wine beer hat cap jeans shirt sneaker boot dress glasses watch backpack handbag umbrella
    tree leaf house cloud door mirror key basket box lantern bulb candle coffee bread cookie mushroom tomato
    pencil basketball bell person man woman child boy girl baby bird flower sign statue bench boat bowl cup bottle mug
    glass building hut lamp rock window vase ball
"""
PHOTOGRAPHED = frozenset(_PHOTOGRAPHED.split())
"""Things that photos often show, so that on a photo nobody claims that they are not there."""


def adapt_to_video(text: str, is_video: bool) -> str:
    """The wording for a video instead of an image, where that differs."""
    return text.replace("this image", "this video") if is_video else text


def add_article(noun: str, thing: Thing) -> str:
    """The noun phrase after "a" or "an", or "some" for things that only come in the plural."""
    if thing.is_plural:
        return f"some {noun}"
    return f"an {noun}" if noun[0] in "aeiou" and not noun.startswith(("unicorn", "ufo")) else f"a {noun}"


def join_list(parts: Sequence[str]) -> str:
    """The parts as "a", "a and b" or "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def choose_wording(rng: np.random.Generator, wordings: Sequence[str], fixed: bool) -> str:
    """One of the wordings; the first when ``fixed``."""
    return wordings[0] if fixed else wordings[int(rng.integers(len(wordings)))]


def write_absence(noun: str, *, is_plural: bool) -> str:
    """The answer that something is not there.

    It repeats the name before it judges, so that both are decided at the name, where the model looks for what is called
    so.
    """
    return f"the {noun} {'are' if is_plural else 'is'} not there."


def list_vocabulary_texts(things: dict[str, Thing] | None = None) -> list[str]:
    """Sentences that hold every word and token pattern of the generated turns, to train a tokenizer on."""
    texts: list[str] = []
    for name, thing in (things or THINGS).items():
        texts += [
            f"Please segment the {name} in this image. the {name}<|seg|>",
            f"What is [1] <|ref|>? the {name}",
            f"How many {thing.plural} are there? two",
            f"Is there {add_article(name, thing)} in this image? Are there any {thing.plural}? yes no",
            f"the {name} is not there. the {thing.plural} are not there.",
        ]
        texts += [f"the {kind}" for kind in sorted(thing.kinds)]
    texts += [f"the {colour} thing. What colour is [2]? {colour}" for colour in COLOURS]
    texts += [f"How many things are there? {number}" for number in NUMBERS]
    texts += [
        f"the {ordinal} thing from the {side}" for ordinal in ORDINALS for side in ("left", "right", "top", "bottom")
    ]
    texts += [f"the {kind} in this image. How many {plural} are there?" for kind, plural in KINDS.items()]
    texts += [f"the thing {use}. the animal {use}" for use in USES.values()]
    texts += [f"Where is the dog? {place}. the dog {place}" for place in PLACES.values()]
    texts += [f"the cat {relation} the dog at the start" for relation in RELATIONS]
    texts += [f"the thing {motion}. the dog {motion}" for motion in MOTIONS.values()]
    for wording in SEGMENT:
        texts += [wording.format("dog"), adapt_to_video(wording.format("red car"), True)]
    for wording in POINT_AT:
        texts += [wording.format("[1] <|ref|>"), adapt_to_video(wording.format("[1] <|ref|> and [2] <|ref|>"), True)]
    texts += [f"[{a}]<|seg|> [{b}]<|seg|> [{a}]: <|mem|>" for a, b in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 1))]
    texts += [f"<{t}>-<{t + 1}> <|mem|>" for t in range(1, 33, 2)]
    texts += list(PATTERNS)
    return texts


PATTERNS = (
    "the largest thing. the smallest thing. the largest dog. the smallest dog",
    "the big dog. the small dog. the thing closest to the dog",
    "the dog<|seg|> and the red car<|seg|>. the dog<|seg|>, the cat<|seg|> and the red car<|seg|>",
    "What is the dog doing? What is [1] doing? What does the dog do?",
    "Describe this image. Describe this video. a dog, an apple, some scissors and two red cars",
    "Describe this image and segment each thing.",
    "Which one is the dog? Which one is larger, [1] or [2]? Which one is red? Which one is an animal?",
    "Where is [1]? Where is [1] seen from [2]? What is [1]? What is this? What kind of thing is [1]?",
    "What is left of the dog? What is right of [1]? What is above [1]? What is below the dog?",
    "Can you eat [1]? yes no. Is [1] a dog? Is [1] red?",
    "Is there a dog in this image? Are there any grapes in this video?",
    f"What is [1] <|ref|>?\nOptions:\n(A) dog\n(B) cat\n(C) red car\n(D) [1]\n{CHOOSE} (A) (B) (C) (D)",
    f"What is [1] <|ref|>?\nOptions:\n(A) dog\n(B) cat {LOCALIZE}",
    "the best option is dog (A). The best option is (A). Best Option: (B)",
    "Here is an image with the following highlighted regions:\n[1]: <|mem|>\n",
    "Here is a video with 8 frames denoted as <1> to <8>.",
    "The highlighted regions are as follows:\n[1]: <1>-<2> <|mem|>\n",
    "You are a helpful assistant.",
    "system user assistant",
)
"""Sentence patterns that the lists above do not produce."""
