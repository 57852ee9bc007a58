"""Muon's steps are orthogonal for filters and Adam's for the rest."""

from __future__ import annotations

import torch

from training.muon import Muon, orthogonal


def test_orthogonal_keeps_directions_and_evens_out_sizes():
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(40, 64), full_matrices=False)
    made = orthogonal(left @ torch.diag(torch.logspace(0, -1.5, 40)) @ right)
    sizes = torch.linalg.svdvals(made)
    assert sizes.min() > 0.4 and sizes.max() < 1.4
    assert (left.T @ made @ right.T).diagonal().min() > 0.4


def test_a_tall_matrix_moves_like_its_transpose():
    matrix = torch.randn(64, 33)
    assert torch.allclose(orthogonal(matrix), orthogonal(matrix.T).T, atol=1e-6)


def test_all_directions_are_learned_at_the_same_pace():
    target = torch.diag(torch.logspace(0, -0.8, 32))
    errors = []
    for make in (lambda one: Muon([{"params": [one]}], 0.003), lambda one: torch.optim.SGD([one], 0.03)):
        weight = torch.nn.Parameter(torch.zeros(32, 32))
        optimizer = make(weight)
        for _ in range(60):
            optimizer.zero_grad()
            (target @ (weight - torch.eye(32))).square().sum().backward()
            optimizer.step()
        errors.append((weight - torch.eye(32)).diagonal()[-1].abs().item())
    assert errors[0] < 0.9 < errors[1]  # the worst direction is worth 1/40 of the best


def test_vectors_move_as_adam_moves_them():
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    first = Muon([{"params": [ours]}], 0.01, weight_decay=0)
    second = torch.optim.Adam([theirs], 0.01, betas=(0.9, 0.99))
    for step in range(5):
        gradient = torch.arange(5) - 2.0 + step
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
