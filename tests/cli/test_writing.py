"""`condiff train` on a text file, and `condiff sample` with prompts and gaps, end to end."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import pytest
import torch
from PIL import Image

import condiff
from condiff.cli.made import conditions_for
from condiff.cli.main import main
from condiff.tasks.text import write

FAST = ("--steps", "2", "--batch-size", "4", "--width", "32", "--depth", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "my.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    out = folder / "run"
    assert main(["train", str(folder / "my.txt"), "--length", "32", "--out", str(out), *FAST]) == 0
    return out


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = [f"word {k} said\tsaid word {k}" for k in range(400)]
    (folder / "pairs.tsv").write_text("\n".join(lines))
    out = folder / "run"
    assert main(["train", str(folder / "pairs.tsv"), "--length", "16", "--out", str(out), *FAST]) == 0
    return out


def test_a_prompt_reaches_the_terminal_and_the_file_and_replays(run, capsys):
    words = ["sample", str(run), "-n", "1", "--prompt", "the quick", "--length", "60", "--steps", "4"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the quick")
    file = run / "samples" / "sample.txt"
    head, _, rest = file.read_bytes().partition(b"\n")
    assert json.loads(head.removeprefix(b"# condiff "))["prompt"] == "the quick"
    assert rest.decode(errors="replace").startswith("--- 0\nthe quick")
    assert main(["replay", str(file)]) == 0
    assert "equal" in capsys.readouterr().out
    file.write_bytes(head + b"\n" + rest.replace(b"quick", b"slow!"))
    assert main(["replay", str(file)]) == 1
    assert "edited" in capsys.readouterr().out
    assert main(["info", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"] == "txt"


def test_the_text_it_learned_from_is_not_overwritten(run, capsys):
    book = run.parent / "my.txt"
    text = book.read_bytes()
    assert main(["sample", str(run), "-n", "1", "--steps", "2", "--out", str(book)]) == 2
    assert "would overwrite the data" in capsys.readouterr().err
    assert book.read_bytes() == text


@pytest.fixture(scope="module", params=["characters", "bpe"])
def other(request, tmp_path_factory):
    """A run whose tokens are not bytes."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "my.txt").write_text("the quick brown fox jumps over the lazy dog, né. " * 400)
    out = folder / "run"
    words = ["train", str(folder / "my.txt"), "--length", "16", "--tokens", request.param, "--out", str(out), *FAST]
    assert main([*words, *(["--vocab-size", "280"] if request.param == "bpe" else [])]) == 0
    return out, request.param


