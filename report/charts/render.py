"""Charts on their way out: their Japanese twins, and their pictures without a browser."""

import copy
import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typst
import vl_convert

from lib.errors import InputError

FONT = "IPAexGothic"
# What a chart says, in Japanese. A text with numbers in it goes by the patterns below.
JAPANESE = {
    "baseline": "ベースライン",
    "zero-ablation": "ゼロ置換",
    "mean-ablation": "平均置換",
    "identity": "恒等",
    "best per head": "ヘッドごとの最良",
    "factored ReLU": "分解形ReLU",
    "first 2K tokens": "先頭2Kトークン",
    "head size": "ヘッドの次元",
    "all weights": "全重み",
    "transfer first": "転写してから",
    "low rank": "低ランク",
    "all tokens": "全トークン",
    "measured": "実測値",
    "published (GPT-2 small)": "公表値（GPT-2 small）",
    "head": "ヘッド",
    "layer": "層",
    "rank": "順位",
    "condition": "条件",
    "source": "出典",
    "method": "方法",
    "change of PPL": "PPLの変化",
    "size of the change of PPL": "PPL変化の大きさ",
    "fit": "当てはめ",
    "PPL relative to the baseline": "ベースラインに対するPPL比",
    "PPL": "PPL",
    "tokens": "トークン",
    "interval from": "区間の下限",
    "interval to": "区間の上限",
    "linearized heads": "線形化したヘッド数",
    "changed heads": "変更したヘッド数",
    "scores s = q·k / √d": "スコア s = q·k / √d",
    "ReLU, L1, identity, uniform": "ReLU・L1・恒等・一様",
    "zero or mean instead of z": "zをゼロや平均に置き換え",
    "z = weights · v": "z = 重み · v",
    "heads on ReLU": "ReLUにしたヘッド数",
    "PPL above the baseline": "ベースラインからのPPLの上昇",
    "attention FLOPs saved": "削減されるattentionのFLOPs",
    "mean change of PPL": "PPL変化の平均",
    "sign": "符号",
    "worse without it": "除くと悪化",
    "better without it": "除くと改善",
    "rank on 2K": "2Kでの順位",
    "rank on all": "全トークンでの順位",
    "statistic": "統計量",
    "median": "中央値",
    "one head": "ヘッド単独",
    "tokens per second": "毎秒トークン数",
    "ms per token": "1トークンあたりms",
    "protocol": "手順",
    "recomputed": "毎回再計算",
    "cached": "KVキャッシュ",
    "backend": "実装",
    "iteration": "反復",
    "PPL of the generated text": "生成文のPPL",
    "share of repeated 4-grams": "既出の4-gramの割合",
    "distinct 2-grams": "異なり2-gramの割合",
    "value": "値",
    "samples N": "標本数N",
    "smallest PPL of N": "N個中の最小PPL",
    "smallest PPL minus the baseline's": "最小PPLのベースラインとの差",
    "expected": "期待値",
    "first N": "先頭N個",
    "estimate": "推定",
    "context length": "文脈長",
    "speed-up": "速度比",
    "what": "対象",
    "theory as published": "公表された理論値",
    "Amdahl's bound": "アムダールの上限",
    "attention": "attention",
    "one layer": "1層",
    "whole model": "モデル全体",
    "prefill": "プリフィル",
    "decoding": "デコード",
    "layer of the model": "モデルの1層",
    "FLOP per byte": "FLOP/バイト",
    "FLOP per second": "FLOP/秒",
    "roofline": "ルーフライン",
    "kernel": "カーネル",
    "sequence length": "系列長",
    "training tokens": "学習トークン数",
    "loss": "損失",
    "device": "機器",
    "threshold": "閾値",
    "right answers": "正答率",
    "FLOPs for a problem": "1問あたりのFLOPs",
    "FLOPs": "FLOPs",
    "way": "答え方",
    "answering at once": "すぐに答える",
    "thinking aloud": "考えを書く",
    "revised": "書き直し",
    "vote of answers at once": "すぐの答えの多数決",
    "vote of thoughts": "考えの多数決",
    "likeliest answer at once": "すぐの答えの最尤",
    "likeliest thought": "考えの最尤",
    "parameters": "パラメータ数",
    "model": "モデル",
    "one family": "同じ処方の一群",
    "profiles": "プロファイル",
    "share of the heads": "ヘッドの割合",
    "share recovered": "取り戻した割合",
    "|ΔPPL|": "|ΔPPL|",
    "greedy": "貪欲",
    "KL": "KL",
    "one backward pass": "逆伝播1回",
    "random": "無作為",
    "same most likely token": "最も確からしいトークンの一致",
    "gain of copying kept": "残る写しの利得",
    "share": "割合",
}
PATTERNS = [
    (re.compile(r"^(\d+) tokens$"), r"\1トークン"),
    (re.compile(r"^ReLU, (\d+) heads$"), r"ReLU \1ヘッド"),
    (re.compile(r"^(.+), (\d+) heads$"), r"\1 \2ヘッド"),
    (re.compile(r"^(\d+) ReLU heads$"), r"ReLU \1ヘッド"),
]
_UNTRANSLATED = re.compile(r"^(PPL|ReLU|L1|SDPA|[+A-Z]?\d[\d.,×x%]*|L\d+H\d+.*)$")
_SHOWN = {"title", "text", "label"}
_SIZE = re.compile(r'<svg[^>]*? viewBox="0 0 ([\d.]+) ([\d.]+)"')
_PAGE = (
    '#set page(width: {width}pt, height: {height}pt, margin: 0pt, fill: white)\n#place(image("chart.svg", width: 100%))'
)


