"""Holds a pack against a profile of RO-Crate with roc-validator, without a network: `python validate.py PACK`.

Prints `{profile, checked, issues}` as JSON. It runs in the environment of `make crate-validator`. The validator reads
the JSON-LD context of RO-Crate 1.1 from the package rocrate, whatever else it asks for is refused.
"""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

from requests import Response
from requests_cache import CachedSession
from rocrate_validator import models, services

PROFILE = "process-run-crate"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"


def kept_context():
    """The context as the package rocrate has it; another version's is refused."""
    files = importlib.metadata.files("rocrate") or ()
    (path,) = (path for path in files if path.name == "ro-crate.jsonld")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["@id"] == CONTEXT, content["@id"]
    return content


def offline(context):
    """Has every request of the validator answered from here: the context, and nothing else."""

    def request(self, method, url, *args, **kwargs):
        if url != CONTEXT:
            raise RuntimeError(f"{method} {url}: no network")
        response = Response()
        response.status_code, response.url = 200, url
        response.headers["Content-Type"] = "application/ld+json"
        response._content = json.dumps(context).encode()
        return response

    CachedSession.request = request


def main(pack):
    offline(kept_context())
    with tempfile.TemporaryDirectory() as folder:
        settings = models.ValidationSettings(
            rocrate_uri=str(Path(pack).resolve()),
            profile_identifier=PROFILE,
            requirement_severity=models.Severity.REQUIRED,
            offline=True,
            cache_path=Path(folder) / "http",
        )
        result = services.validate(settings)
    issues = [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]
    json.dump({"profile": PROFILE, "checked": len(result.executed_checks), "issues": issues}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