def test_every_verb_works_with_characters_and_pieces(other, tmp_path, capsys):
    run, kind = other
    out = tmp_path / "a.txt"
    words = ["sample", str(run), "-n", "1", "--prompt", "the qui", "--length", "40", "--steps", "4", "--out", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("the qui")
    assert main(["replay", str(out), "--run", str(run)]) == 0
    capsys.readouterr()
    assert main(["sample", str(run), "-n", "2", "--infill", "the ____ fox", "--steps", "4", "--json"]) == 0
    assert all(
        text.startswith("the") and text.endswith(" fox") for text in json.loads(capsys.readouterr().out)["texts"]
    )
    assert main(["info", str(run), "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    assert tokens["kind"] == kind
    assert tokens["vocabulary"] == (280 if kind == "bpe" else 32)
    assert main(["eval", str(run), "-n", "10", "--json"]) == 0
    metrics = {m["name"]: m for m in json.loads(capsys.readouterr().out)["metrics"]}
    # Hardly trained, a token is uniform: a character is nearly a byte, a piece is several.
    assert metrics["bits_per_token"]["unit"] == f"bits/{tokens['unit']}"
    ratio = metrics["bits_per_token"]["value"] / metrics["bits_per_byte"]["value"]
    assert f"known_words_chance_{tokens['unit']}s" in metrics or kind == "bpe"
    assert (2.0 < ratio) if kind == "bpe" else (1.0 < ratio < 1.1)
    assert main(["bench", "solvers", str(run), "--calls", "2", "--solvers", "ordered", "-n", "10", "--json"]) in (0, 1)


def test_the_share_of_likely_tokens_is_chosen_and_kept(run, tmp_path, capsys):
    texts = {}
    for p in ("1", "0.5", "0.0001"):
        out = tmp_path / f"{p}.txt"
        assert main(["sample", str(run), "-n", "2", "--steps", "8", "--top-p", p, "--out", str(out), "--json"]) == 0
        texts[p] = json.loads(capsys.readouterr().out)["texts"]
        assert main(["replay", str(out), "--run", str(run)]) == 0
        capsys.readouterr()
    assert texts["1"] != texts["0.5"]
    assert max(len(set(text)) for text in texts["0.0001"]) < min(len(set(text)) for text in texts["1"])
    assert main(["sample", str(run), "--top-p", "1.5"]) == 2
    assert "top-p needs p in (0, 1], got 1.5" in capsys.readouterr().err


def test_what_no_token_spells_is_refused_when_typed(other, capsys):
    run, kind = other
    code = main(["sample", str(run), "--prompt", "Ж the", "--steps", "2"])
    error = capsys.readouterr().err
    assert code == (2 if kind == "characters" else 0)
    assert kind == "bpe" or ("'Ж'" in error and error.count("\n") == 1)


def test_packed_records_train_sample_and_are_evaluated_packed(tmp_path, capsys):
    story = "the quick brown fox jumps over the lazy dog number"
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps({"text": f"{story} {n}"}) for n in range(300)))
    out = tmp_path / "run"
    words = ["train", "--pack", str(tmp_path / "my.jsonl"), "--length", "32", "--out", str(out), *FAST]
    assert main(words) == 0
    assert main(["sample", str(out), "-n", "2", "--steps", "2"]) == 0
    capsys.readouterr()
    assert main(["eval", str(out), "-n", "12", "--json"]) == 0
    metrics = {m["name"]: m["value"] for m in json.loads(capsys.readouterr().out)["metrics"]}
    assert metrics["bits_per_byte"] > metrics["bits_per_token"]  # ends cost bits and are no bytes
    assert metrics["known_words_held_out"] == 1.0


def test_a_vocabulary_is_for_tokens_that_are_learned(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("abc " * 2000)
    assert main(["train", str(tmp_path / "a.txt"), "--vocab-size", "300", "--out", str(tmp_path / "r")]) == 2
    assert "always 256 bytes" in capsys.readouterr().err


def test_several_texts_and_gaps_as_json(run, tmp_path, capsys):
    out = tmp_path / "a.txt"
    words = ["sample", str(run), "-n", "3", "--infill", "the ____ fox", "--steps", "4", "--out", str(out), "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["texts"]) == 3
    assert facts["files"] == [str(out)]
    assert all(text.startswith("the ") and text.endswith(" fox") for text in facts["texts"])


def test_an_input_text_is_a_condition_and_eval_measures_its_use(pairs, capsys):
    words = ["sample", str(pairs), "-n", "2", "--cond", "input=word 7 said", "--steps", "2", "--guidance-scale", "1.5"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("---") >= 2
    assert main(["eval", str(pairs), "-n", "10", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in facts["metrics"][-2:]] == ["bits_per_token", "bits_per_byte"]
    assert facts["condition_use"]["verdict"]


def test_eval_reads_the_text_as_training_did(run, capsys):
    assert main(["eval", str(run), "-n", "10", "--json"]) == 0
    metrics = {m["name"]: m for m in json.loads(capsys.readouterr().out)["metrics"]}
    assert 4.0 < metrics["bits_per_token"]["value"] < 8.5  # hardly trained: near the 8 bits of a uniform byte
    assert metrics["bits_per_byte"]["value"] == pytest.approx(metrics["bits_per_token"]["value"])
    assert metrics["known_words_held_out"]["value"] == 1.0
    assert metrics["known_words_chance"]["value"] < 0.5
    judged = {name: m for name, m in metrics.items() if name.startswith("generative_perplexity")}
    assert len(judged) == 3
    assert all(m["details"]["entropy"] > 0.0 for m in judged.values())  # never one without the other
    assert judged["generative_perplexity_held_out"]["value"] < judged["generative_perplexity_chance"]["value"]
    assert main(["eval", str(run), "-n", "10", "--quick"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "generative_perplexity" in line]
    assert len(lines) == 3
    assert all("entropy" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--infill", "no gap"], "has no gap"),
        (["--prompt", "a", "--infill", "b_"], "not both"),
        (["--prompt", "abc", "--length", "2"], "leaves nothing to write"),
        (["--out", "x.png"], "ends in .txt"),
        (["--guidance-scale", "2"], "takes no condition"),
        (["--cond", "input=a"], "takes no condition"),
        (["--solver", "ordere"], "did you mean 'ordered'"),
        (["--infill", ""], "--infill got an empty text"),
        (["--prompt", "x" * 100], "leaves nothing to write after a prompt of 100 bytes; give a larger length"),
        (["--prompt", "caf\udce9"], "not UTF-8"),
    ],
)
def test_wrong_wishes_get_one_line(run, words, message, capsys):
    assert main(["sample", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_prompts_are_for_text_systems(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "vectors", "--data", "mocap", "--out", str(out), "--steps", "1", "--width", "16"]) == 0
    capsys.readouterr()
    assert main(["sample", str(out), "--prompt", "hello"]) == 2
    assert "for systems that write text; this one makes poses" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"  \n\t\r\n" * 40, "nothing but white space"),
        (b"one short line", "32 bytes"),
        (b"\xff\xfe\x00bad" * 40, "UTF-8"),
        (b"words and\0zero bytes " * 40, "zero bytes"),
    ],
)
def test_bad_text_files_get_one_line(tmp_path, content, message, capsys):
    (tmp_path / "bad.txt").write_bytes(content)
    assert main(["train", str(tmp_path / "bad.txt"), "--length", "32", "--out", str(tmp_path / "r"), *FAST]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "whole"}\n{"text": "\\ud800 half"}\n', "line 2: half of a surrogate pair"),
        ("a.tsv", b"a\tb\nc\n", "line 2: expected 2 tab-separated cells"),
        ("a.txt", b"the cat sat. " * 30, "no window of 32 bytes fits into the validation part"),
        ("a.txt", b"", "the file is empty"),
    ],
)
def test_data_that_eval_and_bench_cannot_use_get_one_line(run, tmp_path, name, content, message, capsys):
    (tmp_path / name).write_bytes(content)
    for words in (["eval", str(run)], ["bench", "solvers", str(run)]):
        assert main([*words, "--data", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_guidance_that_cannot_be_honoured_is_no_bench(run, capsys):
    assert main(["bench", "solvers", str(run), "--guidance-scale", "3", "--calls", "2", "-n", "10"]) == 2
    assert "takes no condition" in capsys.readouterr().err


def test_a_solver_that_a_step_refuses_is_wrong_usage(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "cdcd", "--steps", "1", "--batch-size", "4", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["sample", str(out), "--solver", "ddpm", "-n", "2", "--steps", "2"]) == 2
    error = capsys.readouterr().err
    assert "--solver ddpm: mask-and-replace redraws nothing" in error
    assert error.count("\n") == 1


def test_a_picture_is_told_in_words(tmp_path, capsys):
    """The condition of `phrases` is 64 numbers that are a picture: a file of one is given as it is."""
    run = tmp_path / "run"
    words = ["train", "cdcd", "--data", "phrases", "--out", str(run), "--steps", "1", "--batch-size", "4"]
    assert main([*words, "--width", "32"]) == 0
    capsys.readouterr()
    Image.new("L", (28, 28), 255).save(tmp_path / "7.png")
    system, file = condiff.load(run), str(tmp_path / "7.png")
    assert conditions_for(system, {"picture": [file, file]}, range(2))["picture"] == [[1.0] * 64] * 2
    assert conditions_for(system, {"picture": ["-0.5"] * 64}, range(2))["picture"] == [[-0.5] * 64]
    for told in (file, ",".join(["1.0"] * 64)):
        assert main(["sample", str(run), "-n", "2", "--cond", f"picture={told}", "--steps", "2", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["texts"]) == 2
    assert main(["sample", str(run), "-n", "1", "--cond", "picture=nowhere.png"]) == 2
    assert "no picture at nowhere.png" in capsys.readouterr().err
    assert main(["sample", str(run), "-n", "1", "--cond", "picture=1,2"]) == 2
    assert "has 64 numbers, got 2" in capsys.readouterr().err


def test_the_bound_of_mask_and_replace_is_that_of_all_steps_without_the_contrast(tmp_path, capsys):
    lines = [f"word {k} said\tsaid word {k}" for k in range(400)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    words = ["train", "cdcd", "--data", str(tmp_path / "pairs.tsv"), "--length", "16", "--out", str(tmp_path / "run")]
    assert main([*words, "--steps", "2", "--batch-size", "4", "--width", "32", "--weight", "2", "--replaced", "0"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "-n", "10", "--json"]) == 0
    metrics = {m["name"]: m["value"] for m in json.loads(capsys.readouterr().out)["metrics"]}
    assert 7.0 < metrics["bits_per_token"] < 9.0  # hardly trained: near the 8 bits of a uniform token, 80 steps or not


def test_several_workers_do_not_write(run, capsys, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert main(["sample", str(run)]) == 2
    assert "texts are written by one process" in capsys.readouterr().err


def test_diffusion_on_vectors_writes_from_a_text_and_keeps_the_best_of_several(pairs, tmp_path, capsys):
    """A run of diffusia on pairs: a prompt stays, the best of 3 is one of 3, replay is exact, eval compares texts."""
    out, data = tmp_path / "run", pairs.parent / "pairs.tsv"
    words = ["train", "diffusia", "--data", str(data), "--length", "16", "--out", str(out), "--best-of", "3", *FAST]
    assert main(words) == 0
    asked = ["--cond", "input=word 7 said", "--steps", "3", "--prompt", "said", "--json"]
    capsys.readouterr()
    found = {}
    for name, more in (("default", ()), ("one", ("--best-of", "1"))):
        assert main(["sample", str(out), "-n", "2", *asked, *more]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert [found[name]["best_of"] for name in ("default", "one")] == [3, 1]
    assert all(text.startswith("said") for each in found.values() for text in each["texts"])
    assert main(["sample", str(out), "-n", "2", *asked[:-1]]) == 0
    assert main(["replay", str(out / "samples" / "sample.txt")]) == 0
    capsys.readouterr()
    assert main(["eval", str(out), "-n", "10", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    names = {metric["name"] for metric in facts["metrics"]}
    assert {"bleu", "rouge_l", "characters_in_place", "bleu_copy", "rouge_l_copy"} <= names
    assert not {name for name in names if name.startswith("bits")}
    value = {metric["name"]: metric["value"] for metric in facts["metrics"]}
    # "word 7 said" against "said word 7": two of three tokens in a row.
    assert value["rouge_l_copy"] == pytest.approx(2 / 3, abs=0.01)
    assert facts["condition_use"] is not None


def test_the_best_of_several_is_for_text_systems(tmp_path, capsys):
    from condiff import save
    from condiff.recipes import vectors

    save(vectors(), tmp_path / "v.safetensors")
    assert main(["sample", str(tmp_path / "v.safetensors"), "--best-of", "2"]) == 2
    assert "--best-of is for systems that write text" in capsys.readouterr().err


class Screen(io.StringIO):
    """Standard output that remembers what had been flushed, and may be a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal, self.seen = terminal, ""

    def isatty(self):
        return self.terminal

    def flush(self):
        self.seen = self.getvalue()


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """An untrained system that writes in blocks of 8 bytes: it writes all kinds of control characters."""
    from condiff import save
    from condiff.recipes import ctrldiff

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("blocks") / "b.safetensors"
    save(ctrldiff(length=32, width=32, depth=1, about={"kind": "text"}), path)
    return path


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_first_text_is_shown_block_by_block(blocks, tmp_path, monkeypatch, count, terminal):
    """Before a block is made, those before it have been flushed, to a pipe as to a terminal; --json shows none."""
    screen = Screen(terminal)
    monkeypatch.setattr("sys.stdout", screen)
    ahead = []

    def spied(*given, **wanted):
        begun = ""
        for new in write(*given, **wanted):
            ahead.append(screen.seen.endswith(begun))
            begun += new[0]
            yield new

    monkeypatch.setattr("condiff.cli.writing.write", spied)
    out = tmp_path / "a.txt"
    words = ["sample", str(blocks), "--prompt", "In the", "-n", str(count), "--out", str(out)]
    assert main(words) == 0
    body = out.read_bytes().partition(b"\n")[2].decode()
    shown = screen.getvalue()
    expected = body if count > 1 else body.removeprefix("--- 0\n")
    if terminal:
        assert len(shown) == len(expected)
        assert not any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in shown)
        assert shown != expected
    else:
        assert shown == expected
        assert len(ahead) == 1 + 4  # the prompt, and 26 bytes in blocks of 8
        assert all(ahead)
    assert main([*words, "--json"]) == 0
    assert json.loads(screen.getvalue()[len(shown) :])["texts"][0].startswith("In the")


def test_the_time_a_text_takes_is_told(run, capsys, monkeypatch):
    """All of a window comes at once, and its time is counted too."""
    ticks = iter(range(0, 1000, 7))
    monkeypatch.setattr("condiff.cli.writing.time.perf_counter", lambda: float(next(ticks)))
    assert main(["sample", str(run), "-n", "1", "--steps", "2"]) == 0
    assert "1 text in 7.0 s" in capsys.readouterr().err


def test_eval_judges_the_best_of_several_answers_if_asked(pairs, capsys):
    """The answers are those that `write_best` chooses among, and the first ones are judged beside them."""
    import condiff
    from condiff.data import read_like
    from condiff.evaluate.overlap import overlap
    from condiff.tasks.choose import write_best
    from condiff.tasks.tokens import reader_of

    assert main(["eval", str(pairs), "-n", "12", "--best-of", "4", "--quick", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["best_of"] == 4
    value = {metric["name"]: metric["value"] for metric in facts["metrics"]}
    assert {"rouge_l", "rouge_l_first", "rouge_l_copy"} <= value.keys()
    system = condiff.load(pairs)
    test = read_like(system.data).test
    rows, cond = test.rows(torch.arange(12))
    held = [reader_of(system)(row) for row in rows.long()]
    for answers, name in ((4, "rouge_l"), (1, "rouge_l_first")):
        texts = write_best(system, answers, num_samples=12, cond=cond, batch_size=128)
        found = {score.name: score.value for score in overlap(texts, held, of="", seed=0)}
        assert found["rouge_l"] == pytest.approx(value[name])
    assert main(["eval", str(pairs), "-n", "12", "--quick", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["best_of"] == 1
    assert not any(metric["name"].endswith("_first") for metric in facts["metrics"])


def test_eval_has_no_best_of_several_pictures(trained, capsys):
    assert main(["eval", str(trained), "--best-of", "2"]) == 2
    assert "--best-of is for systems that write text; this one makes images" in capsys.readouterr().err


def test_an_empty_folder_and_a_run_are_no_data(run, tmp_path, capsys):
    for place, message in ((tmp_path, "no images or text files in this folder"), (run, "is a run, not data")):
        assert main(["train", str(place), "--out", str(tmp_path / "r"), *FAST]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_training_says_what_tokens_it_found_and_how_many_texts_are_cut(tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("\n".join(f"word {k}\tsaid {'long ' * (k % 2)}{k}" for k in range(100)))
    words = ["train", str(tmp_path / "a.tsv"), "--tokens", "characters", "--length", "9", "--out", str(tmp_path / "r")]
    assert main([*words, *FAST]) == 0
    error = capsys.readouterr().err
    kinds = len(set("word said long 0123456789")) + 1
    assert f"training examples of 9 characters, {kinds} kinds of them" in error
    assert "50 texts are longer than 9 and are cut" in error


def test_tokens_that_need_a_missing_library_get_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "tokenizers.models", None)
    (tmp_path / "a.txt").write_text("abc " * 2000)
    assert main(["train", str(tmp_path / "a.txt"), "--tokens", "bpe", "--out", str(tmp_path / "r"), *FAST]) == 2
    error = capsys.readouterr().err
    assert "pip install 'condiff[text]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_more_calls_than_a_block_has_tokens_cannot_be_honoured(blocks, tmp_path, capsys):
    out = ["-n", "1", "--out", str(tmp_path / "a.txt")]
    assert main(["sample", str(blocks), "--steps", "9", *out]) == 2
    assert "--steps 9 is more than the 8 tokens of a block" in capsys.readouterr().err
    assert main(["sample", str(blocks), "--steps", "9", "--block", "16", *out]) == 0
    assert main(["sample", str(blocks), "--block", "2", *out]) == 0  # what is only a default is lowered


def test_a_text_made_from_none_is_told(pairs, tmp_path, capsys):
    words = ["sample", str(pairs), "-n", "1", "--steps", "1", "--out", str(tmp_path / "a.txt")]
    assert main(words) == 0
    assert "no input was given" in capsys.readouterr().err
    assert main([*words, "--cond", "input=word"]) == 0
    assert "no input was given" not in capsys.readouterr().err


def test_pieces_in_gaps_are_explained(other, tmp_path, capsys):
    run, kind = other
    assert (
        main(["sample", str(run), "-n", "1", "--infill", "the _", "--steps", "1", "--out", str(tmp_path / "a.txt")])
        == 0
    )
    assert ("every _ is one piece" in capsys.readouterr().err) == (kind == "bpe")


def test_a_run_goes_on_with_the_tokens_it_has(run, capsys):
    words = ["train", str(run.parent / "my.txt"), "--out", str(run), "--resume", *FAST]
    assert main([*words, "--length", "32", "--tokens", "characters"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "was trained with vocabulary = 257, not " in error
    assert main([*words, "--length", "16"]) == 2
    assert "was trained with length = 32, not 16; resume with the same" in capsys.readouterr().err
    assert main([*words, "--length", "32"]) == 0


def test_wrong_wishes_get_no_advice_first(other, capsys):
    run, _ = other
    assert main(["sample", str(run), "--infill", "_" * 99, "--steps", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