def specification(chart: Any) -> dict[str, Any]:
    """An Altair chart, checked, as what it is drawn from; a dict is that already."""
    spec: dict[str, Any] = chart if isinstance(chart, dict) else chart.to_dict()
    return spec


def localise(chart: Any, lang: str, strings: dict[str, str] | None = None) -> dict[str, Any]:
    """The chart's specification with every title, legend entry and label in `lang`; `strings` adds translations."""
    spec = copy.deepcopy(specification(chart))
    return spec if lang == "en" else _localised(spec, JAPANESE | (strings or {}), None)


def png(spec: dict[str, Any], scale: float = 2.0) -> bytes:
    """PNG bytes of a specification, on white, `scale` pixels to a unit of the chart's."""
    drawing = svg(spec)
    width, height = size(drawing)
    page = _PAGE.format(width=width, height=height)
    files = {"main": page.encode(), "chart.svg": drawing.encode()}
    painted: bytes = _painter().compile(files, format="png", ppi=72 * scale)
    return painted


def svg(spec: dict[str, Any]) -> str:
    """SVG text of a specification, without a background and without descriptions of every mark."""
    return _svg(json.dumps(undescribed(spec)))


@lru_cache(maxsize=256)
def _svg(spec: str) -> str:
    text = _converter().vegalite_to_svg(spec, allowed_base_urls=[])
    text = re.sub(r' (?:aria-\w+|role|class)="[^"]*"', "", text)
    text = re.sub(r"\d+\.\d{3,}(?=[^<>]*>)", _hundredths, text)
    # Vega counts gradients and clips on from drawing to drawing; the same chart shall give the same bytes
    names = dict.fromkeys(re.findall(r'id="(\w+)"', text))
    for i, name in enumerate(names):
        text = re.sub(rf'(id="|#){name}\b', rf"\g<1>d{i}", text)
    return text


def _hundredths(number: re.Match[str]) -> str:
    """A length in an SVG's tag, whose unit is a pixel, to two digits."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def size(drawing: str) -> tuple[str, str]:
    """Width and height of an SVG of `svg`, in the chart's units. Raises `InputError` where it tells none."""
    found = _SIZE.match(drawing)
    if found is None:
        raise InputError(f"a chart's drawing tells no size: {drawing[:80]}")
    return found[1], found[2]


def undescribed(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification without the descriptions of every mark, which a page's own description of the chart replaces:
    to make them takes a seventh of a drawing's time."""
    return spec | {"config": spec.get("config", {}) | {"aria": False}}


def font_file() -> Path:
    """The Japanese font that charts, page and books share."""
    package = find_spec("matplotlib_fontja")  # imported it would bring all of matplotlib
    if package is None or package.origin is None:
        raise InputError("matplotlib-fontja is not installed, and with it the font of charts: run `make env`")
    return Path(package.origin).parent / "fonts" / "ipaexg.ttf"


@cache
def _converter() -> Any:
    vl_convert.register_font_directory(str(font_file().parent))
    return vl_convert


@cache
def _painter() -> Any:
    """Typst paints a chart many times as fast as vl-convert where lines end far beyond the picture."""
    return typst.Compiler(font_paths=[str(font_file().parent)], ignore_system_fonts=True)


def _localised(node: Any, strings: Mapping[str, str], key: str | None) -> Any:
    if isinstance(node, dict):
        if key == "datasets" or key == "data":
            return {k: [_row(r, strings) for r in v] if isinstance(v, list) else v for k, v in node.items()}
        return {
            k: _expression(v, strings) if k == "filter" or k == "test" else _localised(v, strings, k)
            for k, v in node.items()
        }
    if isinstance(node, list):
        if key in ("domain", "sort"):
            return [_translated(v, strings, False) if isinstance(v, str) else v for v in node]
        return [_localised(v, strings, key) for v in node]
    if isinstance(node, str) and key in _SHOWN:
        return _translated(node, strings, True)
    return node


def _row(row: Any, strings: Mapping[str, str]) -> Any:
    return {k: _translated(v, strings, False) if isinstance(v, str) else v for k, v in row.items()}


def _expression(node: str, strings: Mapping[str, str]) -> str:
    """A filter compares data, so its quoted texts are translated with the data."""
    if not isinstance(node, str):
        return node
    return re.sub(r"'([^']*)'", lambda m: "'" + _translated(m.group(1), strings, False) + "'", node)


def _translated(text: str, strings: Mapping[str, str], required: bool) -> str:
    if text in strings:
        return strings[text]
    for pattern, form in PATTERNS:
        if pattern.match(text):
            return pattern.sub(form, text)
    if " · " in text:
        return " · ".join(_translated(part, strings, False) for part in text.split(" · "))
    if required and not _UNTRANSLATED.match(text):
        raise InputError(f"a chart says {text!r}, without Japanese in report/charts/render.py; pass strings={{...}}")
    return text
