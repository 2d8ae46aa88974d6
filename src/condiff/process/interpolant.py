"""The two-sided process x_t = alpha(t) * data + beta(t) * source + gamma(t) * noise: bridges between two data sets.

Source: Albergo, Boffi and Vanden-Eijnden 2023 (stochastic interpolants), with time reversed: their x_1 is our data,
their x_0 our source, their velocity minus ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Moments, Row
from condiff.core.process import Draw, NoiseLaw, Target
from condiff.core.rng import Rng
from condiff.core.shapes import Scalar, host, instant, known, mix
from condiff.process.bridge import Bridge, Merged, Mirror, Still
from condiff.process.gaussian import Gaussian
from condiff.process.noise import Normal
from condiff.process.target import Data, Drift, Noise, Score, Velocity


@final
@dataclass(frozen=True)
class Interpolant:
    """x_t = alpha * data + beta * source + gamma * noise, three hidden variables.

    Two fields are made of them: the drift alpha' data + beta' source, and the velocity drift + gamma' noise. The score
    is -noise / gamma. Estimates (`infer`) hold means of all five, as far as the network's heads determine them.

    Args:
        bridge: The coefficients.
        source: Where the source comes from: the name of a condition that holds it (paired data), a law to draw it from
            (`Normal()`), or None if whoever draws and starts passes it.
        encode: Brings the condition's value to the process's space, as the codec does with data; None if it is there.
        margin: Estimates at times nearer than this to an end are those at this distance: gamma' and noise / gamma are
            infinite or 0 / 0 at the ends themselves. In (0, 1/2).
        bound: The source that `given` found.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, definition 2.1; data-dependent sources as in Albergo et al. 2024.
    The margin is ours; the authors' code starts and stops at 1e-4.
    """

    bridge: Bridge
    source: str | NoiseLaw | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    margin: float = 1e-3
    bound: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.margin < 0.5:
            raise ValueError(f"Interpolant needs a margin in (0, 1/2), got {self.margin}")

    @property
    def noise(self) -> NoiseLaw:
        """Law of the latent noise: standard normal."""
        return Normal()

    @property
    def schedule(self) -> Merged:
        """Data against everything else, (alpha, sqrt(beta^2 + gamma^2)): what time laws and grids are written in."""
        return Merged(self.bridge)

    def given(self, cond: Condition | None) -> Self:
        """Bind the source that a condition holds; itself if the source comes from elsewhere.

        Raises:
            ValueError: If the source is a condition, and some rows lack it.
        """
        if not isinstance(self.source, str):
            return self
        if cond is None or self.source not in cond.values or not bool(cond.present[self.source].all()):
            raise ValueError(
                f"this bridge starts from the condition {self.source!r}, and some rows lack it; give one to every row, "
                f"as in --cond {self.source}=FILE"
            )
        value = cond.values[self.source]
        return replace(self, bound=value if self.encode is None else self.encode(value))

    def merge(self) -> Gaussian:
        """Return the one-sided process of equal law when the source is standard normal and independent of the data.

        Raises:
            TypeError: If the source is anything else.
        """
        if not isinstance(self.source, Normal):
            raise TypeError(f"only a bridge from Normal() merges into a Gaussian process, this one has {self.source!r}")
        return Gaussian(self.schedule)

    def coefficients(self, t: Tensor) -> Row:
        """Return the state's row {"data", "source", "noise"} at t."""
        alpha, beta, gamma = _at(self.bridge, t)
        return {"data": alpha, "source": beta, "noise": gamma}

    def rates(self, t: Tensor) -> Row:
        """Return the velocity's row: a part of every estimate itself, for gamma' is infinite at both ends."""
        return {"velocity": 1.0}

    def row(self, target: Target, t: Tensor) -> Row:
        """Return a target's row at t, in the parts of a draw or an estimate.

        Raises:
            TypeError: For a target that a bridge does not have (V, EDM), or Score without latent noise.
        """
        match target:
            case Velocity():
                return {"velocity": 1.0}
            case Drift():
                return {"drift": 1.0}
            case Noise():
                return {"noise": 1.0}
            case Data():
                return {"data": 1.0}
            case Score():
                return {"noise": -1.0 / self.level(t)}
        raise TypeError(f"a bridge has no {target}; use Velocity, Drift, Noise, Score or Data")

    def level(self, t: Tensor) -> Scalar:
        """Return gamma at t, no nearer to an end than the margin: the score is -noise / level.

        Raises:
            TypeError: If there is no latent noise, hence no score.
        """
        if isinstance(self.bridge.gamma, Still):
            raise TypeError("a bridge without latent noise has no score; give it one such as Straight(Brownian())")
        return _one(self.bridge.gamma, self.inner(t))

    def inner(self, t: Tensor) -> Tensor:
        """Return t moved off the ends by the margin."""
        value = host(t)
        if value is None:
            return t.to(torch.float64).clamp(self.margin, 1.0 - self.margin)
        return instant(min(max(value, self.margin), 1.0 - self.margin), t.device)

    def draw(self, data: Tensor, t: Tensor, *, rng: Rng, **known: Tensor) -> Draw:
        """Mix data with its source and fresh noise.

        Args:
            data: Data end, shape (B, *S).
            t: Times in [0, 1], any prefix shape of data.
            rng: Source of the latent noise, and of the source itself if it has a law.
            **known: "source" (B, *S), required unless bound or drawn from a law, and optionally "noise".

        Raises:
            TypeError: If the source is missing or another latent is given.
            ValueError: If the source has another shape than the data.
        """
        if known.keys() - {"source", "noise"}:
            raise TypeError(f"Interpolant has latents data, source and noise; got {sorted(known)}")
        if isinstance(self.bridge, Mirror):
            source = data
        else:
            source = self._source(data.shape, rng, known.get("source")).to(data)
        noise = known["noise"] if "noise" in known else self.noise.draw(data.shape, rng).to(data)
        row = self.coefficients(t)
        x = mix(1.0, mix(row["data"], data, row["source"], source), row["noise"], noise)
        return Draw(x, t, Fields(self, x, t, {"data": data, "source": source, "noise": noise}))

    @property
    def end(self) -> str:
        """Name of the latent that the state at t = 1 is."""
        return "source"

    def draw_end(self, shape: Sequence[int], *, rng: Rng) -> Tensor:
        """Return the bound source, or draw it from its law; errors as for `start`."""
        return self._source(shape, rng, None)

    def start(self, shape: Sequence[int], *, rng: Rng, source: Tensor | None = None) -> Tensor:
        """Return the source, the state at t = 1.

        Raises:
            TypeError: If there is no source.
            ValueError: If its shape is not `shape`.
        """
        return self._source(shape, rng, source)

    def infer(
        self, x: Tensor, t: Tensor, told: Mapping[str, Tensor], aux: Mapping[str, Tensor] | None = None
    ) -> Moments:
        """Read every mean that is determined off the state x (B, *S) at t and the means `told`, each (B, *S)."""
        return Moments(Fields(self, x, t, told), aux or {})

    def reverse(self, x: Tensor, t: Tensor, s: Tensor, est: Moments, *, eta: float, rng: Rng) -> Tensor:
        """Sample the state at s: x_s = alpha * data + beta * source + gamma * (sqrt(1 - tau) noise + sqrt(tau) fresh).

        tau = eta^2 * (1 - (beta_s gamma_t / (beta_t gamma_s))^2); eta = 1 is the posterior of a Brownian bridge when
        gamma is one.

        Raises:
            ValueError: If eta is not in [0, 1], or eta > 0 with s > t.

        Source: the DDIM jump with three latents; Liu et al. 2023 (I2SB), eq. 11, for eta = 1.
        """
        end = self.coefficients(s)
        if eta == 0.0:
            return est.combine(_nonzero(end))
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        if not torch.compiler.is_compiling() and _any(known(s) > known(t)):
            raise ValueError("a stochastic step needs s <= t; use eta = 0 to run time upwards")
        start = self.coefficients(t)
        numbers = [
            torch.as_tensor(row[name], dtype=torch.float64) for row in (start, end) for name in ("source", "noise")
        ]
        beta_t, gamma_t, beta_s, gamma_s = numbers
        carried = beta_s * gamma_t / (beta_t * gamma_s).clamp_min(1e-30)
        tau = eta**2 * (1.0 - carried * carried).clamp(0.0, 1.0)
        mean = est.combine(_nonzero({**end, "noise": end["noise"] * torch.sqrt(1.0 - tau)}))
        return mix(1.0, mean, end["noise"] * torch.sqrt(tau), rng.normal(x.shape).to(x))

    def settle(self, x: Tensor, t: Tensor, s: Tensor, est: Moments) -> Tensor:
        """Return x + (s - t) velocity, the probability flow's step: every estimate of a bridge has a velocity."""
        return est.add_to(1.0, x, {"velocity": known(s) - known(t)})

    def velocity(self, x: Tensor, t: Tensor, est: Moments) -> Tensor:
        """Return dx/dt, shape (B, *S)."""
        return est.parts["velocity"]

    def finish(self, x: Tensor, denoise: Callable[[Tensor, Tensor], Moments]) -> Tensor:
        """Return x: the clock reaches the data exactly."""
        return x

    def _source(self, shape: Sequence[int], rng: Rng, passed: Tensor | None) -> Tensor:
        source = self.bound if passed is None else passed
        if source is None and self.source is not None and not isinstance(self.source, str):
            return self.source.draw(shape, rng)
        if source is None:
            raise TypeError("Interpolant starts from a source: pass source=(B, *S), or name the condition that has it")
        if tuple(source.shape) != tuple(shape):
            raise ValueError(f"source has shape {tuple(source.shape)}, expected {tuple(shape)}")
        return source


