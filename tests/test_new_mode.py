"""The README's recipe for an intervention, walked in a copy: its lines, put where it says, are scored by every path."""

import ast
import re

import pytest
import scratch
from conftest import ROOT

SECTIONS = {"README.md": "### An intervention\n", "README.ja.md": "### 介入\n"}
HEADS = [(0, 1), (0, 3), (1, 0)]

SCORED = f"""
import itertools, json, sys, tempfile
import torch
from tiny_models import gpt2, llama, tokens
import lib
from lib.engine.generation import generate
from lib.engine.interventions import Plan, apply
from lib.engine.reference import Reference
from lib.engine.scoring import Evaluator
from lib.store import Store

found, HEADS = [], {HEADS}
for name, make in itertools.product(sys.argv[1:], (gpt2, llama)):
    model, ids = make(), tokens(2)
    ref, plan, edits = Reference(model), Plan.of(name, HEADS), dict.fromkeys(HEADS, name)
    folded = ref.means(ids)
    means = (folded + torch.stack([ref.value_bias(layer) for layer in range(ref.n_layer)])).float()
    expected = torch.stack([ref.nll(row, edits, folded) for row in ids])
    with tempfile.TemporaryDirectory() as folder:
        engine = Evaluator(model, ids, Store(folder), model_key="random")
        scored = torch.from_numpy(engine.score([plan], 2, engine.means(2))[plan])
    with apply(model, plan, means):
        hooked = model(ids.long()).logits
    prompt = ids[:, :9].numpy()
    texts = [generate(model, prompt, 20, plan, means=means, cached=cached).tolist() for cached in (True, False)]
    found.append({{
        "lib": lib.__file__,
        "scorer": float((scored.double() - expected).abs().max()),
        "hooks": float((hooked.double() - torch.stack([ref.logits(row, edits, folded) for row in ids])).abs().max()),
        "change": float((expected - torch.stack([ref.nll(row) for row in ids])).abs().max()),
        "cached": texts[0],
        "recomputed": texts[1],
        "reference": [ref.generate(row, 20, edits, folded) for row in prompt.tolist()],
    }})
json.dump(found, sys.stdout)
"""


def recipe(readme):
    """The recipe's two blocks of entries: `{name: line}` of the table and of the reference."""
    section = (ROOT / readme).read_text(encoding="utf-8").split(SECTIONS[readme])[1].split("\n### ")[0]
    return [
        {re.match(r'"(\w+)"', line)[1]: line for line in block.splitlines()}
        for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    ]


def test_both_readmes_give_the_same_recipe():
    table, plain = recipe("README.md")
    assert [table, plain] == recipe("README.ja.md")
    kinds = [ast.parse(f"{{{line}}}").body[0].value.values[0].func.id for line in table.values()]
    assert sorted(kinds) == ["Constant", "Weights"] and list(table) == list(plain)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the code with the recipe's lines in the two files that it names."""
    folder, (table, plain) = scratch.copied(tmp_path_factory.mktemp("copy")), recipe("README.md")
    constant = [name for name, line in table.items() if "Constant(" in line]
    heads = {
        "modes": "MappingProxyType(\n    {\n",
        "CONSTANTS": "CONSTANTS: dict[str, Callable] = {\n",
        "PATTERNS": "PATTERNS: dict[str, Callable] = {\n",
    }
    lines = {
        "modes": list(table.values()),
        "CONSTANTS": [line for name, line in plain.items() if name in constant],
        "PATTERNS": [line for name, line in plain.items() if name not in constant],
    }
    new = {key: (heads[key], heads[key] + "".join(f"    {line}\n" for line in lines[key])) for key in heads}
    scratch.edited(
        folder,
        {"lib/engine/modes.py": [new["modes"]], "lib/engine/reference.py": [new["CONSTANTS"], new["PATTERNS"]]},
    )
    return folder


def test_new_modes_are_scored_by_every_path(copy):
    found = scratch.ran(copy, SCORED, *recipe("README.md")[0])
    assert len(found) == 2 * 2
    for paths in found:
        assert paths["lib"].startswith(str(copy))
        assert paths["scorer"] < 1e-4 and paths["hooks"] < 1e-4 and paths["change"] > 0.1
        assert paths["cached"] == paths["recomputed"] == paths["reference"]
