"""What an experiment will take, as a user asks for it: for a mesh that this machine does not have."""

import re

import pytest


def numbers(line):
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?", line)]


@pytest.fixture(scope="module")
def inspected(from_scratch):
    """`inspected(mesh, *flags)`: the lines for the tiny causal model, by their first words."""

    def inspected(mesh, *flags):
        config = "--config=experiments/configs/causal_lm.py:tiny"
        result = from_scratch("inspect", config, f"--mesh={mesh}", *flags)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return inspected


@pytest.fixture(scope="module")
def whole(inspected):
    flags = ("--peak_tflops=100", "--mfu=0.25", "--config.data.batch_tokens=4096")
    return inspected("data=16,fsdp=2,tensor=4", *flags)


def line_of(lines, beginning):
    (line,) = [line for line in lines if line.startswith(beginning)]
    return line


def test_every_parameter_has_a_row(whole):
    """A user could not see where a parameter lies: path, shape, count and how its axes are split."""
    table = whole[: whole.index("")]
    rows = [line.split("  ") for line in table[table.index(line_of(table, "parameter ")) + 1 :]]
    assert len(rows) == 19
    by_path = {row[0]: [part.strip() for part in row[1:] if part.strip()] for row in rows}
    assert by_path["decoder.layers.0.attention.w_q"] == ["4 128 4 32", "65,536", "-, fsdp, tensor, -"]
    assert by_path["embedding.table"] == ["4000 128", "512,000", "tensor, fsdp"]
    total = int(line_of(whole, "parameters ").split()[-1].replace(",", ""))
    assert sum(int(parts[1].replace(",", "")) for parts in by_path.values()) == total == 1_305_344


def test_formula_and_compiler_agree(whole):
    """One of the two counts would be of another program."""
    formula, counted = numbers(line_of(whole, "FLOPs per step"))
    assert formula < counted < 1.04 * formula
    per_token, _ = numbers(line_of(whole, "FLOPs per token"))
    assert per_token == pytest.approx(formula / 4096, rel=1e-3)


def test_bytes_are_those_of_one_device(whole):
    """A model would be said to fit that does not: by hand, the matrices in eighths, the vectors whole or in fours."""
    matrices = 512_000 + 4 * (4 * 128 * 128 + 2 * 128 * 512)
    split_by_tensor, whole_vectors = 4 * (3 * 128 + 512), 4 * (2 * 128 + 4 * 128) + 2 * 128
    count = matrices / 8 + split_by_tensor / 4 + whole_vectors
    parameters, optimizer, average, temporaries = numbers(line_of(whole, "bytes a device"))
    assert parameters == pytest.approx(4 * count / 2**10, rel=1e-3)
    # Two moments, and two counters of a few bytes.
    assert optimizer == pytest.approx(2 * 4 * count / 2**20, rel=1e-2)
    assert average == 0 < temporaries


def test_time_follows_from_peak_and_mfu(whole):
    """The prediction would be for another device, for one of several, or ignore the share that is reached."""
    formula, _ = numbers(line_of(whole, "FLOPs per step"))
    seconds, mfu, peak, speed = numbers(line_of(whole, "step time"))
    assert (mfu, peak) == (0.25, 100)
    assert seconds == pytest.approx(formula / (128 * 100e12 * 0.25), rel=1e-3)
    assert speed == pytest.approx(4096 / seconds, rel=1e-3)


@pytest.mark.slow
def test_idle_devices_are_said(inspected):
    """A user would pay for devices that do nothing."""
    lines = inspected("data=8", "--totals_only")
    assert "batches of 4 rows leave some of 8 groups of devices idle" in lines


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mesh=data=2,tensors=4"], "--mesh must be like data=64,tensor=4"),
        (["--mesh=data=two"], "--mesh must be like data=64,tensor=4"),
        (["--mesh=data=2", "--device=h1000"], "--device must be one of a100, h100"),
        (["--mesh=data=2", "--mfu=0"], "--mfu must be positive"),
        (["--mesh=data=2", "--device=a100", "--peak_tflops=9"], "give --device or --peak_tflops"),
    ],
)
def test_what_cannot_be_is_refused(here, flags, message):
    """A misspelt flag would end in a traceback or be ignored."""
    result = here("inspect", "--config=experiments/configs/causal_lm.py:tiny", *flags)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
