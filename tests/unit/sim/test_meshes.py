from __future__ import annotations

import numpy as np
import pytest

from xsam.sim.household import CATEGORIES, COLORS, SECONDARY_COLORS, build_object, colors_of
from xsam.sim.meshes import Part, arc, box, ellipsoid, lathe, tube


def signed_volume_m3(part: Part) -> float:
    a, b, c = part.vertices[part.faces].astype(np.float64).transpose(1, 0, 2)
    return float((np.cross(a, b) * c).sum() / 6.0)


def is_closed(part: Part) -> bool:
    """Return True if every edge has two faces in opposite directions (vertices merged by position)."""
    _, index = np.unique(np.round(part.vertices, 6), axis=0, return_inverse=True)
    edges = [(int(index[f[k]]), int(index[f[(k + 1) % 3]])) for f in part.faces for k in range(3)]
    edges = [edge for edge in edges if edge[0] != edge[1]]
    return sorted(edges) == sorted((b, a) for a, b in edges)


def test_box_has_nearly_the_volume_of_its_extent() -> None:
    part = box((0.2, 0.3, 0.1), (1.0, 2.0, 3.0), bevel=0.02)
    assert signed_volume_m3(part) == pytest.approx(0.006, rel=0.02)
    np.testing.assert_allclose(part.vertices.min(axis=0), (0.9, 1.85, 3.0), atol=1e-6)
    np.testing.assert_allclose(part.vertices.max(axis=0), (1.1, 2.15, 3.1), atol=1e-6)
    assert is_closed(part)


def test_ellipsoid_and_lathe_have_the_right_volume() -> None:
    assert signed_volume_m3(ellipsoid((0.1, 0.2, 0.3), segments=48, rings=32)) == pytest.approx(
        4 / 3 * np.pi * 0.006, rel=0.02
    )
    assert signed_volume_m3(lathe([(0, 0), (0.1, 0), (0.1, 0.5), (0, 0.5)], 64)) == pytest.approx(
        np.pi * 0.005, rel=0.01
    )


@pytest.mark.parametrize(
    "path",
    [
        [(0, 0, 0), (0.1, 0, 0), (0.2, 0, 0)],
        [(0, 0, 0), (0, 0.1, 0.01), (0, 0.2, 0)],
        [(0, 0, 0), (0, 0, 0.1), (0.001, 0, 0.2)],
        arc(0.1, -1.5, 1.5, 9),
    ],
)
def test_tubes_are_not_inside_out(path: object) -> None:
    """Tubes once had their faces turned inward: handles showed their far wall, as if hollow."""
    part = tube(path, 0.01, 12)  # type: ignore[arg-type]
    assert signed_volume_m3(part) > 0
    assert is_closed(part)


def test_laying_down_keeps_the_orientation() -> None:
    part = lathe([(0, 0), (0.1, 0), (0, 0.5)]).laid()
    assert signed_volume_m3(part) > 0
    assert part.vertices[:, 0].max() == pytest.approx(0.5)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_stands_on_the_table_and_has_a_household_size(category: str) -> None:
    for seed in range(3):
        model = build_object(category, np.random.default_rng(seed))
        vertices = np.concatenate([part.vertices for part in model.parts])
        assert vertices[:, 2].min() == pytest.approx(0.0, abs=1e-6)
        np.testing.assert_array_equal(model.lower_m, vertices.min(axis=0))
        np.testing.assert_array_equal(model.upper_m, vertices.max(axis=0))
        assert 0.03 < np.ptp(vertices, axis=0).max() < 0.40
        for part in model.parts:
            assert part.faces.min() >= 0
            assert part.faces.max() < len(part.vertices)
            if is_closed(part):
                assert signed_volume_m3(part) > 0
    assert set(colors_of(category)) <= set(COLORS)


def test_secondary_colors_name_known_categories_and_colors() -> None:
    assert set(SECONDARY_COLORS) <= set(CATEGORIES)
    assert all(set(colors) <= set(COLORS) for colors in SECONDARY_COLORS.values())