NAMES = ("data", "source", "noise", "drift", "velocity")


@final
class Fields(Mapping[str, Tensor]):
    """Hidden variables of a bridge's state and the fields made of them, each computed when asked for.

    x = alpha data + beta source + gamma noise, drift = alpha' data + beta' source, velocity = drift + gamma' noise.
    With K - 1 of them told, the others follow; without latent noise K is 2, else 3.

    Args:
        process: The interpolant.
        x: State, shape (B, *S).
        t: Its time.
        told: Values by name, each (B, *S): those behind a draw, or the posterior means that a network estimates.
    """

    def __init__(self, process: Interpolant, x: Tensor, t: Tensor, told: Mapping[str, Tensor]) -> None:
        unknown = sorted(told.keys() - set(NAMES))
        if unknown:
            raise ValueError(f"a bridge has no {unknown[0]!r}; there are {', '.join(NAMES)}")
        self._process, self._x, self._t = process, x, t
        self._made: dict[str, Tensor] = dict(told)
        self._still = isinstance(process.bridge.gamma, Still)
        self._ends = told.keys() & {"data", "source"}
        quiet = self._still or "noise" in told or len(self._ends) == 2
        rest = bool(self._ends or told.keys() & {"drift", "velocity"}) or isinstance(process.bridge, Mirror)
        found = set(NAMES) - ({"noise"} if self._still else set()) if quiet and rest else set()
        self._names = tuple(name for name in NAMES if name in found or name in told)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            if name not in self._names:
                raise KeyError(f"{', '.join(self._made)} do not determine the {name} of this bridge; add a head for it")
            self._made[name] = getattr(self, f"_{name}")()
        return self._made[name]

    def _noise(self) -> Tensor:
        alpha, beta, gamma = _at(self._process.bridge, self._t)
        inverse = _inverse(gamma)
        without = mix(inverse, self._x, -inverse * alpha, self["data"])
        return mix(1.0, without, -inverse * beta, self["source"])

    def _velocity(self) -> Tensor:
        return self["drift"] if self._still else mix(1.0, self["drift"], self._pull(), self["noise"])

    def _drift(self) -> Tensor:
        d_alpha, d_beta = _at(self._process.bridge.rates, self._t)
        if isinstance(self._process.bridge, Mirror):
            return torch.zeros_like(self._x)
        if self._ends:
            return mix(d_alpha, self["data"], d_beta, self["source"])
        told = self._made["velocity"]
        return told if self._still else mix(1.0, told, -self._pull(), self["noise"])

    def _data(self) -> Tensor:
        alpha, beta, _ = _at(self._process.bridge, self._t)
        if self._ends:
            inverse = _inverse(alpha)
            return mix(inverse, self._rest(), -inverse * beta, self["source"])
        d_alpha, d_beta = _at(self._process.bridge.rates, self._t)
        det = alpha * d_beta - beta * d_alpha
        inverse = _inverse(det)
        return mix(_either(det, d_beta * inverse, _inverse(alpha)), self._rest(), -beta * inverse, self["drift"])

    def _source(self) -> Tensor:
        alpha, beta, _ = _at(self._process.bridge, self._t)
        if self._ends:
            inverse = _inverse(beta)
            return mix(inverse, self._rest(), -inverse * alpha, self["data"])
        d_alpha, d_beta = _at(self._process.bridge.rates, self._t)
        det = alpha * d_beta - beta * d_alpha
        inverse = _inverse(det)
        return mix(_either(det, -d_alpha * inverse, _inverse(beta)), self._rest(), alpha * inverse, self["drift"])

    def _rest(self) -> Tensor:
        if self._still:
            return self._x
        return mix(1.0, self._x, -_one(self._process.bridge.gamma, self._t), self["noise"])

    def _pull(self) -> Scalar:
        gamma = self._process.bridge.gamma
        return _one(gamma.product, self._t) * _inverse(_one(gamma, self._t))


