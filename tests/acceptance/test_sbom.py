"""The bill of materials: the documented command lists what the lock holds."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import ROOT
from tests.unit.test_lock import pinned


def test_the_documented_command_lists_the_lock(tmp_path: Path) -> None:
    """Each locked distribution is a component, with its version, its purl and its hashes."""
    [arguments] = re.findall(r"cyclonedx-py (.*) -o sbom\.json", (ROOT / "CONTRIBUTING.md").read_text())
    subprocess.run(
        [Path(sys.executable).with_name("cyclonedx-py"), *arguments.split(), "-o", tmp_path / "sbom.json"],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=True,
    )
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "celery-stages")
    assert {each["name"]: each["version"] for each in bill["components"]} == pinned("requirements.lock")
    for each in bill["components"]:
        assert each["purl"].startswith(f"pkg:pypi/{each['name']}@{each['version']}")
        assert any(reference.get("hashes") for reference in each["externalReferences"])
