"""Every committed card is what its committed report renders to, byte for byte."""

import json
from pathlib import Path

import pytest

from distil_trainer.model_card import render_model_card

CARDS = sorted((Path(__file__).resolve().parents[1] / "hub_cards").glob("*.md"))


def test_there_is_a_card():
    assert CARDS


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_committed_card_is_rendered_from_its_report(card):
    report = json.loads(card.with_suffix(".report.json").read_text(encoding="utf-8"))
    assert str(render_model_card(report)) == card.read_text(encoding="utf-8")
