"""Requests for several things, taken apart into one request for each thing: a small grammar of English.

"Please segment the dog and the two cats." becomes "Please segment the dog.", once, and "Please segment the cat.", up to
twice. Only requests for masks are taken apart, and only where it is plain what belongs together: where a list could as
well be part of a description ("the man who holds a cup and a plate"), or one thing have two names ("bread and
butter"), the request stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

MAX_INSTANCES = 10
"""Things that are looked for where the request names no number ("all dogs")."""


def _build_word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VERBS = "segment|find|track|locate|locali[sz]e|mask|highlight|outline|detect|select|mark|identify"
REQUEST = re.compile(
    rf"""^(?P<head>(?:please\s+)?(?:(?:can|could|would|will)\s+you\s+(?:please\s+)?)?
    (?:{_VERBS}|(?:show|give)(?:\s+(?:me|us))?(?:\s+the\s+(?:segmentation\s+)?masks?\s+(?:of|for))?|where\s+(?:is|are))\s+)
    (?P<what>[^.?!\n\[\]<>:;"()]+?)
    (?P<tail>(?:\s+in\s+(?:this|the)\s+(?:image|video|picture|photo|clip|scene|frame))?
    (?:\s+and\s+segment\s+(?:it|them)|\s+as\s+(?:a\s+)?masks?)?[.?!]?
    (?P<then>\s+please\s+
    (?:(?:respond\s+with|output|provide|give)\s+the\s+segmentation\s+masks?|segment\s+(?:it|them))[.!]?)?)$""",
    re.IGNORECASE | re.VERBOSE,
)
"""A request for the masks of ``what``."""

_NUMBERS = {
    word: number
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), start=1
    )
}
_POSSESSIVES = {"my", "our", "your"}
_ARTICLES = {"the", "a", "an", "this", "that", "these", "those", *_POSSESSIVES}
_QUANTITIES = {"all", "every", "each", "both", "some", "several", "many", "multiple", *_NUMBERS}
_DETERMINERS = _ARTICLES | _QUANTITIES
_QUESTION_WORDS = _build_word_set(
    "what what's which who whom whose where where's when why how is are was were does do did can could will would has "
    "have had should"
)
_RELATIVES = {"who", "whom", "whose", "that", "which", "where", "when", "while"}
_PREPOSITIONS = _build_word_set(
    "about above across after against along amid among around as at atop before behind below beneath "
    "beside besides between beyond by down during except facing for from in inside into like near next of "
    "off on onto opposite out outside over past than through to toward towards under underneath up upon "
    "via with within without"
)
_PLACES = re.compile(
    r"(?:on|at|in|to)\s+the\s+(?:far\s+|very\s+|upper\s+|lower\s+)?(?:top\s+|bottom\s+)?"
    r"(?:left|right|top|bottom|middle|cent(?:er|re)|front|back|foreground|background|corner)"
    r"(?:\s+(?:side|corner|half|edge))?\b",
    re.IGNORECASE,
)
"""Descriptions of place that end by themselves: what follows an "and" behind them is no part of them."""
# fmt: off
_ADJECTIVES = _build_word_set(
    "black white red green blue yellow orange purple pink brown grey gray golden gold silver beige violet "
    "turquoise dark light bright pale colourful colorful striped spotted plain big bigger biggest small "
    "smaller smallest large larger largest little tiny huge tall taller tallest short shorter shortest "
    "long longer longest wide narrow thick thin old older oldest young younger youngest new round square "
    "flat wooden metal plastic glass leather left right upper lower top bottom front back middle first "
    "second third fourth fifth last male female adult open closed full empty wet dry clean dirty fat slim"
)
_BACKWARDS = _build_word_set("other others another one ones rest it its them their his her him same")
"""Words that mean something said before, without which a request cannot stand."""
_EXCEPT = {"except", "but", "excluding", "besides", "not", "or"}
_ONE_DISH = {("bread", "butter"), ("salt", "pepper"), ("fish", "chips"), ("mac", "cheese"), ("bow", "arrow"),
             ("cup", "saucer"), ("bacon", "eggs"), ("burger", "fries"), ("peanut", "jelly"), ("gin", "tonic")}
_NO_PARTICIPLES = _build_word_set(
    "building ceiling painting drawing clothing earring string things railing awning pudding wedding "
    "dumpling duckling herring morning evening hundred seabed flatbed"
)
_NOT_PLURAL = _build_word_set(
    "glasses sunglasses eyeglasses goggles spectacles jeans pants trousers shorts leggings tights "
    "scissors pliers tweezers binoculars headphones earphones clothes stairs fries grapes pajamas pyjamas "
    "overalls lens gas bus plus canvas atlas news series species christmas tennis chess compass always "
    "perhaps besides noodles"
)
_IRREGULAR = {
    "people": "person", "children": "child", "mice": "mouse", "feet": "foot", "teeth": "tooth", "geese": "goose",
    "oxen": "ox", "dice": "die", "axes": "axe", "moustaches": "moustache", "octopi": "octopus", "cacti": "cactus",
    "knives": "knife", "wives": "wife", "lives": "life", "wolves": "wolf", "leaves": "leaf", "loaves": "loaf",
    "shelves": "shelf", "halves": "half", "calves": "calf", "scarves": "scarf", "thieves": "thief", "hooves": "hoof",
    "elves": "elf", "lenses": "lens", "irises": "iris", "canvases": "canvas", "gases": "gas", "compasses": "compass",
}
_NOT_MEN = {"specimen", "abdomen", "stamen", "omen", "ramen", "semen"}
_WITH_IE = _build_word_set(
    "cookies movies ties neckties pies zombies selfies hoodies brownies smoothies genies pixies collies"
)
_WITH_OE = ("shoes", "toes", "canoes", "hoes", "oboes")
_WITH_USE = ("houses", "blouses", "spouses")
_AGREEMENT = {"are": "is", "were": "was", "have": "has", "do": "does"}
# fmt: on
_ALL = re.compile(
    r"(?:all|every|each)(?:\s+(?:single|one))?(?:\s+of)?(?:\s+(?P<own>the|these|those|my|our|your))?\s+", re.IGNORECASE
)
_SOME = re.compile(
    r"(?:the\s+|these\s+|those\s+)?(?:some|several|many|multiple|a\s+few|few)(?:\s+of\s+(?P<own>the|these|those|my|our|your))?\s+",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    rf"(?:all\s+)?(?:of\s+)?(?:the\s+|these\s+|those\s+)?(?P<number>{'|'.join(_NUMBERS)}|\d{{1,2}}|both|a\s+couple\s+of)"
    r"(?:\s+of)?(?:\s+(?P<own>the|these|those|my|our|your))?\s+",
    re.IGNORECASE,
)
_DEFINITE = re.compile(r"(?P<own>the|these|those|my|our|your)\s+", re.IGNORECASE)


RequestPart: TypeAlias = tuple[str, int]
"""One thing of a request: the request for it alone, in the words of the whole, and how many such things there may be;
above 1, it is asked for again until nothing new comes."""


def split_request(text: str) -> tuple[RequestPart, ...]:
    """The things that a request asks for, each by itself; empty for what is no such request, or asks for one thing."""
    match = REQUEST.match(text.strip())
    if not match or (match["head"].lower().startswith("where") and not match["then"]):
        return ()
    words = re.findall(r"[^\s,&]+|[,&]", match["what"])
    if words and words[0].lower() == "both" and _split_list(words[1:]):
        words = words[1:]
    things = _split_list(words) or [words]
    wanted = tuple(_build_part(thing, match["head"], match["tail"]) for thing in things)
    return () if len(wanted) == 1 and wanted[0][1] == 1 else wanted


def write_as_sentence(text: str, count_tokens: Callable[[str], int] = len) -> str:
    """A question with a capital letter in front, a sign at its end, and no shouting: as a small model has read them.

    "what is [1]" becomes "What is [1]?", "SEGMENT THE DOG" "Segment the dog.". Texts of several lines, which hold
    options or conversations, stay as they are.

    Args:
        count_tokens: of words for the model. One with capitals among others, which may be a name, is written small only
            where that takes fewer tokens: the model knows "dog", and spells "Dog" letter by letter.
    """
    text = text.strip()
    if not text or "\n" in text:
        return text
    words = re.findall(r"[^\W\d_]{2,}", text)
    long = [word for word in words if len(word) > 2]
    titled = [word[0].isupper() for word in (long if len(long) > 2 else words)]
    if len(words) > 1 and (text.isupper() or (len(titled) > 2 and all(titled))):
        text = text.lower()

    def write_small(match: re.Match[str]) -> str:
        word = match[0]
        return word.lower() if count_tokens(word.lower()) < count_tokens(word) else word

    text = text[0].upper() + re.sub(r"\s[^\W\d_]*[A-Z][^\W\d_]*", write_small, text[1:])
    if text[-1].isalnum() or text[-1] == "]":
        text += "?" if text.split()[0].lower() in _QUESTION_WORDS else "."
    return text


def _build_part(words: Sequence[str], head: str, tail: str) -> RequestPart:
    phrase, most = _parse_quantity(" ".join(words).replace(" ,", ","))
    if head.lower().startswith("where"):
        head = re.sub(r"\bare\b", "is", head, flags=re.IGNORECASE)
    return head + phrase + re.sub(r"\bthem\b", "it", tail), most


def _split_list(words: Sequence[str]) -> list[list[str]]:
    """The members of a list; empty where there is no list, or it is not sure that it is one."""
    members: list[list[str]] = [[]]
    place, is_open = 0, False
    while place < len(words):
        joint = _count_conjunction(words, place)
        if joint:
            if is_open or not members[-1]:
                return []
            members.append([])
            place += joint
            continue
        closed = _PLACES.match(" ".join(words[place:]))
        count = len(closed[0].split()) if closed and members[-1] else 1
        if count == 1 and members[-1] and _begins_description(words[place], members[-1]):
            is_open = True
        members[-1] += words[place : place + count]
        place += count
    if len(members) == 1 or not all(members):
        return []
    return _share_clause(_complete_members(members, has_comma="," in words))


def _count_conjunction(words: Sequence[str], place: int) -> int:
    """How many words at a place join two members of a list."""
    for joint in ((",", "and"), (",", "as", "well", "as"), (",",), ("and",), ("&",), ("as", "well", "as"), ("plus",)):
        if tuple(word.lower() for word in words[place : place + len(joint)]) == joint:
            return len(joint)
    return 0


def _begins_description(word: str, before: Sequence[str]) -> bool:
    """Whether a word begins a description of the noun before it that may reach over an "and"."""
    low, last = word.lower(), before[-1].lower()
    if low in _PREPOSITIONS:
        return last not in {"couple", *_NUMBERS, *_QUANTITIES} or low != "of"  # "two of the dogs" goes on to the noun
    if low in _RELATIVES:
        return True
    is_participle = len(low) > 5 and low.endswith(("ing", "ed")) and low not in _NO_PARTICIPLES
    return is_participle and last not in _DETERMINERS | _ADJECTIVES


def _complete_members(members: list[list[str]], *, has_comma: bool) -> list[list[str]]:
    """The members with what they share written out, or none where they may belong together."""
    low = [[word.lower() for word in member] for member in members]
    if any(word in _BACKWARDS and (k or word != "one") for member in low for k, word in enumerate(member)):
        return []
    determined = [member[0] in _DETERMINERS or member[0].isdecimal() for member in low]
    names = [[w for w in member if w not in _DETERMINERS | _ADJECTIVES and not w.isdecimal()] for member in low]
    if not all(names):
        return []  # "the red and the blue car"
    if all(determined):
        return members
    plural = [_to_singular(_find_noun(member)[0]) is not None for member in members]
    if not any(determined):
        nouns = [member[0] for member in low]
        is_pair = len(members) == 2 and (tuple(nouns) in _ONE_DISH or any(len(m) > 1 for m in low))
        return members if all(plural) or not is_pair else []
    if not determined[0] or any(determined[1:]) or any(low[0][k] in _NUMBERS for k in range(min(2, len(low[0])))):
        return []
    shared = [word for word in members[0] if word.lower() in {"all", "every", "each", "the", "these", "those"}]
    if all(plural) or (low[0][0] in ("every", "each") and all(len(member) == 1 for member in members[1:])):
        return [members[0], *([*shared, *member] for member in members[1:])]
    return members if has_comma and len(members) > 2 and all(len(m) == 1 for m in low[1:]) else []


def _share_clause(members: list[list[str]]) -> list[list[str]]:
    """The members, each with the clause at the end if its verb says that it is about them all ("who are ...")."""
    last = members[-1] if members else []
    for k in range(1, len(last) - 1):
        if last[k].lower() in _RELATIVES and last[k + 1].lower() in _AGREEMENT and _to_singular(last[k - 1]) is None:
            clause = [last[k], _AGREEMENT[last[k + 1].lower()], *last[k + 2 :]]
            return [*([*member, *clause] for member in members[:-1]), [*last[:k], *clause]]
    return members


def _parse_quantity(phrase: str) -> tuple[str, int]:
    """A noun phrase in the singular, and how many of its kind are asked for."""
    number, rest, own = 0, phrase, None
    counted = _COUNTED.match(phrase)
    for pattern in (_COUNTED, _ALL, _SOME, _DEFINITE):
        match = pattern.match(phrase)
        if match:
            rest, own = phrase[match.end() :], match["own"]
            break
    is_all = not counted and bool(_ALL.match(phrase))
    if counted:
        word = " ".join(counted["number"].lower().split())
        number = 2 if word in ("both", "a couple of") else int(word) if word.isdecimal() else _NUMBERS[word]
    words = rest.split()
    noun, place = _find_noun(words)
    before = [word.lower() for word in words[: place + 1]]
    if not words or (counted and number < 2) or {word.lower() for word in words} & _EXCEPT or _is_joined(before):
        return phrase, 1
    if any(word in _QUANTITIES or word.isdecimal() for word in before):
        return phrase, 1  # "the first two dogs"
    singular = _to_singular(noun)
    if singular is None and not is_all and not number:
        return phrase, 1
    if singular is not None:
        words[place] = singular
        for k in range(place + 1, min(place + 3, len(words))):
            if words[k - 1].lower() in _RELATIVES:
                words[k] = _AGREEMENT.get(words[k].lower(), words[k])
    article = own.lower() if own and own.lower() in _POSSESSIVES else "the"
    return f"{article} {' '.join(words)}", number or MAX_INSTANCES


def _is_joined(words: Sequence[str]) -> bool:
    """Whether an "and" in front of the noun joins more than two of its qualities."""
    return any(
        word in ("and", "&") and not {words[k - 1], words[k + 1]} <= _ADJECTIVES
        for k, word in enumerate(words[:-1])
        if k
    ) or any("," in word for word in words)


def _find_noun(words: Sequence[str]) -> tuple[str, int]:
    """The noun of a phrase, the last word in front of what describes it, and its place."""
    for place in range(1, len(words)):
        low = words[place].lower()
        is_participle = len(low) > 5 and low.endswith(("ing", "ed")) and low not in _NO_PARTICIPLES
        if low in _PREPOSITIONS | _RELATIVES or (is_participle and _to_singular(words[place - 1]) is not None):
            return words[place - 1], place - 1
    return (words[-1], len(words) - 1) if words else ("", 0)


def _to_singular(word: str) -> str | None:
    """The singular of a noun that is plainly a plural; None for any other word."""
    low = word.lower()
    if low in _IRREGULAR:
        return _IRREGULAR[low]
    if low.endswith("men") and low not in _NOT_MEN:
        return f"{low[:-3]}man"
    if low != word or len(low) < 4 or low in _NOT_PLURAL or not low.endswith("s") or low.endswith(("ss", "us", "is")):
        return None
    if low.endswith("ies"):
        return low[:-1] if low in _WITH_IE else f"{low[:-3]}y"
    if low.endswith(("ches", "shes", "xes", "sses", "zzes")):
        return low[:-2]
    if low.endswith("oes"):
        return low[:-1] if low.endswith(_WITH_OE) else low[:-2]
    if low.endswith("uses"):
        return low[:-1] if low.endswith(_WITH_USE) else low[:-2]
    return low[:-1]
