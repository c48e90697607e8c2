"""Mixtures of sources: how they are written, and which rows are from which source."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tformer_jax.config import ConfigError, build
from tformer_jax.data.batches.mixed import mixed
from tformer_jax.data.causal_lm import CausalLMDataConfig
from tformer_jax.data.mixtures import parts_of
from tformer_jax.data.translation import TranslationDataConfig

examples = settings(derandomize=True, deadline=None, max_examples=40)

SECTION = build(CausalLMDataConfig, dict(source="speeches", vocab_size=300, row_length=8, batch_tokens=32), "data")


@pytest.mark.parametrize(
    "text",
    [
        "speeches:0.3,jsonl(path=a b.jsonl,field=body,name_field=id):0.7",
        " speeches : 0.3 , jsonl ( path = a b.jsonl , field=body,name_field=id ) :0.7",
        "speeches():3e-1,jsonl(field=body,path=a b.jsonl,name_field=id):.7",
    ],
)
def test_a_mixture_is_sections_with_weights(text):
    """A source would be given another one's options, or its weight."""
    speeches, lines = parts_of(text, SECTION)
    assert (speeches.section, speeches.weight) == (SECTION, 0.3)
    assert (lines.section.source, lines.section.path, lines.weight) == ("jsonl", "a b.jsonl", 0.7)
    options = [option.strip() for option in lines.section.source_options.split(",")]
    assert options == ["field=body", "name_field=id"]


def test_a_path_may_have_what_separates_elsewhere():
    """Paths with a colon or an equals sign could not be named."""
    (part,) = parts_of("jsonl(path=s3:/a=b/c-d.jsonl):1", SECTION)
    assert (part.section.path, part.section.source_options, part.weight) == ("s3:/a=b/c-d.jsonl", None, 1.0)


def test_every_input_of_a_kind_may_be_given():
    """Translations from two files could not be in a mixture."""
    section = build(
        TranslationDataConfig, dict(source="verses_en_fr", vocab_size=300, batch_tokens=64, num_buckets=1), "data"
    )
    text = "files(source_file=a,target_file=b):0.5,parquet(path=c,source_field=x.en,target_field=x.fr):0.5"
    files, table = (part.section for part in parts_of(text, section))
    assert (files.source_file, files.target_file, files.path, files.source_options) == ("a", "b", None, None)
    assert (table.path, table.source_options) == ("c", "source_field=x.en,target_field=x.fr")


def test_what_the_section_itself_reads_is_no_part():
    """The path of the section's own source would be given to a source that has none."""
    section = SECTION.changed(source="jsonl", path="a", source_options="field=b")
    (part,) = parts_of("speeches:1", section)
    assert (part.section.path, part.section.source_options) == (None, None)


def test_rounded_weights_add_up_afterwards():
    """Thirds could not be written, or the last source would have what the others leave."""
    weights = [part.weight for part in parts_of("speeches:0.333333,speeches:0.333333,speeches:0.333333", SECTION)]
    assert weights == pytest.approx([1 / 3] * 3, abs=1e-15)


