"""State-space layers for sequences: the exact linear recurrences of S4 and S4D, run as one convolution."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn


def legs(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the HiPPO-LegS state matrix with its input and its low-rank part, float64.

    A = -[n > k] sqrt((2n+1)(2k+1)) - [n = k] (n+1), B_n = sqrt(2n+1), P_n = sqrt(n + 1/2); A + P P^T = skew - I / 2

    Args:
        size: N, states.

    Returns: A (N, N), B (N,), P (N,).

    Source: Gu et al. 2022 (S4).
    """
    n = torch.arange(size, dtype=torch.float64)
    b = torch.sqrt(2.0 * n + 1.0)
    return -torch.tril(torch.outer(b, b), -1) - torch.diag(n + 1.0), b, torch.sqrt(n + 0.5)


def diagonalised(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return LegS in the basis of its normal part, one of each conjugate pair: A = diag(w) - P P^*.

    Args:
        size: N, states; even.

    Returns: w, B and P, complex128 (N / 2,), Re w = -1/2 and Im w > 0.

    Raises:
        ValueError: If the number of states is odd.

    Source: Gu et al. 2022 (S4).
    """
    if size < 2 or size % 2:
        raise ValueError(f"states come in conjugate pairs: need an even number of at least 2, got {size}")
    a, b, p = legs(size)
    skew = a + torch.outer(p, p) + 0.5 * torch.eye(size, dtype=torch.float64)
    # i * skew is Hermitian: its eigenvalues are those of skew times i, exactly real.
    values, basis = torch.linalg.eigh(1j * skew)
    half = values < 0
    to = basis[:, half].mH
    return -0.5 - 1j * values[half], to @ b.to(to.dtype), to @ p.to(to.dtype)


def dplr_kernel(w: Tensor, p: Tensor, b: Tensor, c: Tensor, dt: Tensor, length: int) -> Tensor:
    """Return the convolution kernel of a bilinear diagonal-plus-low-rank system whose output is already truncated.

    K_k = 2 Re C Abar^k Bbar for k < L, with A = diag(w) - P P^*, Abar = (I - dt A / 2)^-1 (I + dt A / 2),
    Bbar = (I - dt A / 2)^-1 dt B; the argument is C~ = C (I - Abar^L), which makes the sum over k < L a closed form at
    the L-th roots of unity.

    Args:
        w, p, b: One of each conjugate pair, complex (N / 2,).
        c: C~ for this length, complex (H, N / 2).
        dt: Steps (H,), > 0.
        length: L >= 1.

    Returns: Real (H, L).

    Source: Gu et al. 2022 (S4), Cauchy kernel and Woodbury identity; written without the division by 1 + z, which is
        0 at z = -1.
    """
    z = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1, device=w.device, dtype=dt.dtype) / length).to(w.dtype)
    whole = torch.cat([w, w.conj()])
    inputs = torch.stack([torch.cat([b, b.conj()]), torch.cat([p, p.conj()])])
    # With c as row vectors: the rank-one part reads P^*, the output reads C.
    cs = torch.cat([c, c.conj()], -1)
    ps = torch.cat([p.conj(), p]).expand_as(cs)
    outputs = torch.stack([cs, ps], 1)
    resolvent = 1.0 / ((2.0 * (1.0 - z) / dt[:, None])[:, None] - whole[:, None] * (1.0 + z))
    r = torch.einsum("hin,jn,hnf->ijhf", outputs, inputs, resolvent)
    spectrum = 2.0 * (r[0, 0] - (1.0 + z) * r[0, 1] * r[1, 0] / (1.0 + (1.0 + z) * r[1, 1]))
    kernel: Tensor = torch.fft.irfft(spectrum, n=length)
    return kernel


def truncated(w: Tensor, p: Tensor, c: Tensor, dt: Tensor, length: int) -> Tensor:
    """Return C~ = C (I - Abar^L), what `dplr_kernel` takes, (H, N / 2); arguments as there."""
    whole, low = torch.cat([w, w.conj()]), torch.cat([p, p.conj()])
    a = torch.diag(whole) - torch.outer(low, low.conj())
    eye = torch.eye(len(whole), dtype=a.dtype, device=a.device)
    half = dt[:, None, None].to(a.dtype) * a / 2.0
    power = torch.linalg.matrix_power(torch.linalg.solve(eye - half, eye + half), length)
    out = torch.cat([c, c.conj()], -1)
    return (out - torch.einsum("hn,hnm->hm", out, power))[:, : len(w)]


def diagonal_kernel(w: Tensor, c: Tensor, dt: Tensor, length: int) -> Tensor:
    """Return the convolution kernel of a diagonal system under zero-order hold, input weights 1.

    K_k = 2 Re sum_n C_n (e^{dt w_n} - 1) / w_n e^{k dt w_n}

    Args:
        w: One of each conjugate pair, complex (N / 2,) or (H, N / 2).
        c: Complex (..., H, N / 2).
        dt: Steps (H,), > 0.
        length: L >= 1.

    Returns: Real (..., H, L).

    Source: Gu et al. 2022 (S4D).
    """
    rate = dt[:, None] * w
    steps = torch.arange(length, device=w.device, dtype=dt.dtype)
    size, angle = torch.exp(rate.real[..., None] * steps), rate.imag[..., None] * steps
    out = c * torch.expm1(rate) / w
    # Re(out e^{i angle}) in real numbers: their exponentials and products are vectorised, complex ones are not.
    # Halves of complex numbers lie apart, which batched products take one by one; laid together they are taken at once.
    real, imag = out.real.contiguous(), out.imag.contiguous()
    even = torch.einsum("...hn,hnl->...hl", real, size * torch.cos(angle))
    return 2.0 * (even - torch.einsum("...hn,hnl->...hl", imag, size * torch.sin(angle)))


def two_sided(u: Tensor, ahead: Tensor, back: Tensor) -> Tensor:
    """Convolve in both directions: y_i = sum_{j <= i} ahead[i - j] u_j + sum_{j > i} back[j - i - 1] u_j.

    Args:
        u: Sequences (B, H, L).
        ahead, back: Kernels (H, L).

    Returns: (B, H, L), by Fourier transforms of length 2 L.
    """
    out: Tensor = _Circular.apply(u, torch.cat([ahead, back.flip(-1)], -1))  # type: ignore[no-untyped-call]
    return out


class _Circular(torch.autograd.Function):
    """Convolve sequences (B, H, L) with kernels (H, 2 L) that go round, and keep the first L steps.

    Its gradients are correlations, which are transforms of real numbers too. Left to itself the gradient of `rfft` is
    a complex transform of the whole length, which takes twice as long as everything else here.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, kernel: Tensor) -> Tensor:
        """Return (B, H, L)."""
        return _through(u, kernel.shape[-1], torch.fft.rfft(kernel))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401 - torch's own
        """Keep the inputs: what is made of them can be differentiated again."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401 - torch's own
        """Return the gradients of those inputs that need one."""
        u, kernel = ctx.saved_tensors
        n = kernel.shape[-1]
        down = up = None
        change = torch.fft.rfft(grad, n=n)
        if ctx.needs_input_grad[1]:
            up = torch.fft.irfft(torch.linalg.vecdot(torch.fft.rfft(u, n=n), change, dim=0), n=n)
        if ctx.needs_input_grad[0]:
            down = torch.fft.irfft(change * torch.fft.rfft(kernel).conj(), n=n)[..., : u.shape[-1]]
        return down, up

    @staticmethod
    def jvp(ctx: Any, du: Tensor | None, dkernel: Tensor | None) -> Tensor:  # noqa: ANN401 - torch's own
        """Return the change of the output: it is linear in both."""
        u, kernel = ctx.saved_tensors
        n = kernel.shape[-1]
        parts = []
        if du is not None:
            parts.append(_through(du, n, torch.fft.rfft(kernel)))
        if dkernel is not None:
            parts.append(_through(u, n, torch.fft.rfft(dkernel)))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _through(u: Tensor, n: int, spectrum: Tensor) -> Tensor:
    """Return the first L steps of sequences (B, H, L), filled up to n by zeros, times a spectrum."""
    out: Tensor = torch.fft.irfft(torch.fft.rfft(u, n=n) * spectrum, n=n)[..., : u.shape[-1]]
    return out


def _wide(value: Tensor) -> Tensor:
    """Return half-precision numbers in float32: they have no complex type, and no Fourier transform on a CPU."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _complex(pairs: Tensor) -> Tensor:
    """Read pairs of numbers (..., 2) as complex ones, whatever layout `prepare` gave them."""
    return torch.view_as_complex(_wide(pairs).contiguous())


