"""Authors, title and keywords of the reproduction, from `CITATION.cff`."""

from functools import cache

import yaml

from lib.layout import ROOT


@cache
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def authors() -> list[str]:
    """Names as a reader would write them."""
    return [
        person.get("name") or " ".join(filter(None, (person.get("given-names"), person.get("family-names"))))
        for person in citation()["authors"]
    ]


def schema_org(description: str, date: str) -> dict:
    """The page as a schema.org ScholarlyArticle."""
    cff = citation()
    return {
        "@context": "https://schema.org",
        "@type": "ScholarlyArticle",
        "headline": cff["title"],
        "description": description,
        "author": [
            {"@type": "Organization" if "name" in p else "Person", "name": n}
            for p, n in zip(cff["authors"], authors(), strict=True)
        ],
        "datePublished": date or str(cff["date-released"]),
        "inLanguage": ["ja", "en"],
        "keywords": cff["keywords"],
        "license": f"https://spdx.org/licenses/{cff['license']}",
        "version": cff["version"],
    }
