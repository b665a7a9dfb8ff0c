"""Real English words and how they are related: kinds of things, qualities, names, places and times.

A word here stands for a concept; `SYNONYMS` says how else the concept is worded. A concept of several words
is written with underscores. `HELD_OUT` concepts appear in test splits alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

_KINDS = """
animal > dog: poodle beagle terrier collie spaniel | dalmatian
animal > bird: sparrow robin parrot eagle owl pigeon | heron
animal > rodent: mouse squirrel hamster rat | beaver
animal > reptile: lizard snake turtle crocodile | iguana
animal > farm_animal: cow goat pig sheep donkey | llama
person > medical_worker: doctor nurse surgeon dentist | paramedic
person > artist: painter singer dancer actor poet | sculptor
person > musician: drummer guitarist pianist violinist | cellist
person > athlete: swimmer boxer runner gymnast wrestler | skater
person > relative: aunt uncle cousin sister brother | nephew
person > craftsman: carpenter plumber tailor baker blacksmith | potter
person > official: judge mayor sheriff ambassador | senator
item > vehicle: car bus truck van bicycle motorcycle | tractor
item > tool: hammer saw drill spade screwdriver | wrench
item > toy: doll puzzle kite yo-yo balloon | marble
item > garment: shirt coat skirt sweater scarf dress | vest
item > container: box basket bag bucket jar bottle | barrel
item > musical_instrument: guitar violin piano drum flute | trumpet
item > piece_of_furniture: chair table sofa desk bed bookcase | stool
food_item > fruit: apple pear orange banana lemon | plum
food_item > vegetable: carrot onion potato cucumber tomato | turnip
food_item > pastry: muffin croissant doughnut pie | scone
"""

_QUALITIES = """
colour: red blue green yellow black white brown | purple
size: big small | tiny
age: old new
youth: elderly young
weight: heavy light
cleanness: clean dirty
wetness: wet dry
price: cheap expensive
sturdiness: sturdy | fragile
height: tall short
wealth: rich poor
mood: happy sad angry | nervous
wit: clever foolish
manners: polite rude
hunger: hungry | thirsty
tameness: wild tame
coat: brown black white | golden
freshness: fresh rotten
temperature: hot cold | lukewarm
"""

_SYNONYMS = """
dog/hound pig/hog doctor/physician actor/performer
official/public_servant car/automobile truck/lorry bicycle/bike motorcycle/motorbike spade/shovel
sweater/pullover bucket/pail sofa/couch musical_instrument/instrument garment/piece_of_clothing
pastry/baked_treat potato/spud bag/sack coat/overcoat box/crate dress/gown wrench/spanner
big/large small/little tiny/miniature elderly/aged new/brand-new heavy/weighty clean/spotless dirty/filthy
wet/damp cheap/inexpensive expensive/costly sturdy/solid fragile/delicate rich/wealthy poor/penniless
happy/cheerful sad/unhappy angry/furious nervous/anxious clever/smart foolish/silly
polite/courteous rude/impolite
hungry/starving young/youthful wild/untamed rotten/spoiled
quickly/rapidly slowly/unhurriedly quietly/silently loudly/noisily carefully/cautiously carelessly/recklessly
garden/yard forest/woods shop/store harbour/port street/road office/workplace beach/seaside cellar/basement
square/plaza farm/ranch in_the_evening/at_dusk at_noon/at_midday in_the_morning/before_noon
several/a_few
"""

_NAMES = """maria tom anna peter lucy omar elena david sofia james nina carlos emma hugo ruth victor alice 
henry laura martin clara simon julia oscar helen paul grace adam | ingrid felix naomi boris yusuf"""

PLACES: Mapping[str, tuple[str, ...]] = {
    "indoors": (
        "kitchen",
        "bedroom",
        "library",
        "cellar",
        "garage",
        "office",
        "museum",
        "shop",
        "hotel",
        "school",
    ),
    "outdoors": (
        "garden",
        "park",
        "forest",
        "field",
        "street",
        "square",
        "harbour",
        "beach",
        "farm",
        "valley",
    ),
}
ON_PLACES = frozenset(("street", "square", "beach", "farm", "road", "plaza", "ranch"))
AT_PLACES = frozenset(("seaside", "workplace", "harbour", "port", "school"))
DAYS: Mapping[str, tuple[str, ...]] = {
    "on_a_weekday": ("on_monday", "on_tuesday", "on_wednesday", "on_thursday", "on_friday"),
    "at_the_weekend": ("on_saturday", "on_sunday"),
}
EXTRAS = ("place", "day", "hour", "manner")
"""The roles that a frame may leave open."""
HOURS = ("in_the_morning", "at_noon", "in_the_afternoon", "in_the_evening", "at_midnight")
OPPOSITE_MANNERS = (("quickly", "slowly"), ("quietly", "loudly"), ("carefully", "carelessly"))
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
SEVERAL = "several"
"""Any of `MANY`."""
MANY = NUMBERS[1:]

_QUALITIES_OF = {
    "person": "youth height wealth mood wit manners",
    "animal": "size youth hunger tameness coat",
    "item": "size age weight price cleanness wetness sturdiness colour",
    "food_item": "size freshness temperature price",
}

PLURALS = {
    "mouse": "mice", "sheep": "sheep", "person": "people", "scarf": "scarves",
    "piece_of_furniture": "pieces_of_furniture", "piece_of_clothing": "pieces_of_clothing",
    "craftsman": "craftsmen",
}  # fmt: skip


def _table(text: str) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Lines "NAME: WORDS | HELD-OUT WORDS" to all words by name, and the held-out ones."""
    rows, held = {}, set()
    for line in text.strip().splitlines():
        name, _, words = line.partition(":")
        seen, _, unseen = words.partition("|")
        rows[name.strip()] = (*seen.split(), *unseen.split())
        held.update(unseen.split())
    return rows, frozenset(held)


