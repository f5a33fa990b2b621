"""About how long notebooks will take here: what each took the last time, in this profile or else in the base profile.

Another profile's time is scaled by the work of measuring: the arithmetic of a token of the model times the chunks that
are scored. It tells minutes from hours, no more.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.layout import DATED, ROOT, build_root
from lib.params import BASE_PROFILE, load_profile

HUB = {  # weights beside the embeddings, of models that need not be here
    "openai-community/gpt2": 85e6,
    "openai-community/gpt2-medium": 302e6,
    "openai-community/gpt2-large": 708e6,
    "openai-community/gpt2-xl": 1475e6,
}


def work(values: Mapping[str, Any]) -> float | None:
    """Weights that a token meets times chunks; None for a model whose size is told by nothing at hand."""
    name = str(values["model"]).split("@")[0]
    folder = ROOT / name
    size = HUB.get(name)
    if size is None and (folder / "model.safetensors").is_file():
        size = (folder / "model.safetensors").stat().st_size / 4
    return None if size is None else size * values["full_chunks"]


def rates(name: str, values: Mapping[str, Any], own: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """`{task: {notebook: seconds}}`: `own` where it knows, else the base profile's of this machine, else the newest
    kept profile's, both scaled.
    """
    base: dict[str, dict[str, float]] = (
        {"measure": {}, "redraw": {}} | kept() | last(build_root() / BASE_PROFILE / "manifest.json")
    )
    here, there = work(values), work(load_profile(BASE_PROFILE))
    factor = here / there if here and there and name != BASE_PROFILE else 1.0
    scaled = {nb: seconds * factor for nb, seconds in base["measure"].items()}
    if name != BASE_PROFILE and not here:
        scaled = {}
    return {
        "measure": {**scaled, **own.get("measure", {})},
        "redraw": {**base["redraw"], **own.get("redraw", {})},
    }


def last(manifest: Path) -> dict[str, dict[str, float]]:
    try:
        return json.loads(manifest.read_text(encoding="utf-8")).get("seconds", {})
    except (OSError, ValueError):
        return {}


def kept() -> dict[str, dict[str, float]]:
    """The newest record of `make profile` among the dated data."""
    found = sorted(DATED.glob(f"*-profile-{BASE_PROFILE}.json"))
    if not found:
        return {}
    sections = json.loads(found[-1].read_text(encoding="utf-8"))["sections"]
    return {"measure": {own["section"]: own["seconds"] for own in sections}}


def total(tasks: Iterable[tuple[str, str]], known: Mapping[str, Mapping[str, float]]) -> str:
    """All `(notebook, task)` in words, and how many of them nothing is known of."""
    seconds = [known.get(task, {}).get(name) for name, task in tasks]
    told = [own for own in seconds if own is not None]
    unknown = len(seconds) - len(told)
    rest = f", without {unknown} that no run has timed" if unknown and told else ""
    return f"about {words(sum(told))} in all{rest}" if told else "how long: no run has timed them yet"


def words(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 100 * 60 else f"{seconds / 3600:.0f} h"
