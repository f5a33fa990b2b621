"""Speeds timed on other machines, as notebook K shows them: from files in the bench's form, or said to be missing."""

import json
from types import SimpleNamespace

import nbformat
import pytest

from kernels import measured
from lib.pipeline.notebooks import NOTEBOOKS
from lib.timing import gpu_targets, speedups
from report import prose
from report.charts import kernels as charts

(CELL,) = (c.source for c in nbformat.read(NOTEBOOKS / "K.ipynb", as_version=4).cells if "K.elsewhere" in c.source)


def kept(date, ratio=1.5):
    """A made-up file: a fast row, one that disagreed, and one of decoding."""
    times = {
        "relu": {"ms": 2, "ms_q20": 1.9, "ms_q80": 2.2, "ms_q90": 2.2},
        "sdpa flash": {"ms": 3, "ms_q20": 2.9, "ms_q80": 3.1},
    }
    fast = {"name": "gpu_bf16_16384", "agrees": True, "ratio": ratio, "rival": "sdpa flash", "tflops": 500.0}
    fast |= {"share_of_matmul": 0.6, "times": times}
    red = {"name": "gpu_red", "agrees": False, "ratio": None, "error": 1.0}
    tokens = {"name": "gpu_decode_30", "agrees": True, "ratio": 3.0, "tokens_per_s": 5e3, "share_of_bandwidth": 0.3}
    found = dict.fromkeys(measured.REQUIRED, "x")
    found |= {"date": date, "device_name": "A made-up GPU", "provenance": "made up <b>for</b> a test"}
    targets = gpu_targets.judged({"bench": {"rows": [fast]}})
    return found | {"rows": [fast, red, tokens], "targets": targets}


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """`(files, device) -> [(bundle, metadata)]`: what the cell displays where these files are kept."""

    def run(files, device="cpu"):
        outputs = []
        for i, content in enumerate(files):
            (tmp_path / f"{i}.json").write_text(json.dumps(content))
        found = measured.load(tmp_path)
        sources = [{k: f[k] for k in ("file", "date", "device_name", "provenance")} for f in found]
        data = {
            "elsewhere": speedups.elsewhere(found),
            "targets": gpu_targets.elsewhere(found),
            "files": sources,
            "device": device,
        }
        monkeypatch.setattr(prose, "show", lambda bundle, metadata: outputs.append((bundle, metadata)))
        monkeypatch.setattr(prose, "_run", None)
        prose.bind(SimpleNamespace(results={"K": data}, figures=tmp_path, slug="tiny", section="K"))
        exec(
            CELL,
            {"data": data, "charts": charts, **{name: getattr(prose, name) for name in ("say", "table", "figure")}},
        )
        return outputs

    return run


def test_kept_figures_are_drawn_and_marked(shown):
    outputs = shown([kept("2026-01-02T10:00:00+00:00"), kept("2026-03-01T10:00:00+00:00", 1.7)])
    marks = {"ja": "この実行の測定ではない", "en": "not in this run"}
    for lang, mark in marks.items():
        own = [(bundle, metadata) for bundle, metadata in outputs if metadata["lang"] == lang]
        (table,) = (bundle for bundle, metadata in own if metadata.get("table") == "elsewhere")
        assert mark in table[prose.TABLE_MIME]["caption"]
        cells = [[cell["text"] for cell in row] for row in table[prose.TABLE_MIME]["rows"]]
        assert [row[1:3] for row in cells] == 3 * [["A made-up GPU", "2026-01-02"]] + 3 * [
            ["A made-up GPU", "2026-03-01"]
        ]
        assert [row[3] for row in cells] == ["1.50", "—", "—", "1.70", "—", "—"]
        (table,) = (bundle for bundle, metadata in own if metadata.get("table") == "targets")
        assert mark in table[prose.TABLE_MIME]["caption"]
        cells = [[cell["text"] for cell in row] for row in table[prose.TABLE_MIME]["rows"]]
        assert len(cells) == 2 * len(gpu_targets.TARGETS)
        by_target = {(row[0], row[2], row[3]): row[4:] for row in cells}
        met, missed, neither = {"ja": ("達成", "未達", "未測定"), "en": ("met", "missed", "not measured")}[lang]
        assert by_target["forward, T = 16384", "2026-01-02", "≥ 1.2 ×"] == ["1.5", "—", met]
        assert by_target["forward, T = 16384", "2026-01-02", "≥ 530 TFLOP/s"] == ["500", "454.5", missed]
        assert by_target["decoding, B = 1", "2026-03-01", "≥ 10,000 tokens/s"] == ["—", "—", neither]
        (drawn,) = ((bundle, metadata) for bundle, metadata in own if metadata.get("figure") == "elsewhere")
        assert mark in drawn[1]["caption"]
        points = [row for rows in _data(drawn[0][prose.VEGALITE_MIME]) for row in rows if "device" in row]
        assert {(row["device"], row["value"]) for row in points} == {
            ("A made-up GPU, 2026-01-02", 1.5),
            ("A made-up GPU, 2026-03-01", 1.7),
        }
        said = "".join(bundle.get("text/markdown", "") for bundle, _ in own)
        assert "0\\.json" in said and "<b>" not in said


def test_without_files_nothing_is_claimed(shown):
    texts = [bundle["text/plain"] for bundle, _ in shown([])]
    assert len(texts) == 2
    assert "GPUでの速度について何も主張しない" in texts[0]
    assert "claims nothing about speed there" in texts[1]


def test_on_a_gpu_the_run_speaks_for_itself(shown):
    assert shown([], device="cuda") == []


def _data(node):
    if isinstance(node, dict):
        if isinstance(node.get("values"), list):
            yield [row for row in node["values"] if isinstance(row, dict)]
        for value in node.values():
            yield from _data(value)
    elif isinstance(node, list):
        for value in node:
            yield from _data(value)
