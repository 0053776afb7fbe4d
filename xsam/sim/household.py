"""Household objects: 26 categories built from primitives, each with random proportions."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from xsam.sim.meshes import ObjectModel, Part, Rgb, arc, assemble, box, ellipsoid, lathe, tube

COLORS: MappingProxyType[str, Rgb] = MappingProxyType(
    {
        "red": (0.80, 0.08, 0.07),
        "orange": (0.95, 0.43, 0.04),
        "yellow": (0.95, 0.80, 0.08),
        "green": (0.10, 0.55, 0.15),
        "blue": (0.08, 0.22, 0.75),
        "purple": (0.42, 0.12, 0.60),
        "pink": (0.95, 0.50, 0.68),
        "brown": (0.34, 0.19, 0.09),
        "white": (0.92, 0.92, 0.90),
        "black": (0.05, 0.05, 0.06),
        "gray": (0.45, 0.45, 0.47),
    }
)
"""Linear RGB of the named colors."""

ALL_COLORS = tuple(COLORS)

STEEL: Rgb = (0.74, 0.74, 0.77)
IRON: Rgb = (0.28, 0.28, 0.30)
STEM: Rgb = (0.25, 0.15, 0.06)
LEAF: Rgb = (0.12, 0.45, 0.10)
PAPER: Rgb = (0.90, 0.87, 0.78)
CARDBOARD: Rgb = (0.72, 0.58, 0.40)
EYE: Rgb = (0.02, 0.02, 0.02)
BEAK: Rgb = (0.95, 0.40, 0.03)
MUZZLE: Rgb = (0.80, 0.66, 0.48)
SCREEN: Rgb = (0.03, 0.04, 0.06)
RUBBER: Rgb = (0.07, 0.07, 0.07)

SECONDARY_COLORS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "knife": ("gray", "white"),
        "screwdriver": ("gray", "white"),
        "hammer": ("gray", "black"),
        "phone": ("black",),
        "pan": ("black",),
        "can": ("gray", "white"),
        "carrot": ("green",),
        "bottle": ("white", "gray", "black"),
        "box": ("white", "gray"),
        "book": ("white",),
        "tape": ("brown",),
        "teddy bear": ("brown",),
    }
)
"""Colors of large parts other than the main one: they make a phrase such as "the gray object" ambiguous."""

Rng = np.random.Generator
Builder = Callable[[Rng], list[Part]]


def _mug(rng: Rng) -> list[Part]:
    radius, height, wall = rng.uniform(0.036, 0.047), rng.uniform(0.08, 0.11), 0.004
    flare = rng.uniform(0.9, 1.08)
    inner = [(radius * flare - wall, height), (radius - wall, 0.012), (0, 0.009)]
    body = lathe([(0, 0), (radius * 0.93, 0), (radius, 0.006), (radius * flare, height), *inner])
    loop = arc(height * 0.28, -np.pi / 2, np.pi / 2, 9) * (1.1, 1.0, 1.0)
    handle = tube(loop + np.array((radius * 0.97, 0, height * 0.52)), 0.0062, 8)
    return [body, handle]


def _cup(rng: Rng) -> list[Part]:
    radius, height = rng.uniform(0.03, 0.04), rng.uniform(0.09, 0.13)
    outer = [(0, 0), (radius * 0.72, 0), (radius, height)]
    return [lathe([*outer, (radius - 0.003, height), (radius * 0.70, 0.008), (0, 0.006)])]


def _bowl(rng: Rng) -> list[Part]:
    radius, height = rng.uniform(0.06, 0.085), rng.uniform(0.04, 0.06)
    steps = np.linspace(0.25, 1.0, 7)
    outer = [(radius * s, height * s**2.2) for s in steps]
    inner = [(radius * s - 0.004, height * s**2.2 + 0.004) for s in steps[::-1]]
    return [lathe([(0, 0), *outer, *inner, (0, 0.008)])]


def _plate(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.085, 0.115)
    rim = [(radius, 0.014), (radius, 0.018)]
    return [lathe([(0, 0), (radius * 0.6, 0), *rim, (radius * 0.62, 0.006), (0, 0.005)], 32)]


def _bottle(rng: Rng) -> list[Part]:
    radius, height, shoulder = rng.uniform(0.028, 0.037), rng.uniform(0.19, 0.26), rng.uniform(0.55, 0.68)
    neck = [(radius * 0.36, height * 0.84), (radius * 0.34, height * 0.93)]
    sides = [(radius, 0.008), (radius, height * shoulder), (radius * 0.75, height * (shoulder + 0.1))]
    body = lathe([(0, 0), (radius * 0.9, 0), *sides, *neck])
    cap_profile = [(0, height * 0.92), (radius * 0.42, height * 0.92), (radius * 0.42, height), (0, height)]
    label = lathe([(radius * 1.015, height * 0.22), (radius * 1.015, height * 0.46)])
    return [body, lathe(cap_profile, 16).painted("accent"), label.painted("label")]


def _can(rng: Rng) -> list[Part]:
    radius, height = rng.uniform(0.030, 0.036), rng.uniform(0.10, 0.125)
    sides = [(radius * 0.85, 0), (radius, 0.008), (radius, height - 0.008), (radius * 0.86, height)]
    lid = lathe([(radius * 0.86, height), (radius * 0.82, height - 0.003), (0, height - 0.003)])
    return [lathe([(0, 0.002), *sides]), lid.painted(STEEL)]


def _box(rng: Rng) -> list[Part]:
    x, y, z = rng.uniform(0.05, 0.09), rng.uniform(0.10, 0.16), rng.uniform(0.13, 0.20)
    label = box((x * 1.008, y * 0.7, z * 0.3), (0, 0, z * 0.45), bevel=0.01)
    return [box((x, y, z), bevel=0.02), label.painted("label")]


def _book(rng: Rng) -> list[Part]:
    x, y, z = rng.uniform(0.11, 0.15), rng.uniform(0.16, 0.21), rng.uniform(0.018, 0.04)
    pages = box((x * 0.95, y * 0.95, z * 0.66), (0.004, 0, z * 0.17), bevel=0.02)
    spine = box((0.004, y, z), (-x / 2, 0, 0), bevel=0.02)
    covers = [box((x, y, z * 0.18), (0, 0, base), bevel=0.1) for base in (0.0, z * 0.82)]
    return [*covers, pages.painted(PAPER), spine]


def _ball(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.03, 0.05)
    return [ellipsoid((radius, radius, radius), segments=24, rings=16)]


def _block(rng: Rng) -> list[Part]:
    edge = rng.uniform(0.04, 0.065)
    return [box((edge, edge, edge), bevel=0.05)]


def _apple(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.034, 0.042)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 14)
    cos, sin = np.cos(latitude), np.sin(latitude)
    dimple = 0.30 * np.exp(-((cos / 0.35) ** 2)) * np.sign(sin)
    body = lathe(np.stack([radius * cos * (1 + 0.12 * sin), radius * (0.92 * sin - dimple)], axis=1), 24)
    top = radius * (0.92 - 0.30)
    stem = tube([(0, 0, top - 0.002), (0.001, 0, top + 0.012), (0.006, 0, top + 0.022)], 0.0019, 6)
    return [body, stem.painted(STEM)]


def _banana(rng: Rng) -> list[Part]:
    length = rng.uniform(0.075, 0.095)
    t = np.linspace(-0.95, 0.95, 13)
    radius = 0.017 * np.clip(1 - np.abs(t) ** 5 * 0.75, 0.25, 1)
    radius[0] = radius[-1] = 0.006
    path = np.stack([length * np.sin(t), length * (0.8 - np.cos(t)), np.full_like(t, 0.017)], axis=1)
    stem = tube(path[-1:] + np.linspace(0, 0.018, 3)[:, None] * [[0.6, 0.8, 0]], 0.0045, 6)
    return [tube(path, radius.tolist()), stem.painted(STEM)]


def _lemon(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.024, 0.03)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 14)
    along = np.sin(latitude) * 1.25 + 0.18 * np.sin(latitude) ** 9
    return [lathe(np.stack([radius * np.cos(latitude), radius * along], axis=1), 20).laid()]


def _pear(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.034, 0.04)
    height = np.array([0, 0.03, 0.2, 0.5, 0.9, 1.3, 1.7, 2.0, 2.2, 2.25])
    width = np.array([0, 0.45, 0.85, 1, 0.93, 0.68, 0.5, 0.42, 0.25, 0])
    stem = tube([(0, 0, radius * 2.2), (0.001, 0, radius * 2.4), (0.003, 0, radius * 2.65)], 0.0019, 6)
    return [lathe(radius * np.stack([width, height], axis=1), 22), stem.painted(STEM)]


def _carrot(rng: Rng) -> list[Part]:
    length = rng.uniform(0.13, 0.17)
    profile = [(0, 0), (0.004, 0.08), (0.011, 0.5), (0.016, 0.93), (0.012, 1), (0, 1)]
    root = lathe([(r, z * length) for r, z in profile], 14).laid().moved((-length / 2, 0, 0.016))
    tip = length / 2
    leaves = [
        tube([(tip, 0, 0.016), (tip + 0.03, k * 0.010, 0.018), (tip + 0.055, k * 0.022, 0.02)], 0.003, 6)
        for k in (-1, 0, 1)
    ]
    return [root, *(leaf.painted(LEAF) for leaf in leaves)]


def _spoon(rng: Rng) -> list[Part]:
    length = rng.uniform(0.13, 0.16)
    bowl = ellipsoid((0.026, 0.018, 0.005), (length / 2, 0, 0.006), 18, 8)
    return [bowl, tube([(length / 2 - 0.02, 0, 0.006), (0, 0, 0.012), (-length / 2, 0, 0.006)], 0.0045, 8)]


def _knife(rng: Rng) -> list[Part]:
    length = rng.uniform(0.19, 0.23)
    blade = box((length * 0.55, 0.024, 0.0035), (length * 0.27, 0, 0.005), bevel=0.3)
    return [blade.painted(STEEL), box((length * 0.42, 0.022, 0.015), (-length * 0.21, 0, 0), bevel=0.25)]


def _screwdriver(rng: Rng) -> list[Part]:
    length = rng.uniform(0.18, 0.22)
    grip = [(0.012, 0.002), (0.015, 0.03), (0.011, length * 0.40), (0.013, length * 0.46)]
    handle = lathe([(0, 0), *grip, (0, length * 0.47)], 12).laid().moved((-length / 2, 0, 0.015))
    shaft = tube([(-length * 0.05, 0, 0.015), (length * 0.2, 0, 0.015), (length / 2, 0, 0.015)], 0.0036, 8)
    return [handle, shaft.painted(STEEL)]


def _hammer(rng: Rng) -> list[Part]:
    length = rng.uniform(0.22, 0.28)
    handle = tube([(-length / 2, 0, 0.014), (length * 0.3, 0, 0.014), (length / 2, 0, 0.014)], 0.011, 10)
    return [handle, box((0.032, 0.105, 0.030), (length / 2, 0, 0), bevel=0.15).painted(IRON)]


def _pan(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.075, 0.10)
    inner = [(radius - 0.004, 0.038), (radius * 0.82, 0.006), (0, 0.005)]
    body = lathe([(0, 0), (radius * 0.85, 0), (radius, 0.038), *inner], 30)
    grip = tube([(radius * 0.98, 0, 0.032), (radius + 0.06, 0, 0.042), (radius + 0.15, 0, 0.046)], 0.010, 8)
    return [body, grip.painted(RUBBER)]


def _tape(rng: Rng) -> list[Part]:
    radius, height = rng.uniform(0.036, 0.05), rng.uniform(0.018, 0.035)
    roll = lathe([(radius * 0.62, 0), (radius, 0), (radius, height), (radius * 0.62, height)], 30)
    core = [(radius * 0.62, height), (radius * 0.56, height), (radius * 0.56, 0), (radius * 0.62, 0)]
    return [roll, lathe(core, 30).painted(CARDBOARD)]


def _vase(rng: Rng) -> list[Part]:
    height, belly = rng.uniform(0.15, 0.21), rng.uniform(0.018, 0.028)
    z = np.linspace(0, 1, 11)
    radius = 0.030 + belly * np.sin(np.pi * np.clip(z * 1.1, 0, 1)) + np.clip(z - 0.85, 0, None) * 0.08
    outer = np.stack([radius, z * height], axis=1)
    inner = outer[::-1] - (0.004, 0.0)
    inner[-1] = (0.0, 0.006)
    return [lathe(np.concatenate([[(0, 0)], outer, inner]), 26)]


def _teapot(rng: Rng) -> list[Part]:
    radius = rng.uniform(0.055, 0.068)
    latitude = np.linspace(-1.25, 1.25, 11)
    profile = radius * np.stack([np.cos(latitude), 0.82 * np.sin(latitude)], axis=1)
    profile[:, 1] -= profile[0, 1]
    top = profile[-1, 1]
    body = lathe(np.concatenate([[(0, 0)], profile, [(0, top + 0.008)]]), 26)
    loop = arc(radius * 0.55, -np.pi * 0.55, np.pi * 0.55, 9) * (-1.0, 1.0, 1.0)
    handle = tube(loop + np.array((-radius * 0.85, 0, top * 0.55)), 0.0065, 8)
    spout = [(radius * 0.75, 0, top * 0.35), (radius * 1.25, 0, top * 0.55), (radius * 1.5, 0, top * 0.95)]
    knob = ellipsoid((0.011, 0.011, 0.011), (0, 0, top + 0.015), 12, 8)
    return [body, knob, handle, tube(spout, [0.014, 0.011, 0.008])]


def _duck(rng: Rng) -> list[Part]:
    scale = rng.uniform(0.85, 1.2)
    body = ellipsoid((0.045, 0.033, 0.027), (0, 0, 0.027))
    head = ellipsoid((0.024, 0.024, 0.024), (0.030, 0, 0.066))
    tail = ellipsoid((0.016, 0.016, 0.020), (-0.044, 0, 0.042), 12, 8)
    beak = ellipsoid((0.014, 0.012, 0.005), (0.056, 0, 0.062), 12, 8).painted(BEAK)
    eyes = [ellipsoid((0.0042,) * 3, (0.047, side * 0.013, 0.075), 8, 6).painted(EYE) for side in (-1, 1)]
    return [part.scaled(scale) for part in (body, head, tail, beak, *eyes)]


def _teddy_bear(rng: Rng) -> list[Part]:
    scale = rng.uniform(0.9, 1.2)
    parts = [
        ellipsoid((0.034, 0.038, 0.042), (0, 0, 0.044), 16, 10),
        ellipsoid((0.030, 0.031, 0.029), (0.004, 0, 0.104), 16, 10),
        ellipsoid((0.012, 0.013, 0.010), (0.031, 0, 0.098), 10, 8).painted(MUZZLE),
        ellipsoid((0.004, 0.004, 0.004), (0.043, 0, 0.101), 8, 6).painted(EYE),
    ]
    for side in (-1, 1):
        parts.append(ellipsoid((0.010, 0.012, 0.012), (0, side * 0.026, 0.130), 12, 8))
        parts.append(ellipsoid((0.030, 0.014, 0.014), (0.028, side * 0.026, 0.016), 14, 8))
        parts.append(ellipsoid((0.014, 0.024, 0.012), (0.016, side * 0.045, 0.062), 14, 8))
        parts.append(ellipsoid((0.0035, 0.0035, 0.0035), (0.031, side * 0.012, 0.113), 8, 6).painted(EYE))
    return [part.scaled(scale) for part in parts]


def _phone(rng: Rng) -> list[Part]:
    x, y = rng.uniform(0.066, 0.076), rng.uniform(0.135, 0.155)
    screen = box((x * 0.80, y * 0.82, 0.0012), (0, 0, 0.0085), bevel=0.05)
    return [box((x, y, 0.009), bevel=0.3), screen.painted(SCREEN)]


_BUILDERS: dict[str, tuple[Builder, tuple[str, ...]]] = {
    "mug": (_mug, ALL_COLORS),
    "cup": (_cup, ALL_COLORS),
    "bowl": (_bowl, ALL_COLORS),
    "plate": (_plate, ALL_COLORS),
    "bottle": (_bottle, ALL_COLORS),
    "can": (_can, ALL_COLORS),
    "box": (_box, ALL_COLORS),
    "book": (_book, ALL_COLORS),
    "ball": (_ball, ALL_COLORS),
    "block": (_block, ALL_COLORS),
    "apple": (_apple, ("red", "green", "yellow")),
    "banana": (_banana, ("yellow",)),
    "lemon": (_lemon, ("yellow",)),
    "pear": (_pear, ("green", "yellow")),
    "carrot": (_carrot, ("orange",)),
    "spoon": (_spoon, ("gray", "white", "brown", "black")),
    "knife": (_knife, ("black", "brown", "red", "blue")),
    "screwdriver": (_screwdriver, ("red", "orange", "yellow", "green", "blue", "black")),
    "hammer": (_hammer, ("brown", "red", "yellow", "blue", "black")),
    "pan": (_pan, ("black", "gray", "red", "blue")),
    "tape": (_tape, ALL_COLORS),
    "vase": (_vase, ALL_COLORS),
    "teapot": (_teapot, ALL_COLORS),
    "duck": (_duck, ("yellow", "pink", "blue", "white")),
    "teddy bear": (_teddy_bear, ("brown", "white", "pink", "gray")),
    "phone": (_phone, ("black", "white", "blue", "red", "gray", "pink")),
}

CATEGORIES: tuple[str, ...] = tuple(_BUILDERS)


def colors_of(category: str) -> tuple[str, ...]:
    """Return the names of the colors that a category comes in."""
    return _BUILDERS[category][1]


def build_object(category: str, rng: np.random.Generator) -> ObjectModel:
    """Build a random object of a category, standing (or lying) on z = 0.

    Raises:
        KeyError: the category is not one of `CATEGORIES`.
    """
    builder, colors = _BUILDERS[category]
    parts = builder(rng)
    return assemble(category, parts, colors, scale=float(rng.uniform(0.88, 1.18)))
