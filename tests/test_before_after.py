"""The table of verdicts before and after, on the published run and the record that is kept."""

import json

import published_run
import pytest
from conftest import ROOT

from lib.claims import before_after, rules
from lib.claims.judging import VERDICTS

RECORD = ROOT / "docs" / "data" / "2026-11-25-verdicts-embedded.json"


@pytest.fixture
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_every_claim_has_its_row_and_a_change_stands_out(record):
    claims = rules.evaluate(published_run.build())
    rows = before_after.table(record, claims).splitlines()[2:]
    assert len(rows) == len(claims)
    for claim, row in zip(claims, rows, strict=True):
        _, statement, before, now, *_, reason, _ = (cell.strip() for cell in row.split(" | ".strip()))
        was = record["before"].get(claim["id"], {"verdict": before_after.NONE})["verdict"]
        assert (statement, before, now.strip("*")) == (claim["statement"]["en"], was, claim["verdict"])
        assert now.startswith("**") == (was != claim["verdict"])
        assert reason == record["reasons"][claim["id"]]


def test_a_claim_of_later_had_no_rule(record):
    (claim, *_) = rules.evaluate(published_run.build())
    for part in ("before", "reasons"):
        del record[part][claim["id"]]
    row = before_after.table(record, [claim]).splitlines()[-1]
    assert f"| {before_after.NONE} | **holds** | — |" in row and before_after.NEW in row


def test_figures_stand_with_their_intervals():
    found = {"share": 0.25, "share_ci": [0.1, None], "limit": 0.5, "of": 3}
    assert before_after._figures(found) == "share 0.25 [0.1, ∞]; of 3"
    rows = [{"condition": "relu_30", "difference": -1.0, "difference_ci": [-2.0, -0.5]}]
    assert before_after._figures({"conditions": rows}) == "relu_30 -1 [-2, -0.5]"


def test_the_record_speaks_of_every_claim(record):
    assert set(record["reasons"]) == set(rules.IDS)
    assert {row["verdict"] for row in record["before"].values()} <= set(VERDICTS)
    assert record["provenance"]["commit"] and record["date"]
