"""From a config and overrides to members: every override lands where it should, and every bad one is refused."""

import pytest
from tiny_runs import configs

from tformer_jax.config import ConfigError
from tformer_jax.sweeps.members import Fields, flags, make_members
from tformer_jax.sweeps.text import parse


@pytest.fixture(scope="session")
def config(place):
    return configs(place)["causal_lm"]


def members_of(config, text):
    return make_members(config, parse(text).members())


def test_overrides_land_in_their_fields_and_nowhere_else(config):
    """A member's config is not the sweep's config with its overrides, or the sweep's own config is changed."""
    before = repr(config)
    (member,) = members_of(
        config, "optimizer.learning_rate=0.5;model.feed_forward.width=32;precision='compute=bfloat16'"
    )
    assert member.config["optimizer"] == config["optimizer"] | {"learning_rate": 0.5}
    assert member.config["model"] == config["model"] | {"feed_forward": {"width": 32}}
    assert member.config["precision"] == "compute=bfloat16"
    assert all(member.config[name] == config[name] for name in ("task", "data", "training", "checkpoint"))
    assert repr(config) == before


def test_a_field_that_the_config_leaves_out_can_be_swept(config):
    """Only fields that someone wrote down already can be swept."""
    assert "weight_decay" not in config["optimizer"]
    first, second = members_of(config | {"optimizer": config["optimizer"] | {"name": "adamw"}}, "weight_decay=0,0.1")
    assert (first.experiment.optimizer.weight_decay, second.experiment.optimizer.weight_decay) == (0.0, 0.1)


def test_a_seed_is_of_parameters_and_of_the_order_of_batches(config):
    """Members that differ in the seed share initial parameters or batches, or have other data."""
    members = members_of(config, "seed=0..2")
    assert [m.config["training"]["seed"] for m in members] == [0, 1, 2]
    assert [m.config["data"]["order_seed"] for m in members] == [0, 1, 2]
    assert all("seed" not in m.config["data"] for m in members)


@pytest.mark.parametrize("short, full", [
    ("learning_rate", "optimizer.learning_rate"), ("d_model", "model.d_model"), ("steps", "training.steps"),
])  # fmt: skip
def test_a_name_without_section_is_the_one_field_of_that_name(config, short, full):
    """A short name is another field than the long one."""
    assert Fields(config).resolve(short) == (full,)


def test_numbers_become_what_the_field_has(config):
    """A whole float of an integer field stays a float and fails later, or an integer of a float field stays one."""
    (member,) = members_of(config, "model.feed_forward.width=64.0;optimizer.learning_rate=1")
    assert (
        type(member.config["model"]["feed_forward"]["width"]),
        type(member.config["optimizer"]["learning_rate"]),
    ) == (int, float)


def test_members_with_the_same_config_are_one(config):
    """The same experiment is trained twice, or a number of a member is not its place in the space."""
    assert [m.number for m in members_of(config, "feed_forward.width=32,64 | feed_forward.width=64.0,96")] == [0, 1, 3]


def test_a_field_has_one_name_in_all_members(config):
    """One field is two columns of the table, and its values two lines of a picture."""
    members = members_of(config, "optimizer.learning_rate=0.1 | learning_rate=0.2; seed=1 | seed=2")
    assert [list(member.overrides) for member in members] == [
        ["optimizer.learning_rate"], ["optimizer.learning_rate", "seed"], ["seed"],
    ]  # fmt: skip


@pytest.fixture
def whole(config):
    """A config that leaves none of the fields out that are swept here, as a config file does."""
    changes = {
        "training": {"seed": 0},
        "data": {"order_seed": None},
        "model": {"attention": {"num_heads": 2, "window": None}, "feed_forward": {"width": 24}},
    }
    return config | {section: config[section] | fields for section, fields in changes.items()}


def test_flags_of_a_member_say_all_of_it(whole):
    """The command that is printed for a member trains another one."""
    assert flags(whole, {"learning_rate": 1, "window": None, "seed": 3}) == [
        "--config.optimizer.learning_rate=1.0", "--config.training.seed=3", "--config.data.order_seed=3",
    ]  # fmt: skip
    off = whole | {
        "model": whole["model"] | {"attention": {"num_heads": 2, "window": 16}},
        "optimizer": whole["optimizer"] | {"clip_norm": 1.0},
    }
    assert flags(off, {"window": None, "clip_norm": None}) == [
        "--config.model.attention.window=None", "--config.optimizer.clip_norm=None",
    ]  # fmt: skip


@pytest.mark.parametrize("section, before, overrides", [
    ("model", {"dropout_rate": 0}, {"dropout_rate": 0.1}),
    ("optimizer", {"freeze": []}, {"freeze": ["norm"]}),
    ("optimizer", {}, {"b1": 0.8}),
])  # fmt: skip
def test_flags_that_do_not_exist_are_not_said(whole, section, before, overrides):
    """The command that is printed for a member is refused, or trains another member."""
    assert flags(whole | {section: whole[section] | before}, overrides) is None


