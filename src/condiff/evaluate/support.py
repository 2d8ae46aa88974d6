"""How far samples are from the data: off the data's subspace, and from the nearest rows."""

from __future__ import annotations

from torch import Tensor

from condiff.evaluate.neighbours import nearest, radii


def off_support(x: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Return the distance of each row from the plane mean + span(basis).

    |(I - B B^T)(x - mean)|

    Args:
        x: Rows (N, *S).
        mean: A point of the plane (*S).
        basis: Orthonormal columns (D, K).

    Returns: Distances (N,), float64.

    Source: Yuan et al. 2023 (reward-directed conditional diffusion), "off-support deviation".
    """
    centred = (x - mean.to(x)).flatten(1).double()
    plane = basis.to(centred)
    distance: Tensor = (centred - (centred @ plane) @ plane.T).norm(dim=1)
    return distance


def nn_ratio(samples: Tensor, reference: Tensor) -> Tensor:
    """Return how far each sample is from its nearest reference row, in units of what is usual between those.

    |x - nearest(x)| / median over reference rows of the distance to their nearest other; about 1 for new rows of the
    same law, 0 for copies, large far away.

    Args:
        samples: Rows (N, *S).
        reference: Rows (M, *S), M >= 2.

    Returns: Ratios (N,), float64.
    """
    rows = reference.flatten(1)
    ratio: Tensor = nearest(samples.flatten(1), rows)[0][:, 0] / radii(rows, 1).median()
    return ratio
