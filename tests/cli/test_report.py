"""The page of a run, evaluation that does not fit, and a single checkpoint under the doctor."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest

from condiff.cli.main import main
from condiff.cli.report import write_report


def test_the_page_shows_samples_metrics_and_commands(run, capsys):
    assert main(["sample", str(run), "-n", "10", "--steps", "2", "--cond", "label=3", "--seed", "4"]) == 0
    assert main(["eval", str(run), "--quick", "-n", "30"]) == 0
    page = (run / "report.html").read_text()
    config = (run / "config.yaml").read_text()
    assert "condiff train digits" in page
    assert f"condiff sample {run} -n 10 --steps 2 --guidance-scale 2 --seed 4 --cond label=3" in page
    assert f"condiff eval {run} -n 30 --seed 0 --quick" in page
    judged = json.loads((run / "eval.json").read_text())["metrics"]
    share = f"{100 * judged[0]['value']:.1f} %"
    assert (
        f"trained on 8,000 examples of digits for 3 steps in 0 seconds. Of 30 samples, {share} are read as"
        in re.sub(r"in \d+ seconds", "in 0 seconds", page)
    )
    for metric in judged:  # each has words for everybody, and its exact definition
        assert f"<td>{metric['name']}</td>" in page
        assert html.escape(metric["definition"]) in page
        assert re.search(rf"<td>{metric['name']}</td>.*?<td>[a-z][^<]+<details>", page), metric["name"]
    assert "class_agreement_unguided" in page
    assert "frechet_train" in page
    assert 'alt="sample.png"' in page
    assert 'alt="loss.png"' in page
    assert "learning_rate" in config
    # One file: every picture is inside, nothing is fetched.
    sources = re.findall(r'src="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)


@pytest.mark.parametrize(
    ("words", "needle"),
    [(["-n", "3"], "-n 3"), (["--data", "mocap"], "(15, 3)"), (["--data", "nowhere"], "nowhere")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_evaluation_that_does_not_fit(words, needle, run, capsys):
    assert main(["eval", str(run), "--quick", *words]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert needle in err[0]
    assert not (run / "eval.json").exists()


def test_the_page_says_how_classical_models_were_fitted(run):
    metric = {"name": "mase", "value": 1.0, "unit": "", "interval": [0.9, 1.1], "n": 9, "definition": "d"}
    counts = {"fitted": 3, "earlier": 5, "borrowed": 0, "failed": 1, "seconds": 60}
    facts = {"run": "run", "data": "a.csv", "split": "test", "n": 10, "seed": 0, "windows": 9, "quick": False}
    facts |= {"metrics": [metric], "baselines": {"arima": [metric]}, "fits": {"arima": counts}}
    (run / "eval.json").write_text(json.dumps(facts))
    page = write_report(run).read_text()
    assert "arima, windows: 3 forecast with parameters fitted to their own history, 5 with those of an earlier" in page
    assert "1 by their last season, since no fit succeeded; 60 s were allowed for fitting" in page
    assert "not fitted to their series" not in page
    assert "condiff eval run -n 10 --seed 0 --windows 9 --fit-seconds 60" in page
    assert "--fit-seconds 60 --quick" not in page


def test_an_evaluation_on_other_data_leaves_the_runs_own(run, tmp_path):
    assert main(["eval", str(run), "--quick", "-n", "30"]) == 0
    own = (run / "eval.json").read_bytes()
    pixels = np.random.default_rng(0).integers(0, 255, (200, 28, 28), np.uint8)
    np.savez(tmp_path / "other.npz", x=pixels, label=np.arange(200) % 10)
    assert main(["eval", str(run), "--quick", "-n", "30", "--data", str(tmp_path / "other.npz")]) == 0
    assert (run / "eval.json").read_bytes() == own
    assert json.loads((run / "eval-other.npz.json").read_text())["data"] == str(tmp_path / "other.npz")


def test_doctor_of_a_single_checkpoint(run, capsys):
    path = run / "model.safetensors"
    assert main(["doctor", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "digits"
    path.write_bytes(path.read_bytes()[:1000])
    assert main(["doctor", str(path), "--json"]) == 1
    assert "model.safetensors" in json.loads(capsys.readouterr().out)["problems"][0]
    assert main(["doctor", str(run / "none.safetensors")]) == 2


def test_doctor_names_a_damaged_line_of_the_metrics(run, capsys):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert main(["doctor", str(run), "--json"]) == 1
    assert "after step 3" in json.loads(capsys.readouterr().out)["problems"][0]
