"""What all tasks share: auxiliary losses; what is registered as a task."""

import jax.numpy as jnp
import pytest

from tformer_jax.config import ConfigError, build
from tformer_jax.tasks import TASKS, CausalLMTask, Task, TaskConfig, with_auxiliary


def test_auxiliary_losses_join_the_loss_and_the_metrics():
    """A layer's loss would not be trained, be counted twice, or hide one of the same name in another stack."""
    encoder, decoder = {"balance": jnp.float32(0.5)}, {"balance": jnp.float32(0.25), "z": jnp.float32(1.0)}
    assert with_auxiliary(jnp.float32(1.0), jnp.float32(3.0), encoder, decoder) == (
        2.75,
        3.0,
        {"balance": 0.75, "z": 1.0},
    )
    assert with_auxiliary(jnp.float32(1.0), jnp.float32(3.0), {}) == (1.0, 3.0, {})


def test_a_task_that_lacks_something_is_refused_by_its_name():
    """It would be found out in the middle of a training."""
    with pytest.raises(ConfigError, match=r"the task 'half' .* must define Data, DataConfig, Model, prepared_loss"):
        TASKS.register("half")(type("Half", (Task,), {}))


def test_a_task_that_inherits_its_section_has_one_of_its_own():
    """A subclass would take its parent's name away, and no config could say which of the two is meant."""
    TASKS.register("heir")(type("Heir", (CausalLMTask,), {}))
    assert CausalLMTask.Config.name == "causal_lm"
    section = build(TaskConfig, {"name": "heir", "sample_tokens": 3}, "task")
    assert isinstance(section, CausalLMTask.Config) and section.name == "heir"