@final
class Heads(nn.Module):
    """A network with one head a target, read as a bridge denoiser: its output is the heads stacked on axis 1.

    Args:
        net: Module called as net(x, t, cond); returns (B, K C, *grid) for x (B, C, *grid) and K targets.
        process: The interpolant that made x.
        targets: What the heads regress, K - 1 of them for K hidden variables: (Velocity(), Noise()) or (Drift(),
            Noise()) in general, (Velocity(),) without latent noise or for the ODE alone, (Noise(),) for a mirror.
        unseen: Conditions that are kept from the network: the source itself, if it is to know the state only.

    Raises:
        TypeError: For a target that is not a plain part of an estimate.
    """

    def __init__(
        self, net: nn.Module, process: Interpolant, targets: Sequence[Target], unseen: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.net, self.process, self.targets, self.unseen = net, process, tuple(targets), tuple(unseen)
        middle = instant(0.5)
        rows = [process.row(target, middle) for target in self.targets]
        self._names = [name for row in rows for name, weight in row.items() if weight == 1.0]
        if len(self._names) != len(self.targets) or len(set(self._names)) != len(self._names):
            raise TypeError(f"heads are one each of Velocity, Drift, Noise and Data, got {self.targets}")

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate what made x (B, C, *grid) at time t."""
        t = self.process.inner(t)
        seen = cond if cond is None or not self.unseen else cond.without(*self.unseen)
        values = self.net(x, t, seen).to(x.dtype).chunk(len(self.targets), dim=1)
        return self.process.infer(x, t, dict(zip(self._names, values, strict=True)))


@final
class OneSided(nn.Module):
    """The denoiser of a bridge from normal noise, read as one of the Gaussian process that the bridge merges into.

    Every solver and guidance of Gaussian processes then applies, and the score follows from the velocity alone.

    Args:
        denoiser: Estimates of the bridge with a velocity among their parts.
        process: The bridge, from `Normal()`.

    Raises:
        TypeError: If the bridge does not merge.
    """

    def __init__(self, denoiser: nn.Module, process: Interpolant) -> None:
        super().__init__()
        self.denoiser, self.process, self.merged = denoiser, process, process.merge()

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Moments:
        """Estimate data and noise behind x (B, *S) at time t."""
        t = self.process.inner(t)
        return self.merged.infer(x, t, self.denoiser(x, t, cond).parts["velocity"], Velocity())


def _at(function: Callable[..., tuple[Scalar, ...]], t: Tensor) -> tuple[Scalar, ...]:
    return function(known(t))


def _one(function: Callable[..., Scalar], t: Tensor) -> Scalar:
    return function(known(t))


def _inverse(value: Scalar) -> Scalar:
    # 0 where the value is 0: what is divided by it there is not determined, or not used.
    if isinstance(value, Tensor):
        return torch.where(value != 0.0, 1.0 / torch.where(value != 0.0, value, 1.0), 0.0)
    return 1.0 / value if value != 0.0 else 0.0


def _either(det: Scalar, a: Scalar, b: Scalar) -> Scalar:
    if isinstance(det, Tensor):
        return torch.where(det != 0.0, torch.as_tensor(a), torch.as_tensor(b))
    return a if det != 0.0 else b


def _nonzero(row: Row) -> Row:
    # A variable with weight 0 need not be determined.
    return {name: weight for name, weight in row.items() if isinstance(weight, Tensor) or weight != 0.0}


def _any(flag: Tensor | bool) -> bool:
    return bool(flag.any()) if isinstance(flag, Tensor) else flag
