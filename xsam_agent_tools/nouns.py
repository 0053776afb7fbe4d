"""English nouns: the singular of a plural, by rules and lists of exceptions.

Rules instead of a library: `inflect` (7.6) reads singulars as plurals ("bus" → "bu", "lens" → "len",
"thermos" → "thermo"), needs three more packages, and takes seconds to import. A wrong singular is a search
for a word that does not exist, so a word that may be singular is left alone.
"""

from __future__ import annotations

_IRREGULAR = {
    **{"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse"},
    **{"feet": "foot", "teeth": "tooth", "geese": "goose", "oxen": "ox", "cacti": "cactus"},
    **{"knives": "knife", "wives": "wife", "lives": "life", "loaves": "loaf", "leaves": "leaf"},
    **{"shelves": "shelf", "halves": "half", "scarves": "scarf", "wolves": "wolf", "calves": "calf"},
    **{"thieves": "thief", "hooves": "hoof", "axes": "axe", "matrices": "matrix", "vertices": "vertex"},
    **{"buses": "bus", "gases": "gas", "lenses": "lens", "cactuses": "cactus", "viruses": "virus"},
    **{"irises": "iris", "thermoses": "thermos", "canvases": "canvas", "atlases": "atlas"},
    **{"octopuses": "octopus", "walruses": "walrus", "minibuses": "minibus", "quizzes": "quiz"},
    **{"menus": "menu", "gnus": "gnu", "emus": "emu", "taxis": "taxi", "kiwis": "kiwi"},
    **{"bikinis": "bikini", "zucchinis": "zucchini", "chilis": "chili", "caches": "cache"},
    **{"headaches": "headache", "moustaches": "moustache", "quiches": "quiche", "creches": "creche"},
    **{"movies": "movie", "cookies": "cookie", "brownies": "brownie", "smoothies": "smoothie"},
    **{"hoodies": "hoodie", "beanies": "beanie", "veggies": "veggie", "zombies": "zombie"},
    **{"calories": "calorie", "onesies": "onesie", "neckties": "necktie", "bowties": "bowtie"},
    **{"magpies": "magpie", "potpies": "potpie", "selfies": "selfie", "rookies": "rookie"},
}
_COMPOUNDS = ("shelves", "knives", "scarves")  # also at the end of a longer word: bookshelves, penknives
# Words in -s that are no plural of another word, or whose singular nobody says.
_SAME = frozenset(
    (
        *(
            "scissors",
            "pliers",
            "tongs",
            "tweezers",
            "pincers",
            "shears",
            "clippers",
            "binoculars",
            "goggles",
        ),
        *("pants", "trousers", "shorts", "jeans", "tights", "leggings", "pajamas", "pyjamas", "overalls"),
        *("sunglasses", "eyeglasses", "headphones", "earphones", "earbuds", "scales", "stairs", "clothes"),
        *(
            "skis",
            "series",
            "species",
            "means",
            "lens",
            "bias",
            "alias",
            "atlas",
            "canvas",
            "pancreas",
            "thermos",
        ),
        *("christmas", "molasses", "gallows", "barracks", "headquarters", "crossroads", "rhinoceros"),
        *("chaos", "cosmos", "asbestos", "always", "perhaps", "mathematics", "physics", "electronics"),
        *("ceramics", "groceries", "leftovers", "dreadlocks", "suds", "remains", "surroundings", "contents"),
    )
)
_SINGULAR_ENDINGS = ("ss", "us", "is")
_ES_STEMS = ("ss", "x", "ch", "sh", "zz")  # glasses, boxes, watches, dishes, buzzes
_OES = frozenset(
    (
        *("tomatoes", "potatoes", "heroes", "echoes", "mangoes", "torpedoes", "volcanoes", "mosquitoes"),
        *("dominoes", "buffaloes"),
    )
)
_WORN = frozenset(("reading", "eye", "sun", "safety", "swimming", "ski", "3d", "vr", "opera", "protective"))


def singular(word: str, before: str = "") -> str | None:
    """Return the singular of a plural noun; None when the word is not known to be a plural.

    Args:
        word: one word; its case is kept except in irregular forms.
        before: the word before it: "safety glasses" are one thing, "wine glasses" are several.
    """
    lower = word.lower()
    if lower in _SAME or (lower == "glasses" and before.lower() in _WORN):
        return None
    if (irregular := _IRREGULAR.get(lower)) is not None:
        return irregular
    if not lower.isascii() or len(lower) < 4 or not lower.endswith("s"):
        return None
    if lower.endswith((*_SINGULAR_ENDINGS, "'s")):
        return None
    if lower.endswith(_COMPOUNDS):
        return word[:-3] + "f" + ("e" if lower.endswith("knives") else "")
    if lower.endswith("ies") and len(lower) > 4:
        return word[:-3] + "y"
    if lower in _OES or (lower.endswith("es") and lower[:-2].endswith(_ES_STEMS)):
        return word[:-2]
    return word[:-1]
