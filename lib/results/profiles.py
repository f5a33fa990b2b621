"""What other profiles have measured on this machine: their results join where a section looks across models."""

from collections.abc import Iterable

from lib.layout import build_root
from lib.params import profile_names
from lib.results import io


def finished(sections: Iterable[str]) -> dict[str, dict]:
    """`{profile: {section: data}}` of every profile that has all of `sections`, in the order of their names."""
    found = {}
    for name in profile_names():
        folder = build_root() / name / "results" / "data"
        paths = {section: io.section_path(folder, section) for section in sections}
        if all(path.is_file() for path in paths.values()):
            found[name] = {section: io.read_json(path, "section")["data"] for section, path in paths.items()}
    return found