BAD = {
    "optimizer.learnin_rate=1": "did you mean 'optimizer.learning_rate'",
    "dropuot_rate=0.1": "did you mean 'dropout_rate'",
    "nothing=1": "no field 'nothing'",
    "model.vocab_size=9": "no field 'model.vocab_size'",
    "model.pooling=cls,mean": "no field 'model.pooling'",
    "name=adam": "task.name or optimizer.name",
    "parallel.data=1,2": "cannot be swept",
    "checkpoint.every=1,2": "cannot be swept",
    "training.log_every=1,2": "cannot be swept",
    "training.evaluate_every=1,2": "cannot be swept",
    "task.name=vision": "cannot be swept",
    "log_every=1,2": "training.log_every cannot be swept",
    "evaluate_every=1,2": "training.evaluate_every cannot be swept",
    "optimizer.freeze=b'x'": "must be made of numbers",
    f"learning_rate=1{'0' * 400}": "must be of type float",
    "seed=0,1;training.seed=2,3": "both set training.seed",
    "learning_rate=1;optimizer.learning_rate=2": "both set optimizer.learning_rate",
    "learning_rate=fast": "must be of type float, got 'fast'",
    "d_model=16.5": "must be of type int, got 16.5",
    "layer.parallel=true": "must be of type bool, got 'true'",
    "model.layer.parallel=1": "must be of type bool, got 1",
    "learning_rate=0.1,-1": r"member 1 \(learning_rate=-1\) cannot be trained: .*learning_rate must be positive",
    "dropout_rate=0,1.5": "member 1 .*dropout_rate must be in",
    "d_model=16,17": "member 1 .*d_model must be divisible",
    "b1=0.5,1.0": "member 1 .*optimizer.b1 must be in",
    "seed=-1..0": r"member 0 \(seed=-1\).*seed must be an integer in",
    "steps=0": "training.steps must be a positive integer",
    "weight_decay=0.1": "must be 0 with name='adam'",
}


@pytest.mark.parametrize("text", BAD)
def test_an_override_that_cannot_be_is_refused_before_anything_runs(config, text):
    """A sweep begins whose member fails, or is another one than was meant."""
    with pytest.raises(ConfigError, match=BAD[text]):
        members_of(config, text)


# Components ------------------------------------------------------------------------------------


def test_components_are_swept_by_name_with_the_fields_that_they_have(config):
    """A member has a field of another's component, loses what both have, or cannot set what its own alone has."""
    text = "model.positions.name=rotary,alibi | model.positions.name=rotary; model.positions.base=500,5e5"
    tables = [member.config["model"]["positions"] for member in members_of(config, text)]
    assert tables == [
        {"name": "rotary"}, {"name": "alibi"}, {"name": "rotary", "base": 500.0}, {"name": "rotary", "base": 5e5},
    ]  # fmt: skip
    members = members_of(config, "model.feed_forward.name=gated,mlp; model.attention.num_heads=2,4")
    assert {member.config["model"]["feed_forward"]["width"] for member in members} == {24}
    assert [member.config["model"]["attention"]["num_heads"] for member in members] == [2, 4, 2, 4]


def test_a_pattern_of_layers_can_be_swept(config):
    """Layers can be alike in a sweep alone."""
    deep = config | {"model": config["model"] | {"num_layers": 2}}
    pattern = [{"attention": {"window": 4}}, {}]
    members = make_members(deep, [{}, {"model.pattern": pattern}])
    assert [len(member.experiment.model_config({}).pattern) for member in members] == [1, 2]
    with pytest.raises(ConfigError, match="member 0 .*: model.pattern has 2 layers, more than num_layers=1"):
        make_members(config, [{"model.pattern": pattern}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.positions.name=rotary,alibi; model.positions.base=5.0",
         r"member 1 .*: model.positions has no field 'base', which goes with .* 'rotary'; this is name='alibi'"),
        ("model.positions.name=rotarry", "member 0 .*: model.positions.name must be one of .*; did you mean 'rotary'"),
        ("model.positions.name=3", "model.positions.name must be of type str, got 3"),
        ("model.positions=rotary", "the config has no field 'model.positions'; did you mean 'model.positions.name'"),
        ("model.window=4", "the config has no field 'model.window'; did you mean 'model"),
        ("model.attention.implementation=reference,blockwise", "model.attention.implementation cannot be swept"),
        ("model.remat=none,full", "model.remat cannot be swept"),
        ("model.scan_unroll=1,2", "model.scan_unroll cannot be swept"),
        ("norm_position=pre,post; model.layer.norm_position=pre", "both set model.layer.norm_position: leave out one"),
    ],
)  # fmt: skip
def test_components_that_cannot_be_swept_are_refused(config, text, message):
    """A sweep trains something else than it says, or compares what cannot differ."""
    with pytest.raises(ConfigError, match=message):
        members_of(config, text)


def test_a_short_name_is_the_outer_field(config):
    """The dropout of attention is swept instead of that of the model."""
    fields = Fields(config)
    assert fields.resolve("dropout_rate") == ("model.dropout_rate",)
    assert fields.resolve("attention.dropout_rate") == ("model.attention.dropout_rate",)
    assert fields.resolve("num_heads") == ("model.attention.num_heads",)
    assert fields.resolve("parallel") == ("model.layer.parallel",)  # not the section
    several = "model.norm.bias or model.feed_forward.bias or model.output.bias"
    with pytest.raises(ConfigError, match=f"^'bias' is ambiguous: write {several}$"):
        fields.resolve("bias")
