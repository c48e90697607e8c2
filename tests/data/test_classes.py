"""The names of classes: written down once, found again, and refused when they are other ones."""

import pytest

from tformer_jax.data.classes import keep_classes, load_classes
from tformer_jax.data.files import DataError


def test_what_is_kept_is_loaded(tmp_path):
    """A prediction would name another class than the one that was learned."""
    keep_classes(["zwei", "drei", "größer"], tmp_path)
    assert load_classes(tmp_path) == ["zwei", "drei", "größer"]


def test_the_same_classes_may_be_kept_again(tmp_path):
    """A run could not be resumed."""
    for _ in range(2):
        keep_classes(["a", "b"], tmp_path)
    assert load_classes(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("other", [["b", "a"], ["a"], ["a", "b", "c"]])
def test_other_classes_are_refused(tmp_path, other):
    """A resumed run would learn the same label under another number."""
    keep_classes(["a", "b"], tmp_path)
    with pytest.raises(DataError, match="the classes of the data are not those in"):
        keep_classes(other, tmp_path)
    assert load_classes(tmp_path) == ["a", "b"]


def test_classes_of_one_name_are_refused_before_anything_is_trained(tmp_path):
    """A run would end well, and nobody could load its classes."""
    with pytest.raises(DataError, match=r"classes.json must hold each name once, but repeats \['é'\]"):
        keep_classes(["é", "e\u0301"], tmp_path)


@pytest.mark.parametrize("content", [None, "", "3", "[1, 2]", '{"a": 1}'])
def test_what_is_no_list_of_names_is_a_data_error(tmp_path, content):
    """Evaluating a run that lost its classes would end in a traceback."""
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match="classes.json"):
        load_classes(tmp_path)
