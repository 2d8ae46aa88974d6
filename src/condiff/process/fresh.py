"""How much fresh noise a stochastic step adds: the two fixed choices of DDPM, for any schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

from condiff.core.shapes import Scalar
from condiff.process.scalar import choose


class Fresh(Protocol):
    """The fresh noise of a step from t to s, as a level that is multiplied by the root of the share redrawn."""

    def level(self, sigma_t: Scalar, sigma_s: Scalar) -> Scalar:
        """Return the level, shaped like the noise levels of both ends."""
        ...


@final
@dataclass(frozen=True)
class FixedSmall:
    """sigma_s: the variance of x_s given x_t and the data, which is right where the estimate is sure.

    beta sigma_s^2 / sigma_t^2 at eta = 1, with beta = sigma_t^2 - (alpha_t sigma_s / alpha_s)^2

    Source: Ho et al. 2020 (DDPM), section 3.2.
    """

    def level(self, sigma_t: Scalar, sigma_s: Scalar) -> Scalar:
        """Return sigma_s."""
        return sigma_s


@final
@dataclass(frozen=True)
class FixedLarge:
    """sigma_t, and none where sigma_s = 0: right where data are nothing but unit noise, and too much elsewhere.

    beta at eta = 1, for the mean of the small variance. Text is usually sampled so.

    Source: Ho et al. 2020 (DDPM), section 3.2; Li et al. 2022 (Diffusion-LM) for text. Their cut of the noise at a
        largest size is left out.
    """

    def level(self, sigma_t: Scalar, sigma_s: Scalar) -> Scalar:
        """Return sigma_t, or 0 at the end."""
        return choose(sigma_s == 0.0, 0.0, sigma_t)
