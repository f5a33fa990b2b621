"""A section's results as a table: one line for each place that some text of the report links to."""

import html
import json
from collections.abc import Iterator

from report.prose import anchor


def view(name: str, data: object, referenced: set[str]) -> str:
    """HTML of the places of `data` that texts link to (`referenced` are their anchors), in the order of the results."""
    rows = "".join(
        f'<tr id="{html.escape(here)}" class="r"><th scope="row"><code>{html.escape(here)}</code></th>'
        f"<td>{html.escape(json.dumps(value, ensure_ascii=False))}</td></tr>\n"
        for here, value in _places(data, (name,))
        if here in referenced
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="values"><tbody>\n{rows}</tbody></table></div>' if rows else ""
    )


def _places(value: object, trail: tuple) -> Iterator[tuple[str, object]]:
    """`(anchor, value)` of every place below `value`, itself first."""
    yield anchor(trail), value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*trail, key))
