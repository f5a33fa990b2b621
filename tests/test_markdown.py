"""Text on its way into page and book."""

import pytest

from report import markdown


@pytest.mark.parametrize(
    ("pieces", "spaced"),
    [
        (["は", "+26.6%", "で"], "は_+26.6%_で"),
        (["全144ヘッド"], "全_144_ヘッド"),
        (["ReLUの", "30", "ヘッド（2K）、PPL"], "ReLU_の_30_ヘッド（2K）、PPL"),
        (["もう一度"], "もう一度"),
        (["only Latin 12"], "only Latin 12"),
    ],
)
def test_one_gap_at_every_boundary_also_between_inlines(pieces, spaced):
    [paragraph] = markdown.spaced([{"t": "Para", "c": [{"t": "Str", "c": piece} for piece in pieces]}])
    assert "".join(inline["c"] for inline in paragraph["c"]) == spaced.replace("_", markdown.GAP)


def test_code_and_mathematics_keep_their_letters():
    math = {"t": "Math", "c": [{"t": "InlineMath"}, "w_{ij}"]}
    code = {"t": "Code", "c": [["", [], []], "あx"]}
    [paragraph] = markdown.spaced([{"t": "Para", "c": [{"t": "Str", "c": "値"}, math, code]}])
    assert paragraph["c"][1:] == [math, code]
