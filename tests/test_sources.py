"""What a module reaches is what importing it loads, and a digest changes with what is said, not with its layout."""

import subprocess
import sys

import pytest

from lib import sources
from lib.errors import InputError


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small project of its own; `write(path, text)` puts files into it."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)

    def write(path, text=""):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    for package in ("lib", "lib/a", "lib/b", "report"):
        write(f"{package}/__init__.py")
    write("lib/a/top.py", "import json\nfrom lib.b import middle\n\n\ndef f():\n    from lib.a import late\n")
    write("lib/a/late.py", "from . import beside\nfrom ..b.deep import x\n")
    write("lib/a/beside.py")
    write("lib/b/told.py", '"""Says itself."""\nprint(__doc__)\n')
    write("lib/b/middle.py", "import lib.b.deep as d\nfrom lib.b import told\n\n\ndef f():\n    pass\n")
    write("lib/b/deep.py", 'x = 1  # one\nFILE = "numbers.json"\nFOLDER = "schema"\n')
    write("lib/b/numbers.json", "[1]")
    write("lib/b/schema/one.json", "{}")
    write("lib/b/other.json", "[1]")
    write("report/page.py", "from lib.b import deep\n")
    return write


def test_imports_inside_functions_relative_ones_and_packages_are_followed(house):
    own = ["lib", "lib.a", "lib.a.beside", "lib.a.late", "lib.a.top", "lib.b", "lib.b.deep", "lib.b.middle"]
    own += ["lib.b.told"]
    assert sources.reached(["lib.a.top"]) == own
    assert sources.reached(["lib.b.deep", "json", "lib.nowhere"]) == ["lib", "lib.b", "lib.b.deep"]


@pytest.mark.parametrize(
    ("path", "text", "changes"),
    [
        ("lib/b/deep.py", 'x = 2\nFILE = "numbers.json"\nFOLDER = "schema"\n', True),
        ("lib/b/deep.py", 'x = 1  # in other words\nFILE = "numbers.json"\n\nFOLDER = ("schema")\n', False),
        ("lib/b/middle.py", "import lib.b.deep as d\nfrom lib.b import told\n\n\ndef f():\n    return 1\n", True),
        (
            "lib/b/middle.py",
            '"""M."""\nimport lib.b.deep as d\nfrom lib.b import told\n\n\ndef f():\n    """F."""\n    pass\n',
            False,
        ),
        ("lib/b/told.py", '"""Says itself differently."""\nprint(__doc__)\n', True),
        ("lib/b/numbers.json", "[2]", True),
        ("lib/b/schema/two.json", "{}", True),
        ("lib/b/other.json", "[2]", False),
        ("lib/a/beside.py", "y = 1", True),
        ("report/page.py", "x = 1", False),
    ],
)
def test_what_changes_a_digest(house, path, text, changes):
    before = sources.digest_of(["lib.a.top"])
    assert sources.digest_of(["lib.a.top"]) == before
    house(path, text)
    assert (sources.digest_of(["lib.a.top"]) != before) == changes


def test_a_module_that_does_not_parse(house):
    house("lib/b/deep.py", "x = = 1\n")
    with pytest.raises(InputError, match=r"^lib/b/deep\.py: does not parse \(.*\)$"):
        sources.reached(["lib.a.top"])


@pytest.mark.parametrize("module", ["lib.engine.scoring", "lib.claims.scorecard", "report.assemble"])
def test_what_importing_loads_is_reached(module):
    """The import itself is the reference."""
    code = f"import sys, {module}; print(*(m for m in sys.modules if m.split('.')[0] in ('lib', 'kernels', 'report')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(loaded) > 10
    assert set(loaded) <= set(sources.reached([module]))
