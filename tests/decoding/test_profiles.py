"""Profiles of `reweigh calibrate` as an argument of generate: what they set, and what cannot stand beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoding.judging import Asker
from decoding.rewarding import selecting_of
from grammars.errors import RequestError
from samplers.inference_scaling_profile import Profile, dumped

if TYPE_CHECKING:
    from decoding.engine import Engine

PROFILE = Profile(6, 0.5, 0.4, {"prompts": 10})


class Nobody:
    """A model that is asked nothing."""

    def ask(self, questions: Any) -> Any:
        raise AssertionError("no judge here")


NOBODY: Asker = Nobody()


@pytest.mark.parametrize("form", ["path", "text path", "object", "profile"])
def test_a_profile_sets_k_and_the_temperature_in_units_of_the_reward(tmp_path: Path, form: str):
    path = tmp_path / "profile.json"
    path.write_text(dumped(PROFILE))
    given = {"path": path, "text path": str(path), "object": json.loads(dumped(PROFILE)), "profile": PROFILE}[form]
    options: dict[str, Any] = {"profile": given, "reward": len, "max_tokens": 4}
    selecting = selecting_of(options, NOBODY)
    assert selecting is not None and selecting.temperature == pytest.approx(0.2)
    assert options == {"max_tokens": 4, "particles": 6}


def test_the_engine_draws_as_the_profile_says(engine: Engine):
    asked: dict[str, Any] = {"regex": "[0-9]{1,4}", "max_tokens": 6, "seed": 2, "reward": len}
    by_profile = engine.generate("A number: ", profile=PROFILE, **asked)
    by_hand = engine.generate("A number: ", k=6, select_temperature=0.2, **asked)
    assert by_profile.texts == by_hand.texts and len(by_profile.texts) == 6
    assert by_profile.selection_weights == pytest.approx(by_hand.selection_weights)


def test_what_a_profile_cannot_be_or_stand_beside_is_named(tmp_path: Path):
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"profile": PROFILE, "reward": len, "k": 3}, "k=3 beside a profile"),
        ({"profile": PROFILE, "reward": len, "particles": 3}, "particles=3 beside"),
        ({"profile": PROFILE, "reward": len, "select_temperature": 0.0}, "select_temperature=0.0 beside"),
        ({"profile": PROFILE, "reward": len, "rule": {"pessimistic": {"beta": 1}}}, "beside a profile"),
        ({"profile": PROFILE}, "there is none"),
        ({"profile": tmp_path / "none.json", "reward": len}, "cannot be read"),
        ({"profile": bad, "reward": len}, "no JSON"),
        ({"profile": {"k": 3}, "reward": len}, "reweigh_profile"),
        ({"profile": 5, "reward": len}, "profile=5"),
    ]
    for options, told in wrong:
        with pytest.raises(RequestError, match=told):
            selecting_of(options, NOBODY)
