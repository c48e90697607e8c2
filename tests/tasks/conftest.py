"""What the tests of all tasks share: programs compiled in a hurry, and documents on disk."""

import jax
import pytest
from support import quick_jit

_WORDS = "the red cat saw a small dog on that old green hill today, and Zoë's naïve café 🙂 sang".split()


@pytest.fixture(scope="session")
def quick():
    """`quick(make)`: what `make()` returns, the programs it makes compiled in a hurry."""

    def quick(make):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "jit", quick_jit)
            return make()

    return quick


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """24 documents of one to three lines, each of 2 to 9 words; some characters take several bytes."""
    folder = tmp_path_factory.mktemp("documents")
    for number in range(24):
        words = [_WORDS[(number * 7 + i * (1 + number % 4)) % len(_WORDS)] for i in range(30)]
        lines = [" ".join(words[9 * i : 9 * i + 2 + (number + i) % 8]) for i in range(1 + number % 3)]
        (folder / f"{number:02}.txt").write_text("".join(line + "\n" for line in lines), "utf-8")
    return folder