def _steps(width: int) -> nn.Parameter:
    """Draw log dt, log-uniform in [1e-3, 0.1], one a channel."""
    return nn.Parameter(torch.empty(width).uniform_(math.log(1e-3), math.log(0.1)))


def _weights(width: int, size: int) -> nn.Parameter:
    """Draw output weights of both directions, complex normal as pairs of numbers, (2, H, N / 2, 2)."""
    return nn.Parameter(torch.randn(2, width, size // 2, 2) * 0.5**0.5)


@final
class S4(nn.Module):
    """A two-sided state-space layer with the diagonal-plus-low-rank LegS matrix: y = K * u + D u.

    Args:
        width: H, channels; each has its own step and outputs.
        length: Longest sequence it takes; the outputs are stored as C~ of this length.
        size: N, states of each channel and direction; even.

    Raises:
        ValueError: If a number is not positive, or the states are odd.

    Source: Gu et al. 2022 (S4). The official layer grows its stored length as longer sequences come; here it is fixed,
        and a kernel of any shorter length is a prefix of the stored one.
    """

    def __init__(self, width: int, length: int, size: int = 64) -> None:
        super().__init__()
        if width < 1 or length < 1:
            raise ValueError(f"S4 needs positive numbers, got {width=}, {length=}")
        self.length = length
        w, b, p = (torch.view_as_real(part).float() for part in diagonalised(size))
        self.log_decay = nn.Parameter(torch.log(-w[:, 0]))
        self.frequency, self.b, self.p = nn.Parameter(w[:, 1].contiguous()), nn.Parameter(b), nn.Parameter(p)
        self.log_dt, self.skip = _steps(width), nn.Parameter(torch.randn(width))
        with torch.no_grad():
            drawn = torch.view_as_complex(_weights(width, size).double()).flatten(0, 1)
            steps = self.log_dt.double().exp().repeat(2)
            decay, low = (torch.view_as_complex(part.double()) for part in (w, p))
            short = truncated(decay, low, drawn, steps, length)
        self.c = nn.Parameter(torch.view_as_real(short).float().unflatten(0, (2, width)).contiguous())

    def kernels(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the kernels of both directions, (H, L) each.

        Raises:
            ValueError: If the length is beyond the stored one.
        """
        if length > self.length:
            raise ValueError(f"this layer was made for sequences of at most {self.length} steps, got {length}")
        w = torch.complex(-_wide(self.log_decay).exp(), _wide(self.frequency))
        p, b, c = (_complex(part) for part in (self.p, self.b, self.c))
        both = dplr_kernel(w, p, b, c.flatten(0, 1), _wide(self.log_dt).exp().repeat(2), self.length)
        ahead, back = both[:, :length].chunk(2)
        return ahead, back

    def forward(self, u: Tensor) -> Tensor:
        """Apply the layer to (B, H, L)."""
        return two_sided(_wide(u), *self.kernels(u.shape[-1])).to(u.dtype) + self.skip[:, None] * u


@final
class S4D(nn.Module):
    """A two-sided state-space layer with a diagonal matrix, w_n = -1/2 + i pi n at the start: y = K * u + D u.

    Args:
        width: H, channels; each has its own step and outputs.
        size: N, states of each channel and direction; even.

    Raises:
        ValueError: If a number is not positive, or the states are odd.

    Source: Gu et al. 2022 (S4D), the "Lin" initialisation.
    """

    def __init__(self, width: int, size: int = 64) -> None:
        super().__init__()
        if width < 1 or size < 2 or size % 2:
            raise ValueError(f"S4D needs positive numbers and an even size, got {width=}, {size=}")
        self.log_decay = nn.Parameter(torch.full((width, size // 2), math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * torch.arange(size // 2)).repeat(width, 1))
        self.log_dt, self.skip, self.c = _steps(width), nn.Parameter(torch.randn(width)), _weights(width, size)

    def kernels(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the kernels of both directions, (H, L) each."""
        w = torch.complex(-_wide(self.log_decay).exp(), _wide(self.frequency))
        ahead, back = diagonal_kernel(w, _complex(self.c), _wide(self.log_dt).exp(), length)
        return ahead, back

    def forward(self, u: Tensor) -> Tensor:
        """Apply the layer to (B, H, L)."""
        return two_sided(_wide(u), *self.kernels(u.shape[-1])).to(u.dtype) + self.skip[:, None] * u
