"""Muon: orthogonal updates, one computed by hand, and decay."""

from __future__ import annotations

import pytest
import torch

from xsam.train.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4), (1, 6)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    """Holds over three orders of magnitude of the input, and without rotating it."""
    rows, columns = shape
    rank = min(shape)
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(3, rows, rank, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(3, columns, rank, generator=generator)).Q
    values = torch.logspace(0, -1.5, rank).expand(3, rank) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    result = orthogonalize(left * values[:, None] @ right.mT)
    assert result.shape == (3, *shape)
    inner = left.mT @ result @ right
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-3


def test_no_gradient_is_no_update() -> None:
    assert not orthogonalize(torch.zeros(2, 3, 4)).any()


def _quintic(x: float) -> float:
    """Apply the polynomial of the source five times to a single value."""
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


def test_two_updates_by_hand() -> None:
    """A row [3, 4]: its one singular value 5 is scaled to 1, so the update is [0.6, 0.8] times a number."""
    parameter = torch.nn.Parameter(torch.tensor([[10.0, 20.0]]))
    optimizer = Muon([parameter], lr=0.1, momentum=0.5, weight_decay=0.2)
    scale = 0.1 * 0.2 * 2**0.5 * _quintic(1.0)
    parameter.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    decayed = torch.tensor([[10.0, 20.0]]) * (1 - 0.1 * 0.2)
    first = decayed - scale * torch.tensor([[0.6, 0.8]])
    torch.testing.assert_close(parameter.data, first)
    # Momentum: 0.5·[1.5, 2] + 0.5·[0, 2] = [0.75, 2]; Nesterov: 0.5·[0, 2] + 0.5·[0.75, 2] = [0.375, 2].
    parameter.grad = torch.tensor([[0.0, 2.0]])
    optimizer.step()
    direction = torch.tensor([[0.375, 2.0]]) / (0.375**2 + 4) ** 0.5
    torch.testing.assert_close(parameter.data, first * 0.98 - scale * direction)


def test_the_update_has_the_size_of_adams() -> None:
    """RMS is 0.2 times the learning rate, whatever the shape (arXiv 2502.16982)."""
    for shape in ((32, 32), (16, 64), (64, 16)):
        parameter = torch.nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        Muon([parameter], lr=1.0).step()
        assert 0.13 < float(parameter.detach().square().mean().sqrt()) < 0.25


def test_parameters_of_one_shape_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(2)
    gradients = [torch.randn(4, 6, generator=generator) for _ in range(3)]
    alone = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(4, 6))
        parameter.grad = gradient.clone()
        Muon([parameter]).step()
        alone.append(parameter.data)
    together = [torch.nn.Parameter(torch.zeros(4, 6)) for _ in gradients]
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient.clone()
    untouched = torch.nn.Parameter(torch.ones(4, 6))
    Muon([*together, untouched]).step()
    for parameter, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(parameter.data, expected)
    assert torch.equal(untouched.data, torch.ones(4, 6))


def test_it_continues_from_its_state() -> None:
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(4, 6, generator=generator) for _ in range(4)]

    def run(parameter: torch.nn.Parameter, optimizer: Muon, chosen: list[torch.Tensor]) -> None:
        for gradient in chosen:
            parameter.grad = gradient.clone()
            optimizer.step()

    whole = torch.nn.Parameter(torch.zeros(4, 6))
    run(whole, Muon([whole]), gradients)
    half = torch.nn.Parameter(torch.zeros(4, 6))
    first = Muon([half])
    run(half, first, gradients[:2])
    second = Muon([half], lr=9.0)
    second.load_state_dict(first.state_dict())
    run(half, second, gradients[2:])
    assert torch.equal(half, whole)


def test_vectors_and_closures_are_refused() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="closures"):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))]).step(lambda: 0.0)
