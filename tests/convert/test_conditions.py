"""Conditions choose episodes by seed, policy, return and length."""

import pytest

from world_models.convert.conditions import EpisodeFacts, parse

EPISODE = EpisodeFacts(seed=7, policy="brownian", earned=-1.5, length=49)


@pytest.mark.parametrize(
    "text",
    [
        "seed=7",
        "seed=3,7",
        " seed = 3, 7 ",
        "seed!=3",
        "seed<8",
        "seed<=7",
        "policy=brownian",
        "policy=driver,brownian",
        "policy!=driver",
        "return<0",
        "return<=-1.5",
        "return=-1.5",
        "return>-2e0",
        "length<50",
        "length>=49",
    ],
)
def test_an_episode_meets_a_condition(text):
    (condition,) = parse([text], "keep")
    assert condition.holds(EPISODE)


@pytest.mark.parametrize(
    "text", ["seed=3", "seed!=3,7", "policy=driver", "policy!=brownian", "return>=0", "length<49", "length>49"]
)
def test_an_episode_does_not_meet_a_condition(text):
    (condition,) = parse([text], "keep")
    assert not condition.holds(EPISODE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("short", "give a condition such as seed=3,7"),
        ("speed<3", "give a condition such as seed=3,7"),
        ("seed=", "give a condition such as seed=3,7"),
        ("seed=x", "compare the seed with whole numbers"),
        ("length<4.5", "compare the length with whole numbers"),
        ("return<none", "compare the return with numbers"),
        ("policy<driver", "< compares a seed, return or length with one number"),
        ("length<3,4", "< compares a seed, return or length with one number"),
    ],
)
def test_a_text_that_is_no_condition_is_refused_with_its_flag(text, said):
    with pytest.raises(ValueError, match="drop is") as refused:
        parse([text], "drop")
    assert said in str(refused.value)
