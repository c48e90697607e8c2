"""Benchmarks from the command line: a run on a copy, its number, and one line where there is none."""

import benchmark_data
import datasets
import pytest

CONFIG = "--config=experiments/configs/causal_lm.py:tiny"
TINY = {
    "data.tokenizer": "bytes", "data.vocab_size": None, "data.validation_share": None, "data.test_share": None,
    "data.row_length": 16, "data.batch_tokens": 64, "model.d_model": 16, "model.num_layers": 1,
    "model.attention.num_heads": 2, "model.feed_forward.width": 24, "model.max_length": 32, "parallel.data": 1,
    "training.steps": 4, "training.evaluate_every": 2, "checkpoint.every": 2, "optimizer.warmup_steps": 1,
    "task.sample_tokens": 4,
}  # fmt: skip


def flags(**changes):
    named = {name.replace("_", ".", 1): value for name, value in changes.items()}
    return [f"--config.{name}={value}" for name, value in (TINY | named).items()]


def test_a_run_on_a_copy_reports_the_number(here, tmp_path):
    """Whoever trains on a benchmark would have to compute its number by hand."""
    (tmp_path / "enwik8").write_bytes(benchmark_data.ENWIK)
    asked = flags(data_source="enwik8", data_path=tmp_path / "enwik8")
    result = here("train", CONFIG, f"--workdir={tmp_path / 'run'}", *asked)
    assert result.returncode == 0, result.stderr
    assert f"enwik8 has 100,000,000 bytes, this text {len(benchmark_data.ENWIK):,}" in result.stdout
    assert "test: bits per character" in result.stdout
    again = here("evaluate", f"--workdir={tmp_path / 'run'}", "--split=validation")
    assert again.returncode == 0 and "validation: bits per character" in again.stdout


def test_without_a_network_it_ends_in_one_line(here, tmp_path, monkeypatch):
    """A person would wait for minutes, and then read a traceback."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    result = here("train", CONFIG, f"--workdir={tmp_path / 'run'}", *flags(data_source="wikitext103"))
    assert result.returncode != 0 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "cannot load wikitext103 (Salesforce/wikitext)" in line]
    assert line.endswith("set data.path to a copy: a folder that save_to_disk wrote")


@pytest.mark.parametrize("share", ["data_test_share", "data_validation_share"])
def test_an_official_split_is_not_held_out(here, tmp_path, share):
    """A number would be of another split than that of the papers."""
    asked = flags(data_source="wikitext103", **{share: 0.1})
    result = here("train", CONFIG, f"--workdir={tmp_path / 'run'}", *asked)
    wanted = share.removeprefix("data_")
    assert result.returncode != 0
    assert f"data.{wanted} must be None, as the source has its own {wanted.partition('_')[0]} split" in result.stderr
