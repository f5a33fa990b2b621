"""The command in the report's footer: run as it stands, it passes the values on, and nothing in them is run."""

import subprocess

import pytest

from report import provenance
from report.document import Document

MAKEFILE = "report:\n\t@printf '%s\\n' \"$$PROFILE\" $(PARAMS)\nexport PROFILE\n"


def passed_on(tmp_path, command):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def document(profile, **parameters):
    return Document(None, {"setup": {"data": {}, "provenance": {"profile": profile}, "parameters": parameters}})


@pytest.mark.parametrize(
    "value",
    ["plain", "two words", "it's", 'a "b"', "$(touch fired)", "`touch fired`", "$(shell touch fired)", "a\\b", "$$",
     "日本", "'; touch fired; '", '"; touch fired; "', "!x", "a & b", "=HYPERLINK(1)"],
)  # fmt: skip
def test_a_value_is_passed_on_and_not_run(tmp_path, value):
    command = provenance.again(document("smoke", dataset=value, n_ctx=96))
    assert passed_on(tmp_path, command) == ["smoke", "-p", "dataset", value, "-p", "n_ctx", "96"]
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize("name", ["mine", "$(touch fired)", "a; touch fired", "`touch fired`", "a b"])
def test_a_profile_s_name_is_passed_on_and_not_run(tmp_path, name):
    assert passed_on(tmp_path, provenance.again(document(name))) == [name]
    assert not (tmp_path / "fired").exists()


def test_a_plain_command_stays_plain():
    assert provenance.again(document("smoke")) == "make report PROFILE=smoke"
    assert provenance.again(document("smoke", n_ctx=96)) == 'make report PROFILE=smoke PARAMS="-p n_ctx 96"'
