"""Weights rounded one after the other, each making up for the rounding errors of those before it.

A layer's output error is E[|(w - w') x|^2] = e H e^T, with e = w - w' and H = E[x x^T], the second moments of what an output
channel multiplies (K x K). With H = R^T R, R upper triangular, that is the sum over i of (sum over j >= i of R_ij e_j)^2. So
taken from the last to the first, weight i is best rounded from w_i + (sum over j > i of R_ij e_j) / R_ii.

That is GPTQ (Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate post-training quantization for generative pre-trained
transformers", 2022, section 3; after "Optimal brain compression", 2022), in the form of Babai's nearest plane ("On Lovasz'
lattice reduction and the nearest lattice point problem", 1986): the same codes, without an inverse. Inputs with the largest
moments go first, while all others can still make up for them.

With fewer samples than weights H has directions that no sample tells about, and codes follow what is accident. So a part of
the samples is held back and chooses, for each output channel, how far to trust the others (the damping), or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAMPINGS = (0.01, 0.1, 1.0)  # of the mean of the diagonal: what few samples can't tell must not decide
BLOCK = 64  # columns whose errors are carried over at once: one product of matrices instead of many of vectors


@dataclass(frozen=True, slots=True)
class Limited:
    """Columns whose codes add up in one narrow accumulator. ``group``: int [K], which one each belongs to; positive codes of a
    group add up to at most ``high``, negative ones to at least ``low``."""

    group: np.ndarray
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Grid:
    """What codes stand for: scale * (code - zero_point), both float64 [G, O, K]; codes lie in [low, high] and within ``limits``."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int
    limits: tuple[Limited, ...] = ()


def rounded(values: np.ndarray, gram: np.ndarray, held: np.ndarray, nearest: np.ndarray, grid: Grid) -> np.ndarray:
    """Float64 [G, O, K] whole codes: of each output channel those with the least error on ``held``, which are those of one of
    the ``DAMPINGS``, or ``nearest`` where none is better.

    ``values``: float64 [G, O, K], G groups of O output channels with K weights each; ``gram``, ``held``: float64 [G, K, K],
    symmetric, positive semidefinite, of samples that decide codes and of others that judge them; ``nearest``: codes to start
    from, within all limits. Columns that are always 0 keep their nearest code.
    """
    order = np.argsort(np.einsum("gkk->gk", gram), axis=-1, kind="stable")
    rows, columns = order[:, :, None], order[:, None, :]
    moved = np.take_along_axis(np.take_along_axis(gram, rows, 1), columns, 2)
    spread = [np.broadcast_to(a, values.shape) for a in (values, grid.scale, grid.zero_point)]
    exact, scale, zero_point = (np.take_along_axis(a, columns, 2) for a in spread)
    best, least = nearest, output_error(values, nearest, held, grid)
    for damping in DAMPINGS:
        found = _from_last(exact, _factor(moved, damping), scale, zero_point, grid, order)
        codes = np.empty_like(found)
        np.put_along_axis(codes, np.broadcast_to(columns, codes.shape), found, 2)
        error = output_error(values, codes, held, grid)
        best = np.where((error < least)[..., None], codes, best)
        least = np.minimum(error, least)
    return best


def output_error(values: np.ndarray, codes: np.ndarray, gram: np.ndarray, grid: Grid) -> np.ndarray:
    """Float64 [G, O]: the mean squared error of each output channel, e H e^T."""
    error = values - (codes - grid.zero_point) * grid.scale
    return ((error @ gram) * error).sum(-1)


def _factor(gram: np.ndarray, damping: float) -> np.ndarray:
    """R with R^T R = the damped moments, float64 [G, K, K]."""
    mean = np.einsum("gkk->gk", gram).mean(-1)
    added = np.where(mean > 0, damping * mean, 1.0)
    return np.linalg.cholesky(gram + added[:, None, None] * np.eye(gram.shape[-1])).transpose(0, 2, 1)


def _from_last(
    values: np.ndarray, factor: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, grid: Grid, order: np.ndarray
) -> np.ndarray:
    groups, channels, length = values.shape
    error, codes = np.zeros_like(values), np.zeros_like(values)
    each = np.arange(groups)
    sums = [np.zeros((2, groups, channels, int(one.group.max(initial=0)) + 1)) for one in grid.limits]
    for end in range(length, 0, -BLOCK):
        start = max(0, end - BLOCK)
        carried = error[:, :, end:] @ factor[:, start:end, end:].transpose(0, 2, 1)
        for i in range(end - 1, start - 1, -1):
            near = (error[:, :, i + 1 : end] @ factor[:, i, i + 1 : end, None])[..., 0]
            target = values[:, :, i] + (carried[:, :, i - start] + near) / factor[:, i, i, None]
            code = np.clip(np.rint(target / scale[:, :, i]) + zero_point[:, :, i], grid.low, grid.high)
            for one, (negative, positive) in zip(grid.limits, sums, strict=True):
                group = one.group[order[:, i]]
                code = np.clip(code, one.low - negative[each, :, group], one.high - positive[each, :, group])
            for one, (negative, positive) in zip(grid.limits, sums, strict=True):
                group = one.group[order[:, i]]
                negative[each, :, group] += np.minimum(code, 0)
                positive[each, :, group] += np.maximum(code, 0)
            codes[:, :, i] = code
            error[:, :, i] = values[:, :, i] - (code - zero_point[:, :, i]) * scale[:, :, i]
    return codes
