"""The papers of the project: how it is cited, what has changed, how one contributes."""

import configparser
import re
from pathlib import Path

import pytest

import tformer_jax

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def metadata():
    """What `setup.cfg` says of the package."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["metadata"]


@pytest.fixture(scope="module")
def citation():
    """CITATION.cff, as YAML has it."""
    return pytest.importorskip("yaml").safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


def test_the_version_is_that_of_the_package(metadata):
    """Who cites it would name a version that is not installed. Read without YAML, which need not be there."""
    assert metadata["version"] == "attr: tformer_jax.__version__"
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    assert version == tformer_jax.__version__


def test_the_citation_is_one(citation, metadata):
    """Whoever reads it, such as GitHub or Zotero, would refuse it: what CFF 1.2.0 requires, and knows."""
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["license"] == metadata["license"]
    assert citation["title"].startswith(metadata["name"])
    known = {"cff-version", "message", "title", "type", "abstract", "authors", "version", "license", "keywords"}
    assert citation.keys() <= known
    assert all(isinstance(citation[name], str) for name in known - {"authors", "keywords"})


def test_the_authors_are_those_of_the_licence(citation):
    """Somebody else would be cited than who holds the copyright."""
    (holder,) = re.findall(r"Copyright \d{4} (.+)", (ROOT / "LICENSE").read_text("utf-8"))
    assert [author["name"] for author in citation["authors"]] == [holder]


def test_the_change_log_has_the_version():
    """A release would have no line, or what comes next no place."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == "Unreleased" and headings[1].split()[0] == tformer_jax.__version__
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_the_links_lead_somewhere(page):
    """A reader would click on a page that was moved."""
    text = (ROOT / page).read_text("utf-8")
    assert f"]({page})" in (ROOT / "README.md").read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    assert len(text.splitlines()) <= 60 or page == "CHANGELOG.md"


def test_pins_are_of_what_is_required():
    """`pip install -r requirements.txt` would leave out a requirement, which then is of a version that nobody tested."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    wanted = "\n".join(
        [
            parser["options"]["install_requires"],
            *(extras[name] for name in ("sweep", "postgresql", "test", "notebooks")),
        ]
    )
    name = lambda line: re.match(r"[A-Za-z0-9_-]+", line)[0].lower()
    pinned = {name(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert {name(line) for line in wanted.split()} <= pinned
