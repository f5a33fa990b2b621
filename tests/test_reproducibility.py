"""The answers on reproducibility: each follows from its rule, names proofs that are there, and is told alike twice."""

import ast
import re

import pytest
import synthetic
import yaml

from lib.layout import ROOT
from report import reproducibility
from report.reproducibility import BY_RUN, NO, NOT_APPLICABLE, YES


@pytest.fixture(scope="module")
def results():
    return synthetic.results()


def answered(results):
    return {one.name["en"]: one.answer for one in reproducibility.answers(results)}


def defined(path):
    """Names of the tests of a file, those of its classes included."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_proof_is_a_test_that_is_there():
    named = [test.split("::") for one in reproducibility.answers(None) for test in one.tests]
    assert len(named) > 10
    assert not [(path, name) for path, name in named if name not in defined(path)]


def test_every_place_that_proves_something_is_one_of_the_results(results):
    places = [place for one in reproducibility.answers(None) for place in one.results]
    assert not [place for place in places if not reproducibility.there(place, results)]


def test_an_answer_without_a_proof_is_no(results):
    for one in reproducibility.answers(results):
        assert (one.answer == YES) <= bool(one.tests or one.results), one.name
        if not (one.tests or one.results) and one.answer != NOT_APPLICABLE:
            assert one.answer == NO
    assert answered(results)["Artifacts Available"] == NO


def test_a_run_without_the_results_answers_no(results):
    question = "Are the settings given?"
    assert answered(results)[question] == YES
    assert answered({name: data for name, data in results.items() if name != "setup"})[question] == NO


def test_the_published_study_counts_as_replicated_only_by_its_scorecard(results):
    def told(**card):
        conclusions = results["conclusions"] | {"scorecard": results["conclusions"]["scorecard"] | card}
        return answered(results | {"conclusions": conclusions})["Results Replicated"]

    assert told(counts=True, reproduced=7, total=7) == YES
    assert told(counts=True, reproduced=6, total=7) == NO
    assert told(counts=False, reproduced=7, total=7) == NO
    assert answered(None)["Results Replicated"] == BY_RUN


def test_both_languages_answer_every_question():
    for items in reproducibility.questions().values():
        for item in items:
            for words in (item["name"], item["says"]):
                assert set(words) == {"ja", "en"}
                assert re.search("[ぁ-んァ-ヶ一-龠]", words["ja"]) and not re.search("[ぁ-んァ-ヶ一-龠]", words["en"])


def test_the_page_of_the_documentation_is_in_step():
    assert reproducibility.PAGE.read_text(encoding="utf-8") == reproducibility.markdown(), "run: make metadata"


def test_code_and_models_name_their_licences():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("MIT License\n")
    weights = sorted(ROOT.glob("models/*/model.safetensors"))
    assert len(weights) >= 3
    for path in weights:
        text = path.with_name("README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---")[1])
        assert head["license"] in ("psf-2.0", "mit"), path
        assert len(text.split("---", 2)[2]) > 1000, path