FORM = r"^mixture must read 'NAME:WEIGHT,.*', got '"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", FORM),
        (" ", FORM),
        ("speeches", FORM),
        (":1", FORM),
        ("speeches:0.5,,speeches:0.5", FORM),
        ("speeches:1,", FORM),
        ("speeches:0.5 speeches:0.5", r"^mixture has 'speeches', of which the weight must be .*, got '0\.5 speeches:0\.5'"),
        ("jsonl(path=a:1", FORM),
        ("jsonl(path=a(b)):1", FORM),
        ("jsonl(path=a)b:1", FORM),
        ("speeches:a", r"^mixture has 'speeches', of which the weight must be a number above 0 and at most 1, got 'a'$"),
        ("speeches:", r"of which the weight must be .*, got ''$"),
        ("speeches:0,speeches:1", r"of which the weight must be .*, got '0'$"),
        ("speeches:-0.5,speeches:1.5", r"of which the weight must be .*, got '-0.5'$"),
        ("speeches:nan", r"of which the weight must be .*, got 'nan'$"),
        ("speeches:0.5,speeches:0.4", r"^mixture must have weights that add up to 1, got 0\.9 of 'speeches:0\.5,"),
        ("speeches:0.5,speeches:0.6", r"^mixture must have weights that add up to 1, got 1\.1 of"),
        ("speches:1", r"^mixture has 'speches', of which source must be one of .*; did you mean 'speeches'"),
        ("jsonl:1", r"^mixture has 'jsonl', of which path goes with data\.source='jsonl', and is needed there"),
        ("jsonl(path=a,path=b):1", r"^mixture has 'jsonl', of which path must be given once, as path=\.\.\., got"),
        ("jsonl(path):1", r"^mixture has 'jsonl', of which path must be given once, as path=\.\.\., got 'path'$"),
        ("speeches(path=a):1", r"^mixture has 'speeches', of which path goes with data\.source=.*; got path='a'"),
        ("jsonl(path=a,feild=b):1", r"^mixture has 'jsonl', of which source_options has no field 'feild'; did you mean"),
        ("jsonl(path=a,field):1", r"^mixture has 'jsonl', of which source_options must read 'name=value,\.\.\.'"),
    ],
)  # fmt: skip
def test_what_is_no_mixture_is_refused(text, message):
    """The run would train on something else than what was meant."""
    with pytest.raises(ConfigError, match=message) as refusal:
        parts_of(text, SECTION)
    assert "\n" not in str(refusal.value)


def positions(count, start=0):
    return np.arange(start, start + count, dtype=np.int64)


weightings = st.lists(st.integers(1, 1000), min_size=1, max_size=6).map(
    lambda parts: [part / sum(parts) for part in parts]
)


@examples
@given(st.integers(0, 2**32 - 1), weightings)
def test_each_source_comes_in_order_without_gaps(seed, weights):
    """A row of a source would be trained on twice, or never."""
    sources, within = mixed(seed, weights, positions(500))
    counted = [0] * len(weights)
    for source, number in zip(sources.tolist(), within.tolist(), strict=True):
        assert number == counted[source]
        counted[source] += 1


@examples
@given(st.integers(0, 2**32 - 1), weightings)
def test_the_share_of_each_source_is_its_weight_at_any_time(seed, weights):
    """A source would have more than its weight for a while, as in random draws, or in the end."""
    sources, _ = mixed(seed, weights, positions(2000))
    for source, weight in enumerate(weights):
        drift = np.cumsum(sources == source) - weight * np.arange(1, 2001)
        assert np.abs(drift).max() < min(source + 1, len(weights) - 1) + 1e-3


@examples
@given(st.integers(0, 2**32 - 1), weightings, st.permutations(range(60)))
def test_a_row_is_the_same_whichever_others_are_asked_for(seed, weights, order):
    """A run that goes on, or another process, would train on other rows."""
    whole, order = mixed(seed, weights, positions(60)), np.array(order, np.int64)
    for all_, some in zip(whole, mixed(seed, weights, order[:20]), strict=True):
        np.testing.assert_array_equal(some, all_[order[:20]])


@examples
@given(st.integers(0, 2**32 - 1), weightings, st.integers(0, 2**62))
def test_far_positions_go_on_as_near_ones(seed, weights, start):
    """After billions of rows numbers would be rounded, and rows come twice."""
    sources, within = mixed(seed, weights, positions(200, start))
    for source in range(len(weights)):
        own = within[sources == source]
        np.testing.assert_array_equal(own, own[:1] + np.arange(len(own)))
        if len(own):
            # a source of which `own[0]` rows came before has its weight of `start`, kept to 2^-32 at each step
            assert abs(int(own[0]) - Fraction(weights[source]) * start) <= len(weights) + start / 2**31 * len(weights)


def test_halves_and_quarters_are_exact():
    """Weights that are kept exactly would drift nevertheless."""
    sources, _ = mixed(3, [0.5, 0.25, 0.25], positions(4000, 8_000_000))
    assert np.bincount(sources).tolist() == [2000, 1000, 1000]


def test_seeds_shift_where_sources_take_turns():
    """Two runs of different seeds would see the sources in the same turns."""
    turns = {mixed(seed, [0.37, 0.41, 0.22], positions(50))[0].tobytes() for seed in range(8)}
    assert len(turns) > 4


def test_no_rows_are_asked_for():
    """An empty batch would end in an error."""
    assert [found.tolist() for found in mixed(0, [0.5, 0.5], positions(0))] == [[], []]
