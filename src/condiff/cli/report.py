"""report.html of a run: one file with its settings, loss curve, samples and metrics."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

import yaml

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}
img{max-width:100%;image-rendering:pixelated;border:1px solid #ddd}code{background:#f4f4f4;padding:.1rem .3rem}"""


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.name)}" src="data:image/png;base64,{data}">'


def _rows(pairs: list[tuple[str, Any]]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_text(value))}</td></tr>" for name, value in pairs
    )
    return f"<table>{cells}</table>"


def _text(value: Any) -> str:  # noqa: ANN401 - any plain value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def write_report(run: Path) -> Path:
    """Write RUN/report.html from what the run folder holds."""
    from condiff.train.checkpoint import write_atomically

    config = yaml.safe_load((run / "config.yaml").read_text())
    parts = [f"<h1>{html.escape(str(config['recipe']))}</h1><p><code>{html.escape(config['command'])}</code></p>"]
    samples = sorted((run / "samples").glob("step_*.png"))
    if samples:
        parts.append(f"<h2>Samples</h2><p>{samples[-1].stem.replace('_', ' ')}</p>{_picture(samples[-1])}")
    if (run / "loss.png").is_file():
        parts.append(f"<h2>Loss</h2>{_picture(run / 'loss.png')}")
    if (run / "eval.json").is_file():
        metrics = json.loads((run / "eval.json").read_text())["metrics"]
        heads = "<tr><th>metric</th><th>value</th><th>interval</th><th>n</th><th>definition</th></tr>"
        lines = "".join(
            f"<tr><td>{html.escape(m['name'])}</td><td>{m['value']:.4g} {html.escape(m['unit'])}</td>"
            f"<td>{m['interval'][0]:.4g} to {m['interval'][1]:.4g}</td><td>{m['n']}</td>"
            f"<td>{html.escape(m['definition'])}</td></tr>"
            for m in metrics
        )
        parts.append(f"<h2>Evaluation</h2><table>{heads}{lines}</table>")
    last = (run / "metrics.jsonl").read_text().splitlines()[-1:]
    if last:
        parts.append(f"<h2>Last step</h2>{_rows(list(json.loads(last[0]).items()))}")
    settings = {**config["settings"], "seed": config["seed"], "condiff": config["condiff"], "torch": config["torch"]}
    parts.append(f"<h2>Settings</h2>{_rows(list(settings.items()))}")
    parts.append(f"<h2>Recipe arguments</h2>{_rows(list(config['arguments'].items()))}")
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(run.name)}</title><style>{_STYLE}</style>"
    write_atomically(run / "report.html", (page + "\n".join(parts)).encode())
    return run / "report.html"
