"""The systems that the package offers; plain data, so that listing them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, final


@final
@dataclass(frozen=True)
class Entry:
    """One system: how it is named, what it is for, and where its parts are.

    Args:
        slug: The name users type for `reproduce`.
        title: Its name in words.
        year: Year of its publication.
        modality: What it generates.
        recipe: Recipe that builds it.
        claim: What its experiment tests, in one line; empty if there is none.
    """

    slug: str
    title: str
    year: int
    modality: str
    recipe: str
    claim: str

    @property
    def experiment(self) -> bool:
        """Is its experiment there: in the package, or brought by a plugin?"""
        return (Path(__file__).parents[1] / "claims" / f"{self.slug}.py").is_file() or self.slug in _brought()


SYSTEMS = (
    Entry(
        "digits",
        "Class-conditional flow matching with classifier-free guidance",
        2023,
        "images",
        "digits",
        "guidance at scale 2 makes at least 98 % of sampled digits read as the class asked for, more than without",
    ),
    Entry(
        "evodiff",
        "EVODiff: entropy-aware, variance-optimised sampling in few calls",
        2025,
        "images",
        "evodiff",
        "on a trained network EVODiff with a DDIM ending has a Frechet distance more than 40 % below DPM-Solver++(2M) "
        "at 5 calls, and at most 5 % above it at 10 and 15",
    ),
    Entry(
        "images",
        "General recipe: images with classes, captions, numbers or input pictures",
        2023,
        "images",
        "images",
        "",
    ),
    Entry(
        "interpolants",
        "Stochastic interpolants: bridges between two data sets, by ODE or SDE",
        2023,
        "images",
        "interpolants",
        "turning digits 1 into 7 with latent noise 2 t (1 - t), an SDE comes at least 15 % nearer to real sevens than "
        "its own ODE and 25 % nearer than a bridge without latent noise; on blurred digits an SDE beats its ODE and "
        "the mean",
    ),
    Entry(
        "radd",
        "Reparameterised absorbing discrete diffusion: text without a time input",
        2025,
        "text",
        "radd",
        "four losses reach the same bound, a network without time is as good as one with it, and a memo makes as many "
        "calls as there are tokens, with identical text",
    ),
    Entry(
        "series",
        "General recipe: series forecast with bands, and their gaps filled",
        2023,
        "series",
        "series",
        "on the last 8 weeks of hourly traffic, forecast a day at a time, the weighted quantile loss is below that of "
        "seasonal naive forecasts (24 h and 168 h) and of a linear quantile model",
    ),
    Entry(
        "text",
        "General recipe: text written freely, continued, filled in, or from another text",
        2025,
        "text",
        "text",
        "",
    ),
    Entry(
        "cdcd",
        "CDCD: mask-and-replace tokens tied to their condition by a contrast",
        2023,
        "any",
        "cdcd",
        "an InfoNCE contrast with other classes makes samples match their class better at every number of steps, in 8 "
        "steps as well as without it in 80; the official weight of 5e-5 changes nothing",
    ),
    Entry(
        "ctrldiff",
        "CtrlDiff: text in blocks of learned sizes, with guidance by a classifier",
        2025,
        "text",
        "ctrldiff",
        "one network's bound rises with the block size; a learned block size lies between the best fixed one and "
        "hindsight; a classifier guides text to its class; blocks that are remembered equal blocks that are read again",
    ),
    Entry(
        "diffusia",
        "DiffuSIA: text from text on learned vectors, by two towers that read each other",
        2023,
        "text",
        "diffusia",
        "a source tower that reads the noisy target (spiral) puts vowels back at least a point better than one that "
        "does not (encdec), both far better than copying; on verses in simple English it is as good as encdec and "
        "joint, and better than copying",
    ),
    Entry(
        "pfgmpp",
        "PFGM++: diffusion with heavier-tailed noise, more tolerant of errors",
        2023,
        "images",
        "pfgmpp",
        "D = 16 bears injected error at least 25 % better than D = infinity (EDM), and draws as well without",
    ),
    Entry(
        "painters",
        "Gaussian teleportation: the first sampling steps by one exact jump",
        2023,
        "any",
        "painters",
        "an exact Gaussian jump replaces at least 25 % of the network calls of an EDM sampler at equal quality",
    ),
    Entry(
        "principles",
        "Principles of diffusion models: three views of one velocity, and flow maps of few calls",
        2025,
        "images",
        "principles",
        "with 1, 2 and 4 network calls a MeanFlow map samples closer to real digits than flow matching of the same "
        "network, by a factor of at least 4, 3 and 2",
    ),
    Entry(
        "streamdiffusion",
        "StreamDiffusion: frames at several noise levels in one batch, residual guidance, still frames skipped",
        2023,
        "images",
        "streamdiffusion",
        "frames streamed through one batch equal frames made alone, for one call a frame; residual guidance costs half "
        "of classifier-free guidance and still turns a picture into the class asked for",
    ),
    Entry(
        "tsdiff",
        "TSDiff: one unconditional model of series that guides itself to forecast, repair, refine and synthesise",
        2023,
        "series",
        "tsdiff",
        "one unconditional model, guided by quantiles of what is observed, forecasts within 10 % of the loss of a "
        "model trained to forecast, improves weak forecasts, and its samples teach a linear forecaster",
    ),
    Entry(
        "overview",
        "Reward-directed generation: black-box optimisation by conditional sampling",
        2024,
        "any",
        "overview",
        "samples asked for a reward reach it until the data's reach ends, nearer the data than gradient ascent",
    ),
    Entry("vectors", "General recipe: table rows, poses, embeddings", 2023, "vectors", "vectors", ""),
    Entry(
        "wcfm",
        "W-CFM: flow matching on weighted pairs, beside optimal transport and Sinkhorn",
        2025,
        "images",
        "wcfm",
        "weighing pairs (kappa 0.1) betters 4-step samples and straightens paths by 15 %, and keeps 50-step samples",
    ),
)


def _brought() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="condiff.claims")}


def systems() -> tuple[Entry, ...]:
    """List the package's systems and those of plugins (entry-point group `condiff.systems`, each an `Entry`).

    Raises:
        ValueError: If a plugin offers something else.
    """
    found = list(SYSTEMS)
    for point in sorted(entry_points(group="condiff.systems"), key=lambda point: point.name):
        entry = point.load()
        if not isinstance(entry, Entry):
            raise ValueError(f"plugin {point.value} offers system {point.name!r}, but it is a {type(entry).__name__}")
        found.append(entry)
    return tuple(found)


def experiment_of(slug: str) -> Callable[..., Any]:
    """Return the experiment of a system that has one: the package's `claims/<slug>.py`, or a plugin's."""
    brought = _brought()
    made: Callable[..., Any] = brought[slug].load() if slug in brought else import_module(f"condiff.claims.{slug}").run
    return made
