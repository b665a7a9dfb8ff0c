"""Verbs with their arguments, inflections, synonyms, opposites and kinds."""

from __future__ import annotations

from dataclasses import dataclass

# lemma, synonyms / agents / patients ("-" for none) / its opposite or "-" / what it is a way of, or "-"
_VERBS = """
buy,purchase / person / item food_item animal / sell / -
sell / person / item food_item animal / buy / -
find,discover / person animal / item food_item animal / lose / -
lose,misplace / person / item / find / -
repair,fix / person / item / break / -
break / person animal / item / repair / -
hide,conceal / person animal / item food_item / reveal / -
reveal / person / item / hide / -
push / person animal / item / pull / move
pull,drag / person animal / item / push / move
move / person animal / item / - / -
throw,toss / person / item food_item / catch / -
catch / person animal / item food_item / throw / -
praise,compliment / person / person / criticise / -
criticise / person / person / praise / -
help,assist / person / person animal / hinder / -
hinder / person / person / help / -
love,adore / person / person animal item food_item / hate / -
hate,detest / person / person animal item food_item / love / -
ignore / person animal / person animal / notice / -
notice,spot / person animal / person animal item food_item / ignore / -
chase,pursue / person animal / person animal / - / follow
follow / person animal / person animal / - / -
rescue,save / person / person animal / - / -
frighten,scare / person animal / person animal / calm / -
calm,soothe / person / person animal / frighten / -
clean / person / item / soil / -
soil / person animal / item / clean / -
wash / person / item / - / clean
scrub / person / item / - / clean
wipe / person / item / - / clean
polish / person / item / - / clean
eat,consume / person animal / food_item / - / -
devour / person animal / food_item / - / eat
nibble / person animal / food_item / - / eat
swallow / person animal / food_item / - / eat
cook / person / food_item / - / -
fry / person / food_item / - / cook
boil / person / food_item / - / cook
roast / person / food_item / - / cook
carry / person / item food_item animal / drop / -
drop / person animal / item food_item / carry / -
photograph / person / person animal item food_item / - / -
draw,sketch / person / person animal item food_item / - / -
admire / person / person animal item / - / -
greet,welcome / person / person / - / -
visit / person / person / - / -
hit,strike / person animal / person item / - / -
kick / person animal / person item / - / hit
punch / person / person item / - / hit
run / person animal / - / - / move_about
crawl / person animal / - / - / move_about
jump / person animal / - / - / move_about
walk / person animal / - / - / move_about
move_about / person animal / - / - / -
make_a_noise / person animal / - / - / -
shout,yell / person / - / - / make_a_noise
scream / person animal / - / - / make_a_noise
whistle / person / - / - / make_a_noise
sleep / person animal / - / - / rest
doze / person animal / - / - / rest
rest,relax / person animal / - / - / -
smile,grin / person / - / frown / -
frown / person / - / smile / -
arrive / person animal / - / leave / -
leave,depart / person animal / - / arrive / -
laugh / person / - / weep / -
weep,cry / person / - / laugh / -
"""

_IRREGULAR = {
    "buy": "bought bought", "sell": "sold sold", "find": "found found", "lose": "lost lost",
    "break": "broke broken", "hide": "hid hidden", "throw": "threw thrown", "catch": "caught caught",
    "eat": "ate eaten", "draw": "drew drawn", "hit": "hit hit", "run": "ran run", "sleep": "slept slept",
    "leave": "left left", "weep": "wept wept", "make_a_noise": "made_a_noise made_a_noise",
    "strike": "struck struck", "move_about": "moved_about moved_about",
}  # fmt: skip
MANNERLESS = frozenset(
    ("love", "hate", "notice", "lose", "find", "admire", "doze", "sleep", "rest", "ignore")
)
"""Verbs that say nothing of how it was done."""
_DOUBLED = frozenset(("scrub", "drop", "drag", "spot", "grin"))


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb; agents and patients are highest kinds of nouns, patients () for what needs no patient."""

    name: str
    words: tuple[str, ...]
    agents: tuple[str, ...]
    patients: tuple[str, ...]
    opposite: str | None
    kind: str | None


def _verb(line: str) -> Verb:
    """One line of the table above."""
    words, agents, patients, opposite, kind = (
        tuple(word for word in cell.strip().replace(",", " ").split() if word != "-")
        for cell in line.split(" / ")
    )
    opposed, above = (cell[0] if cell else None for cell in (opposite, kind))
    return Verb(name=words[0], words=words, agents=agents, patients=patients, opposite=opposed, kind=above)


VERBS: dict[str, Verb] = {verb.name: verb for verb in map(_verb, _VERBS.strip().splitlines())}
WAYS: dict[str, tuple[str, ...]] = {
    kind: tuple(verb.name for verb in VERBS.values() if verb.kind == kind)
    for kind in dict.fromkeys(verb.kind for verb in VERBS.values() if verb.kind)
}
"""Verb -> the verbs that are ways of doing it: "clean" -> ("wash", "scrub", "wipe", "polish")."""


def past(word: str) -> str:
    """The past tense of a verb.

    Example:
        >>> past("buy"), past("carry"), past("drop"), past("praise")
        ('bought', 'carried', 'dropped', 'praised')
    """
    return _IRREGULAR[word].split()[0] if word in _IRREGULAR else _regular(word)


def participle(word: str) -> str:
    """The past participle of a verb.

    Example:
        >>> participle("break"), participle("wash")
        ('broken', 'washed')
    """
    return _IRREGULAR[word].split()[1] if word in _IRREGULAR else _regular(word)


def _regular(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ied"
    return word + (word[-1] if word in _DOUBLED else "") + "ed"
