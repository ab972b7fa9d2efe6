"""What a run says of itself before its first step."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from unnoise import Runtime, State, recipes
from unnoise.forecast import forecast
from unnoise.override import override


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, r"[\d.e-]+ minutes of forward and backward passes"),
        ({"compiled": True}, r"[\d.e-]+ minutes of forward and backward passes, before they are compiled"),
        ({"captured": True, "compiled": True}, r".* passes, before they are compiled and captured"),
        ({"minutes": 7.0, "compiled": True}, "7 minutes"),
    ],
)
def test_the_time_that_is_told_says_what_was_measured(facts: dict[str, Any], said: str) -> None:
    """An optimiser's step, and what makes others faster, are not in it."""
    recipe = dataclasses.replace(override(recipes.load("digits")[0], "model.net.width=8"), batch=8)
    total = None if "minutes" in facts else 800
    state = State(recipe, 0, torch.device("cpu"), total, None)
    line = forecast(recipe, state, recipe.data.load(), Runtime(), {"precision": "fp32", **facts})
    before, _, minutes = line.rpartition(" GiB, ")
    assert before.startswith("digits: ") and " in batches of 8 on cpu in fp32; about " in before
    assert re.fullmatch(said, minutes), minutes
