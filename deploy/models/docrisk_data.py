"""Generates the training texts of docrisk from grammars, with hard negatives. No outside data is used.

`expand` knows three forms: `{a|b|}` picks one branch (nesting is fine), `<name>` picks from the list of that name in
SLOTS, and each `#` becomes a digit. The
texts of evaluation.jsonl were written by hand and share nothing with this file; keep it so.
"""

import random
import re

from docrisk_attacks import EXFILTRATION, INJECTION, POISONING
from docrisk_benign import COMMON, DOMAINS, HARD_NEGATIVES, PERSONAL, SLOTS
import docrisk_everyday  # noqa: F401  adds its domains to those of docrisk_benign

LABELS = ["benign", "prompt_injection", "data_poisoning", "exfiltration", "pii"]

CHOICE = re.compile(r"\{([^{}]*)\}")
SLOT = re.compile(r"<([a-z_]+)>")

ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fl gr pl pr sh sl st th tr".split()
NUCLEI = "a e i o u ai ea ee io ou".split()
CODAS = ["", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ck", "ng"]
GLUE = "the a of and to in is was for on with that it by from at as his her their this which were has be".split()


def expand(rng, template):
    """One random text of a template."""
    while True:
        chosen = CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), template)
        filled = SLOT.sub(lambda m: rng.choice(SLOTS.get(m.group(1), [m.group(0)])), chosen)
        filled = re.sub(r"#+", lambda m: "".join(rng.choice("0123456789") for _ in m.group(0)), filled)
        if filled == template:
            return re.sub(r"[ ]+", " ", filled).strip()
        template = filled


# Everyday orders and stories share most words with attacks, so they come up more often.
NAMES = sorted(DOMAINS) + ["errands", "stories"] * 3


def vocabulary(families):
    """Every word that the attack templates use, without their order."""
    text = " ".join(template for templates in families.values() for template in templates)
    slots = " ".join(value for name in SLOT.findall(text) for value in SLOTS.get(name, []))
    return sorted(set(re.findall(r"[A-Za-z]{3,}", f"{text} {slots}")))


ATTACK_WORDS = vocabulary({**INJECTION, **POISONING, **EXFILTRATION})


def pseudo_word(rng):
    parts = [rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(rng.randint(1, 3))]
    return "".join(parts)


def pseudo_text(rng):
    """Unknown words between common ones, so that what the model has never seen counts as benign."""
    count = rng.randint(2, 60)
    glue = rng.choice([0.0, 0.3, 0.5])
    return " ".join(rng.choice(GLUE) if rng.random() < glue else pseudo_word(rng) for _ in range(count))


def salad(rng):
    """Words of attacks and of everyday English in no order: what makes an attack is how words follow each other."""
    count = rng.choice([1, 2, 3, 4, 6, 8, 12, 20, 40])
    attack = rng.choice([0.0, 0.1, 0.25, 0.45])
    glue = rng.choice([0.0, 0.3, 0.45])

    def word():
        if rng.random() < glue:
            return rng.choice(GLUE)
        if rng.random() < attack:
            return rng.choice(ATTACK_WORDS)
        return rng.choice(COMMON) if rng.random() < 0.85 else pseudo_word(rng)

    return " ".join(word() for _ in range(count))


def worn(rng, text):
    """The text with some words lost or replaced, so that no single word decides."""
    share = rng.choice([0.0, 0.0, 0.08, 0.16])
    words = text.split(" ")
    kept = [rng.choice(COMMON) if rng.random() < share / 2 else word for word in words if rng.random() >= share / 2]
    return " ".join(kept) or text


def benign_text(rng):
    """One to five sentences of one domain, sometimes cut into a fragment."""
    domain = DOMAINS[rng.choice(NAMES)]
    text = " ".join(expand(rng, rng.choice(domain)) for _ in range(rng.choice([1, 1, 2, 3, 4, 5])))
    if rng.random() < 0.25:
        parts = text.split(" ")
        start = rng.randrange(len(parts))
        text = " ".join(parts[start : start + rng.randint(1, 20)])
    return text


def hidden(rng, attack):
    """An attack as it arrives: bare, or between neutral sentences, sometimes with words scrambled away."""
    place = rng.random()
    if place < 0.4:
        return attack
    before = benign_text(rng) if place < 0.8 else pseudo_text(rng)
    before = " ".join(before.split(" ")[-rng.randint(3, 28) :])
    after = " ".join(benign_text(rng).split(" ")[: rng.randint(0, 20)])
    return f"{before} {attack} {after}".strip()


def attack_text(rng, families):
    family = families[rng.choice(sorted(families))]
    return hidden(rng, worn(rng, expand(rng, rng.choice(family))))


def pii_text(rng):
    text = " ".join(expand(rng, rng.choice(PERSONAL)) for _ in range(rng.choice([1, 1, 2, 3])))
    return text if rng.random() < 0.6 else f"{benign_text(rng)} {text}"


def generate(seed, count):
    """`count` pairs of text and label index; about two in three are benign."""
    rng = random.Random(seed)
    makers = [
        (34, 0, benign_text),
        (18, 0, negative_text),
        (12, 0, salad),
        (6, 0, pseudo_text),
        (14, 1, lambda r: attack_text(r, INJECTION)),
        (9, 2, lambda r: attack_text(r, POISONING)),
        (9, 3, lambda r: attack_text(r, EXFILTRATION)),
        (6, 4, pii_text),
    ]
    weights = [weight for weight, _, _ in makers]
    rows = []
    for _ in range(count):
        _, label, make = rng.choices(makers, weights)[0]
        rows.append((make(rng), label))
    return rows


def negative_text(rng):
    text = " ".join(expand(rng, rng.choice(HARD_NEGATIVES)) for _ in range(rng.choice([1, 1, 1, 2, 3])))
    return text if rng.random() < 0.6 else f"{text} {benign_text(rng)}"
