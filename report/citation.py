"""Authors, title and keywords of the reproduction, from `CITATION.cff`, for the page, the books and archives.

`python -m report.citation` writes `codemeta.json` and `.zenodo.json` anew.
"""

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lib.files import replacing
from lib.layout import ROOT


@cache
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def authors() -> list[str]:
    """Names as a reader would write them."""
    return [
        person.get("name") or " ".join(filter(None, (person.get("given-names"), person.get("family-names"))))
        for person in citation()["authors"]
    ]


def people() -> list[dict[str, str]]:
    """The authors as schema.org knows them."""
    kinds = ["Organization" if "name" in person else "Person" for person in citation()["authors"]]
    return [{"@type": kind, "name": name} for kind, name in zip(kinds, authors(), strict=True)]


def software() -> dict[str, Any]:
    """This repository as a schema.org SoftwareSourceCode, which the page and `codemeta.json` say of it alike."""
    cff = citation()
    return {
        "@type": "SoftwareSourceCode",
        "name": cff["title"],
        "description": " ".join(cff["abstract"].split()),
        "author": people(),
        "datePublished": str(cff["date-released"]),
        "keywords": cff["keywords"],
        "license": f"https://spdx.org/licenses/{cff['license']}",
        "version": cff["version"],
        "programmingLanguage": "Python",
    }


def schema_org(description: str, date: str) -> dict[str, Any]:
    """The page as a schema.org ScholarlyArticle, based on this software."""
    code = software()
    alike = {key: code[key] for key in ("author", "keywords", "license", "version")}
    return {
        "@context": "https://schema.org",
        "@type": "ScholarlyArticle",
        "headline": code["name"],
        "description": description,
        "datePublished": date or code["datePublished"],
        "inLanguage": ["ja", "en"],
        **alike,
        "isBasedOn": code,
    }


def codemeta() -> dict[str, Any]:
    """`codemeta.json` (CodeMeta 3.0), with what `pyproject.toml` and `requirements.txt` say of running it."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    return {
        "@context": "https://w3id.org/codemeta/3.0",
        **software(),
        "runtimePlatform": f"Python {needs}",
        "softwareRequirements": [
            {"@type": "SoftwareApplication", "name": name, "version": version}
            for name, version in (pin.split("==") for pin in pins)
        ],
        "readme": "README.md",
    }


def zenodo() -> dict[str, Any]:
    """`.zenodo.json`: the deposit that an archived release becomes."""
    code = software()
    return {
        "title": code["name"],
        "description": code["description"],
        "upload_type": "software",
        "creators": [{"name": name} for name in authors()],
        "publication_date": code["datePublished"],
        "version": code["version"],
        "license": citation()["license"],
        "access_right": "open",
        "keywords": code["keywords"],
        "language": "eng",
    }


def files() -> dict[Path, str]:
    """The files of the repository that are made from `CITATION.cff`, with what they have to say."""
    made = {ROOT / "codemeta.json": codemeta(), ROOT / ".zenodo.json": zenodo()}
    return {path: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for path, content in made.items()}


if __name__ == "__main__":
    for path, text in files().items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"wrote {path.name}")
