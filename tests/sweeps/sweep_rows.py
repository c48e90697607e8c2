"""Results of sweeps as tests need them, of a line each."""

import itertools


def result(loss, status="finished", member=0, steps=30, **overrides):
    """A row; the names of fields with "__" for the dot."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    final = {"loss": loss, "accuracy": None if loss is None else 1 / loss}
    return {"member": member, "status": status, "steps": steps, "overrides": fields, "final": final}


def at_rate(rate, loss, status="finished", **overrides):
    return result(loss, status, optimizer__learning_rate=rate, **overrides)


def grid(loss, **domains):
    """A member for each combination, its loss a function of the values."""
    combinations = itertools.product(*domains.values())
    return [result(loss(*x), member=i, **dict(zip(domains, x, strict=True))) for i, x in enumerate(combinations)]


def curve_rows(losses, validation=()):
    """A row every ten steps, and validations every thirty."""
    rows = [{"step": 10 * (i + 1), "loss": loss, "gradient_norm": 1.0} for i, loss in enumerate(losses)]
    return rows + [{"step": 30 * (i + 1), "validation_loss": loss} for i, loss in enumerate(validation)]