_kinds, _held_nouns = _table(_KINDS)
_names, _held_names = _table("names: " + _NAMES.replace("\n", " "))
QUALITIES, HELD_OUT_ADJECTIVES = _table(_QUALITIES)

CHILDREN: dict[str, tuple[str, ...]] = {row.split(" > ")[1]: leaves for row, leaves in _kinds.items()}
"""Kind -> its kinds, on the three levels animal > dog > poodle."""
for _row in _kinds:
    _top, _middle = _row.split(" > ")
    CHILDREN[_top] = (*CHILDREN.get(_top, ()), _middle)

PARENT: dict[str, str] = {child: kind for kind, children in CHILDREN.items() for child in children}
NAMES = _names["names"]
TOPS = ("person", "animal", "item", "food_item")
HELD_OUT_NOUNS = _held_nouns
HELD_OUT_NAMES = _held_names
HELD_OUT = HELD_OUT_NOUNS | HELD_OUT_ADJECTIVES | HELD_OUT_NAMES
"""About 15 % of the most specific nouns, of the qualities and of the names: in test splits alone.

Their relations (kind of, synonym, opposite) are of the same sorts as those of the other words. Higher kinds,
verbs, places, times and numbers are in all splits.
"""

SYNONYMS: dict[str, tuple[str, ...]] = {
    pair.split("/")[0]: tuple(pair.split("/")) for pair in _SYNONYMS.split()
}
PLACE_KIND = {place: kind for kind, places in PLACES.items() for place in places}
DAY_KIND = {day: kind for kind, days in DAYS.items() for day in days}
OPPOSITE_MANNER = dict(chain(OPPOSITE_MANNERS, ((b, a) for a, b in OPPOSITE_MANNERS)))


def top_of(noun: str) -> str:
    """The highest kind: "animal" for "poodle"; "person" for a name."""
    if noun in NAME_SET:
        return "person"
    while noun in PARENT:
        noun = PARENT[noun]
    return noun


NAME_SET = frozenset(NAMES)
TOP = {noun: top_of(noun) for noun in (*PARENT, *TOPS, *NAMES)}
QUALITIES_OF = {top: tuple(names.split()) for top, names in _QUALITIES_OF.items()}


def _dimensions() -> dict[tuple[str, str], str]:
    """(highest kind, quality) -> the dimension on which the kind has that quality."""
    return {
        (top, value): name
        for top, names in QUALITIES_OF.items()
        for name in names
        for value in QUALITIES[name]
    }


DIMENSION = _dimensions()


def plural(noun: str) -> str:
    """The plural of a noun.

    Example:
        >>> plural("box"), plural("mouse"), plural("pastry")
        ('boxes', 'mice', 'pastries')
    """
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiouo-":
        return noun[:-1] + "ies"
    if noun in ("potato", "tomato") or noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun + "s"
