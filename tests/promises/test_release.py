import re
from datetime import date
from pathlib import Path

from world_models.version import __version__

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def test_the_newest_release_in_the_changelog_is_the_version_and_has_a_date():
    releases = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", CHANGELOG.read_text(), re.MULTILINE)
    newest, day = releases[0]
    assert newest == __version__
    assert date.fromisoformat(day)


def test_the_headings_of_the_changelog_are_releases():
    heads = re.findall(r"^## (.*)$", CHANGELOG.read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", head) for head in heads[1:])
